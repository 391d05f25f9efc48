/**
 * Compares what a move took along, source against target, as far as it is still on both sides: range by range of the source's ids, digests first, and row
 * by row where they differ. Reads only, one range at a time, each in a short transaction of its own; what it keeps is bounded, and where it has got to is a
 * small value (`CompareCursor`), from which anybody may go on.
 */
import type { ClientBase, Pool } from 'pg';
import { CodedError } from '../kit/errors.ts';
import type { CertifiedTable, MoveId } from '../ring/events.ts';
import { type PartitionIndex, partitionIndexOf } from '../ring/partition.ts';
import { importedDatasets, mappedRanges, movedDatasets, reading, sumTargetOf } from './certificate.ts';
import * as sql from './sql/certificate.ts';
import { type Prefix, prefixes } from './sql/schema.ts';

/** Rows that are compared by one digest, about; and listed, ids and digests only, where it differs. */
const RANGE_ROWS = 10_000;
/** How much wider in ids a range may be than the last: gaps are passed quickly. */
const RANGE_GROWTH = 4;
/** Differing rows of one range that are looked at column by column; the others are counted by their kind all the same, as `differs`. */
const DESCRIBED_MAX = 200;
/** Jobs outside of everything that the copy has mapped, that are listed and counted. */
const OUTSIDE_MAX = 1_000;
/** For one statement over one range. */
const RANGE_TIMEOUT_MS = 30_000;

export const differenceKinds = ['missing', 'added', 'differs', 'changed places'] as const;
export type DifferenceKind = (typeof differenceKinds)[number];

/** One job that is not the same on both sides. Nothing of its content. */
export interface Difference {
  readonly move: MoveId;
  readonly kind: DifferenceKind;
  readonly prefix: string;
  /** Tables, such as `gw_jobs_3`; null on the side where the job is not. */
  readonly tableAtSource: string | null;
  readonly idAtSource: number | null;
  readonly tableAtTarget: string | null;
  readonly idAtTarget: number | null;
  readonly partition: PartitionIndex | null;
  /** Which differ; with `changed places` none are named. */
  readonly columns: readonly string[];
}

export type DifferenceCounts = Readonly<Record<DifferenceKind, number>>;
export const noDifferences: DifferenceCounts = { missing: 0, added: 0, differs: 0, 'changed places': 0 };

/** Where in a move a comparison is. JSON. */
export interface CompareCursor {
  readonly prefix: Prefix;
  /** Ids of the source up to here are compared; null: at its beginning. */
  readonly after: number | null;
  /** Width in ids of the next range. */
  readonly width: number;
  /** Jobs of this prefix that are at the target only: added there, or put away for good at the source. The end of the prefix tells. */
  readonly targetOnly: number;
  readonly targetOnlySamples: readonly Difference[];
}

export interface CompareJob {
  readonly source: Pool;
  readonly target: Pool;
  readonly move: MoveId;
  readonly partitions: readonly PartitionIndex[];
  /** Of the move's certificate; null where it has none (yet). */
  readonly certified: readonly CertifiedTable[] | null;
  readonly samplesMax: number;
}

export interface CompareStep {
  /** Null: the move is done. */
  readonly cursor: CompareCursor | null;
  readonly compared: number;
  readonly counts: DifferenceCounts;
  readonly samples: readonly Difference[];
  /** Jobs that are no longer on both sides. */
  readonly gone: number;
  /** Why. */
  readonly goneBecause: string | null;
}

interface Listed {
  readonly jobId: string;
  readonly sourceId: string;
  readonly digest: string;
}
interface Described {
  readonly jobId: string;
  readonly table: string;
  readonly partitionId: string;
  readonly uuid: string;
  readonly hashes: readonly string[];
}

const start = (prefix: Prefix): CompareCursor => ({
  prefix,
  after: null,
  width: RANGE_ROWS,
  targetOnly: 0,
  targetOnlySamples: [],
});

/** One range further, or to the end of a prefix. Repeatable: the same cursor gives the same step, unless datasets have gone meanwhile. */
export async function compareStep(job: CompareJob, from: CompareCursor | null): Promise<CompareStep> {
  const cursor = from ?? start(prefixes[0]);
  const { prefix } = cursor;
  const view = await reading(job.target, (client) => viewOfTarget(client, job.move, prefix), RANGE_TIMEOUT_MS);
  const certified = job.certified?.find((table) => table.prefix === prefix) ?? null;
  if (!view.dataset) {
    const gone = certified?.jobs ?? 0;
    return finished(cursor, {
      gone,
      goneBecause: gone > 0 ? 'its datasets at the target are gone: all of their jobs are done' : null,
    });
  }
  if (!view.hasLedger) {
    const goneBecause = 'the ledger of its copy is gone: how its ids were mapped is no longer known';
    return finished(cursor, { gone: certified?.jobs ?? 0, goneBecause });
  }
  const bounds = boundsOf(view.ranges);
  const after = cursor.after ?? bounds.after;
  if (after < bounds.upTo)
    return compareRange(job, { ...cursor, after }, { ...view, dataset: view.dataset }, bounds.upTo);
  return endOfPrefix(job, cursor, { ...view, dataset: view.dataset }, certified);
}

interface TargetView {
  readonly dataset: sql.ImportedDataset;
  readonly ranges: readonly sql.MappedRange[];
}

async function viewOfTarget(
  client: ClientBase,
  move: MoveId,
  prefix: Prefix,
): Promise<
  Omit<TargetView, 'dataset'> & { readonly dataset: sql.ImportedDataset | null; readonly hasLedger: boolean }
> {
  const dataset = (await importedDatasets(client, move)).find((other) => other.prefix === prefix) ?? null;
  const ledger = await mappedRanges(client, move);
  return { dataset, hasLedger: ledger !== null, ranges: ledger?.get(prefix) ?? [] };
}

const boundsOf = (ranges: readonly sql.MappedRange[]): { after: number; upTo: number } => ({
  after: Math.min(...ranges.map(({ after }) => after), Number.MAX_SAFE_INTEGER),
  upTo: Math.max(...ranges.map(({ upTo }) => upTo), -1),
});

async function compareRange(
  job: CompareJob,
  cursor: CompareCursor & { readonly after: number },
  { dataset, ranges }: TargetView,
  end: number,
): Promise<CompareStep> {
  const upTo = Math.min(cursor.after + cursor.width, end);
  const imported = sql.importedBetween(dataset, ranges, cursor.after, upTo);
  const [sent, taken] = await Promise.all([
    reading(
      job.source,
      async (client) => {
        const datasets = await movedAt(client, job, cursor.prefix);
        const moved = sql.movedBetween(job.move, datasets, cursor.after, upTo);
        return { datasets, moved, ...(await sums(client, moved)) };
      },
      RANGE_TIMEOUT_MS,
    ),
    reading(job.target, (client) => sums(client, imported), RANGE_TIMEOUT_MS),
  ]);
  const rows = Math.max(sent.jobs, taken.jobs);
  if (rows > RANGE_ROWS && cursor.width > RANGE_ROWS) return { ...nothing, cursor: { ...cursor, width: RANGE_ROWS } }; // denser than before: again, with less
  const fitting = Math.floor((cursor.width * RANGE_ROWS) / Math.max(rows, 1));
  const width = Math.max(RANGE_ROWS, Math.min(fitting, cursor.width * RANGE_GROWTH));
  const next = { ...cursor, after: upTo, width };
  if (sent.jobs === taken.jobs && sent.digest === taken.digest) return { ...nothing, cursor: next, compared: rows };
  const found = await differencesIn(job, cursor.prefix, dataset, sent, imported);
  const { targetOnly, targetOnlySamples, ...differences } = found;
  return {
    ...nothing,
    ...differences,
    compared: rows,
    cursor: {
      ...next,
      targetOnly: cursor.targetOnly + targetOnly,
      targetOnlySamples: [...cursor.targetOnlySamples, ...targetOnlySamples].slice(0, job.samplesMax),
    },
  };
}

const nothing = { compared: 0, counts: noDifferences, samples: [], gone: 0, goneBecause: null } as const;

async function sums(client: ClientBase, rows: string): Promise<{ jobs: number; digest: string }> {
  const found = await client.query<{ jobs: string; digest: string }>(sql.sumOfRows(rows));
  return { jobs: Number(found.rows[0]!.jobs), digest: found.rows[0]!.digest };
}

const movedAt = async (client: ClientBase, job: CompareJob, prefix: Prefix): Promise<sql.MovedDataset[]> =>
  (await movedDatasets(client, job.partitions)).filter((dataset) => dataset.prefix === prefix);

/** Row by row. Ids and digests of one range come here, contents do not. */
async function differencesIn(
  job: CompareJob,
  prefix: Prefix,
  dataset: sql.ImportedDataset,
  source: { readonly datasets: readonly sql.MovedDataset[]; readonly moved: string },
  imported: string,
) {
  const list = async (client: ClientBase, rows: string): Promise<Map<string, Listed>> => {
    const found = await client.query<Listed>(sql.listOfRows(rows, 2 * RANGE_ROWS));
    return new Map(found.rows.map((row) => [row.sourceId, row]));
  };
  const [sent, taken] = await Promise.all([
    reading(job.source, (client) => list(client, source.moved), RANGE_TIMEOUT_MS),
    reading(job.target, (client) => list(client, imported), RANGE_TIMEOUT_MS),
  ]);
  const missing = [...sent.values()].filter(({ sourceId }) => !taken.has(sourceId));
  const targetOnly = [...taken.values()].filter(({ sourceId }) => !sent.has(sourceId));
  const differing = [...sent.values()].filter(
    ({ sourceId, digest }) => (taken.get(sourceId)?.digest ?? digest) !== digest,
  );

  const looked = differing.slice(0, DESCRIBED_MAX);
  const describedAtSource = [...looked, ...missing.slice(0, job.samplesMax)];
  const describedAtTarget = [
    ...looked.map(({ sourceId }) => taken.get(sourceId)!),
    ...targetOnly.slice(0, job.samplesMax),
  ];
  const [atSource, atTarget] = await Promise.all([
    describe(job.source, source.datasets, describedAtSource),
    describe(job.target, [dataset], describedAtTarget),
  ]);
  const differenceOf = (kind: DifferenceKind, sourceId: string, columns: readonly string[] = []): Difference => {
    const from = atSource.get(sent.get(sourceId)?.jobId ?? '');
    const to = atTarget.get(taken.get(sourceId)?.jobId ?? '');
    return {
      move: job.move,
      kind,
      prefix,
      tableAtSource: from?.table ?? null,
      idAtSource: sent.has(sourceId) ? Number(sourceId) : null,
      tableAtTarget: to?.table ?? null,
      idAtTarget: taken.has(sourceId) ? Number(taken.get(sourceId)!.jobId) : null,
      partition: partitionIndexOf((from ?? to)?.partitionId ?? ''),
      columns,
    };
  };
  const elsewhere = await foundElsewhere(job.target, dataset, looked, sent, taken, atSource, atTarget);
  const described = looked.map(({ sourceId, jobId }) => {
    if (elsewhere.has(sourceId)) return differenceOf('changed places', sourceId);
    const [from, to] = [atSource.get(jobId), atTarget.get(taken.get(sourceId)!.jobId)];
    return differenceOf(
      'differs',
      sourceId,
      sql.contentColumns.filter((_, i) => from?.hashes[i] !== to?.hashes[i]),
    );
  });
  const changed = described.filter(({ kind }) => kind === 'changed places').length;
  return {
    counts: {
      ...noDifferences,
      missing: missing.length,
      differs: differing.length - changed,
      'changed places': changed,
    },
    samples: [
      ...described,
      ...missing.slice(0, job.samplesMax).map(({ sourceId }) => differenceOf('missing', sourceId)),
    ].slice(0, job.samplesMax),
    targetOnly: targetOnly.length,
    targetOnlySamples: targetOnly.slice(0, job.samplesMax).map(({ sourceId }) => differenceOf('added', sourceId)),
  };
}

/** Jobs of the source that lie at the target, but under another id than they should. */
async function foundElsewhere(
  target: Pool,
  dataset: sql.ImportedDataset,
  looked: readonly Listed[],
  sent: ReadonlyMap<string, Listed>,
  taken: ReadonlyMap<string, Listed>,
  atSource: ReadonlyMap<string, Described>,
  atTarget: ReadonlyMap<string, Described>,
): Promise<Set<string>> {
  const strangers = looked.filter(({ sourceId, jobId }) => {
    const [from, to] = [atSource.get(jobId), atTarget.get(taken.get(sourceId)!.jobId)];
    return from !== undefined && from.uuid !== to?.uuid;
  });
  if (strangers.length === 0) return new Set();
  const uuidOf = ({ sourceId }: Listed): string => atSource.get(sent.get(sourceId)!.jobId)!.uuid;
  const found = await reading(
    target,
    (client) => client.query<{ uuid: string; jobId: string }>(sql.findUuids(dataset), [strangers.map(uuidOf)]),
    RANGE_TIMEOUT_MS,
  );
  const uuids = new Set(found.rows.map(({ uuid }) => uuid));
  return new Set(strangers.filter((row) => uuids.has(uuidOf(row))).map(({ sourceId }) => sourceId));
}

async function describe(
  pool: Pool,
  datasets: readonly { readonly prefix: string; readonly dataset: number }[],
  rows: readonly Listed[],
): Promise<Map<string, Described>> {
  if (rows.length === 0 || datasets.length === 0) return new Map();
  const ids = rows.map(({ jobId }) => jobId);
  const found = await reading(
    pool,
    (client) => client.query<Described>(sql.describeJobs(datasets), [ids]),
    RANGE_TIMEOUT_MS,
  );
  return new Map(found.rows.map((row) => [row.jobId, row]));
}

/** What no range of the copy covers; and whether jobs that are at the target only were added there, or have been put away for good at the source. */
async function endOfPrefix(
  job: CompareJob,
  cursor: CompareCursor,
  { dataset, ranges }: TargetView,
  certified: CertifiedTable | null,
): Promise<CompareStep> {
  const { prefix } = cursor;
  const bounds = boundsOf(ranges);
  const [outsideAtSource, outsideAtTarget] = await Promise.all([
    reading(
      job.source,
      async (client) => {
        const datasets = await movedAt(client, job, prefix);
        const above = sql.movedBetween(job.move, datasets, bounds.upTo);
        const rows =
          ranges.length > 0 ? `${sql.movedBetween(job.move, datasets, -1, bounds.after)} UNION ALL ${above}` : above;
        return (await client.query<Listed>(sql.listOfRows(rows, OUTSIDE_MAX))).rows;
      },
      RANGE_TIMEOUT_MS,
    ),
    reading(
      job.target,
      async (client) => (await client.query<Listed>(sql.importedOutside(dataset, ranges, OUTSIDE_MAX))).rows,
      RANGE_TIMEOUT_MS,
    ),
  ]);
  const [lost, strange] = [outsideAtSource, outsideAtTarget].map((rows) => rows.slice(0, job.samplesMax));
  const [atSource, atTarget] = await Promise.all([
    describe(job.source, await reading(job.source, (client) => movedAt(client, job, prefix)), lost!),
    describe(job.target, [dataset], strange!),
  ]);
  const base = { move: job.move, prefix, columns: [] };
  const none = { tableAtSource: null, idAtSource: null, tableAtTarget: null, idAtTarget: null };
  const missing = lost!.map(({ jobId }): Difference => {
    const { table, partitionId } = atSource.get(jobId)!;
    const partition = partitionIndexOf(partitionId);
    return { ...base, ...none, kind: 'missing', tableAtSource: table, idAtSource: Number(jobId), partition };
  });
  const added = strange!.map(({ jobId }): Difference => {
    const { table, partitionId } = atTarget.get(jobId)!;
    const partition = partitionIndexOf(partitionId);
    return { ...base, ...none, kind: 'added', tableAtTarget: table, idAtTarget: Number(jobId), partition };
  });
  const compared = outsideAtSource.length + outsideAtTarget.length;
  const counts = { ...noDifferences, missing: outsideAtSource.length, added: outsideAtTarget.length };
  const isGone = cursor.targetOnly > 0 && (await isAsCertified(job, dataset, ranges, certified));
  if (isGone) {
    const goneBecause = 'its source has deleted them since; the target is still as it was certified';
    return finished(cursor, {
      compared,
      counts,
      samples: [...missing, ...added],
      gone: cursor.targetOnly,
      goneBecause,
    });
  }
  return finished(cursor, {
    compared,
    counts: { ...counts, added: counts.added + cursor.targetOnly },
    samples: [...missing, ...cursor.targetOnlySamples, ...added].slice(0, job.samplesMax),
  });
}

async function isAsCertified(
  job: CompareJob,
  dataset: sql.ImportedDataset,
  ranges: readonly sql.MappedRange[],
  certified: CertifiedTable | null,
): Promise<boolean> {
  if (!certified) return false;
  const now = await reading(job.target, (client) => sumTargetOf(client, dataset, ranges));
  return now.jobs === certified.jobs && now.digest === certified.digest && now.order === certified.order;
}

function finished({ prefix }: CompareCursor, some: Partial<CompareStep>): CompareStep {
  const next = prefixes[prefixes.indexOf(prefix) + 1];
  return { ...nothing, ...some, cursor: next === undefined ? null : start(next) };
}

/** Whether a move's rows can be looked at here at all: CERTIFICATE_MISMATCH by `importedDatasets` means that its import is not attached. */
export const isNotComparable = (error: unknown): boolean =>
  error instanceof CodedError && error.code === 'CERTIFICATE_MISMATCH';
