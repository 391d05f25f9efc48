/** Looking at a node until it has caught up with the ring. */
import { cancellationSignal, sleep } from '@temporalio/activity';
import type { NodeStatus } from '../dataplane/contract.ts';
import { CodedError } from '../kit/errors.ts';
import type { NodeId } from '../ring/events.ts';
import type { ActivityDeps } from './deps.ts';
import { NodeBlocked } from './errors.ts';

/** A node that refuses to serve says why; the operation is blocked by the same code. */
export function refuseIfBlocked(status: NodeStatus): void {
  if (!status.blocked) return;
  const { code, message } = status.blocked;
  throw new NodeBlocked(code, `${status.node}: ${message}`, { node: status.node });
}

/**
 * The node's status once it has folded `version` and left nothing stale behind up to it. VERIFY_MISMATCH where nothing moves on for too long: a million jobs
 * take their time, and slow is not still.
 */
export async function waitSettled(
  { controlOf, limits }: Pick<ActivityDeps, 'controlOf' | 'limits'>,
  node: NodeId,
  version: number,
  isGood: (status: NodeStatus) => string | null = () => null,
): Promise<NodeStatus> {
  const signal = cancellationSignal();
  const control = await controlOf(node);
  let deadline = performance.now() + limits.settleWithinMs;
  let batches = 0;
  for (;;) {
    signal.throwIfAborted();
    const status = await control.status(signal);
    refuseIfBlocked(status);
    if ((status.batchesPutAway ?? 0) > batches) {
      batches = status.batchesPutAway ?? 0;
      deadline = performance.now() + limits.settleWithinMs;
    }
    const isSettled = status.foldedVersion >= version && status.settledVersion >= version;
    const wrong = isSettled
      ? isGood(status)
      : `folded ${status.foldedVersion} and settled ${status.settledVersion} of version ${version}`;
    if (wrong === null) return status;
    if (performance.now() > deadline) {
      throw new CodedError('VERIFY_MISMATCH', `${node}: ${wrong}`, { node, version });
    }
    await sleep(limits.pollEveryMs);
  }
}

/** The node's status once it has folded `version`. VERIFY_MISMATCH where that takes too long. */
export async function waitFolded(
  { controlOf, limits }: Pick<ActivityDeps, 'controlOf' | 'limits'>,
  node: NodeId,
  version: number,
): Promise<void> {
  const signal = cancellationSignal();
  const control = await controlOf(node);
  const deadline = performance.now() + limits.settleWithinMs;
  for (;;) {
    const status = await control.status(signal);
    refuseIfBlocked(status);
    if (status.foldedVersion >= version) return;
    if (performance.now() > deadline)
      throw new CodedError('VERIFY_MISMATCH', `${node}: folded ${status.foldedVersion} of version ${version}`, {
        node,
        version,
      });
    await sleep(limits.pollEveryMs);
  }
}
