/** An operations client in memory: what the API and the command line need of Temporal, without Temporal. */
import { createHash, randomUUID } from 'node:crypto';
import type {
  OperationProgress,
  OperationSummary,
  OperationsClient,
  OperatorRequest,
  ScaleInput,
  StartedOperation,
} from '../../client/operations.ts';
import { CodedError } from '../../kit/errors.ts';

interface FakeOperation {
  progress: OperationProgress;
  input: ScaleInput;
  key: string | undefined;
}

export class FakeOperations implements OperationsClient {
  readonly operations: FakeOperation[] = [];
  readonly requests: { action: string; operationId: string; request: OperatorRequest }[] = [];
  /** Thrown by everything while not null. */
  down: CodedError | null = null;
  /** What a look at the progress changes first: a story told look by look. */
  script: Partial<OperationProgress>[] = [];

  async start(input: ScaleInput, options: { idempotencyKey?: string } = {}): Promise<StartedOperation> {
    const before = options.idempotencyKey ? await this.startedBefore(input, options.idempotencyKey) : null;
    if (before) return before;
    const running = await this.running(input.clusterId);
    if (running) throw new CodedError('OPERATION_RUNNING', `operation ${running.operationId} is under way`);
    const progress = progressOf({ clusterId: input.clusterId, to: input.targetNodes ?? 0, reason: input.reason ?? '' });
    this.operations.unshift({ progress, input, key: options.idempotencyKey });
    return { operationId: progress.operationId, workflowId: progress.workflowId, repeated: false };
  }

  async startedBefore(input: ScaleInput, key: string): Promise<StartedOperation | null> {
    this.#assertUp();
    const before = this.operations.find((operation) => operation.key === key);
    if (!before) return null;
    if (digest(before.input) !== digest(input)) {
      throw new CodedError('IDEMPOTENCY_KEY_REUSED', 'another request', { operationId: before.progress.operationId });
    }
    const { operationId, workflowId } = before.progress;
    return { operationId, workflowId, repeated: true };
  }

  async running(clusterId: string): Promise<OperationSummary | null> {
    this.#assertUp();
    return (await this.list(clusterId, 1)).find((operation) => operation.endedAt === null) ?? null;
  }

  async progress(clusterId: string, operationId = ''): Promise<OperationProgress> {
    this.#assertUp();
    const operation = this.#find(clusterId, operationId);
    operation.progress = { ...operation.progress, ...this.script.shift() };
    return operation.progress;
  }

  async list(clusterId: string, limit: number): Promise<OperationSummary[]> {
    this.#assertUp();
    const own = this.operations.filter(({ progress }) => progress.clusterId === clusterId);
    return own.slice(0, limit).map(({ progress, input }) => ({
      operationId: progress.operationId,
      clusterId,
      workflowId: progress.workflowId,
      state: progress.state,
      targetNodes: progress.to,
      reason: progress.reason,
      actor: input.actor ?? null,
      blockedOn: progress.blockedOn?.code ?? null,
      startedAt: progress.startedAt,
      endedAt: progress.endedAt,
    }));
  }

  pause = this.#steer('pause', { state: 'paused' });
  resume = this.#steer('resume', { state: 'running' });
  retry = this.#steer('retry', { state: 'running', blockedOn: null });
  cancel = this.#steer('cancel', { state: 'cancelling' });

  async reachable(): Promise<boolean> {
    return this.down === null;
  }

  #steer(action: string, change: Partial<OperationProgress>) {
    return async (clusterId: string, operationId: string, request: OperatorRequest): Promise<OperationProgress> => {
      this.#assertUp();
      const operation = this.#find(clusterId, operationId);
      if (operation.progress.endedAt) throw new CodedError('OPERATION_ENDED', 'it has ended');
      this.requests.push({ action, operationId: operation.progress.operationId, request });
      operation.progress = { ...operation.progress, ...change };
      return operation.progress;
    };
  }

  #find(clusterId: string, prefix: string): FakeOperation {
    const found = this.operations.find(
      ({ progress }) => progress.clusterId === clusterId && progress.operationId.startsWith(prefix),
    );
    if (!found) throw new CodedError('OPERATION_UNKNOWN', `cluster ${clusterId} has no operation ${prefix}`);
    return found;
  }

  #assertUp(): void {
    if (this.down) throw this.down;
  }
}

export function progressOf(some: Partial<OperationProgress>): OperationProgress {
  const clusterId = some.clusterId ?? 'demo';
  return {
    operationId: randomUUID(),
    clusterId,
    workflowId: `scale/${clusterId}`,
    reason: '',
    state: 'running',
    phase: 'plan',
    from: 2,
    to: 3,
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
    startedAt: new Date().toISOString(),
    endedAt: null,
    ...some,
  };
}

const digest = (input: ScaleInput): string => createHash('sha256').update(JSON.stringify(input)).digest('hex');
