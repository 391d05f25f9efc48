/** Pools of connections to a node's database. */
import pg from 'pg';

/** A server that hangs must not hang us: no connection within this is an error, which is retried. */
const CONNECT_MS = 5_000;
/** A machine that is lost closes nothing: from here on the kernel asks whether the other side is there. The system's own default is two hours. */
const KEEP_ALIVE_AFTER_MS = 10_000;

/**
 * A pool whose lost connections end nothing: the query that needs one fails and tells; an idle one, or one that is checked out and silent, is no event.
 * `application_name` must never end with a node's name: RudderStack's nodes end such sessions at their start.
 */
export function createPool(config: pg.PoolConfig & { readonly application_name: string }): pg.Pool {
  const pool = new pg.Pool({
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEP_ALIVE_AFTER_MS,
    connectionTimeoutMillis: CONNECT_MS,
    ...config,
  });
  pool.on('error', () => undefined);
  pool.on('connect', (client) => client.on('error', () => undefined));
  return pool;
}
