/** The `ringmaster` command: what can be typed, and how it ends. */
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { CodedError, describeError } from '../../kit/errors.ts';
import { VERIFY_SAMPLES_MAX } from '../../workflows/messages.ts';
import { bytesPerSecond, getLimits, type LimitsOptions, numberOrDefault, setLimits } from './commands/limits.ts';
import { log, operations, showCluster, showRing, status } from './commands/look.ts';
import { activate, type DrainOptions, drain, type ForgetOptions, forget } from './commands/node.ts';
import { type RepairOptions, repairRing } from './commands/repair.ts';
import { plan, type ScaleOptions, scale } from './commands/scale.ts';
import { type Steering, type SteerOptions, steer, steering, type UndoOptions, undo } from './commands/steer.ts';
import { type VerifyOptions, verify } from './commands/verify.ts';
import { type Context, type GlobalOptions, openContext } from './context.ts';
import { type ExitCode, exitCodeOfError, exitCodes } from './exit-codes.ts';
import type { Surroundings } from './surroundings.ts';
import { plain } from './text.ts';

const EPILOGUE = `
Reads RINGMASTER_URL and RINGMASTER_TOKEN, or finds what \`npm start\` has left.
Exit: 0 done, 1 failed, 2 usage, 3 unknown, 4 blocked.`;

/** Runs one command line. Never throws: an error is one clear line on standard error and an exit code. */
export async function runCommand(args: readonly string[], surroundings: Surroundings): Promise<ExitCode> {
  let exitCode: ExitCode = exitCodes.done;
  const program = createProgram(surroundings, (code) => {
    exitCode = code;
  });
  try {
    await program.parseAsync([...args], { from: 'user' });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return endOfCommander(error);
    surroundings.stderr.write(`${plain(describeError(error))}\n`);
    if (
      !(error instanceof CodedError) &&
      surroundings.env['RINGMASTER_LOG_LEVEL'] === 'debug' &&
      error instanceof Error
    ) {
      surroundings.stderr.write(`${error.stack}\n`);
    }
    return exitCodeOfError(error);
  }
}

/** Help that was asked for is a success; what commander refuses it has said already. */
function endOfCommander({ code }: CommanderError): ExitCode {
  return code === 'commander.helpDisplayed' ? exitCodes.done : exitCodes.usage;
}

function createProgram(surroundings: Surroundings, end: (code: ExitCode) => void): Command {
  const program = new Command('ringmaster');
  /** An action of commander, with the context opened for it. */
  const command = (run: (context: Context, command: Command) => Promise<ExitCode>) =>
    async function action(this: Command): Promise<void> {
      end(await run(await openContext(surroundings, program.opts<GlobalOptions>()), this));
    };

  program
    .description("Scales clusters of event nodes safely: nothing lost, every user's events in order.")
    .exitOverride()
    .configureOutput({
      writeOut: (text) => surroundings.stdout.write(text),
      writeErr: (text) => surroundings.stderr.write(text),
      outputError: (text, write) =>
        write(
          `USAGE: ${text
            .replace(/^error: /, '')
            .trim()
            .replaceAll('\n', ' ')} (see ringmaster --help)\n`,
        ),
    })
    .option('--cluster <name>', 'which cluster; not needed where there is one')
    .option('--json', 'print data')
    .option('--yes', 'ask nothing')
    .option('--reason <text>', 'why, for the log')
    .addHelpText('after', EPILOGUE);

  const to = () => new Option('--to <n>', 'number of nodes').argParser(wholeNumber(1)).makeOptionMandatory();
  program
    .command('plan')
    .description('show how the cluster would be scaled')
    .addOption(to())
    .action(command((context, self) => plan(context, self.opts<{ to: number }>())));
  program
    .command('scale')
    .description('scale the cluster')
    .addOption(to())
    .option('--dry-run', 'show the plan, start nothing')
    .option('--plan-hash <hash>', 'only if this is still the plan')
    .option('--wait', 'show the progress until it ends or is blocked')
    .option('--delete-volumes', 'delete the volumes of nodes that leave (default: they are kept)')
    .action(command((context, self) => scale(context, self.opts<ScaleOptions>())));
  program
    .command('status')
    .description('the cluster, and its running or last operation')
    .option('--watch', 'again and again, until Ctrl-C')
    .action(command((context, self) => status(context, self.opts<{ watch?: boolean }>())));
  program
    .command('operations')
    .description('operations, the newest first')
    .addOption(new Option('--limit <n>', 'how many').argParser(wholeNumber(1, 200)).default(20))
    .action(command((context, self) => operations(context, self.opts<{ limit: number }>())));
  for (const [name, description] of Object.entries(steering)) {
    const one = program.command(name).description(description).argument('<operation>', 'its id, or a unique beginning');
    if (name === 'retry')
      one.option(
        '--accept-difference',
        'complete the move whose sides differ; needs --reason, and stays in every report',
      );
    one.action(async function action(this: Command, operation: string) {
      const context = await openContext(surroundings, program.opts<GlobalOptions>());
      end(await steer(context, name as Steering, operation, this.opts<SteerOptions>()));
    });
  }
  program
    .command('undo')
    .description('move back what an operation has moved, also while it runs')
    .argument('<operation>', 'its id, or a unique beginning of it')
    .option('--dry-run', 'show the plan, start nothing')
    .option('--plan-hash <hash>', 'of an operation that has ended: only if this is still the plan')
    .option('--wait', 'show the progress until it ends or is blocked')
    .action(async function action(this: Command, operation: string) {
      const context = await openContext(surroundings, program.opts<GlobalOptions>());
      end(await undo(context, operation, this.opts<UndoOptions>()));
    });
  program
    .command('verify')
    .description('is the cluster as it should be; is what moves took along the same on both sides')
    .option('--operation <id>', "this operation's certificates; with --full: only its moves")
    .option('--full', 'compare row by row what moves took along')
    .addOption(
      new Option('--samples <n>', 'how many differences to name').argParser(wholeNumber(1, VERIFY_SAMPLES_MAX)),
    )
    .option('--resume', 'with --full: go on from where the last one was stopped')
    .option('--watch', 'look at the --full that is under way, or at the last one')
    .option('--stop', 'stop the --full that is under way')
    .option('--verbose', 'certificates with each partition')
    .action(command((context, self) => verify(context, self.opts<VerifyOptions>())));
  program
    .command('log')
    .description("the ring's events")
    .option('--follow', 'then each one as it comes, until Ctrl-C')
    .addOption(new Option('--last <n>', 'how many of the past').argParser(wholeNumber(0)).default(50))
    .action(command((context, self) => log(context, self.opts<{ last: number; follow?: boolean }>())));
  const ring = program
    .command('ring')
    .description('which node owns which partitions')
    .addOption(new Option('--at <version>', 'as it was at this version').argParser(wholeNumber(1)))
    .action(command((context, self) => showRing(context, self.opts<{ at?: number }>())));
  ring
    .command('repair')
    .description('give a ring store from an older backup what nodes and routers have seen')
    .option('--set-aside', 'take events out of the log that came into it since, and that no node has seen')
    .option('--without <node...>', 'go on although these nodes do not answer, and never will')
    .action(command((context, self) => repairRing(context, self.opts<RepairOptions>())));
  const limits = program.command('limits').description('how fast moves may go');
  limits
    .command('get')
    .description('the limits in force, and who set them')
    .action(command((context) => getLimits(context)));
  limits
    .command('set')
    .description('set limits, also of moves that run; default takes one back')
    .addOption(new Option('--bytes-per-second <rate>', 'of one move, such as 20MB, or none').argParser(bytesPerSecond))
    .addOption(
      new Option('--brake <on|off>', 'whether a move slows down where it hurts').choices(['on', 'off', 'default']),
    )
    .addOption(new Option('--commit-ms <n>', "threshold of the brake: a node's commits").argParser(numberOrDefault))
    .addOption(new Option('--queue-delay-ms <n>', 'threshold of the brake: waiting jobs').argParser(numberOrDefault))
    .addOption(new Option('--moves-per-node <n>', 'moves at a time from or to a node').argParser(numberOrDefault))
    .action(command((context, self) => setLimits(context, self.opts<LimitsOptions>())));
  const node = program.command('node').description('one node of the cluster');
  node
    .command('drain')
    .description('move all that it has to the others, and give it nothing until it is activated; it stays a member')
    .argument('<node>', 'such as node-1')
    .option('--dry-run', 'show the plan, start nothing')
    .option('--plan-hash <hash>', 'only if this is still the plan')
    .option('--wait', 'show the progress until it ends or is blocked')
    .action(async function action(this: Command, name: string) {
      const context = await openContext(surroundings, program.opts<GlobalOptions>());
      end(await drain(context, name, this.opts<DrainOptions>()));
    });
  node
    .command('forget')
    .description('give up a node that never comes back: its partitions go to the others, what it holds is lost')
    .argument('<node>', 'such as node-1')
    .option('--accept-loss', 'needed, and so is --reason')
    .option('--wait', 'show the progress until it ends or is blocked')
    .action(async function action(this: Command, name: string) {
      const context = await openContext(surroundings, program.opts<GlobalOptions>());
      end(await forget(context, name, this.opts<ForgetOptions>()));
    });
  node
    .command('activate')
    .description('after a drain: the next operation gives it its share')
    .argument('<node>', 'such as node-1')
    .action(async (name: string) => {
      end(await activate(await openContext(surroundings, program.opts<GlobalOptions>()), name));
    });
  const cluster = program.command('cluster').description('clusters');
  cluster
    .command('show')
    .description('nodes, partitions, freeze')
    .action(command((context) => showCluster(context)));
  return program;
}

function wholeNumber(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && Number.isSafeInteger(value) && value >= min && value <= max) return value;
    const upTo = max === Number.MAX_SAFE_INTEGER ? '' : ` to ${max}`;
    throw new InvalidArgumentError(`It must be a whole number from ${min}${upTo}.`);
  };
}
