/**
 * Goal: the ring's log is enough. Whatever becomes of the orchestrator in the middle of a move, the next operation ends what was left open and does its work,
 * and no event is lost, twice or out of order.
 * Method: the embedded stack under traffic. At an event of the log the worker is killed, so that the move stays as it is, and then its workflows are terminated,
 * Temporal's database is deleted, or a worker of another version takes its place.
 */
import { expect, test } from 'vitest';
import { scaleWorkflowId } from '../../workflows/messages.ts';
import { until } from '../support/wait.ts';
import { expectFlawless, withCluster } from './cluster.ts';
import { expectTakenOver, killedAt, terminate, wipe, withTemporal } from './orchestrator-lost.ts';

test('its workflows are terminated in Temporal before the hand-over: the next operation takes the ring over and aborts the move', () =>
  expectTakenOver(terminate, 'move claimed'));

test('the database of Temporal is lost after the hand-over: the next operation takes the ring over and completes the move', () =>
  expectTakenOver(wipe, 'partitions handed over'));

test('a worker of another version takes the place of one that is killed in the middle of a move: the operation goes on', async () => {
  let build = 'build-1';
  await withCluster({ nodes: 2, workerEnv: () => ({ RINGMASTER_BUILD_ID: build }) }, async (cluster) => {
    const { move } = (await killedAt(cluster, 'move claimed')).event;
    build = 'build-2';
    await until(async () => (await cluster.ring()).nodes.length === 3 && (await cluster.ring()).freeze === null, {
      deadlineMs: 120_000,
      what: 'the operation that build-1 began is over',
    });
    await withTemporal(cluster, async (client) => {
      const handle = client.workflow.getHandle(scaleWorkflowId(cluster.stack.clusterId));
      await handle.result();
      const { events } = await handle.fetchHistory();
      const builds = (events ?? []).flatMap(({ workflowTaskCompletedEventAttributes: done }) =>
        done ? [done.deploymentVersion?.buildId ?? done.workerVersion?.buildId] : [],
      );
      expect(builds[0]).toBe('build-1');
      expect(builds.at(-1)).toBe('build-2');
      expect(move.startsWith(`${(await handle.describe()).runId}/`)).toBe(true);
    });
    expectFlawless(await cluster.judge());
    expect(await cluster.leftovers()).toEqual([]);
  });
});
