import pg from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { enterAlone } from '../../jobsdb/sql/partitions.ts';
import { openSession } from '../../node/session.ts';
import { partitionOf } from '../../ring/partition.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { until } from '../support/wait.ts';
import { Destination, loseCommits, PARTITIONS, post, startTestNode, type TestNode } from './support.ts';

let database: TestDatabase;
let destination: Destination;
let node: TestNode;
beforeEach(async () => {
  database = await createTestDatabase();
  destination = new Destination();
  node = await startTestNode(database.url, [{ id: 'hook', url: await destination.listen() }]);
});
afterEach(async () => {
  await node.stop();
  await destination.close();
  await database.drop();
});

const partitionOfUser = (userId: string): number => partitionOf(`<<>><<>>${userId}`, PARTITIONS);
/** Two users of different partitions. */
const [anna, ben] = [
  'anna',
  Array.from({ length: 100 }, (_, n) => `ben-${n}`).find((user) => partitionOfUser(user) !== partitionOfUser('anna'))!,
] as const;
let n = 0;
const event = (userId: string, messageId = `m-${++n}`): object => ({ type: 'track', userId, messageId });
const track = (userId: string, messageId?: string) => post(node.gatewayUrl, '/v1/track', event(userId, messageId));
const count = async (table: string): Promise<number> =>
  (await node.session.pool.query(`SELECT count(*)::int AS count FROM ${table}`)).rows[0].count;

test('an event is acknowledged only after its commit', async () => {
  const locker = await node.session.pool.connect();
  await locker.query('BEGIN');
  await locker.query(enterAlone, [node.session.instance, [partitionOfUser(anna)]]);
  let answered = false;
  const answer = track(anna).finally(() => {
    answered = true;
  });
  await until(
    async () =>
      (await count(
        "pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
      )) > 0,
    {
      deadlineMs: 5_000,
      what: 'the intake waiting inside its transaction',
    },
  );
  expect(answered).toBe(false);
  expect(await count('gw_jobs_1')).toBe(0);
  await locker.query('COMMIT');
  locker.release();
  expect((await answer).status).toBe(200);
  expect(await count('gw_jobs_1')).toBe(1);
});

test('a messageId that comes again is acknowledged, stored once and delivered once', async () => {
  await node.steward.set([...Array(PARTITIONS).keys()], 'paused');
  expect((await track(anna, 'same')).status).toBe(200);
  expect((await track(anna, 'same')).status).toBe(200);
  expect(
    (await post(node.gatewayUrl, '/v1/batch', { batch: [event(anna, 'same'), event(anna, 'new'), event(anna, 'new')] }))
      .status,
  ).toBe(200);
  const together = await Promise.all(Array.from({ length: 20 }, () => track(anna, 'together')));
  expect(new Set(together.map(({ status }) => status))).toEqual(new Set([200]));
  expect(await count('gw_jobs_1')).toBe(3);
  await node.steward.set([...Array(PARTITIONS).keys()], 'open');
  await until(() => destination.accepted.length >= 3, { deadlineMs: 5_000, what: 'three deliveries' });
  expect(destination.accepted.map(({ messageId }) => messageId)).toEqual(['same', 'new', 'together']);
});

describe('a partition that is not taken in', () => {
  test('closed: 421 not-owner with the version, and nothing of the request is stored', async () => {
    await node.steward.set([partitionOfUser(anna)], 'closed');
    const answer = await post(node.gatewayUrl, '/v1/batch', { batch: [event(ben), event(anna)] });
    expect(answer.status).toBe(421);
    expect(answer.headers).toMatchObject({ 'ringmaster-state': 'not-owner', 'ringmaster-version': '7' });
    expect(answer.headers).not.toHaveProperty('ringmaster-move');
    expect(JSON.parse(answer.text)).toEqual({ error: 'not-owner', partitions: [partitionOfUser(anna)] });
    expect([await count('gw_jobs_1'), await count('ringmaster.message_ids')]).toEqual([0, 0]);
    expect((await track(ben)).status).toBe(200);
  });

  test('fenced: 421 with the move, and a request of the same group for another partition is stored', async () => {
    await node.steward.set([partitionOfUser(anna)], 'fenced');
    const [fenced, taken] = await Promise.all([track(anna), track(ben)]);
    expect([fenced.status, taken.status]).toEqual([421, 200]);
    expect(fenced.headers).toMatchObject({
      'ringmaster-state': 'fenced',
      'ringmaster-version': '7',
      'ringmaster-move': 'op-1/move-3.1',
    });
    expect(JSON.parse(fenced.text)).toEqual({ error: 'fenced', partitions: [partitionOfUser(anna)] });
    expect(await count('gw_jobs_1')).toBe(1);
  });

  test('the messageId of a refused event is not remembered: sent again it is stored', async () => {
    await node.steward.set([partitionOfUser(anna)], 'fenced');
    expect((await track(anna, 'held')).status).toBe(421);
    await node.steward.set([partitionOfUser(anna)], 'open');
    expect((await track(anna, 'held')).status).toBe(200);
    expect(await count('gw_jobs_1')).toBe(1);
  });
});

test('paused takes in but starts nothing, until it is opened', async () => {
  await node.steward.set([partitionOfUser(anna)], 'paused');
  expect((await track(anna, 'a-1')).status).toBe(200);
  expect((await track(ben, 'b-1')).status).toBe(200);
  await until(() => destination.accepted.length === 1, { deadlineMs: 5_000, what: "the other user's delivery" });
  expect((await track(anna, 'a-2')).status).toBe(200);
  expect(await count('gw_job_status_1')).toBe(1);
  await node.steward.set([partitionOfUser(anna)], 'open');
  await until(() => destination.accepted.length === 3, { deadlineMs: 5_000, what: 'the rest' });
  expect(destination.accepted.map(({ messageId }) => messageId)).toEqual(['b-1', 'a-1', 'a-2']);
});

test('a process that is no longer the node stores and delivers nothing more, and is told so', async () => {
  const newer = await openSession({ node: 'node-0', clusterId: 'test', databaseUrl: database.url });
  try {
    expect((await track(anna)).status).toBe(503);
    expect(await count('gw_jobs_1')).toBe(0);
    expect(node.superseded).toHaveLength(1);
    expect(node.superseded[0]).toMatchObject({ code: 'RM001' });
  } finally {
    await newer.pool.end();
  }
});

test('without a database: 503 with Retry-After; and intake goes on when it is back', async () => {
  const { database: name } = database.address;
  const admin = new pg.Client({ ...database.address, database: 'postgres' });
  await admin.connect();
  const cutOff = () => admin.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1', [name]);
  expect((await track(anna, 'before')).status).toBe(200);
  await admin.query(`ALTER DATABASE ${name} ALLOW_CONNECTIONS false`);
  await cutOff();
  const refused = await track(anna, 'during');
  expect(refused.status).toBe(503);
  expect(refused.headers['retry-after']).toBe('1');
  await admin.query(`ALTER DATABASE ${name} ALLOW_CONNECTIONS true`);
  await admin.end();
  await until(async () => (await track(anna, 'after')).status === 200, { deadlineMs: 10_000, what: 'intake again' });
  await until(() => destination.accepted.length === 2, { deadlineMs: 10_000, what: 'both deliveries' });
  expect(destination.accepted.map(({ messageId }) => messageId)).toEqual(['before', 'after']);
});

test('a COMMIT whose answer is lost is answered 500; sent again the event is stored once', async () => {
  await node.steward.set([partitionOfUser(anna)], 'paused');
  const heal = loseCommits(node.session.pool, () => true);
  expect((await track(anna, 'in doubt')).status).toBe(500);
  heal();
  expect(await count('gw_jobs_1')).toBe(1);
  expect((await track(anna, 'in doubt')).status).toBe(200);
  expect(await count('gw_jobs_1')).toBe(1);
});

test('messageIds older than the window are forgotten', async () => {
  await node.stop();
  node = await startTestNode(database.url, [], { messageWindowMs: 50, pruneEveryMs: 20 });
  expect((await track(anna, 'old')).status).toBe(200);
  await until(async () => (await count('ringmaster.message_ids')) === 0, {
    deadlineMs: 5_000,
    what: 'an empty window',
  });
});
