/** `pause`, `resume`, `retry`, `cancel`, `undo`. */
import { CodedError } from '../../../kit/errors.ts';
import type { ProgressAnswer, UndoAnswer, UndoRequest } from '../../api-types.ts';
import type { Context } from '../context.ts';
import { type ExitCode, exitCodes } from '../exit-codes.ts';
import { planLines, progressLines } from '../show.ts';
import { shortId } from '../text.ts';
import { postOnce, showStarted } from './starting.ts';

export const steering = {
  pause: 'no further move starts; moves that run finish',
  resume: 'go on after a pause, or try again what a blocked operation waits for',
  retry: 'try again what a blocked operation waits for',
  cancel: 'abort moves before their hand-over, let the others finish, start no more, unfreeze the ring',
} as const;
export type Steering = keyof typeof steering;

export interface SteerOptions {
  /** Of `retry`. */
  readonly acceptDifference?: boolean;
}

export async function steer(
  context: Context,
  action: Steering,
  operation: string,
  { acceptDifference }: SteerOptions,
): Promise<ExitCode> {
  const { terminal, options } = context;
  if (acceptDifference && !options.reason?.trim())
    throw new CodedError(
      'USAGE',
      '--accept-difference needs --reason "…": it stands in the log, and in every later report',
    );
  const body = {
    actor: terminal.surroundings.user,
    ...(options.reason === undefined ? {} : { reason: options.reason }),
    ...(acceptDifference ? { acceptDifference } : {}),
  };
  const progress = await context.api.post<ProgressAnswer>(context.path('operations', operation, action), { body });
  terminal.result(progress, progressLines(progress, terminal, Date.now()));
  return exitCodes.done;
}

export interface UndoOptions {
  readonly dryRun?: boolean;
  readonly planHash?: string;
  readonly wait?: boolean;
}

/** An operation that is under way takes itself back; one that has ended is taken back by another operation. */
export async function undo(context: Context, operation: string, options: UndoOptions): Promise<ExitCode> {
  const { terminal } = context;
  if (options.dryRun) return showUndo(context, await askToUndo(context, operation, { ...options, dryRun: true }));
  let { planHash } = options;
  if (terminal.surroundings.asksPeople && !context.options.yes) {
    const seen = await askToUndo(context, operation, { planHash, dryRun: true });
    if (seen.result === 'plan') {
      showUndo(context, seen);
      const what = seen.underWay ? 'Stop it, and move back what it has moved by then' : 'Move this back';
      if (!(await terminal.agrees(`${what}?`))) return exitCodes.failed;
      if (!seen.underWay) planHash = seen.plan?.hash;
    }
  }
  const answer = await askToUndo(context, operation, { planHash });
  if ('plan' in answer) return showUndo(context, answer);
  const operationId = answer.result === 'started' ? answer.operationId : answer.progress.operationId;
  const said =
    answer.result === 'started'
      ? `operation ${operationId} started, which undoes ${operation}`
      : `operation ${shortId(operationId)} is being undone`;
  return await showStarted(context, answer, operationId, said, options.wait);
}

async function askToUndo(
  context: Context,
  operation: string,
  { dryRun, planHash }: Pick<UndoRequest, 'dryRun' | 'planHash'>,
): Promise<UndoAnswer> {
  const body: UndoRequest = {
    actor: context.terminal.surroundings.user,
    reason: context.options.reason,
    planHash,
    ...(dryRun ? { dryRun } : {}),
  };
  return await postOnce(context, context.path('operations', operation, 'undo'), body);
}

function showUndo({ terminal }: Context, answer: UndoAnswer): ExitCode {
  const plan = answer.result === 'plan' ? answer.plan : null;
  terminal.result(answer, plan ? planLines(plan, terminal) : ['nothing to do: nothing that it moved is elsewhere']);
  return exitCodes.done;
}
