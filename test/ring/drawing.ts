/** Rings as text, for tests: `e7 {a b c} [a a b b] frozen:run-3 moves{m1:0,1:a→b}`. */

import { expect } from 'vitest';
import { decide, type RingCommand, type RingRefusal, type RingRefusalCode } from '../../ring/decide.ts';
import type { RingEvent } from '../../ring/events.ts';
import { formatPartitions } from '../../ring/partition.ts';
import { evolve, noRing, type Ring } from '../../ring/ring.ts';

export const facts = (node: string) => ({ node, databaseId: `db-${node}`, url: `http://${node}` });
export const by = (run: string) => ({ operationId: run, workflowId: 'scale/test', runId: run });

export function draw(ring: Ring): string {
  const moves = ring.moves.map(
    (open) =>
      `${open.move}:${formatPartitions(open.partitions)}:${open.from}→${open.to}${open.state === 'handed over' ? '!' : ''}`,
  );
  return [
    `e${ring.epoch}`,
    `{${ring.nodes.map((node) => node.node).join(' ')}}`,
    `[${ring.owners.join(' ')}]`,
    ring.freeze ? `frozen:${ring.freeze.runId}#${ring.freeze.holder}` : '',
    moves.length > 0 ? `moves{${moves.join(' ')}}` : '',
  ]
    .filter((part) => part !== '')
    .join(' ');
}

export const apply = (ring: Ring, ...commands: RingCommand[]): Ring =>
  commands.reduce((state, command) => decide(state, command).reduce(evolve, state), ring);

/** A ring of four partitions: `[a a b b]`. */
export const ringOf = (nodes: readonly string[], partitionCount = 4): Ring =>
  apply(noRing('test'), { type: 'make ring', clusterId: 'test', partitionCount, nodes: nodes.map(facts) });

export function given(ring: Ring) {
  return {
    when(command: RingCommand) {
      return {
        thenDrawn(drawn: string): Ring {
          const next = apply(ring, command);
          expect(draw(next)).toBe(drawn);
          return next;
        },
        thenEvents(...types: RingEvent['type'][]): void {
          expect(decide(ring, command).map((event) => event.type)).toEqual(types);
        },
        thenNothing(): void {
          expect(decide(ring, command)).toEqual([]);
        },
        thenRefused(code: RingRefusalCode): void {
          expect(() => decide(ring, command)).toThrow(
            expect.objectContaining({ name: 'RingRefusal', code }) as RingRefusal,
          );
        },
      };
    },
  };
}
