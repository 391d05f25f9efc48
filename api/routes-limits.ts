/** The limits of a cluster's moves: looking at them and setting them. None of it needs Temporal. */
import type { FastifyInstance } from 'fastify';
import type { LimitAnswer, LimitsAnswer } from '../client/api-types.ts';
import { CodedError } from '../kit/errors.ts';
import { type LimitsChange, limitNames } from '../ring/limits.ts';
import { limitsOf, type Ring } from '../ring/ring.ts';
import { limitsBody, parseBody } from './requests.ts';
import type { Rings } from './rings.ts';

interface InCluster {
  Params: { cluster: string };
}

export function limitRoutes(api: FastifyInstance, rings: Rings): void {
  api.get<InCluster>('/v1/clusters/:cluster/limits', async ({ params }): Promise<LimitsAnswer> => {
    return await answerOf(rings, (await rings.latest(params.cluster)).ring);
  });

  /** What the body does not name stays as it is. Setting what is set already appends nothing. */
  api.patch<InCluster>('/v1/clusters/:cluster/limits', async ({ params, body, log }): Promise<LimitsAnswer> => {
    const { reason = '', actor = 'api', ...named } = parseBody(limitsBody, body);
    const change = Object.fromEntries(Object.entries(named).filter(([, value]) => value !== undefined)) as LimitsChange;
    if (Object.keys(change).length === 0) {
      const problem = `must name a limit: ${limitNames.join(', ')}`;
      throw new CodedError('BODY_INVALID', `body: ${problem}`, { problems: [problem] });
    }
    const ring = await rings.setLimits(params.cluster, change, { actor, reason, operation: null });
    log.info({ clusterId: params.cluster, version: ring.version, limits: limitsOf(ring) }, 'limits set');
    return await answerOf(rings, ring);
  });
}

/** Who set what is read from the log: the ring only knows the versions. */
async function answerOf(rings: Rings, ring: Ring): Promise<LimitsAnswer> {
  const { clusterId, version } = ring;
  const values = limitsOf(ring);
  const setAt = ring.limits?.setAt ?? {};
  const events = await rings.events(clusterId, Object.values(setAt));
  const limits = limitNames.map((name): [string, LimitAnswer] => {
    const event = events.get(setAt[name] ?? 0);
    const set = event ? { version: event.version, by: event.actor, reason: event.reason, at: event.at } : null;
    return [name, { value: values[name], set }];
  });
  return { clusterId, version, limits: Object.fromEntries(limits) as LimitsAnswer['limits'] };
}
