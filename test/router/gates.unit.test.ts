/** Goal: nobody waits without a reason, no user is overtaken. Method: gates alone, nodes played by the test, seeded. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { seededRandom } from '../../dev/traffic/random.ts';
import { noRing, type Ring } from '../../ring/ring.ts';
import { Gates, type HoldEnded, type HoldRefused, type Ticket } from '../../router/gates.ts';
import { type RouterLimits, routerLimits } from '../../router/limits.ts';

const ring: Ring = {
  ...noRing('demo'),
  version: 10,
  partitionCount: 16,
  owners: Array.from({ length: 16 }, () => 'node-0'),
};
const ended: HoldEnded[] = [];
let gates: Gates;
const makeGates = (limits: Partial<RouterLimits> = {}): Gates =>
  new Gates({
    ring: () => ring,
    limits: { ...routerLimits, ...limits },
    now: () => Date.now(),
    onHoldEnded: (one) => ended.push(one),
  });
beforeEach(() => {
  vi.useFakeTimers();
  ended.length = 0;
  gates = makeGates();
});
afterEach(() => vi.useRealTimers());

const lagging = (partitions: number[]) => ({ kind: 'not-owner', node: 'node-0', version: 9, partitions }) as const;

/** Asks for its turn and notes when it came. */
function ask(ticket: Ticket): { came: boolean; refused: HoldRefused | null } {
  const asked: { came: boolean; refused: HoldRefused | null } = { came: false, refused: null };
  const turn = gates.turn(ticket);
  if (!turn) asked.came = true;
  turn?.then(
    () => {
      asked.came = true;
    },
    (error: HoldRefused) => {
      asked.refused = error;
    },
  );
  return asked;
}

const ticket = (partitions: number[], users: string[]) => gates.ticket({ bytes: 1, partitions, users });

/** A first ticket is refused: the gate of its partition closes. */
function closeGate(partition: number, user: string): Ticket {
  const first = ticket([partition], [user]);
  expect(ask(first).came).toBe(true);
  first.sentAt = Date.now();
  gates.refused(first, lagging([partition]));
  return first;
}

describe('gates', () => {
  test('a gate that closes while a request waits at another wakes it too when it opens', async () => {
    const a = closeGate(0, 'a');
    const askedA = ask(a);
    const both = ask(ticket([0, 12], ['x', 'y']));
    const b = ticket([12], ['b']);
    expect(ask(b).came).toBe(true);
    b.sentAt = Date.now();
    gates.refused(b, lagging([12]));
    const askedB = ask(b);
    await vi.advanceTimersByTimeAsync(5);
    expect([askedA.came, askedB.came, both.came]).toEqual([true, true, false]);
    gates.accepted(a);
    gates.accepted(b);
    await vi.advanceTimersByTimeAsync(0);
    expect(both.came).toBe(true);
  });

  test('a try that is refused lets the next one try, also when the first gives up', async () => {
    const a = closeGate(0, 'a');
    const askedA = ask(a);
    const second = ask(ticket([0], ['b']));
    await vi.advanceTimersByTimeAsync(5);
    expect([askedA.came, second.came]).toEqual([true, false]);
    gates.drop(a);
    gates.refused(a, lagging([0]));
    const again = ask(a);
    await vi.advanceTimersByTimeAsync(50);
    expect(again.refused?.code).toBe('CLIENT_GONE');
    expect(second.came).toBe(true);
  });

  test('as many requests are held as the bound says; one more is refused at once, until one has gone', async () => {
    gates = makeGates({ heldRequestsMax: 3 });
    const first = closeGate(0, 'a');
    const asked = [ask(first), ask(ticket([0], ['b'])), ask(ticket([0], ['c']))];
    expect(gates.held).toBe(3);
    const over = ask(ticket([0], ['d']));
    await vi.advanceTimersByTimeAsync(0);
    expect([over.refused?.code, gates.held]).toEqual(['HOLD_FULL', 3]);
    expect(ask(ticket([1], ['e'])).came).toBe(true); // other partitions do not feel it
    await vi.advanceTimersByTimeAsync(5);
    expect(asked[0]!.came).toBe(true);
    gates.accepted(first);
    closeGate(0, 'f');
    const next = ask(ticket([0], ['g']));
    await vi.advanceTimersByTimeAsync(0);
    expect(next.refused).toBeNull();
  });

  test('as many bytes are held as the bound says, and not one more', async () => {
    gates = makeGates({ heldBytesMax: 100 });
    const of = (bytes: number, user: string): Ticket => gates.ticket({ bytes, partitions: [0], users: [user] });
    ask(closeGate(0, 'a')); // of 1 byte
    ask(of(98, 'b'));
    expect(gates.heldBytes).toBe(99);
    const tooMuch = ask(of(2, 'c'));
    const exactly = ask(of(1, 'd'));
    await vi.advanceTimersByTimeAsync(0);
    expect([tooMuch.refused?.code, exactly.refused, gates.heldBytes]).toEqual(['HOLD_FULL', null, 100]);
    const over = ask(of(1, 'e'));
    await vi.advanceTimersByTimeAsync(0);
    expect([over.refused?.code, gates.heldBytes]).toEqual(['HOLD_FULL', 100]);
  });

  test('a request is held until the last millisecond of holdMs, and no longer', async () => {
    gates = makeGates({ holdMs: 2_000, probeEveryMs: 1_000_000 });
    const first = closeGate(0, 'a');
    gates.refused(first, { kind: 'not-owner', node: 'node-0', version: 99, partitions: [0] });
    const askedFirst = ask(first);
    await vi.advanceTimersByTimeAsync(500);
    const askedLater = ask(ticket([0], ['b']));
    await vi.advanceTimersByTimeAsync(1_499);
    expect([askedFirst.refused, askedLater.refused, gates.held]).toEqual([null, null, 2]);
    await vi.advanceTimersByTimeAsync(1);
    expect([askedFirst.refused?.code, askedLater.refused, gates.held]).toEqual(['HOLD_TIMEOUT', null, 1]);
    await vi.advanceTimersByTimeAsync(499);
    expect([askedLater.refused, gates.held]).toEqual([null, 1]);
    await vi.advanceTimersByTimeAsync(1);
    expect([askedLater.refused?.code, gates.held, gates.heldBytes]).toEqual(['HOLD_TIMEOUT', 0, 0]);
  });

  test('nobody is held longer than holdMs, however often a node refuses it', async () => {
    const refuse = (): void => gates.refused(a, { kind: 'not-owner', node: 'node-0', version: 99, partitions: [0] });
    const a = closeGate(0, 'a');
    refuse();
    let tries = 0;
    let asked = ask(a);
    while (!asked.refused && Date.now() < a.deadline + 1_000) {
      await vi.advanceTimersByTimeAsync(100);
      if (!asked.came) continue;
      tries += 1;
      refuse();
      asked = ask(a);
    }
    expect(asked.refused?.code).toBe('HOLD_TIMEOUT');
    expect([gates.held, tries]).toEqual([0, Math.floor(routerLimits.holdMs / routerLimits.probeEveryMs) - 1]);
  });

  test('200 seeds of requests, refusals, losses and clients that leave: all get their turn, no user is overtaken, nothing is left', async () => {
    for (let seed = 0; seed < 200; seed += 1) {
      const about = `seed ${seed}`;
      const random = seededRandom(seed);
      const some = (n: number): number => Math.floor(random() * n);
      const sending = new Set<Ticket>();
      const doneOf = new Map<string, number>();
      let over = 0;
      let started = 0;
      let calm = false;
      const go = async (one: Ticket): Promise<void> => {
        try {
          for (;;) {
            const held = one.deadline > 0;
            await gates.turn(one);
            one.sentAt = Date.now();
            if (held || one.deadline > 0) {
              // Among the held, one of a user at a time.
              for (const other of sending) {
                if (other.deadline > 0)
                  expect(
                    other.users.filter((user) => one.users.includes(user)),
                    about,
                  ).toEqual([]);
              }
            }
            sending.add(one);
            await new Promise((resolve) => setTimeout(resolve, some(20)));
            sending.delete(one);
            const dice = calm ? 0 : random();
            if (dice > 0.6) gates.refused(one, lagging(one.partitions.filter(() => random() < 0.7)));
            else if (dice > 0.5) gates.refused(one, { kind: 'unreachable', node: 'node-0' });
            else if (dice > 0.45) return gates.lost(one);
            else {
              if (one.deadline > 0)
                for (const user of one.users) doneOf.set(user, Math.max(one.seq, doneOf.get(user) ?? 0));
              return gates.accepted(one);
            }
          }
        } catch (error) {
          expect((error as HoldRefused).code, about).toBe('CLIENT_GONE');
        }
      };
      const going: Promise<void>[] = [];
      for (; started < 60; started += 1) {
        const count = 1 + some(3);
        const partitions = [...new Set(Array.from({ length: count }, () => some(6)))];
        const one = ticket(
          partitions,
          partitions.map((partition) => `u${partition}-${some(2)}`),
        );
        going.push(go(one).finally(() => (over += 1)));
        if (random() < 0.1) setTimeout(() => gates.drop(one), some(100));
        await vi.advanceTimersByTimeAsync(some(15));
      }
      calm = true;
      await vi.advanceTimersByTimeAsync(5_000);
      expect([over, gates.held, gates.heldBytes, gates.closed], about).toEqual([started, 0, 0, 0]);
      await Promise.all(going);
    }
  });
});
