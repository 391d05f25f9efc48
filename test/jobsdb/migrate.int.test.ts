/** Goal: a node's start outlives what happens to its connection meanwhile. Method: a TCP proxy before the run's PostgreSQL. */
import pg from 'pg';
import { expect, test } from 'vitest';
import { startTcpProxy } from '../../dev/faults/tcp-proxy.ts';
import { migrateJobsDb } from '../../jobsdb/migrate.ts';
import { createLog } from '../../kit/log.ts';
import { onceUp } from '../../kit/starting.ts';
import { createTestDatabase } from '../support/database.ts';
import { until } from '../support/wait.ts';

const log = createLog('test');
log.level = 'silent';

test('a connection that is lost while a schema is made new is one error of the migration, and no other', async () => {
  const database = await createTestDatabase();
  const proxy = await startTcpProxy(database.address);
  const other = new pg.Client({ connectionString: database.url });
  try {
    await other.connect();
    await other.query("SELECT pg_advisory_lock(hashtextextended('ringmaster.jobsdb.migrate', 0))");
    const migration = expect(migrateJobsDb(through(database.url, proxy.port))).rejects.toThrow(/ECONNRESET|terminated/);
    await until(
      async () =>
        (
          await other.query(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'ringmaster migrate' AND wait_event_type = 'Lock'",
          )
        ).rowCount === 1,
      { deadlineMs: 10_000, what: 'it waits for its turn' },
    );
    await proxy.set('cut');
    await migration;
    await other.query('SELECT pg_advisory_unlock_all()');
    await migrateJobsDb(database.url);
  } finally {
    await other.end();
    await proxy.close();
    await database.drop();
  }
});

test.each([
  ['answers nobody', 'silent'],
  ['sends everybody away', 'cut'],
] as const)('a server that %s at first is waited for', async (_does, mode) => {
  const database = await createTestDatabase();
  const proxy = await startTcpProxy(database.address);
  let tries = 0;
  try {
    await proxy.set(mode);
    const migrated = onceUp('the database', log, () => {
      tries += 1;
      return migrateJobsDb(through(database.url, proxy.port));
    });
    await Promise.race([migrated, until(() => tries > 1, { deadlineMs: 30_000, what: 'it has tried again' })]);
    await proxy.set('pass');
    await migrated;
  } finally {
    await proxy.close();
    await database.drop();
  }
});

function through(url: string, port: number): string {
  const address = new URL(url);
  address.port = String(port);
  return address.href;
}
