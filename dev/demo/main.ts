/** `npm run demo`. Exit: 0 valid, 1 invalid or failed, 2 usage, 3 unknown. */
import { CodedError } from '../../kit/errors.ts';
import { EXIT_FAILED, EXIT_USAGE, runProgram } from '../program.ts';
import { parseDemoOptions } from './options.ts';
import { runDemo } from './run.ts';
import { summarize } from './summary.ts';

const exitOfVerdict = { valid: 0, invalid: 1, unknown: 3 } as const;

await runProgram({
  name: 'demo',
  parse: parseDemoOptions,
  async run(options, dataFolder, screen, signal) {
    const { report, trouble, kept } = await runDemo(options, dataFolder, screen, signal);
    const exitCode = exitOfVerdict[report.verdict] || (trouble ? EXIT_FAILED : 0);
    return { report, summary: summarize(report), kept, exitCode, trouble };
  },
  exitOf: (error) => (error instanceof CodedError && error.code === 'INPUT_INVALID' ? EXIT_USAGE : EXIT_FAILED),
});
