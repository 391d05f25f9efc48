/**
 * The datasets that this node reads and writes, as all its parts share them.
 *
 * What holds:
 *   - a list that was read earlier never replaces one that was read later;
 *   - a dataset is out of the list before it is dropped (dataset-keeper.ts): who meets a missing table has an older list than the one that is here.
 */
import type { Pool } from 'pg';
import type { Dataset } from '../jobsdb/sql/datasets.ts';
import { type Prefix, prefixes } from '../jobsdb/sql/schema.ts';
import { attachedDatasets } from '../jobsdb/stale.ts';
import { codeOf } from '../kit/errors.ts';

export class DatasetList {
  readonly #pool: Pool;
  readonly #leaving = new Set<string>();
  #datasets: readonly Dataset[] = [];
  #reading: Promise<unknown> = Promise.resolve();
  #changes = 0;

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  /** Of all prefixes, ascending; the last one of a prefix without a move is where its new jobs go. A new array whenever it changes. */
  current(): readonly Dataset[] {
    return this.#datasets;
  }

  /** Reads it anew. One reading at a time. */
  read(): Promise<void> {
    const mine = this.#reading.then(async () => {
      for (let changes = -1; changes !== this.#changes; ) {
        changes = this.#changes; // what was attached meanwhile may not be in what this reads
        const datasets = await attachedDatasets(this.#pool);
        if (changes === this.#changes)
          this.#datasets = datasets.filter((dataset) => !this.#leaving.has(keyOf(dataset)));
      }
    });
    this.#reading = mine.catch(() => undefined);
    return mine;
  }

  /** These were attached just now. */
  attached(datasets: readonly Dataset[]): void {
    if (datasets.length === 0) return;
    this.#changes += 1;
    const known = new Set(datasets.map(keyOf));
    this.#datasets = [...this.#datasets.filter((dataset) => !known.has(keyOf(dataset))), ...datasets].sort(
      (a, b) => prefixOrder(a) - prefixOrder(b) || a.dataset - b.dataset,
    );
  }

  /** Runs `drop` with `dataset` out of the list, and reads the list anew. */
  async without<T>(dataset: Dataset, drop: () => Promise<T>): Promise<T> {
    const key = keyOf(dataset);
    this.#leaving.add(key);
    this.#datasets = this.#datasets.filter((other) => keyOf(other) !== key);
    try {
      return await drop();
    } finally {
      this.#leaving.delete(key);
      await this.read();
    }
  }
}

const prefixOrder = ({ prefix }: Dataset): number => prefixes.indexOf(prefix);

export const keyOf = ({ prefix, dataset }: Pick<Dataset, 'prefix' | 'dataset'>): string => `${prefix} ${dataset}`;

/** A table that is not there. */
export const isMissingTable = (error: unknown): boolean => codeOf(error) === '42P01';

/**
 * Runs `use` with the datasets as they are listed; again with the newer list where one of the older has gone meanwhile. Nothing of the first run may
 * have happened then: a statement, or a transaction that is rolled back.
 */
export async function withDatasets<T>(
  topology: { datasets(): readonly Dataset[] },
  use: (datasets: readonly Dataset[]) => Promise<T>,
): Promise<T> {
  for (;;) {
    const datasets = topology.datasets();
    try {
      return await use(datasets);
    } catch (error) {
      if (!isMissingTable(error) || topology.datasets() === datasets) throw error;
    }
  }
}

/** Where new jobs of a prefix go. */
export function liveDataset(datasets: readonly Dataset[], prefix: Prefix): Dataset {
  const live = datasets.findLast((dataset) => dataset.prefix === prefix && dataset.move === null);
  if (!live) throw new Error('the list of datasets is not known yet');
  return live;
}
