/** Verifications in Temporal: start, look, stop, go on. */
import {
  type Client,
  WorkflowExecutionAlreadyStartedError,
  type WorkflowExecutionDescription,
} from '@temporalio/client';
import { CodedError } from '../kit/errors.ts';
import {
  type OperatorRequest,
  searchAttributes,
  stopVerificationUpdate,
  type VerifyInput,
  type VerifyProgress,
  verificationQuery,
  verifyWorkflowId,
} from '../workflows/messages.ts';
import { codedTemporalError } from './temporal-errors.ts';

export type { VerifyProgress } from '../workflows/messages.ts';
export { VERIFY_SAMPLES_DEFAULT, VERIFY_SAMPLES_MAX } from '../workflows/messages.ts';

const SERVER_DEADLINE_MS = 10_000;
/** Patience with a worker that answers a query or an update. */
const ANSWER_DEADLINE_MS = 5_000;

export interface VerifyRequest extends Omit<VerifyInput, 'carry' | 'continueAsNewAfterEvents'> {
  /** Go on from where the last one was stopped or failed. */
  readonly resume?: boolean;
}

export interface StartedVerification {
  readonly workflowId: string;
  readonly runId: string;
}

/**
 * Throws CodedErrors: TEMPORAL_UNREACHABLE, WORKER_UNREACHABLE, VERIFY_RUNNING (one compares already), VERIFY_UNKNOWN (there is none, or none that can be
 * resumed).
 */
export interface VerificationsClient {
  /** A look at the cluster that is under way answers the next one as well; a comparison that is under way is refused. */
  start(request: VerifyRequest): Promise<StartedVerification>;
  /** Of the one that is under way, or of the last. */
  progress(clusterId: string, full: boolean): Promise<VerifyProgress>;
  stop(clusterId: string, request: OperatorRequest): Promise<VerifyProgress>;
}

export function createVerificationsClient(temporal: Client, taskQueue: string): VerificationsClient {
  const handleOf = (clusterId: string, full: boolean) => temporal.workflow.getHandle(verifyWorkflowId(clusterId, full));
  const within = async <T>(ms: number, asked: 'server' | 'workflow', call: () => Promise<T>): Promise<T> => {
    try {
      return await temporal.withDeadline(Date.now() + ms, call);
    } catch (error) {
      if (error instanceof WorkflowExecutionAlreadyStartedError) throw error;
      const coded = codedTemporalError(error, asked);
      if (coded.code !== 'OPERATION_UNKNOWN') throw coded;
      throw new CodedError('VERIFY_UNKNOWN', 'there is no such verification', {}, { cause: error });
    }
  };

  async function progress(clusterId: string, full: boolean): Promise<VerifyProgress> {
    const handle = handleOf(clusterId, full);
    const run = await within(SERVER_DEADLINE_MS, 'server', () => handle.describe());
    // A query on a closed run needs a worker all the same; its result does not.
    const told: VerifyProgress =
      run.status.name === 'COMPLETED'
        ? await within(ANSWER_DEADLINE_MS, 'server', () => handle.result() as Promise<VerifyProgress>)
        : await within(ANSWER_DEADLINE_MS, 'workflow', () => handle.query(verificationQuery));
    return isOpen(run) ? told : asEnded(told, run);
  }

  async function carryOf({ clusterId, operation }: VerifyRequest): Promise<VerifyProgress> {
    const last = await progress(clusterId, true);
    if (last.endedAt === null) throw running(clusterId, last);
    const resumable = last.state === 'stopped' || last.state === 'failed';
    if (resumable && (operation ?? null) === last.operation) return last;
    const why = resumable ? `was about ${last.operation ?? 'all operations'}` : `is ${last.state}`;
    throw new CodedError('VERIFY_UNKNOWN', `there is none to go on with: the last verification ${why}`, { clusterId });
  }

  async function start({ resume, ...request }: VerifyRequest): Promise<StartedVerification> {
    const { clusterId, full = false } = request;
    const carry = resume && full ? await carryOf(request) : undefined;
    const input: VerifyInput = { ...request, ...(carry ? { carry } : {}) };
    const workflowId = verifyWorkflowId(clusterId, full);
    try {
      const handle = await within(SERVER_DEADLINE_MS, 'server', () =>
        temporal.workflow.start('VerifyMoves', {
          args: [input],
          taskQueue,
          workflowId,
          workflowIdReusePolicy: 'ALLOW_DUPLICATE',
          workflowIdConflictPolicy: full ? 'FAIL' : 'USE_EXISTING',
          typedSearchAttributes: [{ key: searchAttributes.cluster, value: clusterId }],
          staticSummary: `verify ${clusterId}${full ? ', row by row' : ''}`,
          staticDetails: `Asked for by ${request.actor ?? 'unknown'}.\n\nReason: ${request.reason ?? ''}`,
        }),
      );
      return { workflowId, runId: handle.firstExecutionRunId };
    } catch (error) {
      if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
      throw running(clusterId, null);
    }
  }

  return {
    start,
    progress,
    stop: (clusterId, request) =>
      within(ANSWER_DEADLINE_MS, 'workflow', () =>
        handleOf(clusterId, true).executeUpdate(stopVerificationUpdate, { args: [request] }),
      ),
  };
}

const isOpen = ({ status: { name } }: WorkflowExecutionDescription): boolean =>
  ['RUNNING', 'PAUSED', 'CONTINUED_AS_NEW'].includes(name);

/** A run that was terminated or cancelled still answers as it stood then; from there a later run goes on. */
function asEnded(told: VerifyProgress, run: WorkflowExecutionDescription): VerifyProgress {
  if (told.endedAt !== null) return told;
  const because = `its run was ${run.status.name.toLowerCase()}`;
  return { ...told, state: 'failed', because, endedAt: run.closeTime?.toISOString() ?? new Date().toISOString() };
}

function running(clusterId: string, progress: VerifyProgress | null): CodedError {
  const where = progress ? ` (${progress.jobsCompared} of ${progress.jobsTotal} jobs)` : '';
  return new CodedError('VERIFY_RUNNING', `a verification of ${clusterId} is under way${where}; one runs at a time`, {
    clusterId,
  });
}
