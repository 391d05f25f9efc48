/** What is explored: bounds in which every promise must hold, and planted bugs with the smallest bounds in which each is found. */
import type { Bounds, Bug } from './bounds.ts';

export interface Scenario {
  readonly name: string;
  readonly bounds: Bounds;
}

const apart: Pick<Bounds, 'owners' | 'moves'> = {
  owners: ['a', 'b'],
  moves: [
    { partition: 0, from: 'a', to: 'b' },
    { partition: 1, from: 'b', to: 'a' },
  ],
};
const thereAndBack: Pick<Bounds, 'owners' | 'moves'> = {
  owners: ['a', 'a'],
  moves: [
    { partition: 0, from: 'a', to: 'b' },
    { partition: 0, from: 'b', to: 'a' },
  ],
};
const one: Pick<Bounds, 'owners' | 'moves'> = { owners: ['a', 'b'], moves: [{ partition: 0, from: 'a', to: 'b' }] };

/** In each of them every promise must hold. */
export const scenarios: readonly Scenario[] = [
  {
    name: 'two partitions in two moves, one after the other',
    bounds: { ...apart, events: [0, 0, 1], crashes: 2, zombies: 1, starts: 3, parallel: false, fine: false },
  },
  {
    name: 'two partitions in two moves at once',
    bounds: { ...apart, events: [0, 1], crashes: 1, zombies: 1, starts: 2, parallel: true, fine: false },
  },
  {
    name: 'one partition there and back',
    bounds: { ...thereAndBack, events: [0, 0, 0], crashes: 2, zombies: 1, starts: 3, parallel: false, fine: false },
  },
  {
    name: 'one move in steps as fine as they are in the code',
    bounds: { ...one, events: [0, 0], crashes: 1, zombies: 1, starts: 1, parallel: false, fine: true },
  },
];

/** Whole steps must reach just the states that fine ones do. Those of two moves without a way back take minutes: `protocol.long.int.test.ts`. */
export const comparisons: readonly Scenario[] = [
  {
    name: 'one move, two events',
    bounds: { ...one, events: [0, 0], crashes: 1, zombies: 1, starts: 1, parallel: false, fine: false },
  },
  {
    name: 'one move, two tries',
    bounds: { ...one, events: [0], crashes: 1, zombies: 1, starts: 2, parallel: false, fine: false },
  },
  {
    name: 'there and back',
    bounds: { ...thereAndBack, events: [0], crashes: 1, zombies: 1, starts: 2, parallel: false, fine: false },
  },
];

export const longComparisons: readonly Scenario[] = [
  {
    name: 'two moves, one after the other',
    bounds: { ...apart, events: [0], crashes: 1, zombies: 1, starts: 2, parallel: false, fine: false },
  },
  {
    name: 'two moves at once',
    bounds: { ...apart, events: [0], crashes: 0, zombies: 1, starts: 2, parallel: true, fine: false },
  },
];

export interface Planted {
  readonly name: string;
  readonly bugs: readonly Bug[];
  readonly bounds: Bounds;
  /** What it breaks: how the counterexample begins. */
  readonly breaks: string;
}

const small: Bounds = { ...one, events: [0], crashes: 0, zombies: 0, starts: 1, parallel: false, fine: true };

export const planted: readonly Planted[] = [
  { name: 'no fence', bugs: ['no fence'], bounds: small, breaks: 'P1' },
  { name: 'claim not in the log', bugs: ['claim not in the log'], bounds: { ...small, zombies: 1 }, breaks: 'P1' },
  { name: 'node ignores tokens', bugs: ['node ignores tokens'], bounds: { ...small, zombies: 1 }, breaks: 'P1' },
  {
    name: 'node acts on an older fold',
    bugs: ['node acts on an older fold'],
    bounds: { ...small, crashes: 1 },
    breaks: 'P',
  },
  { name: 'state read from memory', bugs: ['state read from memory'], bounds: small, breaks: 'P1' },
  {
    name: 'quiesce lost in a restart',
    bugs: ['quiesce lost in a restart'],
    bounds: { ...small, crashes: 1 },
    breaks: 'P3',
  },
  {
    name: 'token checked but not held until the commit',
    bugs: ['token not held until the commit'],
    bounds: { ...small, zombies: 1 },
    breaks: 'P',
  },
  {
    name: 'target opened before the hand-over',
    bugs: ['target opened before the hand-over'],
    bounds: small,
    breaks: 'P',
  },
  {
    name: 'dead-man without the conditional append',
    bugs: ['dead-man without the append'],
    bounds: small,
    breaks: 'P',
  },
  {
    name: 'prepare of a partition that the node owns',
    bugs: ['prepare of an owned partition'],
    bounds: { ...small, zombies: 1 },
    breaks: 'P',
  },
  {
    name: 'rows that commit late are missed by the first pass',
    bugs: ['rows that commit late are missed'],
    bounds: small,
    breaks: 'P1',
  },
  {
    name: 'hand-over though the sets differ, rows that commit late being missed after the first pass',
    bugs: ['hand-over though the sets differ', 'rows that commit late are missed after the first pass'],
    bounds: { ...small, crashes: 1 },
    breaks: 'P1',
  },
  {
    name: 'rows that commit late are missed after the first pass, and the sets compared',
    bugs: ['rows that commit late are missed after the first pass'],
    bounds: { ...small, crashes: 1 },
    breaks: 'no exit: a move that has started is handed over',
  },
  {
    name: 'no dead-man',
    bugs: ['no dead-man'],
    bounds: small,
    breaks: 'no exit: nodes without workers take in and deliver again',
  },
  {
    name: 'a write that was overtaken is waited for, as long as it may stand still',
    bugs: ['overtaken write waited for'],
    bounds: { ...small, zombies: 1 },
    breaks: 'no exit',
  },
  {
    name: 'the copy of an aborted move is kept',
    bugs: ['copy of an aborted move is kept'],
    bounds: small,
    breaks: 'no exit: the operation ends',
  },
];
