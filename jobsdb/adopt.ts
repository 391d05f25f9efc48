/**
 * Adopting: pending jobs without a partition (`partition_id` empty) get theirs from the user key, in place, a batch at a time. Only those of partitions that
 * the node owns: as jobs of a partition that another owns they would count as moved away, and be put away.
 */
import type { ClientBase } from 'pg';
import { type PartitionIndex, partitionIdOf, partitionOf } from '../ring/partition.ts';
import { adopt, countUnadopted, selectUnadopted } from './sql/adopt.ts';
import type { Dataset } from './sql/datasets.ts';
import { attachedDatasets } from './stale.ts';

export interface AdoptRules {
  /** Of jobs that name none. */
  readonly workspaceId: string;
  readonly partitionCount: number;
  readonly owned: ReadonlySet<PartitionIndex>;
}

/** The datasets that are left, and up to which job id the first of them was looked through. */
export interface Adopting {
  readonly todo: readonly Dataset[];
  readonly after: number;
}

/** Pending jobs without a partition. */
export async function countUnadoptedJobs(client: ClientBase): Promise<number> {
  let count = 0;
  for (const { prefix, dataset } of await attachedDatasets(client))
    count += Number((await client.query<{ count: string }>(countUnadopted(prefix, dataset))).rows[0]!.count);
  return count;
}

/**
 * The next `rowsMax` jobs at most, in the caller's transaction. Gives the rest, which holds once that has committed (its `todo` is empty when all is done), and
 * how many jobs were adopted. Begins again where it is lost: what is adopted is not found any more.
 */
export async function adoptNext(
  client: ClientBase,
  { todo, after }: Adopting,
  { workspaceId, partitionCount, owned }: AdoptRules,
  rowsMax: number,
): Promise<{ rest: Adopting; adopted: number }> {
  const [{ prefix, dataset }, ...others] = todo as [Dataset, ...Dataset[]];
  const found = await client.query<{ job_id: string; user_id: string; workspace_id: string; pending: boolean }>(
    selectUnadopted(prefix, dataset),
    [after, rowsMax],
  );
  const [ids, partitionIds]: [string[], string[]] = [[], []];
  for (const { job_id, user_id, workspace_id, pending } of found.rows) {
    const partition = partitionOf(user_id, partitionCount);
    if (!pending || !owned.has(partition)) continue;
    ids.push(job_id);
    partitionIds.push(partitionIdOf(workspace_id === '' ? workspaceId : workspace_id, partition));
  }
  const adopted =
    ids.length > 0 ? ((await client.query(adopt(prefix, dataset), [ids, partitionIds])).rowCount ?? 0) : 0;
  const last = found.rows.at(-1);
  const rest = found.rows.length === rowsMax ? { todo, after: Number(last!.job_id) } : { todo: others, after: 0 };
  return { rest, adopted };
}
