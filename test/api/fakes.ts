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
import type {
  StartedVerification,
  VerificationsClient,
  VerifyProgress,
  VerifyRequest,
} from '../../client/verifications.ts';
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
  undo = this.#steer('undo', { state: 'undoing' });

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

/** Verifications in memory. */
export class FakeVerifications implements VerificationsClient {
  readonly requests: VerifyRequest[] = [];
  readonly stops: OperatorRequest[] = [];
  last: VerifyProgress | null = null;
  /** What a look at the progress changes first. */
  script: Partial<VerifyProgress>[] = [];
  down: CodedError | null = null;

  async start(request: VerifyRequest): Promise<StartedVerification> {
    if (this.down) throw this.down;
    if (request.full && this.last && this.last.endedAt === null)
      throw new CodedError('VERIFY_RUNNING', 'a verification is under way');
    this.requests.push(request);
    const { clusterId, full = false, operation = null } = request;
    this.last = verificationOf({
      ...(request.resume ? this.last : {}),
      clusterId,
      full,
      operation,
      state: 'running',
      endedAt: null,
    });
    return { workflowId: `verify/${clusterId}`, runId: randomUUID() };
  }

  async progress(): Promise<VerifyProgress> {
    if (this.down) throw this.down;
    if (!this.last) throw new CodedError('VERIFY_UNKNOWN', 'there is no such verification');
    this.last = { ...this.last, ...this.script.shift() };
    return this.last;
  }

  async stop(_clusterId: string, request: OperatorRequest): Promise<VerifyProgress> {
    if (this.last?.endedAt !== null) throw new CodedError('VERIFY_UNKNOWN', 'there is no such verification');
    this.stops.push(request);
    this.last = { ...this.last, state: 'stopped', endedAt: new Date().toISOString() };
    return this.last;
  }
}

export function verificationOf(some: Partial<VerifyProgress>): VerifyProgress {
  return {
    clusterId: 'demo',
    full: true,
    operation: null,
    state: 'running',
    verdict: null,
    cluster: null,
    movesTotal: 0,
    movesDone: 0,
    jobsTotal: 0,
    jobsCompared: 0,
    counts: { missing: 0, added: 0, differs: 0, 'changed places': 0 },
    samples: [],
    notCompared: [],
    notComparedMoves: 0,
    notComparedJobs: 0,
    cursor: null,
    because: null,
    startedAt: new Date().toISOString(),
    endedAt: null,
    ...some,
  };
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
