/**
 * Goal: ScaleCluster does what README and ARCHITECTURE.md say, also when it is paused, blocked, cancelled, or finds what another run left behind.
 * Method: a real Temporal server, the real workflows, ring, pod and verify activities; nodes and copies are played (world.ts).
 */
import { WorkflowFailedError } from '@temporalio/client';
import { type ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { summarizeRing } from '../../activities/log-views.ts';
import { nodeNames, planMoves } from '../../ring/plan.ts';
import {
  cancelUpdate,
  pauseUpdate,
  resumeUpdate,
  retryUpdate,
  type ScaleInput,
  searchAttributes,
} from '../../workflows/messages.ts';
import { expandRing } from '../../workflows/ring-summary.ts';
import { until } from '../support/wait.ts';
import { Harness, type Operation } from './harness.ts';
import { isLeftInOrder } from './in-order.ts';
import { refusal } from './world.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await Harness.open();
});
afterAll(() => harness?.close());

async function failureOf(operation: Operation): Promise<ApplicationFailure> {
  const error = await operation.result().then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(WorkflowFailedError);
  return (error as WorkflowFailedError).cause as ApplicationFailure;
}

describe('a scale operation', () => {
  test('scales up: nodes join, partitions move until sizes are even, the ring is unfrozen', () =>
    harness.run(2, async ({ world, scale }) => {
      const ended = await scale(4);
      expect(ended).toMatchObject({
        state: 'completed',
        from: 2,
        to: 4,
        nodesAdded: ['node-2', 'node-3'],
        partitionsMoved: 8,
        blockedOn: null,
      });
      expect(ended.moves.every(({ state, tries }) => state === 'done' && tries === 1)).toBe(true);
      expect(ended.jobsMoved).toBe(10 * ended.moves.length);
      expect(Object.keys(ended.phasesMs).sort()).toEqual(
        [
          'add nodes',
          'freeze ring',
          'move partitions',
          'plan',
          'remove nodes',
          'unfreeze ring',
          'verify cluster',
        ].sort(),
      );
      expect(await world.sizes()).toEqual({ 'node-0': 4, 'node-1': 4, 'node-2': 4, 'node-3': 4 });
      await isLeftInOrder(world);
    }));

  test('with deleteVolumes the data of nodes that leave is deleted; else it is kept', () =>
    harness.run(4, async ({ world, scale }) => {
      await scale(3);
      await scale(2, { deleteVolumes: true });
      expect(world.removedPods).toEqual(['node-3', 'node-2, data deleted']);
    }));

  test('a node that comes back with pending jobs in its database does not join; emptied, it does', () =>
    harness.run(2, async ({ world, start, shows }) => {
      world.pendingJobs.set('node-2', 5);
      const operation = await start({ targetNodes: 3 });
      const blocked = await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      expect(blocked.blockedOn).toMatchObject({ code: 'NODE_HAS_JOBS', phase: 'add nodes' });
      expect(blocked.blockedOn?.message).toContain('holds 5 pending jobs from an earlier life');
      expect(await world.types()).not.toContain('node joined');
      world.pendingJobs.delete('node-2');
      await operation.executeUpdate(resumeUpdate, { args: [{}] });
      expect(await operation.result()).toMatchObject({ state: 'completed', partitionsMoved: 5 });
      await isLeftInOrder(world);
    }));

  test('nodes that somebody added by hand above the one that leaves are removed first, their data kept, and it is told', () =>
    harness.run(3, async ({ world, scale }) => {
      world.pods.add('node-3').add('node-4');
      const ended = await scale(2, { deleteVolumes: true });
      expect(world.removedPods).toEqual(['node-4', 'node-3', 'node-2, data deleted']);
      expect(ended.notes).toEqual([
        'node-4, node-3 had been added by hand and were no members: removed, their volumes kept',
      ]);
      await isLeftInOrder(world);
    }));

  test('scales down: the highest ordinals are emptied, verified empty, and removed', () =>
    harness.run(4, async ({ world, scale }) => {
      const ended = await scale(2);
      expect(ended).toMatchObject({ state: 'completed', nodesRemoved: ['node-2', 'node-3'], partitionsMoved: 8 });
      expect(world.removedPods).toEqual(['node-3', 'node-2']);
      expect(await world.sizes()).toEqual({ 'node-0': 8, 'node-1': 8 });
      await isLeftInOrder(world);
    }));

  test('takes the goal in its long form, and says for each move why', () =>
    harness.run(1, async ({ start }) => {
      const operation = await start({ goal: { kind: 'scale', nodes: 2 } });
      const { moves } = await operation.result();
      expect(moves.map(({ because }) => because)).toEqual(moves.map(() => 'node-1 joins'));
    }));

  test('has nothing to do where the nodes are as wanted and the ring is balanced, and touches nothing', () =>
    harness.run(2, async ({ world, scale }) => {
      const before = await world.events();
      expect(await scale(2)).toMatchObject({ state: 'nothing to do', moves: [] });
      expect(await world.events()).toEqual(before);
    }));

  test('balances a ring whose nodes are as wanted and whose sizes are not', () =>
    harness.run(1, async ({ world, scale }) => {
      await world.append({ type: 'freeze', by: { operationId: 'x', workflowId: 'x', runId: 'x' } });
      await world.append({
        type: 'join node',
        holder: 1,
        facts: { node: 'node-1', databaseId: 'db-node-1', url: 'http://node-1.test' },
      });
      await world.append({ type: 'unfreeze', holder: 1 });
      world.pods.add('node-1');
      expect(await scale(2)).toMatchObject({ state: 'completed', partitionsMoved: 8, nodesAdded: [] });
    }));

  test('shows in search attributes and in the details of Temporal’s page what it does', () =>
    harness.run(2, async ({ world, start, clusterId }) => {
      const gate = world.gate('preCopy');
      const operation = await start({ targetNodes: 3 });
      await gate.arrived;
      const seen = (await operation.describe()).typedSearchAttributes;
      expect(seen.get(searchAttributes.cluster)).toBe(clusterId);
      expect(seen.get(searchAttributes.state)).toBe('running');
      const metadata = await operation.query<{ currentDetails?: string }>('__temporal_workflow_metadata');
      expect(metadata.currentDetails).toContain(`${clusterId}: 2 → 3 nodes`);
      gate.open();
      await operation.result();
      expect((await operation.describe()).typedSearchAttributes.get(searchAttributes.state)).toBe('completed');
    }));

  test('moves never more than one batch at a node at a time, and several where nodes differ', () =>
    harness.run(2, async ({ world, scale }) => {
      const moving = new Map<string, number>();
      const count = (node: string, by: number) => moving.set(node, (moving.get(node) ?? 0) + by);
      // Seen here and judged below: what an activity throws is only tried again.
      let atOneNode = 0;
      let nodes = 0;
      world.cutOver = async ({ from, to }) => {
        for (const node of [from, to]) count(node, 1);
        atOneNode = Math.max(atOneNode, ...moving.values());
        nodes = Math.max(nodes, [...moving.values()].filter((moves) => moves > 0).length);
        await new Promise((resolve) => setTimeout(resolve, 200));
        for (const node of [from, to]) count(node, -1);
        return 'hand over' as const;
      };
      const { moves } = await scale(4, { partitionsPerMoveMax: 1 });
      expect(moves).toHaveLength(8);
      expect({ atOneNode, nodes }).toEqual({ atOneNode: 1, nodes: 4 });
    }));

  test.each([
    ['one run', {}],
    ['runs that continue as new', { continueAsNewAfterEvents: 20 }],
  ])("moves as many batches at a node at a time as the cluster's limit says, in %s", (_what, input) =>
    harness.run(1, async ({ world, start }) => {
      await world.append({ type: 'set limits', change: { movesPerNode: 2 } });
      let atOnce = 0;
      const seen: number[] = [];
      world.cutOver = async () => {
        atOnce += 1;
        await new Promise((resolve) => setTimeout(resolve, 300));
        seen.push(atOnce);
        atOnce -= 1;
        return 'hand over' as const;
      };
      await (await start({ targetNodes: 2, partitionsPerMoveMax: 1, ...input })).result();
      expect(seen).toHaveLength(8);
      expect(Math.max(...seen)).toBe(2);
      expect(seen.filter((count) => count === 2).length).toBeGreaterThan(2);
    }),
  );
});

describe('a bad input ends with one code, and nothing has changed', () => {
  const cases: [string, Partial<ScaleInput> | null, string, string?][] = [
    ['no input at all', null, 'INPUT_INVALID'],
    ['a cluster id with other letters', { clusterId: 'Demo!', targetNodes: 2 }, 'INPUT_INVALID'],
    ['no number of nodes', {}, 'TARGET_NODES_INVALID'],
    ['zero nodes', { targetNodes: 0 }, 'TARGET_NODES_INVALID'],
    ['half a node', { targetNodes: 2.5 }, 'TARGET_NODES_INVALID'],
    ['a number as text', { targetNodes: '3' as unknown as number }, 'TARGET_NODES_INVALID'],
    ['more nodes than the limit', { targetNodes: 1001 }, 'TARGET_NODES_INVALID'],
    ['more nodes than partitions', { targetNodes: 17 }, 'TARGET_NODES_INVALID'],
    [
      'a goal that is not known',
      { goal: { kind: 'fly' } as unknown as { kind: 'scale'; nodes: number } },
      'INPUT_INVALID',
    ],
    ['both forms of the goal', { targetNodes: 3, goal: { kind: 'scale', nodes: 4 } }, 'INPUT_INVALID'],
    ['a batch of no partitions', { targetNodes: 3, partitionsPerMoveMax: 0 }, 'INPUT_INVALID'],
    ['a plan that was not approved', { targetNodes: 3, planHash: 'other' }, 'PLAN_CHANGED'],
    ['another workflow id', { targetNodes: 3 }, 'WORKFLOW_ID', 'my-own-id'],
  ];
  test.each(cases)('%s', (_, input, code, workflowId) =>
    harness.run(2, async ({ world, start, clusterId }) => {
      const before = await world.events();
      const operation = await start(input, workflowId ? `${workflowId}-${clusterId}` : undefined);
      expect(await failureOf(operation)).toMatchObject({ type: code, nonRetryable: true });
      expect(await world.events()).toEqual(before);
    }),
  );

  test('a cluster that does not exist', () =>
    harness.run(0, async ({ start }) => {
      expect(await failureOf(await start({ targetNodes: 3 }))).toMatchObject({ type: 'CLUSTER_UNKNOWN' });
    }));

  test('a plan that changed between its approval and the freeze leaves the ring unfrozen', () =>
    harness.run(2, async ({ world, start }) => {
      const approved = planMoves(expandRing(summarizeRing(await world.ring())), nodeNames(3)).hash;
      world.before.set('freeze', async () => {
        world.before.delete('freeze');
        const by = { operationId: 'x', workflowId: 'x', runId: 'x' };
        const { ring } = await world.append({ type: 'freeze', by });
        const facts = { node: 'node-2', databaseId: 'db-node-2', url: 'http://node-2.test' };
        await world.append({ type: 'join node', holder: ring.freeze!.holder, facts });
        await world.append({ type: 'unfreeze', holder: ring.freeze!.holder });
      });
      const failure = await failureOf(await start({ targetNodes: 3, planHash: approved }));
      expect(failure.type).toBe('PLAN_CHANGED');
      expect((await world.ring()).freeze).toBeNull();
    }));

  test('an approved plan is carried out', () =>
    harness.run(2, async ({ world, scale }) => {
      const approved = planMoves(await world.ring(), nodeNames(3)).hash;
      expect(await scale(3, { planHash: approved })).toMatchObject({ state: 'completed', planHash: approved });
    }));

  test('a second operation while one runs is refused by Temporal: the workflow id is taken', () =>
    harness.run(2, async ({ world, start }) => {
      const gate = world.gate('preCopy');
      const first = await start({ targetNodes: 3 });
      await gate.arrived;
      await expect(start({ targetNodes: 4 })).rejects.toMatchObject({ name: 'WorkflowExecutionAlreadyStartedError' });
      gate.open();
      await first.result();
    }));
});

describe('a cluster without a ring', () => {
  const create = { partitionCount: 16 };

  test('is refused, unless the input says how to make one', () =>
    harness.run(0, async ({ start }) => {
      expect((await failureOf(await start({ targetNodes: 2 }))).type).toBe('CLUSTER_UNKNOWN');
    }));

  test('gets one with all its nodes; asked again there is nothing to do', () =>
    harness.run(0, async ({ world, scale }) => {
      const made = await scale(3, { create });
      expect(made).toMatchObject({ state: 'completed', to: 3, nodesAdded: ['node-0', 'node-1', 'node-2'], moves: [] });
      expect(made.notes).toEqual(['the ring was made: 16 partitions, 3 nodes']);
      expect(await world.types()).toEqual(['ring made']);
      expect(await world.sizes()).toEqual({ 'node-0': 6, 'node-1': 5, 'node-2': 5 });
      await isLeftInOrder(world);
      expect((await scale(3, { create })).state).toBe('nothing to do');
    }));

  test('gets none of nodes that hold jobs: they would count as moved', () =>
    harness.run(0, async ({ world, start, shows }) => {
      world.pendingJobs.set('node-1', 3);
      const operation = await start({ targetNodes: 2, create });
      const blocked = await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      expect(blocked.blockedOn).toMatchObject({ code: 'NODE_HAS_JOBS', phase: 'make ring' });
      expect(await world.types()).toEqual([]);
      await operation.executeUpdate(cancelUpdate, { args: [{}] });
      expect((await operation.result()).state).toBe('cancelled');
      expect(await world.types()).toEqual([]);
    }));

  test('of one node that holds jobs without a partition gets one: they are its own', () =>
    harness.run(0, async ({ world, scale }) => {
      world.pendingJobs.set('node-0', 3);
      world.unadopted.set('node-0', 3);
      expect((await scale(1, { create })).state).toBe('completed');
    }));

  test.each([
    ['of one node whose jobs have partitions of an earlier ring', 1, 2],
    ['of two nodes, one with jobs without a partition: they may be the other’s', 2, 3],
  ])('%s gets none, and it says the numbers', (_, targetNodes, unadopted) =>
    harness.run(0, async ({ world, start, shows }) => {
      world.pendingJobs.set('node-0', 3);
      world.unadopted.set('node-0', unadopted);
      const operation = await start({ targetNodes, create });
      const blocked = await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      expect(blocked.blockedOn).toMatchObject({ code: 'NODE_HAS_JOBS' });
      expect(blocked.blockedOn?.message).toContain(
        `holds 3 pending jobs from an earlier life, ${unadopted} of them without`,
      );
      await operation.executeUpdate(cancelUpdate, { args: [{}] });
      await operation.result();
      expect(await world.types()).toEqual([]);
    }),
  );

  test('of fewer partitions than nodes, or a number that is no power of two, is refused', () =>
    harness.run(0, async ({ world, start }) => {
      expect((await failureOf(await start({ targetNodes: 17, create }))).type).toBe('TARGET_NODES_INVALID');
      expect((await failureOf(await start({ targetNodes: 2, create: { partitionCount: 12 } }))).type).toBe(
        'INPUT_INVALID',
      );
      expect(await world.types()).toEqual([]);
    }));
});

describe('trouble blocks, by name, and is not a failure', () => {
  test('a node that still holds jobs is not removed; resume looks again', () =>
    harness.run(3, async ({ world, start, shows }) => {
      world.pendingJobs.set('node-2', 7);
      const operation = await start({ targetNodes: 2 });
      const blocked = await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      expect(blocked.blockedOn).toMatchObject({ code: 'NODE_NOT_EMPTY', phase: 'remove nodes' });
      expect(blocked.blockedOn?.message).toContain('node-2 still holds 7 pending jobs');
      expect(blocked.nextAction).toBe(`ringmaster resume ${operation.firstExecutionRunId}`);
      const seen = await operation.describe();
      expect(seen.typedSearchAttributes.get(searchAttributes.blockedOn)).toBe('NODE_NOT_EMPTY');
      expect(seen.typedSearchAttributes.get(searchAttributes.state)).toBe('blocked');
      expect(world.pods.has('node-2')).toBe(true);
      world.pendingJobs.delete('node-2');
      await operation.executeUpdate(resumeUpdate, { args: [{ actor: 'ada', reason: 'it drained' }] });
      expect(await operation.result()).toMatchObject({
        state: 'completed',
        blockedOn: null,
        notes: ['resumed by ada: it drained'],
      });
      expect((await operation.describe()).typedSearchAttributes.get(searchAttributes.blockedOn)).toBeUndefined();
      await isLeftInOrder(world);
    }));

  test('a node whose hand-overs are not certified is not removed, although nothing is pending there', () =>
    harness.run(3, async ({ world, clusterId, start, shows }) => {
      // A worker of an older version, which makes no certificates, completes the moves.
      world.before.set('cleanUp', async ({ move }) => {
        const { version } = await world.ring();
        const by = { actor: 'older', reason: 'test', operation: null };
        await world.store.append(clusterId, version, [{ type: 'move completed', move: move! }], by);
      });
      const operation = await start({ targetNodes: 2 });
      const blocked = await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      expect(blocked.blockedOn).toMatchObject({ code: 'CERTIFICATE_MISSING', phase: 'remove nodes' });
      expect(blocked.blockedOn?.message).toContain('/move-1.1');
      expect(world.pods.has('node-2')).toBe(true);
      expect((await world.ring()).nodes.map(({ node }) => node)).toContain('node-2');
      await operation.executeUpdate(cancelUpdate, { args: [{}] });
      expect(await operation.result()).toMatchObject({ state: 'cancelled' });
      expect(world.removedPods).toEqual([]);
      expect((await world.ring()).freeze).toBeNull();
    }));

  test('retry runs the step again, and may block again', () =>
    harness.run(2, async ({ world, start, shows }) => {
      world.before.set('ensureNode', () => Promise.reject(refusal('NODE_OTHER_DATABASE')));
      const operation = await start({ targetNodes: 3 });
      const first = await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      await operation.executeUpdate(retryUpdate, { args: [{}] });
      const second = await shows(
        operation,
        'blocked again',
        ({ blockedOn }) => blockedOn !== null && blockedOn.since !== first.blockedOn?.since,
      );
      expect(second.blockedOn).toMatchObject({ code: 'NODE_OTHER_DATABASE', phase: 'add nodes' });
      world.before.clear();
      await operation.executeUpdate(retryUpdate, { args: [{}] });
      expect((await operation.result()).state).toBe('completed');
    }));

  test('a blocked operation can be cancelled', () =>
    harness.run(2, async ({ world, start, shows }) => {
      world.before.set('waitServing', () => Promise.reject(refusal('NODE_BLOCKED')));
      const operation = await start({ targetNodes: 3 });
      await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      await operation.executeUpdate(cancelUpdate, { args: [{}] });
      const ended = await operation.result();
      expect(ended).toMatchObject({ state: 'cancelled', blockedOn: null });
      expect(ended.notes.at(-1)).toBe('node-2 was removed again: it owned nothing');
      expect(await world.sizes()).toEqual({ 'node-0': 8, 'node-1': 8 });
      await isLeftInOrder(world);
    }));

  test('a ring that cannot be unfrozen blocks too, and has an exit', () =>
    harness.run(2, async ({ world, start, shows }) => {
      world.before.set('unfreeze', () => Promise.reject(refusal('RING_TOO_NEW')));
      const operation = await start({ targetNodes: 3 });
      const blocked = await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      expect(blocked.blockedOn).toMatchObject({ code: 'RING_TOO_NEW', phase: 'unfreeze ring' });
      await expect(operation.executeUpdate(cancelUpdate, { args: [{}] })).rejects.toMatchObject({
        cause: { type: 'OPERATION_ENDING' },
      });
      world.before.clear();
      await operation.executeUpdate(retryUpdate, { args: [{}] });
      expect((await operation.result()).state).toBe('completed');
      await isLeftInOrder(world);
    }));

  test('a proof that is missing blocks before anything is removed', () =>
    harness.run(3, async ({ world, start, shows }) => {
      world.before.set('verifyCluster', () => Promise.reject(refusal('VERIFY_MISMATCH')));
      const operation = await start({ targetNodes: 2 });
      await shows(
        operation,
        'blocked',
        ({ blockedOn }) => blockedOn?.code === 'VERIFY_MISMATCH' && blockedOn.phase === 'verify cluster',
      );
      expect(world.removedPods).toEqual([]);
      world.before.clear();
      await operation.executeUpdate(resumeUpdate, { args: [{}] });
      await operation.result();
    }));

  test('an operation that waits for nobody refuses resume and retry', () =>
    harness.run(2, async ({ world, start }) => {
      const gate = world.gate('preCopy');
      const operation = await start({ targetNodes: 3 });
      await gate.arrived;
      for (const update of [resumeUpdate, retryUpdate]) {
        await expect(operation.executeUpdate(update, { args: [{}] })).rejects.toMatchObject({
          cause: { type: 'OPERATION_NOT_WAITING' },
        });
      }
      gate.open();
      await operation.result();
    }));
});

describe('pause', () => {
  test('lets moves that run finish, starts no further one, and resume goes on', () =>
    harness.run(1, async ({ world, start, shows }) => {
      const gate = world.gate('preCopy');
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 2 });
      await gate.arrived;
      const paused = await operation.executeUpdate(pauseUpdate, { args: [{ actor: 'ada' }] });
      expect(paused).toMatchObject({
        state: 'paused',
        nextAction: `ringmaster resume ${operation.firstExecutionRunId}`,
      });
      gate.open();
      await shows(operation, 'the move under way is done', ({ partitionsMoved }) => partitionsMoved === 2);
      await new Promise((resolve) => setTimeout(resolve, 500)); // nothing to wait on: that something does not happen
      expect(world.calls.filter((name) => name === 'preCopy')).toHaveLength(1);
      await operation.executeUpdate(resumeUpdate, { args: [{}] });
      expect(await operation.result()).toMatchObject({ state: 'completed', partitionsMoved: 8 });
    }));
});

describe('cancel', () => {
  test('before the hand-over: the move is aborted, nodes that own nothing go again, the ring is as it was', () =>
    harness.run(2, async ({ world, start }) => {
      const owners = (await world.ring()).owners;
      const gate = world.gate('preCopy');
      const operation = await start({ targetNodes: 4 });
      await gate.arrived;
      const answer = await operation.executeUpdate(cancelUpdate, { args: [{ actor: 'ada' }] });
      expect(answer.state).toBe('cancelling');
      const ended = await operation.result();
      expect(ended).toMatchObject({ state: 'cancelled', partitionsMoved: 0 });
      expect((await world.ring()).owners).toEqual(owners);
      expect(await world.types()).toContain('move aborted');
      await isLeftInOrder(world);
    }));

  test('after the hand-over: the move finishes, the target keeps what it owns, no further move starts', () =>
    harness.run(1, async ({ world, start }) => {
      const gate = world.gate('cleanUp');
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 2 });
      await gate.arrived;
      await operation.executeUpdate(cancelUpdate, { args: [{}] });
      gate.open();
      const ended = await operation.result();
      expect(ended).toMatchObject({ state: 'cancelled', partitionsMoved: 2 });
      expect(await world.sizes()).toEqual({ 'node-0': 14, 'node-1': 2 });
      expect((await world.types()).filter((type) => type === 'move started')).toHaveLength(1);
      expect((await world.types()).filter((type) => type === 'move completed')).toHaveLength(1);
      await isLeftInOrder(world);
    }));

  test('while the hand-over wins the race against the abort: forward', () =>
    harness.run(1, async ({ world, start }) => {
      // The answer of the cut-over is lost to the cancellation, its append is not.
      let handedOver = () => {};
      const arrived = new Promise<void>((resolve) => {
        handedOver = resolve;
      });
      const real = world.activities().cutOver;
      world.before.set('cutOver', async (input) => {
        world.before.delete('cutOver');
        await real(input as Parameters<typeof real>[0]);
        world.gate('cutOver');
        handedOver();
        await world.before.get('cutOver')?.(input);
      });
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 8 });
      await arrived;
      await operation.executeUpdate(cancelUpdate, { args: [{}] });
      expect(await operation.result()).toMatchObject({ state: 'cancelled', partitionsMoved: 8 });
      expect((await world.types()).slice(-2)).toEqual(['move completed', 'ring unfrozen']);
      await isLeftInOrder(world);
    }));

  test('by Temporal’s own request: the same, and Temporal shows the run as cancelled', () =>
    harness.run(2, async ({ world, start, progress }) => {
      const gate = world.gate('preCopy');
      const operation = await start({ targetNodes: 3 });
      await gate.arrived;
      await operation.cancel();
      await expect(operation.result()).rejects.toMatchObject({ cause: expect.any(CancelledFailure) });
      expect((await progress(operation)).state).toBe('cancelled');
      expect((await operation.describe()).status.name).toBe('CANCELLED');
      await isLeftInOrder(world);
    }));

  test('while nodes start: they are removed again, and their data is left where it was, whatever was asked', () =>
    harness.run(2, async ({ world, start }) => {
      world.pods.add('node-2');
      const gate = world.gate('ensureNode');
      const operation = await start({ targetNodes: 3, deleteVolumes: true });
      await gate.arrived;
      await operation.executeUpdate(cancelUpdate, { args: [{}] });
      expect((await operation.result()).state).toBe('cancelled');
      expect(world.removedPods).toEqual(['node-2']);
      await isLeftInOrder(world);
    }));
});

describe('a frozen ring', () => {
  test('of a run that was terminated is taken over: its started move is aborted, its handed-over one completed', () =>
    harness.run(4, async ({ world, start, scale }) => {
      const gate = world.gate('cleanUp');
      const operation = await start({ targetNodes: 2 });
      await gate.arrived;
      await until(async () => (await world.ring()).moves.length === 2, { deadlineMs: 10_000, what: 'two moves' });
      await operation.terminate('a test');
      world.before.clear();
      // What REQUEST_CANCEL lets its children still do must not matter: whoever comes first ends the moves.
      const ended = await scale(3);
      expect(ended.state).toBe('completed');
      expect(ended.notes[0]).toBe(
        `the freeze of operation ${operation.firstExecutionRunId} was taken over: its run is gone: ${operation.workflowId} is another run by now`,
      );
      expect(await world.types()).toContain('freeze taken over');
      await isLeftInOrder(world);
    }));

  test('of a workflow that Temporal does not know is taken over, and what it left open is ended', () =>
    harness.run(3, async ({ world, scale }) => {
      await world.append({
        type: 'freeze',
        by: { operationId: 'gone', workflowId: 'scale/gone', runId: '11111111-1111-4111-8111-111111111111' },
      });
      const [first = 0, second = 1] = (await world.ring()).owners.flatMap((owner, partition) =>
        owner === 'node-0' ? [partition] : [],
      );
      await world.append({
        type: 'start move',
        holder: 1,
        move: 'gone/move-1.1',
        from: 'node-0',
        to: 'node-1',
        partitions: [first],
      });
      await world.append({
        type: 'start move',
        holder: 1,
        move: 'gone/move-2.1',
        from: 'node-0',
        to: 'node-1',
        partitions: [second],
      });
      const { ring } = await world.append({ type: 'claim move', holder: 1, move: 'gone/move-2.1', attempt: 'x' });
      await world.append({
        type: 'hand over',
        move: 'gone/move-2.1',
        token: ring.version,
        proof: { jobsPending: 0, jobsCopied: 0, prefixes: [] },
      });
      const ended = await scale(2);
      expect(ended.notes).toEqual([
        'the freeze of operation gone was taken over: its run is unknown to Temporal',
        'move gone/move-1.1, left open, was aborted',
        'move gone/move-2.1, left open, was completed',
      ]);
      expect(await world.sizes()).toEqual({ 'node-0': 8, 'node-1': 8 });
      await isLeftInOrder(world);
    }));

  test('of a run that goes on is not: RING_BUSY', () =>
    harness.run(2, async ({ world, start, shows }) => {
      await world.append({ type: 'freeze', by: { operationId: 'other', workflowId: 'w', runId: 'r' } });
      world.holders = { endOf: async () => null };
      const operation = await start({ targetNodes: 3 });
      const blocked = await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      expect(blocked.blockedOn).toMatchObject({ code: 'RING_BUSY', phase: 'freeze ring' });
      await operation.executeUpdate(cancelUpdate, { args: [{}] });
      expect((await operation.result()).state).toBe('cancelled');
      expect((await world.ring()).freeze?.operationId).toBe('other');
    }));
});

describe('a long operation', () => {
  test('continues as new between moves, keeps its id and its ring, and ends as one', () =>
    harness.run(1, async ({ world, start }) => {
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 1, continueAsNewAfterEvents: 60 });
      const ended = await operation.result();
      expect(ended).toMatchObject({
        state: 'completed',
        partitionsMoved: 8,
        operationId: operation.firstExecutionRunId,
      });
      expect((await harness.env.client.workflow.getHandle(operation.workflowId).describe()).runId).not.toBe(
        operation.firstExecutionRunId,
      );
      expect((await world.types()).filter((type) => type === 'ring frozen')).toHaveLength(1);
      await isLeftInOrder(world);
    }));
});
