/** What Temporal's client throws, as errors with our codes. */
import {
  ApplicationFailure,
  NamespaceNotFoundError,
  ServiceError,
  WorkflowNotFoundError,
  WorkflowUpdateFailedError,
  WorkflowUpdateRPCTimeoutOrCancelledError,
} from '@temporalio/client';
import { CodedError } from '../kit/errors.ts';

/** gRPC status codes; the client's own list is in a package that is not ours to import. */
const grpc = {
  cancelled: 1,
  invalidArgument: 3,
  deadlineExceeded: 4,
  permissionDenied: 7,
  failedPrecondition: 9,
  unavailable: 14,
  unauthenticated: 16,
} as const;

/**
 * `asked`: the Temporal server itself, or the workflow, which answers only through a worker: silence means the one or the other.
 * Codes: TEMPORAL_UNREACHABLE, TEMPORAL_REFUSED, TEMPORAL_NAMESPACE_UNKNOWN, TEMPORAL_NOT_PREPARED, WORKER_UNREACHABLE, OPERATION_UNKNOWN, a workflow's own
 * refusal, and TEMPORAL_ERROR for the rest.
 */
export function codedTemporalError(error: unknown, asked: 'server' | 'workflow'): CodedError {
  if (error instanceof CodedError) return error;
  const options = { cause: error };
  if (error instanceof WorkflowNotFoundError) {
    return new CodedError(
      'OPERATION_UNKNOWN',
      'Temporal knows no such operation',
      { workflowId: error.workflowId },
      options,
    );
  }
  if (error instanceof NamespaceNotFoundError) {
    return new CodedError('TEMPORAL_NAMESPACE_UNKNOWN', `Temporal has no namespace ${error.namespace}`, {}, options);
  }
  if (error instanceof WorkflowUpdateFailedError) return refusalOf(error);
  if (error instanceof WorkflowUpdateRPCTimeoutOrCancelledError) return silence(asked, error);
  const status = grpcStatusOf(error);
  if (!status) {
    return new CodedError('TEMPORAL_ERROR', error instanceof Error ? error.message : String(error), {}, options);
  }
  return ofStatus(status, asked, options);
}

interface GrpcStatus {
  readonly code: number;
  readonly details: string;
}

function ofStatus({ code, details }: GrpcStatus, asked: 'server' | 'workflow', options: ErrorOptions): CodedError {
  switch (code) {
    case grpc.deadlineExceeded:
    case grpc.cancelled:
      return silence(asked, options.cause);
    case grpc.unavailable:
      return new CodedError('TEMPORAL_UNREACHABLE', 'Temporal cannot be reached', {}, options);
    case grpc.unauthenticated:
    case grpc.permissionDenied:
      return new CodedError('TEMPORAL_REFUSED', `Temporal refuses us: ${details}`, {}, options);
    case grpc.failedPrecondition:
      // "no poller seen for task queue recently, worker may be down"
      if (/poller/i.test(details)) return silence('workflow', options.cause);
      break;
    case grpc.invalidArgument:
      if (/search attribute/i.test(details)) {
        return new CodedError(
          'TEMPORAL_NOT_PREPARED',
          `the namespace lacks our search attributes (Keyword): RingmasterCluster, RingmasterState, RingmasterBlockedOn (${details})`,
          {},
          options,
        );
      }
      break;
  }
  return new CodedError('TEMPORAL_ERROR', details, {}, options);
}

function silence(asked: 'server' | 'workflow', cause: unknown): CodedError {
  return asked === 'server'
    ? new CodedError('TEMPORAL_UNREACHABLE', 'Temporal does not answer', {}, { cause })
    : new CodedError('WORKER_UNREACHABLE', 'no worker answers for the operation: does one run?', {}, { cause });
}

/** The workflow's validators and handlers refuse by ApplicationFailures whose type is the code. */
function refusalOf(error: WorkflowUpdateFailedError): CodedError {
  const { cause } = error;
  const type = cause instanceof ApplicationFailure ? cause.type : null;
  const code = type && /^[A-Z][A-Z_]+$/.test(type) ? type : 'REQUEST_REFUSED';
  return new CodedError(code, cause?.message ?? error.message, {}, { cause: error });
}

function grpcStatusOf(error: unknown): GrpcStatus | null {
  const candidate = error instanceof ServiceError ? error.cause : error;
  const { code, details } = (candidate ?? {}) as { code?: unknown; details?: unknown };
  return typeof code === 'number' ? { code, details: typeof details === 'string' ? details : '' } : null;
}
