/**
 * Goal: whatever differs of what completed moves took along is found and named, over several moves and slices.
 * Method: the activity itself over two real databases and their stewards.
 */
import { MockActivityEnvironment } from '@temporalio/testing';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createCompareActivities } from '../../activities/compare.ts';
import type { ActivityDeps } from '../../activities/deps.ts';
import { createMoveActivities } from '../../activities/move.ts';
import type { CompareMovesCursor, CompareSlice } from '../../activities/types.ts';
import { CodedError } from '../../kit/errors.ts';
import { addJobs, CLUSTER, createFixture, type Fixture } from '../jobsdb/move-fixture.ts';
import { damage, damages, handOverMove } from '../jobsdb/moved.ts';

const MOVE = 'op/move-1.1';
let f: Fixture;
let gone: string[];
const deps = () =>
  ({
    ringStore: f.store,
    controlOf: async (node: string) => (node === 'a' ? f.a : f.b).steward,
    endpointsOf: async (node: string) => {
      if (gone.includes(node)) throw new CodedError('NODE_ABSENT', `no node ${node}`);
      return { database: (node === 'a' ? f.a : f.b).database.address };
    },
    actor: 'worker',
    log: pino({ level: 'silent' }),
    limits: { settleWithinMs: 5_000, pollEveryMs: 10, standInAfterMs: 500, lostAfterMs: 1_000, caretakerIdleMs: 1_000 },
  }) as unknown as ActivityDeps;

beforeEach(async () => {
  f = await createFixture();
  gone = [];
  for (const [move, partition] of [
    [MOVE, 0],
    ['op/move-2.1', 1],
  ] as const) {
    const jobs = Array.from({ length: 10 }, (_, n) => ({ partition, payload: { n, text: 'hello' } }));
    await addJobs(f.a.pool, jobs);
    await handOverMove(f, move, f.a, f.b, [partition]);
    const asking = { clusterId: CLUSTER, operationId: 'op', reason: 'a test', holder: 1 };
    const { cleanUp } = createMoveActivities(deps());
    await new MockActivityEnvironment().run(cleanUp, { ...asking, move, from: 'a', to: 'b', partitions: [partition] });
  }
});
afterEach(() => f.close());

async function compareAll(operation: string | null = null): Promise<CompareSlice> {
  const { compareMoves } = createCompareActivities(deps());
  let cursor: CompareMovesCursor | null = null;
  for (;;) {
    const slice: CompareSlice = await new MockActivityEnvironment().run(compareMoves, {
      clusterId: CLUSTER,
      operation,
      cursor,
      samplesMax: 10,
    });
    if (slice.cursor === null) return slice;
    cursor = slice.cursor;
  }
}

test('after moves as they should be nothing differs, and the cluster is as its ring says', async () => {
  expect(await compareAll()).toMatchObject({
    movesTotal: 2,
    movesDone: 2,
    jobsTotal: 20,
    jobsCompared: 20,
    samples: [],
    notCompared: [],
  });
  expect(await compareAll('other')).toMatchObject({ movesTotal: 0, jobsCompared: 0 });
  const { checkCluster } = createCompareActivities(deps());
  expect(await new MockActivityEnvironment().run(checkCluster, { clusterId: CLUSTER })).toMatchObject({
    nodes: 2,
    problems: [],
    problemCount: 0,
  });
});

test.each(damages)('%s is found and named', async (what) => {
  await damage(f.b, MOVE, what);
  const { counts, samples } = await compareAll();
  const kind = {
    'one payload byte': 'differs',
    'a dropped row': 'missing',
    'two swapped ids': 'changed places',
    'an added row': 'added',
  } as const;
  expect(counts).toEqual({
    missing: 0,
    added: 0,
    differs: 0,
    'changed places': 0,
    [kind[what]]: what === 'two swapped ids' ? 2 : 1,
  });
  expect(samples[0]).toMatchObject({ move: MOVE, kind: kind[what], prefix: 'gw', partition: 0 });
});

test('a move whose node is gone is not compared, and no failure', async () => {
  gone = ['a'];
  expect(await compareAll()).toMatchObject({
    jobsCompared: 0,
    movesDone: 2,
    notCompared: [
      { move: MOVE, jobs: 10, because: 'a node of it is gone' },
      { move: 'op/move-2.1', jobs: 10 },
    ],
  });
});

test('a move that an older version completed, without certificate, is not compared, and named by the look at the cluster', async () => {
  await addJobs(f.a.pool, [{ partition: 0 }]);
  const { version } = await f.ring();
  await f.store.append(
    CLUSTER,
    version,
    [
      { type: 'move started', move: 'old/move-1.1', from: 'b', to: 'a', partitions: [0] },
      {
        type: 'partitions handed over',
        move: 'old/move-1.1',
        token: 1,
        proof: { jobsPending: 3, jobsCopied: 3, prefixes: [] },
      },
      { type: 'move completed', move: 'old/move-1.1' },
    ],
    { actor: 'older', reason: '', operation: 'old' },
  );
  expect((await compareAll('old')).notCompared).toEqual([
    { move: 'old/move-1.1', jobs: 3, because: expect.stringContaining('older version') },
  ]);
  const { checkCluster } = createCompareActivities(deps());
  const unproven = { node: 'b', move: 'old/move-1.1', what: 'was completed without a certificate' };
  expect(await new MockActivityEnvironment().run(checkCluster, { clusterId: CLUSTER })).toMatchObject({
    problems: expect.arrayContaining([unproven]),
  });
});
