/**
 * Statements of the copy: what is read at the source, where it is written at the target, and the digests of both. Text, as COPY takes no parameters.
 *
 * What a pass reads is defined by marks and not by a snapshot: job ids up to one, status ids of each dataset up to another. Below its marks nothing changes any
 * more, so any number of connections read the same, at any time.
 */
import { jobsTable, quoteIdentifier, quoteLiteral, quoteTextArray, statusTable } from './datasets.ts';
import { contentHash, digestSum, stateHash } from './digest.ts';
import { jobColumns, statusColumns, terminalStates } from './schema.ts';

/** Ids `after < id <= upTo` at the source become `id + constant` at the target. */
export interface IdRange {
  readonly after: number;
  readonly upTo: number;
  readonly constant: number;
}

/** Of one dataset at the source: statuses up to this id count; null: all. */
export interface SourceDataset {
  readonly prefix: string;
  readonly dataset: number;
  readonly statusUpTo: number | null;
}

const terminal = terminalStates.map((state) => `'${state}'`).join(', ');
const isLive = (state: string): string => `(${state} IS NULL OR ${state} NOT IN (${terminal}))`;
const jobList = (alias: string): string => jobColumns.map((column) => `${alias}.${column}`).join(', ');
const statusList = (alias: string): string => statusColumns.map((column) => `${alias}.${column}`).join(', ');
/** Job and last status side by side: columns of the status as `s_id`, `s_job_id` and so on. */
const statusAs = (alias: string): string =>
  statusColumns.map((column) => `${alias}.${column} AS s_${column}`).join(', ');
const within = (id: string, { after, upTo }: Pick<IdRange, 'after' | 'upTo'>): string =>
  `${id} > ${after} AND ${id} <= ${upTo}`;
const upToStatus = (alias: string, upTo: number | null): string => (upTo === null ? '' : `AND ${alias}.id <= ${upTo}`);
const isMoved = (partitions: readonly number[]): string =>
  `substring(j.partition_id from '-([0-9]{1,5})$')::integer = ANY ('{${partitions.join(',')}}'::integer[])`;

/**
 * The last status of job `j`, as `s`. Looked up for each job, or, where most jobs of the range are wanted, all of the range's read in order at once:
 * a tenth of the price then (measured).
 */
function lastStatusJoin(
  prefix: string,
  dataset: number,
  upTo: number | null,
  dense: Pick<IdRange, 'after' | 'upTo'> | null,
): string {
  const table = statusTable(prefix, dataset);
  return dense
    ? `LEFT JOIN (
        SELECT DISTINCT ON (t.job_id) t.* FROM ${table} AS t WHERE ${within('t.job_id', dense)} ${upToStatus('t', upTo)}
        ORDER BY t.job_id, t.id DESC) AS s ON s.job_id = j.job_id`
    : `LEFT JOIN LATERAL (
        SELECT t.* FROM ${table} AS t WHERE t.job_id = j.job_id ${upToStatus('t', upTo)} ORDER BY t.id DESC LIMIT 1) AS s ON true`;
}

// ---- the first pass: chunks

export interface ChunkSource extends SourceDataset {
  /** The partition ids in it that are being moved. */
  readonly partitionIds: readonly string[];
  /** Most of what lies in it is of these partitions, as far as their number tells. */
  readonly isMostlyMoved: boolean;
}

/** `dense`: most rows of the range are wanted. */
export interface Chunk {
  readonly range: IdRange;
  readonly dense: boolean;
}

const pendingOfChunk = (source: ChunkSource, { range, dense }: Chunk, columns: string): string => `
  SELECT ${columns} FROM ${jobsTable(source.prefix, source.dataset)} AS j
  ${lastStatusJoin(source.prefix, source.dataset, source.statusUpTo, dense ? range : null)}
  WHERE j.partition_id = ANY (${quoteTextArray(source.partitionIds)}) AND ${within('j.job_id', range)} AND ${isLive('s.job_state')}`;

/** What a chunk has, and the sums that must be found again at the target. `bytes`: of payloads as they are stored. */
export interface ChunkDigest {
  readonly row_count: string;
  readonly status_count: string;
  readonly bytes: string;
  readonly digest: string;
  readonly state_digest: string;
}

const chunkDigest = (from: string, id: string): string => `
  SELECT count(*)::text AS row_count, count(p.s_id)::text AS status_count, ${digestSum('pg_column_size(p.event_payload)')} AS bytes,
    ${digestSum(contentHash('p', id))} AS digest, ${digestSum(stateHash('p.s_', id))} AS state_digest
  FROM (${from}) AS p`;

export const digestChunkOut = (sources: readonly ChunkSource[], chunk: Chunk): string =>
  chunkDigest(
    sources.map((source) => pendingOfChunk(source, chunk, `${jobList('j')}, ${statusAs('s')}`)).join(' UNION ALL '),
    'p.job_id',
  );

export const digestChunkIn = (prefix: string, dataset: number, { range, dense }: Chunk): string => {
  const here = { after: range.after + range.constant, upTo: range.upTo + range.constant };
  return chunkDigest(
    `SELECT ${jobList('j')}, ${statusAs('s')} FROM ${jobsTable(prefix, dataset)} AS j
     ${lastStatusJoin(prefix, dataset, null, dense ? here : null)} WHERE ${within('j.job_id', here)}`,
    `p.job_id - ${range.constant}`,
  );
};

/** How many are pending in the whole range; neither payloads nor states are read for it. */
export const countWholeOut = (sources: readonly ChunkSource[], range: Pick<IdRange, 'after' | 'upTo'>): string => {
  const whole = (source: ChunkSource): string =>
    pendingOfChunk(source, { range: { ...range, constant: 0 }, dense: source.isMostlyMoved }, 'j.job_id');
  return `SELECT count(*)::text AS row_count FROM (${sources.map(whole).join(' UNION ALL ')}) AS p`;
};

const copyOut = (selects: readonly string[]): string =>
  `COPY (${selects.join(' UNION ALL ')}) TO STDOUT (FORMAT binary)`;
const jobsOut = (constant: number): string =>
  jobColumns.map((column) => (column === 'job_id' ? `j.job_id + ${constant}` : `j.${column}`)).join(', ');
const statusesOut = (constant: number): string =>
  statusColumns.map((column) => (column === 'job_id' ? `s.job_id + ${constant}` : `s.${column}`)).join(', ');

/** In no order: a job's place is its id. */
export const copyChunkJobsOut = (sources: readonly ChunkSource[], chunk: Chunk): string =>
  copyOut(sources.map((source) => pendingOfChunk(source, chunk, jobsOut(chunk.range.constant))));
export const copyChunkStatusesOut = (sources: readonly ChunkSource[], chunk: Chunk): string =>
  copyOut(
    sources.map(
      (source) => `${pendingOfChunk(source, chunk, statusesOut(chunk.range.constant))} AND s.job_id IS NOT NULL`,
    ),
  );

export const copyJobsIn = (prefix: string, dataset: number): string =>
  `COPY ${jobsTable(prefix, dataset)} (${jobColumns.join(', ')}) FROM STDIN (FORMAT binary)`;
export const copyStatusesIn = (prefix: string, dataset: number): string =>
  `COPY ${statusTable(prefix, dataset)} (${statusColumns.join(', ')}) FROM STDIN (FORMAT binary)`;

/** The lowest id of these partitions, finished or not: one look into the index for each, however many rows there are. */
export const selectLowest = (sources: readonly ChunkSource[]): string => {
  const parts = sources.map(
    ({ prefix, dataset, partitionIds }) => `
    SELECT (SELECT min(j.job_id) FROM ${jobsTable(prefix, dataset)} AS j WHERE j.partition_id = u.id) AS job_id
    FROM unnest(${quoteTextArray(partitionIds)}) AS u (id)`,
  );
  return `SELECT min(l.job_id)::text AS lowest FROM (${parts.length > 0 ? parts.join(' UNION ALL ') : 'SELECT NULL::bigint AS job_id'}) AS l`;
};

// ---- later passes: what came since

/** One dataset in a later pass. Statuses above `statusAfter` are new to it; where it can have neither new jobs nor new statuses it is not asked for them. */
export interface DeltaSource extends SourceDataset {
  readonly statusAfter: number;
  readonly hasJobs: boolean;
  readonly hasStatuses: boolean;
}

/**
 * What a later pass is about: new jobs in `range`, and the last new status of each job up to `range.after` that was pending at the former marks. Found by
 * ids, whatever partitions there are: a partition's very first job is found as well.
 */
export interface Delta {
  readonly partitions: readonly number[];
  readonly range: IdRange;
  /** Of all passes so far: where a job that was copied lies. */
  readonly earlier: readonly IdRange[];
}

const newJobs = (
  { prefix, dataset, statusUpTo }: DeltaSource,
  { partitions, range }: Delta,
  columns: string,
): string => `
  SELECT ${columns} FROM ${jobsTable(prefix, dataset)} AS j ${lastStatusJoin(prefix, dataset, statusUpTo, null)}
  WHERE ${within('j.job_id', range)} AND ${isMoved(partitions)} AND ${isLive('s.job_state')}`;

/** `s` the last new status, `b` the one before, both with the job's id at the source. */
const changed = (source: DeltaSource, { partitions, range }: Delta, columns: string, also = ''): string => {
  const { prefix, dataset, statusAfter, statusUpTo } = source;
  const statuses = statusTable(prefix, dataset);
  return `
  SELECT ${columns} FROM (
    SELECT DISTINCT ON (t.job_id) t.* FROM ${statuses} AS t
    JOIN ${jobsTable(prefix, dataset)} AS j ON j.job_id = t.job_id
    WHERE t.id > ${statusAfter} ${upToStatus('t', statusUpTo)} AND t.job_id <= ${range.after} AND ${isMoved(partitions)}
    ORDER BY t.job_id, t.id DESC) AS s
  LEFT JOIN LATERAL (
    SELECT t.* FROM ${statuses} AS t WHERE t.job_id = s.job_id AND t.id <= ${statusAfter} ORDER BY t.id DESC LIMIT 1) AS b ON true
  ${also}
  WHERE ${isLive('b.job_state')}`;
};

/** Selects of those sources that can have what is asked for; where none can, one that gives nothing, as a column's type needs a table. */
function selectsOf(
  sources: readonly DeltaSource[],
  has: 'hasJobs' | 'hasStatuses',
  select: (source: DeltaSource) => string,
): string[] {
  const some = sources.filter((source) => source[has]);
  return some.length > 0 ? some.map(select) : [`${select(sources[0]!)} AND false`];
}

/** What a later pass has, and how it changes the pending set: `pending` more (or fewer), and the sum of their states. */
export interface DeltaDigest {
  readonly prefix: string;
  readonly jobs: string;
  readonly new_statuses: string;
  readonly changes: string;
  readonly digest: string;
  readonly pending: string;
  readonly state_digest: string;
}

const deltaDigest = (prefix: string, news: string, changes: string, id: (alias: string) => string): string => `
  SELECT ${quoteLiteral(prefix)} AS prefix, n.jobs::text, n.statuses::text AS new_statuses, c.changes::text, n.digest,
    (n.jobs - c.changes + c.live)::text AS pending, (n.states - c.before + c.after)::text AS state_digest
  FROM (SELECT count(*) AS jobs, count(p.s_id) AS statuses, ${digestSum(contentHash('p', id('p')))} AS digest,
          coalesce(sum(${stateHash('p.s_', id('p'))}), 0) AS states FROM (${news}) AS p) AS n,
       (SELECT count(*) AS changes, count(*) FILTER (WHERE ${isLive('p.s_job_state')}) AS live,
          coalesce(sum(${stateHash('p.b_', id('p'))}), 0) AS before,
          coalesce(sum(${stateHash('p.s_', id('p'))}) FILTER (WHERE ${isLive('p.s_job_state')}), 0) AS after FROM (${changes}) AS p) AS c`;

const changeColumns = `s.job_id AS job_id, ${statusAs('s')}, ${statusColumns.map((column) => `b.${column} AS b_${column}`).join(', ')}`;

/** One row for each prefix. */
export const digestDeltaOut = (prefix: string, sources: readonly DeltaSource[], delta: Delta): string =>
  deltaDigest(
    prefix,
    selectsOf(sources, 'hasJobs', (source) => newJobs(source, delta, `${jobList('j')}, ${statusAs('s')}`)).join(
      ' UNION ALL ',
    ),
    selectsOf(sources, 'hasStatuses', (source) => changed(source, delta, changeColumns)).join(' UNION ALL '),
    (alias) => `${alias}.job_id`,
  );

export const copyNewJobsOut = (sources: readonly DeltaSource[], delta: Delta): string =>
  copyOut(selectsOf(sources, 'hasJobs', (source) => newJobs(source, delta, jobsOut(delta.range.constant))));

/** Of new jobs and of those that were copied before, each under its id at the target. */
export const copyNewStatusesOut = (sources: readonly DeltaSource[], delta: Delta): string => {
  const mapped = statusColumns
    .map((column) => (column === 'job_id' ? 's.job_id + r.constant' : `s.${column}`))
    .join(', ');
  const where = `JOIN ${rangesAs(delta.earlier)} ON s.job_id > r.after_id AND s.job_id <= r.up_to_id`;
  return copyOut([
    ...selectsOf(
      sources,
      'hasJobs',
      (source) => `${newJobs(source, delta, statusesOut(delta.range.constant))} AND s.job_id IS NOT NULL`,
    ),
    ...selectsOf(sources, 'hasStatuses', (source) => changed(source, delta, mapped, where)),
  ]);
};

const rangesAs = (list: readonly IdRange[]): string =>
  `(VALUES ${list.map((range) => `(${range.after}::bigint, ${range.upTo}::bigint, ${range.constant}::bigint)`).join(', ')}) AS r (after_id, up_to_id, constant)`;

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
export const copyIncomingStatusesIn = (prefix: string): string =>
  `COPY ${incomingStatuses(prefix)} (${statusColumns.join(', ')}) FROM STDIN (FORMAT binary)`;

/**
 * Puts the statuses that came where they belong (under the ids that they have at the source) and says what this pass has changed here, from the tables' rows,
 * not from what was sent: the same numbers as `digestDeltaOut` if all is well. New jobs lie in `delta.range`, the others in the earlier ranges.
 */
export const takeDeltaIn = (prefix: string, dataset: number, { range, earlier }: Delta): string => {
  const [jobs, statuses] = [jobsTable(prefix, dataset), statusTable(prefix, dataset)];
  const here = { after: range.after + range.constant, upTo: range.upTo + range.constant };
  const news = `
    SELECT ${jobList('j')}, ${statusAs('s')}, j.job_id - ${range.constant} AS source_id FROM ${jobs} AS j
    LEFT JOIN put AS s ON s.job_id = j.job_id WHERE ${within('j.job_id', here)}`;
  const changes = `
    SELECT s.job_id - r.constant AS source_id, ${statusAs('s')}, ${statusColumns.map((column) => `b.${column} AS b_${column}`).join(', ')}
    FROM put AS s
    JOIN ${rangesAs(earlier.map(({ after, upTo, constant }) => ({ after: after + constant, upTo: upTo + constant, constant })))}
      ON s.job_id > r.after_id AND s.job_id <= r.up_to_id
    JOIN ${jobs} AS j ON j.job_id = s.job_id
    LEFT JOIN LATERAL (SELECT t.* FROM ${statuses} AS t WHERE t.job_id = s.job_id ORDER BY t.id DESC LIMIT 1) AS b ON true
    WHERE b.id IS NULL OR (b.id < s.id AND ${isLive('b.job_state')})`;
  return `WITH put AS (
    INSERT INTO ${statuses} (${statusColumns.join(', ')}) SELECT ${statusList('i')} FROM ${incomingStatuses(prefix)} AS i RETURNING *)
    ${deltaDigest(prefix, news, changes, (alias) => `${alias}.source_id`)}`;
};

/**
 * Statistics of what came: of a table that it knows nothing of the planner expects so few rows that a node which opens its partitions would sort all of a queue for
 * each page of it. Where our role may not, PostgreSQL warns and leaves it to autovacuum.
 */
export const analyzeImport = (datasets: readonly { readonly prefix: string; readonly dataset: number }[]): string =>
  `SET default_statistics_target = 10; ANALYZE ${datasets
    .flatMap(({ prefix, dataset }) => [
      `${jobsTable(prefix, dataset)} (job_id, partition_id)`,
      `${statusTable(prefix, dataset)} (job_id, id)`,
    ])
    .join(', ')}; RESET default_statistics_target`;

/** Nothing there but looks into indexes: every join is one. */
export const planByIndexesAtSource = 'SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off';
/** New statuses and new jobs are joined there, neither of which has an index for it. */
export const planByIndexesAtTarget = 'SET enable_seqscan = off';
export const planAsUsual = 'RESET enable_seqscan; RESET enable_hashjoin; RESET enable_mergejoin';

// ---- the window of messageIds

export const copyMessageIdsOut = (partitions: readonly number[], after: number): string => `
  COPY (SELECT partition, message_id, received_at FROM ringmaster.message_ids
        WHERE partition = ANY ('{${partitions.join(',')}}'::integer[]) AND seq > ${after}) TO STDOUT (FORMAT binary)`;
export const countMessageIds = (partitions: readonly number[], after: number): string =>
  `SELECT count(*)::text AS count FROM ringmaster.message_ids WHERE partition = ANY ('{${partitions.join(',')}}'::integer[]) AND seq > ${after}`;
export const copyMessageIdsIn =
  'COPY incoming_message_ids (partition, message_id, received_at) FROM STDIN (FORMAT binary)';
export const takeMessageIds = `
  INSERT INTO ringmaster.message_ids (partition, message_id, received_at)
  SELECT partition, message_id, received_at FROM incoming_message_ids ON CONFLICT DO NOTHING`;

// ---- marks

/** `$1` prefixes: how far ids have been given, see `ringmaster.marks`. */
export const selectMarks = 'SELECT ringmaster.marks($1) AS marks';

/** Virtual transactions that hold a lock with which rows can be written to these relations. */
export const selectWriters = (relations: readonly string[]): string => `
  SELECT DISTINCT virtualtransaction AS id FROM pg_locks
  WHERE locktype = 'relation' AND granted AND pid <> pg_backend_pid()
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    AND relation IN (${relations.map((relation) => `to_regclass(${quoteLiteral(relation)})`).join(', ')})`;
