/** What a move asks of both databases before it begins: their version, their tables' columns, and what our role may do there. */
import { quoteLiteral } from './datasets.ts';

export const selectServer = `
  SELECT current_setting('server_version_num')::integer AS version_num, current_setting('server_version') AS version, current_user AS role, current_database() AS database`;

/** `$1`: names of tables in `public`. One row for each column, in order; none for a table that is not there. */
export const selectColumns = `
  SELECT c.relname AS "table", a.attname AS "column",
    format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
      || CASE WHEN a.attgenerated <> '' THEN ' GENERATED' ELSE '' END AS described
  FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
  WHERE c.relnamespace = to_regnamespace('public') AND c.relkind IN ('r', 'p') AND c.relname = ANY ($1::text[]) AND a.attnum > 0 AND NOT a.attisdropped
  ORDER BY c.relname, a.attnum`;

/** A right that is needed. `object`: of a table or sequence its schema and name, of a function its name in `ringmaster`. */
export interface Right {
  readonly kind: 'database' | 'schema' | 'table' | 'sequence' | 'function';
  readonly schema: string;
  readonly name: string;
  /** As GRANT names it. */
  readonly privilege: string;
}

/** Those of `rights` that the current role lacks, by oid: a name would be looked up with the very rights that may be missing. What is not there is left out. */
export const selectMissingRights = (rights: readonly Right[]): string => {
  const rows = rights.map(
    ({ kind, schema, name, privilege }, n) =>
      `(${n}, ${[kind, schema, name, privilege].map((text) => `${quoteLiteral(text)}::text`).join(', ')})`,
  );
  return `
  SELECT r.n FROM (VALUES ${rows.join(', ')}) AS r (n, kind, schema, name, privilege)
  LEFT JOIN pg_namespace AS s ON s.nspname = r.schema
  LEFT JOIN pg_class AS c ON c.relnamespace = s.oid AND c.relname = r.name AND r.kind IN ('table', 'sequence')
  LEFT JOIN pg_proc AS f ON f.pronamespace = s.oid AND f.proname = r.name AND r.kind = 'function'
  WHERE NOT coalesce(CASE r.kind
    WHEN 'database' THEN has_database_privilege(current_database(), r.privilege)
    WHEN 'schema' THEN has_schema_privilege(s.oid, r.privilege)
    WHEN 'function' THEN has_function_privilege(f.oid, r.privilege)
    WHEN 'sequence' THEN has_sequence_privilege(c.oid, r.privilege)
    ELSE has_table_privilege(c.oid, r.privilege)
  END, true) ORDER BY r.n`;
};
