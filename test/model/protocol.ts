/**
 * The protocol of a move (ARCHITECTURE.md, "A move, step by step") as a small model, of which every state is visited (explore.ts).
 *
 * What is real: the ring. Each command is decided by `ring/decide.ts`, each event folded by `ring/ring.ts` (log.ts). The rest is what the code does, in steps
 * of one transaction, message or append each; `kinds` names the file that a step stands for. Whoever changes a rule there changes it here: `#wanted` is
 * `Steward.#wanted`, `#commanded` is `Steward.#commanded` with `#folded`, `#stop` is `ringmaster.obey`, `#attach` is `ringmaster.follow`, `#prepare` is
 * `Steward.#prepareNext` with `ensureImport`, `#endWrite` is `takeImport`, `#endPass` is jobsdb/copy*.ts with the ledger, `#attempt` goes the way of activities/move.ts.
 *
 * A state is: the log; of each node how far it has folded, its rows (state, move, token) and its open intake; of each job how far it has got at either node,
 * and whether it is in flight; the copy at the target with its token and ledger; the attempts, where they stand and what they saw. Everything may happen at
 * any time, as long as it can: attempts die, or are given up and run on (zombies); nodes are killed; attempts have trouble and abort; dead-men ring at once,
 * late or never; nodes lag behind the log; the operation is cancelled.
 *
 * Checked at each step: P1 what was acknowledged is delivered, or pending somewhere; P2 first deliveries of a user are in the order of the
 * acknowledgements; P3 a delivery is repeated only if its node was killed while it was in flight. Checked at the end, for every state: it has a way to each of
 * `exits`, without another fault, abort or late message.
 *
 * What is left out, and why nothing is lost by that:
 *   - Events have no names: the first one stored is event 0. Whose request it was changes nothing.
 *   - *Routers* are no part of the state: any request may reach any node at any time, which is all that any number of routers can do, as stale as they like.
 *     Only for the ways out requests go to the owner that the end of the log names. What a node refuses it has not stored, so refusals are no steps.
 *   - A killed node is one that does nothing until it starts: one step. So is marking a job as executing and sending it. PostgreSQL's own crash is the same:
 *     everything here commits synchronously.
 *   - A late command is one of a zombie. Of the two activities that copy (preCopy and cutOver) one attempt is made: a death between them is in both.
 *   - The pass between quiesce and fence is one more of those before. Several events in one batch are folded one by one: nothing is looked at in between that
 *     would make a difference to a node that folds on; a node that has just started does read the whole log at once.
 *   - One user a partition; contents, message windows, datasets and lanes are tests of their own (test/jobsdb, test/node).
 *
 * *Whole steps* (`fine: false`) make large bounds possible. They leave out, on top of that:
 *   - Transactions are one step. They take their locks first and let them go last, so whatever others do meanwhile could have been done before or after.
 *   - A node that starts again remembers what it had folded: it can do all that one can which has to read it again.
 *   - A claim is folded at once, unless an attempt with an older one is alive: nobody else is answered otherwise for it. A node does not stand between two claims,
 *     the first of which nobody holds: it would obey nobody until it folds the second.
 *   - What no step looks at any more reads the same in all states (whole-steps.ts): claims that were replaced, aborted tries that everyone has forgotten, jobs
 *     that are done, the copy of an aborted try, attempts that can only be refused. Versions, tokens and tries are numbered anew; only their order counts.
 *   - The operation ends when everything else has: one that ends earlier can do no more.
 * This is checked, not only argued: compare.ts explores both ways where both can be explored, and no state of fine steps, with nothing merged, may be missing
 * among the whole ones. (An earlier form of the third point was wrong; the comparison found it.) Planted bugs are looked for in fine steps with nothing merged.
 */
import type { RingCommand } from '../../ring/decide.ts';
import type { MoveCertificate } from '../../ring/events.ts';
import { type Bounds, type Bug, bugs } from './bounds.ts';
import type { Model } from './explore.ts';
import { type Log, Logs, moveStatus } from './log.ts';
import {
  ACCEPTED,
  ATTEMPT_BYTES,
  attemptAt,
  CLAIM,
  CLAIMED,
  CLOSED,
  COPIED,
  COPIED_MOST,
  COPY_MOVE,
  COPY_PASS,
  COPY_TOKEN,
  COPYING,
  COPYING_REST,
  CRASHES,
  CREDIT,
  CREDITS,
  copyAt,
  DELIVERED,
  DONE,
  EVENTS,
  EXECUTING,
  eventAt,
  FENCE_STANDS,
  FENCED,
  FLAGS,
  FOLDED,
  IDLE,
  IN_FLIGHT,
  INTAKE,
  inFlightAt,
  isPending,
  LEDGER,
  LEVELS,
  levelOf,
  logOf,
  MIGRATED,
  MISSED_FIRST,
  MISSED_LATER,
  MOVE,
  NODES,
  NONE,
  nodeAt,
  nodeNames,
  OPEN,
  PARTITIONS,
  PAUSED,
  PC,
  PREPARED,
  PROCESSED,
  QUIESCED,
  QUIESCING,
  rowAt,
  rowsAt,
  SEEN,
  SLOTS,
  STARTS,
  STATE_BYTES,
  STORED,
  setLevel,
  setLog,
  stateOf,
  TWICE,
  VERIFIED,
  ZOMBIE,
  ZOMBIES,
} from './state.ts';
import {
  BY_ALL,
  K,
  type Kind,
  kinds,
  NOBODY,
  Telling,
  TO_THE_END,
  TO_THE_HAND_OVER,
  WITH_WORKERS,
  WITHOUT_WORKERS,
} from './steps.ts';
import { budgets, isQuiet, type PlannedMove, WholeSteps } from './whole-steps.ts';

/** Tries of one move that a log may have; what `starts` allows at most. */
const TRIES = 3;

type Emit = (step: number, ways: number, broken: string | null) => void;

export class Protocol implements Model {
  readonly stateBytes = STATE_BYTES;
  readonly initial = new Uint8Array(STATE_BYTES);
  readonly budgets = budgets;
  readonly exits = [
    'the operation ends, with everything delivered and nothing left over',
    'nodes without workers take in and deliver again',
    'a move that has started is handed over',
  ];
  readonly #b: Bounds;
  readonly #has: Readonly<Record<Bug, boolean>>;
  readonly #isMerged: boolean;
  readonly #isFine: boolean;
  readonly #logs: Logs;
  readonly #wholeSteps: WholeSteps;
  readonly #telling: Telling;
  readonly #moveOf: readonly PlannedMove[];
  readonly #eventsOf: readonly (readonly number[])[];
  // The step that is being made.
  #now!: Uint8Array;
  #next!: Uint8Array;
  #emit!: Emit;
  #log!: Log;

  /** `isMerged`: what no step looks at reads the same in all states; without it the model is as plain as can be, and for small bounds only. */
  constructor(bounds: Bounds, planted: readonly Bug[] = [], isMerged = planted.length === 0) {
    if (bounds.starts > TRIES || bounds.moves.length >= SLOTS || bounds.events.length > EVENTS)
      throw new Error('a state has no room for that much');
    this.#b = bounds;
    this.#has = Object.fromEntries(bugs.map((bug) => [bug, planted.includes(bug)])) as Record<Bug, boolean>;
    this.#isMerged = isMerged;
    this.#isFine = bounds.fine;
    const moves = bounds.moves.flatMap(({ partition, from, to }, index) =>
      Array.from({ length: TRIES }, (_, nth) => ({
        index,
        partition,
        from: nodeNames.indexOf(from),
        to: nodeNames.indexOf(to),
        name: `op/move-${index + 1}.${nth + 1}`,
      })),
    );
    this.#moveOf = [{ index: -1, partition: -1, from: -1, to: -1, name: '' }, ...moves];
    this.#eventsOf = Array.from({ length: PARTITIONS }, (_, partition) =>
      bounds.events.flatMap((of, event) => (of === partition ? [event] : [])),
    );
    this.#logs = new Logs(
      nodeNames,
      moves.map(({ name }) => name),
      TRIES,
    );
    this.#wholeSteps = new WholeSteps(this.#logs, this.#moveOf, this.#eventsOf, bounds.fine);
    this.#telling = new Telling(bounds, this.#logs, this.#moveOf);
    this.#begin();
  }

  /** A frozen ring, folded by all; each owner's partitions open. */
  #begin(): void {
    const facts = (node: string) => ({ node, databaseId: `db-${node}`, url: `http://${node}` });
    const [first, second] = nodeNames.map(facts) as [ReturnType<typeof facts>, ReturnType<typeof facts>];
    const apart = this.#b.owners[0] !== this.#b.owners[1];
    const commands: RingCommand[] = [
      { type: 'make ring', clusterId: 'model', partitionCount: PARTITIONS, nodes: apart ? [first, second] : [first] },
      { type: 'freeze', by: { operationId: 'op', workflowId: 'scale/model', runId: 'run' } },
      ...(apart ? [] : [{ type: 'join node', holder: 1, facts: second } as const]),
    ];
    let log = this.#logs.at(0);
    for (const [n, command] of commands.entries()) log = this.#logs.after(log, n, () => command)!;
    const state = this.initial;
    setLog(state, log.number);
    state[CRASHES] = this.#b.crashes;
    state[ZOMBIES] = this.#b.zombies;
    state[STARTS] = this.#b.starts;
    for (let node = 0; node < NODES; node += 1) {
      state[nodeAt(node) + FOLDED] = log.version;
      for (let partition = 0; partition < PARTITIONS; partition += 1) {
        if (nodeNames[node] !== this.#b.owners[partition]) continue;
        state[rowAt(node, partition)] = OPEN;
        state[rowAt(node, partition) + 1] = log.version;
      }
    }
  }

  expand(now: Uint8Array, next: Uint8Array, emit: Emit): void {
    this.#now = now;
    this.#next = next;
    this.#emit = emit;
    this.#log = this.#logs.at(logOf(now));
    this.#operation();
    for (let slot = 0; slot < SLOTS; slot += 1) this.#attempt(slot);
    for (let node = 0; node < NODES; node += 1) this.#node(node);
  }

  // ---- the operation: workflows/run-moves.ts, move-partitions.ts

  #operation(): void {
    let isOneOpen = false;
    for (let index = 0; index < this.#b.moves.length; index += 1) isOneOpen = this.#open(index) || isOneOpen;
    for (let index = 0; index < this.#b.moves.length; index += 1)
      if (this.#b.parallel || !isOneOpen) this.#start(index);
    // Moves that have not taken place by then are blocked, and the operation cancelled.
    if (isOneOpen || !this.#log.isFrozen) return;
    // One that ends while other things go on can do no more than one that waits for them.
    if (!this.#isFine && !this.#isSettled(this.#now, this.#log)) return;
    const log = this.#logs.after(this.#log, key(0, 0), () => ({ type: 'unfreeze', holder: 1 }));
    if (!log) return;
    this.#step();
    this.#append(log);
    this.#done(K.unfreeze, 0, TO_THE_END);
  }

  /** Number of the last try of a move that the log has; 0: none. */
  #lastTry(index: number): number {
    const first = 1 + index * TRIES;
    for (let move = first + TRIES - 1; move >= first; move -= 1)
      if (this.#log.status[move] !== moveStatus.unknown) return move;
    return 0;
  }

  /** Goes on with a move that is open, or of which an activity still runs. False: there is nothing to go on with. */
  #open(index: number): boolean {
    const isRunning = this.#now[attemptAt(index) + PC] !== IDLE;
    const move = this.#lastTry(index);
    const status = this.#log.status[move]!;
    if (!isRunning && status === moveStatus.started) this.#claim(index, move, false);
    if (!isRunning && status === moveStatus.handedOver) this.#complete(move);
    return isRunning || status === moveStatus.started || status === moveStatus.handedOver;
  }

  /** In any order; one that was aborted is tried again at any later time (resumed), or never. */
  #start(index: number): void {
    const now = this.#now;
    if (!this.#log.isFrozen || now[STARTS] === 0 || now[attemptAt(index) + PC] !== IDLE) return;
    const last = this.#lastTry(index);
    const status = this.#log.status[last]!;
    if (last !== 0 && status !== moveStatus.aborted) return;
    const next = last === 0 ? 1 + index * TRIES : last + 1;
    const { partition, from, to, name } = this.#moveOf[next]!;
    const log = this.#logs.after(this.#log, key(1, next), () => ({
      type: 'start move',
      holder: 1,
      move: name,
      from: nodeNames[from]!,
      to: nodeNames[to]!,
      partitions: [partition],
    }));
    // Refused: the move before it has not taken place, so its partition is not where this one begins.
    if (log) this.#claim(index, next, true, log);
  }

  #claim(index: number, move: number, isFirst: boolean, from: Log = this.#log): void {
    const { name } = this.#moveOf[move]!;
    let token: number;
    let log: Log | null = from;
    if (this.#has['claim not in the log'] && !isFirst) {
      token = this.#now[copyAt(this.#moveOf[move]!.partition) + COPY_TOKEN]!;
      for (let slot = 0; slot < SLOTS; slot += 1)
        if (this.#now[attemptAt(slot) + MOVE] === move) token = Math.max(token, this.#now[attemptAt(slot) + CLAIM]!);
      token = Math.max(token, from.tokens[move]!) + 1;
    } else {
      log = this.#logs.after(from, key(2, move), () => ({
        type: 'claim move',
        holder: 1,
        move: name,
        attempt: `attempt-${from.version + 1}`,
      }));
      if (!log) return;
      token = log.tokens[move]!;
    }
    this.#step();
    if (isFirst) this.#next[STARTS]! -= 1;
    if (from !== this.#log) this.#append(from);
    if (log !== from) this.#append(log);
    const at = attemptAt(index);
    this.#next[at + PC] = CLAIMED;
    this.#next[at + MOVE] = move;
    this.#next[at + CLAIM] = token;
    this.#done(isFirst ? K.start : K['claim again'], move, isFirst ? NOBODY : WITH_WORKERS);
  }

  /** Source and target have done the rest by themselves: activities/node-status.ts waits for what they tell. */
  #complete(move: number): void {
    const { partition, from, to, name } = this.#moveOf[move]!;
    const at = this.#log.handedOverAt[move]!;
    const now = this.#now;
    if (now[nodeAt(to) + FOLDED]! < at || now[nodeAt(from) + FOLDED]! < at) return;
    if (stateOf(now, from, partition) !== CLOSED) return;
    let jobs = 0;
    for (const event of this.#eventsOf[partition]!) {
      const level = levelOf(now, event, from);
      if (isPending(level)) return;
      if (level === MIGRATED) jobs += 1;
    }
    const log = this.#logs.after(this.#log, key(3, move, jobs), () => ({
      type: 'complete move',
      move: name,
      certificate: certificate(this.#log, move, partition, jobs),
    }));
    if (!log) return; // CERTIFICATE_MISMATCH: blocked, which the exits tell
    this.#step();
    this.#append(log);
    this.#done(K.complete, move, WITH_WORKERS);
  }

  // ---- attempts: activities/move.ts, jobsdb/copy*.ts

  #attempt(slot: number): void {
    const now = this.#now;
    const at = attemptAt(slot);
    const pc = now[at + PC]! & 15;
    if (pc === IDLE) return;
    const move = now[at + MOVE]!;
    const isZombie = slot === ZOMBIE;
    switch (pc) {
      case CLAIMED:
        this.#prepare(slot, move);
        break;
      case PREPARED:
        this.#beginPass(slot, move, false);
        break;
      case COPYING:
        this.#endPass(slot, move, false);
        break;
      case COPIED_MOST:
        this.#stop(slot, move, PAUSED);
        break;
      case QUIESCING:
        this.#waitIdle(slot, move);
        break;
      case QUIESCED:
        this.#stop(slot, move, FENCED);
        break;
      case FENCE_STANDS:
        this.#beginPass(slot, move, true);
        break;
      case COPYING_REST:
        this.#endPass(slot, move, true);
        break;
      case VERIFIED:
        this.#handOver(slot, move);
        break;
    }
    // Trouble in the cut-over undoes it at once; before it only the workflow aborts, as the operation is cancelled.
    if (pc >= QUIESCING || !isZombie) this.#abort(slot, move);
    if (isZombie) return;
    if (now[CRASHES]! > 0) {
      this.#step();
      this.#next[CRASHES]! -= 1;
      this.#end(slot);
      this.#done(K['worker dies'], slot, NOBODY);
    }
    if (now[ZOMBIES]! > 0 && now[attemptAt(ZOMBIE) + PC] === IDLE) {
      this.#step();
      this.#next[ZOMBIES]! -= 1;
      this.#next.copyWithin(attemptAt(ZOMBIE), at, at + ATTEMPT_BYTES);
      this.#end(slot);
      this.#done(K['attempt becomes a zombie'], slot, NOBODY);
    }
  }

  #end(slot: number): void {
    const at = attemptAt(slot);
    this.#next.fill(0, at, at + ATTEMPT_BYTES);
  }

  /** It hears that the move is not its own any more, and ends; the workflow goes on from the log. */
  #refused(slot: number): void {
    this.#step();
    this.#end(slot);
    this.#done(K.refused, slot, WITH_WORKERS);
  }

  #abort(slot: number, move: number, ways = NOBODY): void {
    const log = this.#afterAbort(move);
    this.#step();
    if (log) this.#append(log);
    this.#end(slot);
    this.#done(K.abort, slot, ways);
  }

  #afterAbort(move: number): Log | null {
    const { name } = this.#moveOf[move]!;
    return this.#logs.after(this.#log, key(4, move), () => ({ type: 'abort move', move: name, because: 'trouble' }));
  }

  /** What a node says to a command, from what it has folded: `Steward.#folded`, `#commanded`. */
  #commanded(slot: number, node: number, move: number): 'obeys' | 'waits' | 'refuses' {
    const now = this.#now;
    const folded = now[nodeAt(node) + FOLDED]!;
    const token = this.#commandToken(slot, move);
    if (folded < token) return 'waits';
    const log = this.#logs.earlier(this.#log, folded);
    if (log.status[move] !== moveStatus.started) return 'refuses';
    if (log.tokens[move] !== token && !this.#has['node ignores tokens']) return 'refuses';
    return 'obeys';
  }

  #commandToken(slot: number, move: number): number {
    if (this.#has['claim not in the log']) return this.#log.tokens[move] || 0;
    return this.#now[attemptAt(slot) + CLAIM]!;
  }

  /** Whether an attempt has a transaction open that holds the copy's token row. */
  #isHeld(partition: number): boolean {
    return this.#holderOf(partition) !== null;
  }

  #holderOf(partition: number): number | null {
    if (this.#has['token not held until the commit']) return null;
    for (let slot = 0; slot < SLOTS; slot += 1) {
      const at = attemptAt(slot);
      const pc = this.#now[at + PC]! & 15;
      if (pc !== COPYING && pc !== COPYING_REST) continue;
      const move = this.#now[at + MOVE]!;
      if (this.#moveOf[move]!.partition === partition && this.#now[copyAt(partition) + COPY_MOVE] === move) return slot;
    }
    return null;
  }

  /**
   * `takeImport`: an open write that was overtaken is undone, and its attempt stands where it stood before; what it tries next is refused. False: none is open.
   * Whether it ends the write itself before is another order of steps; no way out needs it to.
   */
  #endWrite(partition: number, ways: number): boolean {
    const slot = this.#holderOf(partition);
    if (slot === null) return false;
    if (this.#has['overtaken write waited for']) return true;
    const at = attemptAt(slot);
    const pc = this.#now[at + PC]!;
    this.#step();
    this.#next[at + PC] = ((pc & 15) === COPYING ? PREPARED : FENCE_STANDS) | (pc & 0xf0);
    for (const event of this.#eventsOf[partition]!) this.#next[at + SEEN + event]! &= 7;
    this.#done(K['write ended'], slot, ways);
    return true;
  }

  #prepare(slot: number, move: number): void {
    const { partition, to } = this.#moveOf[move]!;
    const now = this.#now;
    const isUnchecked = this.#has['prepare of an owned partition'];
    const said = this.#commanded(slot, to, move);
    if (said === 'waits') return;
    if (said === 'refuses' && !isUnchecked) {
      this.#refused(slot);
      return;
    }
    if (stateOf(now, to, partition) !== CLOSED && !isUnchecked) {
      this.#refused(slot);
      return;
    }
    const at = attemptAt(slot);
    const copy = copyAt(partition);
    const claim = now[at + CLAIM]!;
    const isThere = now[copy + COPY_MOVE] === move;
    if (isThere && now[copy + COPY_TOKEN]! > claim && !this.#has['node ignores tokens']) {
      this.#refused(slot);
      return;
    }
    if (this.#endWrite(partition, WITH_WORKERS)) return;
    const other = this.#moveOf[now[copy + COPY_MOVE]!]!;
    if (!isThere && other.to >= 0 && other.to !== to) throw new Error(`${other.name} has left a copy elsewhere`);
    this.#step();
    const next = this.#next;
    if (!isThere) {
      this.#putAway(to, partition);
      this.#forgetCopy(partition);
      next[copy + COPY_MOVE] = move;
    }
    next[copy + COPY_TOKEN] = claim;
    // What openCopy reads then: nobody else writes there under this token.
    next[at + PC] = PREPARED | (this.#isFine ? next[copy + COPY_PASS]! << 4 : 0);
    if (this.#isFine)
      for (const event of this.#eventsOf[partition]!) next[at + SEEN + event] = next[rowsAt(event) + LEDGER]!;
    this.#doneChecked(K.prepare, slot, WITH_WORKERS);
  }

  /** Marks, what was then writing has ended, and the transaction at the target is open. */
  #beginPass(slot: number, move: number, isLast: boolean): void {
    const { partition, from } = this.#moveOf[move]!;
    const now = this.#now;
    const at = attemptAt(slot);
    if (!this.#holdsToken(slot, move)) {
      this.#refused(slot);
      return;
    }
    const isWriting = now[nodeAt(from) + INTAKE] === partition + 1;
    if (isWriting && !isLast && !this.#missesLateRows(now[at + PC]! >> 4)) return;
    if (!this.#isFine) {
      this.#pass(slot, move, isLast);
      return;
    }
    this.#step();
    const next = this.#next;
    next[at + PC] = (isLast ? COPYING_REST : COPYING) | (now[at + PC]! & 0xf0);
    if (!isLast) {
      const pass = (now[at + PC]! >> 4) + 1;
      let late = isWriting;
      for (const event of this.#eventsOf[partition]!) {
        const seen = now[at + SEEN + event]! & 7;
        let mark = levelOf(now, event, from);
        if (seen >= MISSED_FIRST) mark = seen;
        else if (mark === NONE && late) {
          mark = pass === 1 ? MISSED_FIRST : MISSED_LATER;
          late = false;
        }
        next[at + SEEN + event] = seen | (mark << 3);
      }
    }
    this.#done(isLast ? K['begin last rows'] : K['begin pass'], slot, WITH_WORKERS);
  }

  #missesLateRows(passes: number): boolean {
    if (this.#has['rows that commit late are missed']) return true;
    return passes > 0 && this.#has['rows that commit late are missed after the first pass'];
  }

  #holdsToken(slot: number, move: number): boolean {
    const copy = copyAt(this.#moveOf[move]!.partition);
    if (this.#now[copy + COPY_MOVE] !== move) return false;
    return this.#has['node ignores tokens'] || this.#now[copy + COPY_TOKEN] === this.#now[attemptAt(slot) + CLAIM];
  }

  /** From its marks to its commit: it holds the token all the time, so nobody can tell it from one step. */
  #pass(slot: number, move: number, isLast: boolean): void {
    if (this.#isHeld(this.#moveOf[move]!.partition)) throw new Error('held, although passes are one step');
    this.#endPass(slot, move, isLast);
  }

  /** Rows and ledger commit together. The last rows are read without a bound: the source is fenced. */
  #endPass(slot: number, move: number, isLast: boolean): void {
    const { partition, from } = this.#moveOf[move]!;
    const now = this.#now;
    const at = attemptAt(slot);
    const copy = copyAt(partition);
    if (now[copy + COPY_MOVE] !== move) {
      this.#refused(slot); // only where the token is not held
      return;
    }
    const fine = this.#isFine;
    const pass = (fine ? now[at + PC]! >> 4 : now[copy + COPY_PASS]!) + 1;
    this.#step();
    const next = this.#next;
    let isSame = true;
    for (const event of this.#eventsOf[partition]!) {
      const seen = fine ? now[at + SEEN + event]! & 7 : now[rowsAt(event) + LEDGER]!;
      const source = levelOf(now, event, from);
      let mark = now[at + SEEN + event]! >> 3;
      if (isLast || !fine) mark = seen >= MISSED_FIRST ? seen : source;
      const row = next[rowsAt(event) + COPIED]!;
      if (seen === NONE && mark !== NONE && mark < MISSED_FIRST && (pass > 1 || isPending(mark))) {
        if ((row & 7) === NONE) next[rowsAt(event) + COPIED] = mark | (pass << 4);
        else if (fine && row >> 4 === pass) {
          this.#refused(slot); // the id is there already
          return;
        } else next[rowsAt(event) + COPIED] = row | 8;
      } else if (mark > seen && mark < MISSED_FIRST && (row & 7) !== NONE) {
        next[rowsAt(event) + COPIED] = (row & ~7) | Math.max(row & 7, mark);
      }
      next[rowsAt(event) + LEDGER] = mark;
      if (fine) next[at + SEEN + event] = mark;
      // Asked anew from the pass before last on: what the first one missed is not among it.
      if (mark === MISSED_LATER && isPending(source)) isSame = false;
    }
    next[copy + COPY_PASS] = pass;
    next[at + PC] = (isLast ? VERIFIED : COPIED_MOST) | (fine ? pass << 4 : 0);
    // One that is given up may stand still for ever: no way out may need it to end its write.
    const ways = fine && slot === ZOMBIE ? NOBODY : BY_ALL;
    if (!isLast) {
      this.#doneChecked(K['end pass'], slot, ways);
      return;
    }
    if (!isSame && !this.#has['hand-over though the sets differ']) {
      const log = this.#afterAbort(move);
      if (log) this.#append(log);
      this.#end(slot);
      this.#doneChecked(K['end last rows and verify'], slot, TO_THE_END);
      return;
    }
    this.#doneChecked(K['end last rows and verify'], slot, ways);
  }

  /** Quiesce and fence: `Steward.#obey`, `ringmaster.obey`. */
  #stop(slot: number, move: number, wanted: typeof PAUSED | typeof FENCED): void {
    const { partition, from } = this.#moveOf[move]!;
    const now = this.#now;
    const at = attemptAt(slot);
    if (wanted === FENCED && !this.#isFine && !this.#isIdle(from, partition)) return;
    const said = this.#commanded(slot, from, move);
    if (said === 'waits') return;
    if (said === 'refuses') {
      this.#refused(slot);
      return;
    }
    if (this.#isInside(from, partition)) return;
    const row = now[rowAt(from, partition)]!;
    const [state, by] = [row & 3, row >> 2];
    const token = this.#commandToken(slot, move);
    const isStale = now[rowAt(from, partition) + 1]! > token && !this.#has['node ignores tokens'];
    const isNotQuiesced = wanted === FENCED && state === OPEN && !this.#has['quiesce lost in a restart'];
    if (isStale || state === CLOSED || (by !== 0 && by !== move) || isNotQuiesced) {
      this.#abort(slot, move, TO_THE_END);
      return;
    }
    this.#step();
    const next = this.#next;
    if (wanted === PAUSED || !this.#has['no fence']) {
      next[rowAt(from, partition)] = (state === FENCED ? FENCED : wanted) | (move << 2);
      next[rowAt(from, partition) + 1] = token;
    }
    const quiesced = this.#isFine ? QUIESCING : QUIESCED;
    next[at + PC] = (wanted === PAUSED ? quiesced : FENCE_STANDS) | (now[at + PC]! & 0xf0);
    this.#done(wanted === PAUSED ? K.quiesce : K.fence, slot, WITH_WORKERS);
  }

  /** The quiesce is answered when nothing is in flight any more. Nothing starts meanwhile, so as whole steps go the fence may wait for it as well. */
  #waitIdle(slot: number, move: number): void {
    const { partition, from } = this.#moveOf[move]!;
    if (!this.#isIdle(from, partition)) return;
    this.#step();
    this.#next[attemptAt(slot) + PC] = QUIESCED | (this.#now[attemptAt(slot) + PC]! & 0xf0);
    this.#done(K['nothing is in flight'], slot, WITH_WORKERS);
  }

  #isIdle(node: number, partition: number): boolean {
    for (const event of this.#eventsOf[partition]!) if (inFlightAt(this.#now, event) === node) return false;
    return true;
  }

  #handOver(slot: number, move: number): void {
    const { partition, name } = this.#moveOf[move]!;
    const at = attemptAt(slot);
    let jobs = 0;
    for (const event of this.#eventsOf[partition]!)
      if (isPending(this.#isFine ? this.#now[at + SEEN + event]! & 7 : this.#now[rowsAt(event) + LEDGER]!)) jobs += 1;
    const token = this.#commandToken(slot, move);
    const log = this.#logs.after(this.#log, key(5, move, jobs, token), () => ({
      type: 'hand over',
      move: name,
      token,
      proof: { jobsPending: jobs, jobsCopied: jobs, prefixes: [{ prefix: 'rt', pending: jobs, digest: '7' }] },
    }));
    if (!log) {
      this.#refused(slot);
      return;
    }
    this.#step();
    this.#append(log);
    this.#end(slot);
    this.#done(K['hand over'], slot, WITH_WORKERS);
  }

  // ---- nodes

  #node(node: number): void {
    const now = this.#now;
    const folded = now[nodeAt(node) + FOLDED]!;
    if (folded < this.#log.version) this.#foldNext(node, folded);
    if (now[CRASHES]! > 0) this.#restart(node);
    this.#intake(node);
    for (let partition = 0; partition < PARTITIONS; partition += 1) {
      this.#work(node, partition);
      this.#settle(node, partition, folded);
      this.#deadMan(node, partition, folded);
      if (this.#has['target opened before the hand-over']) this.#openEarly(node, partition);
    }
  }

  /** One event; a node that has just started reads the whole log at once. */
  #foldNext(node: number, folded: number): void {
    if (folded > 0) {
      this.#foldTo(node, folded, folded + 1);
      return;
    }
    if (this.#has['node acts on an older fold'])
      for (let version = 1; version < this.#log.version; version += 1) this.#foldTo(node, 0, version);
    this.#foldTo(node, 0, this.#log.version);
  }

  #foldTo(node: number, folded: number, version: number): void {
    const log = this.#logs.earlier(this.#log, version);
    this.#step();
    const next = this.#next;
    for (let partition = 0; partition < PARTITIONS; partition += 1) {
      const wanted = this.#wanted(log, node, partition);
      if (wanted === null) continue;
      if (this.#isInside(node, partition)) return; // waits for the transactions that are inside
      const was = stateOf(next, node, partition);
      next[rowAt(node, partition)] = wanted;
      next[rowAt(node, partition) + 1] = version;
      if (wanted === OPEN && was === CLOSED && !this.#attach(node, partition, log)) {
        this.#done(
          K.fold,
          node,
          BY_ALL,
          `P4: ${nodeNames[node]} is to open partition ${partition}, and has no copy of it`,
        );
        return;
      }
    }
    for (let partition = 0; partition < PARTITIONS; partition += 1) {
      const move = next[copyAt(partition) + COPY_MOVE]!;
      if (move === 0 || this.#moveOf[move]!.to !== node || log.status[move] !== moveStatus.aborted) continue;
      const isNews = folded === 0 || this.#logs.earlier(this.#log, folded).status[move] !== moveStatus.aborted;
      if (!isNews || this.#has['copy of an aborted move is kept']) continue;
      if (this.#endWrite(partition, BY_ALL)) return;
      this.#forgetCopy(partition);
    }
    next[nodeAt(node) + FOLDED] = this.#afterQuiet(this.#log, version);
    this.#doneChecked(K.fold, node, BY_ALL);
  }

  /** `Steward.#wanted`: the state that the row should go to, null where it is right as it is. */
  #wanted(log: Log, node: number, partition: number): typeof OPEN | typeof CLOSED | null {
    const row = this.#next[rowAt(node, partition)]!;
    const [state, move] = [row & 3, row >> 2];
    if (this.#next[rowAt(node, partition) + 1]! > log.version && !this.#has['node acts on an older fold']) return null;
    if (log.owners[partition] !== node) return state === CLOSED ? null : CLOSED;
    if (state === CLOSED) return OPEN;
    if (state === OPEN) return null;
    return log.status[move] === moveStatus.started ? null : OPEN;
  }

  /** `ringmaster.follow`: the copy becomes what the node has. False: there is none. */
  #attach(node: number, partition: number, log: Log): boolean {
    const next = this.#next;
    const copy = copyAt(partition);
    const move = next[copy + COPY_MOVE]!;
    if (move === 0 || this.#moveOf[move]!.to !== node || log.status[move] === moveStatus.started)
      return this.#has['node acts on an older fold'];
    for (const event of this.#eventsOf[partition]!) {
      const row = next[rowsAt(event) + COPIED]!;
      if ((row & 7) === NONE) continue;
      const isThere = isPending(levelOf(next, event, node));
      if (isPending(row & 7) || !isThere) setLevel(next, event, node, row & 7);
      if ((isThere && isPending(row & 7)) || (row & 8) !== 0) next[eventAt(event) + FLAGS]! |= TWICE << node;
    }
    this.#forgetCopy(partition);
    return true;
  }

  #forgetCopy(partition: number): void {
    const next = this.#next;
    next.fill(0, copyAt(partition), copyAt(partition) + 3);
    for (const event of this.#eventsOf[partition]!) next.fill(0, rowsAt(event), rowsAt(event) + 2);
  }

  /** Whether a transaction is inside the locks of this partition. */
  #isInside(node: number, partition: number): boolean {
    return !this.#has['state read from memory'] && this.#now[nodeAt(node) + INTAKE] === partition + 1;
  }

  /** The process ends, at any moment, and starts again: what was in memory is gone, its transactions are undone, what was sent is sent. */
  #restart(node: number): void {
    if (!this.#isFine && !this.#b.events.some((_, event) => inFlightAt(this.#now, event) === node)) return;
    this.#step();
    const next = this.#next;
    next[CRASHES]! -= 1;
    if (this.#isFine) next[nodeAt(node) + FOLDED] = 0;
    next[nodeAt(node) + INTAKE] = 0;
    for (let event = 0; event < this.#b.events.length; event += 1) {
      if (inFlightAt(next, event) !== node) continue;
      const flags = next[eventAt(event) + FLAGS]! & ~(3 * IN_FLIGHT);
      next[eventAt(event) + FLAGS] = (flags & CREDITS) === CREDITS ? flags : flags + CREDIT;
    }
    if (this.#has['quiesce lost in a restart'])
      for (let partition = 0; partition < PARTITIONS; partition += 1)
        if (stateOf(next, node, partition) === PAUSED) next[rowAt(node, partition)] = OPEN;
    this.#done(K.restart, node, NOBODY);
  }

  /**
   * Any router may send any request to any node at any time, so a router's view is none of the state. A way out counts only on those that a router with the
   * whole log sends: to the owner.
   */
  #intake(node: number): void {
    const now = this.#now;
    const inside = now[nodeAt(node) + INTAKE]!;
    if (inside > 0) {
      const partition = inside - 1;
      this.#step();
      this.#next[nodeAt(node) + INTAKE] = 0;
      this.#store(node, partition);
      this.#doneChecked(K['intake commits'], node, BY_ALL);
      return;
    }
    for (let partition = 0; partition < PARTITIONS; partition += 1) {
      const state = stateOf(now, node, partition);
      if (state !== OPEN && state !== PAUSED) continue;
      if (this.#nextEvent(partition) === null) continue;
      const isOwner = this.#log.owners[partition] === node;
      this.#step();
      if (this.#isFine) this.#next[nodeAt(node) + INTAKE] = partition + 1;
      else this.#store(node, partition);
      this.#done(isOwner ? K['intake begins'] : K['late message'], node + NODES * partition, isOwner ? BY_ALL : NOBODY);
    }
  }

  #store(node: number, partition: number): void {
    const event = this.#nextEvent(partition);
    if (event === null) return;
    this.#next[eventAt(event) + FLAGS]! |= ACCEPTED;
    setLevel(this.#next, event, node, STORED);
  }

  /** The event that the next one stored will be. */
  #nextEvent(partition: number): number | null {
    for (const event of this.#eventsOf[partition]!)
      if ((this.#now[eventAt(event) + FLAGS]! & ACCEPTED) === 0) return event;
    return null;
  }

  /** Processing and delivery: in the order of ids, one delivery of a user at a time. */
  #work(node: number, partition: number): void {
    const now = this.#now;
    const state = stateOf(now, node, partition);
    const isOpen = state === OPEN;
    let mayProcess = isOpen;
    let mayDeliver = isOpen;
    const events = this.#eventsOf[partition]!;
    for (const event of events) if (inFlightAt(now, event) === node) mayDeliver = false;
    for (const event of events) {
      const level = levelOf(now, event, node);
      if (level === STORED && mayProcess) {
        this.#step();
        setLevel(this.#next, event, node, PROCESSED);
        this.#done(K.process, 2 * event + node, BY_ALL);
        mayProcess = false;
      }
      if (level === STORED) mayProcess = false;
      if ((level === PROCESSED || level === EXECUTING) && mayDeliver) this.#deliver(node, partition, event);
      if (isPending(level)) mayDeliver = false;
      if (inFlightAt(now, event) === node) {
        this.#step();
        const flags = now[eventAt(event) + FLAGS]! & ~(3 * IN_FLIGHT);
        this.#next[eventAt(event) + FLAGS] = flags;
        if (state === OPEN || state === PAUSED) {
          // A row that is there twice is delivered twice.
          const twice = TWICE << node;
          setLevel(this.#next, event, node, (flags & twice) !== 0 ? PROCESSED : DONE);
          this.#next[eventAt(event) + FLAGS] = flags & ~twice;
        }
        this.#done(K.result, 2 * event + node, BY_ALL);
      }
    }
  }

  /** Marked and sent in one step: a process that ends between the two leaves a job that is pending and not delivered, as before. */
  #deliver(node: number, partition: number, event: number): void {
    const now = this.#now;
    const flags = now[eventAt(event) + FLAGS]!;
    let broken: string | null = null;
    for (const earlier of this.#eventsOf[partition]!) {
      if (earlier >= event) break;
      if ((now[eventAt(earlier) + FLAGS]! & DELIVERED) === 0)
        broken = `P2: event ${event} is delivered before event ${earlier} of the same user`;
    }
    this.#step();
    let after = (flags | DELIVERED) + (node + 1) * IN_FLIGHT;
    if ((flags & DELIVERED) !== 0) {
      if ((flags & CREDITS) === 0) broken = `P3: event ${event} is delivered twice, and was in flight at no fault`;
      else after -= CREDIT;
    }
    this.#next[eventAt(event) + FLAGS] = after;
    setLevel(this.#next, event, node, EXECUTING);
    this.#done(K.deliver, 2 * event + node, BY_ALL, broken);
  }

  /** S4: what is pending of a partition that the node does not own, and is not about to receive, is stale. */
  #settle(node: number, partition: number, folded: number): void {
    if (folded === 0 || stateOf(this.#now, node, partition) !== CLOSED) return;
    if (!this.#eventsOf[partition]!.some((event) => isPending(levelOf(this.#now, event, node)))) return;
    const log = this.#logs.earlier(this.#log, folded);
    for (let move = 1; move < this.#moveOf.length; move += 1) {
      const { partition: of, to } = this.#moveOf[move]!;
      if (of === partition && to === node && log.status[move] === moveStatus.started) return;
    }
    this.#step();
    this.#putAway(node, partition);
    this.#doneChecked(K['put away'], node + NODES * partition, BY_ALL);
  }

  #putAway(node: number, partition: number): void {
    for (const event of this.#eventsOf[partition]!) {
      if (!isPending(levelOf(this.#next, event, node))) continue;
      setLevel(this.#next, event, node, MIGRATED);
      this.#next[eventAt(event) + FLAGS]! &= ~(TWICE << node);
    }
  }

  /** Nobody has ended the move in time, whenever that is. A started node gives what it finds in its rows a new deadline. */
  #deadMan(node: number, partition: number, folded: number): void {
    const row = this.#now[rowAt(node, partition)]!;
    const [state, move] = [row & 3, row >> 2];
    if ((state !== PAUSED && state !== FENCED) || move === 0) return;
    if (folded > 0 && this.#logs.earlier(this.#log, folded).status[move] !== moveStatus.started) return;
    if (this.#has['no dead-man']) return;
    if (this.#has['dead-man without the append']) {
      if (this.#isInside(node, partition)) return;
      this.#step();
      this.#next[rowAt(node, partition)] = OPEN;
      this.#done(K['dead-man'], node + NODES * partition, WITHOUT_WORKERS);
      return;
    }
    const log = this.#afterAbort(move);
    if (!log || log === this.#log) return; // it lost, and will fold why
    this.#step();
    this.#append(log);
    this.#done(K['dead-man'], node + NODES * partition, WITHOUT_WORKERS);
  }

  #openEarly(node: number, partition: number): void {
    const now = this.#now;
    const copy = copyAt(partition);
    const move = now[copy + COPY_MOVE]!;
    if (move === 0 || this.#moveOf[move]!.to !== node || now[copy + COPY_PASS] === 0) return;
    if (this.#isHeld(partition) || stateOf(now, node, partition) !== CLOSED) return;
    this.#step();
    this.#next[rowAt(node, partition)] = OPEN;
    this.#next[rowAt(node, partition) + 1] = this.#log.version;
    this.#attach(node, partition, this.#logs.at(0));
    this.#doneChecked(K['open early'], node, NOBODY);
  }

  // ---- what is common to steps

  #step(): void {
    this.#next.set(this.#now);
  }

  #done(kind: number, about: number, ways: number, broken: string | null = null): void {
    if (this.#isMerged) this.#wholeSteps.canonical(this.#next);
    this.#emit(kind * 16 + about, ways, broken);
  }

  /** After steps that take jobs away or put them elsewhere. */
  #doneChecked(kind: number, about: number, ways: number): void {
    this.#done(kind, about, ways, this.#lost());
  }

  /** P1: what was acknowledged and not delivered is pending somewhere: at a node, or in a copy that may be attached. */
  #lost(): string | null {
    const next = this.#next;
    for (let event = 0; event < this.#b.events.length; event += 1) {
      if ((next[eventAt(event) + FLAGS]! & (ACCEPTED | DELIVERED)) !== ACCEPTED) continue;
      const levels = next[eventAt(event) + LEVELS]!;
      if (isPending(levels & 7) || isPending(levels >> 3) || isPending(next[rowsAt(event) + COPIED]! & 7)) continue;
      return `P1: event ${event} was acknowledged, and is neither delivered nor pending anywhere`;
    }
    return null;
  }

  /** Nodes that have folded everything fold at once what concerns no node's rows. */
  #append(log: Log): void {
    const before = this.#logs.at(logOf(this.#next));
    setLog(this.#next, log.number);
    if (!isQuiet(log)) return;
    for (let node = 0; node < NODES; node += 1)
      if (this.#next[nodeAt(node) + FOLDED] === before.version) this.#next[nodeAt(node) + FOLDED] = log.version;
  }

  #afterQuiet(end: Log, version: number): number {
    let at = version;
    while (at < end.version && isQuiet(this.#logs.earlier(end, at + 1))) at += 1;
    return at;
  }

  // ---- ends

  ends(state: Uint8Array): number {
    const log = this.#logs.at(logOf(state));
    const handedOver = log.status.includes(moveStatus.started) ? 0 : TO_THE_HAND_OVER;
    if (!this.#isAtRest(state, log)) return handedOver;
    const isOver = !log.isFrozen && this.#isSettled(state, log);
    return handedOver | WITHOUT_WORKERS | (isOver ? TO_THE_END : 0);
  }

  /** Each partition is taken in by its owner alone, and all that was to come is stored and delivered. */
  #isAtRest(state: Uint8Array, log: Log): boolean {
    for (let partition = 0; partition < PARTITIONS; partition += 1) {
      const owner = log.owners[partition]!;
      if (stateOf(state, owner, partition) !== OPEN || stateOf(state, 1 - owner, partition) !== CLOSED) return false;
    }
    for (let event = 0; event < this.#b.events.length; event += 1) {
      const flags = state[eventAt(event) + FLAGS]!;
      if ((flags & (ACCEPTED | DELIVERED)) !== (ACCEPTED | DELIVERED)) return false;
      const levels = state[eventAt(event) + LEVELS]!;
      if (isPending(levels & 7) || isPending(levels >> 3)) return false;
    }
    return true;
  }

  /** At rest, no copy left over, the log folded by all. */
  #isSettled(state: Uint8Array, log: Log): boolean {
    if (!this.#isAtRest(state, log)) return false;
    for (let partition = 0; partition < PARTITIONS; partition += 1)
      if (state[copyAt(partition) + COPY_MOVE] !== 0) return false;
    for (let node = 0; node < NODES; node += 1) if (state[nodeAt(node) + FOLDED] !== log.version) return false;
    return true;
  }

  // ---- for people

  /** Kinds of steps that must occur within these bounds. A late message is one that was taken in, which only planted bugs let happen. */
  stepsOf({ fine, crashes, zombies }: Bounds): string[] {
    const fineOnes: readonly Kind[] = [
      'intake commits',
      'begin pass',
      'begin last rows',
      'nothing is in flight',
      'write ended',
    ];
    return kinds.flatMap(([kind]) => {
      if (kind === 'open early' || kind === 'late message' || (!fine && fineOnes.includes(kind))) return [];
      if ((kind === 'worker dies' || kind === 'restart') && crashes === 0) return [];
      return kind === 'attempt becomes a zombie' && zombies === 0 ? [] : [kind];
    });
  }

  kindOf(step: number): string {
    return kinds[step >> 4]![0];
  }

  describe(step: number, before: Uint8Array, after: Uint8Array): string {
    return this.#telling.line(step, before, after);
  }

  draw(state: Uint8Array): string {
    return this.#telling.draw(state);
  }

  /** See `WholeSteps.whole`. */
  whole(state: Uint8Array): string | null {
    return this.#wholeSteps.whole(state);
  }
}

const key = (kind: number, move: number, jobs = 0, token = 0): number => kind + 8 * move + 128 * jobs + 512 * token;
function certificate(log: Log, move: number, partition: number, jobs: number): MoveCertificate {
  return {
    form: 1,
    handedOverAt: log.handedOverAt[move]!,
    epoch: log.ring.epoch,
    times: { started: '', handedOver: '' },
    askedBy: { actor: 'model', reason: 'model', operation: 'op' },
    jobs,
    tables: [
      {
        prefix: 'rt',
        jobs,
        digest: '7',
        order: '9',
        partitions: jobs > 0 ? [[partition, jobs, '7', '9', 1, jobs, 1, jobs]] : [],
      },
    ],
  };
}
