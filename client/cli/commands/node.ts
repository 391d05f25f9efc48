/** `node drain`, `node activate`, `node forget`. */
import { CodedError } from '../../../kit/errors.ts';
import type { ActivateAnswer, ActivateRequest, DrainRequest, ForgetRequest, OperationAnswer } from '../../api-types.ts';
import type { Context } from '../context.ts';
import { type ExitCode, exitCodes } from '../exit-codes.ts';
import { planLines } from '../show.ts';
import { postOnce, showStarted } from './starting.ts';

export interface DrainOptions {
  readonly dryRun?: boolean;
  readonly planHash?: string;
  readonly wait?: boolean;
}

/** All that the node has goes to the others; it stays a member, and is given nothing until it is activated. */
export async function drain(context: Context, node: string, options: DrainOptions): Promise<ExitCode> {
  const { terminal } = context;
  let { planHash } = options;
  if (options.dryRun) return showDrain(context, node, await askToDrain(context, node, options));
  if (terminal.surroundings.asksPeople && !context.options.yes) {
    const seen = await askToDrain(context, node, { planHash, dryRun: true });
    if (seen.result === 'plan') {
      showDrain(context, node, seen);
      if (!(await terminal.agrees(`Drain ${node}?`))) return exitCodes.failed;
      planHash = seen.plan.hash;
    }
  }
  const answer = await askToDrain(context, node, { planHash });
  if (answer.result !== 'started') return showDrain(context, node, answer);
  const { operationId } = answer;
  const said = `operation ${operationId} started, which drains ${node}`;
  return await showStarted(context, answer, operationId, said, options.wait);
}

/** It may be given partitions again: by the next operation, `ringmaster scale` to as many nodes as there are, say. */
export async function activate(context: Context, node: string): Promise<ExitCode> {
  const { terminal, options } = context;
  const body: ActivateRequest = { actor: terminal.surroundings.user, reason: options.reason };
  const answer = await context.api.post<ActivateAnswer>(context.path('nodes', node, 'activate'), { body });
  terminal.result(answer, [`${node} is active: the next operation gives it its share`]);
  return exitCodes.done;
}

export interface ForgetOptions {
  readonly acceptLoss?: boolean;
  readonly wait?: boolean;
}

/** For a node that never comes back: what it holds is lost, and the ring's log says who has accepted that. */
export async function forget(context: Context, node: string, options: ForgetOptions): Promise<ExitCode> {
  const { terminal } = context;
  const { reason } = context.options;
  if (!options.acceptLoss || !reason?.trim()) {
    throw new CodedError(
      'USAGE',
      `what ${node} holds would be lost: say so by --accept-loss and --reason "…" (node drain loses nothing, where its database is there)`,
    );
  }
  if (terminal.surroundings.asksPeople && !context.options.yes) {
    const answer = await terminal.surroundings.ask(`All that ${node} holds is lost for ever. Its name, to go on: `);
    if (answer.trim() !== node) {
      terminal.say('nothing was started');
      return exitCodes.failed;
    }
  }
  const body: ForgetRequest = { acceptLoss: true, reason, actor: terminal.surroundings.user };
  const answer = await postOnce<OperationAnswer>(context, context.path('nodes', node, 'forget'), body);
  if (answer.result !== 'started') throw new CodedError('API_ANSWER_INVALID', `${answer.result} is no answer to this`);
  const { operationId } = answer;
  const said = `operation ${operationId} started, which looks whether ${node} is gone, and then forgets it`;
  return await showStarted(context, answer, operationId, said, options.wait);
}

async function askToDrain(
  context: Context,
  node: string,
  { dryRun, planHash }: Pick<DrainRequest, 'dryRun' | 'planHash'>,
): Promise<OperationAnswer> {
  const body: DrainRequest = {
    actor: context.terminal.surroundings.user,
    reason: context.options.reason,
    planHash,
    ...(dryRun ? { dryRun } : {}),
  };
  return await postOnce(context, context.path('nodes', node, 'drain'), body);
}

function showDrain({ terminal }: Context, node: string, answer: OperationAnswer): ExitCode {
  const nothing = `nothing to do: ${node} is drained, and has nothing`;
  terminal.result(answer, answer.result === 'plan' ? planLines(answer.plan, terminal) : [nothing]);
  return exitCodes.done;
}
