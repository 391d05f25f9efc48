/** The command that goes on from where an operation waits. docs/operations.md lists them; a test compares. */
import type { OperationProgress } from './messages.ts';

const cancel = (operation: string): string => `ringmaster cancel ${operation}`;

/** Where it is not `resume`, once the cause is put right. What stands behind `#` is for whoever cannot put it right. */
const ACTIONS: Readonly<Record<string, (operation: string) => string>> = {
  // The plan does not fit the ring any more, or nothing can be done about it: what is done stays done, the next operation plans anew.
  CERTIFICATE_MISSING: cancel,
  CLUSTER_EXISTS: cancel,
  MOVE_INVALID: cancel,
  NODE_ANSWERS: cancel,
  NODE_UNKNOWN: cancel,
  RING_NOT_HELD: cancel,
  UNDO_IMPOSSIBLE: cancel,
  NODE_LOST: (operation) =>
    `ringmaster resume ${operation} # or, where its database never comes back: ringmaster cancel ${operation}, then ringmaster node forget <node> --accept-loss --reason "…"`,
  CERTIFICATE_MISMATCH: (operation) =>
    `ringmaster retry ${operation} # or, to go on without what differs: ringmaster retry ${operation} --accept-difference --reason "…"`,
};

/** For an operation that is blocked on `code`. */
export const nextActionFor = (code: string, operation: string): string =>
  (ACTIONS[code] ?? ((id: string) => `ringmaster resume ${id}`))(operation);

/** Null: nobody is waited for. */
export function nextActionOf({ state, blockedOn, operationId }: OperationProgress): string | null {
  if (state === 'blocked' && blockedOn) return nextActionFor(blockedOn.code, operationId);
  return state === 'paused' ? `ringmaster resume ${operationId}` : null;
}
