/** A ring store that came back from an older backup: what nodes and routers have seen, and giving it back. None of it needs Temporal. */
import type { FastifyInstance } from 'fastify';
import type { RepairAnswer } from '../client/api-types.ts';
import type { RingRepairs } from '../ringstore/repair.ts';
import { parseBody, repairBody } from './requests.ts';

interface InCluster {
  Params: { cluster: string };
}

export function repairRoutes(api: FastifyInstance, repairs: RingRepairs): void {
  /** Takes some seconds: everybody who follows the log is asked. Changes nothing. */
  api.get<InCluster>('/v1/clusters/:cluster/ring/copies', ({ params }): Promise<RepairAnswer> => {
    return repairs.look(params.cluster);
  });

  api.post<InCluster>('/v1/clusters/:cluster/ring/repair', async ({ params, body, log }): Promise<RepairAnswer> => {
    const { hash, setAside = false, without = [], actor = 'api', reason = '' } = parseBody(repairBody, body);
    const answer = await repairs.repair(params.cluster, { hash, setAside, without, actor, reason });
    const { clusterId, store, repair, repaired } = answer;
    log.warn(
      {
        ...{ clusterId, actor, reason, repaired, was: store.version, source: repair?.source },
        ...{ appended: repair?.append.length, setAside: repair?.setAside.length },
      },
      'ring repair',
    );
    return answer;
  });
}
