import { expect, test } from 'vitest';
import { assertNobodyHasSeenMore } from '../../activities/store-behind.ts';
import type { NodeStatus } from '../../dataplane/contract.ts';
import { createMemoryRingStore } from '../../ringstore/memory.ts';
import { decideAndAppend } from '../../ringstore/ringstore.ts';

const by = { actor: 'test', reason: 'test', operation: null };
const facts = (node: string) => ({ node, databaseId: node, url: `http://${node}` });

async function looked(seen: Record<string, Partial<NodeStatus> | null>): Promise<void> {
  const store = createMemoryRingStore();
  const nodes = Object.keys(seen).map(facts);
  await decideAndAppend(store, 'c', { type: 'make ring', clusterId: 'c', partitionCount: 4, nodes }, by);
  await assertNobodyHasSeenMore(store, 'c', async (node) => {
    const status = seen[node];
    if (!status) throw new Error(`${node} does not answer`);
    return { status: async () => ({ foldedVersion: 1, ...status }) as NodeStatus };
  });
}

test('an operation begins where no node has seen more than the ring store, and none of those that answer is in trouble with it', async () => {
  await looked({ a: {}, b: { foldedVersion: 0 }, c: null });
});

test('it does not where one has seen more, or does not follow it: RING_STORE_BEHIND names who', async () => {
  await expect(looked({ a: {}, b: { foldedVersion: 7 } })).rejects.toMatchObject({
    code: 'RING_STORE_BEHIND',
    message: expect.stringContaining('b has seen version 7'),
  });
  await expect(looked({ a: { ringTrouble: 'RING_STORE_BEHIND: another event' }, b: {} })).rejects.toMatchObject({
    code: 'RING_STORE_BEHIND',
    details: { node: 'a' },
  });
});

test('an event that comes while nodes are asked is no trouble', async () => {
  const store = createMemoryRingStore();
  await decideAndAppend(store, 'c', { type: 'make ring', clusterId: 'c', partitionCount: 4, nodes: [facts('a')] }, by);
  await assertNobodyHasSeenMore(store, 'c', async () => ({
    status: async () => {
      const limits = { type: 'set limits', change: { movesPerNode: 2 } } as const;
      const { ring } = await decideAndAppend(store, 'c', limits, by);
      return { foldedVersion: ring.version } as NodeStatus;
    },
  }));
});
