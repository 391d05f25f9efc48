/**
 * Three kinds of errors meet in a workflow: cancellation (let it pass), the end of an activity or child (a refusal by code, or weather that outlasted its
 * patience), and bugs: plain Errors, which fail the task until a fix is deployed.
 */
import { ActivityFailure, ApplicationFailure, ChildWorkflowFailure, TemporalFailure } from '@temporalio/common';
import { isCancellation } from '@temporalio/workflow';
import { patienceOf } from './activities.ts';

export interface Refusal {
  readonly code: string;
  readonly message: string;
  /** What was passed before it counted as trouble: `10m`, `3 tries`. */
  readonly threshold?: string;
}

/** Why an activity or a child ended without result; null where `error` is something else. What it was is in `.cause`, never in the failure itself. */
export function refusalOf(error: unknown): Refusal | null {
  if (isCancellation(error)) return null;
  if (error instanceof ChildWorkflowFailure)
    return { code: 'MOVE_LOST', message: `${error.execution.workflowId}: ${innermost(error)}` };
  if (!(error instanceof ActivityFailure)) return null;
  const { cause } = error;
  if (cause instanceof ApplicationFailure && cause.nonRetryable && cause.type)
    return { code: cause.type, message: cause.message };
  const { activityType } = error;
  return { code: 'STALLED', message: `${activityType}: ${innermost(error)}`, threshold: patienceOf(activityType) };
}

/** Ends the execution: for what nobody can put right by waiting, such as a bad input. */
export function refuse(code: string, message: string): never {
  throw ApplicationFailure.create({ type: code, message, nonRetryable: true });
}

export const isBug = (error: unknown): boolean => !(error instanceof TemporalFailure);

function innermost(error: Error): string {
  return error.cause instanceof Error ? innermost(error.cause) : error.message;
}
