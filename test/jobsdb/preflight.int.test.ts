/**
 * Goal: what would fail in the middle of a copy is refused before it begins, by name, with the source untouched and nothing at the target.
 * Method: two real databases, of which one is changed as a person might have changed it; a role that has only the rights that the refusals ask for.
 */
import { randomBytes } from 'node:crypto';
import { MockActivityEnvironment } from '@temporalio/testing';
import type pg from 'pg';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { ActivityDeps } from '../../activities/deps.ts';
import { createMoveActivities } from '../../activities/move.ts';
import { openCopy, withCopy } from '../../jobsdb/copy.ts';
import { createPool } from '../../jobsdb/pool.ts';
import { preflight } from '../../jobsdb/preflight.ts';
import { selectAttached } from '../../jobsdb/sql/datasets.ts';
import type { CodedError } from '../../kit/errors.ts';
import type { Room } from '../../platform/platform.ts';
import { addJobs, CLUSTER, createFixture, type Fixture, pendingAt, type TestNode } from './move-fixture.ts';

const MOVE = 'op/move-1.1';
let f: Fixture;
beforeEach(async () => {
  f = await createFixture();
});
afterEach(() => f.close());

const check = (source: pg.Pool = f.a.pool, target: pg.Pool = f.b.pool) =>
  preflight({ source: { node: 'node-0', pool: source }, target: { node: 'node-1', pool: target }, move: MOVE });
const refusalOf = async (work: Promise<unknown>): Promise<CodedError> =>
  work.then(
    () => Promise.reject(new Error('it was not refused')),
    (error) => error as CodedError,
  );

test('two nodes as they are made pass', async () => {
  await check();
  const command = await f.begin(MOVE, f.a, f.b, [0]);
  await f.copyJob(command, f.a, f.b);
  await check(); // and what was prepared for the move
});

test('a dataset that its node drops while it is looked at is not missing', async () => {
  await f.a.pool.query("SELECT ringmaster.add_dataset('gw', NULL)");
  let dropped = 0;
  // As the node does it, in one transaction: right after the list of datasets was read.
  const onList = async (): Promise<void> => {
    dropped += 1;
    await f.a.pool.query(
      "DELETE FROM ringmaster.datasets WHERE prefix = 'gw' AND dataset = 1; DROP TABLE gw_jobs_1, gw_job_status_1",
    );
  };
  await check(interrupting(f.a.pool, selectAttached, onList));
  expect(dropped).toBe(1);
});

/** The pool, whose clients do something more right after they have answered `statement`. */
function interrupting(pool: pg.Pool, statement: string, then: () => Promise<void>): pg.Pool {
  const wrap = (client: pg.PoolClient): pg.PoolClient =>
    new Proxy(client, {
      get: (target, name) => {
        if (name !== 'query') return Reflect.get(target, name, target);
        return async (text: string, values?: unknown[]) => {
          const answer = await target.query(text, values);
          if (text === statement) await then();
          return answer;
        };
      },
    });
  return { connect: async () => wrap(await pool.connect()) } as unknown as pg.Pool;
}

describe('a schema that differs', () => {
  test('is refused, with each column, its type and whether it may be null on both sides', async () => {
    await f.a.pool.query(`
      ALTER TABLE gw_jobs_1 ALTER COLUMN event_payload TYPE bytea USING '\\x00', ALTER COLUMN user_id DROP NOT NULL, DROP COLUMN consumers;
      ALTER TABLE rt_job_status_1 ADD COLUMN note text, ALTER COLUMN error_code TYPE varchar(64)`);
    const refused = await refusalOf(check());
    expect(refused).toMatchObject({ code: 'SCHEMA_DIFFERS', details: { count: 5 } });
    expect(refused.message.split('; ').sort()).toEqual([
      'gw_jobs_1.consumers is missing at node-0, text[] at node-1',
      'gw_jobs_1.event_payload is bytea NOT NULL at node-0, jsonb NOT NULL at node-1',
      'gw_jobs_1.user_id is text at node-0, text NOT NULL at node-1',
      'rt_job_status_1.error_code is character varying(64) at node-0, character varying(32) at node-1',
      'rt_job_status_1.note is text at node-0, missing at node-1',
    ]);
  });

  test('at one of several datasets, or in the copy that was prepared, is refused too', async () => {
    await f.a.pool.query("SELECT ringmaster.add_dataset('gw', NULL); ALTER TABLE gw_jobs_2 DROP COLUMN event_count");
    expect((await refusalOf(check())).message).toBe(
      'gw_jobs_2.event_count is missing at node-0, integer NOT NULL at node-1',
    );
    await f.a.pool.query('ALTER TABLE gw_jobs_2 ADD COLUMN event_count integer NOT NULL DEFAULT 1');
    await check();
    const job = await f.copyJob(await f.begin(MOVE, f.a, f.b, [0]), f.a, f.b);
    const gw = job.datasets.find(({ prefix }) => prefix === 'gw')!;
    await f.b.pool.query(`ALTER TABLE gw_jobs_${gw.dataset} ALTER COLUMN event_payload TYPE json`);
    expect(await refusalOf(check())).toMatchObject({
      code: 'SCHEMA_DIFFERS',
      details: { differences: expect.arrayContaining([expect.objectContaining({ target: 'json NOT NULL' })]) },
    });
  });

  test('names a table that is gone, and of many differences the first ones and how many more there are', async () => {
    await f.a.pool.query('DROP TABLE rt_job_status_1');
    expect((await refusalOf(check())).message).toBe('rt_job_status_1 is missing at node-0, there at node-1');
    await f.a.pool.query(
      `ALTER TABLE gw_jobs_1 ${Array.from({ length: 30 }, (_, n) => `ADD COLUMN more_${n} text`).join(', ')}`,
    );
    expect((await refusalOf(check())).message).toMatch(/; gw_jobs_1\.more_\d+ is .*, and 11 more$/);
  });
});

describe('missing rights', () => {
  const role = `mover_${randomBytes(6).toString('hex')}`;
  let pools: pg.Pool[] = [];
  beforeEach(async () => {
    await f.a.pool.query(`CREATE ROLE ${role} LOGIN PASSWORD 'mover'`); // of the server, as both databases are
    pools = [];
    for (const { pool, database } of [f.a, f.b]) {
      await pool.query(`
        REVOKE ALL ON SCHEMA public FROM PUBLIC; REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ringmaster FROM PUBLIC;
        REVOKE ALL ON DATABASE ${database.address.database} FROM PUBLIC; GRANT CONNECT ON DATABASE ${database.address.database} TO ${role}`);
      pools.push(createPool({ ...database.address, user: role, password: 'mover', application_name: 'test' }));
    }
  });
  afterEach(async () => {
    await Promise.all(pools.map((pool) => pool.end()));
    for (const { pool } of [f.a, f.b]) await pool.query(`DROP OWNED BY ${role}`);
    await f.a.pool.query(`DROP ROLE ${role}`);
  });

  /** Gives what the refusal names, and nothing else; returns what it gave. */
  async function grantUntilItPasses(): Promise<string[]> {
    const given: string[] = [];
    for (;;) {
      const refused = await check(pools[0], pools[1]).then(
        () => null,
        (error: CodedError) => error,
      );
      if (refused === null) return given;
      expect(refused.code).toBe('DATABASE_RIGHTS');
      const { missing } = refused.details as {
        missing: Record<'node' | 'role' | 'object' | 'kind' | 'right', string>[];
      };
      for (const { node, role: whose, object, kind, right } of missing) {
        given.push(`${node} ${right} ${object}`);
        const at: TestNode = node === 'node-0' ? f.a : f.b;
        await at.pool.query(`GRANT ${right} ON ${kind} ${object} TO ${whose}`);
      }
      expect(given.length).toBe(new Set(given).size); // none is asked for twice
    }
  }

  test('are named with role, right and object; with those that are asked for, and no others, a move can be copied and verified', async () => {
    await addJobs(f.a.pool, [{ partition: 0, states: ['failed'] }, { partition: 0 }, { partition: 0, prefix: 'rt' }]);
    const before = await refusalOf(check(pools[0], pools[1]));
    expect(before.message).toMatch(
      new RegExp(
        `^${role} lacks USAGE on schema public at node-0; ${role} lacks USAGE on schema ringmaster at node-0; `,
      ),
    );
    const given = await grantUntilItPasses();
    expect(given).toEqual(
      expect.arrayContaining(['node-0 SELECT public.gw_jobs_1', 'node-1 EXECUTE ringmaster.begin_pass']),
    );
    const job = await f.copyJob(await f.begin(MOVE, f.a, f.b, [0]), f.a, f.b);
    expect(await grantUntilItPasses()).toEqual(
      expect.arrayContaining(['node-1 INSERT public.gw_jobs_2', 'node-1 INSERT public.rt_job_status_2']),
    );
    const proof = await withCopy({ ...job, source: pools[0]!, target: pools[1]! }, async (copy) => {
      await copy.pass();
      await addJobs(f.a.pool, [{ partition: 0 }]);
      await copy.pass({ fenced: true });
      return copy.verify();
    });
    expect(proof.jobsPending).toBe(4);
  });
});

test.each([
  [
    'a jobs table',
    "INSERT INTO gw_jobs_2 (uuid, user_id, parameters, custom_val, event_payload) VALUES (gen_random_uuid(), 'x', '{}', '', '{}')",
  ],
  ['a status table', "INSERT INTO rt_job_status_2 (job_id, job_state, attempt) VALUES (1, 'failed', 1)"],
])('rows in %s of the import that its ledger does not know refuse the copy; its own do not', async (_what, insert) => {
  await addJobs(f.a.pool, [
    { partition: 0, states: ['failed'] },
    { partition: 0, prefix: 'rt', states: ['failed'] },
  ]);
  const job = await f.copyJob(await f.begin(MOVE, f.a, f.b, [0]), f.a, f.b);
  await f.b.pool.query(insert);
  const refused = await refusalOf(openCopy(job));
  expect(refused).toMatchObject({ code: 'IMPORT_NOT_EMPTY', details: { move: MOVE } });
  await f.b.pool.query('TRUNCATE gw_jobs_2, rt_job_status_2');
  await withCopy(job, (copy) => copy.pass());
  await withCopy(job, (copy) => copy.pass()); // a later attempt finds the rows of the first
});

describe('the pre-copy', () => {
  const logged: string[] = [];
  async function preCopy(roomOf: () => Promise<Room | null>) {
    const { a, b } = f;
    if ((await f.ring()).moves.length === 0)
      await f.append({ type: 'start move', holder: 1, move: MOVE, from: 'a', to: 'b', partitions: [0] });
    const activities = createMoveActivities({
      ringStore: f.store,
      controlOf: async (node: string) => (node === 'a' ? a : b).steward,
      endpointsOf: async (node: string) => ({ database: (node === 'a' ? a : b).database.address }),
      platform: { roomOf },
      actor: 'test',
      log: pino({ level: 'warn' }, { write: (line: string) => void logged.push(line) }),
    } as unknown as ActivityDeps);
    const input = { clusterId: CLUSTER, operationId: 'op', reason: 'a test', holder: 1, move: MOVE };
    return new MockActivityEnvironment().run(activities.preCopy, { ...input, from: 'a', to: 'b', partitions: [0] });
  }
  async function expectUntouched(): Promise<void> {
    const { a, b } = f;
    expect((await b.pool.query('SELECT FROM ringmaster.imports')).rowCount).toBe(0);
    expect((await b.pool.query('SELECT FROM ringmaster.datasets WHERE move IS NOT NULL')).rowCount).toBe(0);
    expect(await pendingAt(a, 0)).toMatchObject([{ n: 1, state: null }]);
    expect(a.work.calls).not.toContain('stop 0');
  }
  beforeEach(async () => {
    await addJobs(f.a.pool, [{ partition: 0, payload: { n: 1 } }]);
  });

  test('asks before anything is prepared: refused, it leaves the source as it is and nothing at the target', async () => {
    await f.a.pool.query('ALTER TABLE gw_jobs_1 ADD COLUMN more text');
    await expect(preCopy(async () => null)).rejects.toMatchObject({
      type: 'SCHEMA_DIFFERS',
      nonRetryable: true,
      message: 'gw_jobs_1.more is text at a, missing at b',
    });
    await expectUntouched();
  });

  test('asks the platform whether the target has room', async () => {
    await expect(preCopy(async () => ({ totalBytes: 1_000_000_000, freeBytes: 0 }))).rejects.toMatchObject({
      type: 'NODE_DISK_FULL',
      nonRetryable: true,
      message: expect.stringMatching(/^b has 0 bytes free of 1\.0 GB, the move needs about /),
    });
    await expectUntouched();
  });

  test.each([
    ['that does not know', async () => null, 'its platform does not know'],
    ['that is away', () => Promise.reject(new Error('the agent is away')), 'the agent is away'],
  ])('goes on with a platform %s, and says so in its log', async (_what, roomOf, why) => {
    logged.length = 0;
    expect(await preCopy(roomOf)).toMatchObject({ jobsCopied: 1 });
    expect(logged.filter((line) => line.includes('how much room')).map((line) => JSON.parse(line))).toMatchObject([
      { node: 'b', why },
    ]);
  });
});
