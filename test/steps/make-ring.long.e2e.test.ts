/**
 * Goal: the operation that makes a ring may lose its worker, or be cancelled, around the one append that makes it: there is a ring afterwards, once, and it serves.
 * Method: a real stack that has no ring and no node yet, for each case.
 */
import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { expect, test } from 'vitest';
import { startSinkProcess } from '../../dev/sink/process.ts';
import { startStack } from '../../dev/stack.ts';
import { seededSource } from '../../dev/traffic/source.ts';
import { startTraffic } from '../../dev/traffic/traffic.ts';
import { dataRoot } from '../../platform/local/places.ts';
import { readRing } from '../../ringstore/ringstore.ts';
import { cancelUpdate, type OperationProgress, scaleWorkflowId, TASK_QUEUE_DEFAULT } from '../../workflows/messages.ts';
import { expectFlawless } from '../e2e/cluster.ts';
import { judgeTraffic } from '../e2e/judge.ts';
import { until } from '../support/wait.ts';
import { type Act, pointsOf } from './plan.ts';
import { openStops } from './stops.ts';

const CASES = pointsOf('make ring').flatMap((point) =>
  (['kill', 'cancel'] as const).map((act): [Act, typeof point] => [act, point]),
);

test.each(CASES)('%s at %s', async (act, point) => {
  const dataFolder = path.join(dataRoot(), `test-${process.pid}-${randomBytes(4).toString('hex')}`);
  const stops = await openStops();
  const sink = await startSinkProcess({ destinationMs: 5 });
  const ends: (() => Promise<unknown>)[] = [
    () => stops.close(),
    () => rm(dataFolder, { recursive: true, force: true }),
    () => sink.stop(),
  ];
  try {
    const stack = await startStack({
      dataFolder,
      destinationUrl: `${sink.url}/events`,
      withoutRing: true,
      faultPointsUrl: stops.url,
    });
    ends.push(() => stack.stop());
    const connection = await Connection.connect({ address: stack.temporal.address });
    ends.push(() => connection.close());
    const { workflow } = new Client({ connection, namespace: stack.temporal.namespace });
    const { clusterId } = stack;
    const make = () =>
      workflow.start('ScaleCluster', {
        workflowId: scaleWorkflowId(clusterId),
        taskQueue: TASK_QUEUE_DEFAULT,
        args: [{ clusterId, targetNodes: 2, reason: point, create: { partitionCount: 16 } }],
      });

    const stopping = stops.stopAt(point);
    const operation = await make();
    const stopped = await stopping;
    if (act === 'kill') {
      stack.worker.kill('SIGKILL');
      await stopped.gone;
    } else {
      await operation.executeUpdate(cancelUpdate, { args: [{ reason: point }] });
      stopped.go('on');
    }
    const ended = (await operation.result()) as OperationProgress;
    expect(ended.state).toBe(act === 'kill' ? 'completed' : 'cancelled');

    const log = await stack.ringStore.read(clusterId);
    expect(log.map(({ event }) => event.type)).toEqual(['ring made']);
    expect(((await (await make()).result()) as OperationProgress).state).toBe('nothing to do');
    const ring = await readRing(stack.ringStore, clusterId);
    expect(ring).toMatchObject({ freeze: null, moves: [], nodes: [{ node: 'node-0' }, { node: 'node-1' }] });

    const traffic = startTraffic({
      routerUrl: stack.routerUrls[0]!,
      writeKey: stack.writeKey,
      source: seededSource(1),
      rate: 200,
      seed: 1,
    });
    ends.push(() => traffic.stop());
    await until(() => traffic.acknowledged > 500, { deadlineMs: 60_000, what: 'the new ring serves' });
    expectFlawless(await judgeTraffic(traffic, sink));
  } finally {
    for (const end of ends.reverse()) await end();
  }
});
