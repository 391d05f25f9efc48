/** All activities of one worker. */
import type { ActivityDeps } from './deps.ts';
import { createMoveActivities } from './move.ts';
import { createPodActivities } from './pods.ts';
import { createRingActivities } from './ring.ts';
import type { AllActivities } from './types.ts';
import { createVerifyActivities } from './verify.ts';

export function createActivities(deps: ActivityDeps): AllActivities {
  return {
    ...createRingActivities(deps),
    ...createPodActivities(deps),
    ...createMoveActivities(deps),
    ...createVerifyActivities(deps),
  };
}
