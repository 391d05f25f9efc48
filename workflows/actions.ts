/**
 * What can be done to an operation, and what comes of it: the one table that the workflow refuses by, docs/operations.md shows, and a test drives cell by cell.
 * Pure.
 */
import type { OperationState } from './messages.ts';

export const actions = ['pause', 'resume', 'retry', 'cancel', 'undo'] as const;
export type Action = (typeof actions)[number];

/** As the states, with its last step told apart: what is done is being tidied up and the ring unfrozen, and nothing else can come in between. */
export type Situation = OperationState | 'at its last step' | 'blocked at its last step';

/** The state right after it; or why it is refused; or what is done instead, of an operation that has ended. */
export type ActionOutcome =
  | OperationState
  | 'OPERATION_ENDED'
  | 'OPERATION_ENDING'
  | 'OPERATION_NOT_WAITING'
  | 'another operation';

type Row = Readonly<Record<Action, ActionOutcome>>;

const hasEnded = {
  pause: 'OPERATION_ENDED',
  resume: 'OPERATION_ENDED',
  retry: 'OPERATION_ENDED',
  cancel: 'OPERATION_ENDED',
} as const;
const isEnding = { pause: 'OPERATION_ENDING', cancel: 'OPERATION_ENDING', undo: 'OPERATION_ENDING' } as const;
const waitsForNobody = { resume: 'OPERATION_NOT_WAITING', retry: 'OPERATION_NOT_WAITING' } as const;

export const actionTable: Readonly<Record<Situation, Row>> = {
  running: { pause: 'paused', ...waitsForNobody, cancel: 'cancelling', undo: 'undoing' },
  paused: { pause: 'paused', resume: 'running', retry: 'OPERATION_NOT_WAITING', cancel: 'cancelling', undo: 'undoing' },
  // Nothing starts while it is blocked; a pause adds nothing, and resume ends both.
  blocked: { pause: 'blocked', resume: 'running', retry: 'running', cancel: 'cancelling', undo: 'undoing' },
  cancelling: { pause: 'OPERATION_ENDING', ...waitsForNobody, cancel: 'cancelling', undo: 'undoing' },
  undoing: { pause: 'paused', ...waitsForNobody, cancel: 'cancelling', undo: 'undoing' },
  'at its last step': { ...isEnding, ...waitsForNobody },
  'blocked at its last step': { ...isEnding, resume: 'running', retry: 'running' },
  completed: { ...hasEnded, undo: 'another operation' },
  cancelled: { ...hasEnded, undo: 'another operation' },
  undone: { ...hasEnded, undo: 'nothing to do' },
  'nothing to do': { ...hasEnded, undo: 'nothing to do' },
  failed: { ...hasEnded, undo: 'another operation' },
};

/** Why `action` is refused in this situation; null where it is not. */
export function refusalFor(situation: Situation, action: Action): string | null {
  const outcome = actionTable[situation][action];
  return /^[A-Z_]+$/.test(outcome) ? outcome : null;
}
