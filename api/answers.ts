/** From rings to what the API shows of them. */
import type { ClusterAnswer, NodeAnswer, RingAnswer, RouterAnswer } from '../client/api-types.ts';
import type { OperationSummary } from '../client/operation-runs.ts';
import type { PartitionIndex } from '../ring/partition.ts';
import { isDrained, type Ring } from '../ring/ring.ts';
import type { RouterLease } from '../ringstore/ringstore.ts';
import type { LatestRing } from './rings.ts';

export function clusterAnswer(
  { ring, trouble }: LatestRing,
  routers: readonly RouterLease[] | null,
  operation: OperationSummary | null,
  temporal: 'ok' | 'unreachable',
): ClusterAnswer {
  return {
    ...common(ring),
    nodes: nodesOf(ring).map(({ owns: _, ...node }) => node),
    routers: routers?.map((lease) => routerAnswer(lease, ring)) ?? null,
    losses: ring.losses ?? [],
    operation,
    temporal,
    ringTrouble: trouble?.message ?? null,
    ...(ring.notUnderstood.length > 0 ? { notUnderstood: ring.notUnderstood } : {}),
  };
}

function routerAnswer(lease: RouterLease, ring: Ring): RouterAnswer {
  const { renewedMsAgo, ringAgeMs, confirmedMsAgo, upMs } = lease;
  return {
    ...lease,
    behind: Math.max(0, ring.version - lease.version),
    ringAgeMs: ringAgeMs + renewedMsAgo,
    confirmedMsAgo: confirmedMsAgo === null ? null : confirmedMsAgo + renewedMsAgo,
    upMs: upMs + renewedMsAgo,
  };
}

export function ringAnswer(ring: Ring, at: string | null): RingAnswer {
  return { ...common(ring), nodes: nodesOf(ring), at };
}

function common(ring: Ring) {
  const { clusterId, version, epoch, partitionCount, freeze, moves } = ring;
  return {
    clusterId,
    version,
    epoch,
    partitionCount,
    freeze: freeze && { operationId: freeze.operationId, workflowId: freeze.workflowId, holder: freeze.holder },
    openMoves: moves,
  };
}

function nodesOf(ring: Ring): (NodeAnswer & { owns: PartitionIndex[] })[] {
  const owns = new Map<string, PartitionIndex[]>(ring.nodes.map(({ node }) => [node, []]));
  ring.owners.forEach((owner, partition) => void owns.get(owner)?.push(partition));
  return ring.nodes.map(({ node, url }) => {
    const own = owns.get(node)!;
    return { node, url, partitions: own.length, drained: isDrained(ring, node), owns: own };
  });
}
