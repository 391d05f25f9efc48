/** How much a move will write: counted and sampled at the source; and what a server keeps on its volume. */
import { jobsTable, quoteTextArray, statusTable } from './datasets.ts';
import { jobColumns, terminalStates } from './schema.ts';

const terminal = terminalStates.map((state) => `'${state}'`).join(', ');

/** Jobs of these partition ids without a terminal status: what is pending, but for a job that came alive again after one (there is none). */
export const countUnfinished = (prefix: string, dataset: number, partitionIds: readonly string[]): string => `
  SELECT count(*)::text AS count FROM ${jobsTable(prefix, dataset)} AS j
  WHERE j.partition_id = ANY (${quoteTextArray(partitionIds)})
    AND NOT EXISTS (SELECT FROM ${statusTable(prefix, dataset)} AS s WHERE s.job_id = j.job_id AND s.job_state IN (${terminal}))`;

/** Mean bytes of the columns of a job row as stored (compressed, out of line too), over the newest `rows` of each partition id: read by the index. */
export const sampleWidth = (prefix: string, dataset: number, partitionIds: readonly string[], rows: number): string => `
  SELECT coalesce(ceil(avg(${jobColumns.map((column) => `coalesce(pg_column_size(newest.${column}), 0)`).join(' + ')})), 0)::text AS bytes
  FROM unnest(${quoteTextArray(partitionIds)}) AS u (id)
  CROSS JOIN LATERAL (
    SELECT * FROM ${jobsTable(prefix, dataset)} AS j WHERE j.partition_id = u.id ORDER BY j.job_id DESC LIMIT ${rows}
  ) AS newest`;

export const countMessageIds =
  'SELECT count(*)::text AS count FROM ringmaster.message_ids WHERE partition = ANY ($1::integer[])';

/** All databases of the server. */
export const selectDatabaseBytes =
  'SELECT coalesce(sum(pg_database_size(oid)), 0)::text AS bytes FROM pg_database WHERE datallowconn';
/** Only members of pg_monitor may look. */
export const selectWalBytes = 'SELECT coalesce(sum(size), 0)::text AS bytes FROM pg_ls_waldir()';
export const selectMaxWalBytes = "SELECT pg_size_bytes(current_setting('max_wal_size'))::text AS bytes";
/** Whether rows of the move are there already. */
export const selectHasChunks = 'SELECT EXISTS (SELECT FROM ringmaster.import_chunks WHERE move = $1) AS has';
