/**
 * Goal: the ring's log is enough. Whatever becomes of the orchestrator in the middle of a move, the next operation ends what was left open and does its work,
 * and no event is lost, twice or out of order.
 * Method: the embedded stack under traffic. At an event of the log the worker is killed, so that the move stays as it is, and then its workflows are terminated,
 * Temporal's database is deleted, or a worker of another version takes its place.
 */
import { readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { describe, expect, test } from 'vitest';
import { startOperation } from '../../dev/demo/operations.ts';
import type { RecordedEvent, RingEvent } from '../../ring/events.ts';
import { moveWorkflowId, scaleWorkflowId } from '../../workflows/messages.ts';
import { until } from '../support/wait.ts';
import { expectFlawless, type TestCluster, withCluster } from './cluster.ts';

/** Longer than it takes to terminate what ran, or to start Temporal again. */
const DOWN_MS = 6_000;

type MoveEvent = Extract<RingEvent, { readonly move: string }>['type'];

/** Starts scaling to three nodes and kills the worker at the first event of that type; it comes back after DOWN_MS. Returns that event. */
async function killedAt({ stack }: TestCluster, type: MoveEvent): Promise<RecordedEvent & { event: { move: string } }> {
  const seen = Promise.withResolvers<RecordedEvent>();
  const watching = new AbortController();
  const onEvents = (events: RecordedEvent[]): void => {
    const found = events.find(({ event }) => event.type === type);
    if (!found || watching.signal.aborted) return;
    watching.abort();
    stack.worker.kill('SIGKILL', DOWN_MS);
    seen.resolve(found);
  };
  const watch = stack.ringStore.watch(stack.clusterId, 0, { onEvents }, watching.signal);
  const signal = AbortSignal.timeout(60_000);
  signal.addEventListener('abort', () => seen.reject(new Error(`no event '${type}' within a minute`)));
  await startOperation(stack.api, stack.clusterId, 3, { reason: 'to be lost', signal });
  const event = await seen.promise;
  await watch;
  return event as RecordedEvent & { event: { move: string } };
}

async function withTemporal(cluster: TestCluster, use: (client: Client) => Promise<void>): Promise<void> {
  const { address, namespace } = cluster.stack.temporal;
  const connection = await Connection.connect({ address });
  try {
    await use(new Client({ connection, namespace }));
  } finally {
    await connection.close();
  }
}

/** As a person would by Temporal's page, both the operation and its move: nobody is left who could undo anything. */
async function terminate(cluster: TestCluster, lost: RecordedEvent & { event: { move: string } }): Promise<void> {
  const { clusterId } = cluster.stack;
  const [operationId, rest] = lost.event.move.split('/move-') as [string, string];
  await withTemporal(cluster, async (client) => {
    await client.workflow.getHandle(scaleWorkflowId(clusterId)).terminate('a test');
    await client.workflow
      .getHandle(moveWorkflowId(clusterId, operationId, Number.parseInt(rest, 10)))
      .terminate('a test');
  });
}

/** Everything that Temporal knew. */
async function wipe({ stack }: TestCluster): Promise<void> {
  await stack.temporal.stop();
  const folder = path.join(stack.dataFolder, 'temporal');
  const files = (await readdir(folder)).filter((file) => file.startsWith('temporal.db'));
  expect(files).toContain('temporal.db');
  for (const file of files) await rm(path.join(folder, file));
  await stack.temporal.restart();
}

describe.each([
  ['its workflows are terminated in Temporal', terminate],
  ['the database of Temporal is lost', wipe],
] as const)('%s', (_what, lose) => {
  test.each([
    ['move claimed', 'aborted'],
    ['partitions handed over', 'completed'],
  ] as const)(
    "after '%s': the next operation takes the ring over, and the move that was left open was %s",
    async (type, ending) => {
      await withCluster({ nodes: 2 }, async (cluster) => {
        const lost = await killedAt(cluster, type);
        await lose(cluster, lost);
        const left = await cluster.ring();
        expect(left.freeze?.operationId).toBe(lost.operation);
        expect(left.moves.map(({ move, state }) => ({ move, state }))).toContainEqual({
          move: lost.event.move,
          state: type === 'move claimed' ? 'started' : 'handed over',
        });

        const next = await cluster.scale(3);
        expect(next.state).toBe('completed');
        const notes = next.notes.join('\n');
        expect(notes).toContain(`the freeze of operation ${lost.operation} was taken over: its run `);
        expect(notes).toContain(`move ${lost.event.move}, left open, was ${ending}`);
        const events = await cluster.stack.ringStore.read(cluster.stack.clusterId, lost.version);
        expect(events.find(({ event }) => 'move' in event && event.move === lost.event.move)?.event.type).toBe(
          `move ${ending}`,
        );
        expectFlawless(await cluster.judge());
        expect(await cluster.leftovers()).toEqual([]);
      });
    },
  );
});

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
