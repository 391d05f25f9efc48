/** Statements of the copy: what is read at the source, where it is written at the target, and the digests of both. Text, as COPY takes no parameters. */
import { jobsTable, quoteIdentifier, quoteLiteral, quoteTextArray, statusTable } from './datasets.ts';
import { isPending, lastStatus } from './pending.ts';
import { jobColumns, statusColumns } from './schema.ts';

/** A dataset at the source, with the partition ids in it that are being moved. */
export interface SourceDataset {
  readonly prefix: string;
  readonly dataset: number;
  readonly partitionIds: readonly string[];
}

/** Ids `after < id <= upTo` at the source become `id + constant` at the target. */
export interface IdRange {
  readonly after: number;
  readonly upTo: number;
  readonly constant: number;
}

const jobList = (alias: string): string => jobColumns.map((column) => `${alias}.${column}`).join(', ');

/** Pending jobs with `after < job_id <= upTo` over several datasets, with state and attempt of their last status. */
export function pendingBetween(datasets: readonly SourceDataset[], after: number, upTo: number | null): string {
  const parts = datasets.map(
    ({ prefix, dataset, partitionIds }) => `
    SELECT ${jobList('j')}, s.job_state, s.attempt
    FROM ${jobsTable(prefix, dataset)} AS j ${lastStatus(prefix, dataset)}
    WHERE j.partition_id = ANY (${quoteTextArray(partitionIds)}) AND j.job_id > ${after} ${upTo === null ? '' : `AND j.job_id <= ${upTo}`} AND ${isPending}`,
  );
  return parts.length > 0 ? `(${parts.join(' UNION ALL ')})` : NO_JOBS;
}

/** Where no dataset holds these partitions: no rows, of the right types. */
const NO_JOBS = `(
  SELECT ${jobColumns.map((column) => `NULL::${{ job_id: 'bigint', created_at: 'timestamptz', expire_at: 'timestamptz' }[column as string] ?? 'text'} AS ${column}`).join(', ')},
    NULL::text AS job_state, NULL::integer AS attempt WHERE false)`;

/** The lowest id of these partitions, finished or not: one look into the index for each, however many rows there are. */
export const selectLowest = (datasets: readonly SourceDataset[]): string => {
  const parts = datasets.map(
    ({ prefix, dataset, partitionIds }) => `
    SELECT (SELECT min(j.job_id) FROM ${jobsTable(prefix, dataset)} AS j WHERE j.partition_id = u.id) AS job_id
    FROM unnest(${quoteTextArray(partitionIds)}) AS u (id)`,
  );
  return `SELECT min(l.job_id)::text AS lowest FROM (${parts.length > 0 ? parts.join(' UNION ALL ') : 'SELECT NULL::bigint AS job_id'}) AS l`;
};

export const copyJobsOut = (datasets: readonly SourceDataset[], { after, upTo, constant }: IdRange): string => `
  COPY (SELECT p.job_id + ${constant}, ${jobColumns
    .slice(1)
    .map((column) => `p.${column}`)
    .join(', ')}
        FROM ${pendingBetween(datasets, after, upTo)} AS p ORDER BY p.job_id) TO STDOUT (FORMAT binary)`;

export const copyJobsIn = (prefix: string, dataset: number): string =>
  `COPY ${jobsTable(prefix, dataset)} (${jobColumns.join(', ')}) FROM STDIN (FORMAT binary)`;

/** A job row's content as a number; `id` is its id at the source. Sums of it do not depend on the order of rows. */
const contentHash = (alias: string, id: string): string => {
  const [, ...rest] = jobColumns;
  const text = rest.map((column) =>
    column === 'created_at' || column === 'expire_at'
      ? `extract(epoch FROM ${alias}.${column})::text`
      : `coalesce(${alias}.${column}::text, '')`,
  );
  return `hashtextextended(concat_ws(E'\\x1f', (${id})::text, ${text.join(', ')}), 0)::numeric`;
};

const digestOf = (alias: string, id: string): string =>
  `count(*)::text AS row_count, coalesce(sum(${contentHash(alias, id)}), 0)::text AS digest`;

export const digestJobsOut = (datasets: readonly SourceDataset[], { after, upTo }: IdRange): string =>
  `SELECT ${digestOf('p', 'p.job_id')} FROM ${pendingBetween(datasets, after, upTo)} AS p`;

export const digestJobsIn = (prefix: string, dataset: number, { after, upTo, constant }: IdRange): string => `
  SELECT ${digestOf('j', `j.job_id - ${constant}`)}
  FROM ${jobsTable(prefix, dataset)} AS j WHERE j.job_id > ${after + constant} AND j.job_id <= ${upTo + constant}`;

const ranges = (list: readonly IdRange[]): string =>
  `(VALUES ${list.map((range) => `(${range.after}::bigint, ${range.upTo}::bigint, ${range.constant}::bigint)`).join(', ')}) AS r (after_id, up_to_id, constant)`;

const statusList = (alias: string): string =>
  statusColumns
    .map((column) => (column === 'job_id' ? `${alias}.job_id + r.constant` : `${alias}.${column}`))
    .join(', ');

/** First pass: the last status of every pending job that has one. */
export const copyPendingStatusesOut = (datasets: readonly SourceDataset[], list: readonly IdRange[]): string =>
  copyUnionOut(
    datasets.map(
      ({ prefix, dataset, partitionIds }) => `
      SELECT ${statusList('s')}
      FROM ${jobsTable(prefix, dataset)} AS j ${lastStatus(prefix, dataset)}
      JOIN ${ranges(list)} ON j.job_id > r.after_id AND j.job_id <= r.up_to_id
      WHERE j.partition_id = ANY (${quoteTextArray(partitionIds)}) AND s.job_id IS NOT NULL AND ${isPending}`,
    ),
  );

/**
 * Later passes: the last of the statuses that came after the mark, terminal ones too, for jobs in the ranges that were copied.
 * `afterStatus`: dataset → mark; a dataset that the last pass did not know was attached since.
 */
export const copyNewStatusesOut = (
  datasets: readonly SourceDataset[],
  list: readonly IdRange[],
  afterStatus: Readonly<Record<string, number>>,
): string =>
  copyUnionOut(
    datasets.map(
      ({ prefix, dataset, partitionIds }) => `
      (SELECT DISTINCT ON (s.job_id) ${statusList('s')}
       FROM ${statusTable(prefix, dataset)} AS s
       JOIN ${jobsTable(prefix, dataset)} AS j ON j.job_id = s.job_id
       JOIN ${ranges(list)} ON s.job_id > r.after_id AND s.job_id <= r.up_to_id
       WHERE s.id > ${afterStatus[dataset] ?? 0} AND j.partition_id = ANY (${quoteTextArray(partitionIds)})
       ORDER BY s.job_id, s.id DESC)`,
    ),
  );

const copyUnionOut = (selects: readonly string[]): string =>
  `COPY (${selects.join(' UNION ALL ')}) TO STDOUT (FORMAT binary)`;

/** Made once in a connection, empty at the start of each transaction. */
export const makeIncoming = (prefixesOfImport: readonly string[]): string =>
  [
    ...prefixesOfImport.map(
      (prefix) => `CREATE TEMP TABLE IF NOT EXISTS ${incomingStatuses(prefix)} (
        id bigint, job_id bigint, job_state varchar(64), attempt smallint, exec_time timestamptz, retry_time timestamptz,
        error_code varchar(32), error_response jsonb, parameters jsonb, consumer text) ON COMMIT DELETE ROWS`,
    ),
    'CREATE TEMP TABLE IF NOT EXISTS incoming_message_ids (partition integer, message_id text, received_at timestamptz) ON COMMIT DELETE ROWS',
  ].join(';\n');

const incomingStatuses = (prefix: string): string => quoteIdentifier(`incoming_${prefix}_statuses`);
export const copyStatusesIn = (prefix: string): string =>
  `COPY ${incomingStatuses(prefix)} (${statusColumns.join(', ')}) FROM STDIN (FORMAT binary)`;
/** Statuses keep their source id. One that is here already stays; one of a job that was finished before it could be copied is left out. */
export const takeStatuses = (prefix: string, dataset: number): string => `
  INSERT INTO ${statusTable(prefix, dataset)} (${statusColumns.join(', ')})
  SELECT ${statusColumns.map((column) => `i.${column}`).join(', ')} FROM ${incomingStatuses(prefix)} AS i
  WHERE EXISTS (SELECT FROM ${jobsTable(prefix, dataset)} AS j WHERE j.job_id = i.job_id)
  ON CONFLICT (job_id, id) DO NOTHING`;

export const copyMessageIdsOut = (partitions: readonly number[], after: number): string => `
  COPY (SELECT partition, message_id, received_at FROM ringmaster.message_ids
        WHERE partition = ANY ('{${partitions.join(',')}}'::integer[]) AND seq > ${after}) TO STDOUT (FORMAT binary)`;
export const copyMessageIdsIn =
  'COPY incoming_message_ids (partition, message_id, received_at) FROM STDIN (FORMAT binary)';
export const takeMessageIds = `
  INSERT INTO ringmaster.message_ids (partition, message_id, received_at)
  SELECT partition, message_id, received_at FROM incoming_message_ids ON CONFLICT DO NOTHING`;

/** What must be equal at the hand-over: which jobs are pending, whose they are, and where each stands. */
const pendingHash = (id: string): string =>
  `hashtextextended(concat_ws(E'\\x1f', (${id})::text, p.uuid::text, p.user_id, p.partition_id, coalesce(p.job_state, ''), coalesce(p.attempt, 0)::text), 0)::numeric`;

export const digestPendingAtSource = (prefix: string, datasets: readonly SourceDataset[]): string => `
  SELECT ${quoteLiteral(prefix)} AS prefix, count(*)::text AS pending, coalesce(sum(${pendingHash('p.job_id')}), 0)::text AS digest
  FROM ${pendingBetween(datasets, 0, null)} AS p`;

export const digestPendingAtTarget = (prefix: string, dataset: number, list: readonly IdRange[]): string => `
  SELECT ${quoteLiteral(prefix)} AS prefix, count(*)::text AS pending, coalesce(sum(${pendingHash('p.job_id - r.constant')}), 0)::text AS digest
  FROM (SELECT j.*, s.job_state, s.attempt FROM ${jobsTable(prefix, dataset)} AS j ${lastStatus(prefix, dataset)} WHERE ${isPending}) AS p
  LEFT JOIN ${ranges(list)} ON p.job_id > r.after_id + r.constant AND p.job_id <= r.up_to_id + r.constant`;

/** The highest id that a sequence has given. */
export const lastGiven = (sequence: string): string =>
  `(SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM ${sequence})`;

/** The highest ids that these sequences have given, in this order, as one array. */
export const lastGivenOf = (sequences: readonly string[]): string =>
  `SELECT ARRAY[${sequences.map(lastGiven).join(', ')}]::text[] AS given`;

/** Virtual transactions that hold a lock with which rows can be written to these relations. */
export const selectWriters = (relations: readonly string[]): string => `
  SELECT DISTINCT virtualtransaction AS id FROM pg_locks
  WHERE locktype = 'relation' AND granted AND pid <> pg_backend_pid()
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    AND relation IN (${relations.map((relation) => `${quoteLiteral(relation)}::regclass`).join(', ')})`;
