/**
 * Goal: what a node tells of its load is what live traffic feels there, and no more: not what a slow destination, a retry or a user's own jobs make it wait.
 * Method: locks held in its database stand for one that is too busy; the load is read where the orchestrator reads it.
 */
import { request } from 'undici';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { controlPaths, type NodeLoad, type NodeStatus } from '../../dataplane/contract.ts';
import { RecentTimes } from '../../node/load.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { until } from '../support/wait.ts';
import { CONTROL_TOKEN, Destination, post, startTestNode, type TestNode } from './support.ts';

describe('recent times', () => {
  let at = 0;
  const timesOf = (...ms: number[]): RecentTimes => {
    at = 10_000;
    const times = new RecentTimes(() => at);
    for (const one of ms) times.ended(at - one);
    return times;
  };

  test('are the middle and the slow end of what ended lately', () =>
    expect(timesOf(10, 20, 30, 40, 50, 60, 70, 80, 90, 100).quantiles()).toEqual({ p50: 50, p90: 90 }));
  test('are nothing where nothing ended, and nothing goes on', () => expect(timesOf().quantiles()).toBeNull());
  test('forget what is over', () => {
    const times = timesOf(500);
    at += 2_001;
    expect(times.quantiles()).toBeNull();
  });
  test('see a standstill before it has ended', () => {
    const times = timesOf(5);
    expect(times.quantiles(at - 800)).toEqual({ p50: 5, p90: 800 });
    expect(timesOf().quantiles(at - 800)).toEqual({ p50: 800, p90: 800 });
  });
});

describe('a node', () => {
  let database: TestDatabase;
  let destination: Destination;
  let node: TestNode;

  beforeEach(async () => {
    database = await createTestDatabase();
    destination = new Destination();
    node = await startTestNode(database.url, [{ id: 'hook', url: await destination.listen(), maxInFlight: 4 }]);
  });
  afterEach(async () => {
    await node.stop();
    await destination.close();
    await database.drop();
  });

  const load = async (): Promise<NodeLoad> => {
    const answer = await request(`${node.controlUrl}${controlPaths.status}`, {
      headers: { authorization: `Bearer ${CONTROL_TOKEN}` },
    });
    return ((await answer.body.json()) as NodeStatus).load!;
  };
  const send = async (from: number, count: number): Promise<void> => {
    const batch = Array.from({ length: count }, (_, i) => ({
      type: 'track',
      userId: `user-${from + i}`,
      messageId: `m-${from + i}`,
    }));
    expect((await post(node.gatewayUrl, '/v1/batch', { batch })).status).toBe(200);
  };
  /** Holds a lock that writers of this table wait for, until it is let go. */
  const lock = async (table: string): Promise<() => Promise<void>> => {
    const client = await node.session.pool.connect();
    await client.query(`BEGIN; LOCK TABLE ${table} IN SHARE MODE`);
    return async () => {
      await client.query('COMMIT');
      client.release();
    };
  };

  test('that nobody sends anything has no load', async () =>
    expect(await load()).toEqual({ commitMs: null, queueDelayMs: expect.any(Number) }));

  test('tells how long commits take, also of one that goes on', async () => {
    await send(0, 1);
    const { commitMs } = await load();
    expect(commitMs!.p90).toBeGreaterThan(0);

    const unlock = await lock('public.gw_jobs_1');
    const sending = send(1, 1);
    await until(async () => (await load()).commitMs!.p90 > 300, { deadlineMs: 10_000, what: 'a slow commit' });
    await unlock();
    await sending;
    expect((await load()).commitMs!.p90).toBeGreaterThan(300);
  });

  test.each([
    ['gw jobs wait to be processed', 'public.gw_job_status_1'],
    ['rt jobs wait to be marked', 'public.rt_job_status_1'],
  ])('tells how long %s, also while they go on waiting', async (_what, table) => {
    await send(0, 10);
    await until(() => destination.accepted.length === 10, { deadlineMs: 10_000, what: 'deliveries' });
    const unlock = await lock(table);
    await send(100, 10);
    await until(async () => (await load()).queueDelayMs > 1_000, { deadlineMs: 10_000, what: 'a delay' });
    await unlock();
    await until(() => destination.accepted.length === 20, { deadlineMs: 10_000, what: 'deliveries' });
    await until(async () => (await load()).queueDelayMs < 500, { deadlineMs: 10_000, what: 'the end of the delay' });
  });

  test('does not feel a destination that is slow, or fails, however much waits for it', async () => {
    destination.answer = async () => {
      await new Promise((resolve) => setTimeout(resolve, 250));
      return Math.random() < 0.5 ? 200 : 503;
    };
    await send(0, 300);
    const until2s = performance.now() + 2_500;
    const delays: number[] = [];
    while (performance.now() < until2s) {
      delays.push((await load()).queueDelayMs);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect(destination.accepted.length).toBeLessThan(150); // much waits still
    expect(delays.sort((a, b) => a - b).at(Math.floor(delays.length / 2))).toBeLessThan(600); // what waits for it has waited for twice that
  });
});
