/** Values of command-line flags of the npm scripts: one clear line for a bad one. */
import { accessSync, constants, existsSync, statSync } from 'node:fs';
import path from 'node:path';
import { type Command, CommanderError, InvalidArgumentError, Option } from 'commander';
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

export type Parsed<Options> =
  | { readonly kind: 'run'; readonly options: Options }
  | { readonly kind: 'help'; readonly text: string };

/** `args` without node and script; what they mean together is checked by `optionsOf`. Throws USAGE with one clear line. */
export function parseFlags<Flags, Options>(
  command: Command,
  args: readonly string[],
  optionsOf: (flags: Flags) => Options,
): Parsed<Options> {
  let printed = '';
  command.exitOverride().configureOutput({
    writeOut: (text) => {
      printed += text;
    },
    writeErr: () => {},
  });
  try {
    command.parse([...args], { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.code === 'commander.helpDisplayed') return { kind: 'help', text: printed };
    throw usage(error.message.replace(/^error: /, '').replaceAll(/\s*\n\s*/g, ' '));
  }
  const { dataplane, ...flags } = command.opts() as { dataplane: string };
  if (dataplane !== 'reference') throw usage(`--dataplane ${dataplane}: not built yet`);
  return { kind: 'run', options: optionsOf(flags as Flags) };
}

/** Of every command that `parseFlags` reads. */
export const dataplaneOption = (): Option =>
  new Option('--dataplane <kind>', 'kind of nodes')
    .choices(['reference', 'rudder-fenced', 'rudder-native'])
    .default('reference');

export const usage = (message: string): CodedError => new CodedError('USAGE', message);

/** Throws USAGE. */
export function assertWritableFile(flag: string, file: string): void {
  try {
    const folder = path.dirname(path.resolve(file));
    accessSync(existsSync(file) ? file : folder, constants.W_OK);
    if (!existsSync(file) || statSync(file).isFile()) return;
  } catch {
    // told below
  }
  throw usage(`${flag} ${file}: no file that can be written`);
}
