/** Scale operations in Temporal: start, look, steer. What the API and tests use; people use the `ringmaster` command. */
import type { Client } from '@temporalio/client';
import { CodedError } from '../kit/errors.ts';
import {
  cancelUpdate,
  type OperationProgress,
  type OperatorRequest,
  pauseUpdate,
  progressQuery,
  type RetryRequest,
  resumeUpdate,
  retryUpdate,
  type ScaleInput,
  undoUpdate,
} from '../workflows/messages.ts';
import { withCopies } from './move-copies.ts';
import { createOperationFinder, type OperationFinder } from './operation-finder.ts';
import { isClosed, type Operation, type OperationSummary, stateOf, summaryOf } from './operation-runs.ts';
import { createOperationStarter, type OperationStarter, type StartOptions } from './operation-start.ts';
import { codedTemporalError } from './temporal-errors.ts';

export type { OperationProgress, OperatorRequest, ScaleInput } from '../workflows/messages.ts';
export { TARGET_NODES_MAX } from '../workflows/messages.ts';
export type { OperationSummary } from './operation-runs.ts';

/** Patience with a worker that answers a query or an update. Temporal's own calls have a deadline in the finder. */
const ANSWER_DEADLINE_MS = 5_000;

export interface StartedOperation {
  readonly operationId: string;
  readonly workflowId: string;
  /** True where an earlier request with the same idempotency key had started it. */
  readonly repeated: boolean;
}

/**
 * Wherever an operation's id is taken, a unique prefix will do. Throws CodedErrors: TEMPORAL_UNREACHABLE, WORKER_UNREACHABLE, OPERATION_UNKNOWN,
 * OPERATION_AMBIGUOUS, OPERATION_RUNNING, OPERATION_ENDED, IDEMPOTENCY_KEY_REUSED, and the workflow's own refusals.
 */
export interface OperationsClient {
  /** Starts the operation. OPERATION_RUNNING names the one that runs. With an idempotency key that was used before: that operation, or IDEMPOTENCY_KEY_REUSED. */
  start(input: ScaleInput, options?: StartOptions): Promise<StartedOperation>;
  /** The operation that an earlier request with this key has started, if any. Throws IDEMPOTENCY_KEY_REUSED where that one asked for something else. */
  startedBefore(input: ScaleInput, idempotencyKey: string): Promise<StartedOperation | null>;
  /** The operation that is under way, if any. */
  running(clusterId: string): Promise<OperationSummary | null>;
  /** Without `operationId`: of the latest operation. */
  progress(clusterId: string, operationId?: string): Promise<OperationProgress>;
  /** The newest first. */
  list(clusterId: string, limit: number): Promise<OperationSummary[]>;
  pause(clusterId: string, operationId: string, request: OperatorRequest): Promise<OperationProgress>;
  resume(clusterId: string, operationId: string, request: OperatorRequest): Promise<OperationProgress>;
  retry(clusterId: string, operationId: string, request: RetryRequest): Promise<OperationProgress>;
  cancel(clusterId: string, operationId: string, request: OperatorRequest): Promise<OperationProgress>;
  /** Of an operation that is under way; one that has ended is undone by another operation. */
  undo(clusterId: string, operationId: string, request: OperatorRequest): Promise<OperationProgress>;
  /** Whether Temporal answers, within a second. */
  reachable(): Promise<boolean>;
}

const updates = {
  pause: pauseUpdate,
  resume: resumeUpdate,
  retry: retryUpdate,
  cancel: cancelUpdate,
  undo: undoUpdate,
} as const;
type UpdateName = keyof typeof updates;

export function createOperationsClient(options: {
  readonly temporal: Client;
  readonly taskQueue: string;
}): OperationsClient {
  return new TemporalOperations(options.temporal, options.taskQueue);
}

class TemporalOperations implements OperationsClient {
  readonly #temporal: Client;
  readonly #finder: OperationFinder;
  readonly #starter: OperationStarter;

  constructor(temporal: Client, taskQueue: string) {
    this.#temporal = temporal;
    this.#finder = createOperationFinder(temporal);
    this.#starter = createOperationStarter(temporal, taskQueue, this.#finder);
  }

  async start(input: ScaleInput, options: StartOptions = {}): Promise<StartedOperation> {
    return await this.#starter.start(input, options);
  }

  async startedBefore(input: ScaleInput, idempotencyKey: string): Promise<StartedOperation | null> {
    return await this.#starter.startedBefore(input, idempotencyKey);
  }

  async running(clusterId: string): Promise<OperationSummary | null> {
    const latest = await this.#finder.latest(clusterId);
    return latest && !isClosed(latest.run) ? summaryOf(latest, clusterId) : null;
  }

  async progress(clusterId: string, operationId?: string): Promise<OperationProgress> {
    const operation = await this.#find(clusterId, operationId);
    const { workflowId, runId } = operation.run;
    const handle = this.#temporal.workflow.getHandle(workflowId, runId);
    try {
      const asked = await this.#within(() => handle.query(progressQuery));
      return isClosed(operation.run) ? asEnded(asked, operation) : await withCopies(this.#temporal, asked);
    } catch (error) {
      const coded = codedTemporalError(error, 'workflow');
      // A query on a closed run needs a worker all the same; its result does not.
      if (operation.run.status.name === 'COMPLETED') return await this.#resultOf(operation, coded);
      if (isClosed(operation.run)) return asEnded(unknownProgress(operation, clusterId), operation);
      throw coded;
    }
  }

  async list(clusterId: string, limit: number): Promise<OperationSummary[]> {
    const operations = await this.#finder.list(clusterId, limit);
    return operations.map((operation) => summaryOf(operation, clusterId));
  }

  pause(clusterId: string, operationId: string, request: OperatorRequest): Promise<OperationProgress> {
    return this.#update('pause', clusterId, operationId, request);
  }

  resume(clusterId: string, operationId: string, request: OperatorRequest): Promise<OperationProgress> {
    return this.#update('resume', clusterId, operationId, request);
  }

  retry(clusterId: string, operationId: string, request: RetryRequest): Promise<OperationProgress> {
    return this.#update('retry', clusterId, operationId, request);
  }

  cancel(clusterId: string, operationId: string, request: OperatorRequest): Promise<OperationProgress> {
    return this.#update('cancel', clusterId, operationId, request);
  }

  undo(clusterId: string, operationId: string, request: OperatorRequest): Promise<OperationProgress> {
    return this.#update('undo', clusterId, operationId, request);
  }

  async reachable(): Promise<boolean> {
    return await this.#finder.reachable();
  }

  async #update(
    name: UpdateName,
    clusterId: string,
    operationId: string,
    request: OperatorRequest,
  ): Promise<OperationProgress> {
    // Twice: between our look and the update the run may continue as new.
    for (let lastTry = false; ; lastTry = true) {
      const operation = await this.#find(clusterId, operationId);
      if (isClosed(operation.run)) throw ended(operation);
      const handle = this.#temporal.workflow.getHandle(operation.run.workflowId, operation.run.runId);
      try {
        return await this.#within(() => handle.executeUpdate(updates[name], { args: [request] }));
      } catch (error) {
        const coded = codedTemporalError(error, 'workflow');
        if (coded.code !== 'OPERATION_UNKNOWN') throw coded;
        if (lastTry) throw ended(operation);
      }
    }
  }

  async #find(clusterId: string, operationId: string | undefined): Promise<Operation> {
    if (operationId !== undefined) return await this.#finder.find(clusterId, operationId);
    const latest = await this.#finder.latest(clusterId);
    if (!latest)
      throw new CodedError('OPERATION_UNKNOWN', `cluster ${clusterId} has had no operation yet`, { clusterId });
    return latest;
  }

  async #resultOf(operation: Operation, otherwise: CodedError): Promise<OperationProgress> {
    const handle = this.#temporal.workflow.getHandle(operation.run.workflowId, operation.run.runId);
    const result: unknown = await this.#within(() => handle.result()).catch(() => null);
    if (!isProgress(result)) throw otherwise;
    return result;
  }

  async #within<T>(call: () => Promise<T>): Promise<T> {
    return await this.#temporal.withDeadline(Date.now() + ANSWER_DEADLINE_MS, call);
  }
}

const isProgress = (value: unknown): value is OperationProgress =>
  typeof value === 'object' && value !== null && 'operationId' in value && 'state' in value && 'moves' in value;

/** A run that was terminated, or that failed, still answers queries as it stood then: "running". */
function asEnded(progress: OperationProgress, { run }: Operation): OperationProgress {
  if (run.status.name === 'COMPLETED') return progress;
  return {
    ...progress,
    state: 'failed',
    endedAt: run.closeTime?.toISOString() ?? progress.endedAt,
    nextAction:
      'its run has ended (terminated, failed or timed out) with the ring perhaps still frozen: start an operation, which takes over and finishes or aborts its moves',
  };
}

/** All that is known of a run without a worker. */
function unknownProgress({ operationId, run, startedAt }: Operation, clusterId: string): OperationProgress {
  const memo = run.memo as { reason?: string; targetNodes?: number } | undefined;
  return {
    operationId,
    clusterId,
    workflowId: run.workflowId,
    reason: memo?.reason ?? '',
    state: stateOf(run),
    phase: null,
    from: 0,
    to: memo?.targetNodes ?? 0,
    nodesAdded: [],
    nodesRemoved: [],
    planHash: null,
    partitionsToMove: 0,
    partitionsMoved: 0,
    jobsMoved: 0,
    jobsCopied: 0,
    moves: [],
    notes: [],
    blockedOn: null,
    nextAction: null,
    phasesMs: {},
    startedAt: startedAt.toISOString(),
    endedAt: run.closeTime?.toISOString() ?? null,
  };
}

function ended({ operationId, run }: Operation): CodedError {
  const state = stateOf(run);
  return new CodedError('OPERATION_ENDED', `operation ${operationId} has ended: ${state}`, { operationId, state });
}
