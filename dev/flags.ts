/** Values of command-line flags of the npm scripts: one clear line for a bad one. */
import { InvalidArgumentError } from 'commander';
import { isPartitionCount, PARTITION_COUNT_MAX } from '../ring/partition.ts';

export function whole(what: string, min: number, max: number): (text: string) => number {
  return (text) => {
    const n = Number(text);
    if (!/^\d+$/.test(text) || n < min || n > max)
      throw new InvalidArgumentError(
        `Expected ${what} from ${min}${max < Number.MAX_SAFE_INTEGER ? ` to ${max}` : ''}.`,
      );
    return n;
  };
}

export function partitionCount(text: string): number {
  const n = Number(text);
  if (!/^\d+$/.test(text) || !isPartitionCount(n))
    throw new InvalidArgumentError(`Expected a power of two from 1 to ${PARTITION_COUNT_MAX}.`);
  return n;
}
