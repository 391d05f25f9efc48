/** `npm run chaos`. Exit: 0 valid and nothing left over, 1 not, 2 usage, 3 unknown, 4 an operation stays blocked. */
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { CodedError, describeError } from '../../kit/errors.ts';
import { endWithParent, onStopSignal } from '../../kit/parent.ts';
import { dataRoot } from '../../platform/local/places.ts';
import { Screen } from '../demo/screen.ts';
import { type ParsedChaos, parseChaosOptions, repeatCommand } from './options.ts';
import { exitCodeOf, summarizeChaos } from './report.ts';
import { runChaos } from './run.ts';

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
const EXIT_STOPPED = 130;

function parse(): ParsedChaos {
  try {
    return parseChaosOptions(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`chaos: ${error instanceof CodedError ? error.message : describeError(error)}\n`);
    process.exit(EXIT_USAGE);
  }
}

async function main(): Promise<number> {
  const parsed = parse();
  if (parsed.kind === 'help') {
    process.stdout.write(parsed.text);
    return 0;
  }
  const { options } = parsed;
  const dataFolder = path.join(dataRoot(), `chaos-${process.pid}`);
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
    const { report, kept } = await runChaos(options, dataFolder, screen, stopping.signal);
    if (options.json) await writeFile(options.json, `${JSON.stringify(report, null, 2)}\n`);
    process.stdout.write(summarizeChaos(report));
    if (options.json) screen.say(`report: ${options.json}`);
    if (kept) screen.say(`data and logs are kept in ${kept}`);
    return exitCodeOf(report);
  } catch (error) {
    if (stopping.signal.aborted) return EXIT_STOPPED;
    process.stderr.write(`chaos: ${describeError(error)}\nagain: ${repeatCommand(options)}\n`);
    if (existsSync(dataFolder)) process.stderr.write(`data and logs are kept in ${dataFolder}\n`);
    return EXIT_FAILED;
  } finally {
    done();
  }
}

process.exit(await main());
