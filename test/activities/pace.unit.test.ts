/** Goal: a copy that runs hears of new limits and of what its nodes feel, and nothing that fails here stops it. Method: a real log in memory, nodes that say what we let them. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createPace, type Pace } from '../../activities/pace.ts';
import type { NodeLoad, NodeStatus } from '../../dataplane/contract.ts';
import { createLog } from '../../kit/log.ts';
import type { LimitsChange } from '../../ring/limits.ts';
import { createMemoryRingStore, type MemoryRingStore } from '../../ringstore/memory.ts';
import { decideAndAppend } from '../../ringstore/ringstore.ts';
import { facts } from '../ring/drawing.ts';
import { until } from '../support/wait.ts';

const log = createLog('test');
log.level = 'silent';
const by = { actor: 'ann', reason: 'test', operation: null };
const calm: NodeLoad = { commitMs: { p50: 2, p90: 5 }, queueDelayMs: 0 };
const hurt: NodeLoad = { commitMs: { p50: 40, p90: 83 }, queueDelayMs: 0 };

let store: MemoryRingStore;
let loads: Record<string, NodeLoad | null | Error>;
let copy: AbortController;
let pace: Pace;

const nodeOf = (node: string) => ({
  status: async (): Promise<NodeStatus> => {
    const load = loads[node]!;
    if (load instanceof Error) throw load;
    return { node, ...(load ? { load } : {}) } as NodeStatus;
  },
});
const setLimits = (change: LimitsChange) => decideAndAppend(store, 'test', { type: 'set limits', change }, by);
const toBe = (what: (pace: Pace) => boolean): Promise<boolean> =>
  until(() => what(pace), { deadlineMs: 5_000, what: `the pace (${JSON.stringify(pace.state())})` });

beforeEach(async () => {
  store = createMemoryRingStore();
  loads = { a: calm, b: calm };
  copy = new AbortController();
  const nodes = [facts('a'), facts('b')];
  const made = { type: 'make ring', clusterId: 'test', partitionCount: 4, nodes } as const;
  const { ring } = await decideAndAppend(store, 'test', made, by);
  const { signal } = copy;
  pace = createPace({ ringStore: store, ring, source: nodeOf('a'), target: nodeOf('b'), move: 'm1', signal, log });
});
afterEach(async () => pace.stop());

test('a copy under the default limits goes as fast as it can', async () => {
  expect(pace.throttle.take(1_000_000_000)).toBeUndefined();
  expect(pace.state()).toEqual({ throttledBy: null, bytesPerSecond: null });
});

test('limits that are set while it runs are in force within two seconds, and so is taking them back', async () => {
  const since = performance.now();
  await setLimits({ bytesPerSecond: 2_000_000 });
  await toBe(({ state }) => state().bytesPerSecond === 2_000_000);
  expect(performance.now() - since).toBeLessThan(2_000);
  await setLimits({ bytesPerSecond: 'default' });
  await toBe(({ state }) => state().bytesPerSecond === null);
});

test.each(['a', 'b'])('it brakes for what node %s feels', async (node) => {
  loads[node] = hurt;
  await toBe(({ state }) => state().throttledBy === `brake: commit latency of ${node} is 83 ms, limit 50 ms`);
  expect(pace.throttle.lanes).toBe(1);
});

test('the thresholds are those that people set', async () => {
  await setLimits({ commitMsMax: 3 });
  await toBe(({ state }) => state().throttledBy?.startsWith('brake: commit latency') === true);
  await setLimits({ brake: 'off' });
  await toBe(({ state }) => state().throttledBy === null);
});

test('a node of an older version tells no load, and brakes nothing', async () => {
  loads = { a: null, b: null };
  await new Promise((resolve) => setTimeout(resolve, 600));
  expect(pace.state()).toEqual({ throttledBy: null, bytesPerSecond: null });
});

test('while a node does not answer the pace stays as it was, and the copy goes on', async () => {
  loads['a'] = hurt;
  await toBe(({ state }) => state().throttledBy !== null);
  loads = { a: new Error('gone'), b: calm };
  await new Promise((resolve) => setTimeout(resolve, 300)); // what was asked before
  const before = pace.state();
  await new Promise((resolve) => setTimeout(resolve, 800));
  expect(pace.state()).toEqual(before);
});

test('while the ring store does not answer the last limits are in force, and later ones as soon as it does', async () => {
  const read = store.read.bind(store);
  store.read = async () => {
    throw new Error('gone');
  };
  await new Promise((resolve) => setTimeout(resolve, 1_300));
  store.read = read;
  await setLimits({ bytesPerSecond: 2_000_000 });
  await toBe(({ state }) => state().bytesPerSecond === 2_000_000);
});

test('a copy that is aborted waits for nothing any more, and nobody is asked', async () => {
  await setLimits({ bytesPerSecond: 100_000 });
  await toBe(({ state }) => state().bytesPerSecond !== null);
  const waiting = expect(pace.throttle.take(100_000_000)).rejects.toThrow('cancelled');
  copy.abort(new Error('cancelled'));
  await waiting;
  await pace.stop();
});
