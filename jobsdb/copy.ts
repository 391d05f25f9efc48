/**
 * The Jobs DB migrator: copies what is pending of some partitions from one node's database to another's, in passes, while the source goes on
 * taking in and delivering. Rows go by binary COPY from server to server, streamed; none is parsed or kept here.
 *
 * What holds:
 *   C1 rows and ledger commit together at the target, in transactions that hold the import's token row: an older attempt can write nothing
 *      once a newer one has prepared, and a retry goes on after the last commit.
 *   C2 within a pass `new id = old id + constant`; blocks of later passes lie above those of earlier ones: the order of ids is the source's.
 *   C3 a pass is defined by its marks, taken before all transactions that were then writing have ended and read after: below them nothing changes any more.
 *      Pass 1 is what is pending at its marks; a later pass is what came between the former marks and its own. Nothing is in none, and nothing in two.
 *   C4 what a transaction brings is compared by digest in both databases before it commits: contents, states, counts.
 *   C5 each pass carries on the sums of the pending set, so that at the hand-over both sides are compared by what has changed lately, however many jobs wait.
 */
import type pg from 'pg';
import { CodedError } from '../kit/errors.ts';
import type { MoveProof } from '../ring/events.ts';
import type { PartitionIndex } from '../ring/partition.ts';
import { assertWhole, COPY_LANES, copyFirst, countWhole, DENSE_FROM, type Lane, sumsOfFirst } from './copy-first.ts';
import { addChanges, copyLater, digestWindows, finishPass, windowsBetween } from './copy-later.ts';
import {
  beginPass,
  datasetsOf,
  type Marks,
  marksNow,
  type Pass,
  rangesOf,
  readPasses,
  type Sums,
  sourceDatasets,
  type Taken,
  takeMarks,
  waitForWriters,
} from './copy-marks.ts';
import { inImport, stream } from './copy-stream.ts';
import { assertOnlyOwnRows, type ImportDatasets } from './imports.ts';
import * as sql from './sql/copy.ts';
import { attachedDatasets, partitionIdsByDataset } from './stale.ts';
import type { Throttle } from './throttle.ts';

/** Ids that a cut-over reserves ahead: what the source takes in, for all its partitions, between two steps of ours. */
const RESERVED_IDS = 10_000;

export interface CopyJob {
  readonly source: pg.Pool;
  readonly target: pg.Pool;
  readonly move: string;
  readonly token: number;
  readonly partitions: readonly PartitionIndex[];
  readonly datasets: ImportDatasets['datasets'];
  readonly chunkRowsMax?: number;
  readonly signal?: AbortSignal;
  /** Asked as rows stream; absent: as fast as the servers go. */
  readonly throttle?: Throttle;
  /** Called after every chunk with the rows written since the last call. */
  readonly onRows?: (rows: number) => void;
}

export interface PassResult {
  readonly pass: number;
  /** Job rows, status rows and messageIds that this pass wrote. */
  readonly jobs: number;
  readonly statuses: number;
  readonly messageIds: number;
}

/** The copy of one move under one token, with its connections: a cut-over must not wait for any. */
export interface Copy {
  /**
   * Runs the next pass, or finishes one that an earlier attempt has begun. `fenced`: the source takes in and writes statuses no more, so there is nobody
   * to wait for. Throws STALE_TOKEN, COPY_DIFFERS, SOURCE_DATASET_GONE; anything else is weather.
   */
  pass(options?: { readonly fenced?: boolean }): Promise<PassResult>;
  /** Begins the fenced pass ahead: reserving its ids waits for the target's open transactions, which clients in the hold need not. */
  reserve(): Promise<void>;
  /**
   * Compares the pending sets of both sides: ids, states and attempts by the sums carried along, and the order of ids (C2). What the source has is asked anew,
   * from the pass before last on. To be called when the source is fenced and a fenced pass has run. Throws VERIFY_MISMATCH.
   */
  verify(): Promise<MoveProof>;
  /** Lets the connections go; `failed`: closes them, as a COPY may still be under way. */
  close(failed?: boolean): void;
}

export async function openCopy(job: CopyJob): Promise<Copy> {
  const copy = new OpenCopy(job);
  try {
    await copy.open();
    return copy;
  } catch (error) {
    copy.close(true);
    throw error;
  }
}

/** Opens a copy, uses it, and lets its connections go. */
export async function withCopy<T>(job: CopyJob, use: (copy: Copy) => Promise<T>): Promise<T> {
  const copy = await openCopy(job);
  try {
    const result = await use(copy);
    copy.close();
    return result;
  } catch (error) {
    copy.close(true);
    throw error;
  }
}

class OpenCopy implements Copy {
  readonly #job: CopyJob;
  readonly #clients: pg.PoolClient[] = [];
  /** `reader`, at the source, looks for what the first one's work will be compared with. */
  #source!: pg.ClientBase;
  #reader!: pg.ClientBase;
  #target!: pg.ClientBase;
  /** What the ledger has, kept up here; nobody else writes there under our token. */
  #passes: Pass[] = [];
  #rowsCopied = 0;
  #byIndexes = false;
  /** The source's sums, being read since the fenced pass began. */
  #atSource: Promise<Sums> | undefined;

  constructor(job: CopyJob) {
    this.#job = job;
  }

  async open(): Promise<void> {
    const { source, target, datasets, move } = this.#job;
    this.#source = await this.#connect(source);
    this.#reader = await this.#connect(source);
    this.#target = await this.#connect(target);
    await this.#target.query(sql.makeIncoming(datasets.map(({ prefix }) => prefix)));
    await assertOnlyOwnRows(this.#target, move, datasets);
    this.#passes = await readPasses(this.#target, move);
    const copied = await this.#target.query<{ rows: string }>(
      'SELECT coalesce(sum(row_count), 0)::text AS rows FROM ringmaster.import_chunks WHERE move = $1',
      [move],
    );
    this.#rowsCopied = Number(copied.rows[0]!.rows);
  }

  close(failed = false): void {
    for (const client of this.#clients.splice(0)) {
      if (!failed && this.#byIndexes) void client.query(sql.planAsUsual).catch(() => undefined); // others use it next
      client.release(failed);
    }
  }

  async pass({ fenced = false } = {}): Promise<PassResult> {
    const done = this.#passes.filter((pass) => pass.done);
    if (done.length === 0) return this.#firstPass();
    const { result, isPast } = await this.#laterPass(done, fenced);
    // More came in than was reserved for: the rest goes as a pass of its own, which begins after the fence and so has everything.
    return isPast ? this.pass({ fenced }) : result;
  }

  async reserve(): Promise<void> {
    const taken = await takeMarks(this.#source, this.#job);
    const jobs = Object.fromEntries(
      Object.entries(taken.jobs).map(([prefix, given]) => [prefix, given + RESERVED_IDS]),
    );
    this.#passes.push(await beginPass(this.#target, this.#job, this.#passes, { ...taken, jobs }));
  }

  async verify(): Promise<MoveProof> {
    const { move, datasets } = this.#job;
    const last = this.#passes.at(-1)!;
    for (const { prefix } of datasets) assertAscending(move, prefix, rangesOf(this.#passes, prefix));
    this.#atSource ??= this.#readSourceNow(last.marks);
    const atSource = await this.#atSource;
    this.#atSource = undefined;
    const prefixes = datasets.map(({ prefix }) => {
      const [sent, imported] = [atSource[prefix]!, last.sums![prefix]!];
      if (sent.pending !== imported.pending || sent.digest !== imported.digest) {
        const message = `${move}: ${sent.pending} ${prefix} jobs are pending at the source, ${imported.pending} at the target, or their states differ`;
        throw new CodedError('VERIFY_MISMATCH', message, { prefix, source: sent, target: imported });
      }
      return { prefix, pending: sent.pending, digest: sent.digest };
    });
    const jobsPending = prefixes.reduce((sum, { pending }) => sum + pending, 0);
    return { jobsPending, jobsCopied: this.#rowsCopied, prefixes };
  }

  async #connect(pool: pg.Pool): Promise<pg.PoolClient> {
    const client = await pool.connect();
    this.#clients.push(client);
    return client;
  }

  /** All that is pending at its marks. */
  async #firstPass(): Promise<PassResult> {
    const job = this.#job;
    const taken = await takeMarks(this.#source, job);
    // Also where an earlier attempt has begun it: who was writing at its marks, and still is, is writing now.
    await waitForWriters(this.#source, taken, job.signal);
    const wanted = new Set(job.partitions);
    let pass = this.#passes[0];
    await sourceDatasets(this.#source, job, pass?.marks);
    const found = await partitionIdsByDataset(this.#source, await attachedDatasets(this.#source), wanted);
    const datasets = found.filter(({ partitionIds }) => partitionIds.length > 0);
    if (!pass) {
      pass = await beginPass(this.#target, job, [], taken, await this.#lowestIds(datasets));
      this.#passes.push(pass);
    }
    const { marks } = pass;
    const sources = datasets.map(({ prefix, dataset, partitionIds, idsInAll }) => ({
      prefix,
      dataset,
      partitionIds,
      isMostlyMoved: partitionIds.length >= idsInAll * DENSE_FROM,
      statusUpTo: marks.prefixes[prefix]!.statusUpTo[dataset] ?? 0,
    }));
    const lanes: Lane[] = [{ source: this.#source, target: this.#target }];
    const more: pg.PoolClient[] = [];
    let failed = true;
    try {
      for (let nth = 1; nth < COPY_LANES; nth += 1) {
        const target = await job.target.connect();
        more.push(target);
        lanes.push({ source: nth === 1 ? this.#reader : await this.#connect(job.source), target });
      }
      const asked = await job.source.connect();
      more.push(asked);
      const asking = countWhole(job, asked, pass, sources);
      asking.catch(() => undefined); // told below, unless the copy fails first
      const written = await copyFirst(job, lanes, pass, sources);
      const whole = await asking;
      const { sums, messageIds } = await inImport(job, this.#target, async (client) => {
        const sent = await stream(
          this.#source,
          sql.copyMessageIdsOut(job.partitions, 0),
          client,
          sql.copyMessageIdsIn,
          job,
        );
        if (sent > 0) await client.query(sql.takeMessageIds);
        const brought = await sumsOfFirst(client, job);
        assertWhole(job, pass, whole, brought);
        await client.query('SELECT ringmaster.index_import($1)', [job.move]);
        await finishPass(client, job, pass, brought);
        return { sums: brought, messageIds: sent };
      });
      this.#passes[0] = { ...pass, done: true, sums };
      this.#rowsCopied += written.jobs;
      await this.#target.query(sql.analyzeImport(job.datasets));
      failed = false;
      return { pass: 1, ...written, messageIds };
    } finally {
      for (const client of more) client.release(failed);
    }
  }

  /** What came since the last marks. */
  async #laterPass(done: readonly Pass[], fenced: boolean): Promise<{ result: PassResult; isPast: boolean }> {
    const job = this.#job;
    if (!this.#byIndexes) await this.#planByIndexes();
    const taken = await takeMarks(this.#source, job);
    if (!fenced) await waitForWriters(this.#source, taken, job.signal);
    const known = done.at(-1)!.marks;
    // Read after the job marks: a dataset that was made meanwhile has jobs below them. After the fence none is made that has any of these.
    const attached = fenced ? datasetsOf(job, taken, known) : await sourceDatasets(this.#source, job, known);
    const begun = this.#passes[done.length] ?? (await this.#begin(done, taken));
    const pass = { ...begun, marks: marksNow(begun, taken, fenced) };
    if (fenced) this.#atSource = this.#readSource(pass.marks, taken, attached);
    const windows = windowsBetween(job, done, pass.marks, taken, attached, fenced);
    const lane = { source: this.#source, target: this.#target };
    const { result, sums } = await copyLater(job, lane, pass, done, windows);
    this.#passes[done.length] = { ...pass, done: true, sums };
    this.#rowsCopied += result.jobs;
    const isPast = job.datasets.some(({ prefix }) => taken.jobs[prefix]! > pass.marks.prefixes[prefix]!.upTo);
    return { result, isPast: fenced && isPast };
  }

  /**
   * A later pass is small, whatever the tables' statistics say: of a table that was filled a moment ago there are none, and the planner would read all of it,
   * clients waiting.
   */
  async #planByIndexes(): Promise<void> {
    this.#byIndexes = true;
    await Promise.all([
      this.#source.query(sql.planByIndexesAtSource),
      this.#reader.query(sql.planByIndexesAtSource),
      this.#target.query(sql.planByIndexesAtTarget),
    ]);
  }

  async #begin(done: readonly Pass[], taken: Taken): Promise<Pass> {
    const begun = await beginPass(this.#target, this.#job, done, taken);
    this.#passes.push(begun);
    return begun;
  }

  /**
   * The source's own sums, from its rows: those at the marks of the pass before last, and what has changed since, up to the end. One pass further back than the copy
   * looks, so that a row that the last pass could not see is not missed twice.
   */
  #readSource(marks: Marks, taken: Taken, attached: ReadonlyMap<string, number[]>): Promise<Sums> {
    const before = this.#passes.filter((pass) => pass.done && pass.marks !== marks);
    const base = before.length === 0 ? this.#passes : before.slice(0, Math.max(1, before.length - 1));
    const windows = windowsBetween(this.#job, base, marks, taken, attached, true);
    const sums = digestWindows(this.#reader, windows).then((changes) => addChanges(base.at(-1)!.sums!, changes));
    sums.catch(() => undefined); // told by verify, unless something else ends the copy first
    return sums;
  }

  async #readSourceNow(marks: Marks): Promise<Sums> {
    const taken = await takeMarks(this.#reader, this.#job);
    return this.#readSource(marks, taken, datasetsOf(this.#job, taken, marks));
  }

  async #lowestIds(
    datasets: readonly { prefix: string; dataset: number; partitionIds: string[] }[],
  ): Promise<Record<string, number>> {
    const lowest: Record<string, number> = {};
    for (const { prefix } of this.#job.datasets) {
      const mine = datasets
        .filter((other) => other.prefix === prefix)
        .map((other) => ({ ...other, statusUpTo: null, isMostlyMoved: false }));
      const found = await this.#source.query<{ lowest: string | null }>(sql.selectLowest(mine));
      const id = found.rows[0]!.lowest;
      if (id !== null) lowest[prefix] = Number(id) - 1;
    }
    return lowest;
  }
}

function assertAscending(move: string, prefix: string, ranges: readonly sql.IdRange[]): void {
  for (let i = 1; i < ranges.length; i += 1) {
    const [before, next] = [ranges[i - 1]!, ranges[i]!];
    if (next.after < before.upTo || next.after + next.constant < before.upTo + before.constant) {
      throw new CodedError(
        'VERIFY_MISMATCH',
        `${move}: the ids of ${prefix} pass ${i + 1} do not follow those of pass ${i}`,
      );
    }
  }
}
