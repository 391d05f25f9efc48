/** From `gw` to `rt`. Each of these runs inside a transaction that has called `ringmaster.enter`. */
import { jobsTable, statusTable } from './datasets.ts';
import { isPending, lastStatus } from './pending.ts';

/**
 * Pending `gw` jobs above a cursor for each partition id, ascending: `$1` partitions, `$2` their partition ids, `$3` cursors, `$4` rows at most
 * for each partition id and dataset. Where one partition has several ids or datasets, its first `$4` rows are its true first ones.
 */
export const selectUnprocessed = (datasets: readonly number[]): string => `
  SELECT c.partition, r.job_id::text, r.dataset, r.source_id
  FROM unnest($1::integer[], $2::text[], $3::bigint[]) AS c (partition, partition_id, after)
  CROSS JOIN LATERAL (
    ${datasets
      .map(
        (dataset) => `(
      SELECT j.job_id, ${dataset} AS dataset,
        CASE WHEN jsonb_typeof(j.event_payload) = 'object' AND jsonb_typeof(j.parameters) = 'object' THEN j.parameters ->> 'source_id' END AS source_id
      FROM ${jobsTable('gw', dataset)} AS j ${lastStatus('gw', dataset)}
      WHERE j.partition_id = c.partition_id AND j.job_id > c.after AND ${isPending}
      ORDER BY j.job_id LIMIT $4)`,
      )
      .join(' UNION ALL ')}
  ) AS r
  ORDER BY r.job_id`;

/**
 * One `rt` job for each pair of `$1` (gw job ids) and `$2` (destination ids), in the arrays' order, which is that of the new ids. The payload
 * stays in the database.
 */
export const insertForDestinations = (target: number, sources: readonly number[]): string => `
  INSERT INTO ${jobsTable('rt', target)}
    (workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload, event_count)
  SELECT j.workspace_id, gen_random_uuid(), j.user_id, j.partition_id,
    j.parameters || jsonb_build_object('destination_id', t.destination_id), 'WEBHOOK', j.event_payload, j.event_count
  FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS t (job_id, destination_id, ord)
  CROSS JOIN LATERAL (
    ${sources.map((dataset) => `SELECT * FROM ${jobsTable('gw', dataset)} WHERE job_id = t.job_id`).join(' UNION ALL ')}
  ) AS j
  ORDER BY t.ord`;

/** `$1` job ids, `$2` states, `$3` error codes, `$4` errors (both may be null). */
export const insertProcessed = (dataset: number): string => `
  INSERT INTO ${statusTable('gw', dataset)} (job_id, job_state, attempt, exec_time, error_code, error_response)
  SELECT job_id, job_state, 1, now(), error_code,
    CASE WHEN error IS NULL THEN '{}'::jsonb ELSE jsonb_build_object('error', error) END
  FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS u (job_id, job_state, error_code, error)`;
