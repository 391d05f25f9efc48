/**
 * Goal: the planner's promises and the ring's invariants hold for any ring, not only for those that we thought of.
 * Method: fast-check makes rings and sequences of commands; a failure prints its seed and the smallest case.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decide, type RingCommand, RingRefusal } from '../../ring/decide.ts';
import { isNothingToDo, planMoves, targetSizes } from '../../ring/plan.ts';
import { assertRing, evolve, noRing, partitionsOf, type Ring } from '../../ring/ring.ts';
import { certificateFor } from '../support/certificate.ts';
import { apply, by, facts, ringOf } from './drawing.ts';

const NODES = ['a', 'b', 'c', 'd', 'e', 'f'];
const proof = { jobsPending: 0, jobsCopied: 0, prefixes: [] };

/** Any ring: owners as they fall, not only balanced ones. */
const anyRing = fc
  .record({
    bits: fc.integer({ min: 3, max: 8 }),
    nodes: fc.integer({ min: 1, max: 6 }),
    seed: fc.infiniteStream(fc.nat()),
  })
  .map(({ bits, nodes, seed }): Ring => {
    const names = NODES.slice(0, nodes);
    const ring = ringOf(names, 2 ** bits);
    const owners = ring.owners.map(() => names[Number(seed.next().value) % names.length]!);
    return { ...ring, owners };
  });
const anyGoal = fc.subarray(NODES, { minLength: 1 });

const distance = (ring: Ring, sizes: ReadonlyMap<string, number>): number =>
  NODES.reduce((sum, node) => sum + Math.max(0, partitionsOf(ring, node).length - (sizes.get(node) ?? 0)), 0);

describe('the planner', () => {
  test('moves the fewest partitions, ends within one, and every prefix is a valid ring nearer the goal', () => {
    fc.assert(
      fc.property(anyRing, anyGoal, fc.integer({ min: 1, max: 9 }), (ring, goal, perMove) => {
        const plan = planMoves(ring, goal, { partitionsPerMoveMax: perMove });
        const sizes = targetSizes(ring, goal);

        // The fewest: what each node has beyond its share, with the larger shares where most is owned already; computed here by trying every split.
        expect(plan.partitionsMoved).toBe(fewest(ring, goal));

        let state = apply(ring, { type: 'freeze', by: by('run') });
        for (const node of plan.added) state = apply(state, { type: 'join node', holder: 1, facts: facts(node) });
        let left = distance(state, sizes);
        for (const { n, from, to, partitions } of plan.moves) {
          expect(partitions.length).toBeLessThanOrEqual(perMove);
          const move = `m${n}`;
          state = apply(
            state,
            { type: 'start move', holder: 1, move, from, to, partitions },
            { type: 'claim move', holder: 1, move, attempt: 'x' },
          );
          state = apply(state, { type: 'hand over', move, token: state.moves[0]!.token, proof });
          state = apply(state, { type: 'complete move', move, certificate: certificateFor(state, move) });
          assertRing(state);
          const nearer = distance(state, sizes);
          expect(nearer).toBe(left - partitions.length);
          left = nearer;
        }
        for (const node of plan.removed) state = apply(state, { type: 'leave node', holder: 1, node });
        const counts = goal.map((node) => partitionsOf(state, node).length);
        expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
        expect(isNothingToDo(planMoves(state, goal))).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  test('gives the same plan and hash for the same ring, and another hash for another goal', () => {
    const ring = ringOf(['a', 'b'], 16);
    expect(planMoves(ring, ['a', 'b', 'c'])).toEqual(planMoves(ring, ['a', 'b', 'c']));
    expect(planMoves(ring, ['a', 'b', 'c']).hash).not.toBe(planMoves(ring, ['a', 'b', 'd']).hash);
  });

  test('says why each move is made', () => {
    const ring = ringOf(['a', 'b'], 16);
    expect(new Set(planMoves(ring, ['a', 'b', 'c']).moves.map((move) => move.because))).toEqual(new Set(['c joins']));
    expect(new Set(planMoves(ring, ['a']).moves.map((move) => move.because))).toEqual(new Set(['b leaves']));
  });

  test('has nothing to do only where the ring is also balanced', () => {
    const skewed: Ring = { ...ringOf(['a', 'b'], 8), owners: ['a', 'a', 'a', 'a', 'a', 'a', 'b', 'b'] };
    expect(isNothingToDo(planMoves(skewed, ['a', 'b']))).toBe(false);
    expect(isNothingToDo(planMoves(ringOf(['a', 'b'], 8), ['a', 'b']))).toBe(true);
  });

  function fewest(ring: Ring, goal: readonly string[]): number {
    const floor = Math.floor(ring.partitionCount / goal.length);
    const larger = ring.partitionCount - floor * goal.length;
    let best = Number.POSITIVE_INFINITY;
    for (let mask = 0; mask < 2 ** goal.length; mask += 1) {
      const picked = goal.filter((_, i) => (mask >> i) & 1);
      if (picked.length !== larger) continue;
      const kept = goal.reduce(
        (sum, node) => sum + Math.min(partitionsOf(ring, node).length, floor + (picked.includes(node) ? 1 : 0)),
        0,
      );
      best = Math.min(best, ring.partitionCount - kept);
    }
    return best;
  }
});

describe('any sequence of commands', () => {
  const node = fc.constantFrom(...NODES);
  const holder = fc.integer({ min: 1, max: 3 });
  const move = fc.constantFrom('m1', 'm2', 'm3');
  const anyCommand: fc.Arbitrary<RingCommand> = fc.oneof(
    fc.record({ type: fc.constant('freeze' as const), by: fc.constantFrom(by('r1'), by('r2')), takeOverFrom: holder }),
    fc.record({ type: fc.constant('unfreeze' as const), holder }),
    fc.record({ type: fc.constant('join node' as const), holder, facts: node.map(facts) }),
    fc.record({ type: fc.constant('leave node' as const), holder, node }),
    fc.record({
      type: fc.constant('start move' as const),
      holder,
      move,
      from: node,
      to: node,
      partitions: fc.uniqueArray(fc.integer({ min: 0, max: 7 }), { minLength: 1, maxLength: 3 }),
    }),
    fc.record({ type: fc.constant('claim move' as const), holder, move, attempt: fc.constantFrom('x', 'y') }),
    fc.record({
      type: fc.constant('hand over' as const),
      move,
      token: fc.integer({ min: 1, max: 40 }),
      proof: fc.constant(proof),
    }),
    fc.record({ type: fc.constant('abort move' as const), move, because: fc.constant('test') }),
    fc.record({
      type: fc.constant('complete move' as const),
      move,
      certificate: fc.constant(certificateFor(noRing('test'), 'm1')),
    }),
    fc.record({
      type: fc.constant('set limits' as const),
      change: fc.record(
        {
          bytesPerSecond: fc.constantFrom(null, 'default' as const, 100_000, 5),
          brake: fc.constantFrom('on' as const, 'off' as const, 'default' as const),
          movesPerNode: fc.constantFrom(1, 2, 17, 'default' as const),
        },
        { requiredKeys: [] },
      ),
    }),
  );

  /** Most commands are made to fit the ring, so that the interesting ones happen; holder 3 and token 1 stay as they are, to be refused. */
  function aim(ring: Ring, command: RingCommand): RingCommand {
    if ('holder' in command && command.holder === 3) return command;
    const held = 'holder' in command ? { ...command, holder: ring.freeze?.holder ?? command.holder } : command;
    if (held.type === 'hand over' && held.token > 1)
      return { ...held, token: ring.moves.find((open) => open.move === held.move)?.token ?? held.token };
    if (held.type === 'complete move') return { ...held, certificate: certificateFor(ring, held.move) };
    if (held.type === 'start move') {
      const from = ring.owners[held.partitions[0]!]!;
      return { ...held, from, partitions: held.partitions.filter((partition) => ring.owners[partition] === from) };
    }
    return held;
  }

  test('that is accepted keeps the invariants, epochs and versions grow as they should, and repeating a command changes nothing', () => {
    const seen: Record<string, number> = {};
    fc.assert(
      fc.property(fc.array(anyCommand, { minLength: 40, maxLength: 150, size: 'max' }), (commands) => {
        let ring = ringOf(['a', 'b', 'c'], 8);
        for (const command of commands) {
          let events: ReturnType<typeof decide>;
          try {
            const aimed = aim(ring, command);
            events = decide(ring, aimed);
            const next = events.reduce(evolve, ring);
            expect(next.version).toBe(ring.version + events.length);
            expect(next.epoch - ring.epoch).toBe(
              events.filter((event) => event.type === 'partitions handed over').length,
            );
            if (events.length > 0 && aimed.type !== 'freeze' && aimed.type !== 'start move')
              expect(decide(next, aimed)).toEqual([]);
            ring = next;
          } catch (error) {
            if (!(error instanceof RingRefusal)) throw error;
            continue;
          }
          for (const event of events) seen[event.type] = (seen[event.type] ?? 0) + 1;
        }
      }),
      { numRuns: 500 },
    );
    // The test is of no worth if the interesting commands were always refused.
    for (const type of [
      'move started',
      'partitions handed over',
      'move aborted',
      'move completed',
      'node left',
      'freeze taken over',
      'limits set',
    ]) {
      expect(seen[type] ?? 0, type).toBeGreaterThan(0);
    }
  });
});

describe('noRing', () => {
  test('is a valid nothing', () => expect(() => assertRing(noRing('x'))).not.toThrow());
});
