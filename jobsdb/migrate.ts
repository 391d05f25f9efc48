/** Brings a node's database to the newest schema. Numbered, in one transaction each, safe when several processes start at once. */
import type pg from 'pg';
import { CodedError } from '../kit/errors.ts';
import { createPool } from './pool.ts';
import { assertServerNewEnough } from './preflight.ts';
import { migrations } from './sql/schema.ts';

const LOCK = "hashtextextended('ringmaster.jobsdb.migrate', 0)";

/**
 * Throws JOBSDB_TOO_NEW where a newer version of Ringmaster has migrated this database, POSTGRES_TOO_OLD where its server is older than `postgresOldest`
 * (default: POSTGRES_OLDEST): nothing has changed then.
 */
export async function migrateJobsDb(
  connectionString: string,
  options: { readonly postgresOldest?: number } = {},
): Promise<void> {
  const pool = createPool({ connectionString, application_name: 'ringmaster migrate', max: 1 });
  try {
    const client = await pool.connect();
    try {
      await migrate(client, options.postgresOldest);
    } finally {
      client.release(true); // an open transaction is rolled back
    }
  } finally {
    await pool.end();
  }
}

async function migrate(client: pg.PoolClient, postgresOldest?: number): Promise<void> {
  await assertServerNewEnough(client, postgresOldest);
  await client.query('BEGIN');
  // The lock comes before the look: who waited here sees what the other has done.
  await client.query(`SELECT pg_advisory_xact_lock(${LOCK})`);
  await client.query(
    'CREATE TABLE IF NOT EXISTS public.ringmaster_migrations (version integer PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())',
  );
  const done = await client.query<{ version: number }>(
    'SELECT coalesce(max(version), 0)::int AS version FROM public.ringmaster_migrations',
  );
  const version = done.rows[0]!.version;
  const newest = migrations.at(-1)!.version;
  if (version > newest) {
    throw new CodedError(
      'JOBSDB_TOO_NEW',
      `the jobs database has schema ${version}, this version of Ringmaster knows ${newest}: upgrade it`,
    );
  }
  for (const migration of migrations) {
    if (migration.version <= version) continue;
    await client.query(migration.sql);
    await client.query('INSERT INTO public.ringmaster_migrations (version) VALUES ($1)', [migration.version]);
  }
  await client.query('COMMIT');
}
