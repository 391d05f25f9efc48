/** `npm run demo`. Exit: 0 valid, 1 invalid or failed, 2 usage, 3 unknown. */
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { CodedError, describeError } from '../../kit/errors.ts';
import { endWithParent, onStopSignal } from '../../kit/parent.ts';
import { dataRoot } from '../../platform/local/places.ts';
import { type ParsedDemo, parseDemoOptions } from './options.ts';
import { runDemo } from './run.ts';
import { Screen } from './screen.ts';
import { summarize } from './summary.ts';

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
const exitOf = { valid: 0, invalid: 1, unknown: 3 } as const;

function parse(): ParsedDemo {
  try {
    return parseDemoOptions(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`demo: ${error instanceof CodedError ? error.message : describeError(error)}\n`);
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
  const dataFolder = path.join(dataRoot(), `demo-${process.pid}`);
  const stopping = new AbortController();
  const screen = new Screen(process.stdout);
  let done = (): void => {};
  const ended = new Promise<void>((resolve) => {
    done = resolve;
  });
  endWithParent(() => {
    stopping.abort();
    return ended;
  });
  onStopSignal(() => {
    screen.say('· Ctrl-C: stopping everything that was started (again: at once)');
    stopping.abort();
  });
  try {
    const { report, trouble, kept } = await runDemo(options, dataFolder, screen, stopping.signal);
    if (options.json) await writeFile(options.json, `${JSON.stringify(report, null, 2)}\n`);
    process.stdout.write(summarize(report));
    if (options.json) screen.say(`report: ${options.json}`);
    if (kept) screen.say(`data and logs are kept in ${kept}`);
    if (trouble) process.stderr.write(`demo: ${describeError(trouble)}\n`);
    return exitOf[report.verdict] || (trouble ? EXIT_FAILED : 0);
  } catch (error) {
    if (stopping.signal.aborted) return 130;
    process.stderr.write(`demo: ${describeError(error)}\n`);
    if (existsSync(dataFolder)) process.stderr.write(`data and logs are kept in ${dataFolder}\n`);
    return error instanceof CodedError && error.code === 'INPUT_INVALID' ? EXIT_USAGE : EXIT_FAILED;
  } finally {
    done();
  }
}

process.exit(await main());
