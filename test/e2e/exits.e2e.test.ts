/**
 * Goal: the ways out keep the promises under traffic: an operation that takes itself back, a node that is drained and comes back, a node whose backend hangs.
 * Method: the embedded stack as `npm start` has it, through its API; seeded traffic, an independent checker.
 */
import { expect, test } from 'vitest';
import type { ApiError } from '../../client/api-types.ts';
import type { OperationProgress } from '../../client/operations.ts';
import { partitionsOf } from '../../ring/ring.ts';
import { until } from '../support/wait.ts';
import { expectFlawless, type TestCluster, withCluster } from './cluster.ts';

/** Asks the cluster's API; throws what it refuses with. */
async function ask<T>({ stack }: TestCluster, method: 'GET' | 'POST', path: string, body?: object): Promise<T> {
  const response = await fetch(`${stack.api.url}/v1/clusters/${stack.clusterId}/${path}`, {
    method,
    headers: {
      authorization: `Bearer ${stack.api.token}`,
      ...(body ? { 'content-type': 'application/json' } : {}),
    },
    ...(body ? { body: JSON.stringify(body) } : {}),
  });
  const answer = (await response.json()) as T;
  if (response.ok) return answer;
  const { code, message } = answer as unknown as ApiError;
  throw new Error(`${code}: ${message}`);
}

const start = async (cluster: TestCluster, path: string, body: object): Promise<string> =>
  (await ask<{ operationId: string }>(cluster, 'POST', path, { reason: 'a test', ...body })).operationId;

const shows = (
  cluster: TestCluster,
  operationId: string,
  what: string,
  condition: (progress: OperationProgress) => boolean,
): Promise<OperationProgress> =>
  until(
    async () => {
      const progress = await ask<OperationProgress>(cluster, 'GET', `operations/${operationId}`);
      if (progress.state === 'blocked') throw new Error(`blocked on ${JSON.stringify(progress.blockedOn)}`);
      return condition(progress) ? progress : null;
    },
    { deadlineMs: 120_000, what, everyMs: 100 },
  );
const ends = (cluster: TestCluster, operationId: string): Promise<OperationProgress> =>
  shows(cluster, operationId, `the end of ${operationId}`, ({ endedAt }) => endedAt !== null);

test('an operation is undone in the middle, under traffic, and once more when it has ended: every partition is where it was, and no event noticed', async () => {
  await withCluster({ nodes: 2 }, async (cluster) => {
    const before = await cluster.ring();
    const running = await start(cluster, 'operations', { targetNodes: 3 });
    await shows(cluster, running, 'a move is done', ({ partitionsMoved }) => partitionsMoved > 0);
    const { result } = await ask<{ result: string }>(cluster, 'POST', `operations/${running}/undo`, {});
    expect(result).toBe('undoing');
    expect(await ends(cluster, running)).toMatchObject({ state: 'undone', blockedOn: null });
    expect((await cluster.ring()).owners).toEqual(before.owners);
    const down = await cluster.scale(1);
    const undoing = await start(cluster, `operations/${down.operationId}/undo`, {});
    expect(await ends(cluster, undoing)).toMatchObject({ state: 'completed' });
    const after = await cluster.ring();
    expect(after.owners).toEqual(before.owners);
    expect(after.nodes).toEqual(before.nodes);
    expectFlawless(await cluster.judge());
    expect(await cluster.leftovers()).toEqual([]);
  });
});

test('a node is drained under traffic, is given nothing, and gets its share again once it is activated', async () => {
  await withCluster({ nodes: 2 }, async (cluster) => {
    const drained = await start(cluster, 'nodes/node-1/drain', {});
    expect(await ends(cluster, drained)).toMatchObject({ state: 'completed', nodesRemoved: [] });
    expect(partitionsOf(await cluster.ring(), 'node-1')).toEqual([]);
    await cluster.scale(3);
    expect(partitionsOf(await cluster.ring(), 'node-1')).toEqual([]);
    await ask(cluster, 'POST', 'nodes/node-1/activate', {});
    await cluster.scale(3);
    expect(partitionsOf(await cluster.ring(), 'node-1').length).toBeGreaterThan(4);
    expectFlawless(await cluster.judge());
    expect(await cluster.leftovers()).toEqual([]);
  });
});

test('a node whose backend hangs is drained by reading its database; the backend that wakes up then changes nothing', async () => {
  await withCluster({ nodes: 2, destinationMs: 20 }, async (cluster) => {
    const { platform } = cluster.stack;
    const inFlightMax = 64;
    await platform.kill('node-1', 'backend', 'SIGSTOP');
    const drained = await start(cluster, 'nodes/node-1/drain', {});
    expect(await ends(cluster, drained)).toMatchObject({ state: 'completed' });
    expect(partitionsOf(await cluster.ring(), 'node-1')).toEqual([]);
    await platform.kill('node-1', 'backend', 'SIGCONT');
    const { events } = await cluster.judge();
    // What it had delivered and not written down when it was stopped is delivered again; clients saw that it did not answer.
    expect({ ...events, duplicated: 0, duplicatedExplained: 0, clientErrors: 0 }).toMatchObject({
      lost: 0,
      reordered: 0,
      unknown: 0,
    });
    expect(events.duplicated).toBeLessThanOrEqual(inFlightMax);
    expect(await cluster.leftovers()).toEqual([]);
  });
});
