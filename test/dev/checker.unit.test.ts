/** The checker must say so, whatever is wrong: hand-made logs, then random ones with a planted fault. */
import { describe, expect, test } from 'vitest';
import { checkDelivery, type Delivery, type Fault, type FaultKind, type SentEvent } from '../../dev/checker/checker.ts';
import { seededRandom } from '../../dev/traffic/random.ts';

/** `u1` is the second event of user u; sent at `at`, answered 1 ms later. */
const sent = (id: string, at: number, more: Partial<SentEvent> = {}): SentEvent => ({
  messageId: id,
  userKey: id[0]!,
  seq: Number(id.slice(1)),
  sentAt: at,
  answeredAt: at + 1,
  status: 200,
  attempts: 1,
  ...more,
});
const got = (id: string, at: number, more: Partial<Delivery> = {}): Delivery => ({
  messageId: id,
  userKey: id[0]!,
  startedAt: at,
  answeredAt: at + 5,
  status: 200,
  ...more,
});
const check = (s: SentEvent[], r: Delivery[], faults: Fault[] = [], waitEnded = true) =>
  checkDelivery({ sent: s, received: r, faults, waitEnded });
const none = {
  lost: 0,
  duplicated: 0,
  duplicatedExplained: 0,
  reordered: 0,
  aborted: 0,
  unknown: 0,
  clientErrors: 0,
  unsent: 0,
};
const noAnswer = { answeredAt: null, status: null };

describe('hand-made logs', () => {
  test('all is well', () => {
    const result = check([sent('a0', 1), sent('b0', 2), sent('a1', 3)], [got('b0', 10), got('a0', 11), got('a1', 20)]);
    expect(result).toMatchObject({ verdict: 'valid', events: { sent: 3, acknowledged: 3, delivered: 3, ...none } });
  });

  test('a loss', () => {
    const result = check([sent('a0', 1), sent('a1', 3)], [got('a1', 20)]);
    expect(result).toMatchObject({ verdict: 'invalid', events: { ...none, lost: 1 }, samples: { lost: ['a0'] } });
  });

  test('a delivery that was never answered, or answered 500, is none', () => {
    expect(check([sent('a0', 1)], [got('a0', 5, noAnswer), got('a0', 6, { status: 500 })])).toMatchObject({
      verdict: 'invalid',
      events: { lost: 1 },
    });
    expect(
      check([sent('a0', 1)], [got('a0', 5, noAnswer), got('a0', 6, { status: 500 }), got('a0', 7)]).events,
    ).toMatchObject({ ...none, delivered: 1 });
  });

  test('a wait that was cut short proves no loss', () => {
    expect(check([sent('a0', 1), sent('a1', 3)], [got('a0', 20)], [], false)).toMatchObject({
      verdict: 'unknown',
      events: { lost: 0, unknown: 1 },
    });
  });

  test('a duplicate', () => {
    const result = check([sent('a0', 1)], [got('a0', 20), got('a0', 30)]);
    expect(result).toMatchObject({
      verdict: 'invalid',
      events: { ...none, delivered: 1, duplicated: 1 },
      samples: { duplicated: ['a0'] },
    });
  });

  test.each([
    ['began 4 s before the fault', 96_000, { at: 100_000 }, 1],
    ['began 6 s before the fault', 94_000, { at: 100_000 }, 0],
    ['began between fault and restart', 101_000, { at: 100_000, restartedAt: 102_000 }, 1],
    ['began after the restart', 103_000, { at: 100_000, restartedAt: 102_000 }, 0],
    ['began after the fault, no restart seen', 101_000, { at: 100_000 }, 0],
  ])('a duplicate whose earlier delivery %s', (_what, earlier, fault, explained) => {
    const result = check(
      [sent('a0', 1)],
      [got('a0', earlier), got('a0', 200_000)],
      [{ kind: 'node', target: 'node-0', ...fault }],
    );
    expect(result.events).toMatchObject({ duplicated: 1, duplicatedExplained: explained });
    expect(result.verdict).toBe(explained ? 'valid' : 'invalid');
  });

  test("a pod's fault counts for its node, whatever the pod is called; one of no node explains nothing", () => {
    const twice = [got('a0', 99_000, { node: 'node-0' }), got('a0', 110_000, { node: 'node-1' })];
    const pod = (node: string | null): Fault[] => [{ kind: 'pod', target: 'x-backend-0', node, at: 100_000 }];
    expect(check([sent('a0', 1)], twice, pod('node-0')).verdict).toBe('valid');
    expect(check([sent('a0', 1)], twice, pod('node-1')).verdict).toBe('invalid');
    expect(check([sent('a0', 1)], twice, pod(null)).verdict).toBe('invalid');
    const unnamed = twice.map((delivery) => ({ ...delivery, node: null }));
    expect(check([sent('a0', 1)], unnamed, pod(null)).verdict).toBe('invalid');
  });

  const explaining: Record<FaultKind, boolean> = {
    node: true,
    postgres: true,
    pod: true,
    network: true,
    worker: false,
    router: false,
    temporal: false,
    ringstore: false,
  };
  test.each(Object.entries(explaining) as [FaultKind, boolean][])(
    'a fault of kind %s that hit the deliveries of the node explains its duplicate: %s',
    (kind, explains) => {
      const twice = [got('a0', 99_000, { node: 'node-0' }), got('a0', 110_000, { node: 'node-0' })];
      const fault: Fault = { kind, target: 'x', node: 'node-0', at: 100_000 };
      const result = check([sent('a0', 1)], twice, [fault]);
      expect(result.verdict).toBe(explains ? 'valid' : 'invalid');
      expect(result.explainedByFault).toEqual([
        explains ? { events: 1, oldestMs: 995 } : { events: 0, oldestMs: null },
      ]);
      // The same fault of no node's deliveries explains nothing, of whatever kind it is.
      expect(check([sent('a0', 1)], twice, [{ ...fault, node: null }]).verdict).toBe('invalid');
    },
  );

  test('a cut arrow explains a duplicate only where it is said whose deliveries travel on it', () => {
    const twice = [got('a0', 99_000, { node: 'node-0' }), got('a0', 110_000, { node: 'node-0' })];
    const cut: Fault = { kind: 'network', target: 'node-0', at: 100_000 };
    expect(check([sent('a0', 1)], twice, [cut]).verdict).toBe('invalid');
    expect(check([sent('a0', 1)], twice, [{ ...cut, node: 'node-0' }]).verdict).toBe('valid');
  });

  test("each fault is told how many duplicates it explains; one that is explained only in part is nobody's", () => {
    const faults: Fault[] = [
      { kind: 'worker', target: 'worker', node: null, at: 100_000 },
      { kind: 'node', target: 'node-0', at: 100_000, restartedAt: 103_000 },
      { kind: 'postgres', target: 'node-1', at: 200_000 },
    ];
    const by = (id: string, at: number, node: string) => got(id, at, { node });
    const events = [sent('a0', 1), sent('b0', 1), sent('c0', 1), sent('d0', 1)];
    const received = [
      ...[by('a0', 99_000, 'node-0'), by('a0', 104_000, 'node-0')],
      ...[by('b0', 102_000, 'node-0'), by('b0', 199_000, 'node-1'), by('b0', 202_000, 'node-1')],
      ...[by('c0', 199_500, 'node-1'), by('c0', 201_000, 'node-0')],
      ...[by('d0', 102_000, 'node-0'), by('d0', 150_000, 'node-0'), by('d0', 202_000, 'node-1')],
    ];
    const result = check(events, received, faults);
    expect(result).toMatchObject({
      verdict: 'invalid',
      events: { duplicated: 4, duplicatedExplained: 3 },
      explainedByFault: [
        { events: 0, oldestMs: null },
        { events: 2, oldestMs: 995 },
        { events: 2, oldestMs: 995 },
      ],
      samples: { duplicated: ['d0'] },
    });
  });

  test('a fault of another node, or of a worker, explains nothing; of three deliveries the first two must be explained', () => {
    const twice = [got('a0', 99_000, { node: 'node-0' }), got('a0', 110_000, { node: 'node-0' })];
    expect(check([sent('a0', 1)], twice, [{ kind: 'node', target: 'node-1', at: 100_000 }]).verdict).toBe('invalid');
    expect(check([sent('a0', 1)], twice, [{ kind: 'worker', target: 'node-0', at: 100_000 }]).verdict).toBe('invalid');
    const fault: Fault[] = [{ kind: 'postgres', target: 'node-0', at: 100_000 }];
    expect(check([sent('a0', 1)], twice, fault).verdict).toBe('valid');
    expect(check([sent('a0', 1)], [...twice, got('a0', 120_000)], fault)).toMatchObject({
      verdict: 'invalid',
      events: { duplicated: 1, duplicatedExplained: 0 },
    });
  });

  test('a swap counts by when the first successful delivery began', () => {
    const events = [sent('a0', 1), sent('a1', 3), sent('a2', 5)];
    const result = check(events, [got('a1', 10), got('a0', 20), got('a2', 30)]);
    expect(result).toMatchObject({
      verdict: 'invalid',
      events: { ...none, reordered: 1 },
      samples: { reordered: [{ messageId: 'a1', deliveredBefore: 'a0' }] },
    });
    expect(
      check(events, [got('a0', 5, { status: 500 }), got('a1', 10), got('a0', 12), got('a2', 30)]).events.reordered,
    ).toBe(1);
    expect(check(events, [got('a2', 10), got('a1', 20), got('a0', 30)]).events.reordered).toBe(2);
    // A late repeat is a duplicate, no disorder.
    expect(check(events, [got('a0', 10), got('a1', 20), got('a2', 30), got('a0', 40)]).events).toMatchObject({
      reordered: 0,
      duplicated: 1,
    });
  });

  test('events of one request count in their order there; users do not wait for each other', () => {
    const batch = [sent('a0', 1), sent('a1', 1), sent('b0', 1)];
    expect(check(batch, [got('b0', 1), got('a0', 10), got('a1', 20)]).verdict).toBe('valid');
    expect(check(batch, [got('a1', 10), got('a0', 20), got('b0', 30)]).events.reordered).toBe(1);
  });

  test('an unanswered request is resolved by its delivery, by a later one of its user, or not', () => {
    const [first, doubtful, later] = [sent('a0', 1), sent('a1', 3, noAnswer), sent('a2', 5)];
    expect(check([first, doubtful, later], [got('a0', 10), got('a1', 20), got('a2', 30)])).toMatchObject({
      verdict: 'valid',
      events: { ...none, clientErrors: 1, delivered: 3, acknowledged: 2 },
    });
    expect(check([first, doubtful, later], [got('a0', 10), got('a2', 30)])).toMatchObject({
      verdict: 'valid',
      events: { ...none, clientErrors: 1 },
    });
    expect(check([first, doubtful], [got('a0', 10)])).toMatchObject({
      verdict: 'unknown',
      events: { unknown: 1 },
      samples: { unknown: ['a1'] },
    });
  });

  test('a 502 leaves as much open as no answer; a 400 does not', () => {
    expect(check([sent('a0', 1), sent('a1', 3, { status: 502 })], [got('a0', 10)]).verdict).toBe('unknown');
    expect(check([sent('a0', 1), sent('a1', 3, { status: 400 })], [got('a0', 10)])).toMatchObject({
      verdict: 'valid',
      events: { ...none, clientErrors: 1 },
    });
    expect(check([sent('a0', 1), sent('a1', 3, { status: 400, inDoubt: true })], [got('a0', 10)]).verdict).toBe(
      'unknown',
    );
  });

  test('an aborted event has ended: neither lost nor delivered', () => {
    const result = check([sent('a0', 1), sent('a1', 3)], [got('a0', 10, { status: 400 }), got('a1', 20)]);
    expect(result).toMatchObject({ verdict: 'valid', events: { ...none, delivered: 1, aborted: 1 } });
    for (const status of [408, 429, 503])
      expect(check([sent('a0', 1)], [got('a0', 10, { status })]).events).toMatchObject({ aborted: 0, lost: 1 });
  });

  test('client errors are counted by request; they make nothing invalid', () => {
    const events = [
      sent('a0', 1, { attempts: 3, failures: 2 }),
      sent('b0', 1, { attempts: 3, failures: 0 }),
      sent('c0', 2, { attempts: 2 }),
    ];
    expect(check(events, [got('a0', 10), got('b0', 10), got('c0', 10)])).toMatchObject({
      verdict: 'valid',
      events: { ...none, clientErrors: 3 },
    });
  });

  test('what nobody sent, and nothing at all', () => {
    expect(check([sent('a0', 1)], [got('a0', 10), got('x0', 10)])).toMatchObject({
      verdict: 'invalid',
      events: { unsent: 1 },
      samples: { unsent: ['x0'] },
    });
    expect(check([], []).verdict).toBe('unknown');
  });
});

describe('random logs', () => {
  /** A valid log: each user's events acknowledged one after the other and delivered in that order, users interleaved. */
  function validLog(seed: number): { random: () => number; events: SentEvent[]; deliveries: Delivery[] } {
    const random = seededRandom(seed);
    const events: SentEvent[] = [];
    const deliveries: Delivery[] = [];
    for (let user = 0; user < 8; user += 1) {
      let sentAt = random() * 50;
      let deliveredAt = 0;
      const count = 2 + Math.floor(random() * 20);
      for (let seq = 0; seq < count; seq += 1) {
        const id = `${'abcdefgh'[user]}${seq}`;
        events.push(sent(id, sentAt));
        if (random() < 0.1) deliveries.push(got(id, Math.max(deliveredAt, sentAt), { status: 503 }));
        deliveredAt = Math.max(deliveredAt, sentAt) + 10 + random() * 30;
        deliveries.push(got(id, deliveredAt));
        sentAt += 2 + random() * 20;
      }
    }
    return {
      random,
      events: events.toSorted((a, b) => a.sentAt - b.sentAt),
      deliveries: deliveries.toSorted((a, b) => a.startedAt - b.startedAt),
    };
  }

  test('300 seeds: a valid log is valid; one planted fault is found, by name', () => {
    for (let seed = 0; seed < 300; seed += 1) {
      const { random, events, deliveries } = validLog(seed);
      const about = `seed ${seed}`;
      expect(check(events, deliveries).verdict, about).toBe('valid');

      const good = deliveries.filter((delivery) => delivery.status === 200);
      const victim = good[Math.floor(random() * good.length)]!;
      const withoutIt = deliveries.filter((delivery) => delivery.messageId !== victim.messageId);
      expect(check(events, withoutIt), about).toMatchObject({
        verdict: 'invalid',
        events: { ...none, lost: 1 },
        samples: { lost: [victim.messageId] },
      });
      expect(check(events, [...deliveries, got(victim.messageId, 9_999)]), about).toMatchObject({
        verdict: 'invalid',
        events: { ...none, duplicated: 1 },
      });

      const next = good.find(
        (delivery) => delivery.userKey === victim.userKey && delivery.startedAt > victim.startedAt,
      );
      if (!next) continue;
      const swapped = deliveries.map((delivery) =>
        delivery === victim ? { ...delivery, startedAt: next.startedAt + 0.5 } : delivery,
      );
      expect(check(events, swapped).events.reordered, about).toBeGreaterThan(0);
      const doubted = events.map((event) => (event.messageId === victim.messageId ? { ...event, ...noAnswer } : event));
      expect(check(doubted, withoutIt), about).toMatchObject({ verdict: 'valid', events: { unknown: 0 } });
    }
  });
});
