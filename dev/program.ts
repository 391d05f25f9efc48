/** What `npm run demo` and `npm run chaos` are as programs: flags checked before anything starts, a data folder, a report, one way to end. */
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { CodedError, describeError } from '../kit/errors.ts';
import { endWithParent, onStopSignal } from '../kit/parent.ts';
import { dataRoot } from '../platform/local/places.ts';
import { Screen } from './demo/screen.ts';
import type { Parsed } from './flags.ts';

export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;
const EXIT_STOPPED = 130;

export interface Ran {
  readonly report: object;
  /** For people. */
  readonly summary: string;
  /** Where the data lies, if it was kept. */
  readonly kept: string | null;
  readonly exitCode: number;
  /** What kept the run from its end, if it is told apart from the report. */
  readonly trouble?: unknown;
}

export interface Program<Options extends { readonly json?: string }> {
  readonly name: string;
  /** Throws USAGE. */
  readonly parse: (args: readonly string[]) => Parsed<Options>;
  readonly run: (options: Options, dataFolder: string, screen: Screen, signal: AbortSignal) => Promise<Ran>;
  /** Of a run that threw. */
  readonly exitOf: (error: unknown) => number;
  /** The command that does the same again, told where a run threw. */
  readonly again?: (options: Options) => string;
}

/** Runs it to its end, and ends the process. */
export async function runProgram<Options extends { readonly json?: string }>(
  program: Program<Options>,
): Promise<never> {
  process.exit(await exitCodeOf(program));
}

async function exitCodeOf<Options extends { readonly json?: string }>(program: Program<Options>): Promise<number> {
  const { name } = program;
  const parsed = parse(program);
  if (parsed.kind === 'help') {
    process.stdout.write(parsed.text);
    return 0;
  }
  const { options } = parsed;
  const dataFolder = path.join(dataRoot(), `${name}-${process.pid}`);
  const stopping = new AbortController();
  const screen = new Screen(process.stdout);
  const { promise: ended, resolve: done } = Promise.withResolvers<void>();
  endWithParent(() => {
    stopping.abort();
    return ended;
  });
  onStopSignal(() => {
    screen.say('· Ctrl-C: stopping everything that was started (again: at once)');
    stopping.abort();
  });
  try {
    const { report, summary, kept, exitCode, trouble } = await program.run(
      options,
      dataFolder,
      screen,
      stopping.signal,
    );
    if (options.json) await writeFile(options.json, `${JSON.stringify(report, null, 2)}\n`);
    process.stdout.write(summary);
    if (options.json) screen.say(`report: ${options.json}`);
    if (kept) screen.say(`data and logs are kept in ${kept}`);
    if (trouble) process.stderr.write(`${name}: ${describeError(trouble)}\n`);
    return exitCode;
  } catch (error) {
    if (stopping.signal.aborted) return EXIT_STOPPED;
    process.stderr.write(`${name}: ${describeError(error)}\n`);
    if (program.again) process.stderr.write(`again: ${program.again(options)}\n`);
    if (existsSync(dataFolder)) process.stderr.write(`data and logs are kept in ${dataFolder}\n`);
    return program.exitOf(error);
  } finally {
    done();
  }
}

function parse<Options extends { readonly json?: string }>({ name, parse }: Program<Options>): Parsed<Options> {
  try {
    return parse(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`${name}: ${error instanceof CodedError ? error.message : describeError(error)}\n`);
    process.exit(EXIT_USAGE);
  }
}
