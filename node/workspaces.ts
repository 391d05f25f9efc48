/** Whose jobs may lie in this database: `partition_id`s begin with a workspace's id, and imported jobs may be of workspaces that are not configured here. */
import type { Pool } from 'pg';
import type { Dataset } from '../jobsdb/sql/datasets.ts';
import { distinctPartitionIds } from '../jobsdb/sql/pending.ts';
import { type PartitionIndex, partitionIdOf, partitionIndexOf } from '../ring/partition.ts';
import { withDatasets } from './dataset-list.ts';
import type { NodeTopology } from './work.ts';

export class Workspaces {
  readonly #pool: Pool;
  readonly #topology: Pick<NodeTopology, 'datasets'>;
  readonly #ids: Set<string>;
  #stale = true;
  #reading: Promise<void> | null = null;

  constructor(pool: Pool, configured: string, topology: Pick<NodeTopology, 'datasets'>) {
    this.#pool = pool;
    this.#topology = topology;
    this.#ids = new Set([configured]);
  }

  /** Jobs of other workspaces may have come. */
  forget(): void {
    this.#stale = true;
  }

  /** For one read by cursor: parallel arrays with an entry for each partition and workspace. */
  async expand<C extends { readonly partition: PartitionIndex; readonly after: number }>(
    cursors: readonly C[],
  ): Promise<{ partitions: number[]; partitionIds: string[]; after: number[] }> {
    // Also while another reads: a partition that is read without one of its workspaces would leave that one's jobs below its cursor.
    while (this.#stale || this.#reading) {
      this.#reading ??= withDatasets(this.#topology, (datasets) => this.#read(datasets)).finally(() => {
        this.#reading = null;
      });
      await this.#reading;
    }
    const expanded = { partitions: [] as number[], partitionIds: [] as string[], after: [] as number[] };
    for (const { partition, after } of cursors) {
      for (const id of this.#ids) {
        expanded.partitions.push(partition);
        expanded.partitionIds.push(partitionIdOf(id, partition));
        expanded.after.push(after);
      }
    }
    return expanded;
  }

  async #read(datasets: readonly Dataset[]): Promise<void> {
    this.#stale = false; // first: what is forgotten while this reads is read again
    try {
      for (const { prefix, dataset } of datasets) {
        const rows = await this.#pool.query<{ partition_id: string }>(distinctPartitionIds(prefix, dataset));
        for (const { partition_id: id } of rows.rows) {
          const index = partitionIndexOf(id);
          if (index !== null) this.#ids.add(id.slice(0, -`-${index}`.length));
        }
      }
    } catch (error) {
      this.#stale = true;
      throw error;
    }
  }
}
