/** Partition ids in the tables, and putting away what a node holds of partitions that it does not own. */
import type { ClientBase } from 'pg';
import { type PartitionIndex, partitionIndexOf } from '../ring/partition.ts';
import { type Dataset, jobsTable, selectAttached, statusTable } from './sql/datasets.ts';
import { countPending, distinctPartitionIds, markMigrated } from './sql/pending.ts';

/** Attached datasets, ascending. */
export async function attachedDatasets(client: ClientBase): Promise<Dataset[]> {
  return (await client.query<Dataset>(selectAttached)).rows;
}

/** The `partition_id`s in a dataset whose index is in `wanted` (all workspaces share one ring). */
export async function partitionIdsIn(client: ClientBase, dataset: Dataset, wanted: ReadonlySet<PartitionIndex>): Promise<string[]> {
  const ids = await client.query<{ partition_id: string }>(distinctPartitionIds(dataset.prefix, dataset.dataset));
  return ids.rows
    .map((row) => row.partition_id)
    .filter((id) => {
      const index = partitionIndexOf(id);
      return index !== null && wanted.has(index);
    });
}

/** Pending jobs of `partitions` in the attached datasets. */
export async function countPendingOf(client: ClientBase, partitions: ReadonlySet<PartitionIndex>): Promise<number> {
  let count = 0;
  for (const dataset of await attachedDatasets(client)) {
    const ids = await partitionIdsIn(client, dataset, partitions);
    if (ids.length === 0) continue;
    const counted = await client.query<{ count: string }>(countPending(dataset.prefix, dataset.dataset, ids));
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
  for (const dataset of await attachedDatasets(client)) {
    const ids = await partitionIdsIn(client, dataset, wanted);
    if (ids.length > 0) marked += (await client.query(markMigrated(dataset.prefix, dataset.dataset, ids))).rowCount ?? 0;
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
