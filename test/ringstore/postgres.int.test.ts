import { spawn } from 'node:child_process';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startTcpProxy } from '../../dev/faults/tcp-proxy.ts';
import { assertChain, canonicalJson } from '../../ringstore/chain.ts';
import { migrations, RING_STORE_VERSION } from '../../ringstore/migrations.ts';
import { createPostgresRingStore, migrateRingStore } from '../../ringstore/postgres.ts';
import type { RingStore } from '../../ringstore/ringstore.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { until } from '../support/wait.ts';
import { by, collect, joined, newCluster, range, testRingStore } from './contract.ts';

let database: TestDatabase;
let store: RingStore;
let admin: pg.Pool;

beforeAll(async () => {
  database = await createTestDatabase();
  await migrateRingStore(database.url);
  store = createPostgresRingStore({ connectionString: database.url, applicationName: 'store under test' });
  admin = new pg.Pool({ connectionString: database.url, max: 2 });
});

afterAll(async () => {
  await store.close();
  await admin.end();
  await database.drop();
});

testRingStore('PostgreSQL', () => createPostgresRingStore({ connectionString: database.url }));

describe('watching on PostgreSQL', () => {
  test('sees everything once and in order, though its connection is killed again and again while others append', async () => {
    const cluster = newCluster();
    const watched = createPostgresRingStore({ connectionString: database.url, applicationName: 'to be killed' });
    const watch = collect(watched, cluster);
    for (const n of range(0, 59)) {
      await store.append(cluster, n, [joined(n)], by);
      if (n % 10 === 5) await kill('to be killed');
    }
    await watch.upTo(60);
    expect(watch.versions()).toEqual(range(1, 60));
    await watch.waitFor('told that it is well again', () => watch.troubles.at(-1) === null);
    expect(watch.troubles.some((trouble) => trouble !== null)).toBe(true);
    await watch.stop();
    await watched.close();
  });

  test('hands an event over within milliseconds of its append', async () => {
    const cluster = newCluster();
    const watch = collect(store, cluster);
    await store.append(cluster, 0, [joined(0)], by);
    await watch.upTo(1);
    const took: number[] = [];
    for (const n of range(1, 30)) {
      await store.append(cluster, n, [joined(n)], by);
      const appended = performance.now();
      await watch.upTo(n + 1);
      took.push(performance.now() - appended);
    }
    await watch.stop();
    const median = took.sort((a, b) => a - b)[15]!;
    expect(median).toBeLessThan(50); // a few on a quiet machine; polling would show as hundreds
  });

  test('an append whose notification is lost is seen by polling', async () => {
    const cluster = newCluster();
    const watch = collect(store, cluster);
    const [first] = await store.append(cluster, 0, [joined(0)], by);
    await watch.upTo(1);
    await admin.query(
      `INSERT INTO ringmaster_ring.events SELECT $1, 2, gen_random_uuid(), type, data, actor, reason, operation, at, $2, 'quiet'
       FROM ringmaster_ring.events WHERE cluster_id = $1`,
      [cluster, first!.hash],
    );
    await watch.upTo(2);
    await watch.stop();
  });

  test('a store that comes back from an older backup is not followed: RING_STORE_BEHIND', async () => {
    const cluster = newCluster();
    await store.append(cluster, 0, range(0, 4).map(joined), by);
    const watch = collect(store, cluster);
    await watch.upTo(5);
    await forget(cluster, 3);
    await watch.waitFor('trouble', () => watch.troubles.length > 0);
    // A process that has not seen what is lost takes the store as it is.
    const unaware = createPostgresRingStore({ connectionString: database.url });
    await unaware.append(cluster, 3, range(10, 14).map(joined), by);
    const other = collect(unaware, cluster);
    await other.upTo(8);
    expect(watch.troubles.at(-1)).toMatchObject({ code: 'RING_STORE_BEHIND' });
    expect(watch.versions()).toEqual(range(1, 5));
    await Promise.all([watch.stop(), other.stop()]);
    await unaware.close();
  });

  test('a store that cannot be reached yet is waited for, and a stop does not wait for it', async () => {
    const nowhere = createPostgresRingStore({ connectionString: 'postgres://nobody@127.0.0.1:1/none' });
    const watch = collect(nowhere, 'c');
    await watch.waitFor('trouble', () => watch.troubles.length > 0);
    await watch.stop();
    await nowhere.close();
  });
});

describe('the log on PostgreSQL', () => {
  test.each([
    ['UPDATE', `UPDATE ringmaster_ring.events SET reason = 'forged'`],
    ['DELETE', 'DELETE FROM ringmaster_ring.events'],
    ['TRUNCATE', 'TRUNCATE ringmaster_ring.events'],
    [
      'UPDATE in a session that turns triggers off',
      `SET session_replication_role = replica; UPDATE ringmaster_ring.events SET hash = ''`,
    ],
  ])('%s is refused', async (_name, sql) => {
    await store.append(newCluster(), 0, [joined(0)], by);
    await expect(admin.query(sql)).rejects.toThrow(/append-only/);
    await admin.query('RESET session_replication_role').catch(() => {});
  });

  test('is one chain of hashes, also with keys in another order and letters of every kind', async () => {
    const cluster = newCluster();
    const event = { ...joined(0), url: 'http://\u0001\u2028"ö😀' };
    await store.append(cluster, 0, [event, joined(1)], by);
    const log = await store.read(cluster);
    assertChain(log);
    expect(canonicalJson({ b: 1, a: { d: [2, { f: 1, e: null }], c: 'x' } })).toBe(
      '{"a":{"c":"x","d":[2,{"e":null,"f":1}]},"b":1}',
    );
  });

  test('an append is synchronous, whatever the default of the database', async () => {
    const { rows } = await admin.query('SHOW synchronous_commit');
    expect(rows).toEqual([{ synchronous_commit: 'off' }]); // of the test server
    const spy = createPostgresRingStore({ connectionString: database.url, applicationName: 'spied' });
    const cluster = newCluster();
    await admin.query(`
      CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM set_config('spy.seen', current_setting('synchronous_commit'), false);
        IF current_setting('synchronous_commit') <> 'on' THEN RAISE EXCEPTION 'not synchronous'; END IF;
        RETURN NEW; END $$;
      CREATE TRIGGER spy BEFORE INSERT ON ringmaster_ring.events FOR EACH ROW EXECUTE FUNCTION spy()`);
    try {
      await spy.append(cluster, 0, [joined(0)], by);
    } finally {
      await admin.query('DROP TRIGGER spy ON ringmaster_ring.events; DROP FUNCTION spy()');
      await spy.close();
    }
  });
});

describe('a connection that is lost', () => {
  test('in the middle of an append fails that append, and not the process: the next append goes through', async () => {
    const cluster = newCluster();
    const module = (name: string): string => JSON.stringify(new URL(`../../${name}`, import.meta.url).href);
    const script = `
      import { createPostgresRingStore } from ${module('ringstore/postgres.ts')};
      const store = createPostgresRingStore({ connectionString: process.env.URL, applicationName: 'in an append' });
      const event = { type: 'node joined', node: 'node-0', databaseId: 'db', url: 'http://node-0' };
      const append = () => store.append(process.env.CLUSTER, 0, [event], { actor: 'test', reason: 'test', operation: null });
      const failed = await append().then(() => false, () => true);
      await append();
      await store.close();
      process.exit(failed ? 0 : 9);`;
    const url = new URL(database.url);
    const network = await startTcpProxy({ host: url.hostname, port: Number(url.port) });
    url.host = `127.0.0.1:${network.port}`;
    const blocker = await admin.connect();
    try {
      await blocker.query('BEGIN; LOCK TABLE ringmaster_ring.events IN EXCLUSIVE MODE');
      const ended = runScript(script, { URL: url.href, CLUSTER: cluster });
      await until(async () => (await waiting('in an append')) === 1, { deadlineMs: 20_000, what: 'the append waits' });
      await network.set('cut');
      await network.set('pass');
      await kill('in an append'); // what it had asked for would still be done once the lock is gone
      await blocker.query('ROLLBACK');
      expect(await ended).toBe(0);
    } finally {
      blocker.release(true);
      await network.close();
    }
    expect(await store.read(cluster)).toHaveLength(1);
  });
});

describe('migrating a ring store', () => {
  test('20 processes may start at once', async () => {
    const fresh = await createTestDatabase();
    const module = new URL('../../ringstore/postgres.ts', import.meta.url).href;
    const script = `import { migrateRingStore } from '${module}'; await migrateRingStore(process.env.URL);`;
    const codes = await Promise.all(range(1, 20).map(() => runScript(script, { URL: fresh.url })));
    expect(codes).toEqual(Array(20).fill(0));
    expect(await versionsOf(fresh.url)).toEqual(migrations.map((step) => step.version));
    await fresh.drop();
  });

  test('a store that is up to date stays as it is', async () => {
    const before = await versionsOf(database.url);
    await migrateRingStore(database.url);
    expect(await versionsOf(database.url)).toEqual(before);
  });

  test('a step that fails leaves nothing behind', async () => {
    const fresh = await createTestDatabase();
    const bad = [
      ...migrations,
      { version: RING_STORE_VERSION + 1, breaking: true, sql: 'CREATE TABLE x (); SELECT 1/0' },
    ];
    await expect(migrateRingStore(fresh.url, bad)).rejects.toThrow(/division by zero/);
    await migrateRingStore(fresh.url);
    expect(await versionsOf(fresh.url)).toEqual(migrations.map((step) => step.version));
    await fresh.drop();
  });

  test('a store of a newer version is refused by name, and nothing has changed', async () => {
    const newer = await createTestDatabase();
    await migrateRingStore(newer.url);
    await query(newer.url, `INSERT INTO ringmaster_ring.migrations (version) VALUES (${RING_STORE_VERSION + 1})`);
    const before = await query(newer.url, 'SELECT * FROM ringmaster_ring.migrations');
    await expect(migrateRingStore(newer.url)).rejects.toMatchObject({ code: 'RING_STORE_TOO_NEW' });
    const old = createPostgresRingStore({ connectionString: newer.url });
    await expect(old.read('c')).rejects.toMatchObject({ code: 'RING_STORE_TOO_NEW' });
    await expect(old.append('c', 0, [joined(0)], by)).rejects.toMatchObject({ code: 'RING_STORE_TOO_NEW' });
    await old.close();
    expect(await query(newer.url, 'SELECT * FROM ringmaster_ring.migrations')).toEqual(before);
    expect(await query(newer.url, 'SELECT * FROM ringmaster_ring.events')).toEqual([]);
    await newer.drop();
  });

  test('a newer version that only added something works with this one', async () => {
    const newer = await createTestDatabase();
    await migrateRingStore(newer.url, [
      ...migrations,
      { version: RING_STORE_VERSION + 1, breaking: false, sql: 'CREATE TABLE y ()' },
    ]);
    await migrateRingStore(newer.url);
    const old = createPostgresRingStore({ connectionString: newer.url });
    await old.append('c', 0, [joined(0)], by);
    await old.close();
    await newer.drop();
  });

  test('a database without a ring store is refused by name', async () => {
    const empty = await createTestDatabase();
    const none = createPostgresRingStore({ connectionString: empty.url });
    await expect(none.clusters()).rejects.toMatchObject({ code: 'RING_STORE_NOT_MIGRATED' });
    await none.close();
    await empty.drop();
  });
});

/** Sessions of that name that wait for a lock. */
async function waiting(applicationName: string): Promise<number> {
  const { rows } = await admin.query<{ n: number }>(
    `SELECT count(*)::int AS n FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'`,
    [applicationName],
  );
  return rows[0]!.n;
}

async function kill(applicationName: string): Promise<void> {
  await admin.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1', [
    applicationName,
  ]);
}

/** As a backup of that version would be. Its owner can take the guard away; nobody does by accident. */
async function forget(cluster: string, after: number): Promise<void> {
  const client = await admin.connect();
  await client.query('BEGIN; ALTER TABLE ringmaster_ring.events DISABLE TRIGGER append_only');
  await client.query('DELETE FROM ringmaster_ring.events WHERE cluster_id = $1 AND version > $2', [cluster, after]);
  await client.query('ALTER TABLE ringmaster_ring.events ENABLE ALWAYS TRIGGER append_only; COMMIT');
  client.release();
}

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}

const versionsOf = async (url: string): Promise<number[]> =>
  (await query(url, 'SELECT version FROM ringmaster_ring.migrations ORDER BY version')).map(
    (row) => (row as { version: number }).version,
  );

function runScript(script: string, env: Record<string, string>): Promise<number | null> {
  const child = spawn(
    process.execPath,
    ['--input-type=module', '--disable-warning=ExperimentalWarning', '-e', script],
    {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'ignore', 'inherit'],
    },
  );
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', resolve);
  });
}
