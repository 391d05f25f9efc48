/** How commands end: part of the public interface. */
import { codeOf } from '../../kit/errors.ts';
import type { OperationState } from '../../workflows/messages.ts';

export const exitCodes = { done: 0, failed: 1, usage: 2, unknown: 3, blocked: 4 } as const;
export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

const usageCodes = new Set([
  'USAGE',
  'TARGET_NODES_INVALID',
  'BODY_INVALID',
  'QUERY_INVALID',
  'CLUSTER_NOT_NAMED',
  'LIMITS_INVALID',
]);

export function exitCodeOfError(error: unknown): ExitCode {
  const code = codeOf(error);
  if (code === 'ANSWER_LOST') return exitCodes.unknown;
  return code !== null && usageCodes.has(code) ? exitCodes.usage : exitCodes.failed;
}

/** Of an operation that was waited for. A cancelled or undone one did not do what was asked. */
export function exitCodeOfState(state: OperationState): ExitCode {
  switch (state) {
    case 'completed':
    case 'nothing to do':
      return exitCodes.done;
    case 'blocked':
      return exitCodes.blocked;
    case 'cancelled':
    case 'undone':
    case 'failed':
      return exitCodes.failed;
    case 'running':
    case 'paused':
    case 'cancelling':
    case 'undoing':
      return exitCodes.unknown;
  }
}
