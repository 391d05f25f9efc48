/**
 * The life of this node's datasets: a live one that is full is followed by a new one, and one whose jobs are all done goes away.
 *
 *   live ──full──▶ followed ──all jobs done──▶ out of the list ──▶ dropped
 *   import ──attached──▶ (kept for the grace) ──all jobs done──▶ out of the list ──▶ dropped, and with the grace its ledger
 *
 * What holds:
 *   K1 nothing is dropped that is live, holds a pending job, or was marked `migrated` or attached within the grace (`movedKeepMs`, by the database's clock);
 *   K2 nothing is dropped while a move that names this node is open in the ring, or where the ring is not known or not understood;
 *   K3 it is out of the list first, so nobody who asks anew reads it; then locked, looked at once more and dropped in one transaction, which
 *      gives up rather than queue in front of anybody.
 * A job that is done stays done, and in a dataset new ids lie above those that were there: what was looked through is never looked at again. So a
 * look costs a probe of the first pending job, and what a partition that opens has to read over is bounded by the datasets that are left.
 */
import type { Dataset } from '../jobsdb/sql/datasets.ts';
import {
  addDataset,
  dropDataset,
  forgetImports,
  type LifeRow,
  nextPending,
  selectLife,
  sizeOf,
} from '../jobsdb/sql/keeping.ts';
import { codeOf, describeError } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import { isMember } from '../ring/ring.ts';
import type { NodeLimits } from './config.ts';
import { type DatasetList, keyOf } from './dataset-list.ts';
import { isSuperseded, PartitionTransactions } from './transaction.ts';
import type { NodeSession, NodeTopology } from './work.ts';

/** Rows that one statement looks at, and all looks of one round. */
const LOOK_ROWS = 2_000;
const ROUND_ROWS_MAX = 20_000;
/** A dataset that still has its pending job is looked at again after one round, two, four …, and so many at most. */
const WAIT_ROUNDS_MAX = 16;
/** A lock that is not had within the function's lock_timeout: somebody still reads it. */
const LOCK_NOT_AVAILABLE = '55P03';

export interface DatasetKeeperDeps {
  readonly session: NodeSession;
  readonly topology: Pick<NodeTopology, 'ring'>;
  readonly list: DatasetList;
  readonly limits: Pick<NodeLimits, 'datasetRowsMax' | 'datasetBytesMax' | 'datasetsEveryMs' | 'movedKeepMs'>;
  readonly log: Logger;
  /** A job was written to a dataset that was out of the list: whoever has read on over its id must read afresh. */
  readonly onMissed: () => void;
  readonly onSuperseded: (error: unknown) => void;
}

interface Look {
  /** No job up to this id is pending. */
  upTo: number;
  /** Rounds to pass before the next look, and how many that were last time. */
  rounds: number;
  waited: number;
  /** A job came while the dataset was out of the list. */
  missed: boolean;
}

export class DatasetKeeper {
  readonly #deps: DatasetKeeperDeps;
  readonly #transactions: PartitionTransactions;
  readonly #looks = new Map<string, Look>();
  #timer: NodeJS.Timeout | null = null;
  #running: Promise<void> = Promise.resolve();
  #stopped = false;

  constructor(deps: DatasetKeeperDeps) {
    this.#deps = deps;
    this.#transactions = new PartitionTransactions(deps.session);
  }

  start(): void {
    this.#timer = setTimeout(() => {
      this.#running = this.#round().finally(() => {
        if (!this.#stopped) this.start();
      });
    }, this.#deps.limits.datasetsEveryMs).unref();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    if (this.#timer) clearTimeout(this.#timer);
    await this.#running;
  }

  async #round(): Promise<void> {
    const { session, limits, list, log, onSuperseded } = this.#deps;
    try {
      await list.read(); // also what an earlier round could not read any more
      const datasets = (await session.pool.query<LifeRow>(selectLife, [limits.movedKeepMs])).rows;
      for (const live of datasets.filter((dataset) => dataset.live)) await this.#rollOver(live);
      this.#forgetLooks(datasets);
      let left = ROUND_ROWS_MAX;
      for (const dataset of datasets.filter(({ live, kept }) => !live && !kept)) {
        if (this.#stopped || !this.#mayDrop() || left <= 0) return;
        left -= await this.#lookAt(dataset, left);
      }
      if (this.#mayDrop())
        await this.#transactions.run([], (client) => client.query(forgetImports, [limits.movedKeepMs]));
    } catch (error) {
      if (isSuperseded(error)) onSuperseded(error);
      else log.warn({ error: describeError(error) }, 'datasets not looked after: will try again');
    }
  }

  // ---- rolling over

  async #rollOver({ prefix, dataset }: Dataset): Promise<void> {
    const { session, limits, list, log } = this.#deps;
    const size = await session.pool.query<{ rows: number; bytes: number }>(sizeOf(prefix, dataset));
    const { rows, bytes } = size.rows[0]!;
    if (rows === 0 || (rows < limits.datasetRowsMax && bytes < limits.datasetBytesMax)) return;
    const added = await this.#transactions.run([], (client) =>
      client.query<{ dataset: number }>(addDataset, [prefix, dataset]),
    );
    await list.read();
    log.info({ prefix, dataset, rows, bytes, next: added.rows[0]?.dataset }, 'dataset followed by a new one');
  }

  // ---- going away

  /** K2. A move completed meanwhile, or one that this node has not folded yet, needs nothing of a dataset without pending jobs. */
  #mayDrop(): boolean {
    const { session, topology } = this.#deps;
    const ring = topology.ring();
    return (
      isMember(ring, session.node) &&
      ring.notUnderstood.length === 0 &&
      !ring.moves.some((move) => move.from === session.node || move.to === session.node)
    );
  }

  #forgetLooks(datasets: readonly Dataset[]): void {
    const there = new Set(datasets.map(keyOf));
    for (const key of this.#looks.keys()) if (!there.has(key)) this.#looks.delete(key);
  }

  /** Gives the rows that were looked at. */
  async #lookAt(dataset: Dataset, rowsMax: number): Promise<number> {
    const key = keyOf(dataset);
    const look = this.#looks.get(key) ?? { upTo: 0, rounds: 0, waited: 0, missed: false };
    this.#looks.set(key, look);
    if (look.rounds > 0) {
      look.rounds -= 1;
      return 0;
    }
    let looked = 0;
    // The job that was pending last time first, alone: almost always it still is.
    for (let rows = 1; looked < rowsMax; rows = LOOK_ROWS) {
      const found = await this.#deps.session.pool.query<{
        looked: number;
        upTo: string | null;
        pending: string | null;
      }>(nextPending(dataset.prefix, dataset.dataset), [look.upTo, rows]);
      const row = found.rows[0]!;
      looked += row.looked;
      if (row.pending !== null) {
        look.upTo = Number(row.pending) - 1;
        if (look.missed) this.#deps.onMissed(); // again: a user whose next job was in flight takes only what lies behind it
        this.#wait(look);
        return looked;
      }
      look.upTo = Number(row.upTo ?? look.upTo);
      look.waited = 0;
      if (row.looked < rows) {
        if (await this.#drop(dataset, look)) this.#looks.delete(key);
        else this.#wait(look);
        return looked;
      }
    }
    return looked; // it goes on from there in the next round
  }

  #wait(look: Look): void {
    look.waited = Math.min(Math.max(1, look.waited * 2), WAIT_ROUNDS_MAX);
    look.rounds = look.waited;
  }

  async #drop(dataset: Dataset, look: Look): Promise<boolean> {
    const { session, limits, list, log, onMissed } = this.#deps;
    const { prefix, dataset: number, move } = dataset;
    const outcome = await list.without(dataset, async () => {
      try {
        const done = await session.pool.query<{ outcome: 'dropped' | 'kept' | 'pending' }>(dropDataset, [
          session.instance,
          prefix,
          number,
          look.upTo,
          limits.movedKeepMs,
        ]);
        return done.rows[0]!.outcome;
      } catch (error) {
        if (codeOf(error) !== LOCK_NOT_AVAILABLE) throw error;
        return 'kept';
      }
    });
    if (outcome === 'dropped') log.info({ prefix, dataset: number, move }, 'dataset dropped: all its jobs are done');
    if (outcome === 'pending') {
      look.missed = true;
      onMissed();
    }
    return outcome === 'dropped';
  }
}
