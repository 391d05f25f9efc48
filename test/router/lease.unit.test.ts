/** Goal: who looks sees which routers there are and how old their rings are; no router needs that. Method: a ring store in memory. */
import { pino } from 'pino';
import { expect, test } from 'vitest';
import type { RouterFacts } from '../../ringstore/ringstore.ts';
import { keepLease } from '../../router/lease.ts';
import { combineReady } from '../../router/workers.ts';
import { until } from '../support/wait.ts';
import { startWorld } from './harness.ts';

test('a router is listed with its ring, serves while it cannot say so, and is listed no longer when it has ended', async () => {
  const world = await startWorld();
  try {
    const { store, view } = world;
    const facts = (): RouterFacts => ({
      ...{ router: 'router@here/1', url: world.router.url, worker: null, build: 'b', upMs: 1 },
      ...{ version: view.ring.version, epoch: view.ring.epoch },
      ringAgeMs: view.ringAgeMs,
      confirmedMsAgo: view.confirmedMsAgo,
    });
    const lines: string[] = [];
    const stop = keepLease(store, view, facts, pino({}, { write: (line: string) => void lines.push(line) }));
    const listed = () => store.leases('demo');
    await until(async () => (await listed()).length === 1, { deadlineMs: 2_000, what: 'listed' });
    expect((await listed())[0]).toMatchObject({ router: 'router@here/1', version: 1, worker: null });
    store.fail(new Error('the ring store is down'));
    expect((await world.track(world.userOf('node-0'), 'm')).status).toBe(200);
    store.fail(null);
    const user = world.userOf('node-0');
    await world.startMove('op-1/move-1.1', 'node-0', 'node-1', [world.partitionOfUser(user)]);
    const isLatest = async () => (await listed())[0]?.version === world.ring().version;
    await until(isLatest, { deadlineMs: 8_000, what: 'listed with the latest ring' });
    await stop();
    expect(await listed()).toEqual([]);
  } finally {
    await world.end();
  }
});

test('a ring is confirmed as long as the store is heard from, and says for how long it has not been', async () => {
  const world = await startWorld();
  try {
    const { store, view } = world;
    await until(() => view.confirmedMsAgo !== null, { deadlineMs: 2_000, what: 'confirmed' });
    store.fail(new Error('the ring store is down'));
    await until(() => (view.confirmedMsAgo ?? 0) > 1_500, { deadlineMs: 6_000, what: 'not confirmed for a while' });
    const ready = (await (await fetch(`${world.router.url}/ready`)).json()) as Record<
      string,
      number | string | boolean
    >;
    expect(ready).toMatchObject({ ready: true, version: 1 });
    expect(ready['confirmedMsAgo']).toBeGreaterThan(1_500);
    const metrics = await (await fetch(`${world.router.url}/metrics`)).text();
    expect(Number(/^ringmaster_router_ring_confirmed_seconds (\S+)/m.exec(metrics)?.[1])).toBeGreaterThan(1.5);
    expect(metrics).toContain('ringmaster_router_ring_epoch 1');
    store.fail(null);
    await until(() => view.confirmedMsAgo! < 1_000, { deadlineMs: 6_000, what: 'confirmed again' });
    store.forgetAfter('demo', 0); // it answers, and does not have this ring
    await until(() => (view.confirmedMsAgo ?? 0) > 2_500, { deadlineMs: 6_000, what: 'no longer confirmed' });
  } finally {
    await world.end();
  }
});

test('a router of several workers is as ready, and as far, as the last of them', () => {
  const one = {
    ...{
      ready: true,
      version: 5,
      epoch: 2,
      ringAgeMs: 10,
      confirmedMsAgo: 5,
      held: 1,
      down: ['node-1'],
      trouble: null,
    },
  };
  const other = {
    ...one,
    version: 4,
    ringAgeMs: 900,
    confirmedMsAgo: null,
    held: 2,
    down: ['node-2'],
    trouble: 'gone',
  };
  expect(combineReady([one, other])).toEqual({
    ...{ ready: true, version: 4, epoch: 2, ringAgeMs: 900, confirmedMsAgo: null, held: 3, trouble: 'gone' },
    down: ['node-1', 'node-2'],
  });
  expect(combineReady([one, { ...other, ready: false }]).ready).toBe(false);
});
