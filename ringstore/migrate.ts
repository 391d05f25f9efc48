/** Brings a ring store to the version of this code, or finds out that it must not be touched. */
import pg from 'pg';
import { CodedError } from '../kit/errors.ts';
import { type Migration, migrations, RING_STORE_VERSION } from './migrations.ts';

/** Any constant will do, as long as every version of this code takes the same. */
const MIGRATION_LOCK = 7_246_310_552;
const CONNECT_TIMEOUT_MS = 10_000;
/** Patience for the others that start at the same moment, and for the steps themselves. */
const MIGRATION_TIMEOUT_MS = 120_000;

/**
 * Repeatable, and safe when many processes do it at once: one lock, one transaction, and each step's version row is written before the step, so that even
 * a migrator that knows nothing of the lock would wait there and fail. Throws RING_STORE_TOO_NEW, and has then changed nothing.
 */
export async function migrateRingStore(
  connectionString: string,
  steps: readonly Migration[] = migrations,
): Promise<void> {
  const client = new pg.Client({
    connectionString,
    application_name: 'ringmaster migrate',
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    statement_timeout: MIGRATION_TIMEOUT_MS,
  });
  client.on('error', () => {}); // a lost connection also rejects the query that is under way: told once is enough
  await client.connect();
  try {
    await client.query('BEGIN');
    await client.query('SELECT pg_advisory_xact_lock($1)', [MIGRATION_LOCK]);
    const known = new Set(await appliedVersions(client));
    for (const step of steps) {
      if (known.has(step.version)) continue;
      await client.query('INSERT INTO ringmaster_ring.migrations (version, breaking) VALUES ($1, $2)', [
        step.version,
        step.breaking,
      ]);
      await client.query(step.sql);
    }
    await client.query('COMMIT');
  } finally {
    await client.end(); // an open transaction ends with its connection
  }
}

async function appliedVersions(client: pg.Client): Promise<number[]> {
  if (!(await hasSchema(client))) {
    await client.query(`
      CREATE SCHEMA ringmaster_ring;
      CREATE TABLE ringmaster_ring.migrations (
        version    integer PRIMARY KEY,
        breaking   boolean NOT NULL DEFAULT true,
        applied_at timestamptz NOT NULL DEFAULT now()
      )`);
    return [];
  }
  await assertUsable(client);
  const { rows } = await client.query<{ version: number }>('SELECT version FROM ringmaster_ring.migrations');
  return rows.map((row) => row.version);
}

/** Throws RING_STORE_TOO_NEW or RING_STORE_NOT_MIGRATED. Reads only. */
export async function assertUsable(client: pg.ClientBase): Promise<void> {
  if (!(await hasSchema(client))) {
    throw new CodedError('RING_STORE_NOT_MIGRATED', 'this database has no ring store: it is made when the API starts');
  }
  const { rows } = await client.query<{ version: number }>(
    'SELECT version FROM ringmaster_ring.migrations WHERE version > $1 AND breaking ORDER BY version DESC LIMIT 1',
    [RING_STORE_VERSION],
  );
  const newer = rows[0]?.version;
  if (newer === undefined) return;
  throw new CodedError(
    'RING_STORE_TOO_NEW',
    `the ring store is of version ${newer}, this program knows versions up to ${RING_STORE_VERSION}: upgrade it`,
    { storeVersion: newer, knownVersion: RING_STORE_VERSION },
  );
}

async function hasSchema(client: pg.ClientBase): Promise<boolean> {
  const { rows } = await client.query<{ there: boolean }>(
    `SELECT to_regclass('ringmaster_ring.migrations') IS NOT NULL AS there`,
  );
  return rows[0]?.there === true;
}
