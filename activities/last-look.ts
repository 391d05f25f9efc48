/** Whether a node whose backend is gone has left anything: asked of its database, as nobody else is left to be asked. */

import { createPool } from '../jobsdb/pool.ts';
import { countPending } from '../jobsdb/stale.ts';
import { CodedError } from '../kit/errors.ts';
import { type DatabaseAddress, databaseUrl } from '../platform/platform.ts';
import type { NodeId } from '../ring/events.ts';

/** Throws NODE_NOT_EMPTY; a database that cannot be reached is weather. */
export async function assertNothingPending(node: NodeId, database: DatabaseAddress): Promise<void> {
  const pool = createPool({
    connectionString: databaseUrl(database),
    application_name: 'ringmaster last look',
    max: 1,
  });
  try {
    const client = await pool.connect();
    try {
      const pendingJobs = await countPending(client);
      if (pendingJobs > 0) {
        const message = `${node}'s backend is gone and its database still holds ${pendingJobs} pending jobs: the database stays`;
        throw new CodedError('NODE_NOT_EMPTY', message, { node, pendingJobs });
      }
    } finally {
      client.release();
    }
  } finally {
    await pool.end();
  }
}
