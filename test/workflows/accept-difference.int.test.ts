/**
 * Goal: a move whose source and target differ has a way out that is explicit, recorded, and about that one move.
 * Method: a real Temporal server, the real workflows and ring activities; the comparison is played (world.ts).
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { movesOf, uncertifiedFrom } from '../../ring/moves.ts';
import { cancelUpdate, retryUpdate } from '../../workflows/messages.ts';
import { Harness, type Operation } from './harness.ts';
import { refusal } from './world.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await Harness.open();
});
afterAll(() => harness?.close());

const accept = (operation: Operation, reason?: string) =>
  operation.executeUpdate(retryUpdate, {
    args: [{ actor: 'ada', acceptDifference: true, ...(reason ? { reason } : {}) }],
  });

test('retry goes on blocking; with an accepted difference the move is completed without certificate, the next one is asked for by itself', () =>
  harness.run(1, async ({ world, clusterId, start, shows }) => {
    world.differs = (move) => /move-[12]\./.test(move);
    const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 2 });
    const blocked = await shows(operation, 'blocked', ({ state }) => state === 'blocked');
    expect(blocked.blockedOn).toMatchObject({ code: 'CERTIFICATE_MISMATCH', phase: 'move partitions', move: 'move-1' });
    expect(blocked.nextAction).toBe(
      `ringmaster retry ${operation.firstExecutionRunId} # or, to go on without what differs: ringmaster retry ${operation.firstExecutionRunId} --accept-difference --reason "…"`,
    );
    await operation.executeUpdate(retryUpdate, { args: [{}] });
    await shows(
      operation,
      'blocked again',
      ({ blockedOn }) => blockedOn !== null && blockedOn.since !== blocked.blockedOn?.since,
    );
    await expect(accept(operation)).rejects.toMatchObject({ cause: { type: 'REASON_NEEDED' } });
    await accept(operation, 'one test event');
    const second = await shows(operation, 'blocked on the second', ({ blockedOn }) => blockedOn?.move === 'move-2');
    expect(second.blockedOn?.code).toBe('CERTIFICATE_MISMATCH');
    await accept(operation, 'another');
    const ended = await operation.result();
    expect(ended).toMatchObject({ state: 'completed', partitionsMoved: 8 });
    expect(ended.notes).toContain('the difference of move-1 is accepted, and it is retried by ada: one test event');
    const ring = await world.ring();
    expect(ring.losses).toMatchObject([
      { kind: 'difference', move: `${operation.firstExecutionRunId}/move-1.1`, by: 'ada', reason: 'one test event' },
      { kind: 'difference', move: `${operation.firstExecutionRunId}/move-2.1`, by: 'ada', reason: 'another' },
    ]);
    const events = await world.store.read(clusterId);
    expect(
      [...movesOf(events).values()].map(({ certificate, accepted }) => [certificate !== null, accepted?.reason]),
    ).toEqual([
      [false, 'one test event'],
      [false, 'another'],
      [true, undefined],
      [true, undefined],
    ]);
    expect(uncertifiedFrom(events, 'node-0')).toEqual([]);
  }));

test('what a cancelled operation left so blocks the next one before anything else, naming the move, and is accepted there', () =>
  harness.run(1, async ({ world, start, shows }) => {
    world.differs = (move) => move.includes('/move-1.');
    const first = await start({ targetNodes: 2, partitionsPerMoveMax: 8 });
    await shows(first, 'blocked', ({ state }) => state === 'blocked');
    await first.executeUpdate(cancelUpdate, { args: [{}] });
    expect((await first.result()).state).toBe('cancelled');
    expect(await world.ring()).toMatchObject({ freeze: null, moves: [{ state: 'handed over' }] });
    const next = await start({ targetNodes: 1 });
    const blocked = await shows(next, 'blocked', ({ state }) => state === 'blocked');
    const left = `${first.firstExecutionRunId}/move-1.1`;
    expect(blocked.blockedOn).toMatchObject({ code: 'CERTIFICATE_MISMATCH', phase: 'freeze ring', move: left });
    world.differs = (move) => move === left;
    await accept(next, 'seen, and given up');
    expect(await next.result()).toMatchObject({ state: 'completed' });
    expect((await world.ring()).losses).toMatchObject([{ move: left, reason: 'seen, and given up' }]);
  }));

test('of an operation that is blocked on something else nothing can be accepted', () =>
  harness.run(2, async ({ world, start, shows }) => {
    world.before.set('waitServing', () => Promise.reject(refusal('NODE_BLOCKED')));
    const operation = await start({ targetNodes: 3 });
    await shows(operation, 'blocked', ({ state }) => state === 'blocked');
    await expect(accept(operation, 'whatever')).rejects.toMatchObject({ cause: { type: 'NOTHING_TO_ACCEPT' } });
    await operation.executeUpdate(cancelUpdate, { args: [{}] });
    await operation.result();
  }));
