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

/**
 * The next jobs of a partition id above a job id, looked at in the order of the index; those that are pending get a terminal status row `migrated`.
 * `$1` partition id, `$2` job id, `$3` rows at most, `$4` the status rows' parameters (JSON). What is looked at is bounded, not what is found: a
 * batch costs the same among finished jobs, and none is looked at twice.
 */
export const markMigrated = (prefix: string, dataset: number): string => `
  WITH looked AS MATERIALIZED (
    SELECT job_id FROM ${jobsTable(prefix, dataset)} WHERE partition_id = $1 AND job_id > $2 ORDER BY job_id LIMIT $3
  ), marked AS (
    INSERT INTO ${statusTable(prefix, dataset)} (job_id, job_state, attempt, exec_time, error_response, parameters)
    SELECT j.job_id, 'migrated', coalesce(s.attempt, 0), now(), '{}', $4::jsonb
    FROM looked AS j ${lastStatus(prefix, dataset)} WHERE ${isPending} RETURNING job_id
  ), noted AS (
    UPDATE ringmaster.datasets SET migrated_at = now()
    WHERE prefix = '${prefix}' AND dataset = ${dataset} AND EXISTS (SELECT FROM marked)
  )
  SELECT (SELECT count(*) FROM looked)::integer AS looked, (SELECT max(job_id) FROM looked)::text AS "upTo", (SELECT count(*) FROM marked)::integer AS marked`;

/** Those of partitions `$1` that have a window of messageIds. */
export const partitionsWithWindow = `
  SELECT p AS partition FROM unnest($1::integer[]) AS p WHERE EXISTS (SELECT FROM ringmaster.message_ids WHERE partition = p)`;

/** Forgets the next messageIds of partition `$1` above seq `$2`, `$3` at most. */
export const forgetMessageIds = `
  WITH forgotten AS (
    DELETE FROM ringmaster.message_ids WHERE partition = $1 AND seq IN (
      SELECT seq FROM ringmaster.message_ids WHERE partition = $1 AND seq > $2 ORDER BY seq LIMIT $3
    ) RETURNING seq
  ) SELECT count(*)::integer AS looked, max(seq)::text AS "upTo", 0 AS marked FROM forgotten`;
