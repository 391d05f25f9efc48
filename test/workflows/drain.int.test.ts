/**
 * Goal: a drain empties a node that stays a member, and no later plan gives it anything until it is activated.
 * Method: a real Temporal server, the real workflows, ring, pod and verify activities; nodes and copies are played (world.ts).
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { cancelUpdate, resumeUpdate, undoUpdate } from '../../workflows/messages.ts';
import { Harness } from './harness.ts';
import { isLeftInOrder } from './in-order.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await Harness.open();
});
afterAll(() => harness?.close());

const drainOf = (node: string) => ({ goal: { kind: 'drain', node } }) as const;

test('a drain moves all that the node has, keeps the node, and marks it before anything is moved; again there is nothing to do', () =>
  harness.run(3, async ({ world, start }) => {
    const drained = await (await start(drainOf('node-1'))).result();
    expect(drained).toMatchObject({ state: 'completed', from: 3, to: 3, partitionsMoved: 5, nodesRemoved: [] });
    expect(await world.sizes()).toEqual({ 'node-0': 8, 'node-1': 0, 'node-2': 8 });
    const types = await world.types();
    expect(types.indexOf('node drained')).toBeLessThan(types.indexOf('move started'));
    expect(world.removedPods).toEqual([]);
    expect(await (await start(drainOf('node-1'))).result()).toMatchObject({ state: 'nothing to do' });
    await isLeftInOrder(world);
  }));

test('no plan gives it anything until it is activated; then the next one does', () =>
  harness.run(3, async ({ world, start, scale }) => {
    await (await start(drainOf('node-1'))).result();
    await scale(4);
    expect(await world.sizes()).toEqual({ 'node-0': 6, 'node-1': 0, 'node-2': 5, 'node-3': 5 });
    await world.append({ type: 'activate node', node: 'node-1' });
    await scale(4);
    expect(await world.sizes()).toEqual({ 'node-0': 4, 'node-1': 4, 'node-2': 4, 'node-3': 4 });
    await isLeftInOrder(world);
  }));

test('its undo activates it and moves back what it had, after a run and during it', () =>
  harness.run(3, async ({ world, start }) => {
    const { owners } = await world.ring();
    const drained = await (await start(drainOf('node-1'))).result();
    const goal = { kind: 'undo', operation: drained.operationId } as const;
    expect(await (await start({ goal })).result()).toMatchObject({ state: 'completed', partitionsMoved: 5 });
    expect(await world.ring()).toMatchObject({ owners, drained: [] });
    const gate = world.gate('cleanUp');
    const second = await start(drainOf('node-1'));
    await gate.arrived;
    await second.executeUpdate(undoUpdate, { args: [{}] });
    gate.open();
    expect(await second.result()).toMatchObject({ state: 'undone' });
    expect(await world.ring()).toMatchObject({ owners, drained: [] });
    await isLeftInOrder(world);
  }));

test('cancelled, it stays marked: what is moved by then is moved, and nothing comes back by itself', () =>
  harness.run(2, async ({ world, start }) => {
    const gate = world.gate('cleanUp');
    const operation = await start({ ...drainOf('node-1'), partitionsPerMoveMax: 2 });
    await gate.arrived;
    await operation.executeUpdate(cancelUpdate, { args: [{}] });
    gate.open();
    expect(await operation.result()).toMatchObject({ state: 'cancelled', partitionsMoved: 2 });
    expect(await world.ring()).toMatchObject({ drained: ['node-1'], freeze: null });
    expect(await world.sizes()).toEqual({ 'node-0': 10, 'node-1': 6 });
  }));

test('an undo of what came before it is blocked by name, until the node is activated', () =>
  harness.run(2, async ({ world, start, scale, shows }) => {
    const back = await scale(1);
    await scale(2);
    // All that `back` moved to node-0 is there again, and would go back to a node that is drained.
    await (await start(drainOf('node-1'))).result();
    const undo = await start({ goal: { kind: 'undo', operation: back.operationId } });
    const blocked = await shows(undo, 'blocked', ({ state }) => state === 'blocked');
    expect(blocked.blockedOn).toMatchObject({ code: 'NODE_DRAINED', phase: 'move partitions' });
    await world.append({ type: 'activate node', node: 'node-1' });
    await undo.executeUpdate(resumeUpdate, { args: [{}] });
    expect((await undo.result()).state).toBe('completed');
    expect(await world.sizes()).toEqual({ 'node-0': 8, 'node-1': 8 });
  }));

test.each([
  ['a node that is no member', 2, { goal: { kind: 'drain', node: 'node-7' } }, 'NODE_UNKNOWN'],
  ['the only node', 1, { goal: { kind: 'drain', node: 'node-0' } }, 'NODES_ALL_DRAINED'],
  ['what is no name', 2, { goal: { kind: 'drain', node: 7 } }, 'INPUT_INVALID'],
])('%s is not drained, and nothing has changed', (_what, nodes, input, code) =>
  harness.run(nodes, async ({ world, start }) => {
    const before = await world.events();
    await expect((await start(input as never)).result()).rejects.toMatchObject({ cause: { type: code } });
    expect(await world.events()).toEqual(before);
  }),
);

test('a cluster is not scaled to nodes that are all drained', () =>
  harness.run(2, async ({ start }) => {
    await (await start(drainOf('node-0'))).result();
    await expect((await start({ targetNodes: 1 })).result()).rejects.toMatchObject({
      cause: { type: 'NODES_ALL_DRAINED' },
    });
  }));
