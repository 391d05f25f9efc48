/** Between rows of `ringmaster_ring.events` and recorded events. */
import type { RecordedEvent, RingEvent } from '../ring/events.ts';

/** $1 cluster, $2 after which version, $3 at most how many (null: all). */
export const SELECT_EVENTS = `
  SELECT cluster_id, version, id, type, data, actor, reason, operation, at, previous_hash, hash
  FROM ringmaster_ring.events WHERE cluster_id = $1 AND version > $2 ORDER BY version LIMIT $3`;

export interface EventRow {
  readonly cluster_id: string;
  /** bigint: the driver hands it over as text. */
  readonly version: string;
  readonly id: string;
  readonly type: string;
  readonly data: Record<string, unknown>;
  readonly actor: string;
  readonly reason: string;
  readonly operation: string | null;
  readonly at: Date;
  readonly previous_hash: string;
  readonly hash: string;
}

export function eventOf(row: EventRow): RecordedEvent {
  return {
    clusterId: row.cluster_id,
    version: Number(row.version),
    id: row.id,
    // Not checked against the types that we know: an event of a newer version is passed on, and the fold says that it does not understand it.
    event: { type: row.type, ...row.data } as RingEvent,
    actor: row.actor,
    reason: row.reason,
    operation: row.operation,
    at: row.at.toISOString(),
    previousHash: row.previous_hash,
    hash: row.hash,
  };
}
