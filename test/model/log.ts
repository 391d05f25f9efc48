/**
 * The ring's log as the model has it: real events, decided by `ring/decide.ts` and folded by `ring/ring.ts`. Each log that can come about is kept once, under a
 * number, with the facts that the steps ask for; so the production code runs once for each log and command, and a state holds a log in two bytes.
 */
import { decide, type RingCommand, RingRefusal } from '../../ring/decide.ts';
import type { MoveProof, RingEvent } from '../../ring/events.ts';
import { evolve, moveOf, noRing, type Ring } from '../../ring/ring.ts';

/** `started` and `handed over` as the ring has them; a move that the ring does not have is either not begun or over. */
export const moveStatus = { unknown: 0, started: 1, handedOver: 2, aborted: 3, completed: 4 } as const;

export interface Log {
  readonly number: number;
  readonly version: number;
  readonly ring: Ring;
  readonly event: RingEvent | null;
  /** Numbers of the logs that this one continues, by version; itself last. */
  readonly upTo: readonly number[];
  /** Index of each partition's owner among the nodes. */
  readonly owners: readonly number[];
  /** By number of the move, from 1. */
  readonly status: readonly number[];
  readonly tokens: readonly number[];
  readonly handedOverAt: readonly number[];
  readonly isFrozen: boolean;
  /** Claims that a later one of the same move has replaced, and the version of that. */
  readonly replaced: readonly { readonly move: number; readonly version: number; readonly by: number }[];
  /** Aborted tries, with the versions of all their events; the last is the abort. */
  readonly aborted: readonly { readonly move: number; readonly versions: readonly number[] }[];
  /** Whether the log of a completed move tells how many jobs it had, which nobody asks any more. */
  readonly tellsJobs: boolean;
}

/** How a log reads with some of its events left out. */
export interface Shortened {
  readonly log: Log;
  /** By old version: the new one, that of the last event before it where it was left out itself. */
  readonly versions: readonly number[];
  /** By old number of a move: the new one. */
  readonly moves: readonly number[];
}

/** Numbers fit into two bytes. */
const LOGS_MAX = 65_536;
/** Keys of commands lie below. */
export const KEYS_MAX = 65_536;

export class Logs {
  readonly #all: Log[] = [];
  /** What was decided, by number of the log and key of the command; -1: refused. */
  readonly #decided = new Map<number, number>();
  readonly #appended = new Map<string, Log>();
  readonly #shortened = new Map<string, Shortened>();
  readonly #nodes: readonly string[];
  readonly #moves: readonly string[];
  readonly #tries: number;

  /** `moves`: the names of all that may ever be started, `tries` for each move; their numbers are their places, from 1. */
  constructor(nodes: readonly string[], moves: readonly string[], tries: number) {
    this.#nodes = nodes;
    this.#moves = moves;
    this.#tries = tries;
    this.#add(noRing('model'), null, []);
  }

  at(number: number): Log {
    return this.#all[number]!;
  }

  /** As it was at an earlier version. */
  earlier(log: Log, version: number): Log {
    return this.#all[log.upTo[version]!]!;
  }

  /**
   * The log after `command`, which may be this one: it had happened already. Null: the ring refuses it. As everyone appends: decided on the log's end, appended
   * if nobody was first (ringstore/ringstore.ts). `key`: tells commands apart.
   */
  after(log: Log, key: number, command: () => RingCommand): Log | null {
    const asked = log.number * KEYS_MAX + key;
    const known = this.#decided.get(asked);
    if (known !== undefined) return known < 0 ? null : this.#all[known]!;
    const next = this.#decide(log, command());
    this.#decided.set(asked, next?.number ?? -1);
    return next;
  }

  /** Without the events at `versions`; tries that are left out make room for the next of their move. Replayed by the production code, as any log. */
  shorten(log: Log, versions: readonly number[], triesLeftOut: readonly number[]): Shortened {
    const key = `${log.number} ${versions.join()}`;
    const known = this.#shortened.get(key);
    if (known) return known;
    const moves = [0, ...this.#moves.map((_, n) => n + 1)];
    for (const out of [...triesLeftOut].sort((a, b) => b - a)) {
      const end = (Math.floor((out - 1) / this.#tries) + 1) * this.#tries;
      for (let move = out; move <= end; move += 1) moves[move]! -= 1;
    }
    const renamed = (event: RingEvent): RingEvent => {
      if (!('move' in event)) return event;
      const move = this.#moves.indexOf(event.move) + 1;
      const name = this.#moves[moves[move]! - 1]!;
      const isCompleted = log.status[move] === moveStatus.completed;
      if (event.type === 'move claimed') return { ...event, move: name, attempt: 'replayed' };
      if (event.type === 'partitions handed over') {
        const token = newVersions[event.token]!;
        return isCompleted ? { ...event, move: name, token, proof: noProof } : { ...event, move: name, token };
      }
      if (event.type === 'move completed') return { type: event.type, move: name };
      return { ...event, move: name };
    };
    const newVersions: number[] = [0];
    let next = this.#all[0]!;
    for (let version = 1; version <= log.version; version += 1) {
      const { event } = this.#all[log.upTo[version]!]!;
      if (!versions.includes(version)) next = this.#append(next, renamed(event!));
      newVersions.push(next.version);
    }
    const shortened = { log: next, versions: newVersions, moves };
    this.#shortened.set(key, shortened);
    return shortened;
  }

  /** Equal logs are one. */
  #append(log: Log, event: RingEvent): Log {
    const isAttempt = event.type === 'move claimed';
    const key = `${log.number} ${JSON.stringify(isAttempt ? { ...event, attempt: '' } : event)}`;
    const known = this.#appended.get(key);
    if (known) return known;
    // Attempts are told apart by where they stand.
    const stored = isAttempt ? { ...event, attempt: `attempt-${log.version + 1}` } : event;
    const next = this.#add(evolve(log.ring, stored), stored, log.upTo);
    this.#appended.set(key, next);
    return next;
  }

  #decide(log: Log, command: RingCommand): Log | null {
    let events: RingEvent[];
    try {
      events = decide(log.ring, command);
    } catch (error) {
      if (error instanceof RingRefusal) return null;
      throw error;
    }
    let next = log;
    for (const event of events) next = this.#append(next, event);
    return next;
  }

  #add(ring: Ring, event: RingEvent | null, before: readonly number[]): Log {
    const number = this.#all.length;
    if (number === LOGS_MAX) throw new Error('more logs than a state has room for: the bounds are too wide');
    const last = before.length > 0 ? this.#all[before.at(-1)!] : undefined;
    const open = this.#moves.map((move) => moveOf(ring, move));
    const status = open.map((move, n) => {
      if (move) return move.state === 'started' ? moveStatus.started : moveStatus.handedOver;
      if (event?.type === 'move aborted' && event.move === this.#moves[n]) return moveStatus.aborted;
      if (event?.type === 'move completed' && event.move === this.#moves[n]) return moveStatus.completed;
      return last?.status[n + 1] ?? moveStatus.unknown;
    });
    const log: Log = {
      number,
      version: ring.version,
      ring,
      event,
      upTo: [...before, number],
      owners: ring.owners.map((owner) => this.#nodes.indexOf(owner)),
      status: [0, ...status],
      tokens: [0, ...open.map((move) => move?.token ?? 0)],
      handedOverAt: [0, ...open.map((move) => move?.handedOverAt ?? 0)],
      isFrozen: ring.freeze !== null,
      ...this.#leftOver(before, event),
    };
    this.#all.push(log);
    return log;
  }

  /** What of a log may one day be left out. */
  #leftOver(before: readonly number[], last: RingEvent | null): Pick<Log, 'replaced' | 'aborted' | 'tellsJobs'> {
    const events = [...before.slice(1).map((number) => this.#all[number]!.event!), ...(last ? [last] : [])];
    const of = new Map<
      string,
      { versions: number[]; claims: number[]; jobs: number; end: string; isHandedOver: boolean }
    >();
    for (const [n, event] of events.entries()) {
      if (!('move' in event)) continue;
      const move = of.get(event.move) ?? { versions: [], claims: [], jobs: 0, end: '', isHandedOver: false };
      of.set(event.move, move);
      move.versions.push(n + 1);
      if (event.type === 'move claimed') move.claims.push(n + 1);
      if (event.type === 'partitions handed over') {
        move.jobs = event.proof.jobsPending;
        move.isHandedOver = true;
      }
      if (event.type === 'move completed' && event.certificate !== undefined) move.jobs += 1;
      move.end = event.type;
    }
    const moves = [...of.entries()];
    return {
      replaced: moves.flatMap(([name, { claims }]) =>
        claims.slice(0, -1).map((version, n) => ({ move: this.#moves.indexOf(name) + 1, version, by: claims[n + 1]! })),
      ),
      aborted: moves.flatMap(([name, { versions, end, isHandedOver }]) =>
        end === 'move aborted' && !isHandedOver ? [{ move: this.#moves.indexOf(name) + 1, versions }] : [],
      ),
      tellsJobs: moves.some(([, { jobs, end }]) => end === 'move completed' && jobs > 0),
    };
  }
}

const noProof: MoveProof = { jobsPending: 0, jobsCopied: 0, prefixes: [] };
