/**
 * What must hold at both databases before a move touches them: found out beforehand it is one clear refusal, in the middle of a copy it would be an error of
 * PostgreSQL's. It reads catalogs, a handful of round trips: cheap enough to be asked again
 * at each attempt; only the question of room counts what is to be moved.
 *
 *   POSTGRES_TOO_OLD   a server older than the oldest that we know to work
 *   DATABASE_RIGHTS    our role lacks a right that the move needs
 *   SCHEMA_DIFFERS     a table that is read at the source differs in a column from the one that is written at the target
 *   NODE_DISK_FULL     the target's volume has too little room for what will be written (room.ts)
 */
import type pg from 'pg';
import { CodedError } from '../kit/errors.ts';
import type { PartitionIndex } from '../ring/partition.ts';
import { assertRoom, type Volume } from './room.ts';
import { type Dataset, selectAttached } from './sql/datasets.ts';
import { type Right, selectColumns, selectMissingRights, selectServer } from './sql/preflight.ts';
import { type Prefix, prefixes } from './sql/schema.ts';

/** As `server_version_num`: 15.0. Older ones lack what the statements of the copy use, and nobody tests them. */
export const POSTGRES_OLDEST = 150_000;
/** How many differences or missing rights a message names; details have as many. */
const TOLD_MAX = 20;

/** One side of a move. */
export interface Side {
  readonly node: string;
  readonly pool: pg.Pool;
}

export interface PreflightJob {
  readonly source: Side;
  readonly target: Side;
  readonly move: string;
  /** Where the target's volume is known: whether what is pending of these partitions has room there. */
  readonly room?: { readonly partitions: readonly PartitionIndex[]; readonly volume: Volume };
  /** Default: POSTGRES_OLDEST. */
  readonly postgresOldest?: number;
}

/** Throws POSTGRES_TOO_OLD, DATABASE_RIGHTS, SCHEMA_DIFFERS, NODE_DISK_FULL; anything else is weather. Changes nothing. */
export async function preflight(job: PreflightJob): Promise<void> {
  await withSides(job, async (source, target) => {
    assertNewEnough(
      [source, target].map(({ node, server }) => ({ where: node, ...server })),
      job.postgresOldest,
    );
    // First what the lists of datasets are read with.
    await assertRights([source, sourceRights([])], [target, targetRights(target, [])]);
    await inOneLook([source, target], async () => {
      const read = (await source.client.query<Dataset>(selectAttached)).rows;
      const written = await datasetsWritten(target.client, job.move);
      await assertRights([source, sourceRights(read)], [target, targetRights(target, written)]);
      await assertSameColumns({ ...source, datasets: read }, { ...target, datasets: written });
    });
    if (job.room)
      await assertRoom({
        ...job.room,
        source: source.client,
        target: target.client,
        node: target.node,
        move: job.move,
      });
  });
}

interface Opened {
  readonly node: string;
  readonly client: pg.ClientBase;
  readonly server: Server;
}

async function withSides<T>(job: PreflightJob, use: (source: Opened, target: Opened) => Promise<T>): Promise<T> {
  const source = await job.source.pool.connect();
  try {
    const target = await job.target.pool.connect();
    try {
      return await use(
        { node: job.source.node, client: source, server: await readServer(source) },
        { node: job.target.node, client: target, server: await readServer(target) },
      );
    } finally {
      target.release();
    }
  } finally {
    source.release();
  }
}

/** A node drops a dataset, or a copy, when it likes: list and tables are read as they were at one moment, or one that has just gone would be missing. */
async function inOneLook(sides: readonly Opened[], look: () => Promise<void>): Promise<void> {
  try {
    for (const { client } of sides) await client.query('BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY');
    await look();
  } finally {
    for (const { client } of sides) await client.query('ROLLBACK').catch(() => undefined); // nothing was changed; a lost connection is told by what ran
  }
}

// ---- versions

interface Server {
  readonly version_num: number;
  readonly version: string;
  readonly role: string;
  readonly database: string;
}

async function readServer(client: pg.ClientBase): Promise<Server> {
  return (await client.query<Server>(selectServer)).rows[0]!;
}

/** Throws POSTGRES_TOO_OLD, which names the version at each of `servers`. */
export function assertNewEnough(
  servers: readonly (Pick<Server, 'version_num' | 'version'> & { readonly where: string })[],
  oldest: number = POSTGRES_OLDEST,
): void {
  if (servers.every(({ version_num }) => version_num >= oldest)) return;
  const versions = servers.map(({ where, version }) => `${version} at ${where}`).join(', ');
  throw new CodedError(
    'POSTGRES_TOO_OLD',
    `PostgreSQL is ${versions}; ${Math.floor(oldest / 10_000)} or newer is needed`,
    { servers: Object.fromEntries(servers.map(({ where, version }) => [where, version])) },
  );
}

/** The same of one database, for a node at its own start. */
export async function assertServerNewEnough(client: pg.ClientBase, oldest?: number): Promise<void> {
  assertNewEnough([{ where: 'the jobs database', ...(await readServer(client)) }], oldest);
}

// ---- datasets

/** What the move writes, where it is prepared already; before that the newest dataset of each prefix: the target makes its next ones likewise. */
async function datasetsWritten(target: pg.ClientBase, move: string): Promise<Dataset[]> {
  const found = await target.query<Dataset>(
    `SELECT DISTINCT ON (prefix) prefix, dataset, move FROM ringmaster.datasets
     WHERE move IS NOT DISTINCT FROM $1 OR move IS NULL ORDER BY prefix, move IS NULL, dataset DESC`,
    [move],
  );
  return found.rows;
}

const tablesOf = ({ prefix, dataset }: Pick<Dataset, 'prefix' | 'dataset'>): [jobs: string, statuses: string] => [
  `${prefix}_jobs_${dataset}`,
  `${prefix}_job_status_${dataset}`,
];

// ---- rights

const right = (kind: Right['kind'], schema: string, name: string, ...privileges: string[]): Right[] =>
  privileges.map((privilege) => ({ kind, schema, name, privilege }));

function sourceRights(datasets: readonly Dataset[]): Right[] {
  return [
    ...['public', 'ringmaster'].flatMap((schema) => right('schema', schema, schema, 'USAGE')),
    ...['datasets', 'message_ids'].flatMap((table) => right('table', 'ringmaster', table, 'SELECT')),
    ...prefixes.flatMap((prefix) => right('sequence', 'ringmaster', `${prefix}_job_id`, 'SELECT')),
    ...right('sequence', 'ringmaster', 'message_ids_seq_seq', 'SELECT'),
    ...right('function', 'ringmaster', 'marks', 'EXECUTE'),
    ...datasets.flatMap((dataset) => {
      const [jobs, statuses] = tablesOf(dataset);
      return [
        ...right('table', 'public', jobs, 'SELECT'),
        ...right('table', 'public', statuses, 'SELECT'),
        ...right('sequence', 'public', `${statuses}_id_seq`, 'SELECT'),
      ];
    }),
  ];
}

function targetRights({ server: { database } }: Opened, datasets: readonly Dataset[]): Right[] {
  return [
    ...right('database', '', database, 'TEMPORARY'), // what arrives of statuses and messageIds is put there first
    ...['public', 'ringmaster'].flatMap((schema) => right('schema', schema, schema, 'USAGE')),
    ...right('table', 'ringmaster', 'datasets', 'SELECT'),
    ...right('table', 'ringmaster', 'imports', 'SELECT', 'UPDATE'), // the token's row is locked
    ...right('table', 'ringmaster', 'import_passes', 'SELECT', 'INSERT', 'UPDATE'),
    ...right('table', 'ringmaster', 'import_chunks', 'SELECT', 'INSERT'),
    ...right('table', 'ringmaster', 'message_ids', 'SELECT', 'INSERT'),
    ...right('sequence', 'ringmaster', 'message_ids_seq_seq', 'USAGE'),
    ...prefixes.flatMap((prefix) => right('sequence', 'ringmaster', `${prefix}_job_id`, 'SELECT', 'UPDATE')),
    ...['begin_pass', 'index_import'].flatMap((name) => right('function', 'ringmaster', name, 'EXECUTE')),
    ...datasets.flatMap((dataset) => {
      const [jobs, statuses] = tablesOf(dataset);
      return [
        ...right('table', 'public', jobs, 'SELECT', 'INSERT'),
        ...right('table', 'public', statuses, 'SELECT', 'INSERT'),
      ];
    }),
  ];
}

interface MissingRight {
  readonly node: string;
  readonly role: string;
  readonly object: string;
  readonly kind: Right['kind'];
  readonly right: string;
}

async function assertRights(...sides: readonly (readonly [Opened, readonly Right[]])[]): Promise<void> {
  const missing: MissingRight[] = [];
  for (const [{ node, client, server }, rights] of sides) {
    for (const { n } of (await client.query<{ n: number }>(selectMissingRights(rights))).rows) {
      const { kind, schema, name, privilege } = rights[n]!;
      const object = kind === 'database' || kind === 'schema' ? name : `${schema}.${name}`;
      missing.push({ node, role: server.role, object, kind, right: privilege });
    }
  }
  if (missing.length === 0) return;
  const told = missing.slice(0, TOLD_MAX);
  const sentences = told.map(
    ({ node, role, right: lacking, kind, object }) => `${role} lacks ${lacking} on ${kind} ${object} at ${node}`,
  );
  throw new CodedError('DATABASE_RIGHTS', `${sentences.join('; ')}${more(missing.length)}`, {
    missing: told,
    count: missing.length,
  });
}

const more = (count: number): string => (count > TOLD_MAX ? `, and ${count - TOLD_MAX} more` : '');

// ---- columns

interface Datasets extends Opened {
  readonly datasets: readonly Dataset[];
}

/** Table → column → its type and whether it may be null. */
type Columns = ReadonlyMap<string, ReadonlyMap<string, string>>;

async function readColumns({ client, datasets }: Datasets): Promise<Columns> {
  const found = await client.query<{ table: string; column: string; described: string }>(selectColumns, [
    datasets.flatMap(tablesOf),
  ]);
  const columns = new Map<string, Map<string, string>>();
  for (const { table, column, described } of found.rows) {
    const ofTable = columns.get(table) ?? new Map<string, string>();
    columns.set(table, ofTable.set(column, described));
  }
  return columns;
}

export interface SchemaDifference {
  readonly table: string;
  /** Null: the whole table is missing. */
  readonly column: string | null;
  /** As `jsonb NOT NULL`; null: it has none. */
  readonly source: string | null;
  readonly target: string | null;
}

async function assertSameColumns(source: Datasets, target: Datasets): Promise<void> {
  const [read, written] = [await readColumns(source), await readColumns(target)];
  const model = new Map<Prefix, Dataset>(target.datasets.map((dataset) => [dataset.prefix, dataset]));
  const differences = source.datasets.flatMap((dataset) => {
    const theirs = model.get(dataset.prefix);
    const targetTables = theirs ? tablesOf(theirs) : [];
    return tablesOf(dataset).flatMap((table, n) =>
      differencesOf(table, read.get(table), written.get(targetTables[n] ?? '')),
    );
  });
  if (differences.length === 0) return;
  const [a, b] = [source.node, target.node];
  const told = differences.slice(0, TOLD_MAX).map(({ table, column, source: has, target: other }) => {
    const what = column === null ? table : `${table}.${column}`;
    return `${what} is ${has ?? 'missing'} at ${a}, ${other ?? 'missing'} at ${b}`;
  });
  throw new CodedError('SCHEMA_DIFFERS', `${told.join('; ')}${more(differences.length)}`, {
    source: a,
    target: b,
    differences: differences.slice(0, TOLD_MAX),
    count: differences.length,
  });
}

function differencesOf(
  table: string,
  source: ReadonlyMap<string, string> | undefined,
  target: ReadonlyMap<string, string> | undefined,
): SchemaDifference[] {
  if (!source || !target)
    return [{ table, column: null, source: source ? 'there' : null, target: target ? 'there' : null }];
  return [...new Set([...source.keys(), ...target.keys()])]
    .map((column) => ({ table, column, source: source.get(column) ?? null, target: target.get(column) ?? null }))
    .filter((one) => one.source !== one.target);
}
