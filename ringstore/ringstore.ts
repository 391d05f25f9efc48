/**
 * The ring's event log, as everyone uses it: append with the expected version, read, watch. PostgreSQL behind it in `postgres.ts`.
 */

import { CodedError } from '../kit/errors.ts';
import { decide, type RingCommand, RingRefusal } from '../ring/decide.ts';
import type { RecordedEvent, RingEvent } from '../ring/events.ts';
import { fold, noRing, type Ring } from '../ring/ring.ts';

/** Who appends, and why: stands with every event. */
export interface Authorship {
  readonly actor: string;
  readonly reason: string;
  readonly operation: string | null;
}

/** Somebody appended first: read again and decide again. */
export class VersionConflict extends CodedError {
  override readonly name = 'VersionConflict';
  constructor(clusterId: string, expected: number) {
    super('VERSION_CONFLICT', `log of ${clusterId} is past version ${expected}`, { clusterId, expected });
  }
}

/** Who watches a log. */
export interface RingWatcher {
  onEvents(events: RecordedEvent[]): void | Promise<void>;
  /** Hears of each trouble once, and null when it is well again. */
  onTrouble?(error: Error | null): void;
  /** Called after each look at the store that has found nothing, or has handed over all that it found: what was seen is the latest. */
  onLooked?(): void;
  /** What it could give back to a store that has lost events. Asked for by `ring repair`; a store in memory never asks. */
  readonly copy?: LogCopy;
}

/** A copy of a log, or of its end, with somebody who follows it. */
export interface LogCopy {
  /** For people: a node's name, or `router@host/pid`. */
  readonly source: string;
  /** Versions of the first and last event that it holds; null where it holds none. */
  range(): Promise<{ readonly first: number; readonly last: number } | null>;
  /** Events behind `afterVersion`, in order, at most `limit`. */
  read(afterVersion: number, limit: number): Promise<readonly RecordedEvent[]>;
}

/** How far a node's database has come. Each number only grows; in a database that was restored from a backup it is smaller than it was. */
export interface DatabaseMarks {
  /** Of the process that says so. */
  readonly instance: number;
  /** The server's own identity: a server that was made anew counts its log from the beginning. */
  readonly server: string;
  /** Bytes of the server's log that survive a crash. */
  readonly logBytes: number;
  /** The last job id of each prefix. */
  readonly jobIds: Readonly<Record<string, number>>;
}

/** What a router process says of itself. It is told to people, and nothing depends on it: nodes alone decide what is taken in. Ages are by its own clock. */
export interface RouterFacts {
  /** `router@host/pid`. */
  readonly router: string;
  readonly url: string;
  /** Its number among the workers of its router; null where it is the only process. */
  readonly worker: number | null;
  readonly build: string | null;
  readonly version: number;
  readonly epoch: number;
  /** For how long it has had this ring. */
  readonly ringAgeMs: number;
  /** How long ago it last heard that its ring is the latest; null: not since it was started. */
  readonly confirmedMsAgo: number | null;
  readonly upMs: number;
}

/** A router's facts, as they were when it last renewed its lease, by the store's clock. */
export interface RouterLease extends RouterFacts {
  readonly renewedMsAgo: number;
}

export interface RingStore {
  /** Ids of all clusters. */
  clusters(): Promise<string[]>;
  /** Events after `afterVersion`, in order; at most `limit` (default: all). Empty for an unknown cluster. */
  read(clusterId: string, afterVersion?: number, limit?: number): Promise<RecordedEvent[]>;
  /**
   * Appends all of `events` at `expectedVersion + 1 …` or nothing. Durable when it returns. Throws VersionConflict; anything else that it throws leaves
   * open whether the events were written: read again.
   */
  append(
    clusterId: string,
    expectedVersion: number,
    events: readonly RingEvent[],
    by: Authorship,
  ): Promise<RecordedEvent[]>;
  /**
   * Calls `onEvents` with every event after `afterVersion`, in order, without gaps, one call at a time, until `signal` aborts. Reconnects by itself;
   * LISTEN/NOTIFY with polling behind it. `onTrouble` hears of lost connections, and null when it is well again. Resolves when stopped.
   * An error thrown by `onEvents` ends the watch and rejects.
   * A store that holds less than what this watcher has seen, or another event at the same version, is not followed: `onTrouble` hears RING_STORE_BEHIND, and
   * the watch goes on looking. `lastHash`: hash of the event at `afterVersion`, for a watcher that saw it in an earlier life.
   */
  watch(
    clusterId: string,
    afterVersion: number,
    watcher: RingWatcher,
    signal: AbortSignal,
    lastHash?: string | null,
  ): Promise<void>;
  /** What `testify` has told last of this database; null: nothing yet. */
  marksOf(clusterId: string, databaseId: string): Promise<DatabaseMarks | null>;
  /** Keeps the marks of a node's database beside the log. Those of an older process than the one that spoke last are left out. */
  testify(clusterId: string, databaseId: string, node: string, marks: DatabaseMarks): Promise<void>;
  /** Lists a router for `leaseMs` from now, by the store's clock; again and again, as long as it lives. Leases that are over are deleted on the way. */
  renewLease(clusterId: string, facts: RouterFacts, leaseMs: number): Promise<void>;
  /** The router ends: it is listed no longer. */
  endLease(clusterId: string, router: string): Promise<void>;
  /** Routers whose lease is not over, by their names. */
  leases(clusterId: string): Promise<RouterLease[]>;
  close(): Promise<void>;
}

/** The ring as the store has it now. Unknown clusters are `noRing` (version 0). */
export async function readRing(store: RingStore, clusterId: string): Promise<Ring> {
  return fold(noRing(clusterId), await store.read(clusterId));
}

/**
 * Decides `command` on the latest ring and appends; on a conflict, or where the answer was lost, reads again and decides again (commands can be repeated).
 * Throws RingRefusal. Returns the ring after it and what was appended by this call (empty: it had happened already).
 * `from`: a ring that was the latest a moment ago, to try with first, which saves reading the log while clients wait. The append alone decides whether it
 * still is; what would end without an append is decided on the latest ring.
 */
export async function decideAndAppend(
  store: RingStore,
  clusterId: string,
  command: RingCommand,
  by: Authorship,
  options: { readonly signal?: AbortSignal; readonly from?: Ring } = {},
): Promise<{ ring: Ring; events: RecordedEvent[] }> {
  let ring = options.from ?? (await readRing(store, clusterId));
  if (options.from && !isAppending(ring, command)) ring = fold(ring, await store.read(clusterId, ring.version));
  for (;;) {
    options.signal?.throwIfAborted();
    const decided = decide(ring, command);
    if (decided.length === 0) return { ring, events: [] };
    try {
      const events = await store.append(clusterId, ring.version, decided, by);
      return { ring: fold(ring, events), events };
    } catch (error) {
      if (!(error instanceof VersionConflict)) throw error; // weather: the caller's retry reads again and sees whether it landed
      ring = fold(ring, await store.read(clusterId, ring.version));
    }
  }
}

/** False where it had happened already, or is refused. */
function isAppending(ring: Ring, command: RingCommand): boolean {
  try {
    return decide(ring, command).length > 0;
  } catch (error) {
    if (error instanceof RingRefusal) return false;
    throw error;
  }
}
