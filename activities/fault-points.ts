/** The fault points of the activities (kit/fault-points.ts): around each of them, and inside those that change more than one thing. */
import { cancellationSignal } from '@temporalio/activity';
import { atFaultPoint } from '../kit/fault-points.ts';
import type { AllActivities } from './types.ts';

type ActivityName = keyof AllActivities;

/** An activity that is missing here does not compile. */
const ACTIVITIES: Readonly<Record<ActivityName, true>> = {
  readRing: true,
  makeRing: true,
  freeze: true,
  unfreeze: true,
  joinNode: true,
  markNodes: true,
  forgetNode: true,
  planUndo: true,
  startMove: true,
  abortMove: true,
  ensureNode: true,
  waitServing: true,
  removeNode: true,
  removeUnused: true,
  preCopy: true,
  cutOver: true,
  cleanUp: true,
  verifyCluster: true,
  checkCluster: true,
  compareMoves: true,
};
export const activityNames = Object.keys(ACTIVITIES) as readonly ActivityName[];

/** Where nothing has happened yet, and where all has and nobody knows. */
export const around = ['before its effect', 'after its effect'] as const;

/** Between two effects of one activity, in their order. */
export const inside = [
  'unfreeze: moves aborted',
  'removeNode: seen empty',
  'removeNode: left the ring',
  'removeNode: backend gone',
  'preCopy: claimed',
  'preCopy: target prepared',
  'preCopy: pass copied',
  'cutOver: claimed',
  'cutOver: target prepared',
  'cutOver: caught up',
  'cutOver: quiesced',
  'cutOver: delta copied',
  'cutOver: fenced',
  'cutOver: last rows copied',
  'cutOver: verified',
  'cutOver: about to hand over',
  'cutOver: handed over',
  'cleanUp: nodes settled',
  'cleanUp: certified',
] as const;

type InsidePoint = (typeof inside)[number];
export type FaultPoint = `${ActivityName}: ${(typeof around)[number]}` | InsidePoint;

/** All of them. */
export const faultPoints: readonly FaultPoint[] = [
  ...activityNames.flatMap((name) => around.map((when): FaultPoint => `${name}: ${when}`)),
  ...inside,
];

/** Between two effects. Costs nothing where fault points are off. */
export const faultPoint = (point: InsidePoint): Promise<void> | undefined => atFaultPoint(point, cancellationSignal);

/** Each activity with the two points around it. */
export function withFaultPoints(activities: AllActivities): AllActivities {
  const at = (point: FaultPoint): Promise<void> | undefined => atFaultPoint(point, cancellationSignal);
  const wrapped = Object.entries(activities).map(([key, activity]) => {
    const name = key as ActivityName;
    return [
      name,
      async (input: never) => {
        await at(`${name}: before its effect`);
        const result = await (activity as (input: never) => Promise<unknown>)(input);
        await at(`${name}: after its effect`);
        return result;
      },
    ];
  });
  return Object.fromEntries(wrapped) as AllActivities;
}
