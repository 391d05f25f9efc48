import { expect, test } from 'vitest';
import type { RecordedEvent, RingEvent } from '../../ring/events.ts';
import { movesOf, uncertifiedFrom } from '../../ring/moves.ts';
import { certificateFor } from '../support/certificate.ts';
import { facts, ringOf } from './drawing.ts';

const log = (...events: RingEvent[]): RecordedEvent[] =>
  events.map((event, i) => ({
    clusterId: 'test',
    version: i + 1,
    id: `${i}`,
    event,
    actor: 'worker',
    reason: 'to grow',
    operation: 'op',
    at: `2026-01-01T00:00:0${i}.000Z`,
    hash: '',
    previousHash: '',
  }));
const made: RingEvent = {
  type: 'ring made',
  clusterId: 'test',
  partitionCount: 4,
  nodes: [facts('a'), facts('b')],
  owners: ['a', 'a', 'b', 'b'],
};
const proof = { jobsPending: 0, jobsCopied: 0, prefixes: [] };
const started = (move: string, from = 'a', to = 'b'): RingEvent => ({
  type: 'move started',
  move,
  from,
  to,
  partitions: [0],
});
const handedOver = (move: string): RingEvent => ({ type: 'partitions handed over', move, token: 3, proof });
const certificate = certificateFor(ringOf(['a', 'b']), 'm1');
const names = (events: RecordedEvent[], node: string): string[] =>
  uncertifiedFrom(events, node).map(({ move }) => move);

test('a move is told with who asked, the epoch of its hand-over, and its end', () => {
  const events = log(
    made,
    started('m1'),
    handedOver('m1'),
    { type: 'move completed', move: 'm1', certificate },
    started('m2', 'b', 'a'),
    {
      type: 'move aborted',
      move: 'm2',
      because: 'slow',
    },
  );
  const [first, second] = [...movesOf(events).values()];
  expect(first).toMatchObject({
    move: 'm1',
    state: 'completed',
    operation: 'op',
    reason: 'to grow',
    proof,
    certificate,
  });
  expect(first!.handedOver).toEqual({ version: 3, epoch: 2, at: '2026-01-01T00:00:02.000Z' });
  expect(second).toMatchObject({
    state: 'aborted',
    because: 'slow',
    handedOver: null,
    endedAt: '2026-01-01T00:00:05.000Z',
  });
});

test('what was handed over away from a node and is not certified is named: open, or completed by an older version', () => {
  const handed = [made, started('m1'), handedOver('m1')];
  expect(names(log(...handed), 'a')).toEqual(['m1']);
  expect(names(log(...handed), 'b')).toEqual([]);
  expect(names(log(...handed, { type: 'move completed', move: 'm1' }), 'a')).toEqual(['m1']);
  expect(names(log(...handed, { type: 'move completed', move: 'm1', certificate }), 'a')).toEqual([]);
  expect(names(log(made, started('m1'), { type: 'move aborted', move: 'm1', because: 'x' }), 'a')).toEqual([]);
});

test('a node that left and joined again has begun anew; one that only got another address has not', () => {
  const handed = [made, started('m1'), handedOver('m1'), { type: 'move completed', move: 'm1' } as const];
  const left: RingEvent = { type: 'node left', node: 'a' };
  const joined: RingEvent = { type: 'node joined', ...facts('a') };
  expect(names(log(...handed, joined), 'a')).toEqual(['m1']);
  expect(names(log(...handed, left), 'a')).toEqual(['m1']); // its volume is still to be deleted
  expect(names(log(...handed, left, joined), 'a')).toEqual([]);
});
