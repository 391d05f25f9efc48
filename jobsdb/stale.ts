/** Partition ids in the tables, and putting away what a node holds of partitions that it does not own. */
import type { ClientBase, Pool } from 'pg';
import { type PartitionIndex, partitionIndexOf } from '../ring/partition.ts';
import { type Aside, takeImport } from './overtaken.ts';
import { type Dataset, jobsTable, selectAttached, statusTable } from './sql/datasets.ts';
import {
  countPendingIn,
  distinctPartitionIds,
  forgetMessageIds,
  markMigrated,
  partitionsWithWindow,
} from './sql/pending.ts';

/** Attached datasets, ascending. */
export async function attachedDatasets(client: ClientBase | Pool): Promise<Dataset[]> {
  return (await client.query<Dataset>(selectAttached)).rows;
}

/**
 * Each dataset with the `partition_id`s in it whose index is in `wanted` (all workspaces share one ring), and how many there are in all; one round trip
 * for all.
 */
export async function partitionIdsByDataset(
  client: ClientBase,
  datasets: readonly Dataset[],
  wanted: ReadonlySet<PartitionIndex>,
): Promise<(Dataset & { partitionIds: string[]; idsInAll: number })[]> {
  if (datasets.length === 0) return [];
  const selects = datasets.map(
    ({ prefix, dataset }, n) =>
      `SELECT ${n} AS n, partition_id FROM (${distinctPartitionIds(prefix, dataset)}) AS d${n}`,
  );
  const found = await client.query<{ n: number; partition_id: string }>(selects.join(' UNION ALL '));
  return datasets.map((dataset, n) => {
    const ids = found.rows.filter((row) => row.n === n).map((row) => row.partition_id);
    const partitionIds = ids.filter((id) => wanted.has(partitionIndexOf(id) ?? -1));
    return { ...dataset, partitionIds, idsInAll: ids.length };
  });
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

/** What is still to be put away, in order, and how far the first of it has got. Made by `planPutAway`, carried on by `putAwayNext`. */
export interface PuttingAway {
  readonly todo: readonly (
    | { readonly dataset: Dataset; readonly partitionId: string; readonly move: string | null }
    | { readonly windowOf: PartitionIndex }
  )[];
  /** The highest job id, or seq of the window, that was looked at. */
  readonly after: number;
}

/**
 * Whatever is pending here for partitions that this node doesn't own was delivered or will be elsewhere: it is marked `migrated`, with the move by which the
 * partition left (`null`: unknown), and the window of messageIds, which went along, is forgotten. This looks what there is, and changes nothing.
 * In the caller's transaction, who knows the partitions closed: nothing is added to them until they are opened, and then what was planned for them counts no more.
 */
export async function planPutAway(
  client: ClientBase,
  partitions: ReadonlyMap<PartitionIndex, string | null>,
): Promise<PuttingAway> {
  const wanted = new Set(partitions.keys());
  const datasets = (await client.query<Dataset>(`${selectAttached} FOR KEY SHARE`)).rows; // none of them is dropped before this transaction ends
  const found = await partitionIdsByDataset(client, datasets, wanted);
  const windows = await client.query<{ partition: number }>(partitionsWithWindow, [[...wanted]]);
  return {
    todo: [
      ...found.flatMap(({ partitionIds, ...dataset }) =>
        partitionIds.map((partitionId) => ({
          dataset,
          partitionId,
          move: partitions.get(partitionIndexOf(partitionId)!) ?? null,
        })),
      ),
      ...windows.rows.map(({ partition }) => ({ windowOf: partition })),
    ],
    after: 0,
  };
}

/**
 * The next `rowsMax` rows of it, in the caller's transaction. Gives the rest, which holds once that has committed: its `todo` is empty when all is
 * done. `marked`: jobs that were pending.
 */
export async function putAwayNext(
  client: ClientBase,
  { todo, after }: PuttingAway,
  rowsMax: number,
): Promise<{ rest: PuttingAway; marked: number }> {
  let [left, at, marked] = [rowsMax, after, 0];
  for (const [n, item] of todo.entries()) {
    const [statement, values] =
      'windowOf' in item
        ? [forgetMessageIds, [item.windowOf, at, left]]
        : [
            markMigrated(item.dataset.prefix, item.dataset.dataset),
            [item.partitionId, at, left, JSON.stringify(item.move === null ? {} : { move: item.move })],
          ];
    const step = await client.query<{ looked: number; upTo: string | null; marked: number }>(statement, values);
    const { looked, upTo, marked: here } = step.rows[0]!;
    marked += here;
    if (looked === left) return { rest: { todo: todo.slice(n), after: Number(upTo) }, marked };
    left -= looked;
    at = 0;
  }
  return { rest: { todo: [], after: 0 }, marked };
}

/** Forgets the copy of a move that is over and did not come to its hand-over: drops its datasets and its ledger. Ends a write that is still open. Repeatable. */
export async function dropImport(client: ClientBase, aside: Aside, move: string): Promise<void> {
  // The ledger's row first: later writes are refused, as they find no row.
  await takeImport(client, aside, move);
  await client.query('DELETE FROM ringmaster.imports WHERE move = $1', [move]);
  const datasets = await client.query<Dataset>(
    'DELETE FROM ringmaster.datasets WHERE move = $1 AND NOT attached RETURNING prefix, dataset, move',
    [move],
  );
  for (const { prefix, dataset } of datasets.rows) {
    await client.query(`DROP TABLE IF EXISTS ${jobsTable(prefix, dataset)}, ${statusTable(prefix, dataset)}`);
  }
}
