/** What makes the model's steps whole (protocol.ts): states that nothing can tell apart read the same. */
import { type Log, type Logs, moveStatus } from './log.ts';
import {
  ACCEPTED,
  ATTEMPT_BYTES,
  attemptAt,
  CLAIM,
  CLAIMED,
  COPIED,
  COPIED_MOST,
  COPY_MOVE,
  COPY_PASS,
  COPY_TOKEN,
  COPYING,
  COPYING_REST,
  CRASHES,
  copyAt,
  DELIVERED,
  EVENTS,
  eventAt,
  FLAGS,
  FOLDED,
  IDLE,
  INTAKE,
  inFlightAt,
  isPending,
  LEDGER,
  LOG,
  levelOf,
  logOf,
  MIGRATED,
  MOVE,
  NODES,
  NONE,
  nodeAt,
  OPEN,
  PARTITIONS,
  PC,
  QUIESCED,
  QUIESCING,
  rowAt,
  rowsAt,
  SEEN,
  SLOTS,
  STARTS,
  setLevel,
  setLog,
  VERIFIED,
  ZOMBIE,
  ZOMBIES,
} from './state.ts';

/** A try of a move; number 0 is none. */
export interface PlannedMove {
  readonly index: number;
  readonly partition: number;
  readonly from: number;
  readonly to: number;
  readonly name: string;
}

/** Where a state keeps its budgets. */
export const budgets: readonly number[] = [CRASHES, ZOMBIES, STARTS];

/** Events that change no row of a node: a node that is behind in these alone is behind in nothing. */
export function isQuiet({ event }: Log): boolean {
  switch (event?.type) {
    case 'move started':
    case 'move completed':
    case 'ring unfrozen':
      return true;
    default:
      return false;
  }
}

export class WholeSteps {
  readonly #logs: Logs;
  readonly #moves: readonly PlannedMove[];
  readonly #eventsOf: readonly (readonly number[])[];
  readonly #isFine: boolean;
  readonly #told = new Map<number, string>();
  #next!: Uint8Array;

  constructor(logs: Logs, moves: readonly PlannedMove[], eventsOf: readonly (readonly number[])[], isFine: boolean) {
    this.#logs = logs;
    this.#moves = moves;
    this.#eventsOf = eventsOf;
    this.#isFine = isFine;
  }

  /** What nothing depends on any more reads the same in all states. */
  canonical(next: Uint8Array, isFine = this.#isFine): void {
    this.#next = next;
    const log = this.#logs.at(logOf(next));
    if (!isFine) this.#foldClaims(log);
    for (let slot = 0; slot < SLOTS; slot += 1)
      if (this.#isDoomed(slot, log, isFine)) next.fill(0, attemptAt(slot), attemptAt(slot) + ATTEMPT_BYTES);
    if (!isFine) this.#foldClaims(log);
    if (!isFine) this.#forgetWhatIsOver(log);
    if (log.replaced.length === 0 && log.aborted.length === 0 && !log.tellsJobs) return;
    const versions: number[] = [];
    const tries: number[] = [];
    for (const { move, version, by } of log.replaced) if (!this.#isReferred(move, version, by)) versions.push(version);
    for (const { move, versions: all } of log.aborted) {
      if (this.#isNamed(move, all.at(-1)!)) continue;
      versions.push(...all.filter((version) => !versions.includes(version)));
      tries.push(move);
    }
    if (versions.length === 0 && !log.tellsJobs) return;
    const short = this.#logs.shorten(log, versions, tries);
    setLog(next, short.log.number);
    const renumber = (at: number): void => {
      next[at] = short.versions[next[at]!]!;
    };
    const rename = (at: number): void => {
      next[at] = short.moves[next[at]!]!;
    };
    for (let node = 0; node < NODES; node += 1) {
      renumber(nodeAt(node) + FOLDED);
      for (let partition = 0; partition < PARTITIONS; partition += 1) {
        const row = rowAt(node, partition);
        renumber(row + 1);
        next[row] = (next[row]! & 3) | (short.moves[next[row]! >> 2]! << 2);
      }
    }
    for (let partition = 0; partition < PARTITIONS; partition += 1) {
      rename(copyAt(partition) + COPY_MOVE);
      renumber(copyAt(partition) + COPY_TOKEN);
    }
    for (let slot = 0; slot < SLOTS; slot += 1) {
      rename(attemptAt(slot) + MOVE);
      renumber(attemptAt(slot) + CLAIM);
    }
    this.canonical(next, isFine); // what was left out may have been in the way of more
  }

  /** A claim that nobody stands behind with an older one changes no answer. */
  #foldClaims(log: Log): void {
    const next = this.#next;
    for (let node = 0; node < NODES; node += 1) {
      const at = nodeAt(node) + FOLDED;
      while (next[at]! < log.version) {
        const after = this.#logs.earlier(log, next[at]! + 1);
        if (!isQuiet(after)) {
          if (after.event?.type !== 'move claimed') break;
          const move = after.tokens.indexOf(after.version);
          let isAwaited = false;
          for (let slot = 0; slot < SLOTS; slot += 1)
            if (next[attemptAt(slot) + MOVE] === move && next[attemptAt(slot) + CLAIM]! < after.version)
              isAwaited = true;
          if (isAwaited) break;
        }
        next[at]! += 1;
      }
    }
  }

  /** What no step looks at any more, as steps are not fine. */
  #forgetWhatIsOver(log: Log): void {
    const next = this.#next;
    for (let partition = 0; partition < PARTITIONS; partition += 1) {
      for (let node = 0; node < NODES; node += 1)
        if (next[rowAt(node, partition)]! <= OPEN) next[rowAt(node, partition) + 1] = 0;
      const copy = copyAt(partition);
      const isForgotten = log.status[next[copy + COPY_MOVE]!] === moveStatus.aborted; // as soon as its target folds it
      if (isForgotten) next.fill(0, copy + 1, copy + 3);
      if (next[copy + COPY_PASS]! > 1) next[copy + COPY_PASS] = 1;
      const source = this.#moves[next[copy + COPY_MOVE]!]!.from;
      let certifying = -1;
      for (let move = 1; move < this.#moves.length; move += 1)
        if (log.status[move] === moveStatus.handedOver && this.#moves[move]!.partition === partition)
          certifying = this.#moves[move]!.from;
      for (const event of this.#eventsOf[partition]!) {
        const at = rowsAt(event);
        if (isForgotten) next.fill(0, at, at + 2);
        next[at + COPIED]! &= 15;
        if (!isPending(next[at + COPIED]! & 7)) next[at + COPIED] = 0;
        if (!isPending(next[at + LEDGER]!)) next[at + LEDGER] = NONE;
        let isAtWork = isPending(next[at + COPIED]! & 7);
        for (let node = 0; node < NODES; node += 1) {
          const level = levelOf(next, event, node);
          if (isPending(level)) isAtWork = true;
          const isRead = node === source && next[at + LEDGER] !== NONE;
          const isCounted = node === certifying && level === MIGRATED;
          if (!isPending(level) && !isRead && !isCounted) setLevel(next, event, node, NONE);
        }
        if (!isAtWork && inFlightAt(next, event) < 0) next[eventAt(event) + FLAGS]! &= ACCEPTED | DELIVERED;
      }
    }
  }

  /** Whether some token is this version; or an attempt is refused for it by a node that has not folded `by`. */
  #isReferred(move: number, version: number, by: number): boolean {
    const next = this.#next;
    let isOlderAlive = false;
    for (let slot = 0; slot < SLOTS; slot += 1)
      if (next[attemptAt(slot) + MOVE] === move && next[attemptAt(slot) + CLAIM]! <= version) isOlderAlive = true;
    for (let node = 0; node < NODES; node += 1) {
      const folded = next[nodeAt(node) + FOLDED]!;
      if (isOlderAlive && folded >= version && folded < by) return true;
    }
    return this.#isToken(version);
  }

  #isToken(version: number): boolean {
    const next = this.#next;
    for (let node = 0; node < NODES; node += 1)
      for (let partition = 0; partition < PARTITIONS; partition += 1)
        if (next[rowAt(node, partition) + 1] === version) return true;
    for (let partition = 0; partition < PARTITIONS; partition += 1)
      if (next[copyAt(partition) + COPY_TOKEN] === version) return true;
    for (let slot = 0; slot < SLOTS; slot += 1) if (next[attemptAt(slot) + CLAIM] === version) return true;
    return false;
  }

  /** Whether anything has to do with this aborted move, or a node has not folded its abort. */
  #isNamed(move: number, abortedAt: number): boolean {
    const next = this.#next;
    for (let node = 0; node < NODES; node += 1) {
      const folded = next[nodeAt(node) + FOLDED]!;
      if (folded < abortedAt && folded > 0) return true;
      for (let partition = 0; partition < PARTITIONS; partition += 1)
        if (next[rowAt(node, partition)]! >> 2 === move) return true;
    }
    for (let partition = 0; partition < PARTITIONS; partition += 1)
      if (next[copyAt(partition) + COPY_MOVE] === move) return true;
    for (let slot = 0; slot < SLOTS; slot += 1) if (next[attemptAt(slot) + MOVE] === move) return true;
    return false;
  }

  /** An attempt that can change nothing any more, whatever happens: it ends. */
  #isDoomed(slot: number, log: Log, isFine: boolean): boolean {
    const next = this.#next;
    const at = attemptAt(slot);
    const pc = next[at + PC]! & 15;
    if (pc === IDLE) return false;
    const move = next[at + MOVE]!;
    const claim = next[at + CLAIM]!;
    const { partition, from, to } = this.#moves[move]!;
    const isOpen = log.status[move] === moveStatus.started;
    if (isOpen && (log.tokens[move] === claim || pc >= QUIESCING || slot !== ZOMBIE)) return false;
    const mayBeObeyed = (node: number): boolean => {
      const folded = next[nodeAt(node) + FOLDED]!;
      if (folded < claim) return true;
      const seen = this.#logs.earlier(log, folded);
      return seen.status[move] === moveStatus.started && seen.tokens[move] === claim;
    };
    const copy = copyAt(partition);
    switch (pc) {
      case CLAIMED:
        return !mayBeObeyed(to);
      case COPIED_MOST:
      case QUIESCING:
      case QUIESCED:
        return !mayBeObeyed(from);
      case VERIFIED:
        return true;
      default:
        if (log.status[move] === moveStatus.aborted && !isFine) return true; // what it writes is forgotten
        return next[copy + COPY_MOVE] !== move || next[copy + COPY_TOKEN] !== claim;
    }
  }

  /**
   * The state of whole steps that a state of fine ones amounts to, as text; null in the midst of a transaction, and of a start. The two models number their
   * logs by themselves, so logs are told by their events.
   */
  whole(state: Uint8Array): string | null {
    const next = Uint8Array.from(state);
    for (let node = 0; node < NODES; node += 1) {
      if (next[nodeAt(node) + INTAKE] !== 0 || next[nodeAt(node) + FOLDED] === 0) return null;
    }
    for (let slot = 0; slot < SLOTS; slot += 1) {
      const at = attemptAt(slot);
      const pc = next[at + PC]! & 15;
      if (pc === COPYING || pc === COPYING_REST) return null;
      next[at + PC] = pc === QUIESCING ? QUIESCED : pc;
      next.fill(0, at + SEEN, at + SEEN + EVENTS);
    }
    for (const at of budgets) next[at] = 0;
    this.canonical(next, false);
    this.#unfoldClaims();
    this.canonical(next, false);
    const after = this.#logs.at(logOf(next));
    if (!after.isFrozen) return null;
    next.fill(0, LOG, LOG + 2);
    return `${this.#tellLog(after)} ${String.fromCharCode(...next)}`;
  }

  /**
   * A node that has folded a claim which was replaced, and which nobody holds, obeys nobody until it folds the next: it can do nothing that one cannot which stands
   * before both. Whole steps have only that one.
   */
  #unfoldClaims(): void {
    const next = this.#next;
    const log = this.#logs.at(logOf(next));
    for (let node = 0; node < NODES; node += 1) {
      const at = nodeAt(node) + FOLDED;
      for (;;) {
        const last = this.#logs.earlier(log, next[at]!);
        const replaced = log.replaced.find(({ version }) => version === last.version);
        if (!isQuiet(last) && (!replaced || this.#isToken(last.version))) break;
        next[at]! -= 1;
      }
    }
  }

  #tellLog(log: Log): string {
    const known = this.#told.get(log.number);
    if (known !== undefined) return known;
    const { version, owners, moves } = log.ring;
    const open = moves.map(({ move, state, token, handedOverAt }) => [move, state, token, handedOverAt]);
    const told = JSON.stringify([version, owners, open, log.status]);
    this.#told.set(log.number, told);
    return told;
  }
}
