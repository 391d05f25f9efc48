/** What `npm run demo -- …` can be asked: its flags (docs/commands.md), checked before anything starts. */
import { accessSync, constants, statSync } from 'node:fs';
import path from 'node:path';
import { Command, Option } from 'commander';
import { PARTITION_COUNT_DEFAULT } from '../../ring/partition.ts';
import {
  assertWritableFile,
  dataplaneOption,
  type Parsed,
  parseFlags,
  partitionCount,
  usage,
  whole,
} from '../flags.ts';

export interface DemoOptions {
  readonly nodes: number;
  readonly to: readonly number[];
  readonly partitions: number;
  /** Undefined: made-up users. */
  readonly input?: string;
  readonly userField: string;
  readonly events?: number;
  readonly rate: number;
  /** Undefined: as slow as it takes for a backlog to be there. */
  readonly destinationMs?: number;
  /** Of deliveries, one in so many is answered 500. Undefined: none. */
  readonly failOneIn?: number;
  readonly seed: number;
  readonly platform: 'local' | 'kubernetes';
  /** Pods, or processes of this machine, that are killed while partitions move. Undefined: none. */
  readonly killPods?: number;
  /** Absolute. */
  readonly json?: string;
  readonly keep: boolean;
}

/** Node processes, each with its PostgreSQL, that one machine can be asked to run. */
const NODES_MAX = 32;
/** What two cores carry with everything else beside it (docs/limits.md). */
const RATE_DEFAULT = 300;
const RATE_MAX = 100_000;
/** More, and an operation would not come to its moves between them. */
export const KILLS_PER_OPERATION_MAX = 10;

/** `args` without node and script. Throws USAGE with one clear line. */
export const parseDemoOptions = (args: readonly string[]): Parsed<DemoOptions> =>
  parseFlags(demoCommand(), args, demoOptions);

function demoOptions(raw: DemoOptions): DemoOptions {
  assertKillsFit(raw);
  const most = Math.max(raw.nodes, ...raw.to);
  if (most > raw.partitions)
    throw usage(`--partitions ${raw.partitions}: ${most} nodes cannot share fewer partitions than nodes`);
  if (raw.events !== undefined && raw.input === undefined) throw usage('--events needs --input');
  if (raw.input !== undefined) assertReadableFile(raw.input);
  if (raw.json !== undefined) assertWritableFile('--json', raw.json);
  return { ...raw, ...(raw.json === undefined ? {} : { json: path.resolve(raw.json) }) };
}

function demoCommand(): Command {
  return new Command('npm run demo --')
    .description(
      'Scales a cluster of real nodes under live traffic, checks every event at the destination, prints a report, stops.',
    )
    .option('--nodes <n>', 'nodes at the start', whole('a whole number', 1, NODES_MAX), 2)
    .option('--to <sizes>', 'sizes to scale to, one after the other', sizes, [3, 2])
    .option('--partitions <n>', 'partitions of the ring, a power of two', partitionCount, PARTITION_COUNT_DEFAULT)
    .option(
      '--input <file>',
      'newline-delimited JSON, also .gz, one event a line (default: made-up users, heavy-tailed)',
    )
    .option('--user-field <field>', "the input's field that becomes userId", 'user')
    .option('--events <n>', 'first n lines of the input only', whole('a whole number', 1, Number.MAX_SAFE_INTEGER))
    .option('--rate <n>', 'events a second', whole('a whole number', 1, RATE_MAX), RATE_DEFAULT)
    .option(
      '--fail-one-in <n>',
      'one in so many deliveries is answered 500, and tried again',
      whole('a whole number', 2, 1_000_000),
    )
    .option(
      '--destination-ms <n>',
      'how long the destination takes to answer (default: so slow that a backlog is always there to move)',
      whole('milliseconds', 0, 60_000),
    )
    .option(
      '--seed <n>',
      'seed of the made-up users and of the mix of requests',
      whole('a whole number', 0, 2 ** 32 - 1),
      1,
    )
    .addOption(
      new Option(
        '--platform <name>',
        'where nodes run: processes of this machine, or pods that the chart makes in a Kubernetes API server of its own',
      )
        .choices(['local', 'kubernetes'])
        .default('local'),
    )
    .addOption(dataplaneOption())
    .option(
      '--kill-pods <n>',
      `kill so many backends, PostgreSQL servers and workers while partitions move, in an order made from the seed: on Kubernetes pods, else processes (at most ${KILLS_PER_OPERATION_MAX} for each operation)`,
      whole('a whole number', 1, Number.MAX_SAFE_INTEGER),
    )
    .option('--json <file>', 'write the report there as one JSON object')
    .option('--keep', 'keep the data folder (it is kept anyway where the verdict is not valid)', false)
    .allowExcessArguments(false);
}

/** Kills come while partitions move, so only operations that move some count. */
function assertKillsFit({ killPods, nodes, to }: DemoOptions): void {
  if (killPods === undefined) return;
  const moving = to.filter((size, nth) => size !== (to[nth - 1] ?? nodes)).length;
  const most = moving * KILLS_PER_OPERATION_MAX;
  if (killPods > most)
    throw usage(
      `--kill-pods ${killPods}: at most ${most}, ${KILLS_PER_OPERATION_MAX} for each size of --to that is a change`,
    );
}

function sizes(text: string): number[] {
  return text.split(',').map(whole('whole numbers with commas between, each', 1, NODES_MAX));
}

function assertReadableFile(file: string): void {
  try {
    accessSync(file, constants.R_OK);
    if (statSync(file).isFile()) return;
  } catch {
    // told below
  }
  throw usage(`--input ${file}: no file that can be read`);
}
