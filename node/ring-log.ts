/**
 * The ring's log in the node's own database. It is a copy: what the node may do is decided by the partitions' rows, and this tells whether the ring store still
 * has what the node has seen.
 */
import type { Pool } from 'pg';
import type { RecordedEvent } from '../ring/events.ts';
import type { LogCopy } from '../ringstore/ringstore.ts';

export interface Seen {
  readonly version: number;
  readonly hash: string;
}

export class RingLog implements LogCopy {
  readonly source: string;
  readonly #pool: Pool;
  readonly #clusterId: string;

  constructor(pool: Pool, node: string, clusterId: string) {
    this.source = node;
    this.#pool = pool;
    this.#clusterId = clusterId;
  }

  /** Null: nothing was kept yet. */
  async last(): Promise<Seen | null> {
    const { rows } = await this.#pool.query<{ version: string; hash: string }>(
      'SELECT version, hash FROM ringmaster.ring_log WHERE cluster_id = $1 ORDER BY version DESC LIMIT 1',
      [this.#clusterId],
    );
    return rows[0] ? { version: Number(rows[0].version), hash: rows[0].hash } : null;
  }

  async range(): Promise<{ first: number; last: number } | null> {
    const last = await this.last();
    return last && { first: 1, last: last.version };
  }

  async read(afterVersion: number, limit: number): Promise<RecordedEvent[]> {
    const { rows } = await this.#pool.query<{ event: RecordedEvent }>(
      'SELECT event FROM ringmaster.ring_log WHERE cluster_id = $1 AND version > $2 ORDER BY version LIMIT $3',
      [this.#clusterId, afterVersion, limit],
    );
    return rows.map(({ event }) => event);
  }

  /** Repeated: nothing. Committed lazily: clients in a hold must not wait for a copy; a crash costs its last moments. */
  async keep(events: readonly RecordedEvent[]): Promise<void> {
    await this.#pool.query(
      `INSERT INTO ringmaster.ring_log (cluster_id, version, hash, event)
       SELECT $1, v, h, e::json
       FROM (SELECT set_config('synchronous_commit', 'off', true)) AS lazily, unnest($2::bigint[], $3::text[], $4::text[]) AS t (v, h, e)
       ON CONFLICT DO NOTHING`,
      [
        this.#clusterId,
        events.map(({ version }) => version),
        events.map(({ hash }) => hash),
        events.map((event) => JSON.stringify(event)),
      ],
    );
  }
}
