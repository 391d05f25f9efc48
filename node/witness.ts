/**
 * Finds out whether the node's database was restored from an older backup. Alone it cannot tell: an older state is a good one. So the node tells the ring store
 * from time to time how far its database has come, and a process that starts compares before it opens anything.
 * What it cannot find out: a backup that is younger than the last time it told (WITNESS_EVERY_MS).
 */
import type { Pool } from 'pg';
import { flushLog, selectJobIds, selectLogEnd } from '../jobsdb/sql/marks.ts';
import type { DatabaseMarks, RingStore } from '../ringstore/ringstore.ts';
import type { NodeSession } from './work.ts';

/** One small row in the ring store. What a younger backup lacks is at most what came in within this. */
export const WITNESS_EVERY_MS = 10_000;

/** Job ids first: what is read is on disk before it is told. */
export async function readMarks(pool: Pick<Pool, 'query'>, instance: number): Promise<DatabaseMarks> {
  const { rows: prefixes } = await pool.query<{ prefix: string; last: number }>(selectJobIds);
  await pool.query(flushLog);
  const { rows } = await pool.query<{ server: string; log_bytes: number }>(selectLogEnd);
  const { server, log_bytes: logBytes } = rows[0]!;
  return { instance, server, logBytes, jobIds: Object.fromEntries(prefixes.map(({ prefix, last }) => [prefix, last])) };
}

/** What is smaller in `own` than was told before, in words; null: nothing is. `own` is of a process that has raised the instance number. */
export function whatIsOlder(own: DatabaseMarks, told: DatabaseMarks): string | null {
  if (own.instance <= told.instance) return `it counts ${own.instance} starts of its node, there were ${told.instance}`;
  for (const [prefix, id] of Object.entries(told.jobIds)) {
    const last = own.jobIds[prefix] ?? 0;
    if (last < id) return `its last ${prefix} job is ${last}, there were jobs up to ${id}`;
  }
  // A server that was made anew (an upgrade by dump and restore) counts from the beginning: then the numbers above decide.
  if (own.server === told.server && own.logBytes < told.logBytes)
    return `its log has ${own.logBytes} bytes, it had ${told.logBytes}`;
  return null;
}

export class Witness {
  readonly #session: NodeSession;
  readonly #store: RingStore;

  constructor(session: NodeSession, store: RingStore) {
    this.#session = session;
    this.#store = store;
  }

  /** Null: it is not older than what earlier processes have told of it. Before this one tells anything. */
  async olderBecause(): Promise<string | null> {
    const { clusterId, databaseId, pool, instance } = this.#session;
    const told = await this.#store.marksOf(clusterId, databaseId);
    return told ? whatIsOlder(await readMarks(pool, instance), told) : null;
  }

  /** Only after `olderBecause` has said null: it overwrites what was told. */
  async testify(): Promise<void> {
    const { clusterId, databaseId, node, pool, instance } = this.#session;
    await this.#store.testify(clusterId, databaseId, node, await readMarks(pool, instance));
  }
}
