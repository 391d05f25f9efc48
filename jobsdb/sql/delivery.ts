/** Reading what is to be delivered, and writing what became of it. All but the reads run inside a transaction that has called `ringmaster.enter`. */
import { jobsTable, statusTable } from './datasets.ts';
import { isPending, lastStatus } from './pending.ts';

const pendingRows = (dataset: number, also: string): string => `(
      SELECT j.job_id, ${dataset} AS dataset, j.user_id, s.job_state, s.attempt, s.retry_time
      FROM ${jobsTable('rt', dataset)} AS j ${lastStatus('rt', dataset)}
      WHERE j.partition_id = c.partition_id AND j.job_id > c.after ${also}
        AND j.parameters ->> 'destination_id' = $5 AND ${isPending}
      ORDER BY j.job_id LIMIT $4)`;

/** One that was executing when a process ended is delivered again under the same attempt. Retry times by this database's clock alone. */
const attemptsAndRetry = `
    CASE WHEN r.job_state = 'executing' THEN greatest(r.attempt - 1, 0) ELSE coalesce(r.attempt, 0) END AS attempts,
    greatest(extract(epoch FROM r.retry_time - clock_timestamp()) * 1000, 0)::double precision AS "retryInMs"`;

/** Without payloads: thousands of jobs are remembered, a payload is fetched when its delivery starts. */
const selectRows = (datasets: readonly number[], also: string): string => `
  SELECT c.partition, r.job_id::text, r.dataset, r.user_id, ${attemptsAndRetry}
  FROM unnest($1::integer[], $2::text[], $3::bigint[]) AS c (partition, partition_id, after)
  CROSS JOIN LATERAL (${datasets.map((dataset) => pendingRows(dataset, also)).join(' UNION ALL ')}) AS r
  ORDER BY r.job_id`;

/**
 * Pending `rt` jobs of a destination above a cursor for each partition id, ascending: `$1` partitions, `$2` their partition ids, `$3` cursors,
 * `$4` rows at most for each partition id and dataset, `$5` destination.
 */
export const selectUndelivered = (datasets: readonly number[]): string => selectRows(datasets, '');

/** As `selectUndelivered`, for some users (`$6`) only and up to a job id (`$7`). */
export const selectUndeliveredOfUsers = (datasets: readonly number[]): string =>
  selectRows(datasets, 'AND j.job_id <= $7 AND j.user_id = ANY ($6::text[])');

/**
 * As `selectUndelivered`, past a long queue: without the jobs of users `$6`, and of each partition id and dataset only the first `$7` rows above the cursor,
 * finished ones too. Also a row without a user for each: the last job that was looked at, and whether there may be more behind it.
 */
export const selectUndeliveredOfOthers = (datasets: readonly number[]): string => {
  const part = (dataset: number): string => {
    const window = (columns: string): string =>
      `(SELECT ${columns} FROM ${jobsTable('rt', dataset)} AS t WHERE t.partition_id = c.partition_id AND t.job_id > c.after ORDER BY t.job_id LIMIT $7) AS j`;
    return `(
      SELECT j.job_id, ${dataset} AS dataset, j.user_id, s.job_state, s.attempt, s.retry_time, false AS more
      FROM ${window("t.job_id, t.user_id, t.parameters ->> 'destination_id' AS destination_id")} ${lastStatus('rt', dataset)}
      WHERE j.destination_id = $5 AND j.user_id <> ALL ($6::text[]) AND ${isPending}
      ORDER BY j.job_id LIMIT $4)
      UNION ALL (SELECT max(j.job_id), ${dataset}, NULL, NULL, NULL, NULL, count(*) = $7 FROM ${window('t.job_id')} HAVING count(*) > 0)`;
  };
  return `
  SELECT c.partition, r.job_id::text, r.dataset, r.user_id, ${attemptsAndRetry}, r.more
  FROM unnest($1::integer[], $2::text[], $3::bigint[]) AS c (partition, partition_id, after)
  CROSS JOIN LATERAL (${datasets.map(part).join(' UNION ALL ')}) AS r
  ORDER BY r.job_id`;
};

const insertStatuses = (dataset: number, columns: string, select: string): string =>
  `INSERT INTO ${statusTable('rt', dataset)} (job_id, job_state, attempt, exec_time${columns}) ${select}`;

/**
 * One round at one dataset: writes what became of some jobs, marks others as executing and gives what is to be sent of them.
 * Marks: `$1` job ids, `$2` attempts. Results: `$3` job ids, `$4` states, `$5` attempts, `$6` milliseconds to the retry or null, `$7` codes,
 * `$8` error responses (JSON). The two are of different jobs.
 */
export const writeRound = (dataset: number): string => `
  WITH results AS (${insertStatuses(
    dataset,
    ', retry_time, error_code, error_response',
    `SELECT job_id, job_state, attempt, now(), now() + retry_ms * interval '1 millisecond', error_code, error_response::jsonb
     FROM unnest($3::bigint[], $4::text[], $5::smallint[], $6::double precision[], $7::text[], $8::text[])
       AS r (job_id, job_state, attempt, retry_ms, error_code, error_response)`,
  )}), marked AS (${insertStatuses(dataset, '', `SELECT job_id, 'executing', attempt, now() FROM unnest($1::bigint[], $2::smallint[]) AS m (job_id, attempt)`)})
  SELECT job_id::text, event_payload::text AS payload, parameters ->> 'message_id' AS "messageId"
  FROM ${jobsTable('rt', dataset)} WHERE job_id = ANY ($1::bigint[])`;

/** Pending jobs of a dataset by destination (null for `gw`), for the metrics. Reads the whole dataset. */
export const countPendingByDestination = (prefix: string, dataset: number): string => `
  SELECT j.parameters ->> 'destination_id' AS destination, count(*)::integer AS count
  FROM ${jobsTable(prefix, dataset)} AS j ${lastStatus(prefix, dataset)}
  WHERE ${isPending} GROUP BY 1`;
