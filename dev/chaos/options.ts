/** What `npm run chaos -- …` can be asked: its flags (docs/commands.md), checked before anything starts. */
import { randomInt } from 'node:crypto';
import path from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { assertWritableFile, dataplaneOption, type Parsed, parseFlags, whole } from '../flags.ts';
import { type ChaosKind, chaosKinds } from './plan.ts';

export interface ChaosOptions {
  readonly seed: number;
  readonly seconds: number;
  readonly kinds: readonly ChaosKind[];
  readonly rate: number;
  /** Absolute. */
  readonly json?: string;
  readonly keep: boolean;
}

const SEED_MAX = 2 ** 32 - 1;
/** An hour of faults; what is said of two minutes is said of any. */
const SECONDS_MAX = 3_600;
/** Half of what the demo sends: here everything is started again all the time. */
const RATE_DEFAULT = 150;

/** `args` without node and script. Throws USAGE with one clear line. */
export const parseChaosOptions = (args: readonly string[]): Parsed<ChaosOptions> =>
  parseFlags(chaosCommand(), args, chaosOptions);

function chaosOptions({ seed, json, ...raw }: Omit<ChaosOptions, 'seed'> & { seed?: number }): ChaosOptions {
  if (json !== undefined) assertWritableFile('--json', json);
  return { ...raw, seed: seed ?? randomInt(SEED_MAX), ...(json === undefined ? {} : { json: path.resolve(json) }) };
}

/** The command that does the same again. */
export function repeatCommand({ seed, seconds, kinds, rate }: ChaosOptions): string {
  const more = [
    ...(kinds.length === chaosKinds.length ? [] : [`--kinds ${kinds.join(',')}`]),
    ...(rate === RATE_DEFAULT ? [] : [`--rate ${rate}`]),
  ];
  return ['npm run chaos --', `--seed ${seed}`, `--seconds ${seconds}`, ...more].join(' ');
}

function chaosCommand(): Command {
  return new Command('npm run chaos --')
    .description(
      'Kills, stalls and cuts off whatever there is while a cluster is scaled up and down under traffic, then lets it heal and checks every event.',
    )
    .option('--seed <n>', 'the same seed, the same plan (default: any, printed)', whole('a whole number', 0, SEED_MAX))
    .option('--seconds <n>', 'how long faults strike', whole('a whole number', 10, SECONDS_MAX), 120)
    .option('--kinds <list>', `what is hit: ${chaosKinds.join(', ')}`, kindsOf, [...chaosKinds])
    .option('--rate <n>', 'events a second', whole('a whole number', 1, 10_000), RATE_DEFAULT)
    .addOption(dataplaneOption())
    .option('--json <file>', 'write the report there as one JSON object')
    .option('--keep', 'keep the data folder (it is kept anyway where the run has failed)', false)
    .allowExcessArguments(false);
}

function kindsOf(text: string): ChaosKind[] {
  const named = text.split(',');
  const wrong = named.find((name) => !chaosKinds.some((kind) => kind === name));
  if (wrong !== undefined) throw new InvalidArgumentError(`Expected some of ${chaosKinds.join(', ')}.`);
  return chaosKinds.filter((kind) => named.includes(kind)); // in their own order: `a,b` is `b,a`
}
