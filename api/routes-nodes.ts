/** Nodes: draining one is an operation, activating it one event of the ring's log. */
import type { FastifyInstance } from 'fastify';
import type { ActivateAnswer, OperationAnswer } from '../client/api-types.ts';
import type { OperationsClient, ScaleInput } from '../client/operations.ts';
import { CodedError } from '../kit/errors.ts';
import { isNothingToDo, type MovePlan, planDrain, planForget, takersOf } from '../ring/plan.ts';
import { isMember, type Ring } from '../ring/ring.ts';
import { forgetBody, operatorBody, parseBody, parseIdempotencyKey, plannedBody } from './requests.ts';
import type { Rings } from './rings.ts';
import { accepted, approved, ringToChange, startPlanned } from './routes-operations.ts';

interface OnNode {
  Params: { cluster: string; node: string };
}

export function nodeRoutes(api: FastifyInstance, rings: Rings, operations: OperationsClient): void {
  api.post<OnNode>('/v1/clusters/:cluster/nodes/:node/drain', async (request, reply): Promise<OperationAnswer> => {
    const { cluster: clusterId, node } = request.params;
    const key = parseIdempotencyKey(request.headers['idempotency-key']);
    const { dryRun, planHash, reason, actor } = parseBody(plannedBody, request.body ?? {});
    const ring = await ringToChange(rings, clusterId);
    const plan = (): MovePlan => approved(drainPlanFor(ring, node), planHash);
    if (dryRun) {
      const shown = plan();
      return { result: isNothingToDo(shown) ? 'nothing to do' : 'plan', plan: shown };
    }
    const input: ScaleInput = { clusterId, goal: { kind: 'drain', node }, reason, planHash, actor };
    const answer = await startPlanned(operations, ring, input, key, plan);
    if (answer.result === 'started') {
      request.log.info({ clusterId, node, operationId: answer.operationId }, 'drain started');
      accepted(reply, clusterId, answer.operationId);
    }
    return answer;
  });

  api.post<OnNode>('/v1/clusters/:cluster/nodes/:node/forget', async (request, reply): Promise<OperationAnswer> => {
    const { cluster: clusterId, node } = request.params;
    const key = parseIdempotencyKey(request.headers['idempotency-key']);
    const { dryRun, planHash, reason, actor, acceptLoss } = parseBody(forgetBody, request.body ?? {});
    const ring = await ringToChange(rings, clusterId);
    const plan = (): MovePlan => approved(forgetPlanFor(ring, node), planHash);
    if (dryRun) return { result: 'plan', plan: plan() };
    const input: ScaleInput = { clusterId, goal: { kind: 'forget', node, acceptLoss }, reason, planHash, actor };
    const answer = await startPlanned(operations, ring, input, key, plan);
    if (answer.result === 'started') {
      request.log.warn({ clusterId, node, operationId: answer.operationId, reason }, 'a node is to be forgotten');
      accepted(reply, clusterId, answer.operationId);
    }
    return answer;
  });

  api.post<OnNode>(
    '/v1/clusters/:cluster/nodes/:node/activate',
    async ({ params, body, log }): Promise<ActivateAnswer> => {
      const { cluster: clusterId, node } = params;
      const { reason = '', actor = 'unknown' } = parseBody(operatorBody, body ?? {});
      const { version } = await rings.append(
        clusterId,
        { type: 'activate node', node },
        { actor, reason, operation: null },
      );
      log.info({ clusterId, node, version }, 'node activated');
      return { node, version };
    },
  );
}

function drainPlanFor(ring: Ring, node: string): MovePlan {
  assertOthersTake(ring, node);
  return planDrain(ring, node);
}

function forgetPlanFor(ring: Ring, node: string): MovePlan {
  assertOthersTake(ring, node);
  return planForget(ring, node);
}

/** Throws NODE_UNKNOWN, NODES_ALL_DRAINED. */
function assertOthersTake(ring: Ring, node: string): void {
  if (!isMember(ring, node)) {
    const name = JSON.stringify(node.slice(0, 100));
    throw new CodedError('NODE_UNKNOWN', `${name} is no member of ${ring.clusterId}`, { clusterId: ring.clusterId });
  }
  const others = ring.nodes.flatMap((facts) => (facts.node === node ? [] : [facts.node]));
  if (takersOf(ring, others).length === 0)
    throw new CodedError('NODES_ALL_DRAINED', `without ${node} no member is left that takes partitions`, { node });
}
