/**
 * The chain of hashes through a cluster's log: each event carries the hash of the one before, so two copies of a log that agree on a hash agree on
 * everything up to it. It finds a log that was restored from a backup or edited by hand; it is no protection against who can write the database.
 */
import { createHash, randomUUID } from 'node:crypto';
import { CodedError } from '../kit/errors.ts';
import type { RecordedEvent, RingEvent } from '../ring/events.ts';
import type { Authorship } from './ringstore.ts';

/** `previousHash` of the first event of every log. */
export const GENESIS_HASH = '0'.repeat(64);

/** JSON with sorted keys and without white space: one text for one value, however it was built or stored. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) => (isPlainObject(inner) ? withSortedKeys(inner) : inner));
}

/** SHA-256 (hex) over everything else in the event, `previousHash` with it. */
export function hashOf(recorded: Omit<RecordedEvent, 'hash'>): string {
  const { clusterId, version, id, event, actor, reason, operation, at, previousHash } = recorded;
  const text = canonicalJson({ clusterId, version, id, event, actor, reason, operation, at, previousHash });
  return createHash('sha256').update(text).digest('hex');
}

/** What `events` look like at their places in the log, behind an event of version `afterVersion` and hash `previousHash`. */
export function chainEvents(
  place: {
    readonly clusterId: string;
    readonly afterVersion: number;
    readonly previousHash: string;
    readonly at: string;
  },
  events: readonly RingEvent[],
  by: Authorship,
): RecordedEvent[] {
  let { previousHash } = place;
  return events.map((event, index) => {
    const unsealed = {
      clusterId: place.clusterId,
      version: place.afterVersion + 1 + index,
      id: randomUUID(),
      event,
      actor: by.actor,
      reason: by.reason,
      operation: by.operation,
      at: place.at,
      previousHash,
    };
    const hash = hashOf(unsealed);
    previousHash = hash;
    return { ...unsealed, hash };
  });
}

/**
 * Checks a whole log, or a part of it behind an event of hash `previousHash`: versions without gaps, links, and that each hash is that of its event.
 * Throws RING_LOG_BROKEN, which names the first bad event.
 */
export function assertChain(events: readonly RecordedEvent[], previousHash: string = GENESIS_HASH): void {
  let before = { version: (events[0]?.version ?? 1) - 1, hash: previousHash };
  for (const recorded of events) {
    assertLink(recorded, before);
    if (hashOf(recorded) !== recorded.hash) throw broken(recorded, 'its hash is not that of its content');
    before = recorded;
  }
}

/** Checks that `recorded` comes right behind `before`. Throws RING_LOG_BROKEN. */
export function assertLink(recorded: RecordedEvent, before: { readonly version: number; readonly hash: string }): void {
  if (recorded.version !== before.version + 1)
    throw broken(recorded, `it was read right behind version ${before.version}`);
  if (recorded.previousHash !== before.hash) throw broken(recorded, 'it does not carry the hash of the one before');
}

function broken(recorded: RecordedEvent, what: string): CodedError {
  const { clusterId, version } = recorded;
  return new CodedError('RING_LOG_BROKEN', `log of ${clusterId}, event ${version}: ${what}`, { clusterId, version });
}

const isPlainObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function withSortedKeys(value: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
}
