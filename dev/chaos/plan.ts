/** What a chaos run will do, all of it from the seed: which faults, when and how, and which operations meanwhile. Pure. */
import { seededRandom } from '../traffic/random.ts';

export const chaosKinds = ['worker', 'node', 'postgres', 'router', 'temporal', 'ringstore', 'network'] as const;
export type ChaosKind = (typeof chaosKinds)[number];

/**
 * Of processes: `SIGQUIT` is PostgreSQL's immediate shutdown; `SIGSTOP` stalls, and lets go on later. Of an arrow of the network: refused and reset; half-open; only
 * the answers are lost; late; slow (dev/faults/tcp-proxy.ts).
 */
export type ChaosBlow = 'SIGKILL' | 'SIGQUIT' | 'SIGSTOP' | 'cut' | 'silent' | 'no answers' | 'delay' | 'slow';

/** When a fault strikes, once its time has come: in the middle of a cut-over, or whatever goes on. */
export type ChaosMoment = 'cut-over' | 'any';

export interface PlannedFault {
  /** After the beginning of the traffic, at the earliest. */
  readonly atMs: number;
  readonly kind: ChaosKind;
  readonly blow: ChaosBlow;
  /** How long it stays down, stalled or cut off, at least. 0 where the platform alone starts it again. */
  readonly forMs: number;
  readonly moment: ChaosMoment;
  /** So long after a cut-over was seen. */
  readonly lateMs: number;
  /** In [0, 1): which of those that could be hit. */
  readonly pick: number;
}

export interface PlannedOperation {
  readonly to: number;
  /** Somebody changes his mind, so long after its start; an undo comes as well where the operation has ended by then. Null: nobody does. */
  readonly change: { readonly action: 'cancel' | 'undo'; readonly afterMs: number } | null;
}

export interface ChaosPlan {
  readonly faults: readonly PlannedFault[];
  /** More than there is time for. */
  readonly operations: readonly PlannedOperation[];
}

/** The first fault strikes when operations are under way. */
const QUIET_MS = 3_000;
/** Time for a few moves in between, and now and then for none. */
const GAP_MS = { least: 1_500, most: 9_500 };
/** One of so many is aimed at a cut-over: were it every one, no move would ever come to its end. */
const AIMED_EVERY = 3;
/** Longer than a source stays fenced: the dead-man acts. Rare, as nothing else happens meanwhile. */
const LONG_MS = { least: 11_000, most: 14_000 };
const LONG_SHARE = 0.1;
const USUAL_MS = { least: 500, most: 6_000 };
const SHORT_MS = 200;
const SIZE_MAX = 4;
/** Of operations: cancelled, and undone. */
const CHANGED_SHARES = { cancel: 0.1, undo: 0.1 };
const CHANGED_AFTER_MS = { least: 500, most: 8_000 };

const blows: Readonly<Record<ChaosKind, readonly ChaosBlow[]>> = {
  worker: ['SIGKILL', 'SIGSTOP'],
  node: ['SIGKILL', 'SIGSTOP'],
  postgres: ['SIGKILL', 'SIGQUIT', 'SIGSTOP'],
  router: ['SIGKILL', 'SIGSTOP'],
  temporal: ['SIGKILL', 'SIGSTOP'],
  ringstore: ['SIGKILL', 'SIGQUIT', 'SIGSTOP'],
  network: ['cut', 'silent', 'no answers', 'delay', 'slow'],
};

/** Kinds take turns in an order of the seed's, so that none is left out by chance. */
export function planChaos(seed: number, seconds: number, kinds: readonly ChaosKind[]): ChaosPlan {
  const random = seededRandom(seed ^ 0xc4a05);
  const between = ({ least, most }: { least: number; most: number }): number =>
    Math.round(least + random() * (most - least));
  const pickOf = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)]!;

  const faults: PlannedFault[] = [];
  let turn: ChaosKind[] = [];
  for (let atMs = QUIET_MS; atMs < seconds * 1_000; atMs += between(GAP_MS)) {
    if (turn.length === 0) turn = shuffled(kinds, random);
    const kind = turn.shift()!;
    const blow = pickOf(blows[kind]);
    const long = random() < LONG_SHARE ? between(LONG_MS) : random() < 0.3 ? SHORT_MS : between(USUAL_MS);
    const isRestartedByPlatform = blow !== 'SIGSTOP' && (kind === 'node' || kind === 'postgres');
    faults.push({
      atMs,
      kind,
      blow,
      forMs: isRestartedByPlatform ? 0 : long,
      moment: faults.length % AIMED_EVERY === 0 ? 'cut-over' : 'any',
      lateMs: random() < 0.5 ? 0 : between({ least: 1, most: 80 }),
      pick: random(),
    });
  }

  const operations: PlannedOperation[] = [];
  let size = 2;
  while (operations.length < Math.ceil(seconds / 2) + 10) {
    const to = pickOf([1, 2, 3, SIZE_MAX].filter((other) => other !== size));
    const mind = random();
    const isChanged = mind < CHANGED_SHARES.cancel + CHANGED_SHARES.undo;
    const action = mind < CHANGED_SHARES.cancel ? 'cancel' : 'undo';
    operations.push({ to, change: isChanged ? { action, afterMs: between(CHANGED_AFTER_MS) } : null });
    size = to;
  }
  return { faults, operations };
}

/** Nodes that a run starts with. */
export const FIRST_SIZE = 2;

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const left = [...items];
  const taken: T[] = [];
  while (left.length > 0) taken.push(...left.splice(Math.floor(random() * left.length), 1));
  return taken;
}
