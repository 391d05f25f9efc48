/**
 * The first pass: all that is pending at its marks, in chunks. A chunk is a range of ids, one transaction at the target with its line in the ledger; several lanes,
 * each a connection to either side, take chunks from one list. Nothing below the marks changes, so every lane reads what any other would.
 */
import type pg from 'pg';
import { CodedError } from '../kit/errors.ts';
import type { CopyJob } from './copy.ts';
import type { Pass, Sums } from './copy-marks.ts';
import { inImport, stream } from './copy-stream.ts';
import * as sql from './sql/copy.ts';
import { quoteLiteral } from './sql/datasets.ts';

/** Rows in one chunk: one transaction at the target, the unit of resuming. About 5 MB of RudderStack events. */
export const CHUNK_ROWS_MAX = 10_000;
/** Payload in one chunk of more than one row. */
const CHUNK_BYTES_MAX = 64 * 1024 * 1024;
/** How full a chunk shall be, so that one a little denser than the last still has room; and how much wider in ids one may be than the last. */
const CHUNK_FILL = 0.75;
const CHUNK_GROWTH = 4;
/** From so many wanted rows in a range of so many ids, its statuses are read in order instead of looked up for each row. */
export const DENSE_FROM = 1 / 8;
/** Streams at once, where nobody says otherwise: two keep both servers at work, more did not help (measured on two cores). */
export const COPY_LANES = 2;

export interface Lane {
  readonly source: pg.ClientBase;
  readonly target: pg.ClientBase;
}

/** The ids that are left to copy of one prefix: lanes take chunks off the front, and give back what was too much. */
class Remaining {
  readonly #rowsMax: number;
  #gaps: { after: number; upTo: number }[];
  /** Of the next range, in ids. As an id is given once, a width of `rowsMax` never has more rows. */
  #width: number;
  #density = 1;

  constructor(gaps: readonly { after: number; upTo: number }[], rowsMax: number) {
    this.#gaps = [...gaps];
    this.#rowsMax = rowsMax;
    this.#width = rowsMax;
  }

  next(): { after: number; upTo: number; dense: boolean } | null {
    const gap = this.#gaps[0];
    if (!gap) return null;
    const upTo = Math.min(gap.after + this.#width, gap.upTo);
    const taken = { after: gap.after, upTo, dense: this.#density >= DENSE_FROM };
    if (upTo === gap.upTo) this.#gaps.shift();
    else gap.after = upTo;
    return taken;
  }

  /** What was found in a range sets the width of the next. False: it was too much for one chunk, and has been given back. */
  fits({ after, upTo }: { after: number; upTo: number }, rows: number, bytes: number): boolean {
    const ids = upTo - after;
    this.#density = rows / ids;
    const byRows = Math.max(this.#rowsMax, (ids * this.#rowsMax * CHUNK_FILL) / Math.max(rows, 1));
    const byBytes = (ids * CHUNK_BYTES_MAX * CHUNK_FILL) / Math.max(bytes, 1);
    this.#width = Math.max(1, Math.floor(Math.min(byRows, byBytes, ids * CHUNK_GROWTH)));
    if (ids === 1 || (rows <= this.#rowsMax && bytes <= CHUNK_BYTES_MAX)) return true;
    this.#gaps.unshift({ after, upTo });
    return false;
  }
}

/** Copies what the ledger does not have yet; returns the job and status rows written. Throws COPY_DIFFERS, STALE_TOKEN. */
export async function copyFirst(
  job: CopyJob,
  lanes: readonly Lane[],
  pass: Pass,
  sources: readonly sql.ChunkSource[],
): Promise<{ jobs: number; statuses: number }> {
  const written = { jobs: 0, statuses: 0 };
  for (const { prefix, dataset } of job.datasets) {
    const mine = sources.filter((source) => source.prefix === prefix);
    const { after, upTo, constant } = pass.marks.prefixes[prefix]!;
    if (mine.length === 0 || after >= upTo) continue;
    const remaining = new Remaining(
      await gapsOf(job, lanes[0]!.target, prefix, { after, upTo }),
      job.chunkRowsMax ?? CHUNK_ROWS_MAX,
    );
    const failed = new AbortController();
    const signal = job.signal ? AbortSignal.any([job.signal, failed.signal]) : failed.signal;
    let running = 0;
    let chunkEnded = Promise.withResolvers<void>();
    const runLane = async (lane: Lane, nth: number): Promise<void> => {
      for (;;) {
        signal.throwIfAborted();
        const isHeldBack = nth > 0 && nth >= (job.throttle?.lanes ?? lanes.length);
        const next = isHeldBack && running > 0 ? null : remaining.next();
        if (!next) {
          // A range that is under way may be given back: nobody leaves before the last one has ended.
          if (running === 0) return;
          await chunkEnded.promise;
          continue;
        }
        running += 1;
        try {
          const chunk = { range: { after: next.after, upTo: next.upTo, constant }, dense: next.dense };
          const rows = await copyChunk({ ...job, signal }, lane, { prefix, dataset, chunk, sources: mine, remaining });
          written.jobs += rows.jobs;
          written.statuses += rows.statuses;
          if (rows.jobs > 0) job.onRows?.(rows.jobs);
        } finally {
          running -= 1;
          chunkEnded.resolve();
          chunkEnded = Promise.withResolvers();
        }
      }
    };
    const runs = await Promise.allSettled(
      lanes.map((lane, nth) =>
        runLane(lane, nth).catch((error: unknown) => {
          failed.abort(error); // the others end their chunks; the first reason is the one that is told
          throw error;
        }),
      ),
    );
    if (failed.signal.aborted) throw failed.signal.reason;
    for (const run of runs) if (run.status === 'rejected') throw run.reason;
  }
  return written;
}

/** What an earlier attempt has not committed: the ledger's chunks may have come in any order. */
async function gapsOf(
  job: CopyJob,
  target: pg.ClientBase,
  prefix: string,
  { after, upTo }: { after: number; upTo: number },
): Promise<{ after: number; upTo: number }[]> {
  const done = await target.query<{ after_id: string; up_to_id: string }>(
    // By the column: a bare name would be the text that is selected, in whose order 10000 comes before 9000.
    'SELECT c.after_id::text, c.up_to_id::text FROM ringmaster.import_chunks AS c WHERE c.move = $1 AND c.prefix = $2 AND c.pass = 1 ORDER BY c.after_id',
    [job.move, prefix],
  );
  const gaps: { after: number; upTo: number }[] = [];
  let from = after;
  for (const chunk of done.rows) {
    if (Number(chunk.after_id) > from) gaps.push({ after: from, upTo: Number(chunk.after_id) });
    from = Number(chunk.up_to_id);
  }
  if (from < upTo) gaps.push({ after: from, upTo });
  return gaps;
}

async function copyChunk(
  job: CopyJob,
  { source, target }: Lane,
  {
    prefix,
    dataset,
    chunk,
    sources,
    remaining,
  }: { prefix: string; dataset: number; chunk: sql.Chunk; sources: readonly sql.ChunkSource[]; remaining: Remaining },
): Promise<{ jobs: number; statuses: number }> {
  const { range } = chunk;
  const sent = (await source.query<sql.ChunkDigest>(sql.digestChunkOut(sources, chunk))).rows[0]!;
  const found = Number(sent.row_count);
  if (!remaining.fits(range, found, Number(sent.bytes)) || found === 0) return { jobs: 0, statuses: 0 };
  await inImport(
    job,
    target,
    async (client) => {
      await stream(source, sql.copyChunkJobsOut(sources, chunk), client, sql.copyJobsIn(prefix, dataset), job);
      if (sent.status_count !== '0')
        await stream(
          source,
          sql.copyChunkStatusesOut(sources, chunk),
          client,
          sql.copyStatusesIn(prefix, dataset),
          job,
        );
      const came = (await client.query<sql.ChunkDigest>(sql.digestChunkIn(prefix, dataset, chunk))).rows[0]!;
      for (const field of ['row_count', 'status_count', 'digest', 'state_digest'] as const) {
        if (sent[field] !== came[field]) throw copyDiffers(job, prefix, range, field, sent[field], came[field]);
      }
      await client.query(
        `INSERT INTO ringmaster.import_chunks (move, prefix, pass, after_id, up_to_id, row_count, digest, state_digest)
         VALUES ($1, $2, 1, $3, $4, $5, $6, $7)`,
        [job.move, prefix, range.after, range.upTo, came.row_count, came.digest, came.state_digest],
      );
    },
    { lazily: true },
  );
  return { jobs: found, statuses: Number(sent.status_count) };
}

/**
 * How much is pending at the marks of the first pass, asked of the source as a whole, one statement for each prefix. On a connection of its own it is asked while the
 * lanes copy: below the marks nothing changes.
 */
export async function countWhole(
  job: CopyJob,
  source: pg.ClientBase,
  { marks }: Pass,
  sources: readonly sql.ChunkSource[],
): Promise<Readonly<Record<string, number>>> {
  const counts: Record<string, number> = {};
  for (const { prefix } of job.datasets) {
    const mine = sources.filter((other) => other.prefix === prefix);
    const { after, upTo } = marks.prefixes[prefix]!;
    counts[prefix] = 0;
    if (mine.length === 0 || after >= upTo) continue;
    const whole = await source.query<{ row_count: string }>(sql.countWholeOut(mine, { after, upTo }));
    counts[prefix] = Number(whole.rows[0]!.row_count);
  }
  return counts;
}

/** That the chunks were all of it, and nothing twice, does not rest on how they were dealt out. Throws COPY_DIFFERS. */
export function assertWhole(
  job: CopyJob,
  { marks }: Pass,
  whole: Readonly<Record<string, number>>,
  brought: Sums,
): void {
  for (const { prefix } of job.datasets) {
    const [all, some] = [whole[prefix]!, brought[prefix]!.pending];
    if (all !== some) throw copyDiffers(job, prefix, marks.prefixes[prefix]!, 'row_count', String(all), String(some));
  }
}

/** What the first pass has brought, from the ledger. */
export async function sumsOfFirst(target: pg.ClientBase, job: CopyJob): Promise<Sums> {
  const sums = await target.query<{ prefix: string; pending: string; digest: string }>(
    `SELECT prefix, sum(row_count)::text AS pending, sum(state_digest)::text AS digest
     FROM ringmaster.import_chunks WHERE move = ${quoteLiteral(job.move)} AND pass = 1 GROUP BY prefix`,
  );
  return Object.fromEntries(
    job.datasets.map(({ prefix }) => {
      const found = sums.rows.find((row) => row.prefix === prefix);
      return [prefix, { pending: Number(found?.pending ?? 0), digest: found?.digest ?? '0' }];
    }),
  );
}

export function copyDiffers(
  job: CopyJob,
  prefix: string,
  { after, upTo }: { after: number; upTo: number },
  what: string,
  sent: string,
  came: string,
): CodedError {
  return new CodedError(
    'COPY_DIFFERS',
    `${job.move}: ${prefix} jobs ${after + 1} to ${upTo} differ at the target: ${what} is ${sent} at the source, ${came} there`,
    { prefix, after, upTo, what, sent, came },
  );
}
