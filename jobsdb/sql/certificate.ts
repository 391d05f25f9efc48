/** What a move took along, as the tables of its source and of its target have it: sums for the certificate, rows for the comparison. Reads only. */
import { jobsTable, quoteLiteral, quoteTextArray, statusTable } from './datasets.ts';
import { contentHash } from './digest.ts';
import { jobColumns, terminalStates } from './schema.ts';

/** A dataset at the source, with the partition ids in it that were moved. */
export interface MovedDataset {
  readonly prefix: string;
  readonly dataset: number;
  readonly partitionIds: readonly string[];
}
/** A dataset that the move brought to the target. */
export interface ImportedDataset {
  readonly prefix: string;
  readonly dataset: number;
  /** The highest status id that came with it; what the target wrote itself lies above. */
  readonly importedStatusId: string;
}
/** Ids `after < id <= upTo` at the source are `id + constant` at the target. */
export interface MappedRange {
  readonly after: number;
  readonly upTo: number;
  readonly constant: number;
}

const [, ...contentColumns] = jobColumns;

/** All but the id, which is mapped. */
export { contentColumns };

const terminal = terminalStates.map((state) => `'${state}'`).join(', ');
const ROW = 'j.job_id, j.partition_id, j.user_id, j.uuid';

/** Rows (source_id, job_id, …, digest) of the jobs whose last status is `migrated` by this move. `where`: more about `j`. */
function movedRows(move: string, datasets: readonly MovedDataset[], where = ''): string {
  const parts = datasets.map(
    ({ prefix, dataset, partitionIds }) => `
    SELECT ${ROW}, j.job_id AS source_id, ${contentHash('j', 'j.job_id')} AS digest
    FROM ${jobsTable(prefix, dataset)} AS j
    JOIN LATERAL (
      SELECT t.job_state, t.parameters FROM ${statusTable(prefix, dataset)} AS t WHERE t.job_id = j.job_id ORDER BY t.id DESC LIMIT 1
    ) AS s ON s.job_state = 'migrated' AND s.parameters ->> 'move' = ${quoteLiteral(move)}
    WHERE j.partition_id = ANY (${quoteTextArray(partitionIds)}) ${where}`,
  );
  return parts.length > 0 ? parts.join(' UNION ALL ') : NO_ROWS;
}

const NO_ROWS = `SELECT NULL::bigint AS job_id, NULL::text AS partition_id, NULL::text AS user_id, NULL::uuid AS uuid,
  NULL::bigint AS source_id, NULL::bigint AS digest WHERE false`;

const rangesOf = (ranges: readonly MappedRange[]): string =>
  ranges.length > 0
    ? `(VALUES ${ranges.map(({ after, upTo, constant }) => `(${after}::bigint, ${upTo}::bigint, ${constant}::bigint)`).join(', ')})`
    : '(SELECT NULL::bigint, NULL::bigint, NULL::bigint WHERE false)';

/** As movedRows, of the rows that came to the target and were pending when it was attached. A row in no range of the copy has no source_id. */
const importedRows = (
  { prefix, dataset, importedStatusId }: ImportedDataset,
  ranges: readonly MappedRange[],
  where = '',
): string => `
    SELECT ${ROW}, j.job_id - r.constant AS source_id, ${contentHash('j', 'coalesce(j.job_id - r.constant, 0)')} AS digest
    FROM ${jobsTable(prefix, dataset)} AS j
    LEFT JOIN LATERAL (
      SELECT t.job_state FROM ${statusTable(prefix, dataset)} AS t WHERE t.job_id = j.job_id AND t.id <= ${importedStatusId} ORDER BY t.id DESC LIMIT 1
    ) AS s ON true
    LEFT JOIN ${rangesOf(ranges)} AS r (after_id, up_to_id, constant) ON j.job_id > r.after_id + r.constant AND j.job_id <= r.up_to_id + r.constant
    WHERE (s.job_state IS NULL OR s.job_state NOT IN (${terminal})) ${where}`;

/**
 * Sums for each partition. The order check does not rest on the mapping of ids: each job's uuid is chained with the uuid of the job before it of the same
 * user, in the order of the ids of that side. OFFSET 0 keeps payloads out of the sort: they are hashed before it.
 */
const sumsOf = (rows: string): string => `
  SELECT c.partition, count(*)::text AS jobs, sum(c.digest)::text AS digest, sum(c.link)::text AS chain, count(c.source_id)::text AS mapped,
    min(c.job_id)::text AS first, max(c.job_id)::text AS last, min(c.source_id)::text AS first_source, max(c.source_id)::text AS last_source
  FROM (
    SELECT p.partition, p.job_id, p.source_id, p.digest,
      uuid_hash_extended(p.uuid, coalesce(uuid_hash_extended(lag(p.uuid) OVER (PARTITION BY p.user_hash ORDER BY p.job_id), 0), 0)) AS link
    FROM (
      SELECT substring(o.partition_id FROM '-([0-9]{1,5})$')::integer AS partition, o.job_id, o.source_id, o.digest, o.uuid,
        hash_record_extended(ROW(o.partition_id, o.user_id), 0) AS user_hash
      FROM (${rows}) AS o OFFSET 0
    ) AS p
  ) AS c GROUP BY c.partition ORDER BY c.partition`;

export const sumMoved = (move: string, datasets: readonly MovedDataset[]): string => sumsOf(movedRows(move, datasets));
export const sumImported = (dataset: ImportedDataset, ranges: readonly MappedRange[]): string =>
  sumsOf(importedRows(dataset, ranges));

export const selectImported = `
  SELECT prefix, dataset, imported_status_id::text AS "importedStatusId", attached FROM ringmaster.datasets WHERE move = $1 ORDER BY prefix, dataset`;
/** The marks of the passes: prefix → range and constant. */
export const selectMarks = 'SELECT marks FROM ringmaster.import_passes WHERE move = $1 ORDER BY pass';

// ---- row by row

const listed = 'o.job_id::text AS "jobId", o.source_id::text AS "sourceId", o.digest::text AS digest';

/** Jobs put away at the source with `after < id <= upTo`; without `upTo`: all above. */
export const movedBetween = (move: string, datasets: readonly MovedDataset[], after: number, upTo?: number): string =>
  movedRows(move, datasets, `AND j.job_id > ${after}${upTo === undefined ? '' : ` AND j.job_id <= ${upTo}`}`);

/** Jobs that came to the target from ids `after < id <= upTo` of the source. */
export function importedBetween(
  dataset: ImportedDataset,
  ranges: readonly MappedRange[],
  after: number,
  upTo: number,
): string {
  const parts = ranges
    .map((range) => ({ ...range, after: Math.max(range.after, after), upTo: Math.min(range.upTo, upTo) }))
    .filter((range) => range.after < range.upTo)
    .map((range) =>
      importedRows(
        dataset,
        [range],
        `AND j.job_id > ${range.after + range.constant} AND j.job_id <= ${range.upTo + range.constant}`,
      ),
    );
  return parts.length > 0 ? parts.join(' UNION ALL ') : NO_ROWS;
}

/** Jobs that were pending at the target and came by no pass of the copy; at most `limit`. */
export const importedOutside = (dataset: ImportedDataset, ranges: readonly MappedRange[], limit: number): string =>
  `SELECT ${listed} FROM (${importedRows(dataset, ranges, 'AND r.constant IS NULL')}) AS o ORDER BY o.job_id LIMIT ${limit}`;

export const sumOfRows = (rows: string): string =>
  `SELECT count(*)::text AS jobs, coalesce(sum(o.digest), 0)::text AS digest FROM (${rows}) AS o`;
export const listOfRows = (rows: string, limit: number): string =>
  `SELECT ${listed} FROM (${rows}) AS o ORDER BY o.source_id LIMIT ${limit}`;

/** What a difference tells of jobs `$1` (bigint[]): never a payload, only a hash of each column, in the order of `contentColumns`. */
export const describeJobs = (datasets: readonly { readonly prefix: string; readonly dataset: number }[]): string =>
  datasets
    .map(
      ({ prefix, dataset }) => `
    SELECT j.job_id::text AS "jobId", ${quoteLiteral(`${prefix}_jobs_${dataset}`)} AS "table", j.partition_id AS "partitionId", j.uuid::text AS uuid,
      ARRAY[${contentColumns.map((column) => `hash_record_extended(ROW(j.${column}), 0)`).join(', ')}]::text[] AS hashes
    FROM ${jobsTable(prefix, dataset)} AS j WHERE j.job_id = ANY ($1::bigint[])`,
    )
    .join(' UNION ALL ');

/** Where jobs with these uuids (`$1`) lie in a dataset. Reads over all of it: for a few differences only. */
export const findUuids = ({ prefix, dataset }: ImportedDataset): string =>
  `SELECT uuid::text AS uuid, job_id::text AS "jobId" FROM ${jobsTable(prefix, dataset)} WHERE uuid = ANY ($1::uuid[])`;
