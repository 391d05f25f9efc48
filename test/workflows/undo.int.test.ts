/**
 * Goal: `undo` takes an operation back, from every state of it and after it, and leaves a valid ring that nobody holds.
 * Method: a real Temporal server, the real workflows, ring, pod and verify activities; nodes and copies are played (world.ts).
 */
import { WorkflowFailedError } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { cancelUpdate, pauseUpdate, resumeUpdate, retryUpdate, undoUpdate } from '../../workflows/messages.ts';
import { Harness } from './harness.ts';
import { isLeftInOrder } from './in-order.ts';
import { refusal, type World } from './world.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await Harness.open();
});
afterAll(() => harness?.close());

/** Lets `moves` cut-overs pass; the next waits at the gate. */
function gateAfter(world: World, moves: number): ReturnType<World['gate']> {
  const gate = world.gate('cutOver');
  const wait = world.before.get('cutOver')!;
  let passed = 0;
  world.before.set('cutOver', (input) => {
    passed += 1;
    return passed > moves ? wait(input) : undefined;
  });
  return gate;
}

describe('undo during a run', () => {
  test('aborts what is not handed over, moves back what is, removes what was added; the ring is held all the while', () =>
    harness.run(1, async ({ world, start }) => {
      const owners = (await world.ring()).owners;
      const gate = gateAfter(world, 2);
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 2 });
      await gate.arrived;
      const answer = await operation.executeUpdate(undoUpdate, { args: [{ actor: 'ada', reason: 'a mistake' }] });
      expect(answer.state).toBe('undoing');
      world.before.clear();
      const ended = await operation.result();
      expect(ended).toMatchObject({ state: 'undone', partitionsToMove: 4, partitionsMoved: 4, blockedOn: null });
      expect(ended.notes).toEqual(['undo was asked for by ada: a mistake', 'undo: 4 partitions go back in 2 moves']);
      expect(ended.moves.map(({ n, state }) => [n, state])).toEqual([
        [1, 'done'],
        [2, 'done'],
        [3, 'aborted'],
        [4, 'aborted'],
        [5, 'done'],
        [6, 'done'],
      ]);
      expect((await world.ring()).owners).toEqual(owners);
      expect((await world.types()).filter((type) => type === 'ring frozen')).toHaveLength(1);
      expect(world.removedPods).toEqual(['node-1']);
      await isLeftInOrder(world);
    }));

  test('of a blocked scale-down: nodes that were removed come back first', () =>
    harness.run(4, async ({ world, start, shows }) => {
      const owners = (await world.ring()).owners;
      world.pendingJobs.set('node-2', 3);
      const operation = await start({ targetNodes: 2 });
      await shows(operation, 'blocked', ({ blockedOn }) => blockedOn?.phase === 'remove nodes');
      expect(world.pods.has('node-3')).toBe(false);
      await operation.executeUpdate(undoUpdate, { args: [{}] });
      expect(await operation.result()).toMatchObject({ state: 'undone', nodesAdded: ['node-3'], nodesRemoved: [] });
      expect((await world.ring()).owners).toEqual(owners);
      await isLeftInOrder(world);
    }));

  test.each([
    ['paused', pauseUpdate],
    ['being cancelled', cancelUpdate],
  ])('of one that is %s', (_what, update) =>
    harness.run(1, async ({ world, start }) => {
      // The hand-over of the first move is under way: it is waited for.
      const cleanUp = world.gate('cleanUp');
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 4 });
      await cleanUp.arrived;
      await operation.executeUpdate(update, { args: [{}] });
      expect((await operation.executeUpdate(undoUpdate, { args: [{}] })).state).toBe('undoing');
      cleanUp.open();
      expect(await operation.result()).toMatchObject({ state: 'undone', partitionsMoved: 4 });
      expect(await world.sizes()).toEqual({ 'node-0': 16 });
      await isLeftInOrder(world);
    }),
  );

  test('of one that Temporal was asked to cancel: it is undone all the same', () =>
    harness.run(1, async ({ world, start, shows }) => {
      const cleanUp = world.gate('cleanUp');
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 4 });
      await cleanUp.arrived;
      await operation.cancel();
      await shows(operation, 'cancelling', ({ state }) => state === 'cancelling');
      await operation.executeUpdate(undoUpdate, { args: [{}] });
      cleanUp.open();
      expect(await operation.result()).toMatchObject({ state: 'undone' });
      expect(await world.sizes()).toEqual({ 'node-0': 16 });
      await isLeftInOrder(world);
    }));

  test('of one that waits for a ring that another holds: nothing was done, nothing is to be undone', () =>
    harness.run(2, async ({ world, start, shows }) => {
      await world.append({ type: 'freeze', by: { operationId: 'other', workflowId: 'w', runId: 'r' } });
      world.holders = { endOf: async () => null };
      const operation = await start({ targetNodes: 3 });
      await shows(operation, 'blocked', ({ blockedOn }) => blockedOn?.code === 'RING_BUSY');
      await operation.executeUpdate(undoUpdate, { args: [{}] });
      expect(await operation.result()).toMatchObject({ state: 'undone', partitionsMoved: 0 });
      expect((await world.ring()).freeze?.operationId).toBe('other');
    }));

  test('can block as the way forward can, and retry goes on', () =>
    harness.run(1, async ({ world, start, shows }) => {
      const gate = gateAfter(world, 1);
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 2 });
      await gate.arrived;
      world.before.set('planUndo', () => Promise.reject(refusal('RING_TOO_NEW')));
      await operation.executeUpdate(undoUpdate, { args: [{}] });
      gate.open();
      await shows(operation, 'blocked', ({ state, phase }) => state === 'blocked' && phase === 'plan');
      world.before.clear();
      await operation.executeUpdate(retryUpdate, { args: [{}] });
      expect(await operation.result()).toMatchObject({ state: 'undone' });
      expect(await world.sizes()).toEqual({ 'node-0': 16 });
      await isLeftInOrder(world);
    }));

  test('can be paused and resumed', () =>
    harness.run(1, async ({ world, start, shows }) => {
      const gate = gateAfter(world, 2);
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 2 });
      await gate.arrived;
      const back = world.gate('preCopy');
      await operation.executeUpdate(undoUpdate, { args: [{}] });
      world.before.delete('cutOver');
      await back.arrived;
      await operation.executeUpdate(pauseUpdate, { args: [{}] });
      back.open();
      await shows(operation, 'the move under way is done', ({ partitionsMoved }) => partitionsMoved === 2);
      expect(await shows(operation, 'paused', ({ state }) => state === 'paused')).toMatchObject({
        partitionsToMove: 4,
      });
      expect((await operation.executeUpdate(resumeUpdate, { args: [{}] })).state).toBe('undoing');
      expect(await operation.result()).toMatchObject({ state: 'undone', partitionsMoved: 4 });
      await isLeftInOrder(world);
    }));

  test('can be cancelled: what is not back stays where it is, the ring is valid and unfrozen', () =>
    harness.run(1, async ({ world, start }) => {
      const gate = gateAfter(world, 2);
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 2 });
      await gate.arrived;
      const back = world.gate('preCopy');
      await operation.executeUpdate(undoUpdate, { args: [{}] });
      world.before.delete('cutOver');
      await back.arrived;
      expect((await operation.executeUpdate(cancelUpdate, { args: [{}] })).state).toBe('cancelling');
      expect(await operation.result()).toMatchObject({ state: 'cancelled', partitionsMoved: 0 });
      expect(await world.sizes()).toEqual({ 'node-0': 12, 'node-1': 4 });
      await isLeftInOrder(world);
    }));

  test('asked for and then cancelled before it began is a cancel', () =>
    harness.run(1, async ({ world, start }) => {
      const cleanUp = world.gate('cleanUp');
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 4 });
      await cleanUp.arrived;
      await operation.executeUpdate(undoUpdate, { args: [{}] });
      expect((await operation.executeUpdate(cancelUpdate, { args: [{}] })).state).toBe('cancelling');
      cleanUp.open();
      expect(await operation.result()).toMatchObject({ state: 'cancelled', partitionsMoved: 4 });
      expect(await world.sizes()).toEqual({ 'node-0': 12, 'node-1': 4 });
      await isLeftInOrder(world);
    }));

  test('goes on as new where the history is long', () =>
    harness.run(1, async ({ world, start, progress }) => {
      const gate = gateAfter(world, 6);
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 1, continueAsNewAfterEvents: 60 });
      await gate.arrived;
      const runId = (await harness.env.client.workflow.getHandle(operation.workflowId).describe()).runId;
      const latest = harness.env.client.workflow.getHandle(operation.workflowId);
      await latest.executeUpdate(undoUpdate, { args: [{}] });
      world.before.clear();
      const ended = await operation.result();
      expect(ended).toMatchObject({ state: 'undone', operationId: operation.firstExecutionRunId, partitionsMoved: 6 });
      expect((await progress(operation)).operationId).toBe(operation.firstExecutionRunId);
      expect((await latest.describe()).runId).not.toBe(runId);
      expect(await world.sizes()).toEqual({ 'node-0': 16 });
      await isLeftInOrder(world);
    }));

  test('a move that is handed over and not certified is completed before its partitions go back', () =>
    harness.run(1, async ({ world, start, shows }) => {
      world.before.set('cleanUp', () => Promise.reject(refusal('CERTIFICATE_MISMATCH')));
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 8 });
      await shows(operation, 'blocked', ({ blockedOn }) => blockedOn?.code === 'CERTIFICATE_MISMATCH');
      await operation.executeUpdate(undoUpdate, { args: [{}] });
      const again = await shows(operation, 'blocked again', ({ state }) => state === 'blocked');
      expect(again.blockedOn).toMatchObject({ code: 'CERTIFICATE_MISMATCH', phase: 'move partitions' });
      expect((await world.types()).filter((type) => type === 'move started')).toHaveLength(1);
      world.before.clear();
      await operation.executeUpdate(retryUpdate, { args: [{}] });
      expect(await operation.result()).toMatchObject({ state: 'undone' });
      expect(await world.sizes()).toEqual({ 'node-0': 16 });
      await isLeftInOrder(world);
    }));

  test('is too late once the ring is being unfrozen', () =>
    harness.run(2, async ({ world, start, shows }) => {
      world.before.set('unfreeze', () => Promise.reject(refusal('RING_TOO_NEW')));
      const operation = await start({ targetNodes: 3 });
      await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      await expect(operation.executeUpdate(undoUpdate, { args: [{}] })).rejects.toMatchObject({
        cause: { type: 'OPERATION_ENDING' },
      });
      world.before.clear();
      await operation.executeUpdate(retryUpdate, { args: [{}] });
      expect((await operation.result()).state).toBe('completed');
    }));
});

describe('undo after a run, as an operation of its own', () => {
  test('of a scale-up, and of that undo', () =>
    harness.run(2, async ({ world, start, scale }) => {
      const before = await world.sizes();
      const up = await scale(4);
      const forward = (await world.ring()).owners;
      const back = await (await start({ goal: { kind: 'undo', operation: up.operationId } })).result();
      expect(back).toMatchObject({
        state: 'completed',
        goal: { kind: 'undo', operation: up.operationId },
        from: 4,
        to: 2,
        partitionsMoved: 8,
        nodesRemoved: ['node-2', 'node-3'],
      });
      expect(await world.sizes()).toEqual(before);
      expect(world.removedPods).toEqual(['node-3', 'node-2']);
      await isLeftInOrder(world);
      await (await start({ goal: { kind: 'undo', operation: back.operationId } })).result();
      expect((await world.ring()).owners).toEqual(forward);
      await isLeftInOrder(world);
    }));

  test('of a cancelled one: what it had moved by then', () =>
    harness.run(1, async ({ world, start }) => {
      const gate = gateAfter(world, 1);
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 2 });
      await gate.arrived;
      await operation.executeUpdate(cancelUpdate, { args: [{}] });
      await operation.result();
      world.before.clear();
      expect(await world.sizes()).toEqual({ 'node-0': 14, 'node-1': 2 });
      const goal = { kind: 'undo', operation: operation.firstExecutionRunId } as const;
      expect(await (await start({ goal })).result()).toMatchObject({ state: 'completed', partitionsMoved: 2 });
      expect(await world.sizes()).toEqual({ 'node-0': 16 });
      expect(await (await start({ goal })).result()).toMatchObject({ state: 'nothing to do' });
      await isLeftInOrder(world);
    }));

  test.each([
    ['an operation that the log does not know', 'OPERATION_UNKNOWN', { kind: 'undo', operation: 'nobody' }],
    ['no operation', 'INPUT_INVALID', { kind: 'undo' }],
    ['what is no id', 'INPUT_INVALID', { kind: 'undo', operation: "x'; --" }],
  ])('of %s ends with %s, and nothing has changed', (_what, code, goal) =>
    harness.run(2, async ({ world, start }) => {
      const before = await world.events();
      const failed = (await start({ goal: goal as never })).result();
      await expect(failed).rejects.toBeInstanceOf(WorkflowFailedError);
      await expect(failed).rejects.toMatchObject({ cause: { type: code } });
      expect(await world.events()).toEqual(before);
    }),
  );

  test('of one whose partitions have moved on is refused, and says what to undo first', () =>
    harness.run(2, async ({ world, start, scale }) => {
      const up = await scale(4);
      const down = await scale(3);
      const before = await world.events();
      await expect((await start({ goal: { kind: 'undo', operation: up.operationId } })).result()).rejects.toMatchObject(
        {
          cause: { type: 'UNDO_OUT_OF_ORDER', message: expect.stringContaining(down.operationId) },
        },
      );
      expect(await world.events()).toEqual(before);
    }));

  test('only the plan that was approved is carried out', () =>
    harness.run(2, async ({ start, scale }) => {
      const up = await scale(3);
      const goal = { kind: 'undo', operation: up.operationId } as const;
      await expect((await start({ goal, planHash: 'other' })).result()).rejects.toMatchObject({
        cause: { type: 'PLAN_CHANGED' },
      });
    }));
});
