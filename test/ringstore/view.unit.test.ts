import { pino } from 'pino';
import { expect, test } from 'vitest';
import { GENESIS_HASH } from '../../ringstore/chain.ts';
import { createMemoryRingStore } from '../../ringstore/memory.ts';
import { decideAndAppend } from '../../ringstore/ringstore.ts';
import { followRing } from '../../ringstore/view.ts';
import { by, facts, joined } from './contract.ts';

const log = pino({ level: 'silent' });
const identity = { operationId: 'op', workflowId: 'w', runId: 'r' };

async function storeWithRing() {
  const store = createMemoryRingStore();
  await decideAndAppend(
    store,
    'c',
    { type: 'make ring', clusterId: 'c', partitionCount: 4, nodes: [facts('node-0')] },
    by,
  );
  return store;
}

test('a view folds what is there and follows what comes', async () => {
  const store = await storeWithRing();
  const view = followRing(store, 'c', { log });
  expect(view.ring.version).toBe(0);
  expect((await view.waitFor((ring) => ring.version > 0, { deadlineMs: 1_000 })).owners).toEqual(
    Array(4).fill('node-0'),
  );
  const waiting = view.waitFor((ring) => ring.freeze !== null, { deadlineMs: 1_000 });
  await decideAndAppend(store, 'c', { type: 'freeze', by: identity }, by);
  expect((await waiting).version).toBe(2);
  expect(view.lastHash).toBe((await store.read('c')).at(-1)!.hash);
  await view.close();
});

test('a view can go on from a ring that was kept', async () => {
  const store = await storeWithRing();
  const first = followRing(store, 'c', { log });
  await first.waitFor((ring) => ring.version === 1, { deadlineMs: 1_000 });
  const kept = JSON.parse(JSON.stringify({ ring: first.ring, lastHash: first.lastHash }));
  await first.close();
  await decideAndAppend(store, 'c', { type: 'freeze', by: identity }, by);
  const second = followRing(store, 'c', { log, initial: kept });
  const seen: number[] = [];
  second.onChange((_ring, events) => seen.push(...events.map((event) => event.version)));
  await second.waitFor((ring) => ring.version === 2, { deadlineMs: 1_000 });
  expect(seen).toEqual([2]);
  await second.close();
});

test('a view serves its last ring while the store is gone, says why, and goes on after', async () => {
  const store = await storeWithRing();
  const view = followRing(store, 'c', { log });
  await view.waitFor((ring) => ring.version === 1, { deadlineMs: 1_000 });
  store.fail(new Error('gone'));
  await expect.poll(() => view.trouble?.message).toBe('gone');
  expect(view.ring.version).toBe(1);
  store.fail(null);
  await decideAndAppend(store, 'c', { type: 'freeze', by: identity }, by);
  await view.waitFor((ring) => ring.version === 2, { deadlineMs: 5_000 });
  expect(view.trouble).toBeNull();
  await view.close();
});

test('a view of a store with another history keeps its ring: RING_STORE_BEHIND', async () => {
  const store = await storeWithRing();
  const kept = { ring: (await fresh(store)).ring, lastHash: GENESIS_HASH };
  const view = followRing(store, 'c', { log, initial: kept });
  await expect.poll(() => view.trouble).toMatchObject({ code: 'RING_STORE_BEHIND' });
  await decideAndAppend(store, 'c', { type: 'freeze', by: identity }, by);
  await new Promise((resolve) => setTimeout(resolve, 30));
  expect(view.ring.version).toBe(1);
  await view.close();
});

test('an event that breaks the rules of the ring leaves the last good ring, with a trouble', async () => {
  const store = await storeWithRing();
  const view = followRing(store, 'c', { log });
  await view.waitFor((ring) => ring.version === 1, { deadlineMs: 1_000 });
  await store.append('c', 1, [{ type: 'node left', node: 'node-0' }], by);
  await expect.poll(() => view.trouble?.message).toMatch(/R1/);
  expect(view.ring.version).toBe(1);
  await view.close();
});

test('waiting ends by its deadline, its signal, and the end of the view', async () => {
  const store = await storeWithRing();
  const view = followRing(store, 'c', { log });
  const never = () => false;
  await expect(view.waitFor(never, { deadlineMs: 20 })).rejects.toMatchObject({ code: 'RING_WAIT_TIMEOUT' });
  const signal = AbortSignal.abort(new Error('enough'));
  await expect(view.waitFor(never, { deadlineMs: 1_000, signal })).rejects.toThrow('enough');
  const waiting = view.waitFor(never, { deadlineMs: 5_000 });
  const refused = expect(waiting).rejects.toMatchObject({ code: 'RING_VIEW_CLOSED' });
  await view.close();
  await refused;
});

test('a listener that fails does not stop the view or the other listeners', async () => {
  const store = await storeWithRing();
  const view = followRing(store, 'c', { log });
  const seen: number[] = [];
  view.onChange(() => {
    throw new Error('mine');
  });
  view.onChange((ring) => seen.push(ring.version));
  await view.waitFor((ring) => ring.version === 1, { deadlineMs: 1_000 });
  await store.append('c', 1, [joined(1)], by);
  await view.waitFor((ring) => ring.version === 2, { deadlineMs: 1_000 });
  expect(seen).toEqual([1, 2]);
  await view.close();
});

async function fresh(store: Awaited<ReturnType<typeof storeWithRing>>) {
  const view = followRing(store, 'c', { log });
  await view.waitFor((ring) => ring.version === 1, { deadlineMs: 1_000 });
  await view.close();
  return view;
}
