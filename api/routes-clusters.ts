/** Reading: health, clusters, rings, logs. None of it needs Temporal. */
import type { FastifyInstance } from 'fastify';
import type { ClustersAnswer, HealthAnswer, LogAnswer, RingAnswer } from '../client/api-types.ts';
import type { OperationSummary, OperationsClient } from '../client/operations.ts';
import { codeOf } from '../kit/errors.ts';
import { clusterAnswer, ringAnswer } from './answers.ts';
import { logQuery, parseQuery, ringQuery } from './requests.ts';
import type { Rings } from './rings.ts';

/** Health needs no token: what it asks of others is asked at most this often, whoever calls. */
const HEALTH_EVERY_MS = 1_000;
/** A page that shows a ring must not wait long for a Temporal that is down. */
const OPERATION_PATIENCE_MS = 1_500;

interface InCluster {
  Params: { cluster: string };
}

export function clusterRoutes(api: FastifyInstance, rings: Rings, operations: OperationsClient): void {
  api.get('/v1/clusters', async (): Promise<ClustersAnswer> => {
    return { clusters: (await rings.clusters()).map((clusterId) => ({ clusterId })) };
  });

  api.get<InCluster>('/v1/clusters/:cluster', async ({ params }) => {
    const latest = await rings.latest(params.cluster);
    const [running, routers] = await Promise.all([
      runningOrUnreachable(operations, params.cluster),
      rings.routers(params.cluster),
    ]);
    return running === 'unreachable'
      ? clusterAnswer(latest, routers, null, 'unreachable')
      : clusterAnswer(latest, routers, running, 'ok');
  });

  api.get<InCluster>('/v1/clusters/:cluster/ring', async ({ params, query }): Promise<RingAnswer> => {
    const { at } = parseQuery(ringQuery, query);
    const { ring: latest } = await rings.latest(params.cluster);
    const { ring, at: recordedAt } = await rings.at(params.cluster, at ?? latest.version);
    return ringAnswer(ring, recordedAt);
  });

  /** The ring's events behind `after`. With `waitMs` the answer waits for the next one: how to follow. */
  api.get<InCluster>('/v1/clusters/:cluster/log', async ({ params, query }): Promise<LogAnswer> => {
    const { after, limit, waitMs } = parseQuery(logQuery, query);
    const events = await rings.log(params.cluster, after, limit, waitMs);
    return { events, next: events.at(-1)?.version ?? after };
  });
}

export function healthRoute(api: FastifyInstance, rings: Rings, operations: OperationsClient): void {
  let last: { until: number; answer: Promise<HealthAnswer> } | null = null;
  const look = async (): Promise<HealthAnswer> => {
    const [temporal, ringStore] = await Promise.all([operations.reachable(), rings.storeReachable()]);
    return { status: 'ok', ringStore: ringStore ? 'ok' : 'unreachable', temporal: temporal ? 'ok' : 'unreachable' };
  };
  api.get('/v1/health', async (): Promise<HealthAnswer> => {
    if (!last || last.until < performance.now()) last = { until: performance.now() + HEALTH_EVERY_MS, answer: look() };
    return await last.answer;
  });
}

async function runningOrUnreachable(
  operations: OperationsClient,
  clusterId: string,
): Promise<OperationSummary | null | 'unreachable'> {
  let timer: NodeJS.Timeout | undefined;
  const impatient = new Promise<'unreachable'>((resolve) => {
    timer = setTimeout(resolve, OPERATION_PATIENCE_MS, 'unreachable');
  });
  const asked = operations.running(clusterId).catch((error: unknown) => {
    if (codeOf(error)?.startsWith('TEMPORAL_')) return 'unreachable' as const;
    throw error;
  });
  try {
    return await Promise.race([asked, impatient]);
  } finally {
    clearTimeout(timer);
  }
}
