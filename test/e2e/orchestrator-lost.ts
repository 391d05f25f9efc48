/**
 * What loses an orchestrator in the middle of a move, and what must come of it: at an event of the log the worker is killed, so that the move stays as it is;
 * then its workflows are terminated, or Temporal's database is deleted.
 */
import { readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { expect } from 'vitest';
import { startOperation } from '../../dev/demo/operations.ts';
import type { RecordedEvent, RingEvent } from '../../ring/events.ts';
import { moveWorkflowId, scaleWorkflowId } from '../../workflows/messages.ts';
import { expectFlawless, type TestCluster, withCluster } from './cluster.ts';

/** Longer than it takes to terminate what ran, or to start Temporal again. */
const DOWN_MS = 6_000;

type MoveEvent = Extract<RingEvent, { readonly move: string }>['type'];

/** Starts scaling to three nodes and kills the worker at the first event of that type; it comes back after DOWN_MS. Returns that event. */
export async function killedAt(
  { stack }: TestCluster,
  type: MoveEvent,
): Promise<RecordedEvent & { event: { move: string } }> {
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

export async function withTemporal(cluster: TestCluster, use: (client: Client) => Promise<void>): Promise<void> {
  const { address, namespace } = cluster.stack.temporal;
  const connection = await Connection.connect({ address });
  try {
    await use(new Client({ connection, namespace }));
  } finally {
    await connection.close();
  }
}

/** As a person would by Temporal's page, both the operation and its move: nobody is left who could undo anything. */
export async function terminate(
  cluster: TestCluster,
  lost: RecordedEvent & { event: { move: string } },
): Promise<void> {
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
export async function wipe({ stack }: TestCluster): Promise<void> {
  await stack.temporal.stop();
  const folder = path.join(stack.dataFolder, 'temporal');
  const files = (await readdir(folder)).filter((file) => file.startsWith('temporal.db'));
  expect(files).toContain('temporal.db');
  for (const file of files) await rm(path.join(folder, file));
  await stack.temporal.restart();
}

/** The next operation takes the ring over; the move that was left open is aborted by it before its hand-over, and completed after it. */
export async function expectTakenOver(
  lose: (cluster: TestCluster, lost: RecordedEvent & { event: { move: string } }) => Promise<void>,
  type: 'move claimed' | 'partitions handed over',
): Promise<void> {
  const ending = type === 'move claimed' ? 'aborted' : 'completed';
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
}
