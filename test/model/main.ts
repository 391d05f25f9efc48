/**
 * `node test/model/main.ts`: explores every scenario and prints what it saw. `--bug NAME`: plants that bug and prints its counterexample, a step a line.
 * Exit: 0 every promise holds, or the planted bug was found; 1 not so; 2 usage.
 */
import { Command } from 'commander';
import { explore } from './explore.ts';
import { Protocol } from './protocol.ts';
import { planted, scenarios } from './scenarios.ts';
import { tellBounds, tellExploration } from './tell.ts';

const program = new Command('model')
  .description('The move protocol, explored exhaustively.')
  .option('--bug <name>', 'plant this bug (a part of its name is enough)')
  .option('--only <name>', 'this scenario (a part of its name is enough)')
  .option('--list', 'the names of scenarios and bugs')
  .parse();
const { bug, only, list } = program.opts<{ bug?: string; only?: string; list?: boolean }>();
const say = (line: string): void => void process.stdout.write(`${line}\n`);

if (list) {
  for (const { name, bounds } of scenarios) say(`scenario  ${name}: ${tellBounds(bounds)}`);
  for (const { name } of planted) say(`bug       ${name}`);
} else if (bug !== undefined) {
  const found = planted.find(({ name }) => name.includes(bug));
  if (!found) program.error(`no bug '${bug}'; --list names them`, { exitCode: 2 });
  const { name, bugs, bounds } = found!;
  say(`${name}: ${tellBounds(bounds)}`);
  const { counterexample } = explore(new Protocol(bounds, bugs));
  for (const [n, line] of (counterexample?.trace ?? []).entries()) say(`${String(n + 1).padStart(3)}  ${line}`);
  say(counterexample?.broken ?? 'not found');
  process.exitCode = counterexample ? 0 : 1;
} else {
  for (const { name, bounds } of scenarios.filter((one) => one.name.includes(only ?? ''))) {
    const exploration = explore(new Protocol(bounds));
    say(`${name}: ${tellBounds(bounds)}\n  ${tellExploration(exploration)}`);
    const { counterexample } = exploration;
    if (!counterexample) continue;
    for (const line of counterexample.trace) say(`  ${line}`);
    say(`  ${counterexample.broken}`);
    process.exitCode = 1;
  }
}
