/** The operation of a cluster that is under way, or its last one, as the operator needs it. */
import type { OperationProgress, OperationSummary, OperationsClient } from '../client/operations.ts';
import { CodedError } from '../kit/errors.ts';
import type { OperationSeen } from './decide.ts';

/** Null: there was none. Throws what the client throws when Temporal does not answer. Without a worker it tells what Temporal knows. */
export async function latestOperation(operations: OperationsClient, clusterId: string): Promise<OperationSeen | null> {
  const running = await operations.running(clusterId);
  if (!running) {
    const [last] = await operations.list(clusterId, 1);
    return last ? seenOf(last, null) : null;
  }
  try {
    return seenOf(running, await operations.progress(clusterId, running.operationId));
  } catch (error) {
    // Temporal has just answered: what is missing is the workflow's own word (no worker, one that cannot replay it), and only details hang on that.
    if (error instanceof CodedError && error.code !== 'TEMPORAL_UNREACHABLE') return seenOf(running, null);
    throw error;
  }
}

/** The operation that was started with this key, whatever else it was asked with; null: none was. */
export async function operationStartedWith(
  operations: OperationsClient,
  clusterId: string,
  idempotencyKey: string,
): Promise<string | null> {
  try {
    return (await operations.startedBefore({ clusterId }, idempotencyKey))?.operationId ?? null;
  } catch (error) {
    return operationOfReusedKey(error);
  }
}

/** The reason that stands in a request may have changed since (an annotation, the ring's nodes): the wish is the same all the same. */
export function operationOfReusedKey(error: unknown): string {
  if (error instanceof CodedError && error.code === 'IDEMPOTENCY_KEY_REUSED')
    return String(error.details['operationId']);
  throw error;
}

const open: readonly OperationProgress['state'][] = ['running', 'paused', 'blocked', 'cancelling', 'undoing'];

function seenOf(summary: OperationSummary, progress: OperationProgress | null): OperationSeen {
  const hasEnded = summary.endedAt !== null;
  // The workflow's own word is fresher, but one that says it has ended while its run is open is about to: the next look sees it.
  const state = !hasEnded && progress && open.includes(progress.state) ? progress.state : summary.state;
  const code = progress?.blockedOn?.code ?? summary.blockedOn;
  return {
    id: summary.operationId,
    state,
    to: progress?.to ?? summary.targetNodes,
    actor: summary.actor,
    phase: progress?.phase ?? null,
    blockedOn: code
      ? {
          code,
          message: progress?.blockedOn?.message ?? 'no worker answers for the details',
          since: progress?.blockedOn?.since ?? null,
        }
      : null,
    nextAction: progress?.nextAction ?? null,
  };
}
