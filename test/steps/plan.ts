/**
 * Which operation comes by each fault point, and how that operation must end where the worker is killed there, and where it is cancelled there. What is missing
 * does not compile, and `points.unit.test.ts` says that nothing is left out in silence.
 */
import { type FaultPoint, faultPoints } from '../../activities/fault-points.ts';

export type Act = 'kill' | 'cancel';
type Ending = 'completed' | 'cancelled' | 'undone';

export interface Step {
  readonly point: FaultPoint;
  readonly act: Act;
  /** On the way up nodes are added, on the way down removed; `either`: both ways come by. */
  readonly way: 'up' | 'down' | 'either';
  /** Where the operation is cancelled first, so that it comes by the point at all. */
  readonly cancelFirstAt?: FaultPoint;
  /** Of two where the end of the operation and the cancellation may come in either order. */
  readonly ends: readonly Ending[];
}

/** The ways out (docs/operations.md). An undo of an operation that has ended is planned twice: before it holds the ring, and under its freeze. */
export const exits = [
  'drain',
  'undo of a drain',
  'forget',
  'undo',
  'undo, under its freeze',
  'undo under way',
] as const;
export type Exit = (typeof exits)[number];

/**
 * Who comes by: an operation that scales; one that is cancelled; one that makes a ring (make-ring.long.e2e.test.ts); a verification; only these ways out
 * (exits.long.e2e.test.ts).
 */
type By =
  | { readonly way: Step['way']; readonly cancelFirstAt?: FaultPoint }
  | { readonly exits: readonly Exit[] }
  | 'make ring'
  | 'verification';

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
  // A drain marks one node, and its undo activates that one: there is no second one between which and the first a point could lie.
  markNodes: { exits: ['drain', 'undo of a drain'] },
  forgetNode: { exits: ['forget'] },
  planUndo: { exits: ['undo', 'undo, under its freeze', 'undo under way'] },
  checkCluster: 'verification',
  compareMoves: 'verification',
};

/** The name of the activity that a point is around, or in. */
export const activityOf = ({ point }: { readonly point: FaultPoint }): string => point.slice(0, point.indexOf(':'));
const byOf = (point: FaultPoint): By => OF_ACTIVITY[activityOf({ point })] ?? either;

/** Where a cancellation is refused: all is done. */
export const TOO_LATE: ReadonlySet<FaultPoint> = new Set<FaultPoint>([
  'unfreeze: before its effect',
  'unfreeze: moves aborted',
  'unfreeze: after its effect',
]);

/** The last things that an operation does before it lets go: a cancellation there may find nothing left to cancel. */
const LAST = ['verifyCluster: ', 'removeNode: '];

function endingsOf(point: FaultPoint, act: Act, by: { readonly cancelFirstAt?: FaultPoint }): readonly Ending[] {
  if (by.cancelFirstAt !== undefined) return ['cancelled'];
  if (act === 'kill' || TOO_LATE.has(point)) return ['completed'];
  return LAST.some((start) => point.startsWith(start)) ? ['completed', 'cancelled'] : ['cancelled'];
}

/** What an operation that scales can be made to meet. */
export function stepsOf(act: Act): Step[] {
  return faultPoints.flatMap((point): Step[] => {
    const by = byOf(point);
    if (typeof by === 'string' || 'exits' in by) return [];
    return [{ point, act, ...by, ends: endingsOf(point, act, by) }];
  });
}

export interface ExitStep {
  readonly exit: Exit;
  readonly point: FaultPoint;
  readonly act: Act;
  /** The point that it comes by before; it is let go on from there. */
  readonly after?: FaultPoint;
  readonly ends: Ending;
}

const AFTER: { readonly [exit in Exit]?: FaultPoint } = {
  'undo, under its freeze': 'freeze: after its effect',
  'undo under way': 'cleanUp: after its effect', // something is moved by then
};

/** What these ways out can be made to meet. */
export function exitStepsOf(act: Act, wanted: readonly Exit[]): ExitStep[] {
  return faultPoints.flatMap((point): ExitStep[] => {
    const by = byOf(point);
    if (typeof by === 'string' || !('exits' in by)) return [];
    return by.exits
      .filter((exit) => wanted.includes(exit))
      .map((exit) => {
        const done = exit === 'undo under way' ? 'undone' : 'completed';
        const after = AFTER[exit];
        return { exit, point, act, ends: act === 'cancel' ? 'cancelled' : done, ...(after ? { after } : {}) };
      });
  });
}

/** Points that no operation that scales comes by, and no way out. */
export const pointsOf = (by: 'make ring' | 'verification'): FaultPoint[] =>
  faultPoints.filter((point) => byOf(point) === by);

/** Inside these an activity beats, and so hears of a cancellation. Elsewhere it ends as if nobody had cancelled, and its workflow goes no further. */
const HEARS = ['removeNode: ', 'preCopy: ', 'cutOver: '];
const AROUND = [': before its effect', ': after its effect'];
/** Behind these it goes to its end, cancelled or not. */
const NO_WAY_BACK: ReadonlySet<FaultPoint> = new Set<FaultPoint>([
  'removeNode: left the ring',
  'removeNode: backend gone',
]);

/** Whether an activity that stands there goes on only once it knows that it is cancelled. */
export const hearsCancel = ({ point, cancelFirstAt }: Step): boolean =>
  cancelFirstAt === undefined &&
  HEARS.some((start) => point.startsWith(start)) &&
  !AROUND.some((end) => point.endsWith(end)) &&
  !NO_WAY_BACK.has(point);
