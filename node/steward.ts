/**
 * Keeps the states of the partitions at this node: follows the ring's log, obeys the orchestrator's commands, and lifts its own fence when nobody finishes.
 *
 *   closed ──(log: owner is this node)──▶ open ──quiesce──▶ paused ──fence──▶ fenced
 *     ▲                                    ▲                  │                 │
 *     │                                    └──(log: the move was aborted)───────┤
 *     └───────────────────────────────────────(log: handed over to another)─────┘
 *
 * What holds:
 *   S1 a partition's row in this node's PostgreSQL decides; memory is a hint. Rows change only here, alone inside the partition's locks.
 *   S2 a command is obeyed only after the log is folded to its token, and only if that is the move's latest claim.
 *   S3 nothing is opened before the log says so, and no state is derived from a position of the log below the row's token.
 *   S4 what is pending at a member for a partition that it neither owns nor is about to receive is put away, and gone before it can own it again. A node with
 *      pending jobs does not become a member (NODE_HAS_JOBS), unless it will own all of them.
 *   S5 jobs without a partition are adopted before anything is opened, while no move can take their partitions away; those that others own stay as they are.
 * One thing at a time: folding, commands and putting away take turns (`#turn`), so each sees a ring and rows that belong together.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Pool, PoolClient } from 'pg';
import type { ImportTarget, MoveCommand, NodeControl, NodeStatus, PartitionState } from '../dataplane/contract.ts';
import { type Adopting, adoptNext, countUnadoptedJobs } from '../jobsdb/adopt.ts';
import { ensureImport, importsOf, isImporting } from '../jobsdb/imports.ts';
import type { Aside } from '../jobsdb/overtaken.ts';
import type { Dataset } from '../jobsdb/sql/datasets.ts';
import {
  enterAlone,
  follow,
  obey,
  refusalOfState,
  rehearseOpening,
  selectNode,
  selectStates,
  setSettled,
} from '../jobsdb/sql/partitions.ts';
import { countPending, dropImport, type PuttingAway, planPutAway, putAwayNext } from '../jobsdb/stale.ts';
import { CodedError, describeError } from '../kit/errors.ts';
import { type Logger, now } from '../kit/log.ts';
import type { MoveId, RecordedEvent } from '../ring/events.ts';
import { formatPartitions, type PartitionIndex } from '../ring/partition.ts';
import { fold, isMember, moveOf, noRing, type OpenMove, type Ring } from '../ring/ring.ts';
import { assertChain } from '../ringstore/chain.ts';
import { storeBehind } from '../ringstore/cursor.ts';
import { decideAndAppend, type RingStore, readRing } from '../ringstore/ringstore.ts';
import { DatasetList, isMissingTable } from './dataset-list.ts';
import { RingLog, type Seen } from './ring-log.ts';
import { WITNESS_EVERY_MS, Witness } from './witness.ts';
import type { NodeSession, NodeTopology, NodeWork } from './work.ts';

/** How long a command waits for this node to have folded its token. */
const FOLD_WAIT_MS = 5_000;
/** After the limit for what is in flight a quiesce that nobody takes further is ended by this node: time for the orchestrator's delta copy and fence. */
const QUIESCED_SLACK_MS = 15_000;
/** Between tries of the dead-man to reach the ring store. */
const DEAD_MAN_RETRY_MS = 250;
/** How long a starting node waits for the ring store before it serves on what its own rows say (P6). */
const START_WAIT_MS = 5_000;
/** Partitions that are put away together. */
const SETTLE_PARTITIONS = 16;
/** Jobs in one batch of adopting: about 100 ms. */
const ADOPT_ROWS = 5_000;
/** Rows that are looked at in one turn of putting away, which is one transaction: some 40 ms. */
const PUT_AWAY_ROWS = 2_000;
const RETRY_MS_MAX = 2_000;
/** Between two batches of putting away it rests as long as the last one took, at most this. */
const SETTLE_REST_MS_MAX = 250;
/** A count is begun anew where a dataset has gone meanwhile. */
const COUNT_TRIES_MAX = 5;

interface Row {
  readonly state: PartitionState;
  readonly token: number;
  readonly move: MoveId | null;
}

export interface StewardDeps {
  readonly session: NodeSession;
  readonly ringStore: RingStore;
  readonly work: NodeWork;
  readonly log: Logger;
  /** Of jobs that name none, when they are adopted. */
  readonly workspaceId: string;
  /** Default PUT_AWAY_ROWS. */
  readonly putAwayRows?: number;
  /** Default ADOPT_ROWS. */
  readonly adoptRows?: number;
}

export class Steward implements NodeControl, NodeTopology {
  readonly #session: NodeSession;
  /** Quiesces, fences and openings: on one connection, whose statements are known to it when clients wait. Within a turn it is free while a transaction runs. */
  readonly #reserved: Pool;
  /** Whoever was overtaken and keeps a turn waiting is ended from there. */
  readonly #aside: Aside;
  readonly #store: RingStore;
  readonly #work: NodeWork;
  readonly #log: Logger;
  readonly datasetList: DatasetList;
  readonly #stopping = new AbortController();
  readonly #deadMen = new Map<MoveId, { timer: NodeJS.Timeout; fenced: boolean }>();
  readonly #foldWaiters = new Set<() => void>();
  #ring: Ring;
  #rows = new Map<PartitionIndex, Row>();
  #foldedVersion = 0;
  #settledVersion = 0;
  #batchesPutAway = 0;
  /** Not owned, and not looked through since: may hold stale rows. */
  #unsettled = new Set<PartitionIndex>();
  /** The partitions that are being put away, and what is left of that. */
  #away: {
    readonly partitions: readonly PartitionIndex[];
    readonly rest: PuttingAway;
    readonly marked: number;
  } | null = null;
  /** The last move that took a partition away from this node. */
  readonly #leftBy = new Map<PartitionIndex, MoveId>();
  readonly #putAwayRows: number;
  readonly #adoptRows: number;
  readonly #workspaceId: string;
  /** Pending jobs without a partition, as this process found or left them. */
  #unadopted = 0;
  #blocked: { code: string; message: string } | null = null;
  #serving = false;
  #turn: Promise<unknown> = Promise.resolve();
  #running: Promise<void> = Promise.resolve();
  readonly #ringLog: RingLog;
  /** The last event that this node knows to have folded, in this life or an earlier one. */
  #seen: Seen | null = null;
  #keeping: Promise<void> = Promise.resolve();
  readonly #witness: Witness;
  #testifying: Promise<void> = Promise.resolve();
  #foldedHash = '';
  /** RING_STORE_BEHIND while the ring store lacks what this node has seen. */
  #storeTrouble: { code: string; message: string } | null = null;

  constructor(deps: StewardDeps) {
    this.#session = deps.session;
    this.#reserved = deps.session.reserve();
    this.#store = deps.ringStore;
    this.#work = deps.work;
    this.#log = deps.log;
    this.#aside = {
      pool: this.#reserved,
      onEnded: (ended) => this.#log.warn(ended, 'sessions of an overtaken attempt ended: they held an import'),
    };
    this.datasetList = new DatasetList(deps.session.pool);
    this.#putAwayRows = deps.putAwayRows ?? PUT_AWAY_ROWS;
    this.#adoptRows = deps.adoptRows ?? ADOPT_ROWS;
    this.#workspaceId = deps.workspaceId;
    this.#ring = noRing(deps.session.clusterId);
    this.#witness = new Witness(deps.session, deps.ringStore);
    this.#ringLog = new RingLog(deps.session.pool, deps.session.node, deps.session.clusterId);
  }

  ring(): Ring {
    return this.#ring;
  }

  datasets(): readonly Dataset[] {
    return this.datasetList.current();
  }

  /** Reads what this node knows, folds the log, opens what it owns. Resolves when it serves, or knows that it must not. */
  async start(): Promise<void> {
    await this.#readOwnState();
    const { promise: caughtUp, resolve: onCaughtUp } = Promise.withResolvers<void>();
    this.#running = this.#follow(onCaughtUp).catch((error: unknown) => {
      if (this.#stopping.signal.aborted) return;
      this.#log.fatal({ error: describeError(error) }, 'cannot follow the ring');
      this.#blocked ??= { code: 'RING_NOT_FOLLOWED', message: describeError(error) };
      onCaughtUp();
    });
    const hasCaughtUp = await Promise.race([caughtUp.then(() => true), delay(START_WAIT_MS, false, { ref: false })]);
    // One that has the log and serves nothing is no member: it left, or has not joined yet.
    if (!hasCaughtUp && !this.#blocked)
      await this.#inTurn(async () => this.#serveOwnRows('the ring store does not answer'));
  }

  /** The log as it is now at once, then what comes. From a part of it nobody may conclude that a move is over. */
  async #follow(onCaughtUp: () => void): Promise<void> {
    const { clusterId } = this.#session;
    const { signal } = this.#stopping;
    let events: RecordedEvent[] | null = null;
    for (;;) {
      try {
        if (await this.#isOlder()) onCaughtUp();
        else events = await this.#readLog();
      } catch (error) {
        if (signal.aborted) return;
        this.#log.warn({ error: describeError(error) }, 'ring store trouble');
      }
      if (events) break;
      await this.#pause(RETRY_MS_MAX);
      if (signal.aborted) return;
    }
    const take = async (more: readonly RecordedEvent[]): Promise<void> => {
      await this.#keeping; // at most one batch is folded and not kept
      await this.#inTurn(() => this.#persistently(() => this.#onEvents(more)));
      this.#keeping = this.#keep(more);
    };
    if (events.length > 0) await take(events);
    onCaughtUp();
    this.#testifying = this.#testify();
    const last = events.at(-1);
    const watcher = {
      onEvents: take,
      onTrouble: (error: Error | null) => {
        if (error === null) this.#storeTrouble = null;
        else if (error instanceof CodedError && error.code === 'RING_STORE_BEHIND') this.#storeTrouble = error;
        this.#log.warn(
          { trouble: error ? describeError(error) : null },
          error ? 'ring store trouble' : 'ring store well',
        );
      },
      copy: this.#ringLog,
    };
    await this.#store.watch(clusterId, last?.version ?? 0, watcher, signal, last?.hash ?? null);
  }

  /**
   * The log as the ring store has it; where that lacks what this node has seen, this node's own copy, which it goes on with. Null: the copy is not whole either
   * (the process was killed between folding and keeping), or not enough, so nothing is concluded before the store has it again.
   */
  async #readLog(): Promise<RecordedEvent[] | null> {
    const { clusterId } = this.#session;
    const events = await this.#store.read(clusterId);
    const seen = this.#seen;
    const there = seen && events[seen.version - 1]?.hash;
    if (!seen || there === seen.hash) {
      this.#storeTrouble = null;
      return events;
    }
    const trouble = storeBehind(clusterId, seen.version, there ? 'another event' : 'nothing');
    this.#storeTrouble = trouble;
    const own = await this.#ringLog.read(0, seen.version);
    assertChain(own);
    // Who may adopt jobs without a partition only the latest ring says.
    const isWhole = own.at(-1)?.hash === seen.hash && this.#unadopted === 0;
    this.#log.error(
      { trouble: describeError(trouble) },
      isWhole ? 'going on with the own copy of the log' : 'waiting for the ring store to be repaired',
    );
    return isWhole ? own : null;
  }

  /** A database from an older backup has lost what clients were told is stored, and may have open what was given away since: nothing of it is opened. */
  async #isOlder(): Promise<boolean> {
    const because = await this.#witness.olderBecause();
    if (because === null) {
      if (this.#blocked?.code === 'NODE_DATABASE_OLDER') this.#blocked = null;
      return false;
    }
    const { node, databaseId } = this.#session;
    const message = `the database ${databaseId} of ${node} is older than it was, as one from a backup: ${because}; give the node its own volume back`;
    if (!this.#blocked) this.#log.fatal({ message }, 'NODE_DATABASE_OLDER');
    this.#blocked = { code: 'NODE_DATABASE_OLDER', message };
    this.#serving = false;
    await this.#inTurn(() => this.#closeAll());
    return true;
  }

  /** What the rows of a backup say is open must not take anything in either. Once the right ones are back, the log says what is owned. */
  async #closeAll(): Promise<void> {
    const closing = [...this.#rows].filter(([, { state }]) => state !== 'closed').map(([partition]) => partition);
    if (closing.length === 0) return;
    this.#work.stop(closing);
    const version = this.#foldedVersion;
    await this.#once(follow, [this.#session.instance, [], closing, [], version, this.#foldedHash]);
    for (const partition of closing) this.#rows.set(partition, { state: 'closed', token: version, move: null });
  }

  /** Tells how far the database is, for as long as this process is the node. */
  async #testify(): Promise<void> {
    const { signal } = this.#stopping;
    const stopped = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
    while (!signal.aborted) {
      const telling = this.#witness.testify().catch((error: unknown) => {
        if (!signal.aborted) this.#log.warn({ error: describeError(error) }, 'cannot tell how far the database is');
      });
      await Promise.race([telling, stopped]); // a ring store that hangs must not keep a node that ends
      await this.#pause(WITNESS_EVERY_MS);
    }
  }

  async #keep(events: readonly RecordedEvent[]): Promise<void> {
    for (;;) {
      try {
        return await this.#ringLog.keep(events);
      } catch (error) {
        if (this.#stopping.signal.aborted) return;
        this.#log.warn({ error: describeError(error) }, 'cannot keep a copy of the log yet');
        await this.#pause(RETRY_MS_MAX);
      }
    }
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    for (const { timer } of this.#deadMen.values()) clearTimeout(timer);
    this.#deadMen.clear();
    await this.#running;
    await this.#turn.catch(() => undefined);
    await Promise.all([this.#keeping, this.#testifying]);
    if (!this.#reserved.ending) await this.#reserved.end();
  }

  async status(): Promise<NodeStatus> {
    const partitions: Record<PartitionState, number> = { closed: 0, open: 0, paused: 0, fenced: 0 };
    for (const row of this.#rows.values()) partitions[row.state] += 1;
    return {
      node: this.#session.node,
      databaseId: this.#session.databaseId,
      instance: this.#session.instance,
      foldedVersion: this.#foldedVersion,
      epoch: this.#ring.epoch,
      settledVersion: this.#settledVersion,
      serving: this.#serving,
      blocked: this.#blocked,
      partitions,
      batchesPutAway: this.#batchesPutAway,
      ...(this.#unadopted > 0 ? { unadopted: this.#unadopted } : {}),
      ...(this.#storeTrouble ? { ringTrouble: describeError(this.#storeTrouble) } : {}),
      ...(this.#ring.notUnderstood.length > 0 ? { notUnderstood: this.#ring.notUnderstood } : {}),
    };
  }

  async countPending(): Promise<number> {
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.#withClient((client) => countPending(client));
      } catch (error) {
        // A dataset whose jobs are all done may go while this counts.
        if (!isMissingTable(error) || tries === COUNT_TRIES_MAX) throw error;
      }
    }
  }

  async prepare(command: MoveCommand): Promise<ImportTarget> {
    await this.#folded(command.token);
    let rest: PuttingAway | null = null;
    for (;;) {
      try {
        const done = await this.#inTurn(() => this.#prepareNext(command, rest));
        if ('datasets' in done) return done;
        rest = done.rest;
      } catch (error) {
        // A dataset of the plan has gone, all its jobs being done: a new plan knows it no more.
        if (rest === null || !isMissingTable(error)) throw error;
        rest = null;
      }
    }
  }

  /** The import; or what is left of putting away the stale rows, which must be complete before it is made, a turn for each batch. */
  async #prepareNext(
    command: MoveCommand,
    rest: PuttingAway | null,
  ): Promise<ImportTarget | { readonly rest: PuttingAway }> {
    const move = this.#commanded(command);
    if (move.to !== this.#session.node) refuse('MOVE_INVALID', `${move.move} goes to ${move.to}`);
    const prepared = await this.#alone(move.partitions, async (client, rows) => {
      for (const [partition, row] of rows) {
        // Prepare touches nothing that this node owns at the token's position.
        if (row.state !== 'closed' || this.#ring.owners[partition] === this.#session.node) {
          refuse('NODE_OWNS_PARTITION', `partition ${partition} is ${row.state} at ${this.#session.node}`);
        }
      }
      for (const left of await importsOf(client, move.partitions))
        if (left !== move.move) await dropImport(client, this.#aside, left);
      if (!(await isImporting(client, move.move))) {
        const stale = rest ?? (await planPutAway(client, this.#leavers(move.partitions)));
        const next = await putAwayNext(client, stale, this.#putAwayRows);
        if (next.rest.todo.length > 0) return next;
      }
      return ensureImport(client, this.#aside, move.move, command.token, move.partitions);
    });
    if (!('datasets' in prepared)) return prepared;
    this.#settled(move.partitions);
    await this.#once(rehearseOpening, [this.#session.instance, move.partitions, move.move]);
    this.#log.info(
      { move: move.move, claim: command.token, partitions: formatPartitions(move.partitions) },
      'import prepared',
    );
    return prepared;
  }

  async quiesce(command: MoveCommand & { readonly limitMs: number }, signal?: AbortSignal): Promise<void> {
    await this.#folded(command.token);
    const move = await this.#inTurn(async () => {
      const commanded = this.#commandedSource(command);
      // Memory first, so that nothing new starts while we wait for the locks; the rows decide.
      this.#work.stop(commanded.partitions);
      try {
        await this.#obey(commanded, command.token, 'paused');
      } catch (error) {
        this.#work.opened(commanded.partitions.filter((partition) => this.#rows.get(partition)?.state === 'open'));
        throw error;
      }
      this.#armDeadMan(commanded.move, command.limitMs + QUIESCED_SLACK_MS, false);
      return commanded;
    });
    await this.#waitIdle(move, command.limitMs, signal);
    this.#log.info(
      {
        move: move.move,
        claim: command.token,
        partitions: move.partitions,
        starts: this.#work.lastStarts(move.partitions).map(({ partition, at }) => ({ partition, lastStartAt: at })),
        at: now(),
      },
      'partitions quiesced',
    );
  }

  async fence(command: MoveCommand & { readonly holdDeadlineMs: number }): Promise<void> {
    await this.#folded(command.token);
    await this.#inTurn(async () => {
      const move = this.#commandedSource(command);
      await this.#obey(move, command.token, 'fenced');
      this.#armDeadMan(move.move, command.holdDeadlineMs, true);
      this.#log.info(
        { move: move.move, claim: command.token, partitions: move.partitions, at: now() },
        'partitions fenced',
      );
    });
  }

  // ---- following the log

  async #readOwnState(): Promise<void> {
    await this.#withClient(async (client) => {
      const node = (await client.query<Record<string, string>>(selectNode)).rows[0]!;
      this.#foldedVersion = Number(node['folded_version']);
      this.#settledVersion = Number(node['settled_version']);
      this.#foldedHash = node['folded_hash']!;
      const folded = { version: this.#foldedVersion, hash: this.#foldedHash };
      const kept = await this.#ringLog.last();
      this.#seen = kept && folded.version > kept.version && folded.hash !== '' ? folded : kept;
      const states = await client.query<{
        partition: number;
        state: PartitionState;
        token: string;
        move: string | null;
      }>(selectStates);
      for (const { partition, state, token, move } of states.rows) {
        this.#rows.set(partition, { state, token: Number(token), move });
        if (state === 'closed') this.#unsettled.add(partition);
      }
      this.#unadopted = await countUnadoptedJobs(client);
    });
    await this.datasetList.read();
    // A deadline is monotonic where it is kept: a restarted node gives a quiesce or fence that it finds its whole time again.
    for (const [, row] of this.#rows) {
      if (row.move !== null) this.#armDeadMan(row.move, QUIESCED_SLACK_MS, row.state === 'fenced');
    }
  }

  /** The log cannot be followed: what the rows say was said by it, and nothing was taken from this node without its fence. */
  #serveOwnRows(because: string): void {
    if (this.#serving || this.#rows.size === 0) return;
    if (this.#unadopted > 0) {
      // Their users' newer jobs must not be delivered before them, and whose they are only the ring says.
      this.#log.warn({ unadopted: this.#unadopted }, 'delivering nothing: jobs wait for the ring, to be adopted');
      return;
    }
    this.#serving = true;
    this.#work.opened([...this.#rows].filter(([, row]) => row.state === 'open').map(([partition]) => partition));
    this.#log.warn({ foldedVersion: this.#foldedVersion }, `serving on own rows: ${because}`);
  }

  async #onEvents(events: readonly RecordedEvent[]): Promise<void> {
    const gained = new Map<PartitionIndex, MoveId>();
    const aborted: OpenMove[] = [];
    let ring = this.#ring;
    for (const recorded of events) {
      const { event } = recorded;
      if (recorded.version > this.#foldedVersion && event.type === 'partitions handed over') {
        const move = moveOf(ring, event.move);
        if (move?.to === this.#session.node) for (const partition of move.partitions) gained.set(partition, move.move);
      }
      if (event.type === 'partitions handed over') {
        const move = moveOf(ring, event.move);
        if (move?.from === this.#session.node)
          for (const partition of move.partitions) this.#leftBy.set(partition, move.move);
      }
      if (event.type === 'move aborted') {
        const move = moveOf(ring, event.move);
        if (move?.to === this.#session.node) aborted.push(move);
      }
      ring = fold(ring, [recorded]);
    }
    const last = events.at(-1)!;
    if (ring.notUnderstood.length > 0) {
      this.#log.warn({ types: ring.notUnderstood }, 'events of a newer version: serving on, changing nothing');
      // One that starts in the middle of an upgrade: what its rows say was said by a log that it understood.
      if (!this.#isForeign(ring) && isMember(ring, this.#session.node))
        this.#serveOwnRows('the log has events of a newer version');
      this.#hasFolded(ring);
      return; // an upgraded process folds all of it again
    }
    await this.#reconcile(ring, last, gained);
    for (const { move, partitions } of aborted) {
      await this.#alone([], (client) => dropImport(client, this.#aside, move));
      this.#unsettle(partitions.filter((partition) => this.#rows.get(partition)?.state === 'closed'));
    }
    // Last of all: what failed above is tried again with the same events, which follow the ring as it was.
    this.#hasFolded(ring);
    // Not awaited: it takes turns of its own, so that commands and hand-overs do not wait for it.
    void this.#settle();
  }

  #hasFolded(ring: Ring): void {
    this.#ring = ring;
    for (const wake of this.#foldWaiters) wake();
    this.#foldWaiters.clear();
  }

  /** Brings the rows to what the log says at `ring`, in one transaction with the version that they are derived from. */
  async #reconcile(ring: Ring, last: RecordedEvent, gained: ReadonlyMap<PartitionIndex, MoveId>): Promise<void> {
    if (this.#isForeign(ring)) return;
    const first = !this.#serving;
    if (first && isMember(ring, this.#session.node)) await this.#adopt(ring.partitionCount);
    const before = new Map(this.#rows);
    const changes = new Map<PartitionIndex, 'open' | 'closed'>();
    for (let partition = 0; partition < ring.partitionCount; partition += 1) {
      const wanted = this.#wanted(ring, partition);
      if (wanted) changes.set(partition, wanted);
    }
    // A partition that comes without a move (its owner was forgotten): what is stale of it here is put away before it is opened, as a prepare does it else.
    const unprepared = [...changes].filter(
      ([partition, state]) => state === 'open' && this.#unsettled.has(partition) && !gained.has(partition),
    );
    if (unprepared.length > 0 && isMember(ring, this.#session.node))
      await this.#putAwayNow(unprepared.map(([partition]) => partition));
    const closing = [...changes].filter(([, state]) => state === 'closed').map(([partition]) => partition);
    const opening = [...changes].filter(([, state]) => state === 'open').map(([partition]) => partition);
    this.#work.stop(closing);
    // Events that change no state here need no write: a restarted node folds them again.
    if (changes.size > 0) {
      const imports = [...new Set(opening.flatMap((partition) => gained.get(partition) ?? []))];
      const datasets = await this.#once<Dataset>(follow, [
        this.#session.instance,
        opening,
        closing,
        imports,
        last.version,
        last.hash,
      ]);
      this.datasetList.attached(datasets.filter(({ move }) => move !== null && imports.includes(move)));
    }
    for (const [partition, state] of changes) this.#rows.set(partition, { state, token: last.version, move: null });
    // A partition that this database never knew has nothing to put away.
    this.#unsettle(closing.filter((partition) => before.has(partition)));
    this.#settled(opening);
    this.#foldedVersion = Math.max(this.#foldedVersion, last.version);
    this.#serving = isMember(ring, this.#session.node);
    for (const [move, deadMan] of this.#deadMen) {
      if (moveOf(ring, move)?.state === 'started') continue;
      clearTimeout(deadMan.timer);
      this.#deadMen.delete(move);
    }
    const readable = first
      ? [...this.#rows].filter(([, row]) => row.state === 'open').map(([partition]) => partition)
      : opening;
    if (readable.length > 0) this.#work.opened(readable);
    this.#logChanges(
      last,
      opening,
      closing,
      (partition) => gained.get(partition) ?? before.get(partition)?.move ?? null,
    );
  }

  /**
   * Jobs without a partition get theirs, before their partitions are opened: so they come before newer ones of the same user (S5). Nothing of these partitions is
   * at work here, and no hand-over can take them away meanwhile: what was begun is aborted first, and what begins needs this node's quiesce, which waits for
   * this turn. A copy that was begun meanwhile may have read over them, so it is aborted as well.
   */
  async #adopt(partitionCount: number): Promise<void> {
    if (this.#unadopted === 0) return;
    const owned = await this.#ownedAlone();
    let adopted = 0;
    for (let rest: Adopting = { todo: this.datasets(), after: 0 }; rest.todo.length > 0; ) {
      this.#stopping.signal.throwIfAborted();
      const rules = { workspaceId: this.#workspaceId, partitionCount, owned };
      const next = await this.#alone([], (client) => adoptNext(client, rest, rules, this.#adoptRows));
      rest = next.rest;
      adopted += next.adopted;
      if (next.adopted > 0) this.#log.info({ adopted, of: this.#unadopted }, 'jobs adopted');
    }
    await this.#ownedAlone();
    this.#unadopted = await this.#withClient(countUnadoptedJobs);
    if (this.#unadopted > 0)
      this.#log.error(
        { unadopted: this.#unadopted },
        'jobs without a partition stay as they are: others own their partitions',
      );
  }

  /** The partitions that this node owns and no move is about to take away, which those that were begun are aborted for. */
  async #ownedAlone(): Promise<Set<PartitionIndex>> {
    const { node, clusterId } = this.#session;
    for (;;) {
      const ring = await readRing(this.#store, clusterId);
      const taking = ring.moves.find((move) => move.from === node && move.state === 'started');
      if (!taking) return new Set([...ring.owners.keys()].filter((partition) => ring.owners[partition] === node));
      const { move } = taking;
      const because = `${node}: jobs without a partition are adopted first`;
      const by = { actor: node, reason: 'adopting', operation: move.split('/')[0] ?? null };
      try {
        await decideAndAppend(this.#store, clusterId, { type: 'abort move', move, because }, by);
        this.#log.warn({ move }, 'move aborted by its source: jobs without a partition are adopted first');
      } catch (error) {
        if ((error as { code?: string }).code !== 'MOVE_HANDED_OVER') throw error; // handed over: then it is not ours
      }
    }
  }

  /** The state that a partition's row should go to, or null where it is right as it is. */
  #wanted(ring: Ring, partition: PartitionIndex): 'open' | 'closed' | null {
    const row = this.#rows.get(partition);
    if (row && row.token > ring.version) return null; // S3: set under a later position than this one
    if (ring.owners[partition] !== this.#session.node)
      return row === undefined || row.state !== 'closed' ? 'closed' : null;
    if (row === undefined || row.state === 'closed') return 'open';
    if (row.state === 'open') return null;
    return moveOf(ring, row.move!)?.state === 'started' ? null : 'open'; // the move was aborted: the fence is lifted
  }

  /** A node that comes back with an empty or another database opens nothing, and says so by name. */
  #isForeign(ring: Ring): boolean {
    const facts = ring.nodes.find((other) => other.node === this.#session.node);
    if (!facts || facts.databaseId === this.#session.databaseId) {
      if (this.#blocked?.code === 'NODE_OTHER_DATABASE') this.#blocked = null;
      return false;
    }
    const message = `${facts.node} joined the ring with database ${facts.databaseId}; this database is ${this.#session.databaseId}: give the node its own volume back`;
    if (!this.#blocked) this.#log.error({ message }, 'NODE_OTHER_DATABASE');
    this.#blocked = { code: 'NODE_OTHER_DATABASE', message };
    this.#serving = false;
    return true;
  }

  #logChanges(
    last: RecordedEvent,
    opening: readonly PartitionIndex[],
    closing: readonly PartitionIndex[],
    moveFor: (partition: PartitionIndex) => MoveId | null,
  ): void {
    const at = now();
    for (const [partitions, message] of [
      [opening, 'partitions opened'],
      [closing, 'partitions closed'],
    ] as const) {
      for (const move of new Set(partitions.map(moveFor))) {
        this.#log.info(
          {
            move,
            version: last.version,
            partitions: partitions.filter((partition) => moveFor(partition) === move),
            at,
          },
          message,
        );
      }
    }
  }

  // ---- commands

  /** The move as the ring has it, if this command's claim is its latest. */
  #commanded(command: MoveCommand): OpenMove {
    if (this.#blocked) refuse('NODE_BLOCKED', `${this.#blocked.code}: ${this.#blocked.message}`);
    // A token of another history might be the same number.
    if (this.#storeTrouble) refuse('RING_STORE_BEHIND', this.#storeTrouble.message);
    const { notUnderstood } = this.#ring;
    if (notUnderstood.length > 0)
      refuse(
        'RING_TOO_NEW',
        `the log has events of a newer version (${notUnderstood.join(', ')}): upgrade ${this.#session.node} first`,
      );
    const move = moveOf(this.#ring, command.move);
    if (!move) return refuse('MOVE_ABORTED', `${command.move} is not open at version ${this.#ring.version}`);
    if (move.state !== 'started')
      refuse('MOVE_HANDED_OVER', `${command.move} was handed over at version ${move.handedOverAt}`);
    if (move.token !== command.token)
      refuse('STALE_TOKEN', `${command.move} was claimed again: token ${move.token}, not ${command.token}`);
    return move;
  }

  #commandedSource(command: MoveCommand): OpenMove {
    const move = this.#commanded(command);
    if (move.from !== this.#session.node) refuse('MOVE_INVALID', `${move.move} comes from ${move.from}`);
    return move;
  }

  /** Quiesces or fences, durably; waits for the transactions that are inside. */
  async #obey(move: OpenMove, token: number, state: 'paused' | 'fenced'): Promise<void> {
    const rows = await this.#once<{ partition: number; state: PartitionState }>(obey, [
      this.#session.instance,
      move.partitions,
      state,
      token,
      move.move,
    ]);
    for (const row of rows) this.#rows.set(row.partition, { state: row.state, token, move: move.move });
  }

  async #waitIdle(move: OpenMove, limitMs: number, signal?: AbortSignal): Promise<void> {
    const limit = AbortSignal.timeout(limitMs);
    try {
      await this.#work.idle(move.partitions, signal ? AbortSignal.any([limit, signal]) : limit);
    } catch (error) {
      if (!limit.aborted) throw error;
      const destinations = this.#work.waitingFor(move.partitions);
      throw new CodedError(
        'QUIESCE_TIMEOUT',
        `deliveries in flight did not end within ${limitMs} ms: ${destinations.join(', ') || 'unknown destination'}`,
        { destinations },
      );
    }
  }

  async #folded(token: number): Promise<void> {
    const deadline = performance.now() + FOLD_WAIT_MS;
    while (this.#ring.version < token) {
      const left = deadline - performance.now();
      if (left <= 0)
        throw new Error(
          `${this.#session.node} has folded version ${this.#ring.version}, the command asks for ${token}`,
        );
      await Promise.race([
        new Promise<void>((resolve) => this.#foldWaiters.add(resolve)),
        delay(left, undefined, { ref: false }),
      ]);
    }
  }

  // ---- dead-man

  /**
   * If nobody ends the move in time this node appends its abort itself; it may lose against the hand-over, and then stays closed.
   * A retry of the same move does not get more time for its fence: clients are waiting.
   */
  #armDeadMan(move: MoveId, afterMs: number, fenced: boolean): void {
    const armed = this.#deadMen.get(move);
    if (armed && (armed.fenced || !fenced)) return;
    if (armed) clearTimeout(armed.timer);
    const timer = setTimeout(() => void this.#abortOverdue(move, afterMs), afterMs);
    this.#deadMen.set(move, { timer, fenced });
  }

  async #abortOverdue(move: MoveId, afterMs: number): Promise<void> {
    const because = `${this.#session.node}: nobody ended the move within ${afterMs} ms`;
    while (this.#deadMen.has(move) && !this.#stopping.signal.aborted) {
      try {
        // What it holds may not know the move at all, and nothing would have to be aborted then.
        if (this.#storeTrouble) refuse('RING_STORE_BEHIND', this.#storeTrouble.message);
        await decideAndAppend(
          this.#store,
          this.#session.clusterId,
          { type: 'abort move', move, because },
          { actor: this.#session.node, reason: 'dead-man', operation: move.split('/')[0] ?? null },
        );
        this.#log.warn({ move, afterMs }, 'move aborted by its source');
        return;
      } catch (error) {
        if ((error as { code?: string }).code === 'MOVE_HANDED_OVER') return;
        // Safe rather than available: the fence stays until the ring store has decided.
        this.#log.warn({ move, error: describeError(error) }, 'cannot abort the overdue move yet');
        await delay(DEAD_MAN_RETRY_MS, undefined, { ref: false });
      }
    }
  }

  // ---- putting away (S4)

  #settling: 'no' | 'yes' | 'and again' = 'no';
  async #settle(): Promise<void> {
    if (this.#settling !== 'no') {
      this.#settling = 'and again';
      return;
    }
    do {
      this.#settling = 'yes';
      for (let more = true, again = false; more; ) {
        try {
          const beganAt = performance.now();
          more = await this.#inTurn(() => this.#settleNext());
          again = false;
          // Nobody waits for it: at least half of the time is live traffic's.
          if (more) await this.#pause(Math.min(performance.now() - beganAt, SETTLE_REST_MS_MAX));
        } catch (error) {
          if (this.#stopping.signal.aborted) return;
          // A dataset of the plan has gone, all its jobs being done: a new plan knows it no more.
          if (isMissingTable(error) && !again) {
            again = true;
            continue;
          }
          this.#log.warn({ error: describeError(error) }, 'putting away stale jobs: will try again');
          await this.#pause(RETRY_MS_MAX);
        }
      }
    } while ((this.#settling as string) === 'and again');
    this.#settling = 'no';
  }

  async #pause(ms: number): Promise<void> {
    await delay(ms, undefined, { ref: false, signal: this.#stopping.signal }).catch(() => undefined);
  }

  /** These may hold stale rows, from their first on. */
  #unsettle(partitions: readonly PartitionIndex[]): void {
    this.#settled(partitions);
    for (const partition of partitions) this.#unsettled.add(partition);
  }

  /** All of it, in this turn. */
  async #putAwayNow(partitions: readonly PartitionIndex[]): Promise<void> {
    let rest = await this.#alone(partitions, (client) => planPutAway(client, this.#leavers(partitions)));
    while (rest.todo.length > 0) {
      const begun = rest;
      rest = (await this.#alone(partitions, (client) => putAwayNext(client, begun, this.#putAwayRows))).rest;
    }
    this.#settled(partitions);
  }

  /** Nothing stale is left of these, or they are owned. What was planned to be put away of them counts no more: later they may hold other rows. */
  #settled(partitions: readonly PartitionIndex[]): void {
    for (const partition of partitions) this.#unsettled.delete(partition);
    if (this.#away?.partitions.some((partition) => partitions.includes(partition))) this.#away = null;
  }

  #leavers(partitions: readonly PartitionIndex[]): Map<PartitionIndex, MoveId | null> {
    return new Map(partitions.map((partition) => [partition, this.#leftBy.get(partition) ?? null]));
  }

  /** One batch in a turn and a transaction of its own: long queues must not keep the log, commands and hand-overs waiting. False: nothing is left. */
  async #settleNext(): Promise<boolean> {
    if (this.#stopping.signal.aborted) return false;
    const ring = this.#ring;
    // No member: what is pending here is of an earlier life, and nobody knows whether it was moved. Nothing is delivered, and nothing put away: it cannot join so.
    if (!isMember(ring, this.#session.node)) return false;
    const incoming = new Set(
      ring.moves
        .filter((move) => move.to === this.#session.node && move.state === 'started')
        .flatMap((move) => move.partitions),
    );
    const begun = this.#away?.partitions.some((partition) => incoming.has(partition)) ? null : this.#away;
    this.#away = null; // until the batch is known to be committed
    const partitions =
      begun?.partitions ??
      [...this.#unsettled].filter((candidate) => !incoming.has(candidate)).slice(0, SETTLE_PARTITIONS);
    if (partitions.length > 0) {
      const { rest, marked } = await this.#alone(partitions, async (client) =>
        putAwayNext(client, begun?.rest ?? (await planPutAway(client, this.#leavers(partitions))), this.#putAwayRows),
      );
      const jobs = (begun?.marked ?? 0) + marked;
      this.#batchesPutAway += 1;
      if (rest.todo.length > 0) {
        this.#away = { partitions, rest, marked: jobs };
        return true;
      }
      this.#settled(partitions);
      if (jobs > 0)
        this.#log.info(
          { partitions: formatPartitions(partitions), jobs, version: ring.version },
          'jobs marked migrated',
        );
      return true;
    }
    // What is left is about to be received: its prepare puts it away.
    if (this.#settledVersion < ring.version) {
      await this.#withClient((client) => client.query(setSettled, [ring.version]));
      this.#settledVersion = ring.version;
    }
    return false;
  }

  /** The log must not be skipped: what fails for a lost database is tried again until it works; a refusal blocks this node, by name. */
  async #persistently(run: () => Promise<void>): Promise<void> {
    for (let wait = 50; ; wait = Math.min(wait * 2, RETRY_MS_MAX)) {
      try {
        return await run();
      } catch (error) {
        if (this.#stopping.signal.aborted) return;
        if (error instanceof CodedError) {
          this.#blocked = { code: error.code, message: error.message };
          this.#log.fatal({ error: describeError(error) }, 'node blocked: it opens nothing more');
          throw error;
        }
        this.#log.warn({ error: describeError(error) }, 'cannot fold the log into the database yet');
        await delay(wait, undefined, { ref: false });
      }
    }
  }

  // ---- transactions

  /** Runs `change` alone inside the locks of `partitions`, in one synchronous transaction, with their rows as the database has them. */
  async #alone<T>(
    partitions: readonly PartitionIndex[],
    change: (client: PoolClient, rows: Map<PartitionIndex, Row>) => Promise<T>,
  ): Promise<T> {
    return this.#withClient(async (client) => {
      await client.query('BEGIN');
      try {
        const entered = await client.query<{
          partition: number;
          state: PartitionState;
          move: string | null;
          token: string;
        }>(enterAlone, [this.#session.instance, partitions]);
        const rows = new Map(
          entered.rows.map(({ partition, state, move, token }) => [partition, { state, move, token: Number(token) }]),
        );
        const result = await change(client, rows);
        await client.query('COMMIT');
        return result;
      } catch (error) {
        await client.query('ROLLBACK').catch(() => undefined);
        throw error;
      }
    });
  }

  /** One statement, which is a transaction of its own. What it refuses by SQLSTATE is refused by the contract's code. */
  async #once<R extends object>(statement: string, values: readonly unknown[]): Promise<R[]> {
    try {
      return (await this.#reserved.query<R>(statement, [...values])).rows;
    } catch (error) {
      const code = refusalOfState[(error as { code?: string }).code ?? ''];
      if (code === undefined) throw error;
      throw new CodedError(code, (error as Error).message, {}, { cause: error });
    }
  }

  async #withClient<T>(use: (client: PoolClient) => Promise<T>): Promise<T> {
    const client = await this.#session.pool.connect();
    let broken: Error | undefined;
    try {
      return await use(client);
    } catch (error) {
      if (!(error instanceof CodedError)) broken = error as Error; // its transaction's fate is not known: do not use it again
      throw error;
    } finally {
      client.release(broken);
    }
  }

  #inTurn<T>(run: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(run, run);
    this.#turn = mine.catch(() => undefined);
    return mine;
  }
}

function refuse(code: string, message: string): never {
  throw new CodedError(code, message);
}
