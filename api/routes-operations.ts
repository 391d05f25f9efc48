/** Planning, starting, looking at and steering operations. */
import type { FastifyInstance, FastifyReply } from 'fastify';
import type { OperationAnswer, OperationsAnswer, PlanAnswer, UndoAnswer } from '../client/api-types.ts';
import type { OperationProgress, OperationsClient, ScaleInput } from '../client/operations.ts';
import { CodedError } from '../kit/errors.ts';
import { RingRefusal } from '../ring/decide.ts';
import type { RecordedEvent } from '../ring/events.ts';
import { isNothingToDo, type MovePlan, nodeNames, planMoves, takersOf } from '../ring/plan.ts';
import type { Ring } from '../ring/ring.ts';
import { planUndo } from '../ring/undo.ts';
import {
  operationBody,
  operationsQuery,
  operatorBody,
  parseBody,
  parseIdempotencyKey,
  parseQuery,
  planBody,
  plannedBody,
  retryBody,
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
      accepted(reply, request.params.cluster, answer.operationId);
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

  api.post<OnOperation>('/v1/clusters/:cluster/operations/:operation/undo', async (request, reply) => {
    const { cluster, operation } = request.params;
    const key = parseIdempotencyKey(request.headers['idempotency-key']);
    const answer = await undoOperation(rings, operations, cluster, operationId(operation), request.body ?? {}, key);
    if (answer.result === 'started') {
      request.log.info({ clusterId: cluster, operationId: answer.operationId, undoes: operation }, 'undo started');
      accepted(reply, cluster, answer.operationId);
    }
    return answer;
  });

  for (const action of steering) {
    const path = `/v1/clusters/:cluster/operations/:operation/${action}`;
    api.post<OnOperation>(path, async ({ params, body, log }): Promise<OperationProgress> => {
      const asked = parseBody(action === 'retry' ? retryBody : operatorBody, body ?? {});
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
  return await startPlanned(operations, ring, input, idempotencyKey, () => planFor(ring, targetNodes, planHash));
}

/** It goes on by itself, and here is where to look. */
export function accepted(reply: FastifyReply, clusterId: string, operationId: string): void {
  void reply.status(202).header('location', `/v1/clusters/${clusterId}/operations/${operationId}`);
}

/** Starts what `plan` says, once for a key and one at a time. Throws OPERATION_RUNNING, IDEMPOTENCY_KEY_REUSED, and what `plan` throws. */
export async function startPlanned(
  operations: OperationsClient,
  ring: Ring,
  input: ScaleInput,
  idempotencyKey: string | undefined,
  plan: () => MovePlan,
): Promise<Extract<OperationAnswer, { result: 'started' | 'nothing to do' }>> {
  if (idempotencyKey !== undefined) {
    const before = await operations.startedBefore(input, idempotencyKey);
    if (before) return { result: 'started', operationId: before.operationId, workflowId: before.workflowId };
  }
  const running = await operations.running(input.clusterId);
  if (running) {
    const { operationId, state } = running;
    const message = `operation ${operationId} of cluster ${input.clusterId} is under way (${state}); one runs at a time`;
    throw new CodedError('OPERATION_RUNNING', message, { clusterId: input.clusterId, operationId, state });
  }
  const planned = plan();
  // A ring that is still frozen, or has open moves, is what an ended run left behind: then an operation is needed even where no partition has to move.
  if (isNothingToDo(planned) && !ring.freeze && ring.moves.length === 0)
    return { result: 'nothing to do', plan: planned };
  const { operationId, workflowId } = await operations.start(input, { idempotencyKey });
  return { result: 'started', operationId, workflowId };
}

/** An operation that is under way takes itself back; one that has ended is taken back by another operation. */
async function undoOperation(
  rings: Rings,
  operations: OperationsClient,
  clusterId: string,
  prefix: string,
  rawBody: unknown,
  idempotencyKey: string | undefined,
): Promise<UndoAnswer> {
  const { dryRun, planHash, reason, actor } = parseBody(plannedBody, rawBody);
  const ring = await ringToChange(rings, clusterId);
  const events = await rings.wholeLog(clusterId);
  const running = await operations.running(clusterId);
  const underWay = running?.operationId.startsWith(prefix) ?? false;
  const operation = underWay ? running!.operationId : operationInLog(events, prefix);
  if (underWay && !dryRun)
    return { result: 'undoing', progress: await operations.undo(clusterId, running!.operationId, { reason, actor }) };
  if (operation === null || !events.some((event) => event.operation === operation)) {
    // It has changed nothing, or there is no such operation: Temporal knows.
    if (!underWay) await operations.progress(clusterId, prefix);
    return { result: 'nothing to do', plan: null, underWay };
  }
  const plan = (): MovePlan => approved(undoPlanFor(events, operation), planHash);
  if (dryRun) {
    const shown = plan();
    return { result: isNothingToDo(shown) ? 'nothing to do' : 'plan', plan: shown, underWay };
  }
  const input: ScaleInput = { clusterId, goal: { kind: 'undo', operation }, reason, planHash, actor };
  const answer = await startPlanned(operations, ring, input, idempotencyKey, plan);
  return answer.result === 'started' ? answer : { ...answer, underWay };
}

function undoPlanFor(events: readonly RecordedEvent[], operation: string): MovePlan {
  try {
    return planUndo(events, operation);
  } catch (error) {
    if (error instanceof RingRefusal) throw new CodedError(error.code, error.message, { operation });
    throw error;
  }
}

/** The whole id of an operation of which the log has something; null where there is none. Throws OPERATION_AMBIGUOUS. */
function operationInLog(events: readonly RecordedEvent[], prefix: string): string | null {
  const ids = [...new Set(events.flatMap(({ operation }) => (operation?.startsWith(prefix) ? [operation] : [])))];
  if (ids.length > 1 && !ids.includes(prefix)) {
    const named = ids.slice(0, 5);
    throw new CodedError('OPERATION_AMBIGUOUS', `${prefix} begins the ids of ${named.join(', ')}`, { ids: named });
  }
  return ids.includes(prefix) ? prefix : (ids[0] ?? null);
}

/** The latest ring, if plans can be made on it. Throws RING_TOO_NEW, and what troubles the ring store: nothing is planned on a ring that may be old. */
export async function ringToChange(rings: Rings, clusterId: string): Promise<Ring> {
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

function planFor(ring: Ring, targetNodes: number, planHash: string | undefined): MovePlan {
  const wanted = nodeNames(targetNodes);
  if (takersOf(ring, wanted).length === 0) {
    const message = `all of ${wanted.join(', ')} are drained: activate one of them first`;
    throw new CodedError('NODES_ALL_DRAINED', message, { nodes: wanted });
  }
  return approved(planMoves(ring, wanted), planHash);
}

export function approved(plan: MovePlan, planHash: string | undefined): MovePlan {
  if (planHash === undefined || planHash === plan.hash) return plan;
  throw new CodedError(
    'PLAN_CHANGED',
    `the plan is ${plan.hash} by now (epoch ${plan.epoch}), not ${planHash}: look at it and approve it anew`,
    { planHash: plan.hash, epoch: plan.epoch },
  );
}

/** Ids are UUIDs, or the beginning of one: anything else needs no look-up. */
function operationId(text: string): string {
  if (/^[0-9a-f-]{1,36}$/.test(text)) return text;
  throw new CodedError('OPERATION_UNKNOWN', `${JSON.stringify(text.slice(0, 50))} is no operation's id`);
}
