/** `plan` and `scale`. */
import type { OperationAnswer, OperationRequest, PlanAnswer } from '../../api-types.ts';
import type { Context } from '../context.ts';
import { type ExitCode, exitCodes } from '../exit-codes.ts';
import { planLines } from '../show.ts';
import { plural } from '../text.ts';
import { postOnce, showStarted } from './starting.ts';

export interface ScaleOptions {
  readonly to: number;
  readonly dryRun?: boolean;
  readonly planHash?: string;
  readonly wait?: boolean;
  readonly deleteVolumes?: boolean;
}

export async function plan(context: Context, options: { readonly to: number }): Promise<ExitCode> {
  return showPlan(context, await askForPlan(context, { to: options.to }));
}

export async function scale(context: Context, options: ScaleOptions): Promise<ExitCode> {
  if (options.dryRun) return showPlan(context, await askForPlan(context, options));
  let { planHash } = options;
  if (context.terminal.surroundings.asksPeople && !context.options.yes) {
    const answer = await askForPlan(context, options);
    // Also without moves a click can matter: an ended operation may have left the ring frozen. The API knows; nothing to ask a person.
    if (answer.result === 'plan') {
      if (!(await confirmed(context, answer))) return exitCodes.failed;
      planHash = answer.plan.hash; // what was shown is what is done, or it is refused
    }
  }
  return await start(context, { ...options, planHash });
}

async function start(context: Context, options: ScaleOptions): Promise<ExitCode> {
  const { terminal } = context;
  const body: OperationRequest = {
    targetNodes: options.to,
    reason: context.options.reason,
    planHash: options.planHash,
    actor: terminal.surroundings.user,
    ...(options.deleteVolumes ? { deleteVolumes: true } : {}),
  };
  const answer = await postOnce<OperationAnswer>(context, context.path('operations'), body);
  if (answer.result !== 'started') {
    terminal.result(answer, [
      `nothing to do: ${context.clusterId} has ${plural(options.to, 'node')}, and its ring is balanced`,
    ]);
    return exitCodes.done;
  }
  const { operationId } = answer;
  return await showStarted(context, answer, operationId, `operation ${operationId} started`, options.wait);
}

async function askForPlan(context: Context, { to, planHash }: ScaleOptions): Promise<PlanAnswer> {
  return await context.api.post<PlanAnswer>(context.path('plan'), { body: { targetNodes: to, planHash } });
}

function showPlan({ terminal }: Context, answer: PlanAnswer): ExitCode {
  const nothing = answer.result === 'nothing to do' ? ['nothing to do: the ring is balanced'] : [];
  terminal.result(answer, nothing.length > 0 ? nothing : planLines(answer.plan, terminal));
  return exitCodes.done;
}

async function confirmed({ terminal }: Context, { plan: shown }: PlanAnswer): Promise<boolean> {
  terminal.say(...planLines(shown, terminal), '');
  return await terminal.agrees(`Scale ${shown.clusterId} to ${plural(shown.nodesAfter.length, 'node')}?`);
}
