/** Statements that PostgreSQL plans once for each connection. */
import type { QueryConfig } from 'pg';

const names = new Map<string, string>();
/** Texts name datasets, whose list changes with every move and roll-over: what was used longest ago is forgotten. A connection keeps what it has prepared until it is replaced (session.ts). */
const NAMES_MAX = 500;
let given = 0;

export function prepared(text: string, values: unknown[]): QueryConfig {
  const known = names.get(text);
  if (known !== undefined) names.delete(text);
  else given += 1;
  const name = known ?? `rm${given}`;
  names.set(text, name);
  if (names.size > NAMES_MAX) names.delete(names.keys().next().value!);
  return { name, text, values };
}
