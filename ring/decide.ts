/** What may be done to a ring: commands in, past-tense events out, or a refusal with a code. Pure. */
import type {
  AcceptedDifference,
  HolderIdentity,
  MoveCertificate,
  MoveId,
  MoveProof,
  NodeFacts,
  NodeId,
  RingEvent,
} from './events.ts';
import { effectiveChange, type LimitsChange, noLimitsSet, troubleOf } from './limits.ts';
import { isPartitionCount, PARTITION_COUNT_MAX, type PartitionIndex } from './partition.ts';
import { sharesOf } from './plan.ts';
import { isDrained, isMember, moveOf, type OpenMove, partitionsOf, type Ring, startedMoveOf } from './ring.ts';

/** Why a command was refused; part of the public API (docs/errors.md). */
export type RingRefusalCode =
  | 'CLUSTER_UNKNOWN'
  | 'CLUSTER_EXISTS'
  | 'PARTITION_COUNT'
  | 'RING_TOO_NEW'
  | 'UNDO_IMPOSSIBLE'
  | 'RING_BUSY'
  | 'RING_NOT_HELD'
  | 'NODE_UNKNOWN'
  | 'NODE_DRAINED'
  | 'NODE_OTHER_DATABASE'
  | 'NODE_NOT_EMPTY'
  | 'NODES_ALL_DRAINED'
  | 'MOVE_INVALID'
  | 'MOVE_ABORTED'
  | 'MOVE_HANDED_OVER'
  | 'MOVES_OPEN'
  | 'CERTIFICATE_MISMATCH'
  | 'STALE_TOKEN'
  | 'LIMITS_INVALID'
  | 'OPERATION_UNKNOWN'
  | 'REASON_NEEDED'
  | 'UNDO_OUT_OF_ORDER';

export class RingRefusal extends Error {
  override readonly name = 'RingRefusal';
  readonly code: RingRefusalCode;
  constructor(code: RingRefusalCode, message: string) {
    super(message);
    this.code = code;
  }
}

export type RingCommand =
  | {
      readonly type: 'make ring';
      readonly clusterId: string;
      readonly partitionCount: number;
      readonly nodes: readonly NodeFacts[];
    }
  /** `takeOverFrom`: the holder number of a freeze whose run was seen closed or gone. */
  | { readonly type: 'freeze'; readonly by: HolderIdentity; readonly takeOverFrom?: number; readonly because?: string }
  | { readonly type: 'unfreeze'; readonly holder: number }
  | { readonly type: 'join node'; readonly holder: number; readonly facts: NodeFacts }
  | { readonly type: 'leave node'; readonly holder: number; readonly node: NodeId }
  | { readonly type: 'drain node'; readonly holder: number; readonly node: NodeId }
  /** Whoever holds the ring: it changes no ownership. */
  | { readonly type: 'activate node'; readonly node: NodeId }
  /** Gives a node up that is gone for ever, because somebody says so: what it held is lost. */
  | {
      readonly type: 'forget node';
      readonly holder: number;
      readonly node: NodeId;
      readonly by: string;
      readonly reason: string;
    }
  | {
      readonly type: 'start move';
      readonly holder: number;
      readonly move: MoveId;
      readonly from: NodeId;
      readonly to: NodeId;
      readonly partitions: readonly PartitionIndex[];
    }
  | { readonly type: 'claim move'; readonly holder: number; readonly move: MoveId; readonly attempt: string }
  | { readonly type: 'hand over'; readonly move: MoveId; readonly token: number; readonly proof: MoveProof }
  /** Asked for by the orchestrator, or by the source itself (the dead-man). Needs no token: it may only lose against the hand-over. */
  | { readonly type: 'abort move'; readonly move: MoveId; readonly because: string }
  /** Nothing of the move is deleted at its source before this. */
  | { readonly type: 'complete move'; readonly move: MoveId; readonly certificate: MoveCertificate }
  /** Ends a move whose source and target were found to differ, because somebody says so. */
  | { readonly type: 'accept difference'; readonly move: MoveId; readonly accepted: AcceptedDifference }
  /** Whoever holds the ring: it changes no ownership. */
  | { readonly type: 'set limits'; readonly change: LimitsChange };

/**
 * The events that carry out `command`; none where it has happened already (so every command can be repeated, also after a lost answer).
 * Throws RingRefusal.
 */
export function decide(ring: Ring, command: RingCommand): RingEvent[] {
  if (ring.notUnderstood.length > 0) {
    refuse(
      'RING_TOO_NEW',
      `the log of ${ring.clusterId} has events of a newer version (${ring.notUnderstood.join(', ')}): upgrade first`,
    );
  }
  if (command.type === 'make ring') return makeRing(ring, command);
  if (ring.version === 0) refuse('CLUSTER_UNKNOWN', `there is no cluster ${ring.clusterId}`);
  switch (command.type) {
    case 'freeze':
      return freeze(ring, command);
    case 'unfreeze': {
      if (ring.freeze?.holder !== command.holder) return []; // unfrozen already, or another operation's by now: not ours to touch
      const started = ring.moves.filter((open) => open.state === 'started');
      if (started.length > 0) refuse('MOVES_OPEN', `started moves: ${started.map((open) => open.move).join(', ')}`);
      return [{ type: 'ring unfrozen', holder: command.holder }];
    }
    case 'join node': {
      const known = ring.nodes.find((facts) => facts.node === command.facts.node);
      if (known && known.databaseId !== command.facts.databaseId) {
        refuse(
          'NODE_OTHER_DATABASE',
          `${known.node} joined with database ${known.databaseId} and now has ${command.facts.databaseId}`,
        );
      }
      if (known && known.url === command.facts.url) return [];
      assertHeld(ring, command.holder);
      return [{ type: 'node joined', ...command.facts }];
    }
    case 'leave node': {
      if (!isMember(ring, command.node)) return [];
      assertHeld(ring, command.holder);
      const owned = partitionsOf(ring, command.node);
      if (owned.length > 0)
        refuse('NODE_NOT_EMPTY', `${command.node} still owns ${owned.length} partitions (epoch ${ring.epoch})`);
      const open = ring.moves.find((move) => move.from === command.node || move.to === command.node);
      if (open) refuse('NODE_NOT_EMPTY', `${open.move} still names ${command.node} (${open.state})`);
      assertTakers(ring, command.node);
      return [{ type: 'node left', node: command.node }];
    }
    case 'drain node': {
      if (!isMember(ring, command.node)) refuse('NODE_UNKNOWN', `${command.node} is no member of the ring`);
      if (isDrained(ring, command.node)) return [];
      assertHeld(ring, command.holder);
      assertTakers(ring, command.node);
      return [{ type: 'node drained', node: command.node }];
    }
    case 'activate node':
      if (!isMember(ring, command.node)) refuse('NODE_UNKNOWN', `${command.node} is no member of the ring`);
      return isDrained(ring, command.node) ? [{ type: 'node activated', node: command.node }] : [];
    case 'forget node':
      return forgetNode(ring, command);
    case 'start move':
      return startMove(ring, command);
    case 'claim move': {
      const open = startedMove(ring, command.move);
      if (open.attempt === command.attempt) return [];
      assertHeld(ring, command.holder);
      return [{ type: 'move claimed', move: command.move, attempt: command.attempt }];
    }
    case 'hand over': {
      const open = moveOf(ring, command.move);
      if (open?.state === 'handed over' && open.token === command.token) return [];
      const started = startedMove(ring, command.move);
      // The commit point of a move, conditional on the claim: an older attempt that has verified must not hand over a copy that a newer one changed.
      if (started.token !== command.token) {
        refuse('STALE_TOKEN', `${command.move} was claimed again: token ${started.token}, not ${command.token}`);
      }
      return [{ type: 'partitions handed over', move: command.move, token: command.token, proof: command.proof }];
    }
    case 'abort move': {
      const open = moveOf(ring, command.move);
      if (!open) return []; // aborted or completed before: who asks reads which
      if (open.state === 'handed over')
        refuse('MOVE_HANDED_OVER', `${command.move} was handed over at version ${open.handedOverAt}`);
      return [{ type: 'move aborted', move: command.move, because: command.because }];
    }
    case 'complete move': {
      const open = handedOverMove(ring, command.move);
      if (!open) return [];
      const wrong = misfitOf(open, command.certificate);
      if (wrong) refuse('CERTIFICATE_MISMATCH', `${command.move}: ${wrong}`);
      return [{ type: 'move completed', move: command.move, certificate: command.certificate }];
    }
    case 'accept difference': {
      if (!handedOverMove(ring, command.move)) return [];
      assertReason(command.accepted, `${command.move}: who accepts the difference, and why?`);
      return [{ type: 'move completed', move: command.move, accepted: command.accepted }];
    }
    case 'set limits': {
      const trouble = troubleOf(command.change);
      if (trouble !== null) refuse('LIMITS_INVALID', trouble);
      const change = effectiveChange(ring.limits ?? noLimitsSet, command.change);
      return Object.keys(change).length > 0 ? [{ type: 'limits set', change }] : [];
    }
  }
}

/** Contiguous runs of partitions, sizes within one of each other. */
export function initialOwners(nodes: readonly NodeId[], partitionCount: number): NodeId[] {
  return Array.from(
    { length: partitionCount },
    (_, partition) => nodes[Math.floor((partition * nodes.length) / partitionCount)]!,
  );
}

function makeRing(ring: Ring, command: Extract<RingCommand, { type: 'make ring' }>): RingEvent[] {
  if (ring.version > 0) refuse('CLUSTER_EXISTS', `cluster ${ring.clusterId} exists, at version ${ring.version}`);
  if (!isPartitionCount(command.partitionCount)) {
    refuse(
      'PARTITION_COUNT',
      `partitionCount must be a power of two from 1 to ${PARTITION_COUNT_MAX}, not ${command.partitionCount}`,
    );
  }
  const names = command.nodes.map((facts) => facts.node);
  if (names.length === 0 || new Set(names).size !== names.length)
    refuse('NODE_UNKNOWN', 'a ring needs nodes, each named once');
  if (names.length > command.partitionCount) {
    refuse('PARTITION_COUNT', `${names.length} nodes cannot share ${command.partitionCount} partitions`);
  }
  return [
    {
      type: 'ring made',
      clusterId: command.clusterId,
      partitionCount: command.partitionCount,
      nodes: command.nodes,
      owners: initialOwners(names, command.partitionCount),
    },
  ];
}

function freeze(ring: Ring, command: Extract<RingCommand, { type: 'freeze' }>): RingEvent[] {
  const holder = ring.lastHolder + 1;
  if (!ring.freeze) return [{ type: 'ring frozen', holder, ...identity(command.by) }];
  if (ring.freeze.runId === command.by.runId && ring.freeze.workflowId === command.by.workflowId) return [];
  if (command.takeOverFrom === ring.freeze.holder) {
    return [
      {
        type: 'freeze taken over',
        holder,
        from: ring.freeze.holder,
        because: command.because ?? 'its run has ended',
        ...identity(command.by),
      },
    ];
  }
  return refuse(
    'RING_BUSY',
    `frozen by operation ${ring.freeze.operationId} (${ring.freeze.workflowId}) at epoch ${ring.epoch}`,
  );
}

const identity = ({ operationId, workflowId, runId }: HolderIdentity): HolderIdentity => ({
  operationId,
  workflowId,
  runId,
});

function startMove(ring: Ring, command: Extract<RingCommand, { type: 'start move' }>): RingEvent[] {
  const { move, from, to, partitions } = command;
  if (moveOf(ring, move)) return [];
  assertHeld(ring, command.holder);
  if (!isMember(ring, to)) refuse('NODE_UNKNOWN', `${to} is no member of the ring`);
  if (isDrained(ring, to)) refuse('NODE_DRAINED', `${to} is drained: it is given nothing until it is activated`);
  if (from === to || partitions.length === 0 || new Set(partitions).size !== partitions.length) {
    refuse('MOVE_INVALID', `${move}: from ${from} to ${to}, ${partitions.length} partitions`);
  }
  for (const partition of partitions) {
    if (ring.owners[partition] !== from) {
      refuse(
        'MOVE_INVALID',
        `partition ${partition} is owned by ${ring.owners[partition]}, not by ${from} (epoch ${ring.epoch})`,
      );
    }
    const other = startedMoveOf(ring, partition);
    if (other) refuse('MOVE_INVALID', `partition ${partition} is being moved by ${other.move}`);
    // A partition may not leave its new owner before its former one has put away what it held.
    const uncleaned = ring.moves.find((open) => open.state === 'handed over' && open.partitions.includes(partition));
    if (uncleaned) refuse('MOVES_OPEN', `partition ${partition}: ${uncleaned.move} is handed over and not completed`);
  }
  return [{ type: 'move started', move, from, to, partitions }];
}

function startedMove(ring: Ring, move: MoveId): OpenMove {
  const open = moveOf(ring, move);
  if (!open) return refuse('MOVE_ABORTED', `${move} is not open: it was aborted, or has been completed`);
  if (open.state === 'handed over')
    refuse('MOVE_HANDED_OVER', `${move} was handed over at version ${open.handedOverAt}`);
  return open;
}

/** Null where it has been completed. */
function handedOverMove(ring: Ring, move: MoveId): OpenMove | null {
  const open = moveOf(ring, move);
  if (!open) return null;
  if (open.state !== 'handed over') refuse('MOVE_INVALID', `${move} is not handed over yet`);
  return open;
}

/**
 * Where a certificate differs from what was proven at the hand-over; null where it fits. Every prefix has the jobs that were proven, and they all lie in
 * partitions of the move.
 */
export function misfitOf(
  open: Pick<OpenMove, 'partitions' | 'handedOverAt' | 'proven'>,
  certificate: MoveCertificate | undefined,
): string | null {
  if (!certificate) return 'no certificate';
  if (certificate.handedOverAt !== open.handedOverAt)
    return `a certificate of version ${certificate.handedOverAt}, the hand-over is at ${open.handedOverAt}`;
  const proven = open.proven ?? {};
  for (const { prefix, jobs, partitions } of certificate.tables) {
    if (jobs !== (proven[prefix] ?? 0))
      return `${jobs} ${prefix} jobs are certified, ${proven[prefix] ?? 0} were proven at the hand-over`;
    const stray = partitions.find(([partition]) => !open.partitions.includes(partition));
    if (stray) return `${prefix} jobs of partition ${stray[0]} are certified, which is not in this move`;
    if (partitions.reduce((sum, [, some]) => sum + some, 0) !== jobs)
      return `the partitions' ${prefix} jobs do not add up to ${jobs}`;
  }
  const certified = new Set(certificate.tables.map(({ prefix }) => prefix));
  const missing = Object.keys(proven).find((prefix) => !certified.has(prefix));
  return missing === undefined
    ? null
    : `no ${missing} jobs are certified, ${proven[missing]} were proven at the hand-over`;
}

/** What names it ends with it: a started move as if it had never been, one that is handed over without a certificate. */
function forgetNode(ring: Ring, command: Extract<RingCommand, { type: 'forget node' }>): RingEvent[] {
  const { node, by, reason, holder } = command;
  if (!isMember(ring, node)) return [];
  assertHeld(ring, holder);
  assertReason(command, `${node}: who accepts the loss, and why?`);
  assertTakers(ring, node);
  const naming = ring.moves.filter(({ from, to }) => from === node || to === node);
  return [
    ...naming.map(({ move, state }): RingEvent => {
      if (state === 'started') return { type: 'move aborted', move, because: `${node} is forgotten` };
      const difference = `${node} is forgotten: what of this move had not arrived, or had arrived there, is lost`;
      return { type: 'move completed', move, accepted: { by, reason, difference } };
    }),
    { type: 'node forgotten', node, to: sharesOf(ring, node), by, reason },
  ];
}

/** What is given up is given up by somebody, for a reason. */
function assertReason({ by, reason }: { readonly by: string; readonly reason: string }, question: string): void {
  if (by === '' || reason.trim() === '') refuse('REASON_NEEDED', question);
}

/** Somebody has to take what the others give. */
function assertTakers(ring: Ring, leaving: NodeId): void {
  if (!ring.nodes.some(({ node }) => node !== leaving && !isDrained(ring, node)))
    refuse('NODES_ALL_DRAINED', `without ${leaving} no member is left that takes partitions`);
}

function assertHeld(ring: Ring, holder: number): void {
  if (!ring.freeze) refuse('RING_NOT_HELD', 'the ring is not frozen');
  else if (ring.freeze.holder !== holder) {
    refuse(
      'RING_NOT_HELD',
      `the ring is held by operation ${ring.freeze.operationId} (holder ${ring.freeze.holder}, not ${holder})`,
    );
  }
}

function refuse(code: RingRefusalCode, message: string): never {
  throw new RingRefusal(code, message);
}
