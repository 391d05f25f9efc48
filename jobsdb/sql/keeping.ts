/** The life of attached datasets: when one is full, when its jobs are done, and how it goes. Times by this database's clock alone. */
import { type Dataset, jobsTable, quoteLiteral, statusTable } from './datasets.ts';
import { isPending, lastStatus } from './pending.ts';

export interface LifeRow extends Dataset {
  /** Where new jobs of its prefix go. */
  readonly live: boolean;
  /** Something of it was moved away, or it was attached, within the grace. */
  readonly kept: boolean;
}

/** `$1` milliseconds of grace. */
export const selectLife = `
  SELECT prefix, dataset, move,
    move IS NULL AND dataset = max(dataset) FILTER (WHERE move IS NULL) OVER (PARTITION BY prefix) AS live,
    ringmaster.is_kept(d, $1) AS kept
  FROM ringmaster.datasets AS d WHERE attached ORDER BY prefix, dataset`;

/**
 * How full a dataset is: its rows by the span of its ids, which other datasets' ids in between make too large and never too small, and its bytes with what
 * is stored out of line, without indexes.
 */
export const sizeOf = (prefix: string, dataset: number): string => {
  const jobs = jobsTable(prefix, dataset);
  const bytes = [jobs, statusTable(prefix, dataset)].map((table) => `pg_table_size(${quoteLiteral(table)}::regclass)`);
  return `
  SELECT coalesce((SELECT max(job_id) FROM ${jobs}) - (SELECT min(job_id) FROM ${jobs}) + 1, 0)::double precision AS rows,
    (${bytes.join(' + ')})::double precision AS bytes`;
};

/** A new live dataset of prefix `$1`, where `$2` still is the live one. */
export const addDataset = `
  SELECT ringmaster.add_dataset($1, NULL) AS dataset
  WHERE $2 = (SELECT max(dataset) FROM ringmaster.datasets WHERE prefix = $1 AND move IS NULL)`;

/** The first pending job above `$1` among the next `$2` jobs, and how far these go. */
export const nextPending = (prefix: string, dataset: number): string => `
  WITH looked AS MATERIALIZED (
    SELECT job_id FROM ${jobsTable(prefix, dataset)} WHERE job_id > $1 ORDER BY job_id LIMIT $2
  )
  SELECT (SELECT count(*) FROM looked)::integer AS looked, (SELECT max(job_id) FROM looked)::text AS "upTo",
    (SELECT min(j.job_id) FROM looked AS j ${lastStatus(prefix, dataset)} WHERE ${isPending})::text AS pending`;

/** `$1` instance, `$2` prefix, `$3` dataset, `$4` the job id up to which it was looked through, `$5` milliseconds of grace. Gives `dropped`, `kept` or `pending`. */
export const dropDataset = 'SELECT ringmaster.drop_dataset($1, $2, $3, $4, $5) AS outcome';

/** Ledgers of imports that were attached, or are gone, longer ago than `$1` milliseconds. */
export const forgetImports = `
  DELETE FROM ringmaster.imports AS i
  WHERE i.prepared_at < now() - $1::double precision * interval '1 millisecond'
    AND NOT EXISTS (SELECT FROM ringmaster.datasets AS d WHERE d.move = i.move AND (NOT d.attached OR ringmaster.is_kept(d, $1)))`;
