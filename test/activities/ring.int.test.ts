/**
 * Goal: what the ring's activities leave in the log when they are repeated, or find what another attempt left.
 * Method: the activities as they are, over a ring store in memory.
 */

import { ApplicationFailure } from '@temporalio/common';
import { MockActivityEnvironment } from '@temporalio/testing';
import { beforeEach, describe, expect, test } from 'vitest';
import { asFailure, isPermanent, NodeBlocked } from '../../activities/errors.ts';
import { summarizeRing } from '../../activities/log-views.ts';
import type { RingActivities, StartMoveInput } from '../../activities/types.ts';
import { CodedError } from '../../kit/errors.ts';
import { RingRefusal } from '../../ring/decide.ts';
import { noRing } from '../../ring/ring.ts';
import { expandRing } from '../../workflows/ring-summary.ts';
import { certificateFor } from '../support/certificate.ts';
import { factsOf, World } from '../workflows/world.ts';

let world: World;
let ring: RingActivities;
const by = { operationId: 'op', workflowId: 'scale/c', runId: 'op' };
const asking = { clusterId: 'c', operationId: 'op', reason: 'a test' };
const move: StartMoveInput = {
  ...asking,
  holder: 1,
  n: 1,
  tryFrom: 1,
  from: 'node-0',
  to: 'node-1',
  partitions: [0, 1],
};

beforeEach(async () => {
  world = new World('c');
  await world.make(2, 8);
  const env = new MockActivityEnvironment();
  const all = world.activities();
  ring = new Proxy(all, {
    get: (_, name: keyof RingActivities) => (input: never) =>
      env.run(all[name] as (given: never) => Promise<never>, input),
  }) as RingActivities;
});

describe('startMove', () => {
  beforeEach(() => ring.freeze({ ...asking, by }));

  test('repeated after a lost answer returns the try that it started', async () => {
    const first = await ring.startMove(move);
    const version = (await world.ring()).version;
    expect(await ring.startMove(move)).toEqual(first);
    expect((await world.ring()).version).toBe(version);
  });

  test('never takes up an aborted try again', async () => {
    await ring.startMove(move);
    await world.append({ type: 'abort move', move: 'op/move-1.1', because: 'a test' });
    expect(await ring.startMove(move)).toMatchObject({ move: 'op/move-1.2', try: 2, state: 'started' });
  });

  test('ends an older try that was left open before it starts the next', async () => {
    await ring.startMove(move);
    expect(await ring.startMove({ ...move, tryFrom: 2 })).toMatchObject({ move: 'op/move-1.2', state: 'started' });
    expect((await world.ring()).moves).toHaveLength(1);
  });

  test('finds a try that was handed over, and one that was completed, with the proof’s counts', async () => {
    await ring.startMove(move);
    const claimed = await world.append({ type: 'claim move', holder: 1, move: 'op/move-1.1', attempt: 'x' });
    const proof = { jobsPending: 5, jobsCopied: 7, prefixes: [] };
    await world.append({ type: 'hand over', move: 'op/move-1.1', token: claimed.ring.version, proof });
    const counts = { move: 'op/move-1.1', jobsMoved: 5, jobsCopied: 7 };
    expect(await ring.startMove({ ...move, tryFrom: 2 })).toMatchObject({ ...counts, state: 'handed over' });
    expect(await ring.abortMove({ ...asking, move: 'op/move-1.1', because: 'late' })).toMatchObject({
      result: 'handed over',
      jobsMoved: 5,
    });
    const certificate = certificateFor(await world.ring(), 'op/move-1.1');
    await world.append({ type: 'complete move', move: 'op/move-1.1', certificate });
    expect(await ring.startMove({ ...move, tryFrom: 2 })).toMatchObject({ ...counts, state: 'completed' });
    expect(await ring.abortMove({ ...asking, move: 'op/move-1.1', because: 'late' })).toMatchObject({
      result: 'completed',
      jobsCopied: 7,
    });
  });

  test('of an operation that no longer holds the ring is refused by type', async () => {
    await expect(ring.startMove({ ...move, holder: 7 })).rejects.toMatchObject({
      type: 'RING_NOT_HELD',
      nonRetryable: true,
    });
  });
});

describe('freeze and unfreeze', () => {
  test('repeated: one event each', async () => {
    const first = await ring.freeze({ ...asking, by });
    expect(await ring.freeze({ ...asking, by })).toEqual(first);
    expect(await ring.unfreeze({ ...asking, by })).toMatchObject({ unfrozen: true });
    expect(await ring.unfreeze({ ...asking, by })).toMatchObject({ unfrozen: false });
    expect(await world.types()).toEqual(['ring made', 'ring frozen', 'ring unfrozen']);
  });

  test('unfreeze aborts what was started and leaves another operation’s freeze alone', async () => {
    await ring.freeze({ ...asking, by });
    await ring.startMove(move);
    expect(await ring.unfreeze({ ...asking, by: { ...by, runId: 'other' } })).toMatchObject({ unfrozen: false });
    expect(await ring.unfreeze({ ...asking, by })).toMatchObject({ unfrozen: true });
    expect((await world.types()).slice(-2)).toEqual(['move aborted', 'ring unfrozen']);
  });

  test('a take-over that is repeated tells the same', async () => {
    await ring.freeze({ ...asking, by });
    world.holders = { endOf: async () => 'its run has ended (terminated)' };
    const next = { operationId: 'op2', workflowId: 'scale/c', runId: 'op2' };
    const taken = await ring.freeze({ ...asking, operationId: 'op2', by: next });
    expect(taken).toMatchObject({
      holder: 2,
      takenOverFrom: { operationId: 'op', because: 'its run has ended (terminated)' },
    });
    expect(await ring.freeze({ ...asking, operationId: 'op2', by: next })).toEqual(taken);
  });

  test('where Temporal cannot be asked nobody takes over', async () => {
    await ring.freeze({ ...asking, by });
    world.holders = { endOf: () => Promise.reject(new Error('unavailable')) };
    await expect(ring.freeze({ ...asking, operationId: 'op2', by: { ...by, runId: 'op2' } })).rejects.toThrow(
      'unavailable',
    );
    expect((await world.ring()).freeze?.runId).toBe('op');
  });
});

test('a ring survives its way into a history and back', async () => {
  await ring.freeze({ ...asking, by });
  await world.append({ type: 'join node', holder: 1, facts: factsOf('node-2') });
  const before = await world.ring();
  const summary = JSON.parse(JSON.stringify(summarizeRing(before)));
  expect(expandRing(summary)).toEqual({ ...before, freeze: null, lastHolder: 0, moves: [] });
  expect(expandRing(summarizeRing(noRing('x'))).owners).toEqual([]);
});

test('refusals and listed codes end an activity for good; all else is weather', () => {
  expect(asFailure(new RingRefusal('RING_BUSY', 'frozen'))).toMatchObject({
    type: 'RING_BUSY',
    message: 'frozen',
    nonRetryable: true,
  });
  const details = { destination: 'slow' };
  expect(asFailure(new CodedError('QUIESCE_TIMEOUT', 'slow', details))).toMatchObject({
    type: 'QUIESCE_TIMEOUT',
    details: [details],
  });
  expect(asFailure(new NodeBlocked('SOME_NEW_CODE', 'x'))).toBeInstanceOf(ApplicationFailure);
  for (const weather of [
    new Error('reset'),
    new CodedError('ECONNRESET', 'x'),
    Object.assign(new Error('x'), { code: '57P01' }),
    null,
  ]) {
    expect(isPermanent(weather)).toBe(false);
    expect(asFailure(weather)).toBe(weather);
  }
});
