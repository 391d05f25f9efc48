/**
 * Goal: a worker of a new version goes on with what the old one began; one that would do other things than the history says does nothing at all, until a right
 * one comes.
 * Method: Temporal's dev server, workers with build ids; the new version is the real workflows with a change planted, with and without a patch.
 */
import { Worker, type WorkerOptions, type WorkflowBundle } from '@temporalio/worker';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { bundleWith } from '../histories/planted.ts';
import { until } from '../support/wait.ts';
import { Harness, type Operation } from './harness.ts';
import { World } from './world.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await Harness.open();
});
afterAll(() => harness.close());

const file = 'scale-cluster.ts';
const VERIFY = `await op.step('verify cluster', () => verify(op));`;
const FREEZE = `await op.step('freeze ring', () => freezeRing(op));`;
/** The new version does not verify. Which way a run goes is read at its very beginning: so one that began before never changes its way. */
const patched = () =>
  bundleWith(
    {
      file,
      find: 'op.listen();',
      replace: `op.listen(); op.verifies = !require('@temporalio/workflow').patched('no-verification');`,
    },
    { file, find: VERIFY, replace: `if (op.verifies) { ${VERIFY} }` },
  );
/** The new version looks at the ring once more before it freezes it, and forgets that runs are under way. */
const unpatched = () =>
  bundleWith({
    file,
    find: FREEZE,
    replace: `await call(ring.readRing, 'look', { clusterId: op.progress.clusterId }); ${FREEZE}`,
  });

function workerOf(world: World, buildId: string, workflowBundle: WorkflowBundle): Promise<Worker> {
  const options: WorkerOptions = {
    connection: harness.env.nativeConnection,
    taskQueue: world.clusterId,
    workflowBundle,
    workerDeploymentOptions: { version: { deploymentName: 'ringmaster', buildId }, useWorkerVersioning: false },
    activities: world.activities(),
    maxHeartbeatThrottleInterval: 50,
    defaultHeartbeatThrottleInterval: 50,
  };
  return Worker.create(options);
}

/** Begun by a worker of the old version, which has gone in the middle of a move. */
async function begun(
  clusterId: string,
): Promise<{ world: World; operation: Operation; start(to: number): Promise<Operation> }> {
  const world = new World(clusterId);
  await world.make(1);
  const start = (targetNodes: number): Promise<Operation> =>
    harness.env.client.workflow.start('ScaleCluster', {
      workflowId: `scale/${clusterId}`,
      taskQueue: clusterId,
      args: [{ clusterId, reason: 'a test', targetNodes }],
    });
  const gate = world.gate('preCopy');
  const old = await workerOf(world, 'old', harness.bundle);
  const operation = await old.runUntil(async () => {
    const started = await start(2);
    await gate.arrived;
    return started;
  });
  gate.open();
  return { world, operation, start };
}

const eventsOf = async (operation: Operation) => (await operation.fetchHistory()).events ?? [];

test('a new version behind a patch goes on with what the old one began, as that would have; what begins later is done the new way', async () => {
  const { world, operation, start } = await begun('up-patched');
  const next = await workerOf(world, 'new', await patched());
  await next.runUntil(async () => {
    expect(await operation.result()).toMatchObject({ state: 'completed', to: 2 });
    expect(world.calls).toContain('verifyCluster');
    const builds = (await eventsOf(operation)).flatMap(({ workflowTaskCompletedEventAttributes: done }) =>
      done ? [done.deploymentVersion?.buildId ?? done.workerVersion?.buildId] : [],
    );
    expect([builds[0], builds.at(-1)]).toEqual(['old', 'new']);

    world.calls.length = 0;
    expect(await (await start(3)).result()).toMatchObject({ state: 'completed', to: 3 });
    expect(world.calls).not.toContain('verifyCluster');
  });
});

test('a new version without the patch that it needs changes nothing: the operation stands still until a right one comes', async () => {
  const { world, operation } = await begun('up-unpatched');
  const wrong = await workerOf(world, 'wrong', await unpatched());
  await wrong.runUntil(() =>
    until(async () => (await eventsOf(operation)).some((event) => event.workflowTaskFailedEventAttributes), {
      deadlineMs: 30_000,
      what: 'the wrong version fails its first task',
    }),
  );
  expect((await operation.describe()).status.name).toBe('RUNNING');
  expect((await world.ring()).freeze?.runId).toBe(operation.firstExecutionRunId);

  const right = await workerOf(world, 'right', harness.bundle);
  await right.runUntil(async () => {
    expect(await operation.result()).toMatchObject({ state: 'completed', to: 2 });
  });
  expect(world.calls).toContain('verifyCluster');
});
