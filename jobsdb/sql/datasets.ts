/** Names and lists of datasets. */
import type { Prefix } from './schema.ts';

/** One pair of tables. `move`: the import that it came by, `null` for what the node took in itself. */
export interface Dataset {
  readonly prefix: Prefix;
  readonly dataset: number;
  readonly move: string | null;
}

/** Quoted, with its schema. */
export const jobsTable = (prefix: string, dataset: number): string =>
  `public.${quoteIdentifier(`${prefix}_jobs_${dataset}`)}`;
export const statusTable = (prefix: string, dataset: number): string =>
  `public.${quoteIdentifier(`${prefix}_job_status_${dataset}`)}`;

export const selectAttached = `
  SELECT prefix, dataset, move FROM ringmaster.datasets WHERE attached ORDER BY prefix, dataset`;

/** The one quoting function for identifiers. */
export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** Literals, for COPY, which takes no parameters. `standard_conforming_strings` is on since PostgreSQL 9.1. */
export function quoteLiteral(text: string): string {
  if (text.includes('\0')) throw new Error('no NUL in SQL literals');
  const quoted = `'${text.replaceAll("'", "''").replaceAll('\\', '\\\\')}'`;
  return text.includes('\\') ? `E${quoted}` : quoted;
}

export const quoteTextArray = (items: readonly string[]): string =>
  `ARRAY[${items.map(quoteLiteral).join(', ')}]::text[]`;
