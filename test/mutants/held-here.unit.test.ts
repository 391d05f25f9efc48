/**
 * Goal: guards that stand behind another one still hold when they are asked alone; `npm run test:mutants` takes each of them out (guards.ts).
 * Method: what can only be broken when the first guard fails is made by hand.
 */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { assertRing, noRing, type Ring } from '../../ring/ring.ts';
import { Gates, type Ticket } from '../../router/gates.ts';
import { routerLimits } from '../../router/limits.ts';
import { apply, by, given, ringOf } from '../ring/drawing.ts';

const still = ringOf(['a', 'b']);
const frozen = apply(still, { type: 'freeze', by: by('run-1') });
const moving = apply(
  frozen,
  { type: 'start move', holder: 1, move: 'm1', from: 'a', to: 'b', partitions: [0] },
  { type: 'claim move', holder: 1, move: 'm1', attempt: 'x' },
);
const [move] = moving.moves;

describe('the ring refuses', () => {
  const broken: [string, Ring][] = [
    ['R1: a partition without an owner', { ...still, owners: still.owners.slice(1) }],
    ['R1: an owner that is no member', { ...still, owners: ['a', 'a', 'b', 'c'] }],
    ['R2: an epoch above the version', { ...still, epoch: still.version + 1 }],
    ['R3: a started move and no freeze', { ...moving, freeze: null }],
    ['R4: a partition in two started moves', { ...moving, moves: [move!, { ...move!, move: 'm2' }] }],
    [
      'R4: a started move of a partition that its source does not own',
      { ...moving, moves: [{ ...move!, partitions: [3] }] },
    ],
    ['R4: a started move to no member', { ...moving, moves: [{ ...move!, to: 'c' }] }],
    ['R5: a freeze under an old holder number', { ...frozen, lastHolder: 9 }],
    ['R5: a token above the version', { ...moving, moves: [{ ...move!, token: moving.version + 1 }] }],
  ];
  test.each(broken)('%s', (rule, ring) => {
    expect(() => assertRing(ring)).toThrow(rule.slice(0, 3));
  });
  test('nothing else', () => {
    for (const ring of [still, frozen, moving]) assertRing(ring);
  });
});

test('a move that was handed over is not claimed again', () => {
  const proof = { jobsPending: 0, jobsCopied: 0, prefixes: [] };
  const over = apply(moving, { type: 'hand over', move: 'm1', token: move!.token, proof });
  given(over).when({ type: 'claim move', holder: 1, move: 'm1', attempt: 'y' }).thenRefused('MOVE_HANDED_OVER');
});

describe('gates', () => {
  let ring: Ring;
  let gates: Gates;
  let came: string[];
  beforeEach(() => {
    vi.useFakeTimers();
    ring = { ...noRing('demo'), version: 10, partitionCount: 1, owners: ['node-0'] };
    gates = new Gates({ ring: () => ring, limits: routerLimits, now: () => Date.now(), onHoldEnded: () => {} });
    came = [];
  });
  afterEach(() => {
    gates.close();
    vi.useRealTimers();
  });

  const ticketOf = (user: string): Ticket => gates.ticket({ bytes: 1, partitions: [0], users: [user] });
  /** Notes when its turn has come, or why it never will. */
  const ask = (name: string, ticket: Ticket): void => {
    const turn = gates.turn(ticket);
    expect(turn, `${name} is held`).toBeDefined();
    turn?.then(
      () => came.push(name),
      (error: { code: string }) => came.push(`${name}: ${error.code}`),
    );
  };
  const send = (name: string, user: string): Ticket => {
    const ticket = ticketOf(user);
    expect(gates.turn(ticket), `${name} goes at once`).toBeUndefined();
    ticket.sentAt = Date.now();
    return ticket;
  };
  const isRefused = (name: string, ticket: Ticket, version = 9): void => {
    gates.refused(ticket, { kind: 'not-owner', node: 'node-0', version, partitions: [0] });
    ask(name, ticket);
  };

  test('a request that is refused late goes before the ones that came after it', async () => {
    const [first, second] = [send('first', 'anna'), send('second', 'anna')];
    isRefused('second', second);
    isRefused('first', first);
    await vi.advanceTimersByTimeAsync(50);
    expect(came).toEqual(['first']);
    gates.accepted(first);
    await vi.advanceTimersByTimeAsync(0);
    expect(came).toEqual(['first', 'second']);
  });

  test('a request that comes while another one tries waits for what becomes of it', async () => {
    const first = send('first', 'anna');
    isRefused('first', first);
    await vi.advanceTimersByTimeAsync(50);
    ask('second', ticketOf('ben'));
    await vi.advanceTimersByTimeAsync(50);
    expect(came).toEqual(['first']);
    gates.accepted(first);
    await vi.advanceTimersByTimeAsync(0);
    expect(came).toEqual(['first', 'second']);
  });

  test('a version that a node has seen and the router has not is waited for', async () => {
    isRefused('first', send('first', 'anna'), 11);
    await vi.advanceTimersByTimeAsync(routerLimits.probeEveryMs - 1);
    expect(came).toEqual([]);
    ring = { ...ring, version: 11 };
    gates.ringChanged();
    await vi.advanceTimersByTimeAsync(0);
    expect(came).toEqual(['first']);
  });

  test('a held request is dropped as soon as its client has gone', async () => {
    const first = send('first', 'anna');
    isRefused('first', first, 11);
    gates.drop(first);
    await vi.advanceTimersByTimeAsync(0);
    expect(came).toEqual(['first: CLIENT_GONE']);
    expect([gates.held, gates.heldBytes]).toEqual([0, 0]);
  });
});
