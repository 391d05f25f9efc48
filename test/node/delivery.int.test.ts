import { request } from 'undici';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { NodeLimits } from '../../node/config.ts';
import { partitionOf } from '../../ring/partition.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { until } from '../support/wait.ts';
import { Destination, loseCommits, PARTITIONS, post, seeded, startTestNode, type TestNode } from './support.ts';

let database: TestDatabase;
let destination: Destination;
let node: TestNode;
const all = [...Array(PARTITIONS).keys()];

beforeEach(async () => {
  database = await createTestDatabase();
  destination = new Destination();
});
afterEach(async () => {
  await node?.stop();
  await destination.close();
  await database.drop();
});

const start = async (
  limits: Partial<NodeLimits> = {},
  more: { timeoutMs?: number; maxInFlight?: number } = {},
): Promise<void> => {
  node = await startTestNode(database.url, [{ id: 'hook', url: destinationUrl, ...more }], limits);
};
let destinationUrl: string;
beforeEach(async () => {
  destinationUrl = await destination.listen();
});
const event = (userId: string, n: number): object => ({ type: 'track', userId, n, messageId: `${userId}-${n}` });
const send = async (batch: object[]): Promise<void> => {
  expect((await post(node.gatewayUrl, '/v1/batch', { batch })).status).toBe(200);
};
const delivered = (count: number, deadlineMs = 30_000) =>
  until(() => destination.accepted.length >= count, {
    deadlineMs,
    what: `${count} deliveries (${destination.accepted.length})`,
  });
const states = async (messageId: string): Promise<string[]> => {
  const rows = await node.session.pool.query(
    "SELECT s.job_state, s.attempt, s.error_code FROM rt_job_status_1 s JOIN rt_jobs_1 j USING (job_id) WHERE j.parameters ->> 'message_id' = $1 ORDER BY s.id",
    [messageId],
  );
  return rows.rows.map(({ job_state, attempt, error_code }) =>
    [job_state, attempt, error_code].filter((part) => part !== null).join(' '),
  );
};
const health = async () =>
  (await (await request(`${node.gatewayUrl}/health`)).body.json()) as {
    db: string;
    delivery: string;
    troubles: { part: string }[];
  };

/** Each user's events, by their numbers, must come as 1, 2, 3 … */
function expectInOrder(): void {
  const last = new Map<string, number>();
  for (const {
    event: { userId, n },
  } of destination.accepted) {
    expect(n, `event of ${userId}`).toBe((last.get(userId) ?? 0) + 1);
    last.set(userId, n);
  }
}

test.each([
  ['ample buffers', {}],
  [
    'buffers that are too small for a user, a partition or all',
    { bufferJobsMax: 40, bufferPartitionJobsMax: 12, bufferUserJobsMax: 3, processBatch: 20 },
  ],
])("with delays and failures at random every user's events arrive once and in order: %s", async (_name, limits) => {
  await start({ ...limits, retryMinMs: 5, retryMaxMs: 20 });
  const random = seeded(20_250_801);
  destination.answer = async () => {
    await new Promise((resolve) => setTimeout(resolve, random() < 0.9 ? 0 : random() * 20));
    return random() < 0.1 ? 500 : 200;
  };
  const numbers = new Map<string, number>();
  for (let sent = 0; sent < 1_500; sent += 50) {
    await send(
      Array.from({ length: 50 }, () => {
        const user = random() < 0.2 ? 'busy' : `user-${Math.floor(random() * 100)}`;
        const n = (numbers.get(user) ?? 0) + 1;
        numbers.set(user, n);
        return event(user, n);
      }),
    );
  }
  await delivered(1_500);
  expectInOrder();
  expect(destination.accepted).toHaveLength(1_500);
  expect(destination.concurrentMax).toBe(1);
  expect(destination.openMax).toBeGreaterThan(4);
});

test('a destination gets the event as JSON with its messageId, and at most maxInFlight at once', async () => {
  await start({}, { maxInFlight: 3 });
  destination.answer = () => new Promise((resolve) => setTimeout(() => resolve(200), 10));
  await send(Array.from({ length: 30 }, (_, n) => event(`user-${n}`, 1)));
  await delivered(30);
  expect(destination.openMax).toBe(3);
  expect(destination.received.find(({ event }) => event.userId === 'user-0')).toMatchObject({
    messageId: 'user-0-1',
    attempt: 1,
    event: { userId: 'user-0', type: 'track' },
  });
  await until(async () => (await states('user-7-1')).length === 2, { deadlineMs: 5_000, what: 'statuses' });
  expect(await states('user-7-1')).toEqual(['executing 1', 'succeeded 1 200']);
});

test.each([500, 503, 408, 429, 302])('%i is tried again, and holds back that user only', async (status) => {
  await start();
  destination.answer = ({ event: { userId, n }, attempt }) =>
    userId === 'slow' && n === 1 && attempt < 4 ? status : 200;
  await send([event('slow', 1), event('slow', 2), event('quick', 1), event('quick', 2), event('slow', 3)]);
  await delivered(5);
  expectInOrder();
  expect(destination.accepted.map(({ messageId }) => messageId).slice(0, 2)).toEqual(['quick-1', 'quick-2']);
  await until(async () => (await states('slow-3')).length === 2, { deadlineMs: 5_000, what: 'statuses' });
  expect(await states('slow-1')).toEqual(
    [1, 2, 3]
      .flatMap((attempt) => [`executing ${attempt}`, `failed ${attempt} ${status}`])
      .concat('executing 4', 'succeeded 4 200'),
  );
});

test('a destination that asks for a wait by Retry-After gets it', async () => {
  await start();
  destination.answer = ({ attempt }) => (attempt === 1 ? { status: 429, headers: { 'retry-after': '1' } } : 200);
  await send([event('anna', 1)]);
  await delivered(1);
  const [first, second] = destination.received;
  expect(second!.at - first!.at).toBeGreaterThan(950);
});

test.each([400, 401, 404, 410])(
  '%i ends the event as aborted, and the next one of its user goes on',
  async (status) => {
    await start();
    destination.answer = ({ event: { n } }) => (n === 1 ? { status, headers: {}, body: 'no\0 thanks' } : 200);
    await send([event('anna', 1), event('anna', 2)]);
    await delivered(1);
    expect(destination.received.map(({ messageId }) => messageId)).toEqual(['anna-1', 'anna-2']);
    expect(await states('anna-1')).toEqual(['executing 1', `aborted 1 ${status}`]);
  },
);

test('no answer within the timeout, and no connection, are tried again', async () => {
  await start({}, { timeoutMs: 100 });
  destination.answer = ({ attempt }) =>
    attempt === 1 ? new Promise((resolve) => setTimeout(() => resolve(200), 300)) : 200;
  await send([event('anna', 1)]);
  await until(() => destination.received.length >= 2, { deadlineMs: 5_000, what: 'a second attempt' });
  expect((await states('anna-1')).slice(0, 2)).toEqual(['executing 1', 'failed 1 TIMEOUT']);
});

test('with a limit of attempts an event is aborted after the last', async () => {
  await start({ attemptsMax: 2, retryMinMs: 5 });
  destination.answer = ({ event: { n } }) => (n === 1 ? 500 : 200);
  await send([event('anna', 1), event('anna', 2)]);
  await delivered(1);
  expect(await states('anna-1')).toEqual(['executing 1', 'failed 1 500', 'executing 2', 'aborted 2 500']);
});

describe('quiesce', () => {
  test('stop starts nothing more at once; idle resolves when what was in flight is written', async () => {
    await start();
    let release: (() => void) | undefined;
    destination.answer = () => new Promise((resolve) => (release = () => resolve(200)));
    await send([event('anna', 1), event('anna', 2)]);
    await until(() => destination.received.length === 1, { deadlineMs: 5_000, what: 'a delivery in flight' });
    await node.steward.set(all, 'paused');
    await expect(node.work.idle(all, AbortSignal.timeout(200))).rejects.toThrow();
    expect(node.work.waitingFor(all)).toEqual(['hook']);
    expect(node.work.lastStarts(all)).toHaveLength(1);
    release!();
    await node.work.idle(all, AbortSignal.timeout(5_000));
    expect(node.work.waitingFor(all)).toEqual([]);
    expect(await states('anna-1')).toEqual(['executing 1', 'succeeded 1 200']);
    expect(await states('anna-2')).toEqual([]);
    destination.answer = () => 200;
    await node.steward.set(all, 'open');
    await delivered(2);
    expectInOrder();
    expect(destination.received).toHaveLength(2);
  });

  test('opened again while a delivery is in flight: it is not repeated, and what is behind it waits', async () => {
    await start();
    let release: (() => void) | undefined;
    destination.answer = ({ event: { userId, n } }) =>
      userId === 'anna' && n === 1 ? new Promise((resolve) => (release = () => resolve(200))) : 200;
    await send([event('anna', 1), event('anna', 2)]);
    await until(() => destination.received.length === 1, { deadlineMs: 5_000, what: 'a delivery in flight' });
    await node.steward.set(all, 'paused');
    await node.steward.set(all, 'open');
    await send([event('ben', 1)]);
    await delivered(1);
    release!();
    await delivered(3);
    expect(destination.received.map(({ messageId }) => messageId)).toEqual(['anna-1', 'ben-1', 'anna-2']);
  });

  test('pausing and opening at random under load loses, repeats and reorders nothing', async () => {
    await start({ bufferUserJobsMax: 4 });
    const random = seeded(7);
    destination.answer = () => new Promise((resolve) => setTimeout(() => resolve(200), random() * 5));
    let sending = true;
    const toggling = (async () => {
      while (sending) {
        const partitions = all.filter(() => random() < 0.4);
        await node.steward.set(partitions, 'paused');
        if (random() < 0.5) await node.work.idle(partitions, AbortSignal.timeout(10_000));
        await new Promise((resolve) => setTimeout(resolve, random() * 10));
        await node.steward.set(partitions, 'open');
      }
    })();
    for (let n = 1; n <= 60; n += 1) await send(Array.from({ length: 30 }, (_, user) => event(`user-${user}`, n)));
    sending = false;
    await toggling;
    await delivered(1_800);
    expectInOrder();
    expect(destination.received).toHaveLength(1_800);
  });
});

describe('what a former process left', () => {
  test('executing jobs are delivered again under the same attempt, in their place', async () => {
    await start();
    await node.steward.set(all, 'paused');
    await send([event('anna', 1), event('anna', 2)]);
    await node.stop();
    await start();
    // As a process leaves it that is killed after marking: processed, marked, not written.
    await node.session.pool.query(`
      WITH moved AS (
        INSERT INTO rt_jobs_1 (workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
        SELECT workspace_id, uuid, user_id, partition_id, parameters || '{"destination_id": "hook"}', 'WEBHOOK', event_payload FROM gw_jobs_1 ORDER BY job_id RETURNING job_id
      ), done AS (INSERT INTO gw_job_status_1 (job_id, job_state, attempt) SELECT job_id, 'succeeded', 1 FROM gw_jobs_1)
      INSERT INTO rt_job_status_1 (job_id, job_state, attempt) SELECT min(job_id), state, 3 FROM moved, unnest(ARRAY['failed', 'executing']) AS state GROUP BY state ORDER BY state DESC`);
    await node.steward.set(all, 'open');
    await delivered(2);
    expectInOrder();
    expect(destination.received.map(({ attempt }) => attempt)).toEqual([3, 1]);
  });

  test('a long queue of users who wait for a retry keeps nobody else waiting, and is delivered in order when its time comes', async () => {
    await start({ bufferPartitionJobsMax: 60, bufferUserJobsMax: 10 });
    await node.steward.set(all, 'paused');
    const partition = partitionOf('<<>><<>>anna', PARTITIONS);
    // 25 users of 40 jobs each, one behind the other in turn: more than the partition's memory. The first job of each has failed; one of them may soon be tried again.
    await node.session.pool.query(
      `WITH jobs AS (
         INSERT INTO rt_jobs_1 (workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
         SELECT 'workspace', gen_random_uuid(), 'waiting-' || u, 'workspace-' || $1::integer, jsonb_build_object('destination_id', 'hook', 'message_id', 'waiting-' || u || '-' || n),
           'WEBHOOK', jsonb_build_object('type', 'track', 'userId', 'waiting-' || u, 'n', n)
         FROM generate_series(1, 40) AS n, generate_series(1, 25) AS u ORDER BY n, u RETURNING job_id, user_id
       )
       INSERT INTO rt_job_status_1 (job_id, job_state, attempt, retry_time)
       SELECT min(job_id), 'failed', 1, now() + CASE user_id WHEN 'waiting-7' THEN interval '3 s' ELSE interval '1 h' END FROM jobs GROUP BY user_id`,
      [partition],
    );
    await node.steward.set(all, 'open');
    await send([event('anna', 1)]);
    await delivered(1, 2_500);
    expect(destination.accepted[0]).toMatchObject({ event: { userId: 'anna' } });
    await delivered(41);
    expectInOrder();
    await send([event('anna', 2)]);
    await delivered(42);
  });

  test('a retry time that lies ahead is waited for, by the clock of the database', async () => {
    await start();
    destination.answer = () => ({ status: 503, headers: { 'retry-after': '2' } });
    await send([event('anna', 1)]);
    await until(async () => (await states('anna-1')).length === 2, { deadlineMs: 5_000, what: 'a failed attempt' });
    const failedAt = performance.now();
    await node.stop();
    destination.answer = () => 200;
    await start();
    await delivered(1);
    expect(performance.now() - failedAt).toBeGreaterThan(1_500);
  });
});

test('COMMITs that are lost, before or after they happened, lose, repeat and reorder nothing', async () => {
  await start({ retryMinMs: 5, retryMaxMs: 20 });
  const random = seeded(11);
  destination.answer = () => (random() < 0.05 ? 500 : 200);
  const heal = loseCommits(
    node.session.pool,
    () => random() < 0.1,
    () => random() < 0.1,
  );
  await Promise.all(
    Array.from({ length: 20 }, async (_, user) => {
      for (let n = 1; n <= 20; )
        if ((await post(node.gatewayUrl, '/v1/track', event(`user-${user}`, n))).status === 200) n += 1;
    }),
  );
  await delivered(400);
  heal();
  expectInOrder();
  expect(destination.accepted).toHaveLength(400);
});

test('events are delivered whose processing was committed although its COMMIT was lost', async () => {
  await start();
  let commits = 0;
  const heal = loseCommits(node.session.pool, () => {
    commits += 1;
    return commits === 2; // the intake's, then the processor's
  });
  await send([event('anna', 1)]);
  await delivered(1, 10_000);
  heal();
  expect(commits).toBeGreaterThan(2);
  expectInOrder();
});

describe('degraded mode', () => {
  test('intake goes on while processing fails, health says so, and all is delivered when it works again', async () => {
    await start();
    await node.session.pool.query('ALTER TABLE rt_jobs_1 RENAME TO rt_jobs_hidden');
    await send([event('anna', 1)]);
    await until(async () => (await health()).troubles.some(({ part }) => part === 'processor'), {
      deadlineMs: 5_000,
      what: 'trouble',
    });
    expect(await health()).toMatchObject({ db: 'UP', delivery: 'degraded' });
    await send([event('anna', 2)]);
    await node.session.pool.query('ALTER TABLE rt_jobs_hidden RENAME TO rt_jobs_1');
    await delivered(2);
    expectInOrder();
    await until(async () => (await health()).delivery === 'ok', { deadlineMs: 5_000, what: 'ok again' });
  });

  test('a destination that is down is named', async () => {
    await start({ retryMinMs: 5, retryMaxMs: 10 });
    destination.answer = () => 500;
    await send([event('anna', 1)]);
    await until(async () => (await health()).delivery === 'degraded', { deadlineMs: 5_000, what: 'degraded' });
    expect((await health()).troubles).toEqual([{ part: 'destination hook', message: '500' }]);
    destination.answer = () => 200;
    await delivered(1);
    await until(async () => (await health()).delivery === 'ok', { deadlineMs: 5_000, what: 'ok again' });
  });

  test('a job that is no event is aborted, one of an unknown source stays pending; neither blocks the others', async () => {
    await start();
    const partition = partitionOf('<<>><<>>anna', PARTITIONS);
    await node.steward.set(all, 'paused');
    await node.session.pool.query(
      `INSERT INTO gw_jobs_1 (workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
       SELECT 'workspace', gen_random_uuid(), '<<>><<>>anna', $1, parameters::jsonb, 'GW', payload::jsonb
       FROM (VALUES ('{"source_id": "source-1"}', '"no object"'), ('{}', '{}'), ('{"source_id": "of yesterday"}', '{"userId": "anna"}')) AS v (parameters, payload)`,
      [`workspace-${partition}`],
    );
    await send([event('anna', 1)]);
    await node.steward.set(all, 'open');
    await delivered(1);
    const statuses = await node.session.pool.query(
      'SELECT j.job_id, s.job_state, s.error_code FROM gw_jobs_1 j LEFT JOIN gw_job_status_1 s USING (job_id) ORDER BY 1',
    );
    expect(statuses.rows.map((row) => row.job_state)).toEqual(['aborted', 'aborted', null, 'succeeded']);
    expect((await health()).troubles).toEqual([expect.objectContaining({ part: 'source of yesterday' })]);
  });
});
