/** One process of the node and its connections. */
import { migrateJobsDb } from '../jobsdb/migrate.ts';
import { createPool } from '../jobsdb/pool.ts';
import type { NodeSession } from './work.ts';

/** A connection is replaced after this: it keeps plans for datasets that have long gone. */
const CONNECTION_LIFE_S = 1_800;

export interface SessionOptions {
  readonly node: string;
  readonly clusterId: string;
  readonly databaseUrl: string;
  /** Connections at most. Default 12: intake, processing, delivery, the steward, and a few for the control API. One more is the steward's own. */
  readonly connectionsMax?: number;
}

/**
 * Migrates the database, and makes this process the node: an older process's open transactions are waited for, its later ones are refused (RM001).
 * Call `session.pool.end()` to close.
 */
export async function openSession(options: SessionOptions): Promise<NodeSession> {
  await migrateJobsDb(options.databaseUrl);
  const connection = { connectionString: options.databaseUrl, application_name: 'ringmaster node' };
  const pool = createPool({
    ...connection,
    max: options.connectionsMax ?? 12,
    maxLifetimeSeconds: CONNECTION_LIFE_S,
  });
  const raised = await pool.query<{ instance: string; database_id: string }>(
    'SELECT * FROM ringmaster.raise_instance()',
  );
  const { instance, database_id } = raised.rows[0]!;
  return {
    node: options.node,
    clusterId: options.clusterId,
    databaseId: database_id,
    instance: Number(instance),
    pool,
    reserve: () => createPool({ ...connection, max: 1, idleTimeoutMillis: 0, allowExitOnIdle: true }),
  };
}
