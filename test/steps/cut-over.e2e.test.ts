/**
 * Goal: a worker that is killed anywhere in a cut-over costs no event and no order, and no client sees it; a cancellation in the middle of one is a clean end.
 * Method: a real cluster under traffic grows and shrinks; each operation's worker is stopped at another fault point, and killed (SIGKILL) or cancelled there.
 * These are points behind which the cluster is in another state than before; all others, of all activities, are in the long suites beside this.
 */
import { test } from 'vitest';
import type { FaultPoint } from '../../activities/fault-points.ts';
import { expectFlawless } from '../e2e/cluster.ts';
import { stepsOf } from './plan.ts';
import { withSteps } from './support.ts';

const KILLED_AT: readonly FaultPoint[] = [
  'cutOver: quiesced',
  'cutOver: fenced',
  'cutOver: last rows copied',
  'cutOver: about to hand over',
  'cutOver: handed over',
];
const CANCELLED_AT: readonly FaultPoint[] = ['cutOver: fenced', 'cutOver: about to hand over'];

/** One partition moves in each operation: what is tested is how that one gets there. */
const PARTITIONS = 4;
/** Each kill takes 15 s at least, until Temporal believes that the worker is dead. */
const TIMEOUT_MS = 600_000;

test(
  'killed or cancelled in the middle of a cut-over, each operation finishes or is undone, and nothing shows',
  () =>
    withSteps(
      async (steps) => {
        await steps.all([
          ...stepsOf('kill').filter(({ point }) => KILLED_AT.includes(point)),
          ...stepsOf('cancel').filter(({ point }) => CANCELLED_AT.includes(point)),
        ]);
        expectFlawless(await steps.judge());
      },
      { partitions: PARTITIONS },
    ),
  TIMEOUT_MS,
);
