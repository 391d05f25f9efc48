/** All activities of one worker. */
import { CodedError } from '../kit/errors.ts';
import { createCaretakers, createSignOfLife } from './caretakers.ts';
import { createCompareActivities } from './compare.ts';
import type { ActivityDeps } from './deps.ts';
import { asFailure } from './errors.ts';
import { withFaultPoints } from './fault-points.ts';
import { createMoveActivities } from './move.ts';
import { createPodActivities } from './pods.ts';
import { createRingActivities } from './ring.ts';
import type { AllActivities } from './types.ts';
import { createVerifyActivities } from './verify.ts';

export function createActivities(given: ActivityDeps): AllActivities {
  const deps = {
    ...given,
    reach: given.reach ?? createCaretakers(given),
    signOfLife: given.signOfLife ?? createSignOfLife(given),
  };
  const activities = {
    ...createRingActivities(deps),
    ...createPodActivities(deps),
    ...createMoveActivities(deps),
    ...createVerifyActivities(deps),
    ...createCompareActivities(deps),
  };
  return ofCluster(deps.onlyCluster, withFaultPoints(activities));
}

/**
 * Two releases that share a task queue would do each other's work: node-2 of one cluster started for the other. All that is asked names its cluster, so a
 * worker knows.
 */
function ofCluster(only: string | undefined, activities: AllActivities): AllActivities {
  if (only === undefined) return activities;
  const guarded = Object.entries(activities).map(([name, activity]) => [
    name,
    async (input: { readonly clusterId: string }) => {
      if (input.clusterId === only) return (activity as (input: never) => Promise<unknown>)(input as never);
      const message = `this worker serves the cluster ${only}, and its task queue brings work for ${input.clusterId}: give each release a task queue of its own (temporal.taskQueue)`;
      throw asFailure(new CodedError('WORKER_OTHER_CLUSTER', message, { serves: only, asked: input.clusterId }));
    },
  ]);
  return Object.fromEntries(guarded) as AllActivities;
}
