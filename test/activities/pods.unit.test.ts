/** Goal: taking a node away is undone by a cancellation only as long as it is a member. Method: the activity itself, its ring in memory, a platform that is played. */
import { MockActivityEnvironment } from '@temporalio/testing';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { createPodActivities, type PodDeps } from '../../activities/pods.ts';
import { isMember } from '../../ring/ring.ts';
import { createMemoryRingStore } from '../../ringstore/memory.ts';
import { decideAndAppend, readRing } from '../../ringstore/ringstore.ts';

const CLUSTER = 'demo';
const facts = (node: string) => ({ node, databaseId: `db-${node}`, url: `http://${node}.test` });
const by = { actor: 'test', reason: 'test', operation: 'op' };
const asking = { clusterId: CLUSTER, operationId: 'op', reason: 'test', holder: 1 };

/** A ring of a and b, where b owns nothing; `on` says what happens at each question to the world. */
async function cluster(on: { status?: () => void; removal?: () => void }) {
  const ringStore = createMemoryRingStore();
  const append = (command: Parameters<typeof decideAndAppend>[2]) => decideAndAppend(ringStore, CLUSTER, command, by);
  await append({ type: 'make ring', clusterId: CLUSTER, partitionCount: 2, nodes: [facts('a')] });
  await append({ type: 'freeze', by: { operationId: 'op', workflowId: 'scale/demo', runId: 'op' } });
  const { ring } = await append({ type: 'join node', holder: 1, facts: facts('b') });
  const removed: string[] = [];
  const deps = {
    ringStore,
    platform: {
      removeNode: async (node: string, _removal: unknown, signal?: AbortSignal) => {
        on.removal?.();
        signal?.throwIfAborted(); // as Kubernetes' does, whenever it waits
        removed.push(node);
      },
    },
    controlOf: async () => ({
      status: async () => {
        on.status?.();
        return { blocked: null, foldedVersion: ring.version, settledVersion: ring.version };
      },
      countPending: async (signal?: AbortSignal) => {
        signal?.throwIfAborted();
        return 0;
      },
    }),
    actor: 'worker',
    log: pino({ level: 'silent' }),
    limits: { settleWithinMs: 5_000, pollEveryMs: 1 },
  } as unknown as PodDeps;
  const worker = new MockActivityEnvironment();
  return {
    worker,
    removed,
    remove: () => worker.run(createPodActivities(deps).removeNode, { ...asking, node: 'b' }),
    isMember: async () => isMember(await readRing(ringStore, CLUSTER), 'b'),
  };
}

test('cancelled while the node is still looked at, the removal ends, and the node stays a member', async () => {
  const { worker, remove, removed, isMember } = await cluster({ status: () => worker.cancel() });
  await expect(remove()).rejects.toThrow();
  expect(removed).toEqual([]);
  expect(await isMember()).toBe(true);
});

test('cancelled once the node has left the ring, it goes all the same: no later operation would look for it', async () => {
  const { worker, remove, removed, isMember } = await cluster({ removal: () => worker.cancel() });
  await remove();
  expect(removed).toEqual(['b']);
  expect(await isMember()).toBe(false);
});
