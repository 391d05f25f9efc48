/** How errors leave the API: `{ code, message, details }` and a status; docs/errors.md lists the codes. */
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import type { ApiError } from '../client/api-types.ts';
import { CodedError } from '../kit/errors.ts';

const statusOf: Readonly<Record<string, number>> = {
  BODY_INVALID: 400,
  QUERY_INVALID: 400,
  UNAUTHORIZED: 401,
  CLUSTER_UNKNOWN: 404,
  NODE_UNKNOWN: 404,
  OPERATION_UNKNOWN: 404,
  RING_VERSION_UNKNOWN: 404,
  ROUTE_UNKNOWN: 404,
  VERIFY_UNKNOWN: 404,
  NODES_ALL_DRAINED: 409,
  OPERATION_AMBIGUOUS: 409,
  OPERATION_ENDED: 409,
  OPERATION_RUNNING: 409,
  PLAN_CHANGED: 409,
  RING_TOO_NEW: 409,
  UNDO_IMPOSSIBLE: 409,
  UNDO_OUT_OF_ORDER: 409,
  VERIFY_RUNNING: 409,
  BODY_TOO_LARGE: 413,
  CONTENT_TYPE_INVALID: 415,
  IDEMPOTENCY_KEY_REUSED: 422,
  LIMITS_INVALID: 422,
  TARGET_NODES_INVALID: 422,
  TEMPORAL_ERROR: 502,
  RING_LOG_BROKEN: 503,
  RING_STORE_BEHIND: 503,
  RING_STORE_NOT_MIGRATED: 503,
  RING_STORE_TOO_NEW: 503,
  RING_STORE_UNREACHABLE: 503,
  TEMPORAL_NAMESPACE_UNKNOWN: 503,
  TEMPORAL_NOT_PREPARED: 503,
  TEMPORAL_REFUSED: 503,
  TEMPORAL_UNREACHABLE: 503,
  WORKER_UNREACHABLE: 503,
};
/** What a workflow refuses comes with its own code: the request was understood and does not fit what is. */
const STATUS_REFUSED = 409;

/** Fastify's own refusals, by the codes that it gives them. */
const fastifyCodes: Readonly<Record<string, string>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: 'BODY_TOO_LARGE',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'CONTENT_TYPE_INVALID',
  FST_ERR_CTP_INVALID_JSON_BODY: 'BODY_INVALID',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'BODY_INVALID',
};

export function sendError(error: FastifyError | Error, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const coded = codedError(error);
  if (!coded) {
    // A bug, or weather that nobody named: the log has it whole, the caller gets the request's id to ask for it.
    request.log.error({ err: error }, 'request failed');
    return send(reply, 500, {
      code: 'INTERNAL',
      message: 'an error of ours; the log has it under this request',
      details: { requestId: request.id },
    });
  }
  const { code, message, details } = coded;
  const status = statusOf[code] ?? STATUS_REFUSED;
  if (status >= 500) request.log.warn({ code, error: message }, 'request failed');
  return send(reply, status, { code, message, details });
}

function codedError(error: FastifyError | Error): CodedError | null {
  if (error instanceof CodedError) return error;
  const { code, statusCode } = error as Partial<FastifyError>;
  const ours = code === undefined ? undefined : fastifyCodes[code];
  if (ours) return new CodedError(ours, error.message);
  return statusCode === 400 ? new CodedError('BODY_INVALID', error.message) : null;
}

function send(reply: FastifyReply, status: number, body: ApiError): FastifyReply {
  if (status === 401) void reply.header('www-authenticate', 'Bearer');
  return reply.status(status).send(body);
}
