/**
 * Goal: trouble in the middle of a copy is told by its name where somebody has to act, is tried again where it passes, never tells what a row holds, and costs
 * nothing: the source is as it was, what was committed stays, and the copy goes on from there once the cause is gone.
 * Method: real servers of the test's own, whose disk is full, which are stopped, cancelled or changed while rows stream.
 */
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type CopyJob, withCopy } from '../../jobsdb/copy.ts';
import { createPool } from '../../jobsdb/pool.ts';
import { PATIENT_ATTEMPTS, troubleOf } from '../../jobsdb/trouble.ts';
import { CodedError } from '../../kit/errors.ts';
import { createDatabaseAt } from '../support/database.ts';
import { type OwnPostgres, startOwnPostgres } from '../support/own-postgres.ts';
import { mountTinyDisk, tinyDisksMissing } from '../support/tiny-disk.ts';
import { createFixture, type Fixture, WORKSPACE } from './move-fixture.ts';

const MOVE = 'op/move-1.1';
const SECRET = 'a-secret-of-a-user';
const ROWS = 2_000;
const noDisks = tinyDisksMissing();
if (noDisks) console.warn(`skipped: ${noDisks}`);

let postgres: OwnPostgres;
let f: Fixture;
let pools: pg.Pool[] = [];
beforeAll(async () => {
  postgres = await startOwnPostgres();
});
afterAll(() => postgres?.close());
beforeEach(async () => {
  f = await createFixture(4, { makeDatabase: () => createDatabaseAt(postgres.server.address) });
  pools = [];
});
afterEach(async () => {
  await Promise.all(pools.map((pool) => pool.end()));
  await f.close();
});

async function fill(rows = ROWS, bytes = 2_000): Promise<void> {
  await f.a.pool.query(
    `INSERT INTO gw_jobs_1 (workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
     SELECT $1, gen_random_uuid(), $2, $3, '{}', 'GW', jsonb_build_object('n', n, 'text',
       (SELECT string_agg(md5(n::text || i), '') FROM generate_series(1, ceil($5::numeric / 32)::int) AS i))
     FROM generate_series(1, $4::int) AS n`,
    [WORKSPACE, SECRET, `${WORKSPACE}-0`, rows, bytes],
  );
}

/** As the worker has it: pools of its own, whose errors name the node. */
async function job(more: Partial<CopyJob> & { readonly silenceMsMax?: number } = {}): Promise<CopyJob> {
  const { silenceMsMax, ...options } = more;
  if ((await f.ring()).moves.length === 0) await f.begin(MOVE, f.a, f.b, [0]);
  const made = await f.copyJob(await f.claim(MOVE, `attempt-${pools.length}`), f.a, f.b, 100);
  const [source, target] = [f.a, f.b].map(({ name, database }) =>
    createPool({
      ...database.address,
      application_name: 'ringmaster mover',
      node: name,
      ...(silenceMsMax ? { silenceMsMax } : {}),
    }),
  );
  pools.push(source!, target!);
  return { ...made, source: source!, target: target!, ...options };
}
const thrownBy = async (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => Promise.reject(new Error('nothing was thrown')),
    (error: unknown) => error,
  );
const failing = async (made: CopyJob): Promise<unknown> => thrownBy(withCopy(made, (copy) => copy.pass()));
const codedBy = (error: unknown): CodedError => {
  const trouble = troubleOf(error);
  expect(trouble, String(error)).toBeInstanceOf(CodedError);
  return trouble as CodedError;
};

/** The cause is gone: the copy goes on, and all rows are there, once. */
async function expectToFinish(rows = ROWS): Promise<void> {
  const proof = await withCopy(await job(), async (copy) => {
    await copy.pass();
    await copy.pass({ fenced: true });
    return copy.verify();
  });
  expect(proof).toMatchObject({ jobsPending: rows });
}
async function expectUntouched(rows = ROWS): Promise<void> {
  expect(await countAt(f.a.pool, 'gw_jobs_1')).toBe(rows);
  expect(await countAt(f.a.pool, 'gw_job_status_1')).toBe(0);
}
const countAt = async (pool: pg.Pool, table: string): Promise<number> =>
  Number((await pool.query(`SELECT count(*) FROM ${table}`)).rows[0].count);
/** Runs `act` once, as soon as rows have been committed at the target. */
const once = (act: () => Promise<unknown>): { onRows: () => void; done: () => Promise<unknown> } => {
  let acting: Promise<unknown> | null = null;
  return {
    onRows: () => {
      acting ??= act();
    },
    done: async () => acting,
  };
};
/** Statements of the mover at one of the two. */
const moverAt = (node: { readonly pool: pg.Pool }, does: string) =>
  node.pool.query(
    `SELECT ${does} FROM pg_stat_activity WHERE application_name = 'ringmaster mover' AND datname = current_database() AND pid <> pg_backend_pid()`,
  );

test.skipIf(noDisks)(
  'a disk that fills up: named with its node, nothing half written, and with more room the copy goes on',
  async () => {
    const disk = mountTinyDisk(16);
    const admin = new pg.Client({ ...postgres.server.address });
    await admin.connect();
    try {
      // Tables lie there, WAL and all else do not: where WAL has no room the server ends.
      await admin.query(`CREATE TABLESPACE tiny LOCATION '${disk.folder}'`);
      await f.close();
      f = await createFixture(4, {
        makeDatabase: async (node) => {
          const database = await createDatabaseAt(postgres.server.address);
          if (node === 'b')
            await admin.query(`ALTER DATABASE ${database.address.database} SET default_tablespace = tiny`);
          return database;
        },
      });
      await fill(ROWS, 20_000);
      const refused = codedBy(await failing(await job()));
      expect(refused).toMatchObject({ code: 'NODE_DISK_FULL', details: { node: 'b', sqlstate: '53100' } });
      expect(refused.message).toMatch(/^b.*: its disk is full \(SQLSTATE 53100\): could not extend file/);
      await expectUntouched();
      const known = 'SELECT coalesce(sum(row_count), 0)::int AS rows FROM ringmaster.import_chunks';
      expect(await countAt(f.b.pool, 'gw_jobs_2')).toBe((await f.b.pool.query(known)).rows[0].rows);
      disk.resize(300);
      await expectToFinish();
    } finally {
      await Promise.all(pools.splice(0).map((pool) => pool.end()));
      await f.b.database.drop();
      await admin.query('DROP TABLESPACE IF EXISTS tiny');
      await admin.end();
      disk.close();
    }
  },
);

describe.each([
  ['source', () => f.a],
  ['target', () => f.b],
])('at the %s', (_side, node) => {
  test('a lost connection is weather: the next attempt goes on', async () => {
    await fill();
    const cutting = once(() => moverAt(node(), 'pg_terminate_backend(pid)'));
    const error = await failing(await job({ onRows: cutting.onRows }));
    await cutting.done();
    expect(troubleOf(error)).toBe(error);
    expect(error).not.toBeInstanceOf(CodedError);
    await expectUntouched();
    await expectToFinish();
  });

  test('a server that is stopped in the middle does not hold the copy for ever', async () => {
    await fill();
    const stopped: number[] = [];
    const stopping = once(async () => {
      const found = await moverAt(node(), 'pid');
      for (const { pid } of found.rows as { pid: number }[]) {
        process.kill(pid, 'SIGSTOP');
        stopped.push(pid);
      }
    });
    try {
      const tooLong = delay(10_000, 'it hangs', { ref: false });
      const error = await Promise.race([failing(await job({ silenceMsMax: 1_000, onRows: stopping.onRows })), tooLong]);
      await stopping.done();
      expect(stopped.length).toBeGreaterThan(0);
      expect(String(error)).toMatch(/has been silent for 1000 ms in a statement/);
      expect(troubleOf(error)).toBe(error); // tried again
    } finally {
      for (const pid of stopped) process.kill(pid, 'SIGCONT');
    }
    await expectToFinish();
  });
});

test('a statement that takes too long is tried again for a while, then told by name', async () => {
  await fill();
  const made = await job();
  const target = createPool({
    ...f.b.database.address,
    application_name: 'ringmaster mover',
    node: 'b',
    statement_timeout: 300,
  });
  pools.push(target);
  const blocker = await f.b.pool.connect();
  try {
    const locking = once(() => blocker.query('BEGIN; LOCK TABLE gw_jobs_2 IN ACCESS EXCLUSIVE MODE'));
    const error = await failing({ ...made, target, onRows: locking.onRows });
    await locking.done();
    expect(troubleOf(error, PATIENT_ATTEMPTS - 1)).toBe(error);
    expect(troubleOf(error, PATIENT_ATTEMPTS)).toMatchObject({
      code: 'DATABASE_TIMEOUT',
      details: { node: 'b', sqlstate: '57014' },
    });
    await expectUntouched();
  } finally {
    blocker.release(true);
  }
  await expectToFinish();
});

test('a right that is taken away in the middle is told by name', async () => {
  await f.a.pool.query(
    'CREATE ROLE mover_of_a LOGIN PASSWORD $$mover$$; GRANT ALL ON SCHEMA public, ringmaster TO mover_of_a; GRANT ALL ON ALL TABLES IN SCHEMA public, ringmaster TO mover_of_a; GRANT ALL ON ALL SEQUENCES IN SCHEMA public, ringmaster TO mover_of_a',
  );
  try {
    await fill();
    const made = await job();
    const source = createPool({
      ...f.a.database.address,
      user: 'mover_of_a',
      password: 'mover',
      application_name: 'ringmaster mover',
      node: 'a',
    });
    pools.push(source);
    await f.a.pool.query('REVOKE SELECT ON gw_jobs_1 FROM mover_of_a');
    const refused = codedBy(await failing({ ...made, source }));
    expect(refused).toMatchObject({ code: 'DATABASE_RIGHTS', details: { node: 'a', sqlstate: '42501' } });
    expect(refused.message).toContain('permission denied for table gw_jobs_1');
  } finally {
    await Promise.all(pools.splice(0).map((pool) => pool.end()));
    await f.a.pool.query('DROP OWNED BY mover_of_a; DROP ROLE mover_of_a');
  }
});

describe('a row that the target refuses is told by name, with table and SQLSTATE, and never with what it holds:', () => {
  const refusals: [what: string, change: string, sqlstate: string, told: object][] = [
    [
      'a constraint',
      `ALTER TABLE gw_jobs_2 ADD CONSTRAINT no_secrets CHECK (user_id <> '${SECRET}')`,
      '23514',
      { table: 'gw_jobs_2', constraint: 'no_secrets' },
    ],
    [
      'a type that it cannot hold',
      'ALTER TABLE gw_jobs_2 ALTER COLUMN user_id TYPE uuid USING NULL',
      '22P03',
      { table: 'gw_jobs_2', column: 'user_id' },
    ],
    [
      'a value that PostgreSQL quotes in its own words',
      "CREATE TYPE kind AS ENUM ('x'); ALTER TABLE gw_jobs_2 ALTER COLUMN user_id TYPE kind USING NULL",
      '22P02',
      { table: 'gw_jobs_2', column: 'user_id' },
    ],
    [
      'a value that is too long',
      'ALTER TABLE gw_jobs_2 ALTER COLUMN user_id TYPE varchar(3)',
      '22001',
      { table: 'gw_jobs_2', column: 'user_id' },
    ],
  ];
  test.each(refusals)('%s', async (_what, change, sqlstate, told) => {
    await fill();
    const made = await job();
    await f.b.pool.query(change);
    const refused = codedBy(await failing(made));
    expect(refused).toMatchObject({ code: 'COPY_REFUSED', details: { node: 'b', sqlstate, ...told } });
    expect(refused.message).toContain('gw_jobs_2');
    expect(refused.cause).toBeUndefined();
    expect(JSON.stringify([refused.message, refused.details])).not.toContain(SECRET);
    await expectUntouched();
    expect(await countAt(f.b.pool, 'gw_jobs_2')).toBe(0);
  });
});

test('a table that goes away in the middle is a schema that differs', async () => {
  await fill();
  const made = await job();
  await f.b.pool.query('DROP TABLE gw_jobs_2');
  expect(codedBy(await failing(made))).toMatchObject({
    code: 'SCHEMA_DIFFERS',
    details: { node: 'b', sqlstate: '42P01' },
  });
});

test('a payload of 100 MB moves among others, and this process does not keep it', async () => {
  await fill(50);
  await f.a.pool.query(
    `INSERT INTO gw_jobs_1 (workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
     VALUES ($1, gen_random_uuid(), 'large', $2, '{}', 'GW', jsonb_build_object('blob', repeat('0123456789', 10000000)))`,
    [WORKSPACE, `${WORKSPACE}-0`],
  );
  await fill(50);
  const made = await job();
  const used = (): number => {
    const { rss } = process.memoryUsage();
    return rss / 1e6;
  };
  const before = used();
  let peak = before;
  const looking = setInterval(() => {
    peak = Math.max(peak, used());
  }, 5);
  try {
    await withCopy(made, (copy) => copy.pass());
  } finally {
    clearInterval(looking);
  }
  expect(peak - before).toBeLessThan(64); // MB
  await expectToFinish(101);
  const moved = await f.b.pool.query(
    "SELECT length(event_payload->>'blob') AS length FROM gw_jobs_2 WHERE user_id = 'large'",
  );
  expect(moved.rows).toEqual([{ length: 100_000_000 }]);
});
