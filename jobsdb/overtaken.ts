/**
 * Takes an import from a writer that was overtaken: a newer claim prepares the same move, or the move was aborted. Its open write holds the import's token row until its
 * commit, and a writer that is stopped, or cut off without a word, never comes to that. So it has a moment to end its write; then its session is ended, as a machine
 * is that does not answer (fencing). PostgreSQL takes back what it had not committed, and its commit can only fail.
 *
 * What holds:
 *   V1 only sessions that hold the row of an import that is over, or whose token is lower than the one that is coming: whoever holds it has found its own token in it.
 *   V2 nobody waits here for longer than LOCK_MS_MAX, also where the process that asked is gone: it would hold its own locks as long.
 * `pg_terminate_backend`, as nothing else reaches a session in the middle of a COPY: it waits for its client without being idle, and neither a timeout nor a cancel is
 * looked at there. It needs the writer's own role, or `pg_signal_backend`.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { ClientBase, Pool } from 'pg';

/** For an overtaken writer to end its write by itself: a chunk that is nearly there is not copied again. */
const OVERTAKEN_GRACE_MS = 500;
/** Between looks who is still in the way: of several sessions that hold a row PostgreSQL tells one at a time. */
const OVERTAKEN_AGAIN_MS = 100;
/** `lock_timeout` of who takes an import. */
const LOCK_MS_MAX = 5_000;

/** Beside a transaction that waits: another connection, from which those are ended who keep it waiting. */
export interface Aside {
  readonly pool: Pool;
  /** Default: OVERTAKEN_GRACE_MS. */
  readonly graceMs?: number;
  readonly onEnded?: (ended: { readonly move: string; readonly sessions: readonly EndedSession[] }) => void;
}

export interface EndedSession {
  readonly pid: number;
  readonly application: string;
  /** Of its transaction; null: it had ended by itself. */
  readonly openMs: number | null;
}

/** `$1`: the backend that waits. */
const endBlockers = `
  SELECT b.pid, coalesce(a.application_name, '') AS application,
    (extract(epoch FROM clock_timestamp() - a.xact_start) * 1000)::int AS "openMs", pg_terminate_backend(b.pid)
  FROM (SELECT DISTINCT pid FROM unnest(pg_blocking_pids($1)) AS pid WHERE pid > 0) AS b LEFT JOIN pg_stat_activity AS a USING (pid)`;

/**
 * Locks the import's token row alone, in the caller's transaction, where it is there; whoever holds it is ended after a moment. The caller knows that all of
 * them were overtaken. Throws where one cannot be ended.
 */
export async function takeImport(client: ClientBase, aside: Aside, move: string): Promise<void> {
  const begun = await client.query(`SET LOCAL lock_timeout = ${LOCK_MS_MAX}; SELECT pg_backend_pid() AS pid`);
  const { pid } = (begun as unknown as { rows: { pid: number }[] }[]).at(-1)!.rows[0]!;
  const taking = client.query('SELECT FROM ringmaster.imports WHERE move = $1 FOR UPDATE', [move]);
  const taken = taking.then(
    () => true,
    () => true, // told below
  );
  let trouble: unknown;
  let wait = aside.graceMs ?? OVERTAKEN_GRACE_MS;
  while (!(await Promise.race([taken, delay(wait, false, { ref: false })]))) {
    wait = OVERTAKEN_AGAIN_MS;
    try {
      const { rows: sessions } = await aside.pool.query<EndedSession>(endBlockers, [pid]);
      if (sessions.length > 0) aside.onEnded?.({ move, sessions });
    } catch (error) {
      trouble = error;
    }
  }
  try {
    await taking;
  } catch (error) {
    if (trouble === undefined) throw error;
    throw new Error(
      `the import of ${move} is held by a session that was overtaken, and it cannot be ended: ${String(trouble)}`,
      { cause: error },
    );
  }
}
