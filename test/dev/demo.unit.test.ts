/** The demo's flags and its report; the demo itself is tested as a whole elsewhere. */
import { describe, expect, test } from 'vitest';
import { checkDelivery, type Delivery, type SentEvent } from '../../dev/checker/checker.ts';
import type { Blow, Victim } from '../../dev/cluster.ts';
import { wellAgain } from '../../dev/cluster.ts';
import { Killer, planKills } from '../../dev/demo/kills.ts';
import { parseDemoOptions } from '../../dev/demo/options.ts';
import { buildReport, quantiles } from '../../dev/demo/report.ts';
import { nextDelay } from '../../dev/demo/slowness.ts';
import { summarize } from '../../dev/demo/summary.ts';
import { now } from '../../kit/log.ts';
import type { OperationProgress } from '../../workflows/messages.ts';

describe('flags', () => {
  test('defaults', () => {
    expect(parseDemoOptions([])).toMatchObject({
      kind: 'run',
      options: { nodes: 2, to: [3, 2], partitions: 64, userField: 'user', seed: 1 },
    });
  });

  test('all of them', () => {
    const args =
      '--nodes 1 --to 4,2,3 --partitions 128 --input test/data/wikipedia-edits-sample.ndjson.gz --user-field user --events 10 --rate 50 --destination-ms 7 --fail-one-in 10 --seed 3 --json report.json --platform kubernetes --kill-pods 4 --dataplane reference';
    expect(parseDemoOptions(args.split(' '))).toMatchObject({
      options: {
        nodes: 1,
        to: [4, 2, 3],
        partitions: 128,
        events: 10,
        rate: 50,
        destinationMs: 7,
        failOneIn: 10,
        seed: 3,
        platform: 'kubernetes',
        killPods: 4,
        json: expect.stringMatching(/^\/.*report\.json$/),
      },
    });
  });

  test('--help tells each', () => {
    const help = parseDemoOptions(['--help']) as { text: string };
    for (const flag of [
      'nodes',
      'to',
      'partitions',
      'input',
      'user-field',
      'events',
      'rate',
      'destination-ms',
      'fail-one-in',
      'seed',
      'platform',
      'dataplane',
      'kill-pods',
      'json',
    ]) {
      expect(help.text).toContain(`--${flag}`);
    }
  });

  test.each([
    ['--nodes 0', 'from 1 to 32'],
    ['--nodes x', 'from 1 to 32'],
    ['--to 3,,2', 'from 1 to 32'],
    ['--to 2.5', 'from 1 to 32'],
    ['--partitions 63', 'power of two'],
    ['--partitions 2 --nodes 2 --to 3', 'cannot share'],
    ['--input nowhere.ndjson', 'no file that can be read'],
    ['--json nowhere/report.json', 'no file that can be written'],
    ['--events 5', 'needs --input'],
    ['--rate 0', 'from 1'],
    ['--platform moon', 'local, kubernetes'],
    ['--dataplane rudder-native', 'not built yet'],
    ['--kill-pods 0', 'from 1'],
    ['--kill-pods many', 'from 1'],
    ['--kill-pods 21', 'at most 20'],
    ['--kill-pods 1 --to 2', 'at most 0'],
    ['--kill-pods 11 --nodes 2 --to 2,3', 'at most 10'],
    ['--colour', "unknown option '--colour'"],
    ['extra', 'too many arguments'],
  ])('%s is refused in one line', (args, message) => {
    expect(() => parseDemoOptions(args.split(' '))).toThrow(message);
    try {
      parseDemoOptions(args.split(' '));
    } catch (error) {
      expect((error as Error).message).not.toContain('\n');
    }
  });
});

test('quantiles are by nearest rank: values that were measured', () => {
  expect(quantiles([])).toEqual({ p50: null, p99: null, max: null, samples: 0 });
  expect(quantiles([5])).toEqual({ p50: 5, p99: 5, max: 5, samples: 1 });
  expect(quantiles([4, 1, 3, 2])).toEqual({ p50: 2, p99: 4, max: 4, samples: 4 });
  expect(quantiles(Array.from({ length: 200 }, (_, n) => n + 1))).toEqual({
    p50: 100,
    p99: 198,
    max: 200,
    samples: 200,
  });
});

describe('the report', () => {
  const T = Date.parse('2026-01-01T00:00:00.000Z');
  const operation = {
    operationId: 'op',
    state: 'completed',
    from: 2,
    to: 3,
    startedAt: new Date(T).toISOString(),
    endedAt: new Date(T + 10_000).toISOString(),
    phasesMs: { plan: 5 },
    partitionsMoved: 2,
    jobsMoved: 700,
    jobsCopied: 900,
    moves: [],
  } as unknown as OperationProgress;
  const sent: SentEvent[] = [-5_000, 2_000, 4_000, 20_000].map((at, seq) => ({
    messageId: `m${seq}`,
    userKey: 'u',
    seq,
    sentAt: T + at - 5,
    answeredAt: T + at,
    status: 200,
    attempts: 1,
  }));
  const received: Delivery[] = sent.map((event, n) => ({
    messageId: event.messageId,
    userKey: 'u',
    startedAt: event.answeredAt! + 10 + n,
    answeredAt: event.answeredAt! + 20 + n,
    status: 200,
  }));
  const hold = (move: string, partition: number, firstForwardAt: number, waitsMs: number[], held = waitsMs.length) => ({
    msg: 'hold ended',
    move,
    partition,
    partitions: [1, 2, 3],
    firstForwardAt,
    held,
    waitsMs,
  });
  const report = buildReport({
    operations: [operation],
    routers: [
      [
        hold('op/move-1.1', 1, T + 1_030, [28, 20]),
        hold('op/move-1.1', 2, T + 1_031, [], 1),
        hold('op/move-1.1', 3, T + 1_031, [], 0),
        hold('other/move-1.1', 1, T + 9_000, [1]),
      ],
      [hold('op/move-1.1', 1, T + 1_045.25, [40])],
    ],
    nodes: [
      {
        msg: 'partitions quiesced',
        move: 'op/move-1.1',
        partitions: [1, 2, 3],
        starts: [{ partition: 1, lastStartAt: T + 900 }],
        at: T + 950,
      },
      { msg: 'partitions fenced', move: 'op/move-1.1', partitions: [1, 2, 3], at: T + 1_000 },
      { msg: 'partitions fenced', move: 'op/move-1.1', partitions: [1, 2, 3], at: T + 1_010 }, // repeated: the first counts
      { msg: 'partitions opened', move: 'op/move-1.1', partitions: [1, 2, 3], at: T + 1_025 },
      { msg: 'partitions opened', move: null, partitions: [9], at: T },
      // Aborted before it was fenced.
      {
        msg: 'partitions quiesced',
        move: 'op/move-2.1',
        partitions: [4],
        starts: [{ partition: 4, lastStartAt: T + 2_000 }],
        at: T + 2_000,
      },
      { msg: 'partitions opened', move: 'op/move-2.1', partitions: [4], at: T + 2_500 },
    ],
    sent,
    received,
    check: checkDelivery({ sent, received, faults: [], waitEnded: true }),
    faults: [
      { kind: 'pod', at: T + 1_000, target: 'demo-backend-1', node: 'node-1', restartedAt: T + 3_000 },
      { kind: 'pod', at: T + 2_000, target: 'demo-worker-x', node: null, restartedAt: null },
    ],
  });

  test('faults, with times that people can read', () => {
    expect(report.faults).toEqual([
      {
        kind: 'pod',
        at: '2026-01-01T00:00:01.000Z',
        target: 'demo-backend-1',
        node: 'node-1',
        restartedAt: '2026-01-01T00:00:03.000Z',
      },
      { kind: 'pod', at: '2026-01-01T00:00:02.000Z', target: 'demo-worker-x', node: null, restartedAt: null },
    ]);
    expect(summarize(report)).toContain('demo-backend-1, demo-worker-x');
  });

  test('holds, pauses, counts and throughput', () => {
    expect(report.operations[0]).toEqual({
      operationId: 'op',
      state: 'completed',
      from: 2,
      to: 3,
      durationMs: 10_000,
      phasesMs: { plan: 5 },
      partitionsMoved: 2,
      jobsMoved: 700,
      jobsCopied: 900,
      acknowledgedDuring: 2,
      holdMs: { p50: 31, p99: 45.3, max: 45.3, samples: 2 }, // the slowest router; partition 3 had nobody in its hold
      holdRequestMs: { p50: 28, p99: 40, max: 40, samples: 3 },
      deliveryPauseMs: { p50: 75, p99: 500, max: 500, samples: 4 },
    });
    expect(report.throughput).toEqual({ beforePerSecond: 0.1, duringPerSecond: 0.2 });
    expect(report.verdict).toBe('valid');
  });

  test('reads well', () => {
    const text = summarize(report);
    expect(text).toContain('verdict: VALID');
    expect(text).toMatch(/2 → 3 +completed +10\.0 s +2 +700 +2 +31 \/ 45\.3 \/ 45\.3/);
  });

  test('without operations', () => {
    const empty = buildReport({
      operations: [],
      routers: [],
      nodes: [],
      sent: [],
      received: [],
      check: checkDelivery({ sent: [], received: [], faults: [], waitEnded: true }),
      faults: [],
    });
    expect(empty).toMatchObject({
      verdict: 'unknown',
      operations: [],
      throughput: { beforePerSecond: 0, duringPerSecond: 0 },
    });
    expect(summarize(empty)).toContain('UNKNOWN');
  });
});

test('the destination becomes slower while little waits, quicker while much does, within bounds', () => {
  expect(nextDelay(100, 0)).toBeGreaterThan(100);
  expect(nextDelay(100, 4_000)).toBe(100);
  expect(nextDelay(100, 10_000)).toBeLessThan(100);
  let ms = 100;
  for (let n = 0; n < 200; n += 1) ms = nextDelay(ms, 0);
  expect(ms).toBeLessThanOrEqual(500);
  for (let n = 0; n < 200; n += 1) ms = nextDelay(ms, 1e6);
  expect(ms).toBeGreaterThan(0);
});

describe('what is killed', () => {
  const parts = ['backend', 'postgresql', 'worker'];

  test('is spread over the operations, takes turns among the parts, half by the system and half by people', () => {
    for (let seed = 0; seed < 50; seed += 1) {
      const plan = planKills(6, 2, seed);
      expect(plan.map((kills) => kills.length)).toEqual([3, 3]);
      const kills = plan.flat();
      for (const part of parts) expect(kills.filter((kill) => kill.part === part)).toHaveLength(2);
      expect(kills.filter(({ blow }) => blow === 'SIGKILL')).toHaveLength(3);
      expect(planKills(6, 2, seed)).toEqual(plan);
    }
    expect(new Set(Array.from({ length: 50 }, (_, seed) => planKills(1, 1, seed)[0]![0]!.part)).size).toBe(3);
    expect(planKills(1, 3, 1).map((kills) => kills.length)).toEqual([1, 0, 0]);
    expect(planKills(0, 2, 1)).toEqual([[], []]);
  });

  const progress = (partitionsMoved: number, state: 'copying' | 'waiting' | 'done' = 'copying') =>
    ({
      partitionsMoved,
      partitionsToMove: 10,
      moves: [{ from: 'node-1', to: 'node-2', state }],
    }) as unknown as OperationProgress;
  const victims: Victim[] = ['node-0', 'node-1'].flatMap((node): Victim[] => [
    { part: 'backend', name: `b-${node}`, node },
    { part: 'postgresql', name: `p-${node}`, node },
  ]);

  function killing(plan: readonly (readonly { part: 'backend' | 'postgresql'; blow: Blow }[])[]) {
    const hits: string[] = [];
    let restart = (): void => undefined;
    const killer = new Killer(
      {
        victims: async () => victims,
        hit: async ({ name }, blow) => {
          hits.push(`${blow} ${name}`);
          const restarted = new Promise<number>((resolve) => {
            restart = () => resolve(5);
          });
          return { kind: 'pod', did: blow, restarted };
        },
      },
      plan,
      { seed: 1, signal: new AbortController().signal, say: () => undefined },
    );
    return { killer, hits, restart: () => restart() };
  }
  const settle = () => new Promise((resolve) => setImmediate(resolve));

  test('is a part of a move under way, one at a time, as the operation gets on', async () => {
    const { killer, hits, restart } = killing([
      [
        { part: 'backend', blow: 'SIGKILL' },
        { part: 'postgresql', blow: 'delete' },
      ],
    ]);
    killer.look(progress(0)); // no operation has begun
    killer.operationBegins();
    killer.look(progress(0, 'waiting')); // nothing moves
    await settle();
    expect(hits).toEqual([]);
    killer.look(progress(0));
    await settle();
    expect(hits).toEqual(['SIGKILL b-node-1']); // node-2 has no pod that could be killed
    killer.look(progress(9)); // it is not back
    await settle();
    expect(hits).toHaveLength(1);
    restart();
    await settle();
    killer.look(progress(4)); // the second is due at half
    await settle();
    expect(hits).toHaveLength(1);
    expect(killer.missed).toBe(1);
    killer.look(progress(5));
    await settle();
    expect(hits).toEqual(['SIGKILL b-node-1', 'delete p-node-1']);
    expect(killer.missed).toBe(0);
    restart();
    expect(await killer.faults()).toEqual([
      { kind: 'pod', at: expect.any(Number), target: 'b-node-1', node: 'node-1', restartedAt: 5 },
      { kind: 'pod', at: expect.any(Number), target: 'p-node-1', node: 'node-1', restartedAt: 5 },
    ]);
  });

  test('comes in the next operation where the last was too short, and is counted where none is left', async () => {
    const { killer, hits, restart } = killing([[{ part: 'backend', blow: 'delete now' }], []]);
    killer.operationBegins();
    killer.look(progress(10, 'done'));
    killer.operationBegins();
    expect(killer.missed).toBe(1);
    killer.look(progress(3));
    await settle();
    expect(hits).toEqual(['delete now b-node-1']);
    expect(killer.missed).toBe(0);
    restart();
  });

  test('has restarted at the first look at which it was well for good, or when it was gone for good', async () => {
    const { signal } = new AbortController();
    const looks = ['well', 'unwell', 'well', 'unwell'] as const; // still there, gone, up over a broken database, down again
    let n = 0;
    const begin = now();
    let lastUnwell = begin;
    const well = (await wellAgain(async () => {
      const look = looks[n++];
      if (look === 'unwell') lastUnwell = now();
      if (n === 4) throw new Error('nobody answers');
      return look ?? 'well';
    }, signal))!;
    expect(well).toBeGreaterThan(lastUnwell);
    expect(well - begin).toBeLessThan(1_000); // not when it was believed
    expect(await wellAgain(async () => 'gone', signal)).toBeGreaterThan(well);
    expect(await wellAgain(async () => 'unwell', AbortSignal.timeout(120))).toBeNull();
  });
});
