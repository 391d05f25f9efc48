/**
 * Goal: no activity, and no point between two effects of one, is a place where a worker must not die or an operation must not be cancelled.
 * Method: as cut-over.e2e.test.ts, for every fault point that an operation that scales comes by; one cluster for each group.
 */
import { describe, expect, test } from 'vitest';
import { expectFlawless } from '../e2e/cluster.ts';
import { type Act, activityOf, stepsOf } from './plan.ts';
import { withSteps } from './support.ts';

const GROUPS: readonly (readonly [name: string, activities: readonly string[]])[] = [
  ['the ring', ['readRing', 'freeze', 'unfreeze', 'startMove', 'abortMove', 'verifyCluster']],
  ['nodes that come and go', ['ensureNode', 'joinNode', 'waitServing', 'removeNode', 'removeUnused']],
  ['a copy and its end', ['preCopy', 'cleanUp']],
  ['a cut-over', ['cutOver']],
];

describe.each<Act>(['kill', 'cancel'])('%s', (act) => {
  const steps = stepsOf(act);

  test('every step is in a group', () => {
    const grouped = GROUPS.flatMap(([, activities]) => activities);
    expect(steps.map(activityOf).filter((name) => !grouped.includes(name))).toEqual([]);
  });

  test.each(GROUPS)('%s: each operation ends as it should, nothing is left over, and nothing shows', (_, activities) =>
    withSteps(async (run) => {
      await run.all(steps.filter((step) => activities.includes(activityOf(step))));
      expectFlawless(await run.judge());
    }),
  );
});
