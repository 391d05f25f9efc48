/** What became of every move in a log: who asked, what was proven, whether it is certified. Pure. */
import type { AcceptedDifference, MoveCertificate, MoveId, MoveProof, NodeId, RecordedEvent } from './events.ts';
import type { PartitionIndex } from './partition.ts';

export interface MoveRecord {
  readonly move: MoveId;
  readonly from: NodeId;
  readonly to: NodeId;
  readonly partitions: readonly PartitionIndex[];
  readonly state: 'started' | 'handed over' | 'aborted' | 'completed';
  readonly operation: string | null;
  readonly actor: string;
  readonly reason: string;
  /** ISO 8601, by the ring store's clock. */
  readonly startedAt: string;
  /** Null before it. */
  readonly handedOver: { readonly version: number; readonly epoch: number; readonly at: string } | null;
  readonly proof: MoveProof | null;
  readonly certificate: MoveCertificate | null;
  /** Why it is over without one: its sides differ, and somebody has accepted that. */
  readonly accepted: AcceptedDifference | null;
  readonly endedAt: string | null;
  /** Why it was aborted. */
  readonly because: string | null;
}

/** All moves of a log that is read from its beginning, in the order in which they started. */
export function movesOf(events: readonly RecordedEvent[]): Map<MoveId, MoveRecord> {
  const moves = new Map<MoveId, MoveRecord>();
  let epoch = 0;
  const change = (move: MoveId, some: Partial<MoveRecord>): void => {
    const known = moves.get(move);
    if (known) moves.set(move, { ...known, ...some });
  };
  for (const { event, version, at, operation, actor, reason } of events) {
    switch (event.type) {
      case 'ring made':
        epoch = 1;
        break;
      case 'move started': {
        const { move, from, to, partitions } = event;
        const none = { handedOver: null, proof: null, certificate: null, accepted: null, endedAt: null, because: null };
        const by = { operation, actor, reason, startedAt: at };
        moves.set(move, { move, from, to, partitions, state: 'started', ...by, ...none });
        break;
      }
      case 'node forgotten':
        if (event.to.length > 0) epoch += 1;
        break;
      case 'partitions handed over':
        epoch += 1;
        change(event.move, { state: 'handed over', handedOver: { version, epoch, at }, proof: event.proof });
        break;
      case 'move aborted':
        change(event.move, { state: 'aborted', endedAt: at, because: event.because });
        break;
      case 'move completed':
        change(event.move, {
          state: 'completed',
          endedAt: at,
          certificate: event.certificate ?? null,
          accepted: event.accepted ?? null,
        });
        break;
    }
  }
  return moves;
}

/**
 * Hand-overs away from `node` since it joined the ring that have no certificate, and whose difference nobody has accepted: until they have, nothing of the node
 * may be deleted.
 */
export function uncertifiedFrom(events: readonly RecordedEvent[], node: NodeId): MoveRecord[] {
  let joinedAt = 0;
  let isMember = false;
  for (const { event, version } of events) {
    if (event.type === 'ring made' && event.nodes.some((facts) => facts.node === node)) isMember = true;
    if ((event.type === 'node left' || event.type === 'node forgotten') && event.node === node) isMember = false;
    if (event.type !== 'node joined' || event.node !== node) continue;
    if (!isMember) joinedAt = version; // a member that joins again has a new address, and its past
    isMember = true;
  }
  return [...movesOf(events).values()].filter(
    ({ from, handedOver, certificate, accepted }) =>
      from === node && handedOver !== null && handedOver.version > joinedAt && !certificate && !accepted,
  );
}
