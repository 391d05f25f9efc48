/** Jobs without a partition: written before the ring existed, as single-tenant RudderStack writes them. */
import { jobsTable } from './datasets.ts';
import { isPending, lastStatus } from './pending.ts';

/** Pending jobs without a partition. */
export const countUnadopted = (prefix: string, dataset: number): string => `
  SELECT count(*)::text AS count FROM ${jobsTable(prefix, dataset)} AS j ${lastStatus(prefix, dataset)}
  WHERE j.partition_id = '' AND ${isPending}`;

/** The next jobs without a partition above `$1`, `$2` at most, ascending; finished ones too, which only carry the cursor on. */
export const selectUnadopted = (prefix: string, dataset: number): string => `
  WITH looked AS MATERIALIZED (
    SELECT job_id, user_id, workspace_id FROM ${jobsTable(prefix, dataset)} WHERE partition_id = '' AND job_id > $1 ORDER BY job_id LIMIT $2
  )
  SELECT j.job_id::text, j.user_id, j.workspace_id, ${isPending} AS pending FROM looked AS j ${lastStatus(prefix, dataset)} ORDER BY j.job_id`;

/** `$1` job ids, `$2` their partition ids. */
export const adopt = (prefix: string, dataset: number): string => `
  UPDATE ${jobsTable(prefix, dataset)} AS j SET partition_id = u.partition_id
  FROM unnest($1::bigint[], $2::text[]) AS u (job_id, partition_id) WHERE j.job_id = u.job_id AND j.partition_id = ''`;
