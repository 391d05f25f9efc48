/** The control API: what the orchestrator asks of this node, on a port of its own, with a bearer token. And the metrics, behind the same token. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { type FastifyInstance, type FastifyReply, fastify } from 'fastify';
import { z } from 'zod';
import { controlPaths, type NodeControl, type NodeLoad, type NodeStatus } from '../dataplane/contract.ts';
import { CodedError, describeError } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import { PARTITION_COUNT_MAX } from '../ring/partition.ts';
import type { NodeMetrics } from './metrics.ts';

export interface ControlDeps {
  readonly control: NodeControl;
  /** Stands in the answer to `status`. */
  readonly load: () => NodeLoad;
  readonly token: string;
  readonly metrics: NodeMetrics;
  readonly log: Logger;
}

const command = z.object({
  move: z.string().min(1).max(500),
  token: z.int().min(1),
  partitions: z
    .array(
      z
        .int()
        .min(0)
        .max(PARTITION_COUNT_MAX - 1),
    )
    .min(1)
    .max(PARTITION_COUNT_MAX),
});
const duration = z.number().min(0).max(3_600_000);
const quiesce = command.extend({ limitMs: duration });
const fence = command.extend({ holdDeadlineMs: duration });

/** Not listening yet. Refusals are 409 `{ code, message, details }`; a body that is none of a command 400; anything else 500. */
export function createControlApi({ control, load, token, metrics, log }: ControlDeps): FastifyInstance {
  const app = fastify({ bodyLimit: 4 * 1024 * 1024, forceCloseConnections: true });
  const isToken = tokenCheck(token);

  app.addHook('onRequest', async (request, reply) => {
    const given = /^Bearer (.+)$/i.exec(request.headers.authorization ?? '')?.[1];
    if (given === undefined || !isToken(given))
      await reply.code(401).send({ code: 'UNAUTHORIZED', message: 'a bearer token is needed', details: {} });
  });
  app.setErrorHandler(async (error, request, reply) => {
    if (error instanceof z.ZodError) {
      const message = error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; ');
      return await reply.code(400).send({ code: 'BAD_REQUEST', message, details: {} });
    }
    if (error instanceof CodedError)
      return await reply.code(409).send({ code: error.code, message: error.message, details: error.details });
    const status = (error as { statusCode?: number }).statusCode ?? 500;
    if (status < 500)
      return await reply.code(status).send({ code: 'BAD_REQUEST', message: (error as Error).message, details: {} });
    log.error({ error: describeError(error), path: request.url }, 'command failed');
    return await reply.code(500).send({ code: 'INTERNAL', message: describeError(error), details: {} });
  });
  app.setNotFoundHandler(async (_request, reply) =>
    reply.code(404).send({ code: 'NOT_FOUND', message: 'no such path', details: {} }),
  );

  /** Aborts when the caller is gone: nobody waits for the answer any longer. */
  const signalOf = ({ raw }: FastifyReply): AbortSignal => {
    const gone = new AbortController();
    raw.once('close', () => {
      if (!raw.writableFinished) gone.abort(new Error('the caller has gone'));
    });
    return gone.signal;
  };
  app.get(controlPaths.status, async (_request, reply): Promise<NodeStatus> => {
    return { ...(await control.status(signalOf(reply))), load: load() };
  });
  app.get(controlPaths.pending, async (_request, reply) => ({
    pendingJobs: await control.countPending(signalOf(reply)),
  }));
  app.post(controlPaths.prepare, async (request, reply) =>
    control.prepare(command.parse(request.body), signalOf(reply)),
  );
  app.post(controlPaths.quiesce, async (request, reply) => {
    await control.quiesce(quiesce.parse(request.body), signalOf(reply));
    return {};
  });
  app.post(controlPaths.fence, async (request, reply) => {
    await control.fence(fence.parse(request.body), signalOf(reply));
    return {};
  });
  app.get('/metrics', async (_request, reply) => {
    return await reply.type(metrics.registry.contentType).send(await metrics.registry.metrics());
  });
  return app;
}

/** In constant time, whatever the lengths. */
function tokenCheck(token: string): (given: string) => boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  const expected = digest(token);
  return (given) => timingSafeEqual(digest(given), expected);
}
