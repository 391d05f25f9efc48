/**
 * Which operation comes by each fault point, and how that operation must end where the worker is killed there, and where it is cancelled there. What is missing
 * does not compile, and `points.unit.test.ts` says that nothing is left out in silence.
 */
import { type FaultPoint, faultPoints } from '../../activities/fault-points.ts';

export type Act = 'kill' | 'cancel';
type Ending = 'completed' | 'cancelled';

export interface Step {
  readonly point: FaultPoint;
  readonly act: Act;
  /** On the way up nodes are added, on the way down removed; `either`: both ways come by. */
  readonly way: 'up' | 'down' | 'either';
  /** Where the operation is cancelled first, so that it comes by the point at all. */
  readonly cancelFirstAt?: FaultPoint;
  readonly ends: Ending;
}

/** Who comes by: an operation that scales; one that is cancelled; one that makes a ring (make-ring.long.e2e.test.ts); a verification. */
type By = { readonly way: Step['way']; readonly cancelFirstAt?: FaultPoint } | 'make ring' | 'verification';

const either: By = { way: 'either' };
const up: By = { way: 'up' };
const down: By = { way: 'down' };

/** Of the points around an activity, by its name. */
const OF_ACTIVITY: Readonly<Record<string, By>> = {
  makeRing: 'make ring',
  joinNode: up,
  ensureNode: up,
  waitServing: up,
  removeNode: down,
  removeUnused: { way: 'up', cancelFirstAt: 'joinNode: after its effect' },
  abortMove: { way: 'either', cancelFirstAt: 'preCopy: pass copied' },
  checkCluster: 'verification',
  compareMoves: 'verification',
};

const byOf = (point: FaultPoint): By => OF_ACTIVITY[point.slice(0, point.indexOf(':'))] ?? either;

/** A cancellation that comes when all is done, or is too late to be taken, changes nothing any more. */
const TOO_LATE: ReadonlySet<FaultPoint> = new Set<FaultPoint>([
  'unfreeze: before its effect',
  'unfreeze: moves aborted',
  'unfreeze: after its effect',
]);

/** What an operation that scales can be made to meet. */
export function stepsOf(act: Act): Step[] {
  return faultPoints.flatMap((point): Step[] => {
    const by = byOf(point);
    if (typeof by === 'string') return [];
    const isCancelled = by.cancelFirstAt !== undefined || (act === 'cancel' && !TOO_LATE.has(point));
    return [{ point, act, ...by, ends: isCancelled ? 'cancelled' : 'completed' }];
  });
}

export const pointsOf = (by: 'make ring' | 'verification'): FaultPoint[] =>
  faultPoints.filter((point) => byOf(point) === by);

/** Inside these an activity beats, and so hears of a cancellation. Elsewhere it ends as if nobody had cancelled, and its workflow goes no further. */
const HEARS = ['removeNode: ', 'preCopy: ', 'cutOver: '];
const AROUND = [': before its effect', ': after its effect'];
/** From here on the hand-over is under way: it wins or loses in the ring's log, and nothing is asked any more. */
const COMMITTED: ReadonlySet<FaultPoint> = new Set<FaultPoint>([
  'removeNode: left the ring',
  'removeNode: backend gone',
]);

/** Whether an activity that stands there goes on only once it knows that it is cancelled. */
export const hearsCancel = ({ point, cancelFirstAt }: Step): boolean =>
  cancelFirstAt === undefined &&
  HEARS.some((start) => point.startsWith(start)) &&
  !AROUND.some((end) => point.endsWith(end)) &&
  !COMMITTED.has(point);
