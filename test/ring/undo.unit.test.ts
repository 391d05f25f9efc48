import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decide, type RingCommand, RingRefusal } from '../../ring/decide.ts';
import type { RecordedEvent } from '../../ring/events.ts';
import { nodeNames, planDrain, planMoves } from '../../ring/plan.ts';
import { evolve, noRing, type Ring } from '../../ring/ring.ts';
import { planUndo } from '../../ring/undo.ts';
import { certificateFor } from '../support/certificate.ts';

const factsOf = (node: string) => ({ node, databaseId: `db-${node}`, url: `http://${node}` });

/** A log that operations write: each command stands for the operation that gave it. */
class Log {
  ring: Ring = noRing('c');
  readonly events: RecordedEvent[] = [];

  constructor(nodes: number, partitionCount = 8) {
    const made = { type: 'make ring', clusterId: 'c', partitionCount, nodes: nodeNames(nodes).map(factsOf) } as const;
    this.do('first', made);
  }

  do(operation: string, command: RingCommand): void {
    for (const event of decide(this.ring, command)) {
      this.ring = evolve(this.ring, event);
      this.events.push({ clusterId: 'c', version: this.ring.version, event, operation } as RecordedEvent);
    }
  }

  /** All of an operation to `nodes`, or only its first `moves`. */
  scale(operation: string, nodes: number, moves = Number.POSITIVE_INFINITY): void {
    this.carryOut(operation, planMoves(this.ring, nodeNames(nodes), { partitionsPerMoveMax: 2 }), moves);
  }

  undo(operation: string, of: string): void {
    this.carryOut(operation, planUndo(this.events, of, { partitionsPerMoveMax: 2 }));
  }

  carryOut(operation: string, plan: ReturnType<typeof planMoves>, moves = Number.POSITIVE_INFINITY): void {
    this.do(operation, { type: 'freeze', by: { operationId: operation, workflowId: 'w', runId: operation } });
    const holder = this.ring.lastHolder;
    for (const node of plan.added) this.do(operation, { type: 'join node', holder, facts: factsOf(node) });
    for (const node of plan.activates ?? []) this.do(operation, { type: 'activate node', node });
    for (const node of plan.drains ?? []) this.do(operation, { type: 'drain node', holder, node });
    for (const { n, from, to, partitions } of plan.moves.slice(0, moves)) {
      const move = `${operation}/move-${n}.1`;
      this.do(operation, { type: 'start move', holder, move, from, to, partitions });
      this.do(operation, { type: 'claim move', holder, move, attempt: 'x' });
      const token = this.ring.version;
      this.do(operation, { type: 'hand over', move, token, proof: { jobsPending: 0, jobsCopied: 0, prefixes: [] } });
      this.do(operation, { type: 'complete move', move, certificate: certificateFor(this.ring, move) });
    }
    if (moves === Number.POSITIVE_INFINITY)
      for (const node of plan.removed) this.do(operation, { type: 'leave node', holder, node });
    this.do(operation, { type: 'unfreeze', holder });
  }
}

const shape = ({ owners, nodes }: Ring) => ({ owners, nodes: nodes.map(({ node }) => node).sort() });
const refusalOf = (run: () => unknown): RingRefusal | undefined => {
  try {
    run();
  } catch (error) {
    if (error instanceof RingRefusal) return error;
    throw error;
  }
  return undefined;
};

describe('the way back from an operation', () => {
  test('of a scale-up: what it moved goes to where it was, and the nodes that it added go', () => {
    const log = new Log(2);
    const before = shape(log.ring);
    log.scale('up', 4);
    expect(planUndo(log.events, 'up')).toMatchObject({ added: [], removed: ['node-2', 'node-3'], partitionsMoved: 4 });
    log.undo('back', 'up');
    expect(shape(log.ring)).toEqual(before);
  });

  test('of a scale-down: the nodes that it removed come back, with what they had', () => {
    const log = new Log(4);
    const before = shape(log.ring);
    log.scale('down', 2);
    const plan = planUndo(log.events, 'down');
    expect(plan).toMatchObject({ added: ['node-2', 'node-3'], removed: [], partitionsMoved: 4 });
    expect(plan.moves[0]?.because).toMatch(/^node-\d had it before$/);
    log.undo('back', 'down');
    expect(shape(log.ring)).toEqual(before);
  });

  test('of one that was stopped half-way moves back only what it had moved', () => {
    const log = new Log(2);
    const before = shape(log.ring);
    log.scale('up', 4, 1);
    expect(planUndo(log.events, 'up').partitionsMoved).toBe(2);
    log.undo('back', 'up');
    expect(shape(log.ring)).toEqual(before);
  });

  test('of an undo is the way forward again; undone twice there is nothing to do', () => {
    const log = new Log(2);
    log.scale('up', 3);
    const forward = shape(log.ring);
    log.undo('back', 'up');
    expect(planUndo(log.events, 'up')).toMatchObject({ moves: [], added: [], removed: [] });
    log.undo('again', 'back');
    expect(shape(log.ring)).toEqual(forward);
  });

  test('a node that it added and that owns something of a later operation stays', () => {
    const log = new Log(2, 16);
    log.scale('up', 3);
    const at = (node: string) => log.ring.owners.indexOf(node);
    log.do('other', { type: 'freeze', by: { operationId: 'other', workflowId: 'w', runId: 'other' } });
    // A partition that `up` left alone goes to the node that it added.
    log.carryOut('other', {
      ...planMoves(log.ring, nodeNames(3)),
      moves: [{ n: 1, from: 'node-0', to: 'node-2', partitions: [at('node-0')], because: 'a test' }],
    });
    const plan = planUndo(log.events, 'up');
    expect(plan.removed).toEqual([]);
    expect(plan.nodesAfter).toContain('node-2');
  });

  test('a node below another that a later operation added stays: the platform takes away the highest first', () => {
    const log = new Log(1);
    log.do('up', { type: 'freeze', by: { operationId: 'up', workflowId: 'w', runId: 'up' } });
    log.do('up', { type: 'join node', holder: 1, facts: factsOf('node-1') });
    log.do('up', { type: 'unfreeze', holder: 1 });
    log.do('more', { type: 'freeze', by: { operationId: 'more', workflowId: 'w', runId: 'more' } });
    log.do('more', { type: 'join node', holder: 2, facts: factsOf('node-2') });
    log.do('more', { type: 'unfreeze', holder: 2 });
    expect(planUndo(log.events, 'up').removed).toEqual([]);
    expect(planUndo(log.events, 'more').removed).toEqual(['node-2']);
  });

  test('is refused where a later operation has moved a partition on; undone in turn both are gone', () => {
    const log = new Log(2);
    const before = shape(log.ring);
    log.scale('up', 4);
    log.scale('down', 3);
    const refused = refusalOf(() => planUndo(log.events, 'up'));
    expect(refused).toMatchObject({ code: 'UNDO_OUT_OF_ORDER' });
    expect(refused?.message).toContain('Undo first, in this order: down');
    log.undo('back-1', 'down');
    log.undo('back-2', 'up');
    expect(shape(log.ring)).toEqual(before);
  });

  test('is refused where the node that had a partition was removed by a later operation', () => {
    const log = new Log(3);
    const from = log.ring.owners.indexOf('node-2');
    log.carryOut('move', {
      ...planMoves(log.ring, nodeNames(3)),
      moves: [{ n: 1, from: 'node-2', to: 'node-0', partitions: [from], because: 'a test' }],
    });
    log.carryOut('down', {
      ...planMoves(log.ring, nodeNames(2)),
      moves: [
        {
          n: 1,
          from: 'node-2',
          to: 'node-1',
          partitions: log.ring.owners.flatMap((owner, partition) => (owner === 'node-2' ? [partition] : [])),
          because: 'a test',
        },
      ],
    });
    const refused = refusalOf(() => planUndo(log.events, 'move'));
    expect(refused?.message).toContain(`node-2, which had partition ${from}, is no member any more`);
  });

  test('of an operation that the log does not know is refused', () => {
    expect(refusalOf(() => planUndo(new Log(1).events, 'nobody'))).toMatchObject({ code: 'OPERATION_UNKNOWN' });
  });

  test('for any chain of operations, undone in turn, ends where it began, and every step on the way is a valid ring', () => {
    const step = fc.record({
      nodes: fc.integer({ min: 1, max: 6 }),
      moves: fc.option(fc.nat(3), { nil: Number.POSITIVE_INFINITY }),
    });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5 }), fc.array(step, { minLength: 1, maxLength: 5 }), (nodes, steps) => {
        const log = new Log(nodes, 16);
        const before = steps.map((given, i) => {
          const then = shape(log.ring);
          log.scale(`op-${i}`, given.nodes, given.moves);
          return then;
        });
        for (const [i, then] of [...before.entries()].reverse()) {
          log.undo(`undo-${i}`, `op-${i}`);
          expect(shape(log.ring)).toEqual(then);
        }
      }),
    );
  });
});

describe('a node that is drained', () => {
  test('is activated by the undo of what took its partitions while it was drained, whoever drained it', () => {
    const log = new Log(3);
    const before = shape(log.ring);
    log.carryOut('cancelled', planDrain(log.ring, 'node-1'), 0);
    log.carryOut('drain', planDrain(log.ring, 'node-1'));
    expect(planUndo(log.events, 'drain')).toMatchObject({ activates: ['node-1'] });
    log.undo('back', 'drain');
    expect(shape(log.ring)).toEqual(before);
    expect(log.ring.drained).toEqual([]);
  });

  test('stays drained where that was decided later than what is undone', () => {
    const log = new Log(2);
    log.scale('down', 1);
    log.scale('up', 2);
    log.carryOut('drain', planDrain(log.ring, 'node-1'));
    const plan = planUndo(log.events, 'down');
    expect(plan.moves.map(({ to }) => to)).toContain('node-1');
    expect(plan).not.toHaveProperty('activates');
  });
});
