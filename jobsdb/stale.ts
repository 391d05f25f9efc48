/** Partition ids in the tables, and putting away what a node holds of partitions that it does not own. */
import type { ClientBase } from 'pg';
import { type PartitionIndex, partitionIndexOf } from '../ring/partition.ts';
import { type Dataset, jobsTable, selectAttached, statusTable } from './sql/datasets.ts';
import { countPendingIn, distinctPartitionIds, markMigrated } from './sql/pending.ts';

/** Attached datasets, ascending. */
export async function attachedDatasets(client: ClientBase): Promise<Dataset[]> {
  return (await client.query<Dataset>(selectAttached)).rows;
}

/** Each dataset with the `partition_id`s in it whose index is in `wanted` (all workspaces share one ring); one round trip for all. */
export async function partitionIdsByDataset(
  client: ClientBase,
  datasets: readonly Dataset[],
  wanted: ReadonlySet<PartitionIndex>,
): Promise<(Dataset & { partitionIds: string[] })[]> {
  if (datasets.length === 0) return [];
  const selects = datasets.map(
    ({ prefix, dataset }, n) =>
      `SELECT ${n} AS n, partition_id FROM (${distinctPartitionIds(prefix, dataset)}) AS d${n}`,
  );
  const found = await client.query<{ n: number; partition_id: string }>(selects.join(' UNION ALL '));
  return datasets.map((dataset, n) => ({
    ...dataset,
    partitionIds: found.rows
      .filter((row) => row.n === n && wanted.has(partitionIndexOf(row.partition_id) ?? -1))
      .map((row) => row.partition_id),
  }));
}

/** Pending jobs in the attached datasets, whatever partition they are of: one that no ring knows is pending too. */
export async function countPending(client: ClientBase): Promise<number> {
  let count = 0;
  for (const { prefix, dataset } of await attachedDatasets(client)) {
    const counted = await client.query<{ count: string }>(countPendingIn(prefix, dataset));
    count += Number(counted.rows[0]!.count);
  }
  return count;
}

/**
 * Whatever is pending here for partitions that this node doesn't own was delivered or will be elsewhere: marks it `migrated`, and forgets the
 * window of messageIds, which went along. Repeatable. The caller holds the partitions' locks or knows them closed. Returns the rows marked.
 */
export async function putAwayStale(client: ClientBase, partitions: readonly PartitionIndex[]): Promise<number> {
  const wanted = new Set(partitions);
  let marked = 0;
  for (const { prefix, dataset, partitionIds } of await partitionIdsByDataset(
    client,
    await attachedDatasets(client),
    wanted,
  )) {
    if (partitionIds.length > 0)
      marked += (await client.query(markMigrated(prefix, dataset, partitionIds))).rowCount ?? 0;
  }
  await client.query('DELETE FROM ringmaster.message_ids WHERE partition = ANY ($1::integer[])', [partitions]);
  return marked;
}

/** Forgets the copy of a move that did not come to its hand-over: drops its datasets and its ledger. Repeatable. */
export async function dropImport(client: ClientBase, move: string): Promise<void> {
  // The ledger's row first: it waits for a write that is still open, and refuses later ones, which find no row.
  await client.query('DELETE FROM ringmaster.imports WHERE move = $1', [move]);
  const datasets = await client.query<Dataset>(
    'DELETE FROM ringmaster.datasets WHERE move = $1 AND NOT attached RETURNING prefix, dataset, move',
    [move],
  );
  for (const { prefix, dataset } of datasets.rows) {
    await client.query(`DROP TABLE IF EXISTS ${jobsTable(prefix, dataset)}, ${statusTable(prefix, dataset)}`);
  }
}
