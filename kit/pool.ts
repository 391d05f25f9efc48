/** What each pool of database connections needs: nothing that happens to a connection ends the process. */
import type pg from 'pg';

/**
 * The driver tells the loss of a connection by an event, beside the query that fails of it, and an event without a listener ends the process. The query is enough where
 * there is one; `onIdleLost` hears of a connection that nobody was using.
 */
export function surviveLostConnections(pool: pg.Pool, onIdleLost: (error: Error) => void = () => undefined): void {
  pool.on('error', onIdleLost);
  pool.on('connect', (client) => client.on('error', () => undefined));
}
