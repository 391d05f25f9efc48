/**
 * An import: the copy of a move at its target. Its rows lie in datasets of their own, which nobody reads until they are attached;
 * its row in `ringmaster.imports` holds the token, and every write locks that row until its commit.
 */
import type { ClientBase } from 'pg';
import { CodedError } from '../kit/errors.ts';
import type { PartitionIndex } from '../ring/partition.ts';
import { type Aside, takeImport } from './overtaken.ts';
import { jobsTable, quoteLiteral, statusTable } from './sql/datasets.ts';
import { type Prefix, prefixes } from './sql/schema.ts';

export interface ImportDatasets {
  readonly datasets: readonly { readonly prefix: Prefix; readonly dataset: number }[];
}

/** Moves whose unattached copies hold any of these partitions. */
export async function importsOf(client: ClientBase, partitions: readonly PartitionIndex[]): Promise<string[]> {
  const moves = await client.query<{ move: string }>(
    `SELECT i.move FROM ringmaster.imports AS i
     WHERE i.partitions && $1::integer[] AND EXISTS (SELECT FROM ringmaster.datasets AS d WHERE d.move = i.move AND NOT d.attached)`,
    [partitions],
  );
  return moves.rows.map((row) => row.move);
}

/** Whether an earlier attempt has made the import: then what is here of its partitions is its copy, and nothing stale. */
export async function isImporting(client: ClientBase, move: string): Promise<boolean> {
  return ((await client.query('SELECT FROM ringmaster.imports WHERE move = $1', [move])).rowCount ?? 0) > 0;
}

/**
 * Raises the token of the import to `token`, which ends an older attempt's open write (overtaken.ts), and waits for none under this token; makes the import where
 * it isn't there: nothing stale may be left of its partitions then. Throws STALE_TOKEN where a newer attempt was here. In the transaction of the one who alone raises
 * tokens at this node.
 */
export async function ensureImport(
  client: ClientBase,
  aside: Aside,
  move: string,
  token: number,
  partitions: readonly PartitionIndex[],
): Promise<ImportDatasets> {
  const known = await client.query<{ token: string }>('SELECT token::text FROM ringmaster.imports WHERE move = $1', [
    move,
  ]);
  if (known.rows[0]) {
    const held = Number(known.rows[0].token);
    if (held > token) throw staleToken(move, held, token);
    if (held < token) {
      await takeImport(client, aside, move);
      await client.query('UPDATE ringmaster.imports SET token = $2 WHERE move = $1', [move, token]);
    }
    const datasets = await client.query<{ prefix: Prefix; dataset: number }>(
      'SELECT prefix, dataset FROM ringmaster.datasets WHERE move = $1 ORDER BY prefix',
      [move],
    );
    return { datasets: datasets.rows };
  }
  await client.query('INSERT INTO ringmaster.imports (move, token, partitions) VALUES ($1, $2, $3)', [
    move,
    token,
    partitions,
  ]);
  const datasets: { prefix: Prefix; dataset: number }[] = [];
  for (const prefix of prefixes) {
    const added = await client.query<{ dataset: number }>('SELECT ringmaster.add_import($1, $2) AS dataset', [
      prefix,
      move,
    ]);
    datasets.push({ prefix, dataset: added.rows[0]!.dataset });
  }
  return { datasets };
}

/**
 * Begins a transaction that holds the import's token row until its end. Throws STALE_TOKEN, also where the import is gone; the transaction is open then.
 * Every write at the target begins with it; one round trip, as clients may be waiting. `lazily`: the commit is not waited for on disk.
 */
export async function beginHolding(client: ClientBase, move: string, token: number, lazily = false): Promise<void> {
  const statements = `BEGIN; ${lazily ? 'SET LOCAL synchronous_commit = off; ' : ''}SELECT token::text FROM ringmaster.imports WHERE move = ${quoteLiteral(move)} FOR SHARE`;
  const held = ((await client.query(statements)) as unknown as { rows: { token: string }[] }[]).at(-1)!;
  if (Number(held.rows[0]?.token) !== token)
    throw staleToken(move, held.rows[0] ? Number(held.rows[0].token) : null, token);
}

/**
 * To be called before the first row is written. Throws IMPORT_NOT_EMPTY where a dataset of the import has rows and its ledger knows of none: somebody else
 * wrote them, and they would be attached with ours.
 */
export async function assertOnlyOwnRows(
  client: ClientBase,
  move: string,
  datasets: ImportDatasets['datasets'],
): Promise<void> {
  if (datasets.length === 0) return;
  const selects = datasets.map(
    ({ prefix, dataset }, n) => `
    SELECT ${n} AS n WHERE NOT EXISTS (SELECT FROM ringmaster.import_chunks WHERE move = ${quoteLiteral(move)} AND prefix = ${quoteLiteral(prefix)})
      AND (EXISTS (SELECT FROM ${jobsTable(prefix, dataset)}) OR EXISTS (SELECT FROM ${statusTable(prefix, dataset)}))`,
  );
  const { rows } = await client.query<{ n: number }>(selects.join(' UNION ALL '));
  if (rows.length === 0) return;
  const tables = rows.map(({ n }) => jobsTable(datasets[n]!.prefix, datasets[n]!.dataset));
  throw new CodedError('IMPORT_NOT_EMPTY', `${tables.join(', ')}: there are rows that ${move} has not written`, {
    move,
    tables,
  });
}

function staleToken(move: string, held: number | null, token: number): CodedError {
  return new CodedError(
    'STALE_TOKEN',
    `the import of ${move} is ${held === null ? 'gone' : `held by token ${held}`}, not ${token}`,
    { move, held, token },
  );
}
