/**
 * Goal: a move's tries end one way or the other before anything else happens, whoever ends them.
 * Method: as scale-cluster.int.test.ts; the cut-over answers what each test wants.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { CutOverResult } from '../../activities/types.ts';
import {
  cancelUpdate,
  type MoveStatus,
  moveStatusQuery,
  moveWorkflowId,
  resumeUpdate,
} from '../../workflows/messages.ts';
import { Harness } from './harness.ts';
import { refusal } from './world.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await Harness.open();
});
afterAll(() => harness?.close());

const aborted = (code: string): CutOverResult => ({ result: 'aborted', code, because: `${code} in a test` });

describe('a move', () => {
  test('whose cut-over was aborted is tried again under a new id', () =>
    harness.run(1, async ({ world, scale }) => {
      const answers: (CutOverResult | 'hand over')[] = [aborted('HOLD_DEADLINE')];
      world.cutOver = () => answers.shift() ?? 'hand over';
      const ended = await scale(2);
      expect(ended).toMatchObject({ state: 'completed' });
      const [first, ...others] = ended.moves;
      expect(first).toMatchObject({ tries: 2, move: `${ended.operationId}/move-1.2` });
      expect(others.every(({ tries }) => tries === 1)).toBe(true);
    }));

  test('that was aborted three times for one reason blocks the operation, which names it; resume goes on with the fourth try', () =>
    harness.run(1, async ({ world, start, shows }) => {
      world.cutOver = () => aborted('QUIESCE_TIMEOUT');
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 8 });
      const blocked = await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      expect(blocked.blockedOn).toMatchObject({
        code: 'QUIESCE_TIMEOUT',
        threshold: '3 tries',
        phase: 'move partitions',
        move: 'move-1',
      });
      expect(blocked.moves[0]).toMatchObject({
        state: 'waiting',
        tries: 3,
        lastAbort: 'QUIESCE_TIMEOUT: QUIESCE_TIMEOUT in a test',
      });
      expect((await world.types()).filter((type) => type === 'move aborted')).toHaveLength(3);
      world.cutOver = () => 'hand over';
      await operation.executeUpdate(resumeUpdate, { args: [{}] });
      const ended = await operation.result();
      expect(ended).toMatchObject({ state: 'completed', moves: [{ tries: 4, move: `${ended.operationId}/move-1.4` }] });
    }));

  test('whose copy is outrun by arrivals three times blocks the operation, and never comes to a cut-over; resume goes on', () =>
    harness.run(1, async ({ world, start, shows }) => {
      world.before.set('preCopy', () => Promise.reject(refusal('ARRIVALS_OUTRUN_COPY')));
      let cutOvers = 0;
      world.cutOver = () => {
        cutOvers += 1;
        return 'hand over';
      };
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 8 });
      const blocked = await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      expect(blocked.blockedOn).toMatchObject({ code: 'ARRIVALS_OUTRUN_COPY', move: 'move-1' });
      expect(blocked.moves[0]).toMatchObject({ tries: 3 });
      expect(cutOvers).toBe(0);
      world.before.clear();
      await operation.executeUpdate(resumeUpdate, { args: [{}] });
      await operation.result();
      expect(cutOvers).toBe(1);
    }));

  test('refused for good is aborted and blocks at once', () =>
    harness.run(1, async ({ world, start, shows }) => {
      world.before.set('preCopy', () => Promise.reject(refusal('NODE_OTHER_DATABASE')));
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 8 });
      const blocked = await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      expect(blocked.blockedOn).toMatchObject({ code: 'NODE_OTHER_DATABASE', move: 'move-1' });
      expect(blocked.blockedOn).not.toHaveProperty('threshold');
      expect(blocked.moves[0]?.tries).toBe(1);
      expect((await world.ring()).moves).toEqual([]);
      await operation.executeUpdate(cancelUpdate, { args: [{}] });
      expect((await operation.result()).state).toBe('cancelled');
    }));

  test('that the source’s dead-man aborted is tried again', () =>
    harness.run(1, async ({ world, scale }) => {
      let times = 0;
      world.before.set('cutOver', async ({ move = '' }) => {
        times += 1;
        if (times > 1) return;
        await world.append({ type: 'abort move', move, because: 'dead-man' });
        throw refusal('MOVE_ABORTED');
      });
      expect(await scale(2, { partitionsPerMoveMax: 8 })).toMatchObject({ state: 'completed', moves: [{ tries: 2 }] });
    }));

  test('that was handed over and could not be cleaned up is not moved again: resume cleans up', () =>
    harness.run(1, async ({ world, start, shows }) => {
      world.before.set('cleanUp', () => Promise.reject(refusal('NODE_BLOCKED')));
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 8 });
      await shows(operation, 'blocked', ({ blockedOn }) => blockedOn?.code === 'NODE_BLOCKED');
      world.before.clear();
      await operation.executeUpdate(resumeUpdate, { args: [{}] });
      expect(await operation.result()).toMatchObject({
        state: 'completed',
        jobsMoved: 10,
        partitionsMoved: 8,
        moves: [{ tries: 1 }],
      });
      expect((await world.types()).filter((type) => type === 'move started')).toHaveLength(1);
    }));

  test('whose workflow was terminated by hand blocks; resume goes on with the try that it left', () =>
    harness.run(1, async ({ world, start, shows, clusterId }) => {
      const gate = world.gate('preCopy');
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 8 });
      await gate.arrived;
      const child = harness.env.client.workflow.getHandle(moveWorkflowId(clusterId, operation.firstExecutionRunId, 1));
      const status: MoveStatus = await child.query(moveStatusQuery);
      expect(status).toMatchObject({ state: 'copying', tries: 1 });
      await child.terminate('a test');
      await shows(
        operation,
        'blocked',
        ({ blockedOn }) => blockedOn?.code === 'MOVE_LOST' && blockedOn.move === 'move-1',
      );
      world.before.clear();
      await operation.executeUpdate(resumeUpdate, { args: [{}] });
      expect(await operation.result()).toMatchObject({ state: 'completed', moves: [{ tries: 1 }] });
      expect((await world.types()).filter((type) => type === 'move started')).toHaveLength(1);
    }));
});

describe('weather', () => {
  test('is tried again without a word', () =>
    harness.run(1, async ({ world, scale }) => {
      let times = 0;
      world.before.set('preCopy', () => {
        times += 1;
        if (times <= 2) throw new Error('connection reset');
      });
      expect(await scale(2, { partitionsPerMoveMax: 8 })).toMatchObject({
        state: 'completed',
        notes: [],
        moves: [{ tries: 1 }],
      });
    }));
});
