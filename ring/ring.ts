/**
 * The ring: which node owns which partition. Pure: one code runs in workflows, nodes, routers, the page and tests.
 * Every change is check, apply, check (after etcd's raft, confchange.go); `evolve` never refuses, `decide` (decide.ts) does.
 */
import type { HolderIdentity, MoveId, NodeFacts, NodeId, RecordedEvent, RingEvent } from './events.ts';
import { type LimitsSet, type MoveLimits, noLimitsSet, withChange } from './limits.ts';
import { formatPartitions, isPartitionCount, type PartitionIndex } from './partition.ts';

export interface Freeze extends HolderIdentity {
  /** Grows with every freeze and take-over; appends of an older holder are refused. */
  readonly holder: number;
}

/** A move between its start and its completion. Aborted moves are gone at once. */
export interface OpenMove {
  readonly move: MoveId;
  readonly from: NodeId;
  readonly to: NodeId;
  readonly partitions: readonly PartitionIndex[];
  /** `started`: may still be aborted. `handed over`: only forward, until the source has cleaned up. */
  readonly state: 'started' | 'handed over';
  /** Log position of the latest claim, which is the move's token; 0 before the first. */
  readonly token: number;
  /** Who claimed it last: the activity attempt's id. */
  readonly attempt: string | null;
  readonly startedAt: number;
  /** Log position of the hand-over; 0 before it. */
  readonly handedOverAt: number;
  /** Prefix → jobs that the hand-over's proof found pending; null before it. The move's certificate has to fit. */
  readonly proven: Readonly<Record<string, number>> | null;
}

/** A promise that was given up in the open: it stays in every report. */
export interface Loss {
  /** Log position of the event that says so. */
  readonly version: number;
  /**
   * `difference`: what a move's source and target hold is not the same, and the move was completed all the same. `node`: a node was forgotten, and what it held
   * is lost.
   */
  readonly kind: 'difference' | 'node';
  readonly move?: MoveId;
  readonly node?: NodeId;
  readonly by: string;
  readonly reason: string;
  /** In words. */
  readonly what: string;
}

/**
 * Drawn as  `e7 {a b c} [a a b b] frozen:run-3 moves{2:b→c}`
 *   R1 every partition has exactly one owner, and that owner is a member
 *   R2 epoch grows by one when partitions change owner, version with every event
 *   R3 moves are started only while an operation holds the ring; an unfrozen ring has no started move
 *   R4 a started move goes from the owner of all its partitions to another member; no partition is in two started moves
 *   R5 holder numbers, tokens and versions only grow; a token is not above the version
 *   R6 a drained node is a member, and not every member is drained
 * Before `ring made` there is no ring: version 0, no partitions (see `noRing`).
 */
export interface Ring {
  readonly clusterId: string;
  readonly version: number;
  readonly epoch: number;
  readonly partitionCount: number;
  readonly nodes: readonly NodeFacts[];
  /** `owners[partition]`. */
  readonly owners: readonly NodeId[];
  readonly freeze: Freeze | null;
  /** The highest holder number ever given. */
  readonly lastHolder: number;
  readonly moves: readonly OpenMove[];
  /** Of its moves; absent in a ring that an older version has kept on disk: see `limitsOf`. */
  readonly limits?: LimitsSet;
  /** Members that are given nothing, until they are activated; absent in a ring that an older version has kept on disk. */
  readonly drained?: readonly NodeId[];
  /** What somebody has accepted to be lost or different, in order; absent in a ring that an older version has kept on disk. */
  readonly losses?: readonly Loss[];
  /** Types of events that this code does not know (a newer version runs elsewhere): serve on, change nothing. */
  readonly notUnderstood: readonly string[];
}

export function noRing(clusterId: string): Ring {
  return {
    clusterId,
    version: 0,
    epoch: 0,
    partitionCount: 0,
    nodes: [],
    owners: [],
    freeze: null,
    lastHolder: 0,
    moves: [],
    limits: noLimitsSet,
    drained: [],
    losses: [],
    notUnderstood: [],
  };
}

/** The limits of this ring's moves as they are in force. */
export const limitsOf = (ring: Pick<Ring, 'limits'>): MoveLimits => (ring.limits ?? noLimitsSet).values;

/** Whether this member is given nothing. */
export const isDrained = (ring: Pick<Ring, 'drained'>, node: NodeId): boolean => (ring.drained ?? []).includes(node);
export const isMember = (ring: Ring, node: NodeId): boolean => ring.nodes.some((facts) => facts.node === node);
export const moveOf = (ring: Ring, move: MoveId): OpenMove | undefined => ring.moves.find((open) => open.move === move);
/** The started move that names this partition, if any. */
export const startedMoveOf = (ring: Ring, partition: PartitionIndex): OpenMove | undefined =>
  ring.moves.find((open) => open.state === 'started' && open.partitions.includes(partition));

/** Partitions of `node`, ascending. */
export function partitionsOf(ring: Ring, node: NodeId): PartitionIndex[] {
  const partitions: PartitionIndex[] = [];
  ring.owners.forEach((owner, partition) => {
    if (owner === node) partitions.push(partition);
  });
  return partitions;
}

/** The ring after `event`. Never refuses; an event that breaks an invariant is a bug and throws a plain Error. */
export function evolve(ring: Ring, event: RingEvent): Ring {
  assertRing(ring);
  const next = applyEvent({ ...ring, version: ring.version + 1 }, event);
  assertRing(next);
  return next;
}

/** Folds what was read from a log. `events` must continue `ring` without a gap. */
export function fold(ring: Ring, events: readonly RecordedEvent[]): Ring {
  let next = ring;
  for (const recorded of events) {
    if (recorded.version !== next.version + 1) {
      throw new Error(`log of ${ring.clusterId}: event ${recorded.version} cannot follow version ${next.version}`);
    }
    next = evolveUnchecked(next, recorded.event);
  }
  assertRing(next);
  return next;
}

/** As `evolve`, without the checks on the way: for long logs, where only the end is checked. */
function evolveUnchecked(ring: Ring, event: RingEvent): Ring {
  return applyEvent({ ...ring, version: ring.version + 1 }, event);
}

function applyEvent(ring: Ring, event: RingEvent): Ring {
  switch (event.type) {
    case 'ring made':
      return {
        ...ring,
        clusterId: event.clusterId,
        epoch: 1,
        partitionCount: event.partitionCount,
        nodes: event.nodes,
        owners: event.owners,
      };
    case 'node joined': {
      const { type: _, ...facts } = event;
      return { ...ring, nodes: [...ring.nodes.filter((other) => other.node !== facts.node), facts] };
    }
    case 'node left':
      return { ...activated(ring, event.node), nodes: ring.nodes.filter((facts) => facts.node !== event.node) };
    case 'node forgotten':
      return forgotten(ring, event);
    case 'node drained':
      return { ...ring, drained: [...(ring.drained ?? []), event.node] };
    case 'node activated':
      return activated(ring, event.node);
    case 'ring frozen':
    case 'freeze taken over': {
      const { operationId, workflowId, runId, holder } = event;
      return { ...ring, freeze: { operationId, workflowId, runId, holder }, lastHolder: holder };
    }
    case 'ring unfrozen':
      return { ...ring, freeze: null };
    case 'move started':
      return {
        ...ring,
        moves: [
          ...ring.moves,
          {
            move: event.move,
            from: event.from,
            to: event.to,
            partitions: event.partitions,
            state: 'started',
            token: 0,
            attempt: null,
            startedAt: ring.version,
            handedOverAt: 0,
            proven: null,
          },
        ],
      };
    case 'move claimed':
      return withMove(ring, event.move, (open) => ({ ...open, token: ring.version, attempt: event.attempt }));
    case 'partitions handed over': {
      const open = moveOf(ring, event.move);
      if (!open) throw new Error(`hand-over of unknown move ${event.move} at version ${ring.version}`);
      const owners = [...ring.owners];
      for (const partition of open.partitions) owners[partition] = open.to;
      return withMove({ ...ring, owners, epoch: ring.epoch + 1 }, event.move, (move) => ({
        ...move,
        state: 'handed over',
        handedOverAt: ring.version,
        proven: Object.fromEntries(event.proof.prefixes.map(({ prefix, pending }) => [prefix, pending])),
      }));
    }
    case 'move aborted':
      return withoutMove(ring, event.move);
    case 'move completed': {
      if (!event.accepted) return withoutMove(ring, event.move);
      const { by, reason, difference } = event.accepted;
      const { version } = ring;
      return withLoss(withoutMove(ring, event.move), {
        version,
        kind: 'difference',
        move: event.move,
        by,
        reason,
        what: difference,
      });
    }
    case 'limits set':
      return { ...ring, limits: withChange(ring.limits ?? noLimitsSet, event.change, ring.version) };
  }
  // No default above: a new type does not compile until it is handled. What arrives here was written by a newer version.
  return { ...ring, notUnderstood: [...ring.notUnderstood, (event as { type: string }).type] };
}

function forgotten(ring: Ring, event: Extract<RingEvent, { type: 'node forgotten' }>): Ring {
  const { node, to, by, reason } = event;
  const owners = [...ring.owners];
  for (const taker of to) for (const partition of taker.partitions) owners[partition] = taker.node;
  const partitions = to.flatMap((taker) => taker.partitions).sort((a, b) => a - b);
  const left = { ...activated(ring, node), owners, nodes: ring.nodes.filter((facts) => facts.node !== node) };
  return withLoss(
    { ...left, epoch: partitions.length > 0 ? ring.epoch + 1 : ring.epoch },
    {
      version: ring.version,
      kind: 'node',
      node,
      by,
      reason,
      what: `${node} is forgotten, with what it held of partitions ${formatPartitions(partitions) || 'none'}`,
    },
  );
}

function activated(ring: Ring, node: NodeId): Ring {
  return isDrained(ring, node) ? { ...ring, drained: (ring.drained ?? []).filter((other) => other !== node) } : ring;
}

const withLoss = (ring: Ring, loss: Loss): Ring => ({ ...ring, losses: [...(ring.losses ?? []), loss] });

const withoutMove = (ring: Ring, move: MoveId): Ring => ({
  ...ring,
  moves: ring.moves.filter((open) => open.move !== move),
});

function withMove(ring: Ring, move: MoveId, change: (open: OpenMove) => OpenMove): Ring {
  return { ...ring, moves: ring.moves.map((open) => (open.move === move ? change(open) : open)) };
}

/** R1 to R6 as code. Errors name partition, node and epoch. */
export function assertRing(ring: Ring): void {
  const where = `(epoch ${ring.epoch}, version ${ring.version})`;
  // A newer event may have changed what we cannot see: nothing can be said, and nothing is decided on it.
  if (ring.notUnderstood.length > 0) return;
  if (ring.version === 0) return;
  const fail = (rule: string, what: string): never => {
    throw new Error(`${rule}: ${what} ${where}`);
  };
  if (!isPartitionCount(ring.partitionCount)) fail('R1', `partitionCount ${ring.partitionCount} is no power of two`);
  if (ring.owners.length !== ring.partitionCount)
    fail('R1', `${ring.owners.length} owners for ${ring.partitionCount} partitions`);
  const members = new Set(ring.nodes.map((facts) => facts.node));
  if (members.size !== ring.nodes.length) fail('R1', 'a node is a member twice');
  ring.owners.forEach((owner, partition) => {
    if (!members.has(owner))
      fail('R1', `partition ${partition} owned by ${owner}, members are ${[...members].join(', ')}`);
  });
  const stray = (ring.drained ?? []).find((node) => !members.has(node));
  if (stray !== undefined) fail('R6', `${stray} is drained and no member`);
  if (new Set(ring.drained).size >= members.size) fail('R6', 'every member is drained');
  if (ring.epoch < 1 || ring.epoch > ring.version) fail('R2', `epoch out of range`);
  if (ring.freeze && ring.freeze.holder !== ring.lastHolder) {
    fail('R5', `frozen by holder ${ring.freeze.holder}, the last holder is ${ring.lastHolder}`);
  }
  const inMove = new Map<PartitionIndex, MoveId>();
  for (const open of ring.moves) {
    if (open.token > ring.version) fail('R5', `token ${open.token} of ${open.move} lies in the future`);
    if (open.state !== 'started') continue;
    if (!ring.freeze) fail('R3', `${open.move} is started and nobody holds the ring`);
    if (open.from === open.to) fail('R4', `${open.move} goes from ${open.from} to itself`);
    if (!members.has(open.to)) fail('R4', `${open.move} goes to ${open.to}, which is no member`);
    for (const partition of open.partitions) {
      const other = inMove.get(partition);
      if (other !== undefined) fail('R4', `partition ${partition} is in ${other} and in ${open.move}`);
      inMove.set(partition, open.move);
      if (ring.owners[partition] !== open.from) {
        fail(
          'R4',
          `${open.move} moves partition ${partition} from ${open.from}, its owner is ${ring.owners[partition]}`,
        );
      }
    }
  }
}
