/** Statements that PostgreSQL plans once for each connection. */
import type { QueryConfig } from 'pg';

const names = new Map<string, string>();
/** Texts name datasets, whose lists change with every move; what a connection has prepared it keeps. Beyond this many, statements are planned each time. */
const NAMES_MAX = 500;

export function prepared(text: string, values: unknown[]): QueryConfig {
  let name = names.get(text);
  if (name === undefined && names.size < NAMES_MAX) {
    name = `rm${names.size}`;
    names.set(text, name);
  }
  return name === undefined ? { text, values } : { name, text, values };
}
