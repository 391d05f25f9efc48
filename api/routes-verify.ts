/** Verifying: certificates out of the ring's log, which needs no Temporal; the cluster and the rows by a workflow, as only workers reach the nodes. */
import type { FastifyInstance } from 'fastify';
import type { CertificatesAnswer, CertifiedMove, VerificationAnswer, VerifyStarted } from '../client/api-types.ts';
import type { VerificationsClient } from '../client/verifications.ts';
import { CodedError } from '../kit/errors.ts';
import { type MoveRecord, movesOf } from '../ring/moves.ts';
import { certificatesQuery, operatorBody, parseBody, parseQuery, verifyBody, verifyQuery } from './requests.ts';
import type { Rings } from './rings.ts';

interface InCluster {
  Params: { cluster: string };
}

export function verifyRoutes(api: FastifyInstance, rings: Rings, verifications: VerificationsClient): void {
  api.get<InCluster>('/v1/clusters/:cluster/certificates', async ({ params, query }): Promise<CertificatesAnswer> => {
    const { operation: prefix, partitions } = parseQuery(certificatesQuery, query);
    const { operation, moves } = await operationInLog(rings, params.cluster, prefix);
    return { clusterId: params.cluster, operation, moves: moves.map((move) => certifiedMove(move, partitions)) };
  });

  api.post<InCluster>('/v1/clusters/:cluster/verify', async (request, reply): Promise<VerifyStarted> => {
    const { cluster: clusterId } = request.params;
    const { samples, operation: prefix, ...asked } = parseBody(verifyBody, request.body ?? {});
    await rings.latest(clusterId); // CLUSTER_UNKNOWN rather than a workflow that says so
    const operation = prefix === undefined ? undefined : (await operationInLog(rings, clusterId, prefix)).operation;
    const started = await verifications.start({ ...asked, clusterId, operation, samplesMax: samples });
    request.log.info({ clusterId, ...started, full: asked.full ?? false }, 'verification started');
    void reply.status(202);
    return started;
  });

  api.get<InCluster>('/v1/clusters/:cluster/verify', async ({ params, query }): Promise<VerificationAnswer> => {
    const { full } = parseQuery(verifyQuery, query);
    await rings.latest(params.cluster);
    return await verifications.progress(params.cluster, full);
  });

  api.post<InCluster>(
    '/v1/clusters/:cluster/verify/stop',
    async ({ params, body, log }): Promise<VerificationAnswer> => {
      const asked = parseBody(operatorBody, body ?? {});
      await rings.latest(params.cluster);
      const progress = await verifications.stop(params.cluster, asked);
      log.info({ clusterId: params.cluster, state: progress.state }, 'stop of a verification asked for');
      return progress;
    },
  );
}

/** An operation by its id or a unique beginning, with its moves. Throws OPERATION_UNKNOWN (also where it moved nothing), OPERATION_AMBIGUOUS. */
async function operationInLog(
  rings: Rings,
  clusterId: string,
  prefix: string,
): Promise<{ operation: string; moves: MoveRecord[] }> {
  const moves = [...movesOf(await rings.wholeLog(clusterId)).values()];
  const ids = [...new Set(moves.flatMap(({ operation }) => (operation?.startsWith(prefix) ? [operation] : [])))];
  const exact = ids.find((id) => id === prefix);
  const [only, another] = exact ? [exact] : ids;
  if (only === undefined)
    throw new CodedError('OPERATION_UNKNOWN', `the log of ${clusterId} has no moves of an operation ${prefix}`, {
      clusterId,
    });
  if (another !== undefined)
    throw new CodedError('OPERATION_AMBIGUOUS', `${prefix} begins the ids of ${ids.slice(0, 5).join(', ')}`, {
      ids: ids.slice(0, 5),
    });
  return { operation: only, moves: moves.filter(({ operation }) => operation === only) };
}

function certifiedMove({ proof, ...move }: MoveRecord, withPartitions: boolean): CertifiedMove {
  const { certificate } = move;
  return {
    ...move,
    certificate:
      certificate && !withPartitions
        ? { ...certificate, tables: certificate.tables.map((table) => ({ ...table, partitions: [] })) }
        : certificate,
    jobsProven: proof?.jobsPending ?? null,
    uncertifiedBecause: certificate ? null : whyNone(move),
  };
}

function whyNone({ state, accepted }: Pick<MoveRecord, 'state' | 'accepted'>): string | null {
  if (accepted) return `${accepted.by} has accepted that its sides differ (${accepted.reason}): ${accepted.difference}`;
  if (state === 'handed over')
    return 'its source and target have not been found equal yet: the operation says why it waits';
  return state === 'completed' ? 'a worker of an older version completed it, which made none' : null;
}
