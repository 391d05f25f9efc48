/** `npm run chaos`. Exit: 0 valid and nothing left over, 1 not, 2 usage, 3 unknown, 4 an operation stays blocked. */
import { EXIT_FAILED, runProgram } from '../program.ts';
import { parseChaosOptions, repeatCommand } from './options.ts';
import { exitCodeOf, summarizeChaos } from './report.ts';
import { runChaos } from './run.ts';

await runProgram({
  name: 'chaos',
  parse: parseChaosOptions,
  async run(options, dataFolder, screen, signal) {
    const { report, kept } = await runChaos(options, dataFolder, screen, signal);
    return { report, summary: summarizeChaos(report), kept, exitCode: exitCodeOf(report) };
  },
  exitOf: () => EXIT_FAILED,
  again: repeatCommand,
});
