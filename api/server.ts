/** The HTTP API: Fastify, bearer token, errors with codes. */
import { randomUUID } from 'node:crypto';
import Fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from 'fastify';
import type { OperationsClient } from '../client/operations.ts';
import type { VerificationsClient } from '../client/verifications.ts';
import { CodedError } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import type { RingRepairs } from '../ringstore/repair.ts';
import type { RingStore } from '../ringstore/ringstore.ts';
import { tokenGuard } from './auth.ts';
import { sendError } from './errors.ts';
import { Rings } from './rings.ts';
import { clusterRoutes, healthRoute } from './routes-clusters.ts';
import { limitRoutes } from './routes-limits.ts';
import { nodeRoutes } from './routes-nodes.ts';
import { operationRoutes } from './routes-operations.ts';
import { repairRoutes } from './routes-repair.ts';
import { verifyRoutes } from './routes-verify.ts';

/** The largest body that makes sense is a reason of 500 characters. */
const BODY_BYTES_MAX = 64 * 1024;
const REQUEST_ID = /^[\w.-]{1,100}$/;

export interface ApiOptions {
  readonly store: RingStore;
  readonly operations: OperationsClient;
  readonly verifications: VerificationsClient;
  /** Without it there is no repair: a ring store in memory has none. */
  readonly repairs?: RingRepairs;
  /** What every request but `/v1/health` must carry. */
  readonly token: string;
  readonly log: Logger;
}

/**
 * Reads of rings and logs go on without Temporal, and of rings also without the ring store (as last known). What changes something needs both.
 * `close()` ends it, with requests that wait for the log.
 */
export function createApi(options: ApiOptions): FastifyInstance {
  const { store, operations, verifications, repairs, token, log } = options;
  const api = Fastify({
    loggerInstance: log as FastifyBaseLogger,
    logController: new LogController({ disableRequestLogging: true }), // one line per change of state, which the routes write
    bodyLimit: BODY_BYTES_MAX,
    forceCloseConnections: 'idle',
    // A caller's own id is kept, if it is harmless in a log.
    genReqId: ({ headers }) => {
      const given = headers['x-request-id'];
      return typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
    },
  });
  const rings = new Rings(store, log);
  const guard = tokenGuard(token);

  api.addHook('onRequest', async (request, reply) => {
    void reply.header('x-request-id', request.id).header('cache-control', 'no-store');
    if (request.routeOptions.url !== '/v1/health') guard(request.headers.authorization);
  });
  api.setErrorHandler<Error>(sendError);
  api.setNotFoundHandler(async ({ method, url }) => {
    throw new CodedError('ROUTE_UNKNOWN', `there is no ${method} ${url.slice(0, 100)}`);
  });
  healthRoute(api, rings, operations);
  clusterRoutes(api, rings, operations);
  limitRoutes(api, rings);
  operationRoutes(api, rings, operations);
  nodeRoutes(api, rings, operations);
  verifyRoutes(api, rings, verifications);
  if (repairs) repairRoutes(api, repairs);
  // Before the server waits for its requests: those that wait for the log get their answer now.
  api.addHook('preClose', () => rings.close());
  return api;
}
