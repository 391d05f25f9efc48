/** What is pending in a dataset, and what becomes of it where this node does not own it. */
import { jobsTable, quoteTextArray, statusTable } from './datasets.ts';
import { terminalStates } from './schema.ts';

const terminal = terminalStates.map((state) => `'${state}'`).join(', ');

/** The last status of job `j`, as `s`: the row with the highest id. Null columns where there is none. */
export const lastStatus = (prefix: string, dataset: number): string => `
  LEFT JOIN LATERAL (
    SELECT t.* FROM ${statusTable(prefix, dataset)} AS t WHERE t.job_id = j.job_id ORDER BY t.id DESC LIMIT 1
  ) AS s ON true`;

export const isPending = `(s.job_state IS NULL OR s.job_state NOT IN (${terminal}))`;

/** `FROM … WHERE …` of the pending jobs `j` (last status `s`) of these partition ids in one dataset. */
export const fromPending = (prefix: string, dataset: number, partitionIds: readonly string[]): string => `
  FROM ${jobsTable(prefix, dataset)} AS j ${lastStatus(prefix, dataset)}
  WHERE j.partition_id = ANY (${quoteTextArray(partitionIds)}) AND ${isPending}`;

/** The distinct partition ids of a dataset, by skipping through the index: its cost grows with their number, not with the rows. */
export const distinctPartitionIds = (prefix: string, dataset: number): string => `
  WITH RECURSIVE walk AS (
    (SELECT partition_id FROM ${jobsTable(prefix, dataset)} ORDER BY partition_id LIMIT 1)
    UNION ALL
    SELECT (SELECT j.partition_id FROM ${jobsTable(prefix, dataset)} AS j WHERE j.partition_id > walk.partition_id ORDER BY j.partition_id LIMIT 1)
    FROM walk WHERE walk.partition_id IS NOT NULL
  ) SELECT partition_id FROM walk WHERE partition_id IS NOT NULL`;

/** Whatever partition they are of. */
export const countPendingIn = (prefix: string, dataset: number): string => `
  SELECT count(*)::text AS count FROM ${jobsTable(prefix, dataset)} AS j ${lastStatus(prefix, dataset)} WHERE ${isPending}`;

/** A terminal status row `migrated` for each pending job of these partition ids. */
export const markMigrated = (prefix: string, dataset: number, partitionIds: readonly string[]): string => `
  INSERT INTO ${statusTable(prefix, dataset)} (job_id, job_state, attempt, exec_time, error_response)
  SELECT j.job_id, 'migrated', coalesce(s.attempt, 0), now(), '{}' ${fromPending(prefix, dataset, partitionIds)}`;
