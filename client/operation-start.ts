/** Starting an operation: once for a cluster at a time, and once for an idempotency key. */
import { createHash } from 'node:crypto';
import { type Client, WorkflowExecutionAlreadyStartedError } from '@temporalio/client';
import { CodedError } from '../kit/errors.ts';
import { type ScaleInput, scaleWorkflowId, searchAttributes } from '../workflows/messages.ts';
import type { OperationFinder } from './operation-finder.ts';
import { isClosed, memoOf, type Operation, type OperationMemo } from './operation-runs.ts';
import type { StartedOperation } from './operations.ts';
import { codedTemporalError } from './temporal-errors.ts';

const START_DEADLINE_MS = 10_000;
/** How many operations back an idempotency key is remembered (and no longer than Temporal keeps closed runs). */
const REMEMBERED_MAX = 100;
/** An operation may end between the refusal and our look at it. */
const TRIES_MAX = 3;

export interface StartOptions {
  readonly idempotencyKey?: string;
}

export interface OperationStarter {
  start(input: ScaleInput, options: StartOptions): Promise<StartedOperation>;
  startedBefore(input: ScaleInput, idempotencyKey: string): Promise<StartedOperation | null>;
}

export function createOperationStarter(temporal: Client, taskQueue: string, finder: OperationFinder): OperationStarter {
  async function startedBefore(input: ScaleInput, key: string): Promise<StartedOperation | null> {
    for (const operation of await finder.list(input.clusterId, REMEMBERED_MAX)) {
      const repeated = repetitionOf(operation, input, key);
      if (repeated) return repeated;
    }
    return null;
  }

  async function start(input: ScaleInput, { idempotencyKey }: StartOptions): Promise<StartedOperation> {
    const before = idempotencyKey === undefined ? null : await startedBefore(input, idempotencyKey);
    if (before) return before;
    for (let tries = 1; ; tries += 1) {
      try {
        return await startRun(input, idempotencyKey);
      } catch (error) {
        if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw codedTemporalError(error, 'server');
        const other = await finder.latest(input.clusterId);
        // Two requests with one key at the same moment: the one that lost gets what the other has started.
        const repeated = other && idempotencyKey !== undefined ? repetitionOf(other, input, idempotencyKey) : null;
        if (repeated) return repeated;
        if (other && !isClosed(other.run)) throw operationRunning(input.clusterId, other.operationId);
        if (tries === TRIES_MAX) throw codedTemporalError(error, 'server');
      }
    }
  }

  async function startRun(input: ScaleInput, idempotencyKey: string | undefined): Promise<StartedOperation> {
    const workflowId = scaleWorkflowId(input.clusterId);
    const memo = memoFor(input, idempotencyKey);
    const handle = await temporal.withDeadline(Date.now() + START_DEADLINE_MS, () =>
      temporal.workflow.start('ScaleCluster', {
        args: [input],
        taskQueue,
        workflowId,
        workflowIdReusePolicy: 'ALLOW_DUPLICATE',
        workflowIdConflictPolicy: 'FAIL',
        memo: { ...memo },
        typedSearchAttributes: [
          { key: searchAttributes.cluster, value: input.clusterId },
          { key: searchAttributes.state, value: 'running' },
        ],
        staticSummary: summaryFor(input),
        staticDetails: `Asked for by ${memo.actor}.\n\nReason: ${memo.reason}`,
      }),
    );
    return { operationId: handle.firstExecutionRunId, workflowId, repeated: false };
  }

  return { start, startedBefore };
}

export function operationRunning(clusterId: string, operationId: string): CodedError {
  const message = `operation ${operationId} of cluster ${clusterId} is under way; one runs at a time`;
  return new CodedError('OPERATION_RUNNING', message, { clusterId, operationId });
}

export const targetNodesOf = ({ targetNodes, goal }: ScaleInput): number | null =>
  targetNodes ?? (goal?.kind === 'scale' ? goal.nodes : null);

function memoFor(input: ScaleInput, idempotencyKey: string | undefined): OperationMemo {
  return {
    actor: input.actor ?? 'unknown',
    reason: input.reason ?? '',
    targetNodes: targetNodesOf(input),
    ...(idempotencyKey === undefined ? {} : { idempotencyKey, requestDigest: requestDigestOf(input) }),
  };
}

function summaryFor(input: ScaleInput): string {
  const reason = input.reason ? `: ${input.reason}` : '';
  return `${whatFor(input)}${reason}`.slice(0, 200);
}

function whatFor(input: ScaleInput): string {
  const { clusterId, goal } = input;
  if (goal?.kind === 'undo') return `undo operation ${goal.operation} of ${clusterId}`;
  if (goal?.kind === 'forget') return `forget ${goal.node} of ${clusterId}, with what it holds`;
  if (goal?.kind === 'drain') return `drain ${goal.node} of ${clusterId}`;
  const nodes = targetNodesOf(input);
  return `scale ${clusterId} to ${nodes} ${nodes === 1 ? 'node' : 'nodes'}`;
}

/** Equal for equal requests, whatever the order of their fields was. */
export function requestDigestOf(input: ScaleInput): string {
  const { clusterId, reason, planHash, actor, partitionsPerMoveMax, deleteVolumes, create, goal } = input;
  // What an older version does not know comes last, and only where it is there: its digests stay the same.
  const other = goal && goal.kind !== 'scale' ? { goal: JSON.stringify(goal) } : {};
  const rest = { partitionsPerMoveMax, deleteVolumes, partitionCount: create?.partitionCount, ...other };
  const parts = [clusterId, targetNodesOf(input), reason, planHash, actor, ...Object.values(rest)].map(
    (part) => part ?? null,
  );
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}

function repetitionOf(operation: Operation, input: ScaleInput, key: string): StartedOperation | null {
  const memo = memoOf(operation.run);
  if (memo.idempotencyKey !== key) return null;
  if (memo.requestDigest !== requestDigestOf(input)) {
    throw new CodedError(
      'IDEMPOTENCY_KEY_REUSED',
      `this Idempotency-Key came with another request before, which started operation ${operation.operationId}`,
      { operationId: operation.operationId },
    );
  }
  return { operationId: operation.operationId, workflowId: operation.run.workflowId, repeated: true };
}
