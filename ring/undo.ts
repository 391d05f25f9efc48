/**
 * What takes an operation back: the partitions that it moved go to where they were before it, nodes that it removed come back first, nodes that it added go if
 * nothing is left at them. Read from the ring's log, so it is known also of an operation that Temporal has forgotten. Pure.
 */
import { RingRefusal } from './decide.ts';
import type { NodeId, RecordedEvent } from './events.ts';
import { type MoveRecord, movesOf } from './moves.ts';
import { formatPartitions, type PartitionIndex } from './partition.ts';
import { inTurns, type MovePlan, ordinalOf, type PlanOptions, partitionsPerMove, sealed } from './plan.ts';
import { fold, isDrained, isMember, noRing, partitionsOf, type Ring } from './ring.ts';

/** Later operations that a refusal names. */
const NAMED_MAX = 3;

/**
 * Throws RingRefusal: OPERATION_UNKNOWN where the log has no event of `operation`; UNDO_OUT_OF_ORDER where a later operation has moved one of its partitions
 * on, or removed a node that one of them would go back to; UNDO_IMPOSSIBLE where it has forgotten a node.
 */
export function planUndo(events: readonly RecordedEvent[], operation: string, options: PlanOptions = {}): MovePlan {
  const first = events.find((event) => event.operation === operation);
  const { clusterId } = events[0] ?? { clusterId: 'this cluster' };
  if (!first) {
    throw new RingRefusal('OPERATION_UNKNOWN', `the log of ${clusterId} has nothing of operation ${operation}`);
  }
  const ring = fold(noRing(clusterId), events);
  const lost = events.find((event) => event.operation === operation && event.event.type === 'node forgotten')?.event;
  if (lost?.type === 'node forgotten') {
    throw new RingRefusal(
      'UNDO_IMPOSSIBLE',
      `operation ${operation} has forgotten ${lost.node}: what is given up does not come back`,
    );
  }
  const { added, removed } = nodesChangedBy(events, operation, ring);
  const back = movedBy(events, operation, ring);
  const refuse = (what: string): never => {
    throw new RingRefusal(
      'UNDO_OUT_OF_ORDER',
      `operation ${operation} cannot be undone: ${what}${laterThan(events, operation)}`,
    );
  };
  const movedOn = back.flatMap(({ partition, now, left }) => (now === left ? [] : [partition]));
  if (movedOn.length > 0) refuse(`partitions ${formatPartitions(movedOn)} have moved on since`);
  for (const { partition, home } of back) {
    if (!isMember(ring, home) && !removed.includes(home))
      refuse(`${home}, which had partition ${partition}, is no member any more`);
  }

  const lists = new Map<string, { from: NodeId; to: NodeId; partitions: PartitionIndex[] }>();
  for (const { partition, now, home } of back) {
    const key = JSON.stringify([now, home]);
    const list = lists.get(key) ?? { from: now, to: home, partitions: [] };
    list.partitions.push(partition);
    lists.set(key, list);
  }
  const perMove = options.partitionsPerMoveMax ?? partitionsPerMove(ring.partitionCount);
  const before = ring.nodes.map(({ node }) => node);
  const emptied = leavable(ring, added, back);
  return sealed({
    clusterId,
    epoch: ring.epoch,
    nodesBefore: before,
    nodesAfter: [...before.filter((node) => !emptied.includes(node)), ...removed],
    added: removed,
    removed: emptied,
    moves: inTurns([...lists.values()], perMove, (_from, to) => `${to} had it before`),
    partitionsMoved: back.length,
    ...marksBack(events, operation, ring, back),
  });
}

interface Moved {
  readonly partition: PartitionIndex;
  /** Its owner before the operation, after it, and now. */
  readonly home: NodeId;
  readonly left: NodeId;
  readonly now: NodeId;
  /** Log position at which it left its home. */
  readonly leftAt: number;
}

/** Partitions that are not where they were before the operation, ascending. */
function movedBy(events: readonly RecordedEvent[], operation: string, ring: Ring): Moved[] {
  const homes = new Map<PartitionIndex, { readonly home: NodeId; readonly leftAt: number }>();
  const lefts = new Map<PartitionIndex, NodeId>();
  const handedOver = [...movesOf(events).values()].filter(
    (move): move is MoveRecord & { handedOver: object } => move.operation === operation && move.handedOver !== null,
  );
  handedOver.sort((a, b) => a.handedOver.version - b.handedOver.version);
  for (const { from, to, partitions, handedOver: at } of handedOver) {
    for (const partition of partitions) {
      if (!homes.has(partition)) homes.set(partition, { home: from, leftAt: at.version });
      lefts.set(partition, to);
    }
  }
  return [...homes]
    .map(([partition, was]) => ({ partition, ...was, left: lefts.get(partition)!, now: ring.owners[partition]! }))
    .filter(({ home, now }) => home !== now)
    .sort((a, b) => a.partition - b.partition);
}

/** Against the members when it began: `added` are members now, `removed` are none. */
function nodesChangedBy(
  events: readonly RecordedEvent[],
  operation: string,
  ring: Ring,
): { readonly added: NodeId[]; readonly removed: NodeId[] } {
  const members = new Set<NodeId>();
  let atStart: ReadonlySet<NodeId> | null = null;
  const joined = new Set<NodeId>();
  const left = new Set<NodeId>();
  for (const { event, operation: by } of events) {
    if (by === operation) atStart ??= new Set(members);
    if (event.type === 'ring made') for (const { node } of event.nodes) members.add(node);
    if (event.type === 'node joined') {
      members.add(event.node);
      if (by === operation) joined.add(event.node);
    }
    if (event.type === 'node forgotten') members.delete(event.node);
    if (event.type === 'node left') {
      members.delete(event.node);
      if (by === operation) left.add(event.node);
    }
  }
  return {
    added: [...joined].filter((node) => !atStart?.has(node) && isMember(ring, node)),
    removed: [...left].filter((node) => atStart?.has(node) && !isMember(ring, node)).sort(byOrdinal),
  };
}

/**
 * Nodes that it drained, or activated, and that still are so; and those that were drained already when it took from them what goes back, as they would be
 * given nothing else. A node that was drained later stays so: that was another decision.
 */
function marksBack(
  events: readonly RecordedEvent[],
  operation: string,
  ring: Ring,
  back: readonly Moved[],
): Pick<MovePlan, 'drains' | 'activates'> {
  const drained = new Map<NodeId, boolean>();
  const drainedAt = new Map<NodeId, number>();
  for (const { event, operation: by, version } of events) {
    if (event.type === 'node drained') drainedAt.set(event.node, version);
    if (by !== operation) continue;
    if (event.type === 'node drained') drained.set(event.node, true);
    if (event.type === 'node activated') drained.set(event.node, false);
  }
  const still = [...drained].filter(([node, is]) => isMember(ring, node) && isDrained(ring, node) === is);
  const emptied = back.flatMap(({ home, leftAt }) =>
    isDrained(ring, home) && (drainedAt.get(home) ?? leftAt) < leftAt ? [home] : [],
  );
  const activates = [...new Set([...still.flatMap(([node, is]) => (is ? [node] : [])), ...emptied])];
  const drains = still.flatMap(([node, is]) => (is ? [] : [node]));
  return { ...(drains.length > 0 ? { drains } : {}), ...(activates.length > 0 ? { activates } : {}) };
}

/** Of `added` those that own nothing once all is back, and above which no other node stays: the platform takes away the highest first. */
function leavable(ring: Ring, added: readonly NodeId[], back: readonly Moved[]): NodeId[] {
  const owned = (node: NodeId): number =>
    partitionsOf(ring, node).length -
    back.filter(({ now }) => now === node).length +
    back.filter(({ home }) => home === node).length;
  const staying = ring.nodes.map(({ node }) => node).filter((node) => !added.includes(node) || owned(node) > 0);
  const highestStaying = Math.max(-1, ...staying.map(ordinalOf));
  return added.filter((node) => !staying.includes(node) && ordinalOf(node) > highestStaying).sort(byOrdinal);
}

/** `: undo operation … first`, of those that changed the ring after it. */
function laterThan(events: readonly RecordedEvent[], operation: string): string {
  const last = events.findLastIndex((event) => event.operation === operation);
  const changing: readonly string[] = ['partitions handed over', 'node left', 'node joined'];
  const ids = new Set(
    events.slice(last + 1).flatMap(({ event, operation: by }) => (by && changing.includes(event.type) ? [by] : [])),
  );
  const named = [...ids].reverse().slice(0, NAMED_MAX);
  return named.length === 0 ? '' : `. Undo first, in this order: ${named.join(', ')}`;
}

const byOrdinal = (a: NodeId, b: NodeId): number => ordinalOf(a) - ordinalOf(b);
