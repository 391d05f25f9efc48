/**
 * The Jobs DB migrator: copies what is pending of some partitions from one node's database to another's, in passes, while the source goes on
 * taking in and delivering. Rows go by binary COPY from server to server, streamed; none is parsed or kept here.
 *
 * What holds:
 *   C1 rows and ledger commit together at the target, in transactions that hold the import's token row: an older attempt can write nothing
 *      once a newer one has prepared, and a retry goes on after the last commit.
 *   C2 within a pass `new id = old id + constant`; blocks of later passes lie above those of earlier ones: the order of ids is the source's.
 *   C3 a pass reads one snapshot, taken after its marks and after all transactions that were then writing have ended:
 *      a row with a lower id is in it, or has a higher id than the mark and comes with the next pass.
 *   C4 every chunk's content is compared by digest in both databases before its transaction commits.
 */

import { pipeline } from 'node:stream/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';
import { CodedError, codeOf } from '../kit/errors.ts';
import type { MoveProof } from '../ring/events.ts';
import type { PartitionIndex } from '../ring/partition.ts';
import { assertOnlyOwnRows, beginHolding, type ImportDatasets } from './imports.ts';
import * as sql from './sql/copy.ts';
import { type Dataset, jobsTable, quoteLiteral, statusTable } from './sql/datasets.ts';
import { refusalOfState } from './sql/partitions.ts';
import type { Prefix } from './sql/schema.ts';
import { attachedDatasets, partitionIdsByDataset } from './stale.ts';
import { type Throttle, throttled } from './throttle.ts';

/** Rows in one chunk: one transaction at the target, the unit of resuming. About 5 MB of RudderStack events. */
export const CHUNK_ROWS_MAX = 10_000;
/** How full a chunk shall be, so that one a little denser than the last still has room; and how much wider in ids one may be than the last. */
const CHUNK_FILL = 0.75;
const CHUNK_GROWTH = 4;
/** Ids that a cut-over reserves ahead: what the source takes in, for all its partitions, between two steps of ours. */
const RESERVED_IDS = 10_000;
/** How long a pass waits for transactions that were writing when it took its mark. */
const WRITERS_WAIT_MS_MAX = 60_000;
const WRITERS_POLL_MS = 2;

export interface CopyJob {
  readonly source: pg.Pool;
  readonly target: pg.Pool;
  readonly move: string;
  readonly token: number;
  readonly partitions: readonly PartitionIndex[];
  readonly datasets: ImportDatasets['datasets'];
  readonly chunkRowsMax?: number;
  readonly signal?: AbortSignal;
  /** Called after every chunk with the rows written since the last call. */
  readonly onRows?: (rows: number) => void;
  /** How fast rows may stream. None in a cut-over: there clients wait. */
  readonly throttle?: Throttle;
}

export interface PassResult {
  readonly pass: number;
  /** Job rows, status rows and messageIds that this pass wrote. */
  readonly jobs: number;
  readonly statuses: number;
  readonly messageIds: number;
}

interface PrefixMarks {
  readonly after: number;
  readonly upTo: number;
  readonly constant: number;
  /** Source dataset → the highest status id given when the mark was taken. */
  readonly statusUpTo: Readonly<Record<string, number>>;
}
interface Marks {
  readonly prefixes: Readonly<Record<string, PrefixMarks>>;
  readonly messageIdsUpTo: number;
}
interface Pass {
  readonly pass: number;
  readonly marks: Marks;
  readonly done: boolean;
}

/** The copy of one move under one token, with its connections: a cut-over must not wait for any. */
export interface Copy {
  /**
   * Runs the next pass, or finishes one that an earlier attempt has begun. `fenced`: the source takes in and writes statuses no more, so there is nobody
   * to wait for. Throws STALE_TOKEN, COPY_DIFFERS; anything else is weather.
   */
  pass(options?: { readonly fenced?: boolean }): Promise<PassResult>;
  /** Begins the fenced pass ahead: reserving its ids waits for the target's open transactions, which clients in the hold need not. */
  reserve(): Promise<void>;
  /**
   * Compares the pending sets of both sides: ids, whose they are, state and attempt, and the order of ids (C2). To be called when the source is fenced
   * and a fenced pass has run. Throws VERIFY_MISMATCH.
   */
  verify(): Promise<MoveProof>;
  /** Lets the connections go; `failed`: closes them, as a COPY may still be under way. */
  close(failed?: boolean): void;
}

export async function openCopy(job: CopyJob): Promise<Copy> {
  const clients: pg.PoolClient[] = [];
  const close = (failed = false): void => {
    for (const client of clients.splice(0)) client.release(failed);
  };
  try {
    // The second at the source reads what the target will be compared with, while the first still copies.
    for (const pool of [job.source, job.source, job.target]) clients.push(await pool.connect());
    const [source, reader, target] = clients as [pg.PoolClient, pg.PoolClient, pg.PoolClient];
    await target.query(sql.makeIncoming(job.datasets.map(({ prefix }) => prefix)));
    await assertOnlyOwnRows(target, job.move, job.datasets);
    const passes = await readPasses(target, job.move);
    let atSource: Promise<Digest[]> | undefined;
    const digesting = (): Promise<Digest[]> => {
      const digests = digestSource(job, reader);
      digests.catch(() => undefined); // told by verify, unless something else ends the copy first
      return digests;
    };
    return {
      close,
      async pass({ fenced = false } = {}) {
        if (fenced) atSource = digesting();
        const run = () => runPass(job, { source, reader, target }, passes, fenced);
        const result = await run();
        // More came in between than was reserved for: the rest goes as a pass of its own.
        return fenced && (await isPast(source, job, passes)) ? run() : result;
      },
      async reserve() {
        const taken = await readMarks(source, job, await attachedDatasets(source));
        const jobIds = Object.fromEntries(
          Object.entries(taken.jobIds).map(([prefix, given]) => [prefix, given + RESERVED_IDS]),
        );
        passes.push(await beginPass(target, job, source, [], passes, { ...taken, jobIds }));
      },
      async verify() {
        atSource ??= digesting();
        return compare(job, target, passes, atSource);
      },
    };
  } catch (error) {
    close(true);
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

interface Connections {
  readonly source: pg.ClientBase;
  readonly reader: pg.ClientBase;
  readonly target: pg.ClientBase;
}

/** `passes`: what the ledger has, kept up here; nobody else writes there under our token. */
async function runPass(
  job: CopyJob,
  { source, reader, target }: Connections,
  passes: Pass[],
  fenced: boolean,
): Promise<PassResult> {
  const begun = passes.at(-1);
  const resumed = begun && !begun.done ? begun : null;
  const earlier = resumed ? passes.slice(0, -1) : passes.slice();

  // C3: status marks before job marks (inside readMarks), then the wait, then the snapshot. After the fence nobody writes what we read.
  let taken: Taken | undefined;
  if (!fenced || !resumed) {
    taken = await readMarks(source, job, await attachedDatasets(source));
    if (!fenced) await waitForWriters(source, taken.relations, job.signal);
  }
  // Only where there is much to read; and after the fence the reader compares pending sets already.
  const ahead = earlier.length === 0 && !fenced;
  await source.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
  try {
    const datasets = await sourceDatasets(source, job);
    const pass = resumed ?? (await beginPass(target, job, source, datasets, earlier, taken!));
    if (!resumed) passes.push(pass);
    if (ahead) await seeAs(source, reader);
    const copy = (transaction: Transaction) =>
      copyRows(
        { job, source, reader: ahead ? reader : source, target, transaction, datasets },
        [...earlier, pass],
        earlier.at(-1)?.marks,
      );
    // The first pass commits chunk by chunk, and a retry goes on after the last. A later one is small, and clients may be waiting: one commit for all.
    const result =
      earlier.length === 0
        ? await copy((change) => inImport(job, target, change))
        : await inImport(job, target, (client) => copy((change) => change(client)));
    passes[passes.length - 1] = { ...pass, done: true };
    return result;
  } finally {
    // What follows on these connections waits for it anyway.
    for (const client of ahead ? [source, reader] : [source]) void client.query('ROLLBACK').catch(() => undefined);
  }
}

/** The second connection reads the snapshot of the first. */
async function seeAs(first: pg.ClientBase, second: pg.ClientBase): Promise<void> {
  const { snapshot } = await oneRow<{ snapshot: string }>(first, 'SELECT pg_export_snapshot() AS snapshot');
  await second.query(
    `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT ${quoteLiteral(snapshot)}`,
  );
}

/** Whether the source has given ids beyond the last pass. */
async function isPast(source: pg.ClientBase, job: CopyJob, passes: readonly Pass[]): Promise<boolean> {
  const given = await source.query<{ given: string[] }>(
    sql.lastGivenOf(job.datasets.map(({ prefix }) => `ringmaster.${prefix}_job_id`)),
  );
  return job.datasets.some(
    ({ prefix }, i) => Number(given.rows[0]!.given[i]) > passes.at(-1)!.marks.prefixes[prefix]!.upTo,
  );
}

/** Runs a change of the import in a transaction that holds its token. */
type Transaction = <T>(change: (client: pg.ClientBase) => Promise<T>) => Promise<T>;

interface PassContext {
  readonly job: CopyJob;
  readonly source: pg.ClientBase;
  /** Sees the snapshot of `source`, and may be used while that streams; in later passes it is `source` itself. */
  readonly reader: pg.ClientBase;
  readonly target: pg.ClientBase;
  readonly transaction: Transaction;
  readonly datasets: readonly sql.SourceDataset[];
}

async function copyRows(context: PassContext, passes: readonly Pass[], before: Marks | undefined): Promise<PassResult> {
  const { job, transaction, datasets } = context;
  const { pass } = passes.at(-1)!;
  let jobs = 0;
  for (const { prefix, dataset } of job.datasets) {
    jobs += await copyJobs(
      context,
      passes.at(-1)!,
      prefix,
      dataset,
      datasets.filter((other) => other.prefix === prefix),
    );
  }
  return transaction(async (client) => {
    let statuses = 0;
    for (const { prefix, dataset } of job.datasets) {
      const mine = datasets.filter((other) => other.prefix === prefix);
      if (mine.length > 0)
        statuses += await copyStatuses(context, client, {
          prefix,
          dataset,
          datasets: mine,
          ranges: rangesOf(passes, prefix),
          before,
        });
    }
    const messageIds = await copyMessageIds(context, client, before?.messageIdsUpTo ?? 0);
    await client.query('UPDATE ringmaster.import_passes SET done = true WHERE move = $1 AND pass = $2', [
      job.move,
      pass,
    ]);
    return { pass, jobs, statuses, messageIds };
  });
}

// ---- marks

async function readPasses(target: pg.ClientBase, move: string): Promise<Pass[]> {
  return (
    await target.query<Pass>('SELECT pass, marks, done FROM ringmaster.import_passes WHERE move = $1 ORDER BY pass', [
      move,
    ])
  ).rows;
}

interface Taken {
  readonly jobIds: Readonly<Record<string, number>>;
  readonly statusIds: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly messageIds: number;
  readonly relations: readonly string[];
}

async function readMarks(source: pg.ClientBase, job: CopyJob, attached: readonly Dataset[]): Promise<Taken> {
  const statusSequences = attached.map(({ prefix, dataset }) => `${statusTable(prefix, dataset).slice(0, -1)}_id_seq"`);
  const jobSequences = job.datasets.map(({ prefix }) => `ringmaster.${prefix}_job_id`);
  const messageSequence = 'ringmaster.message_ids_seq_seq';
  // One statement, but sequences are read as they are at that moment, from left to right: statuses before jobs.
  const given = await source.query<{ given: string[] }>(
    sql.lastGivenOf([...statusSequences, ...jobSequences, messageSequence]),
  );
  const numbers = given.rows[0]!.given.map(Number);
  const statusIds: Record<string, Record<string, number>> = {};
  attached.forEach(({ prefix, dataset }, i) => {
    statusIds[prefix] = { ...statusIds[prefix], [dataset]: numbers[i]! };
  });
  return {
    statusIds,
    jobIds: Object.fromEntries(job.datasets.map(({ prefix }, i) => [prefix, numbers[statusSequences.length + i]!])),
    messageIds: numbers.at(-1)!,
    relations: [
      'ringmaster.message_ids',
      messageSequence,
      ...statusSequences,
      ...jobSequences,
      ...attached.flatMap(({ prefix, dataset }) => [jobsTable(prefix, dataset), statusTable(prefix, dataset)]),
    ],
  };
}

/** As CREATE INDEX CONCURRENTLY does: waits for the transactions that hold a writer's lock now, not for those that come later. */
async function waitForWriters(
  source: pg.ClientBase,
  relations: readonly string[],
  signal?: AbortSignal,
): Promise<void> {
  const writers = async (): Promise<Set<string>> =>
    new Set((await source.query<{ id: string }>(sql.selectWriters(relations))).rows.map((row) => row.id));
  const deadline = performance.now() + WRITERS_WAIT_MS_MAX;
  let left = await writers();
  while (left.size > 0) {
    signal?.throwIfAborted();
    if (performance.now() > deadline)
      throw new Error(`${left.size} transactions at the source have been writing for over ${WRITERS_WAIT_MS_MAX} ms`);
    await delay(WRITERS_POLL_MS);
    const still = await writers();
    left = new Set([...left].filter((id) => still.has(id)));
  }
}

/** Reserves blocks of ids at the target and writes down the pass: a transaction of its own, as it stops the target's intake for as long as it is open. */
async function beginPass(
  target: pg.ClientBase,
  job: CopyJob,
  source: pg.ClientBase,
  datasets: readonly sql.SourceDataset[],
  earlier: readonly Pass[],
  taken: Taken,
): Promise<Pass> {
  const last = earlier.at(-1)?.marks;
  const spans: Record<string, Omit<PrefixMarks, 'constant'>> = {};
  for (const { prefix } of job.datasets) {
    const upTo = taken.jobIds[prefix]!;
    const after = last ? last.prefixes[prefix]!.upTo : await lowestId(source, datasets, prefix, upTo);
    spans[prefix] = { after, upTo, statusUpTo: taken.statusIds[prefix] ?? {} };
  }
  const pass = (earlier.at(-1)?.pass ?? 0) + 1;
  const begun = await target
    .query<{ marks: Marks }>('SELECT ringmaster.begin_pass($1, $2, $3, $4, $5) AS marks', [
      job.move,
      job.token,
      pass,
      JSON.stringify(spans),
      taken.messageIds,
    ])
    .catch(refuseByState);
  return { pass, marks: begun.rows[0]!.marks, done: false };
}

function refuseByState(error: unknown): never {
  const code = refusalOfState[codeOf(error) ?? ''];
  if (code === undefined) throw error;
  throw new CodedError(code, (error as Error).message, {}, { cause: error });
}

async function lowestId(
  source: pg.ClientBase,
  datasets: readonly sql.SourceDataset[],
  prefix: string,
  upTo: number,
): Promise<number> {
  const { lowest } = await oneRow<{ lowest: string | null }>(
    source,
    sql.selectLowest(datasets.filter((other) => other.prefix === prefix)),
  );
  return lowest === null ? upTo : Math.min(Number(lowest) - 1, upTo);
}

async function sourceDatasets(source: pg.ClientBase, job: CopyJob): Promise<sql.SourceDataset[]> {
  const datasets = await attachedDatasets(source);
  const found = await partitionIdsByDataset(source, datasets, new Set(job.partitions));
  return found.filter(({ partitionIds }) => partitionIds.length > 0);
}

// ---- rows

async function copyJobs(
  context: PassContext,
  { pass, marks }: Pass,
  prefix: Prefix,
  dataset: number,
  datasets: readonly sql.SourceDataset[],
): Promise<number> {
  const { job, source, reader, target, transaction } = context;
  const { upTo, constant, after: first } = marks.prefixes[prefix]!;
  if (datasets.length === 0 || first >= upTo) return 0;
  if (pass > 1) {
    const range = { after: first, upTo, constant };
    const rows = await transaction((client) =>
      copyChunk(job, source, client, { prefix, dataset, pass, range, datasets }),
    );
    if (rows > 0) job.onRows?.(rows);
    return rows;
  }
  const done = await target.query<{ up_to: string | null }>(
    'SELECT max(up_to_id)::text AS up_to FROM ringmaster.import_chunks WHERE move = $1 AND prefix = $2 AND pass = $3',
    [job.move, prefix, pass],
  );
  const chunkRowsMax = job.chunkRowsMax ?? CHUNK_ROWS_MAX;
  let width = chunkRowsMax;
  let rows = 0;
  let ahead = nextChunk(Number(done.rows[0]?.up_to ?? first));
  for (let chunk = await ahead; chunk !== null; chunk = await ahead) {
    job.signal?.throwIfAborted();
    const { range, sent } = chunk;
    const copying = transaction((client) =>
      copyChunk(job, source, client, { prefix, dataset, pass, range, datasets, sent }),
    );
    // The source reads the next chunk for its digest while the target still writes this one: neither waits for the other.
    ahead = reader === source ? copying.then(() => nextChunk(range.upTo)) : nextChunk(range.upTo);
    ahead.catch(() => undefined); // told when its turn comes
    const copied = await copying;
    rows += copied;
    job.onRows?.(copied);
  }
  return rows;

  /**
   * A chunk is a range of ids: to look for the id of its last row would read, at every chunk, all that remains. Its width follows the rows found; as an id
   * is given once, a width of `chunkRowsMax` never has more.
   */
  async function nextChunk(after: number): Promise<{ range: sql.IdRange; sent: ChunkDigest } | null> {
    for (let from = after; from < upTo; ) {
      const range = { after: from, upTo: Math.min(from + width, upTo), constant };
      const sent = await oneRow<ChunkDigest>(reader, sql.digestJobsOut(datasets, range));
      const found = Number(sent.row_count);
      const fitting = Math.floor((width * chunkRowsMax * CHUNK_FILL) / Math.max(found, 1));
      width = Math.max(chunkRowsMax, Math.min(fitting, width * CHUNK_GROWTH));
      if (found > chunkRowsMax) continue; // denser than before: again, with less
      if (found > 0) return { range, sent };
      from = range.upTo;
    }
    return null;
  }
}

interface ChunkDigest {
  readonly row_count: string;
  readonly digest: string;
}

/** Returns how many rows there were. `sent`: the digest at the source, where it is known already. */
async function copyChunk(
  job: CopyJob,
  source: pg.ClientBase,
  target: pg.ClientBase,
  chunk: {
    prefix: Prefix;
    dataset: number;
    pass: number;
    range: sql.IdRange;
    datasets: readonly sql.SourceDataset[];
    sent?: ChunkDigest;
  },
): Promise<number> {
  const { prefix, dataset, pass, range, datasets } = chunk;
  const rows = await stream(
    source,
    sql.copyJobsOut(datasets, range),
    target,
    sql.copyJobsIn(prefix, dataset),
    job.signal,
    job.throttle,
  );
  if (rows === 0 && chunk.sent === undefined) return 0;
  const [sent, written] = await Promise.all([
    chunk.sent ?? oneRow<ChunkDigest>(source, sql.digestJobsOut(datasets, range)),
    oneRow<ChunkDigest>(target, sql.digestJobsIn(prefix, dataset, range)),
  ]);
  if (sent.row_count !== written.row_count || sent.digest !== written.digest) {
    throw new CodedError(
      'COPY_DIFFERS',
      `${job.move}: ${prefix} jobs ${range.after + 1} to ${range.upTo} differ at the target`,
      { prefix, range, sent, written },
    );
  }
  await target.query(
    'INSERT INTO ringmaster.import_chunks (move, prefix, pass, after_id, up_to_id, row_count, digest) VALUES ($1, $2, $3, $4, $5, $6, $7)',
    [job.move, prefix, pass, range.after, range.upTo, written.row_count, written.digest],
  );
  return rows;
}

async function copyStatuses(
  { job, source }: PassContext,
  client: pg.ClientBase,
  to: {
    prefix: Prefix;
    dataset: number;
    datasets: readonly sql.SourceDataset[];
    ranges: readonly sql.IdRange[];
    before: Marks | undefined;
  },
): Promise<number> {
  const { prefix, dataset, datasets, ranges, before } = to;
  const statement = before
    ? sql.copyNewStatusesOut(datasets, ranges, before.prefixes[prefix]?.statusUpTo ?? {})
    : sql.copyPendingStatusesOut(datasets, ranges);
  if ((await stream(source, statement, client, sql.copyStatusesIn(prefix), job.signal)) === 0) return 0;
  return (await client.query(sql.takeStatuses(prefix, dataset))).rowCount ?? 0;
}

async function copyMessageIds({ job, source }: PassContext, client: pg.ClientBase, after: number): Promise<number> {
  if (
    (await stream(source, sql.copyMessageIdsOut(job.partitions, after), client, sql.copyMessageIdsIn, job.signal)) === 0
  )
    return 0;
  return (await client.query(sql.takeMessageIds)).rowCount ?? 0;
}

function rangesOf(passes: readonly Pass[], prefix: Prefix): sql.IdRange[] {
  return passes.map(({ marks }) => {
    const { after, upTo, constant } = marks.prefixes[prefix]!;
    return { after, upTo, constant };
  });
}

// ---- verification

interface Digest {
  readonly prefix: string;
  readonly pending: string;
  readonly digest: string;
}

async function digestSource(job: CopyJob, source: pg.ClientBase): Promise<Digest[]> {
  const datasets = await sourceDatasets(source, job);
  const selects = job.datasets.map(({ prefix }) =>
    sql.digestPendingAtSource(
      prefix,
      datasets.filter((other) => other.prefix === prefix),
    ),
  );
  return (await source.query<Digest>(selects.join(' UNION ALL '))).rows;
}

async function compare(
  job: CopyJob,
  target: pg.ClientBase,
  passes: readonly Pass[],
  digestingSource: Promise<readonly Digest[]>,
): Promise<MoveProof> {
  for (const { prefix } of job.datasets) assertAscending(job.move, prefix, rangesOf(passes, prefix));
  const selects = job.datasets.map(({ prefix, dataset }) =>
    sql.digestPendingAtTarget(prefix, dataset, rangesOf(passes, prefix)),
  );
  const [atSource, { rows: atTarget }] = await Promise.all([
    digestingSource,
    target.query<Digest>(selects.join(' UNION ALL ')),
  ]);
  const proofs = job.datasets.map(({ prefix }) => {
    const sent = atSource.find((row) => row.prefix === prefix)!;
    const imported = atTarget.find((row) => row.prefix === prefix)!;
    if (sent.pending !== imported.pending || sent.digest !== imported.digest) {
      const message = `${job.move}: ${sent.pending} ${prefix} jobs are pending at the source, ${imported.pending} at the target, or their states differ`;
      throw new CodedError('VERIFY_MISMATCH', message, { prefix, source: sent, target: imported });
    }
    return { prefix, pending: Number(sent.pending), digest: sent.digest };
  });
  const copied = await numberOf(
    target,
    `(SELECT coalesce(sum(row_count), 0) FROM ringmaster.import_chunks WHERE move = ${quoteLiteral(job.move)})`,
  );
  return { jobsPending: proofs.reduce((sum, proof) => sum + proof.pending, 0), jobsCopied: copied, prefixes: proofs };
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

// ---- plumbing

/** A transaction at the target that begins with the token (C1). */
async function inImport<T>(
  job: CopyJob,
  target: pg.ClientBase,
  write: (client: pg.ClientBase) => Promise<T>,
): Promise<T> {
  try {
    await beginHolding(target, job.move, job.token);
    const result = await write(target);
    await target.query('COMMIT');
    return result;
  } catch (error) {
    await target.query('ROLLBACK').catch(() => undefined);
    throw error;
  }
}

/** Streams from server to server; returns the rows written. */
export async function stream(
  source: pg.ClientBase,
  out: string,
  target: pg.ClientBase,
  into: string,
  signal?: AbortSignal,
  throttle?: Throttle,
): Promise<number> {
  const reading = source.query(copyTo(out));
  const writing = target.query(copyFrom(into));
  const between = throttle ? [throttled(throttle)] : [];
  await pipeline([reading, ...between, writing], signal ? { signal } : {});
  return writing.rowCount;
}

async function oneRow<T extends pg.QueryResultRow>(client: pg.ClientBase, statement: string): Promise<T> {
  return (await client.query<T>(statement)).rows[0]!;
}

async function numberOf(client: pg.ClientBase, expression: string): Promise<number> {
  const value = Number((await client.query<{ n: string }>(`SELECT ${expression}::text AS n`)).rows[0]!.n);
  if (!Number.isSafeInteger(value)) throw new Error(`${expression} is ${value}`);
  return value;
}
