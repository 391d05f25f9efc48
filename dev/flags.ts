/** Values of command-line flags of the npm scripts: one clear line for a bad one. */
import { accessSync, constants, existsSync, statSync } from 'node:fs';
import path from 'node:path';
import { InvalidArgumentError } from 'commander';
import { CodedError } from '../kit/errors.ts';
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

const BACKLOGS = { count: 10, jobs: 10_000_000 };

/** Numbers of jobs with commas between, ascending. */
export function backlogs(text: string): number[] {
  const numbers = text.split(',').map(Number);
  const isAscending = numbers.every((n, i) => i === 0 || n > numbers[i - 1]!);
  if (
    !/^\d+(,\d+)*$/.test(text) ||
    !isAscending ||
    numbers[0]! < 1 ||
    numbers.at(-1)! > BACKLOGS.jobs ||
    numbers.length > BACKLOGS.count
  )
    throw new InvalidArgumentError(
      `Expected at most ${BACKLOGS.count} ascending whole numbers from 1 to ${BACKLOGS.jobs}, with commas between.`,
    );
  return numbers;
}

/** Throws USAGE. */
export function assertWritableFile(flag: string, file: string): void {
  try {
    const folder = path.dirname(path.resolve(file));
    accessSync(existsSync(file) ? file : folder, constants.W_OK);
    if (!existsSync(file) || statSync(file).isFile()) return;
  } catch {
    // told below
  }
  throw new CodedError('USAGE', `${flag} ${file}: no file that can be written`);
}
