/** What must not be there once every operation is over, and every queue empty or in use as ever: looked at from outside, in the log, the databases and the process table. */
import { createHash } from 'node:crypto';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { jobsTable, selectAttached } from '../../jobsdb/sql/datasets.ts';
import { isPending, lastStatus } from '../../jobsdb/sql/pending.ts';
import { formatPartitions, partitionIndexOf } from '../../ring/partition.ts';
import { partitionsOf, type Ring } from '../../ring/ring.ts';
import { readRing } from '../../ringstore/ringstore.ts';
import { hasEnded, listOperations } from '../demo/operations.ts';
import { familyOf, listProcesses, type ProcessRow } from '../faults/processes.ts';
import type { Stack } from '../stack.ts';

/** What a node does by itself (putting away, closing connections) may take this long after the last operation. */
const SETTLES_WITHIN_MS = 60_000;
const LOOK_EVERY_MS = 500;

export interface LookOptions {
  /** Traffic goes on: pending jobs at the owner of their partition are no leftovers. */
  readonly queuesInUse?: boolean;
}

/** Empty where nothing is left; else one sentence for each thing, as it still was after a minute. */
export async function findLeftovers(stack: Stack, signal: AbortSignal, options: LookOptions = {}): Promise<string[]> {
  const deadline = performance.now() + SETTLES_WITHIN_MS;
  for (;;) {
    const found = await look(stack, signal, options).catch((error: unknown) => {
      if (signal.aborted) throw error;
      return [`cannot be looked at: ${String(error)}`];
    });
    if (found.length === 0 || performance.now() > deadline) return found;
    await sleep(LOOK_EVERY_MS, null, { signal });
  }
}

async function look(stack: Stack, signal: AbortSignal, options: LookOptions): Promise<string[]> {
  const ring = await readRing(stack.ringStore, stack.clusterId);
  const members = ring.nodes.map(({ node }) => node);
  const [operations, nodes, processes] = await Promise.all([
    listOperations(stack.api, stack.clusterId, signal),
    stack.platform.listNodes(),
    listProcesses(),
  ]);
  const inNodes = await Promise.all(members.map((node) => lookIntoNode(stack, ring, node, options)));
  return [
    ...operations.filter((one) => !hasEnded(one)).map((one) => `operation ${one.operationId} is ${one.state}`),
    ...(ring.freeze ? [`the ring is frozen by ${ring.freeze.operationId}`] : []),
    ...ring.moves.map(({ move, state }) => `move ${move} is open: ${state}`),
    ...nodes
      .filter(({ node, condition }) => condition !== 'absent' && !members.includes(node))
      .map(({ node, condition }) => `${node} is ${condition} and no member`),
    ...members
      .filter((member) => !nodes.some(({ node, condition }) => node === member && condition === 'running'))
      .map((member) => `${member} is a member and does not run`),
    ...inNodes.flat(),
    ...strayProcesses(stack, members, processes),
  ];
}

async function lookIntoNode(
  { platform }: Stack,
  ring: Ring,
  node: string,
  { queuesInUse = false }: LookOptions,
): Promise<string[]> {
  const endpoints = await platform.describeNode(node);
  if (!endpoints) return [];
  const client = new pg.Client({ ...endpoints.database, connectionTimeoutMillis: 5_000, statement_timeout: 30_000 });
  client.on('error', () => undefined); // the query that runs tells
  await client.connect();
  try {
    return [
      ...(await wrongStates(client, ring, node)),
      ...(await unfinishedImports(client, node)),
      ...(await pendingJobs(client, ring, node, !queuesInUse)),
    ];
  } finally {
    await client.end();
  }
}

async function wrongStates(client: pg.Client, ring: Ring, node: string): Promise<string[]> {
  const owned = new Set(partitionsOf(ring, node));
  const { rows } = await client.query<{ partition: number; state: string }>(
    'SELECT partition, state FROM ringmaster.partitions',
  );
  const states = new Map(rows.map(({ partition, state }) => [partition, state]));
  const wrong = Map.groupBy(
    Array.from({ length: ring.partitionCount }, (_, partition) => partition).filter(
      (partition) => (states.get(partition) ?? 'closed') !== (owned.has(partition) ? 'open' : 'closed'),
    ),
    (partition) => states.get(partition) ?? 'unknown',
  );
  return [...wrong].map(
    ([state, partitions]) =>
      `${node}: partitions ${formatPartitions(partitions)} are ${state}, ${owned.has(partitions[0]!) ? 'and owned' : 'and owned by others'}`,
  );
}

async function unfinishedImports(client: pg.Client, node: string): Promise<string[]> {
  const { rows } = await client.query<{ what: string }>(`
    SELECT 'the copy of ' || move || ' (' || prefix || ' ' || dataset || ') is not attached' AS what
      FROM ringmaster.datasets WHERE move IS NOT NULL AND NOT attached
    UNION ALL SELECT 'the ledger of ' || move || ' has no copy' FROM ringmaster.imports AS i
      WHERE NOT EXISTS (SELECT FROM ringmaster.datasets AS d WHERE d.move = i.move)
    UNION ALL SELECT 'pass ' || pass || ' of ' || move || ' is not done' FROM ringmaster.import_passes WHERE NOT done
    UNION ALL SELECT 'table ' || tablename || ' is in no list' FROM pg_tables AS t
      WHERE schemaname = 'public' AND tablename ~ '_(jobs|job_status)_[0-9]+$' AND NOT EXISTS (
        SELECT FROM ringmaster.datasets AS d
        WHERE t.tablename IN (d.prefix || '_jobs_' || d.dataset, d.prefix || '_job_status_' || d.dataset))`);
  return rows.map(({ what }) => `${node}: ${what}`);
}

async function pendingJobs(client: pg.Client, ring: Ring, node: string, ownToo: boolean): Promise<string[]> {
  const found: string[] = [];
  for (const { prefix, dataset } of (await client.query<{ prefix: string; dataset: number }>(selectAttached)).rows) {
    const { rows } = await client.query<{ partition_id: string; count: string }>(
      `SELECT j.partition_id, count(*)::text AS count FROM ${jobsTable(prefix, dataset)} AS j ${lastStatus(prefix, dataset)}
       WHERE ${isPending} GROUP BY 1`,
    );
    for (const { partition_id: id, count } of rows) {
      const isOwned = ring.owners[partitionIndexOf(id) ?? -1] === node;
      if (isOwned && !ownToo) continue;
      found.push(
        `${node}: ${count} pending ${prefix} jobs of partition ${id}, which ${isOwned ? 'it' : 'another'} owns`,
      );
    }
  }
  return found;
}

/** Of each kind of process as many as there are to be: below this one, and wherever a command line names the stack's folder or one of its nodes. */
function strayProcesses(stack: Stack, members: readonly string[], all: readonly ProcessRow[]): string[] {
  const { dataFolder, routers } = stack;
  const below = new Set(familyOf(process.pid, all));
  const nodesFolder = path.join(dataFolder, 'platform/nodes');
  const ours = all.filter((row) => below.has(row.pid) || row.command.includes(dataFolder));
  const count = (isIt: (command: string) => boolean, among: readonly ProcessRow[]): number =>
    among.filter(({ command }) => isIt(command)).length;
  const server = (folder: string) => (command: string) => command.includes(`postgres -D ${path.join(folder, 'data')} `);
  const wanted: [what: string, found: number, wanted: number][] = [
    ['workers', count((command) => command.endsWith('workers/main.ts'), ours), 1],
    ['routers', count((command) => command.endsWith('router/main.ts'), ours), routers.length],
    ['Temporal servers', count((command) => command.includes(path.join(dataFolder, 'temporal/temporal.db')), all), 1],
    ["ring store's PostgreSQL servers", count(server(path.join(dataFolder, 'ringstore')), all), 1],
  ];
  for (let n = 0; n < 16; n += 1) {
    const node = `node-${n}`;
    const folder = path.join(nodesFolder, node);
    const isMember = members.includes(node) ? 1 : 0;
    // As platform/local/managed-node.ts calls it.
    const title = `ringmaster-${node}-${createHash('sha256').update(folder).digest('hex').slice(0, 8)}`;
    wanted.push([`backends of ${node}`, count((command) => command.includes(title), all), isMember]);
    wanted.push([`PostgreSQL servers of ${node}`, count(server(folder), all), isMember]);
  }
  return wanted
    .filter(([, found, right]) => found !== right)
    .map(([what, found, right]) => `${found} ${what} run, not ${right}`);
}
