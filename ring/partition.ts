/** From a user to a partition: the user key and its slice of the key space. */
import { murmur3 } from './murmur3.ts';

/** A slice of the user-key space, `0 <= index < partitionCount`. */
export type PartitionIndex = number;

export const PARTITION_COUNT_DEFAULT = 64;
export const PARTITION_COUNT_MAX = 65_536;

const utf8 = new TextEncoder();
/** Where keys of ASCII are written for hashing: an encoder's call costs more than the hash. */
const scratch = new Uint8Array(256);

/**
 * What orders events: RudderStack's `user_id` column, `<AnonymousId header><<>><body anonymousId><<>><body userId>`.
 * Absent parts are empty.
 */
export function userKeyOf(parts: {
  readonly anonymousIdHeader?: string | undefined;
  readonly anonymousId?: string | undefined;
  readonly userId?: string | undefined;
}): string {
  return `${parts.anonymousIdHeader ?? ''}<<>>${parts.anonymousId ?? ''}<<>>${parts.userId ?? ''}`;
}

/**
 * The user key of an event as a gateway reads it, `null` where it names no user. One rule for routers and nodes: were there two, an event that they read
 * differently would be sent to a node that refuses it for ever. Texts stand as they are, numbers and booleans as JSON writes them, anything else is none;
 * what PostgreSQL's text cannot hold (NUL, lone surrogates) is taken out before the key is hashed.
 */
export function userKeyOfEvent(
  event: { readonly anonymousId?: unknown; readonly userId?: unknown },
  anonymousIdHeader: string | undefined,
): string | null {
  const anonymousId = idOf(event.anonymousId);
  const userId = idOf(event.userId);
  if (!anonymousIdHeader && anonymousId === '' && userId === '') return null;
  return userKeyOf({ anonymousIdHeader, anonymousId, userId }).replaceAll('\0', '').toWellFormed();
}

function idOf(id: unknown): string {
  if (typeof id === 'string') return id;
  return typeof id === 'number' || typeof id === 'boolean' ? String(id) : '';
}

/** `floor(murmur3_32(utf8(userKey), seed 0, unsigned) / (2^32 / partitionCount))`, as RudderStack has it. */
export function partitionOf(userKey: string, partitionCount: number): PartitionIndex {
  return Math.floor(hashOf(userKey) / (2 ** 32 / partitionCount));
}

function hashOf(text: string): number {
  const { length } = text;
  if (length > scratch.length) return murmur3(utf8.encode(text));
  for (let at = 0; at < length; at += 1) {
    const c = text.charCodeAt(at);
    if (c > 0x7f) return murmur3(utf8.encode(text));
    scratch[at] = c;
  }
  return murmur3(scratch, 0, length);
}

/** JobsDB's `partition_id`: `<workspaceId>-<index>`. All workspaces share one ring. */
export function partitionIdOf(workspaceId: string, index: PartitionIndex): string {
  return `${workspaceId}-${index}`;
}

/** The index inside a `partition_id`; `null` where there is none (jobs written before the ring existed). */
export function partitionIndexOf(partitionId: string): PartitionIndex | null {
  const digits = /-(\d{1,5})$/.exec(partitionId)?.[1];
  return digits === undefined ? null : Number(digits);
}

/** Whether a ring may have this many partitions: a power of two, at most 65,536. */
export function isPartitionCount(n: number): boolean {
  return Number.isInteger(n) && n >= 1 && n <= PARTITION_COUNT_MAX && (n & (n - 1)) === 0;
}

/** `3,7-9` for `[3, 7, 8, 9]`: how people and logs write sets of partitions. */
export function formatPartitions(partitions: readonly PartitionIndex[]): string {
  const sorted = [...partitions].sort((a, b) => a - b);
  const runs: string[] = [];
  for (let i = 0; i < sorted.length; ) {
    let j = i;
    while (j + 1 < sorted.length && sorted[j + 1] === sorted[j]! + 1) j += 1;
    runs.push(i === j ? `${sorted[i]}` : `${sorted[i]}-${sorted[j]}`);
    i = j + 1;
  }
  return runs.join(',');
}
