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

type Reaching = Pick<ActivityDeps, 'controlOf' | 'limits'>;

/** The node's status once it has folded `version` and left nothing stale behind up to it, and `isGood` has nothing against it. Throws as `waitUntilRight` does. */
export function waitSettled(
  reaching: Reaching,
  node: NodeId,
  version: number,
  isGood: (status: NodeStatus) => string | null = () => null,
): Promise<NodeStatus> {
  return waitUntilRight(reaching, node, version, (status) =>
    status.foldedVersion >= version && status.settledVersion >= version
      ? isGood(status)
      : `folded ${status.foldedVersion} and settled ${status.settledVersion} of version ${version}`,
  );
}

/** The node's status once it has folded `version`. Throws as `waitUntilRight` does. */
export function waitFolded(reaching: Reaching, node: NodeId, version: number): Promise<NodeStatus> {
  return waitUntilRight(reaching, node, version, ({ foldedVersion }) =>
    foldedVersion >= version ? null : `folded ${foldedVersion} of version ${version}`,
  );
}

/** The first status with nothing wrong. VERIFY_MISMATCH where nothing moves on for too long: a million jobs take their time, and slow is not still. */
async function waitUntilRight(
  { controlOf, limits }: Reaching,
  node: NodeId,
  version: number,
  whatIsWrong: (status: NodeStatus) => string | null,
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
    const wrong = whatIsWrong(status);
    if (wrong === null) return status;
    if (performance.now() > deadline) {
      throw new CodedError('VERIFY_MISMATCH', `${node}: ${wrong}`, { node, version });
    }
    await sleep(limits.pollEveryMs);
  }
}
