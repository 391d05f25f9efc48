/**
 * Goal: whoever was overtaken in the middle of a write at a target holds its node up for a moment only, and has written nothing; nobody else's session is ended.
 * Method: real databases and stewards; the test is the writer that stands still, once between two statements and once in the middle of a COPY, with a connection
 * of its own.
 */
import { once } from 'node:events';
import pg from 'pg';
import { type CopyStreamQuery, from as copyFrom } from 'pg-copy-streams';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { MoveCommand } from '../../dataplane/contract.ts';
import { withCopy } from '../../jobsdb/copy.ts';
import { beginHolding, ensureImport } from '../../jobsdb/imports.ts';
import { type EndedSession, takeImport } from '../../jobsdb/overtaken.ts';
import { createPool } from '../../jobsdb/pool.ts';
import { until } from '../support/wait.ts';
import { addJobs, createFixture, type Fixture, pendingAt } from './move-fixture.ts';

const MOVE = 'op/move-1.1';
const OTHER = 'op/move-2.1';
/** Of what waits for a writer that stands still: the moment that it is given, and what busy cores make of it. The writer itself stands there for ever. */
const BOUND_MS = 10_000;

let f: Fixture;
let clients: pg.Client[];
beforeEach(async () => {
  f = await createFixture();
  clients = [];
});
afterEach(async () => {
  await Promise.all(clients.map((client) => client.end()));
  await f.close();
});

async function connect(): Promise<pg.Client> {
  const client = new pg.Client({ ...f.b.database.address, application_name: 'ringmaster mover' });
  client.on('error', () => undefined); // it is to be ended
  clients.push(client);
  await client.connect();
  return client;
}

const COLUMNS = 'job_id, uuid, user_id, partition_id, parameters, custom_val, event_payload';
const rowsOfImport = async (): Promise<number> => (await f.b.pool.query('SELECT FROM gw_jobs_2')).rowCount!;

/** A write under `command` that stands still. `commits`: goes on with it; rejects where its session has gone. */
interface StandsStill {
  readonly pid: number;
  commits(): Promise<unknown>;
}
async function idleInTransaction({ move, token }: MoveCommand, table = 'gw_jobs_2'): Promise<StandsStill> {
  const client = await connect();
  await beginHolding(client, move, token);
  await client.query(
    `INSERT INTO ${table} (${COLUMNS}) VALUES (1, gen_random_uuid(), 'a zombie’s', 'ws-1-0', '{}', 'GW', '{}')`,
  );
  const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  return { pid: rows[0]!.pid, commits: () => client.query('COMMIT') };
}
async function inTheMiddleOfCopy({ move, token }: MoveCommand, table = 'gw_jobs_2'): Promise<StandsStill> {
  const client = await connect();
  await beginHolding(client, move, token);
  const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  const { pid } = rows[0]!;
  const copying: CopyStreamQuery = client.query(copyFrom(`COPY ${table} (${COLUMNS}) FROM STDIN`));
  const failed = once(copying, 'error').then(([error]) => Promise.reject(error as Error));
  failed.catch(() => undefined);
  copying.write('1\t00000000-0000-0000-0000-000000000001\ta zombie’s\tws-1-0\t{}\tGW\t{}\n');
  await until(
    async () =>
      (await f.b.pool.query('SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = $2', [pid, 'ClientRead']))
        .rowCount! > 0,
    { deadlineMs: 5_000, what: 'the server waits for more rows' },
  );
  return {
    pid,
    commits: async () => {
      copying.end();
      await Promise.race([once(copying, 'finish'), failed]);
      return client.query('COMMIT');
    },
  };
}

async function prepared(command: MoveCommand): Promise<MoveCommand> {
  await f.b.steward.prepare(command);
  return command;
}

async function isThere(pid: number): Promise<boolean> {
  return (await f.b.pool.query('SELECT FROM pg_stat_activity WHERE pid = $1', [pid])).rowCount! > 0;
}

/** How long it took, in milliseconds. */
async function timed(work: Promise<unknown>): Promise<number> {
  const since = performance.now();
  await work;
  return performance.now() - since;
}

/** The node goes on as if nothing were: folds what comes, and obeys. */
async function expectToObey(): Promise<void> {
  expect(await timed(f.begin(OTHER, f.a, f.b, [1]).then((other) => f.b.steward.prepare(other)))).toBeLessThan(BOUND_MS);
}

describe.each([
  ['between two statements', idleInTransaction],
  ['in the middle of a COPY', inTheMiddleOfCopy],
])('a writer that stands still %s', (_where, standsStill) => {
  test('is ended for a newer attempt: that goes on, and the older one’s commit fails', async () => {
    await addJobs(f.a.pool, [{ partition: 0 }]);
    const old = await f.begin(MOVE, f.a, f.b, [0]);
    await f.copyJob(old, f.a, f.b);
    const writer = await standsStill(old);
    const newer = await f.claim(MOVE, 'newer');
    expect(await timed(f.b.steward.prepare(newer))).toBeLessThan(BOUND_MS);
    await expectToObey();
    expect(await isThere(writer.pid)).toBe(false);
    await withCopy(await f.copyJob(newer, f.a, f.b), (copy) => copy.pass());
    await expect(writer.commits()).rejects.toThrow();
    const users = (await f.b.pool.query<{ user_id: string }>('SELECT user_id FROM gw_jobs_2')).rows;
    expect(users).toEqual([{ user_id: 'user-0' }]);
  });

  test('is ended once its move is aborted: the node folds on, obeys, and nothing of the copy is left', async () => {
    const old = await f.begin(MOVE, f.a, f.b, [0]);
    await f.copyJob(old, f.a, f.b);
    const writer = await standsStill(old);
    await f.append({ type: 'abort move', move: MOVE, because: 'test' });
    await expectToObey();
    expect(await isThere(writer.pid)).toBe(false);
    await expect(writer.commits()).rejects.toThrow();
    const left = `SELECT FROM ringmaster.imports WHERE move = $1 UNION ALL SELECT FROM ringmaster.datasets WHERE move = $1`;
    expect((await f.b.pool.query(left, [MOVE])).rowCount).toBe(0);
    expect(await pendingAt(f.b, 0)).toEqual([]);
  });

  test('is not ended under the current token: its own prepare, asked again, answers at once, and it commits', async () => {
    const command = await f.begin(MOVE, f.a, f.b, [0]);
    const { datasets } = await f.copyJob(command, f.a, f.b);
    const writer = await standsStill(command);
    const again = f.b.steward.prepare(command);
    expect(await timed(again)).toBeLessThan(BOUND_MS);
    expect((await again).datasets).toEqual(expect.arrayContaining([...datasets]));
    await expectToObey();
    await writer.commits();
    expect(await rowsOfImport()).toBe(1);
  });

  test('is not ended for what happens to another move', async () => {
    const command = await f.begin(MOVE, f.a, f.b, [0]);
    await f.copyJob(command, f.a, f.b);
    const writer = await standsStill(command);
    const other = await f.begin(OTHER, f.a, f.b, [1]);
    await f.copyJob(other, f.a, f.b);
    const overtaken = await standsStill(other, 'gw_jobs_3');
    await f.b.steward.prepare(await f.claim(OTHER, 'newer'));
    expect(await isThere(overtaken.pid)).toBe(false);
    const another = await standsStill(await f.claim(OTHER, 'newest').then(prepared), 'gw_jobs_3');
    await f.append({ type: 'abort move', move: OTHER, because: 'test' });
    await until(async () => (await f.b.pool.query('SELECT FROM ringmaster.imports')).rowCount === 1, {
      deadlineMs: BOUND_MS,
      what: 'the other import is forgotten',
    });
    expect(await isThere(another.pid)).toBe(false);
    await writer.commits();
    expect(await rowsOfImport()).toBe(1);
  });
});

test('a writer that ends its write in the moment that it is given keeps its connection, and what it wrote', async () => {
  const old = await f.begin(MOVE, f.a, f.b, [0]);
  await f.copyJob(old, f.a, f.b);
  const writer = await idleInTransaction(old);
  const { token } = await f.claim(MOVE, 'newer');
  const taking = await connect();
  await taking.query('BEGIN');
  const preparing = ensureImport(taking, { pool: f.b.pool, graceMs: 60_000 }, MOVE, token, [0]);
  const waiting = 'SELECT FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))';
  await until(async () => (await f.b.pool.query(waiting, [writer.pid])).rowCount! > 0, {
    deadlineMs: BOUND_MS,
    what: 'the newer one waits',
  });
  await writer.commits();
  await preparing;
  await taking.query('COMMIT');
  expect(await isThere(writer.pid)).toBe(true);
  expect(await rowsOfImport()).toBe(1);
});

test('an older attempt ends nobody: it is refused before it waits', async () => {
  const old = await f.begin(MOVE, f.a, f.b, [0]);
  const newer = await f.claim(MOVE, 'newer');
  await f.copyJob(newer, f.a, f.b);
  const writer = await idleInTransaction(newer);
  const late = await connect();
  await late.query('BEGIN');
  const ended: EndedSession[] = [];
  const aside = {
    pool: f.b.pool,
    onEnded: ({ sessions }: { sessions: readonly EndedSession[] }) => ended.push(...sessions),
  };
  await expect(ensureImport(late, aside, MOVE, old.token, [0])).rejects.toMatchObject({ code: 'STALE_TOKEN' });
  expect(ended).toEqual([]);
  await writer.commits();
});

test('a session that a node has no right to end is told, and nobody waits for it for ever', async () => {
  const old = await f.begin(MOVE, f.a, f.b, [0]);
  await f.copyJob(old, f.a, f.b);
  const writer = await idleInTransaction(old);
  const role = `keeper_of_${f.b.database.address.database}`;
  await f.b.pool.query(
    `CREATE ROLE ${role} LOGIN PASSWORD 'keeper'; GRANT USAGE ON SCHEMA ringmaster TO ${role}; GRANT SELECT, UPDATE ON ringmaster.imports TO ${role}`,
  );
  const pool = createPool({ ...f.b.database.address, user: role, password: 'keeper', application_name: 'test' });
  try {
    const client = await pool.connect();
    try {
      await client.query('BEGIN');
      await expect(takeImport(client, { pool }, MOVE)).rejects.toThrow(
        /^the import of op\/move-1\.1 is held by a session that was overtaken, and it cannot be ended: .*permission denied/,
      );
    } finally {
      client.release(true);
    }
    await writer.commits();
  } finally {
    await pool.end();
    await f.b.pool.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
  }
});
