/** Planning, starting, looking at and steering operations. */
import type { FastifyInstance } from 'fastify';
import type { OperationAnswer, OperationsAnswer, PlanAnswer } from '../client/api-types.ts';
import type { OperationProgress, OperationsClient, ScaleInput } from '../client/operations.ts';
import { CodedError } from '../kit/errors.ts';
import { isNothingToDo, type MovePlan, nodeNames, planMoves } from '../ring/plan.ts';
import type { Ring } from '../ring/ring.ts';
import {
  operationBody,
  operationsQuery,
  operatorBody,
  parseBody,
  parseIdempotencyKey,
  parseQuery,
  planBody,
  targetNodesFor,
} from './requests.ts';
import type { Rings } from './rings.ts';

interface InCluster {
  Params: { cluster: string };
}
interface OnOperation {
  Params: { cluster: string; operation: string };
}

const steering = ['pause', 'resume', 'retry', 'cancel'] as const;

export function operationRoutes(api: FastifyInstance, rings: Rings, operations: OperationsClient): void {
  api.post<InCluster>('/v1/clusters/:cluster/plan', async ({ params, body }): Promise<PlanAnswer> => {
    const { targetNodes, planHash } = parseBody(planBody, body);
    const ring = await ringToChange(rings, params.cluster);
    const plan = planFor(ring, targetNodesFor(ring, targetNodes), planHash);
    return { result: isNothingToDo(plan) ? 'nothing to do' : 'plan', plan };
  });

  api.post<InCluster>('/v1/clusters/:cluster/operations', async (request, reply): Promise<OperationAnswer> => {
    const key = parseIdempotencyKey(request.headers['idempotency-key']);
    const answer = await startOperation(rings, operations, request.params.cluster, request.body, key);
    if (answer.result === 'started') {
      request.log.info({ clusterId: request.params.cluster, operationId: answer.operationId }, 'operation started');
      const at = `/v1/clusters/${request.params.cluster}/operations/${answer.operationId}`;
      void reply.status(202).header('location', at);
    }
    return answer;
  });

  api.get<InCluster>('/v1/clusters/:cluster/operations', async ({ params, query }): Promise<OperationsAnswer> => {
    const { limit } = parseQuery(operationsQuery, query);
    await rings.latest(params.cluster); // CLUSTER_UNKNOWN rather than an empty list
    return { operations: await operations.list(params.cluster, limit) };
  });

  api.get<OnOperation>(
    '/v1/clusters/:cluster/operations/:operation',
    async ({ params }): Promise<OperationProgress> => {
      await rings.latest(params.cluster);
      return await operations.progress(params.cluster, operationId(params.operation));
    },
  );

  for (const action of steering) {
    const path = `/v1/clusters/:cluster/operations/:operation/${action}`;
    api.post<OnOperation>(path, async ({ params, body, log }): Promise<OperationProgress> => {
      const asked = parseBody(operatorBody, body ?? {});
      await rings.latest(params.cluster);
      const progress = await operations[action](params.cluster, operationId(params.operation), asked);
      log.info({ clusterId: params.cluster, operationId: progress.operationId, state: progress.state }, action);
      return progress;
    });
  }
}

/**
 * Refuses before anything is started, in this order: the body, the cluster, the number of nodes, a key that was used otherwise, an operation that runs,
 * another plan than the approved one. A repeated request comes before the last three: what it asked for has been done, and the ring is another by now.
 */
async function startOperation(
  rings: Rings,
  operations: OperationsClient,
  clusterId: string,
  rawBody: unknown,
  idempotencyKey: string | undefined,
): Promise<OperationAnswer> {
  const body = parseBody(operationBody, rawBody);
  const ring = await ringToChange(rings, clusterId);
  const targetNodes = targetNodesFor(ring, body.targetNodes);
  if (body.dryRun) return { result: 'plan', plan: planFor(ring, targetNodes, body.planHash) };

  const { reason, planHash, actor, deleteVolumes } = body;
  const input: ScaleInput = { clusterId, targetNodes, reason, planHash, actor, deleteVolumes };
  if (idempotencyKey !== undefined) {
    const before = await operations.startedBefore(input, idempotencyKey);
    if (before) return { result: 'started', operationId: before.operationId, workflowId: before.workflowId };
  }
  const running = await operations.running(clusterId);
  if (running) {
    const { operationId, state } = running;
    const message = `operation ${operationId} of cluster ${clusterId} is under way (${state}); one runs at a time`;
    throw new CodedError('OPERATION_RUNNING', message, { clusterId, operationId, state });
  }
  const plan = planFor(ring, targetNodes, planHash);
  // A ring that is still frozen, or has open moves, is what an ended run left behind: then an operation is needed even where no partition has to move.
  if (isNothingToDo(plan) && !ring.freeze && ring.moves.length === 0) return { result: 'nothing to do', plan };
  const { operationId, workflowId } = await operations.start(input, { idempotencyKey });
  return { result: 'started', operationId, workflowId };
}

/** The latest ring, if plans can be made on it. Throws RING_TOO_NEW, and what troubles the ring store: nothing is planned on a ring that may be old. */
async function ringToChange(rings: Rings, clusterId: string): Promise<Ring> {
  const { ring, trouble } = await rings.latest(clusterId);
  if (trouble) throw trouble;
  if (ring.notUnderstood.length > 0) {
    const types = ring.notUnderstood.join(', ');
    throw new CodedError(
      'RING_TOO_NEW',
      `the log of ${clusterId} has events of a newer version (${types}): upgrade first`,
    );
  }
  return ring;
}

function planFor(ring: Ring, targetNodes: number, approved: string | undefined): MovePlan {
  const plan = planMoves(ring, nodeNames(targetNodes));
  if (approved === undefined || approved === plan.hash) return plan;
  throw new CodedError(
    'PLAN_CHANGED',
    `the plan is ${plan.hash} by now (epoch ${ring.epoch}), not ${approved}: look at it and approve it anew`,
    { planHash: plan.hash, epoch: ring.epoch },
  );
}

/** Ids are UUIDs, or the beginning of one: anything else needs no look-up. */
function operationId(text: string): string {
  if (/^[0-9a-f-]{1,36}$/.test(text)) return text;
  throw new CodedError('OPERATION_UNKNOWN', `${JSON.stringify(text.slice(0, 50))} is no operation's id`);
}
