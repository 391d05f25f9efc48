import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isNothingToDo, nodeNames, planDrain, planMoves } from '../../ring/plan.ts';
import { assertRing, fold, partitionsOf, type Ring } from '../../ring/ring.ts';
import { apply, by, draw, given, ringOf } from './drawing.ts';

const held = (ring: Ring): Ring => apply(ring, { type: 'freeze', by: by('run-1') });
const sizes = (ring: Ring): Record<string, number> =>
  Object.fromEntries(ring.nodes.map(({ node }) => [node, partitionsOf(ring, node).length]));
/** Each move by its events alone, as a log has them. */
const carriedOut = (ring: Ring, plan: ReturnType<typeof planDrain>): Ring =>
  plan.moves.reduce((state, { n, from, to, partitions }) => {
    const move = `op/move-${n}.1`;
    const started = apply(state, { type: 'start move', holder: state.freeze!.holder, move, from, to, partitions });
    const claimed = apply(started, { type: 'claim move', holder: state.freeze!.holder, move, attempt: 'x' });
    const token = claimed.version;
    const over = apply(claimed, {
      type: 'hand over',
      move,
      token,
      proof: { jobsPending: 0, jobsCopied: 0, prefixes: [] },
    });
    return apply(over, { type: 'accept difference', move, accepted: { by: 'x', reason: 'x', difference: 'none' } });
  }, ring);

describe('a drained node', () => {
  const drained = (): Ring =>
    apply(held(ringOf(['node-0', 'node-1', 'node-2'], 8)), { type: 'drain node', holder: 1, node: 'node-1' });

  test('stays a member, with what it has until that is moved away, and is given nothing', () => {
    const ring = drained();
    expect(ring.drained).toEqual(['node-1']);
    expect(draw(ring)).toContain('{node-0 node-1 node-2}');
    given(ring).when({ type: 'drain node', holder: 1, node: 'node-1' }).thenNothing();
    given(ring)
      .when({ type: 'start move', holder: 1, move: 'm', from: 'node-0', to: 'node-1', partitions: [0] })
      .thenRefused('NODE_DRAINED');
  });

  test('is marked only by who holds the ring; activated by anybody', () => {
    given(ringOf(['a', 'b']))
      .when({ type: 'drain node', holder: 0, node: 'a' })
      .thenRefused('RING_NOT_HELD');
    given(drained()).when({ type: 'drain node', holder: 7, node: 'node-0' }).thenRefused('RING_NOT_HELD');
    given(drained()).when({ type: 'drain node', holder: 1, node: 'node-9' }).thenRefused('NODE_UNKNOWN');
    given(drained()).when({ type: 'activate node', node: 'node-9' }).thenRefused('NODE_UNKNOWN');
    given(drained()).when({ type: 'activate node', node: 'node-1' }).thenEvents('node activated');
    given(drained()).when({ type: 'activate node', node: 'node-0' }).thenNothing();
  });

  test('leaves others that take what it had: the last one is not drained, and does not leave', () => {
    const two = apply(held(ringOf(['a', 'b'])), { type: 'drain node', holder: 1, node: 'a' });
    given(two).when({ type: 'drain node', holder: 1, node: 'b' }).thenRefused('NODES_ALL_DRAINED');
    expect(() => assertRing({ ...two, drained: ['a', 'b'] })).toThrow(/R6: every member is drained/);
    expect(() => assertRing({ ...two, drained: ['c'] })).toThrow(/R6: c is drained and no member/);
  });

  test('that leaves takes its mark along: it joins again as any other', () => {
    const emptied = carriedOut(drained(), planDrain(drained(), 'node-1'));
    const left = apply(emptied, { type: 'leave node', holder: 1, node: 'node-1' });
    expect(left.drained).toEqual([]);
  });

  test('gets nothing of a plan; what it has goes, for that reason', () => {
    const plan = planMoves(drained(), nodeNames(3));
    expect(plan.moves.every(({ to, because }) => to !== 'node-1' && because === 'node-1 is drained')).toBe(true);
    expect(plan.partitionsMoved).toBe(3);
    expect(() => planMoves({ ...drained(), drained: ['node-0'] }, nodeNames(1))).toThrow(/cannot be shared/);
    const activated = apply(drained(), { type: 'activate node', node: 'node-1' });
    expect(planMoves(activated, nodeNames(3)).partitionsMoved).toBe(0);
  });

  test('in a log is understood as what it is, and by who does not know it as an event of a newer version', () => {
    const recorded = (version: number, event: object) => ({ clusterId: 'test', version, event }) as never;
    const made = ringOf(['a', 'b']);
    expect(fold(made, [recorded(2, { type: 'node drained', node: 'a' })]).drained).toEqual(['a']);
    expect(fold(made, [recorded(2, { type: 'node painted', node: 'a' })]).notUnderstood).toEqual(['node painted']);
    expect(fold({ ...made, drained: undefined as never }, []).notUnderstood).toEqual([]);
  });
});

describe('a forgotten node', () => {
  const base = (): Ring => held(ringOf(['node-0', 'node-1', 'node-2'], 8));
  const forget = { type: 'forget node', holder: 1, node: 'node-1', by: 'ada', reason: 'its disk burnt' } as const;

  test('is no member any more, its partitions are the others’, and the loss is told from then on', () => {
    const ring = given(base())
      .when(forget)
      .thenDrawn('e2 {node-0 node-2} [node-0 node-0 node-0 node-2 node-0 node-2 node-2 node-2] frozen:run-1#1');
    expect(ring.losses).toEqual([
      {
        version: ring.version,
        kind: 'node',
        node: 'node-1',
        by: 'ada',
        reason: 'its disk burnt',
        what: 'node-1 is forgotten, with what it held of partitions 3-5',
      },
    ]);
    given(ring).when(forget).thenNothing();
  });

  test('takes its moves along: started ones as if they had never been, a handed-over one without a certificate', () => {
    const started = apply(base(), {
      type: 'start move',
      holder: 1,
      move: 'm1',
      from: 'node-0',
      to: 'node-1',
      partitions: [0],
    });
    const over = apply(
      started,
      { type: 'start move', holder: 1, move: 'm2', from: 'node-1', to: 'node-2', partitions: [3] },
      { type: 'claim move', holder: 1, move: 'm2', attempt: 'x' },
    );
    const proof = { jobsPending: 0, jobsCopied: 0, prefixes: [] };
    const handedOver = apply(over, { type: 'hand over', move: 'm2', token: over.version, proof });
    given(handedOver).when(forget).thenEvents('move aborted', 'move completed', 'node forgotten');
    const ring = apply(handedOver, forget);
    expect(ring.moves).toEqual([]);
    expect(ring.owners[3]).toBe('node-2');
    expect(ring.losses?.map(({ kind }) => kind)).toEqual(['difference', 'node']);
  });

  test('is forgotten by who holds the ring, for a reason, and not where nobody could take what it owned', () => {
    given(ringOf(['node-0', 'node-1']))
      .when(forget)
      .thenRefused('RING_NOT_HELD');
    given(base())
      .when({ ...forget, reason: '' })
      .thenRefused('REASON_NEEDED');
    given(base())
      .when({ ...forget, by: '' })
      .thenRefused('REASON_NEEDED');
    given(held(ringOf(['node-1'])))
      .when(forget)
      .thenRefused('NODES_ALL_DRAINED');
    const others = apply(held(ringOf(['node-0', 'node-1'])), { type: 'drain node', holder: 1, node: 'node-0' });
    given(others).when(forget).thenRefused('NODES_ALL_DRAINED');
  });
});

describe('the plan of a drain', () => {
  test('moves what that node has and nothing else, to those that have least; again there is nothing to do', () => {
    const ring = held(ringOf(['node-0', 'node-1', 'node-2'], 8));
    const plan = planDrain(ring, 'node-0');
    expect(plan).toMatchObject({ drains: ['node-0'], added: [], removed: [], partitionsMoved: 3 });
    expect(new Set(plan.moves.map(({ from }) => from))).toEqual(new Set(['node-0']));
    const marked = apply(ring, { type: 'drain node', holder: 1, node: 'node-0' });
    const after = carriedOut(marked, plan);
    expect(sizes(after)).toEqual({ 'node-0': 0, 'node-1': 4, 'node-2': 4 });
    expect(isNothingToDo(planDrain(after, 'node-0'))).toBe(true);
    expect(isNothingToDo(plan)).toBe(false);
  });

  test('for any ring: all partitions of the node go, others stay where they are, and no taker ends above another that it was not above', () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 6 }), fc.infiniteStream(fc.nat()), (count, seed) => {
        const base = ringOf(nodeNames(count), 16);
        const owners = base.owners.map(() => nodeNames(count)[Number(seed.next().value) % count]!);
        const ring: Ring = { ...base, owners };
        const plan = planDrain(ring, 'node-0');
        const after = [...owners];
        for (const { to, partitions } of plan.moves) for (const partition of partitions) after[partition] = to;
        expect(after.includes('node-0')).toBe(false);
        owners.forEach((owner, partition) => {
          if (owner !== 'node-0') expect(after[partition]).toBe(owner);
        });
        const grown = nodeNames(count).filter((node) => plan.moves.some(({ to }) => to === node));
        const size = (node: string): number => after.filter((owner) => owner === node).length;
        const least = Math.min(...nodeNames(count).slice(1).map(size));
        for (const node of grown) expect(size(node) - least).toBeLessThanOrEqual(1);
      }),
    );
  });
});
