/** The plan of a chaos run, its flags, its report, and the parts that aim and strike; the run itself is tested as a whole elsewhere (chaos.e2e.test.ts). */
import { describe, expect, test } from 'vitest';
import type { NodeStatus } from '../../dataplane/contract.ts';
import { CutOverWatch } from '../../dev/chaos/cut-overs.ts';
import { Injector, type Struck, type Target } from '../../dev/chaos/injector.ts';
import { parseChaosOptions, repeatCommand } from '../../dev/chaos/options.ts';
import { chaosKinds, FIRST_SIZE, type PlannedFault, planChaos } from '../../dev/chaos/plan.ts';
import { exitCodeOf, reportChaos, summarizeChaos } from '../../dev/chaos/report.ts';
import { checkDelivery } from '../../dev/checker/checker.ts';
import { now } from '../../kit/log.ts';
import { createMemoryRingStore } from '../../ringstore/memory.ts';
import { decideAndAppend } from '../../ringstore/ringstore.ts';
import { until } from '../support/wait.ts';

describe('the plan', () => {
  test('is the same for the same seed, length and kinds, and another for another seed', () => {
    const plans = new Set<string>();
    for (let seed = 0; seed < 100; seed += 1) {
      const plan = planChaos(seed, 60, chaosKinds);
      expect(planChaos(seed, 60, chaosKinds), `seed ${seed}`).toEqual(plan);
      plans.add(JSON.stringify(plan));
    }
    expect(plans.size).toBe(100);
  });

  test('hits each kind about as often as another, in time, some of them in a cut-over; sizes change with each operation', () => {
    for (let seed = 0; seed < 200; seed += 1) {
      const about = `seed ${seed}`;
      const { faults, operations } = planChaos(seed, 120, chaosKinds);
      const counts = chaosKinds.map((kind) => faults.filter((fault) => fault.kind === kind).length);
      expect(Math.max(...counts) - Math.min(...counts), about).toBeLessThanOrEqual(1);
      expect(Math.min(...counts), about).toBeGreaterThanOrEqual(1);
      expect(faults[0]!.moment, about).toBe('cut-over');
      for (const [n, { atMs, kind, blow, forMs, pick }] of faults.entries()) {
        expect(atMs, about).toBeLessThan(120_000);
        expect(atMs, about).toBeGreaterThan(faults[n - 1]?.atMs ?? 0);
        expect(forMs, about).toBeLessThanOrEqual(14_000);
        expect(pick, about).toBeLessThan(1);
        if (blow === 'SIGQUIT') expect(['postgres', 'ringstore'], about).toContain(kind);
        expect(blow.startsWith('SIG'), about).toBe(kind !== 'network');
      }
      const sizes = [FIRST_SIZE, ...operations.map(({ to }) => to)];
      for (let n = 1; n < sizes.length; n += 1) expect(sizes[n], about).not.toBe(sizes[n - 1]);
    }
    const changes = Array.from({ length: 200 }, (_, seed) => planChaos(seed, 120, chaosKinds).operations).flat();
    for (const action of ['cancel', 'undo'] as const)
      expect(changes.filter(({ change }) => change?.action === action).length / changes.length).toBeCloseTo(0.1, 1);
  });

  test('hits only the kinds that are asked for', () => {
    const { faults } = planChaos(7, 120, ['router', 'temporal']);
    expect(new Set(faults.map(({ kind }) => kind))).toEqual(new Set(['router', 'temporal']));
  });
});

describe('flags', () => {
  test('defaults, and all of them', () => {
    expect(parseChaosOptions([])).toMatchObject({ kind: 'run', options: { seconds: 120, kinds: chaosKinds } });
    const args =
      '--seed 7 --seconds 30 --kinds router,worker --rate 50 --dataplane reference --json report.json --keep';
    expect(parseChaosOptions(args.split(' '))).toEqual({
      kind: 'run',
      options: {
        seed: 7,
        seconds: 30,
        kinds: ['worker', 'router'],
        rate: 50,
        keep: true,
        json: expect.stringMatching(/^\/.*report\.json$/),
      },
    });
  });

  test('without a seed any is taken', () => {
    const seeds = Array.from({ length: 5 }, () => {
      const parsed = parseChaosOptions([]);
      return parsed.kind === 'run' ? parsed.options.seed : null;
    });
    expect(new Set(seeds).size).toBeGreaterThan(1);
  });

  test('--help tells each', () => {
    const help = parseChaosOptions(['--help']) as { text: string };
    for (const flag of ['seed', 'seconds', 'kinds', 'rate', 'dataplane', 'json', 'keep'])
      expect(help.text).toContain(`--${flag}`);
  });

  test.each([
    ['--seed x', 'from 0'],
    ['--seconds 5', 'from 10 to 3600'],
    ['--kinds worker,moon', 'worker, node'],
    ['--kinds ', 'worker, node'],
    ['--dataplane rudder-native', 'not built yet'],
    ['--json nowhere/report.json', 'no file that can be written'],
    ['--moon', 'unknown option'],
  ])('%s is refused with one line', (args, told) => {
    expect(() => parseChaosOptions(args.split(' '))).toThrow(told);
  });

  test('the command that repeats a run gives the same options again', () => {
    for (const args of ['--seed 3', '--seed 4 --seconds 30 --kinds node,ringstore --rate 20']) {
      const first = parseChaosOptions(args.split(' '));
      if (first.kind !== 'run') throw new Error('no run');
      const again = repeatCommand(first.options).split(' -- ')[1]!.split(' ');
      expect(parseChaosOptions(again)).toEqual(first);
    }
  });
});

const T = Date.parse('2026-01-01T00:00:00Z');
const struck = (landed: [number, number], more: Partial<Struck> = {}): Struck => ({
  kind: 'node',
  blow: 'SIGKILL',
  at: T + landed[0],
  landedAt: T + landed[1],
  target: 'node-0',
  node: 'node-0',
  restartedAt: T + landed[1] + 3_000,
  ...more,
});

describe('the report', () => {
  const cutOvers = {
    all: [{ move: 'o/move-1.1', from: 'node-0', to: 'node-1', seenAt: T + 100, endedAt: T + 200 }],
    at(at: number) {
      return this.all.find(({ seenAt, endedAt }) => seenAt <= at && at < endedAt) ?? null;
    },
  };
  const options = { seed: 7, seconds: 30, kinds: ['node', 'worker'] as const, rate: 150, keep: false };
  const event = { userKey: 'a', seq: 0, sentAt: T, answeredAt: T + 1, status: 200, attempts: 1 };
  const sent = [{ ...event, messageId: 'a0' }];
  const delivery = { messageId: 'a0', userKey: 'a', node: 'node-0', answeredAt: T + 150, status: 200 };
  const report = (faults: Struck[], received = [{ ...delivery, startedAt: T + 120 }], more = {}) =>
    reportChaos({
      options,
      check: checkDelivery({ sent, received, faults, waitEnded: true }),
      faults,
      cutOvers,
      operations: { completed: 1, cancelled: 0, undone: 0, blocked: 0 },
      leftovers: [],
      trouble: null,
      ...more,
    });

  test('counts a fault as inside a cut-over only where the blow began and landed in it', () => {
    const faults = [struck([110, 120]), struck([90, 120]), struck([190, 210]), struck([300, 310])];
    const { faultsInsideCutOver, struck: told, faults: counts } = report(faults);
    expect(told.map(({ cutOver }) => cutOver)).toEqual(['o/move-1.1', null, null, null]);
    expect(faultsInsideCutOver).toBe(1);
    expect(counts).toEqual({ node: 4, worker: 0 });
  });

  test('says of each fault which duplicates it explains', () => {
    const twice = [
      { ...delivery, startedAt: T + 120 },
      { ...delivery, startedAt: T + 4_000, answeredAt: T + 4_010 },
    ];
    const faults = [struck([110, 120], { kind: 'worker', node: null, target: 'worker' }), struck([130, 140])];
    const { verdict, struck: told, events } = report(faults, twice);
    expect(verdict).toBe('valid');
    expect(events).toMatchObject({ duplicated: 1, duplicatedExplained: 1 });
    expect(told.map(({ explains }) => explains)).toEqual([0, 1]);
    expect(report([faults[0]!], twice).verdict).toBe('invalid');
  });

  test.each([
    [{}, 0],
    [{ trouble: 'no fault struck inside a cut-over' }, 1],
    [{ leftovers: ['the ring is frozen by x'] }, 1],
    [{ leftovers: ['the ring is frozen by x', 'operation x is blocked'] }, 4],
    [{ verdict: 'unknown' as const }, 3],
    [{ verdict: 'unknown' as const, leftovers: ['x'] }, 1],
    [{ verdict: 'invalid' as const, leftovers: ['operation x is blocked'] }, 1],
  ])('%j ends with %d, and what failed is told how to repeat', (more, code) => {
    const found = { ...report([struck([110, 120])]), ...more };
    expect(exitCodeOf(found)).toBe(code);
    expect(summarizeChaos(found).includes('npm run chaos -- --seed 7 --seconds 30 --kinds node,worker')).toBe(
      code !== 0,
    );
  });
});

describe('cut-overs, seen from outside', () => {
  const by = { actor: 'test', reason: 'test', operation: null };
  const move = 'op/move-1.1';

  async function withMove(run: (world: World) => Promise<void>): Promise<void> {
    const store = createMemoryRingStore();
    const append = async (command: Parameters<typeof decideAndAppend>[2]): Promise<void> => {
      await decideAndAppend(store, 'c', command, by);
    };
    const facts = (node: string) => ({ node, databaseId: `${node}-db`, url: `http://${node}` });
    await append({ type: 'make ring', clusterId: 'c', partitionCount: 4, nodes: [facts('node-0'), facts('node-1')] });
    await append({ type: 'freeze', by: { operationId: 'op', workflowId: 'w', runId: 'op' } });
    await append({ type: 'start move', holder: 1, move, from: 'node-0', to: 'node-1', partitions: [0] });
    const source = { paused: 0, fenced: 0, asked: [] as string[] };
    const watch = new CutOverWatch(store, 'c', async (node) => {
      source.asked.push(node);
      return { partitions: { closed: 2, open: 2, paused: source.paused, fenced: source.fenced } } as NodeStatus;
    });
    let claims = 0;
    const claim = (): Promise<void> => {
      claims += 1;
      return append({ type: 'claim move', holder: 1, move, attempt: String(claims) });
    };
    try {
      await run({ watch, source, claim, abort: () => append({ type: 'abort move', move, because: 'test' }) });
    } finally {
      await watch.stop();
      await store.close();
    }
  }
  interface World {
    readonly watch: CutOverWatch;
    readonly source: { paused: number; fenced: number; asked: string[] };
    claim(): Promise<void>;
    abort(): Promise<void>;
  }
  const never = new AbortController().signal;

  test.each(['paused', 'fenced'] as const)(
    'one begins when its source is seen %s, and ends with the log',
    async (state) => {
      await withMove(async ({ watch, source, claim, abort }) => {
        await claim();
        await claim();
        const next = watch.next(5_000, never);
        await until(() => source.asked.length > 2, { deadlineMs: 5_000, what: 'the source is asked' });
        expect(watch.all).toEqual([]);
        expect(new Set(source.asked)).toEqual(new Set(['node-0']));
        source[state] = 1;
        const before = now();
        const seen = (await next)!;
        expect(seen).toMatchObject({ move, from: 'node-0', to: 'node-1', endedAt: null });
        expect(watch.at(before - 1_000)).toBeNull();
        expect(watch.at(now())).toBe(seen);
        expect(await watch.next(0, never)).toBe(seen); // it goes on
        await abort();
        await until(() => seen.endedAt !== null, { deadlineMs: 5_000, what: 'its end is seen' });
        expect(watch.at(seen.endedAt!)).toBeNull();
        expect(watch.at(now() + 1_000)).toBeNull();
        expect(await watch.next(50, never)).toBeNull(); // the source may still be paused: that is no cut-over any more
      });
    },
  );

  test('a move that is copying for the first time is in none, whatever its source says', async () => {
    await withMove(async ({ watch, source, claim }) => {
      source.paused = 1;
      await claim();
      expect(await watch.next(200, never)).toBeNull();
      expect(source.asked).toEqual([]);
      await claim();
      expect(await watch.next(5_000, never)).toMatchObject({ move });
    });
  });
});

describe('striking', () => {
  const fault = (more: Partial<PlannedFault> = {}): PlannedFault => ({
    atMs: 0,
    kind: 'node',
    blow: 'SIGKILL',
    forMs: 0,
    moment: 'any',
    lateMs: 0,
    pick: 0,
    ...more,
  });
  const cutOver = { move: 'm', from: 'node-2', to: 'node-3', seenAt: 0, endedAt: null };

  function striking(isCutOver = false) {
    const hits: string[] = [];
    const well = new Map<string, boolean>();
    const targets = [0, 1, 2, 3].map(
      (n): Target => ({
        kind: 'node',
        name: `node-${n}`,
        node: `node-${n}`,
        near: `node-${n}`,
        async hit(blow) {
          hits.push(`${blow} node-${n}`);
          well.set(`node-${n}`, false);
          return { back: Promise.resolve() };
        },
        state: async () => (well.get(`node-${n}`) === false ? 'unwell' : 'well'),
      }),
    );
    const stopping = new AbortController();
    const watch = { next: async () => (isCutOver ? cutOver : null) } as unknown as CutOverWatch;
    const injector = new Injector(async () => targets, watch, { say: () => undefined, signal: stopping.signal });
    return { hits, well, injector, stopping };
  }

  test('the seed picks among those that are there, and none twice before it is well', async () => {
    const { hits, well, injector } = striking();
    const over = new AbortController().signal;
    for (const pick of [0, 0, 0.99]) expect(await injector.strike(fault({ pick }), 0, over)).toBe(true);
    expect(hits).toEqual(['SIGKILL node-0', 'SIGKILL node-1', 'SIGKILL node-3']);
    for (const name of ['node-0', 'node-1', 'node-3']) well.set(name, true);
    const faults = await injector.heal();
    expect(faults.map(({ target }) => target)).toEqual(['node-0', 'node-1', 'node-3']);
    expect(faults.every(({ at, landedAt, restartedAt }) => at <= landedAt && landedAt <= restartedAt!)).toBe(true);
  });

  test('one that is aimed hits a node of the cut-over', async () => {
    const { hits, injector } = striking(true);
    const over = new AbortController().signal;
    await injector.strike(fault({ moment: 'cut-over', pick: 0 }), 100, over);
    await injector.strike(fault({ moment: 'cut-over', pick: 0 }), 100, over);
    expect(hits).toEqual(['SIGKILL node-2', 'SIGKILL node-3']);
  });

  test('what does not come back is told by name', async () => {
    const { injector, stopping } = striking();
    await injector.strike(fault({ pick: 0.5 }), 0, new AbortController().signal);
    stopping.abort(); // as its deadline would
    await expect(injector.heal()).rejects.toThrow('not well again: node-2');
  });

  test('a kind of which nothing is there strikes nothing, until it is over', async () => {
    const { hits, injector } = striking();
    expect(await injector.strike(fault({ kind: 'router' }), 0, AbortSignal.timeout(150))).toBe(false);
    expect(hits).toEqual([]);
  });
});
