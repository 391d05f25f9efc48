/**
 * From a ring to a plan of moves: a pure value that can be shown, hashed, approved and executed.
 * Property (tested): the fewest partitions move; sizes end within one of each other; after any prefix of the moves the ring is valid and nearer the goal.
 */

import type { NodeId } from './events.ts';
import { murmur3 } from './murmur3.ts';
import type { PartitionIndex } from './partition.ts';
import { isDrained, isMember, partitionsOf, type Ring } from './ring.ts';

export interface PlannedMove {
  /** From 1. */
  readonly n: number;
  readonly from: NodeId;
  readonly to: NodeId;
  readonly partitions: readonly PartitionIndex[];
  /** Such as `node-2 joins`. */
  readonly because: string;
}

export interface MovePlan {
  readonly clusterId: string;
  /** The epoch that it was made for. */
  readonly epoch: number;
  readonly nodesBefore: readonly NodeId[];
  readonly nodesAfter: readonly NodeId[];
  readonly added: readonly NodeId[];
  readonly removed: readonly NodeId[];
  readonly moves: readonly PlannedMove[];
  readonly partitionsMoved: number;
  /** Nodes that are given nothing from then on; and such that are given something again. Absent where there are none. */
  readonly drains?: readonly NodeId[];
  readonly activates?: readonly NodeId[];
  /** A node that is given up, with what it holds: its partitions change owner by one event, and nothing is moved. */
  readonly forgets?: NodeId;
  /** Short digest of all of the above: an approved plan is executed or refused, never silently changed. */
  readonly hash: string;
}

export interface PlanOptions {
  /** Partitions in one move, at most. Default: `partitionsPerMove(partitionCount)`. */
  readonly partitionsPerMoveMax?: number;
}

/** A sixteenth of the key space, at most 256 partitions: what one move puts on hold at a time, and how many locks its cut-over takes. */
export function partitionsPerMove(partitionCount: number): number {
  return Math.max(1, Math.min(256, Math.floor(partitionCount / 16)));
}

/** Names of the nodes of a cluster of `count`: ordinals, as a StatefulSet gives them; the highest ordinals go first. */
export function nodeNames(count: number): NodeId[] {
  return Array.from({ length: count }, (_, ordinal) => `node-${ordinal}`);
}

/** The number at the end of a node's name; 0 where there is none. */
export const ordinalOf = (node: NodeId): number => Number(/\d+$/.exec(node)?.[0] ?? 0);

/** Those of `after` that may be given partitions: all but the drained ones. */
export const takersOf = (ring: Ring, after: readonly NodeId[]): NodeId[] =>
  after.filter((node) => !isDrained(ring, node) || !isMember(ring, node));

/** How many partitions each node of `after` should own, given what it owns now: none where it is drained, else within one of each other, with the larger shares where they save moves. */
export function targetSizes(ring: Ring, nodes: readonly NodeId[]): Map<NodeId, number> {
  const after = takersOf(ring, nodes);
  const owned = groupByOwner(ring);
  const count = (node: NodeId): number => owned.get(node)?.length ?? 0;
  const floor = Math.floor(ring.partitionCount / after.length);
  let larger = ring.partitionCount - floor * after.length;
  const byCount = [...after].sort((a, b) => count(b) - count(a) || compare(a, b));
  return new Map(byCount.map((node) => [node, larger-- > 0 ? floor + 1 : floor]));
}

/** Plans the way from `ring` to the nodes `after`, sizes even. No moves and no changes of nodes: nothing to do. */
export function planMoves(ring: Ring, after: readonly NodeId[], options: PlanOptions = {}): MovePlan {
  if (takersOf(ring, after).length === 0 || after.length > ring.partitionCount) {
    throw new Error(`${ring.partitionCount} partitions cannot be shared by ${after.length} nodes`);
  }
  const before = ring.nodes.map((facts) => facts.node);
  const added = after.filter((node) => !before.includes(node));
  const removed = before.filter((node) => !after.includes(node));
  const targets = targetSizes(ring, after);
  const perMove = options.partitionsPerMoveMax ?? partitionsPerMove(ring.partitionCount);

  const surplus = new Map<NodeId, PartitionIndex[]>();
  const deficit = new Map<NodeId, number>();
  const ownedBy = groupByOwner(ring);
  for (const node of new Set([...before, ...after])) {
    const owned = ownedBy.get(node) ?? [];
    const target = targets.get(node) ?? 0;
    if (owned.length > target) surplus.set(node, owned.slice(target));
    if (owned.length < target) deficit.set(node, target - owned.length);
  }

  // Round by round each donor gives one batch to the neediest receiver: neighbours in the list then use different nodes, so several moves can run at once.
  const moves: PlannedMove[] = [];
  while (surplus.size > 0) {
    const busy = new Set<NodeId>();
    for (const from of [...surplus.keys()]) {
      const rest = surplus.get(from)!;
      const to = neediest(deficit, busy);
      busy.add(to);
      const wanted = deficit.get(to)!;
      const partitions = rest.splice(0, Math.min(perMove, wanted, rest.length));
      if (rest.length === 0) surplus.delete(from);
      if (wanted === partitions.length) deficit.delete(to);
      else deficit.set(to, wanted - partitions.length);
      moves.push({ n: moves.length + 1, from, to, partitions, because: reasonFor(ring, from, to, added, removed) });
    }
  }
  return sealed({
    clusterId: ring.clusterId,
    epoch: ring.epoch,
    nodesBefore: before,
    nodesAfter: [...after],
    added,
    removed,
    moves,
    partitionsMoved: moves.reduce((sum, move) => sum + move.partitions.length, 0),
  });
}

/** A plan with its hash. */
export const sealed = (plan: Omit<MovePlan, 'hash'>): MovePlan => ({ ...plan, hash: digest(JSON.stringify(plan)) });

/** What is known of each pair of nodes as moves of at most `perMove`, a batch of each pair in turn: neighbours in the list then use different nodes. */
export function inTurns(
  pairs: readonly { readonly from: NodeId; readonly to: NodeId; readonly partitions: readonly PartitionIndex[] }[],
  perMove: number,
  because: (from: NodeId, to: NodeId) => string,
): PlannedMove[] {
  const moves: PlannedMove[] = [];
  for (let at = 0; pairs.some(({ partitions }) => at < partitions.length); at += perMove) {
    for (const { from, to, partitions } of pairs) {
      const batch = partitions.slice(at, at + perMove);
      if (batch.length > 0)
        moves.push({ n: moves.length + 1, from, to, partitions: batch, because: because(from, to) });
    }
  }
  return moves;
}

/**
 * Plans to give away all that `node` has, each batch to the one that has least by then; what the others have stays where it is. Nothing to do: it is drained, and
 * has nothing.
 */
export function planDrain(ring: Ring, node: NodeId, options: PlanOptions = {}): MovePlan {
  const nodes = ring.nodes.map((facts) => facts.node);
  const perMove = options.partitionsPerMoveMax ?? partitionsPerMove(ring.partitionCount);
  const pairs = sharesOf(ring, node).map((share) => ({ from: node, to: share.node, partitions: share.partitions }));
  return sealed({
    clusterId: ring.clusterId,
    epoch: ring.epoch,
    nodesBefore: nodes,
    nodesAfter: nodes,
    added: [],
    removed: [],
    moves: inTurns(pairs, perMove, () => `${node} is drained`),
    partitionsMoved: pairs.reduce((sum, { partitions }) => sum + partitions.length, 0),
    ...(isDrained(ring, node) ? {} : { drains: [node] }),
  });
}

/** Who gets what of what `node` has: each partition the one that has least by then. */
export function sharesOf(ring: Ring, node: NodeId): { node: NodeId; partitions: PartitionIndex[] }[] {
  const nodes = ring.nodes.map((facts) => facts.node);
  const takers = takersOf(ring, nodes).filter((other) => other !== node);
  if (!nodes.includes(node) || takers.length === 0)
    throw new Error(`what ${node} has cannot be shared by the others of ${nodes.join(', ')}`);
  const sizes = new Map(takers.map((taker) => [taker, partitionsOf(ring, taker).length]));
  const given = new Map<NodeId, PartitionIndex[]>();
  for (const partition of partitionsOf(ring, node)) {
    const to = takers.reduce((least, taker) => (sizes.get(taker)! < sizes.get(least)! ? taker : least));
    sizes.set(to, sizes.get(to)! + 1);
    given.set(to, [...(given.get(to) ?? []), partition]);
  }
  return [...given].map(([taker, partitions]) => ({ node: taker, partitions }));
}

/** Whether there is nothing to do: the nodes are those wanted, as they are wanted, and the ring is balanced. */
export const isNothingToDo = (plan: MovePlan): boolean =>
  plan.forgets === undefined &&
  [plan.moves, plan.added, plan.removed, plan.drains ?? [], plan.activates ?? []].every((list) => list.length === 0);

/** Plans to give a node up: its partitions go to the others as they are, without what it holds of them. */
export function planForget(ring: Ring, node: NodeId): MovePlan {
  sharesOf(ring, node); // throws where nobody could take them
  const before = ring.nodes.map((facts) => facts.node);
  return sealed({
    clusterId: ring.clusterId,
    epoch: ring.epoch,
    nodesBefore: before,
    nodesAfter: before.filter((other) => other !== node),
    added: [],
    removed: [],
    moves: [],
    partitionsMoved: 0,
    forgets: node,
  });
}

/** Partitions of every owner, ascending; one pass over the ring. */
function groupByOwner(ring: Ring): Map<NodeId, PartitionIndex[]> {
  const owned = new Map<NodeId, PartitionIndex[]>();
  ring.owners.forEach((owner, partition) => {
    const list = owned.get(owner);
    if (list) list.push(partition);
    else owned.set(owner, [partition]);
  });
  return owned;
}

function neediest(deficit: ReadonlyMap<NodeId, number>, busy: ReadonlySet<NodeId>): NodeId {
  let best: NodeId | undefined;
  const better = (node: NodeId): boolean =>
    best === undefined ||
    (busy.has(best) && !busy.has(node)) ||
    (busy.has(best) === busy.has(node) && deficit.get(node)! > deficit.get(best)!);
  for (const node of deficit.keys()) if (better(node)) best = node;
  if (best === undefined) throw new Error('surplus without deficit');
  return best;
}

function reasonFor(ring: Ring, from: NodeId, to: NodeId, added: readonly NodeId[], removed: readonly NodeId[]): string {
  if (removed.includes(from)) return `${from} leaves`;
  if (isDrained(ring, from)) return `${from} is drained`;
  if (added.includes(to)) return `${to} joins`;
  return `${from} has more than its share`;
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** 16 hex digits; names a plan, protects nothing. */
function digest(text: string): string {
  const bytes = new TextEncoder().encode(text);
  return [0, 0x9747b28c].map((seed) => murmur3(bytes, seed).toString(16).padStart(8, '0')).join('');
}
