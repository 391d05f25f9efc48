/**
 * The certificate of a move: that what its source put away and what its target took over are the same jobs, with the same content, in the same order for
 * each user. Computed inside both databases from their tables, after the hand-over and off every critical path; no row comes here.
 */
import type { ClientBase, Pool } from 'pg';
import { CodedError } from '../kit/errors.ts';
import type { CertifiedPartition, CertifiedTable, MoveId, MoveProof } from '../ring/events.ts';
import type { PartitionIndex } from '../ring/partition.ts';
import * as sql from './sql/certificate.ts';
import { prefixes } from './sql/schema.ts';
import { attachedDatasets, partitionIdsByDataset } from './stale.ts';

/** For the sums of one prefix at one side. A million rows take some ten seconds; nobody waits for it. */
const STATEMENT_TIMEOUT_MS = 1_800_000;
/** For the sort by user: what does not fit goes to disk. */
const SORT_MEMORY_MB = 64;
/** Partitions that a refusal names. */
const NAMED_MAX = 10;

export interface CertifyJob {
  readonly source: Pool;
  readonly target: Pool;
  readonly move: MoveId;
  readonly partitions: readonly PartitionIndex[];
  readonly proof: MoveProof;
}

/** Sums of one partition and prefix at one side. */
interface Sums {
  readonly partition: number | null;
  readonly jobs: string;
  readonly digest: string;
  readonly chain: string;
  /** How many rows have an id at the source. */
  readonly mapped: string;
  readonly first: string;
  readonly last: string;
  readonly first_source: string | null;
  readonly last_source: string | null;
}

/** Throws CERTIFICATE_MISMATCH, which has the numbers of both sides in its details; anything else is weather. */
export async function certify(job: CertifyJob): Promise<CertifiedTable[]> {
  // One after the other: nobody waits for it, and live traffic goes on at both.
  const atSource = await reading(job.source, (client) => sumSource(client, job));
  const atTarget = await reading(job.target, (client) => sumTarget(client, job.move));
  const differences: string[] = [];
  const tables = prefixes.map((prefix): CertifiedTable => {
    const proven = job.proof.prefixes.find((other) => other.prefix === prefix)?.pending ?? 0;
    const { table, differs } = compare(prefix, atSource.get(prefix) ?? [], atTarget.get(prefix) ?? []);
    if (differs.length === 0 && table.jobs !== proven)
      differs.push(`${prefix}: ${table.jobs} jobs on both sides, ${proven} were proven at the hand-over`);
    differences.push(...differs);
    return table;
  });
  if (differences.length > 0) {
    const more = differences.length > NAMED_MAX ? ` and ${differences.length - NAMED_MAX} more` : '';
    throw new CodedError(
      'CERTIFICATE_MISMATCH',
      `${job.move}: ${differences.slice(0, NAMED_MAX).join('; ')}${more}: nothing is deleted at its source; see \`ringmaster verify --full\``,
      { move: job.move, differences: differences.slice(0, NAMED_MAX), count: differences.length },
    );
  }
  return tables;
}

function compare(
  prefix: string,
  source: readonly Sums[],
  target: readonly Sums[],
): { table: CertifiedTable; differs: string[] } {
  const differs: string[] = [];
  const partitions: CertifiedPartition[] = [];
  const named = new Set([...source, ...target].map(({ partition }) => partition));
  for (const partition of [...named].sort((a, b) => (a ?? -1) - (b ?? -1))) {
    const sent = source.find((sums) => sums.partition === partition);
    const taken = target.find((sums) => sums.partition === partition);
    const what = differenceOf(sent, taken);
    if (what) differs.push(`${prefix}, partition ${partition ?? 'none'}: ${what}`);
    else if (sent && taken && partition !== null)
      partitions.push([
        partition,
        Number(sent.jobs),
        sent.digest,
        sent.chain,
        Number(sent.first),
        Number(sent.last),
        Number(taken.first),
        Number(taken.last),
      ]);
  }
  const jobs = partitions.reduce((sum, [, some]) => sum + some, 0);
  const digest = partitions.reduce((sum, [, , some]) => sum + BigInt(some), 0n).toString();
  const order = partitions.reduce((sum, [, , , some]) => sum + BigInt(some), 0n).toString();
  return { table: { prefix, jobs, digest, order, partitions }, differs };
}

/** In words, with the numbers; null where both sides are the same. */
function differenceOf(sent: Sums | undefined, taken: Sums | undefined): string | null {
  const [from, to] = [Number(sent?.jobs ?? 0), Number(taken?.jobs ?? 0)];
  if (!sent || !taken || from !== to) return `${from} jobs put away at the source, ${to} pending at the target`;
  if (taken.mapped !== taken.jobs)
    return `${to - Number(taken.mapped)} of ${to} jobs at the target have ids that the copy never gave`;
  if (sent.digest !== taken.digest) return `the content of ${from} jobs differs (${sent.digest} and ${taken.digest})`;
  if (sent.chain !== taken.chain) return `the order of ${from} jobs differs (${sent.chain} and ${taken.chain})`;
  if (sent.first !== taken.first_source || sent.last !== taken.last_source)
    return `ids ${sent.first} to ${sent.last} at the source, ${taken.first_source} to ${taken.last_source} at the target`;
  return null;
}

async function sumSource(
  client: ClientBase,
  { move, partitions }: Pick<CertifyJob, 'move' | 'partitions'>,
): Promise<Map<string, Sums[]>> {
  const datasets = await movedDatasets(client, partitions);
  const sums = new Map<string, Sums[]>();
  for (const prefix of prefixes) {
    const mine = datasets.filter((dataset) => dataset.prefix === prefix);
    if (mine.length > 0) sums.set(prefix, (await client.query<Sums>(sql.sumMoved(move, mine))).rows);
  }
  return sums;
}

async function sumTarget(client: ClientBase, move: MoveId): Promise<Map<string, Sums[]>> {
  const ranges = await mappedRanges(client, move);
  const sums = new Map<string, Sums[]>();
  for (const dataset of await importedDatasets(client, move)) {
    const statement = sql.sumImported(dataset, ranges?.get(dataset.prefix) ?? []);
    sums.set(dataset.prefix, (await client.query<Sums>(statement)).rows);
  }
  return sums;
}

/** Sums over all partitions of one imported dataset, as a certificate has them. */
export async function sumTargetOf(
  client: ClientBase,
  dataset: sql.ImportedDataset,
  ranges: readonly sql.MappedRange[],
): Promise<{ jobs: number; digest: string; order: string }> {
  const { rows } = await client.query<Sums>(sql.sumImported(dataset, ranges));
  return {
    jobs: rows.reduce((sum, { jobs }) => sum + Number(jobs), 0),
    digest: rows.reduce((sum, { digest }) => sum + BigInt(digest), 0n).toString(),
    order: rows.reduce((sum, { chain }) => sum + BigInt(chain), 0n).toString(),
  };
}

/** Attached datasets that hold jobs of these partitions. */
export async function movedDatasets(
  client: ClientBase,
  partitions: readonly PartitionIndex[],
): Promise<sql.MovedDataset[]> {
  const found = await partitionIdsByDataset(client, await attachedDatasets(client), new Set(partitions));
  return found.filter(({ partitionIds }) => partitionIds.length > 0);
}

/** The datasets of an import, once it is attached. Throws CERTIFICATE_MISMATCH where it is not, or where it is not known what came with it. */
export async function importedDatasets(client: ClientBase, move: MoveId): Promise<sql.ImportedDataset[]> {
  const found = await client.query<sql.ImportedDataset & { attached: boolean }>(sql.selectImported, [move]);
  for (const { prefix, dataset, importedStatusId, attached } of found.rows) {
    if (attached && importedStatusId !== null) continue;
    const why = attached ? 'was attached by an older version, which did not note what came with it' : 'is not attached';
    throw new CodedError('CERTIFICATE_MISMATCH', `${move}: dataset ${prefix}_jobs_${dataset} at the target ${why}`, {
      move,
    });
  }
  return found.rows;
}

/** Prefix → how its passes have mapped ids; null where the ledger is gone, as it is some time after the move. */
export async function mappedRanges(client: ClientBase, move: MoveId): Promise<Map<string, sql.MappedRange[]> | null> {
  const passes = await client.query<{ marks: { prefixes: Record<string, sql.MappedRange> } }>(sql.selectMarks, [move]);
  if (passes.rows.length === 0) return null;
  const ranges = new Map<string, sql.MappedRange[]>();
  for (const { marks } of passes.rows)
    for (const [prefix, range] of Object.entries(marks.prefixes))
      if (range.upTo > range.after) ranges.set(prefix, [...(ranges.get(prefix) ?? []), range]);
  return ranges;
}

/** One connection, one snapshot, reads only; live traffic keeps its processors. */
export async function reading<T>(
  pool: Pool,
  read: (client: ClientBase) => Promise<T>,
  timeoutMs: number = STATEMENT_TIMEOUT_MS,
): Promise<T> {
  const client = await pool.connect();
  let failed = true;
  try {
    await client.query(
      `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
       SET LOCAL statement_timeout = ${timeoutMs}; SET LOCAL work_mem = '${SORT_MEMORY_MB}MB'; SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off`,
    );
    const result = await read(client);
    await client.query('COMMIT');
    failed = false;
    return result;
  } finally {
    client.release(failed);
  }
}
