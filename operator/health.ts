/**
 * What the kubelet asks, over HTTP, without a token: nothing in it is secret.
 *   GET /health   200 while the process does its work. 503: no look has ended for LOOK_WITHIN_MS, or the API server has not answered for ANSWER_WITHIN_MS, which a
 *                 restart may mend (a wedged connection, credentials that are read once)
 *   GET /ready    200 once the RingCluster was looked for and changes of it are heard of; 503 with KUBE_FORBIDDEN and the like while they are not
 * Both name what is in trouble. Temporal and the ring store make neither fail: a restart brings neither back.
 */
import Fastify, { type FastifyInstance } from 'fastify';
import type { ControllerHealth } from './controller.ts';

/** A look's own requests have deadlines of 5 to 10 s each, and there are fewer than ten; the longest pause is 30 s. */
export const LOOK_WITHIN_MS = 180_000;
/** An API server's upgrade takes less. */
export const ANSWER_WITHIN_MS = 300_000;

export function createHealthServer(health: () => ControllerHealth): FastifyInstance {
  const server = Fastify({ logger: false, forceCloseConnections: true });
  server.get('/health', async (_request, reply) => {
    const { lookedAt, kubeAnsweredAt, troubles } = health();
    const now = performance.now();
    const isStuck = now - lookedAt > LOOK_WITHIN_MS;
    const isCutOff = now - kubeAnsweredAt > ANSWER_WITHIN_MS;
    const status = isStuck ? 'stuck' : isCutOff ? 'cut off from the API server' : 'ok';
    return reply.code(status === 'ok' ? 200 : 503).send({ status, troubles });
  });
  server.get('/ready', async (_request, reply) => {
    const { isReady, troubles } = health();
    return reply.code(isReady ? 200 : 503).send({ status: isReady ? 'ready' : 'not ready', troubles });
  });
  return server;
}
