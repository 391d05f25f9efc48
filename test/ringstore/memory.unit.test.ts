import { expect, test } from 'vitest';
import { createMemoryRingStore } from '../../ringstore/memory.ts';
import { by, collect, joined, testRingStore } from './contract.ts';

testRingStore('memory', () => createMemoryRingStore());

test('a watcher of a store that forgot keeps what it saw and reports RING_STORE_BEHIND', async () => {
  const store = createMemoryRingStore();
  await store.append('c', 0, [joined(0), joined(1), joined(2)], by);
  const watch = collect(store, 'c');
  await watch.upTo(3);
  store.forgetAfter('c', 1);
  await watch.waitFor('trouble', () => watch.troubles.length > 0);
  // Another history grows in its place: past what was seen, and still not followed.
  await store.append('c', 1, [joined(7), joined(8), joined(9)], by);
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(watch.troubles.at(-1)).toMatchObject({ code: 'RING_STORE_BEHIND' });
  expect(watch.versions()).toEqual([1, 2, 3]);
  await watch.stop();
});
