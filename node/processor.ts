/**
 * From `gw` to `rt`: one job for each destination of an event's source.
 *
 * What holds:
 *   - the rt jobs and the gw job's status are one transaction, so an event becomes its rt jobs exactly once, also over crashes;
 *   - one transaction at a time, and within a partition in ascending order of gw ids: rt ids keep the order of intake;
 *   - only partitions whose row says `open` inside the transaction; cursors in memory only spare reading what is done.
 */
import type { PoolClient } from 'pg';
import type { Dataset } from '../jobsdb/sql/datasets.ts';
import { insertForDestinations, insertProcessed, selectUnprocessed } from '../jobsdb/sql/processing.ts';
import { describeError } from '../kit/errors.ts';
import { type Logger, now } from '../kit/log.ts';
import type { PartitionIndex } from '../ring/partition.ts';
import type { NodeConfig } from './config.ts';
import { liveDataset, withDatasets } from './dataset-list.ts';
import type { Health } from './health.ts';
import { Kick, LoopBackoff } from './kick.ts';
import { earliest, RecentTimes } from './load.ts';
import type { NodeMetrics } from './metrics.ts';
import { prepared } from './prepared.ts';
import { isSuperseded, OutcomeUnknown, PartitionTransactions } from './transaction.ts';
import type { NodeSession, NodeTopology } from './work.ts';
import type { Workspaces } from './workspaces.ts';

export interface ProcessorDeps {
  readonly session: NodeSession;
  readonly topology: NodeTopology;
  readonly config: Pick<NodeConfig, 'sources' | 'limits'>;
  readonly workspaces: Workspaces;
  readonly log: Logger;
  readonly metrics: NodeMetrics;
  readonly health: Health;
  /** Partitions that have new rt jobs. */
  readonly onProcessed: (partitions: readonly PartitionIndex[]) => void;
  /** No transaction is open: see `busy`. */
  readonly onIdle: () => void;
  readonly onSuperseded: (error: unknown) => void;
}

/** Everything of the partition up to `after` is processed, or was looked at and cannot be. Opening makes a new one: a transaction that is under way keeps the old. */
interface Cursor {
  readonly partition: PartitionIndex;
  after: number;
}

interface Row {
  readonly partition: PartitionIndex;
  readonly id: number;
  readonly dataset: number;
  readonly sourceId: string | null;
}

const PARTITIONS_PER_BATCH = 64;
/** Of one partition at least so many, however many others wait. */
const ROWS_PER_PARTITION_MIN = 16;

export class Processor {
  readonly #deps: ProcessorDeps;
  readonly #transactions: PartitionTransactions;
  readonly #destinationsOf: ReadonlyMap<string, readonly string[]>;
  readonly #cursors = new Map<PartitionIndex, Cursor>();
  /** Those that may have something above their cursor, longest waiting first, and since when. */
  readonly #dirty = new Map<Cursor, number>();
  /** Those of the transaction that is under way, and since when they had waited. */
  #batch: readonly (readonly [Cursor, number])[] = [];
  readonly #waits = new RecentTimes();
  readonly #kick = new Kick();
  readonly lastStarts = new Map<PartitionIndex, number>();
  #inTransaction: ReadonlySet<PartitionIndex> = new Set();
  #stopped = false;
  #running: Promise<void> = Promise.resolve();

  constructor(deps: ProcessorDeps) {
    this.#deps = deps;
    this.#transactions = new PartitionTransactions(deps.session);
    this.#destinationsOf = new Map(
      deps.config.sources.map(({ sourceId, destinations }) => [sourceId, destinations.map(({ id }) => id)]),
    );
  }

  start(): void {
    this.#running = this.#run();
  }

  opened(partitions: readonly PartitionIndex[]): void {
    for (const partition of partitions) {
      this.forget([partition]);
      const cursor = { partition, after: 0 };
      this.#cursors.set(partition, cursor);
      this.#waitsSince(cursor, performance.now());
    }
    this.#kick.kick();
  }

  readAfresh(): void {
    this.opened([...this.#cursors.keys()]);
  }

  /** Starts nothing more of these. */
  forget(partitions: readonly PartitionIndex[]): void {
    for (const partition of partitions) {
      const cursor = this.#cursors.get(partition);
      if (!cursor) continue;
      this.#cursors.delete(partition);
      this.#dirty.delete(cursor);
    }
  }

  /** Something new may be there. Of partitions that are not open here it is read when they are opened. */
  wake(partitions: readonly PartitionIndex[]): void {
    for (const partition of partitions) {
      const cursor = this.#cursors.get(partition);
      if (cursor) this.#waitsSince(cursor, performance.now());
    }
    this.#kick.kick();
  }

  /** Whether a transaction over this partition is under way. */
  busy(partition: PartitionIndex): boolean {
    return this.#inTransaction.has(partition);
  }

  /** How long gw jobs of partitions that are open here wait until they are processed, at most. Null: none waited lately. */
  get delayMs(): number | null {
    const since = earliest([...this.#dirty.values(), ...this.#batch.map(([, from]) => from)]);
    return this.#waits.quantiles(since)?.p90 ?? null;
  }

  #waitsSince(cursor: Cursor, since: number): void {
    this.#dirty.set(cursor, Math.min(since, this.#dirty.get(cursor) ?? since));
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#kick.kick();
    await this.#running;
  }

  async #run(): Promise<void> {
    const backoff = new LoopBackoff();
    while (!this.#stopped) {
      const batch = [...this.#dirty].slice(0, PARTITIONS_PER_BATCH);
      if (batch.length === 0) {
        await this.#kick.wait();
        continue;
      }
      for (const [cursor] of batch) this.#dirty.delete(cursor);
      this.#batch = batch;
      try {
        await this.#process(batch.map(([cursor]) => cursor));
        this.#deps.health.succeeded('processor');
        backoff.reset();
      } catch (error) {
        for (const [cursor, since] of batch)
          if (this.#cursors.get(cursor.partition) === cursor) this.#waitsSince(cursor, since);
        if (isSuperseded(error)) return this.#deps.onSuperseded(error);
        // It may have committed: then the next try finds nothing to process, and nobody else would say that there are rt jobs.
        if (error instanceof OutcomeUnknown) this.#deps.onProcessed(batch.map(([{ partition }]) => partition));
        this.#deps.health.failed('processor', describeError(error));
        this.#deps.log.warn({ error: describeError(error) }, 'processing failed, will try again');
        const until = performance.now() + backoff.next();
        while (!this.#stopped && performance.now() < until) await this.#kick.wait(until - performance.now());
      } finally {
        this.#batch = [];
      }
    }
  }

  async #process(batch: readonly Cursor[]): Promise<void> {
    const { topology, metrics, onProcessed, onIdle } = this.#deps;
    const partitions = batch.map(({ partition }) => partition);
    const limit = Math.max(ROWS_PER_PARTITION_MIN, Math.ceil(this.#deps.config.limits.processBatch / batch.length));
    this.#inTransaction = new Set(partitions);
    try {
      const { rows, notOpen, processed } = await withDatasets(topology, (datasets) =>
        this.#transactions.run(partitions, async (client, entered) => {
          const isOpen = ({ partition }: Cursor): boolean => entered.get(partition)?.state === 'open';
          // Also not what was forgotten while we waited for the locks.
          const readable = batch.filter((cursor) => isOpen(cursor) && this.#cursors.get(cursor.partition) === cursor);
          const rows = await this.#select(client, datasets, readable, limit);
          return {
            rows,
            notOpen: batch.filter((cursor) => !isOpen(cursor)),
            processed: await this.#write(client, [...rows.values()].flat()),
          };
        }),
      );
      for (const cursor of batch) {
        const read = rows.get(cursor.partition) ?? [];
        cursor.after = read.at(-1)?.id ?? cursor.after;
        const since = this.#batch.find(([one]) => one === cursor)![1];
        if (read.length > 0) this.#waits.ended(since);
        if (read.length >= limit && this.#cursors.get(cursor.partition) === cursor) this.#waitsSince(cursor, since);
      }
      // Nobody told us to stop, and yet not open: it will be opened again, and then read afresh.
      for (const cursor of notOpen) if (this.#cursors.get(cursor.partition) === cursor) this.forget([cursor.partition]);
      metrics.processed.inc(processed);
      if (rows.size > 0) onProcessed([...rows.keys()]);
    } finally {
      this.#inTransaction = new Set();
      onIdle();
    }
  }

  /** The first `limit` pending rows of each, ascending. */
  async #select(
    client: PoolClient,
    datasets: readonly Dataset[],
    cursors: readonly Cursor[],
    limit: number,
  ): Promise<Map<PartitionIndex, Row[]>> {
    const rows = new Map<PartitionIndex, Row[]>();
    if (cursors.length === 0) return rows;
    const { partitions, partitionIds, after } = await this.#deps.workspaces.expand(cursors);
    const numbers = datasets.filter(({ prefix }) => prefix === 'gw').map(({ dataset }) => dataset);
    const selected = await client.query<{
      partition: number;
      job_id: string;
      dataset: number;
      source_id: string | null;
    }>(prepared(selectUnprocessed(numbers), [partitions, partitionIds, after, limit]));
    for (const { partition, job_id, dataset, source_id } of selected.rows) {
      const known = rows.get(partition);
      const row = { partition, id: Number(job_id), dataset, sourceId: source_id };
      if (!known) rows.set(partition, [row]);
      else if (known.length < limit) known.push(row);
    }
    return rows;
  }

  /** The rt jobs and the statuses of `rows`. Gives the number of jobs processed. */
  async #write(client: PoolClient, rows: readonly Row[]): Promise<number> {
    if (rows.length === 0) return 0;
    const at = now();
    for (const { partition } of rows) this.lastStarts.set(partition, at);
    const done = new Map<
      number,
      { ids: number[]; states: string[]; codes: (string | null)[]; errors: (string | null)[] }
    >();
    const jobs = { ids: [] as number[], destinations: [] as string[], datasets: new Set<number>() };
    for (const row of rows) {
      const destinations = row.sourceId === null ? [] : this.#destinationsOf.get(row.sourceId);
      if (!destinations) {
        // It stays pending, as it is: a mistake in a configuration must not lose events. It blocks nobody; a restart with the source reads it again.
        this.#deps.health.failed(`source ${row.sourceId}`, 'has pending events here and is not configured');
        continue;
      }
      const poison = row.sourceId === null;
      const statuses = done.get(row.dataset) ?? { ids: [], states: [], codes: [], errors: [] };
      done.set(row.dataset, statuses);
      statuses.ids.push(row.id);
      statuses.states.push(poison ? 'aborted' : 'succeeded');
      statuses.codes.push(poison ? 'UNPARSABLE' : null);
      statuses.errors.push(poison ? 'the job is no event with a source' : null);
      for (const destination of destinations) {
        jobs.ids.push(row.id);
        jobs.destinations.push(destination);
        jobs.datasets.add(row.dataset);
      }
    }
    if (jobs.ids.length > 0) {
      // As it is now: while this waited for the locks it may have been followed by another.
      const target = liveDataset(this.#deps.topology.datasets(), 'rt');
      const sources = [...jobs.datasets].sort((a, b) => a - b);
      await client.query(prepared(insertForDestinations(target.dataset, sources), [jobs.ids, jobs.destinations]));
    }
    let processed = 0;
    for (const [dataset, { ids, states, codes, errors }] of done) {
      processed += ids.length;
      await client.query(prepared(insertProcessed(dataset), [ids, states, codes, errors]));
    }
    return processed;
  }
}
