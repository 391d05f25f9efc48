/** The steps of the model by name, and what they and the states look like to people. */
import type { Bounds } from './bounds.ts';
import type { Logs } from './log.ts';
import {
  attemptAt,
  CLAIM,
  COPIED,
  FOLDED,
  levelOf,
  logOf,
  MOVE,
  NODES,
  nodeAt,
  nodeNames,
  rowsAt,
  SLOTS,
  stateOf,
  ZOMBIE,
} from './state.ts';
import type { PlannedMove } from './whole-steps.ts';

/** Kinds of steps, each with the file that it stands for. */
export const kinds = [
  ['start', 'workflows/move-partitions.ts, activities/ring.ts'],
  ['claim again', 'activities/move.ts'],
  ['complete', 'activities/move.ts cleanUp'],
  ['unfreeze', 'activities/ring.ts'],
  ['prepare', 'node/steward.ts, jobsdb/imports.ts'],
  ['begin pass', 'jobsdb/copy.ts, copy-marks.ts'],
  ['end pass', 'jobsdb/copy-later.ts, copy-stream.ts'],
  ['quiesce', 'node/steward.ts'],
  ['nothing is in flight', 'node/steward.ts'],
  ['fence', 'node/steward.ts'],
  ['begin last rows', 'jobsdb/copy.ts'],
  ['end last rows and verify', 'jobsdb/copy.ts'],
  ['hand over', 'activities/move.ts'],
  ['refused', 'activities/move.ts'],
  ['abort', 'activities/move.ts'],
  ['worker dies', 'workers/'],
  ['attempt becomes a zombie', 'workers/'],
  ['write ended', 'jobsdb/overtaken.ts'],
  ['fold', 'node/steward.ts'],
  ['restart', 'node/main.ts'],
  ['intake begins', 'node/intake.ts, router/'],
  ['late message', 'node/intake.ts, router/'],
  ['intake commits', 'node/intake.ts'],
  ['process', 'node/processor.ts'],
  ['deliver', 'node/delivery.ts'],
  ['result', 'node/delivery.ts'],
  ['put away', 'node/steward.ts, jobsdb/stale.ts'],
  ['dead-man', 'node/steward.ts'],
  ['open early', 'planted'],
] as const;
export type Kind = (typeof kinds)[number][0];
export const kindNumber = Object.fromEntries(kinds.map(([kind], n) => [kind, n])) as Record<Kind, number>;
export const K = kindNumber;

// Of which ways out a step may be a part.
export const TO_THE_END = 1;
export const WITHOUT_WORKERS = 2;
export const TO_THE_HAND_OVER = 4;
export const WITH_WORKERS = TO_THE_END | TO_THE_HAND_OVER;
export const BY_ALL = WITH_WORKERS | WITHOUT_WORKERS;
export const NOBODY = 0;

export class Telling {
  readonly #bounds: Bounds;
  readonly #logs: Logs;
  readonly #moves: readonly PlannedMove[];

  constructor(bounds: Bounds, logs: Logs, moves: readonly PlannedMove[]) {
    this.#bounds = bounds;
    this.#logs = logs;
    this.#moves = moves;
  }

  line(step: number, before: Uint8Array, after: Uint8Array): string {
    const [kind, file] = kinds[step >> 4]!;
    return `${this.sentence(kind, step & 15, before, after).padEnd(64)} ${this.draw(after).padEnd(46)} ${file}`;
  }

  sentence(kind: Kind, about: number, before: Uint8Array, after: Uint8Array): string {
    const node = nodeNames[about % NODES]!;
    const partition = about >> 1;
    const event = `event ${about >> 1}`;
    const move = this.#moves[about]?.name.slice(3);
    const at = attemptAt(about % SLOTS);
    const attempt = `attempt ${before[at + CLAIM]}${about === ZOMBIE ? ' (the zombie)' : ''}`;
    const { from, to } = this.#moves[before[at + MOVE]!]!;
    const [source, target] = [nodeNames[from], nodeNames[to]];
    switch (kind) {
      case 'start':
        return `${move} is started, and claimed by attempt ${this.#logs.at(logOf(after)).version}`;
      case 'claim again':
        return `${move} is claimed by a new attempt`;
      case 'complete':
        return `${move} is certified and completed`;
      case 'unfreeze':
        return 'the operation ends: the ring is unfrozen';
      case 'prepare':
        return `${attempt}: ${target} prepares the copy`;
      case 'begin pass':
        return `${attempt}: marks taken at ${source}, transaction open at ${target}`;
      case 'end pass':
        return `${attempt}: the pass commits at ${target}`;
      case 'quiesce':
        return `${attempt}: ${source} quiesces`;
      case 'nothing is in flight':
        return `${attempt}: hears that nothing is in flight at ${source}`;
      case 'fence':
        return `${attempt}: ${source} fences`;
      case 'begin last rows':
        return `${attempt}: transaction for the last rows open at ${target}`;
      case 'end last rows and verify':
        return `${attempt}: the last rows commit at ${target}, the sets are compared`;
      case 'hand over':
        return `${attempt}: hands over`;
      case 'refused':
        return `${attempt}: is refused, and ends`;
      case 'abort':
        return `${attempt}: has trouble, and appends its abort`;
      case 'worker dies':
        return `${attempt}: its worker dies`;
      case 'attempt becomes a zombie':
        return `${attempt}: is given up, and runs on as a zombie`;
      case 'write ended':
        return `${attempt}: was overtaken, and ${target} ends its open write`;
      case 'fold':
        return `${node} folds up to version ${after[nodeAt(about) + FOLDED]}`;
      case 'restart':
        return `${node} is killed and starts again`;
      case 'intake begins':
        return `a request for partition ${partition} is checked by ${node}`;
      case 'late message':
        return `a late request for partition ${partition} is checked by ${node}`;
      case 'intake commits':
        return `${node} stores it, and answers 200`;
      case 'process':
        return `${node} processes ${event}`;
      case 'deliver':
        return `${node} delivers ${event}`;
      case 'result':
        return `${node} writes the result of ${event}`;
      case 'put away':
        return `${node} puts away what is pending of partition ${partition}`;
      case 'dead-man':
        return `dead-man of ${node}, partition ${partition}`;
      case 'open early':
        return `${node} opens what it has a copy of`;
    }
  }

  /** Nodes with the states of their partitions, how far they have folded, and where the jobs of each event stand. */
  draw(state: Uint8Array): string {
    const log = this.#logs.at(logOf(state));
    const states = ['closed', 'open', 'paused', 'fenced'];
    const levels = ['-', 'gw', 'rt', 'executing', 'done', 'migrated', '-', '-'];
    const nodes = nodeNames.map((name, node) => {
      const rows = this.#bounds.owners.map((_, partition) => states[stateOf(state, node, partition)]);
      return `${name} v${state[nodeAt(node) + FOLDED]} ${rows.join(',')}`;
    });
    const events = this.#bounds.events.map((_, event) => {
      const copied = levels[state[rowsAt(event) + COPIED]! & 7];
      const at = [0, 1].map((node) => levels[levelOf(state, event, node)]);
      return `${event}: ${at.join(' | ')}${copied === '-' ? '' : ` copied ${copied}`}`;
    });
    return `v${log.version} ${nodes.join('; ')}; ${events.join(', ')}`;
  }
}
