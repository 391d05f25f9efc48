/** What activities read out of the ring's log. Pure. */
import type { MoveId, MoveProof, RecordedEvent } from '../ring/events.ts';
import type { Ring } from '../ring/ring.ts';
import type { RingSummary } from './types.ts';

/** `<operationId>/move-<n>.`: all tries of one planned move. */
export const movePrefix = (operationId: string, n: number): string => `${operationId}/move-${n}.`;
export const moveIdOf = (operationId: string, n: number, tryNumber: number): MoveId =>
  `${movePrefix(operationId, n)}${tryNumber}`;

export interface MoveHistory {
  readonly state: 'never started' | 'started' | 'handed over' | 'aborted' | 'completed';
  readonly proof: MoveProof | null;
  readonly because: string | null;
}

export function moveHistory(events: readonly RecordedEvent[], move: MoveId): MoveHistory {
  let state: MoveHistory['state'] = 'never started';
  let proof: MoveProof | null = null;
  let because: string | null = null;
  for (const { event } of events) {
    if (!('move' in event) || event.move !== move) continue;
    if (event.type === 'move started') state = 'started';
    if (event.type === 'move completed') state = 'completed';
    if (event.type === 'move aborted') {
      state = 'aborted';
      because = event.because;
    }
    if (event.type === 'partitions handed over') {
      state = 'handed over';
      proof = event.proof;
    }
  }
  return { state, proof, because };
}

/** The inverse of `expandRing` in workflows/ring-summary.ts. */
export function summarizeRing(ring: Ring): RingSummary {
  const indexOf = new Map(ring.nodes.map((facts, index) => [facts.node, index]));
  const owners: number[] = [];
  ring.owners.forEach((owner, partition) => {
    if (partition > 0 && ring.owners[partition - 1] === owner) owners[owners.length - 1]! += 1;
    else owners.push(indexOf.get(owner)!, 1);
  });
  const { clusterId, version, epoch, partitionCount, nodes, drained = [] } = ring;
  const marks = drained.length > 0 ? { drained } : {};
  return { clusterId, version, epoch, partitionCount, nodes, owners, ...marks };
}
