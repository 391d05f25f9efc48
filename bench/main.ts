/** `npm run bench -- NAME`: benchmarks, each with a report (docs/commands.md). Never timed tests: machines are noisy. */
import { writeFile } from 'node:fs/promises';
import { Command } from 'commander';
import { backlogs, partitionCount, whole } from '../dev/flags.ts';
import { describeError } from '../kit/errors.ts';

const program = new Command('npm run bench --')
  .description('Measures one thing and reports it.')
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));

program
  .command('copy')
  .description('the copy of one move, by us and by psql COPY | psql COPY')
  .option('--rows <n>', 'rows that move', whole('a whole number', 1_000, 10_000_000), 600_000)
  .option('--rounds <n>', 'rounds, in each of which all take their turn', whole('a whole number', 1, 100), 5)
  .option('--big', 'afterwards one move of ten times the rows, for the memory it takes', false)
  .option('--json <file>', 'write the report there')
  .action(async ({ rows, rounds, big, json }: { rows: number; rounds: number; big: boolean; json?: string }) => {
    const { benchCopy } = await import('./copy.ts');
    await report(await benchCopy({ rows, rounds, big }), json);
  });

program
  .command('pause')
  .description('the pauses of a cut-over, under traffic, by how much is pending in the partitions that move')
  .option('--backlogs <list>', 'pending jobs, ascending', backlogs, [1_000, 100_000, 1_000_000])
  .option('--moves <n>', 'moves at each backlog, there and back', whole('an even number', 2, 100), 10)
  .option('--rate <n>', 'events a second', whole('a whole number', 10, 10_000), 300)
  .option('--json <file>', 'write the report there')
  .action(
    async ({ backlogs, moves, rate, json }: { backlogs: number[]; moves: number; rate: number; json?: string }) => {
      const { benchPause } = await import('./pause.ts');
      await report(await benchPause({ backlogs, moves: moves + (moves % 2), rate }), json);
    },
  );

program
  .command('impact')
  .description('what a move takes from live traffic, and what the brake costs the move')
  .option('--rows <n>', 'pending jobs that move', whole('a whole number', 1_000, 10_000_000), 300_000)
  .option('--moves <n>', 'moves, half of them with the brake on', whole('an even number', 2, 100), 4)
  .option('--rate <n>', 'events a second', whole('a whole number', 10, 10_000), 300)
  .option('--json <file>', 'write the report there')
  .action(async ({ rows, moves, rate, json }: { rows: number; moves: number; rate: number; json?: string }) => {
    const { benchImpact } = await import('./impact.ts');
    await report(await benchImpact({ rows, moves: moves + (moves % 2), rate }), json);
  });

program
  .command('router')
  .description('the router and nginx as a proxy, each on one core, with the same back ends and the same load')
  .option('--seconds <n>', 'of each measurement', whole('a whole number', 1, 600), 10)
  .option('--rounds <n>', 'rounds, in each of which all take their turn', whole('a whole number', 1, 100), 5)
  .option('--json <file>', 'write the report there')
  .action(async ({ seconds, rounds, json }: { seconds: number; rounds: number; json?: string }) => {
    const { benchRouter } = await import('./router.ts');
    await report(await benchRouter({ seconds, rounds }), json);
  });

program
  .command('plan')
  .description('the planner: from --nodes nodes to one more')
  .option('--partitions <n>', 'partitions of the ring', partitionCount, 65_536)
  .option('--nodes <n>', 'nodes before', whole('a whole number', 1, 60_000), 1_000)
  .option('--json <file>', 'write the report there')
  .action(async ({ partitions, nodes, json }: { partitions: number; nodes: number; json?: string }) => {
    const { benchPlan } = await import('./plan.ts');
    await report(benchPlan(partitions, nodes), json);
  });

program
  .command('scale')
  .description('a whole operation with empty queues, on the embedded stack')
  .option('--partitions <n>', 'partitions of the ring', partitionCount, 1_024)
  .option('--from <n>', 'nodes before', whole('a whole number', 1, 20), 4)
  .option('--to <n>', 'nodes after', whole('a whole number', 1, 20), 5)
  .option('--json <file>', 'write the report there')
  .action(async ({ partitions, from, to, json }: { partitions: number; from: number; to: number; json?: string }) => {
    const { benchScale } = await import('./scale.ts');
    await report(await benchScale({ partitions, from, to }), json);
  });

try {
  await program.parseAsync();
} catch (error) {
  process.stderr.write(`${describeError(error)}\n`);
  process.exit(1);
}

async function report(result: object, file: string | undefined): Promise<void> {
  for (const [name, value] of Object.entries(result))
    process.stdout.write(`${name.padEnd(16)} ${typeof value === 'object' ? JSON.stringify(value) : value}\n`);
  if (file) await writeFile(file, `${JSON.stringify(result, null, 2)}\n`);
}
