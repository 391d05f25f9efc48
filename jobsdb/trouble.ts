/**
 * What an error of PostgreSQL's in the middle of a move means, by its SQLSTATE: the one place that knows.
 *
 *   weather   a lost connection, a server that restarts (08…, 57P0…), a deadlock: thrown as it is, and tried again
 *   patience  a cancelled or timed out statement, too many connections: the same for the first attempts, then by name
 *   by name   a full disk, no memory, a missing right, a table or column that is not there, a row that is refused: asking again gives the same answer
 *
 * A message never has what a row holds: PostgreSQL's own words of a refused value may quote it, so of those only table, column and SQLSTATE are told.
 */
import { CodedError } from '../kit/errors.ts';

/** Attempts of an activity after which what may pass by itself is told by name: about ten seconds of retries. */
export const PATIENT_ATTEMPTS = 5;

/** As `pg` throws it; `node` is put on it by the pool (pool.ts). */
interface DatabaseTrouble extends Error {
  readonly code: string;
  readonly severity: string;
  readonly node?: string;
  readonly schema?: string;
  readonly table?: string;
  readonly column?: string;
  readonly constraint?: string;
  /** Of a COPY: `COPY gw_jobs_2, line 7, column event_payload: "…"`. */
  readonly where?: string;
}

type Means = readonly [code: string, kind: 'now' | 'patient', what: string];

const MEANS: Readonly<Record<string, Means>> = {
  '53100': ['NODE_DISK_FULL', 'now', 'its disk is full'],
  '53300': ['DATABASE_EXHAUSTED', 'patient', 'it has no connection left'],
  '55P03': ['DATABASE_TIMEOUT', 'patient', 'a lock was waited for too long'],
  '57014': ['DATABASE_TIMEOUT', 'patient', 'a statement took too long, or was cancelled'],
  '42501': ['DATABASE_RIGHTS', 'now', 'a right is missing'],
  '42P01': ['SCHEMA_DIFFERS', 'now', 'a table is not there'],
  '42703': ['SCHEMA_DIFFERS', 'now', 'a column is not there'],
  '42804': ['SCHEMA_DIFFERS', 'now', 'a column is of another type'],
  '42883': ['SCHEMA_DIFFERS', 'now', 'a function is not there: its node is of an older version, perhaps'],
  '3F000': ['SCHEMA_DIFFERS', 'now', 'a schema is not there'],
};
/** By class, where the SQLSTATE itself is not above. */
const MEANS_OF_CLASS: Readonly<Record<string, Means>> = {
  '22': ['COPY_REFUSED', 'now', 'a value was refused'],
  '23': ['COPY_REFUSED', 'now', 'a row was refused'],
  '53': ['DATABASE_EXHAUSTED', 'now', 'it is out of memory or another resource'],
  '54': ['COPY_REFUSED', 'now', 'a row is beyond what PostgreSQL can hold'],
};
/** Whose own message may quote what a row holds. */
const QUOTES_ROWS = new Set(['22', '23', '54']);

/** What `error`, met in the `attempt`th attempt of a move's activity, is to be thrown as: a CodedError, or itself. */
export function troubleOf(error: unknown, attempt: number = Number.POSITIVE_INFINITY): unknown {
  const trouble = databaseTrouble(error);
  if (!trouble) return error;
  const { code: sqlstate, node } = trouble;
  const sqlClass = sqlstate.slice(0, 2);
  // The ledger's own keys: an attempt that was overtaken meets them, and is to claim anew.
  if (sqlClass === '23' && trouble.schema === 'ringmaster') return error;
  const means = MEANS[sqlstate] ?? MEANS_OF_CLASS[sqlClass];
  if (!means) return error;
  const [code, kind, what] = means;
  if (kind === 'patient' && attempt < PATIENT_ATTEMPTS) return error;
  const { table, column } = placeOf(trouble);
  const quotes = QUOTES_ROWS.has(sqlClass);
  const place = table === null ? '' : `, ${column === null ? table : `${table}.${column}`}`;
  const words = quotes ? '' : `: ${trouble.message}`;
  return new CodedError(
    code,
    `${node ?? 'a node’s PostgreSQL'}${place}: ${what} (SQLSTATE ${sqlstate})${words}`,
    { node: node ?? null, sqlstate, table, column, constraint: trouble.constraint ?? null },
    quotes ? {} : { cause: error },
  );
}

/** The error of PostgreSQL's in what was thrown; null: there is none, or it has been named already. */
function databaseTrouble(error: unknown): DatabaseTrouble | null {
  for (let at = error; at instanceof Error && !(at instanceof CodedError); at = at.cause) {
    const { code, severity } = at as Partial<DatabaseTrouble>;
    if (typeof severity === 'string' && typeof code === 'string') return at as DatabaseTrouble;
  }
  return null;
}

function placeOf({ table, column, where }: DatabaseTrouble): { table: string | null; column: string | null } {
  const [, copied, its] = /^COPY ([\w".]+)(?:, line \d+)?(?:, column (\w+))?/.exec(where ?? '') ?? [];
  return { table: table ?? copied ?? null, column: column ?? its ?? null };
}
