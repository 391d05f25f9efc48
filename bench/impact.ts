/**
 * What a move takes from live traffic, and what the brake costs the move. The embedded stack with two nodes; half of the ring goes from node-1 to node-0 and
 * back, with a backlog that is written straight into the source's tables (as in the bench of the pause), while traffic at a constant rate goes through the
 * router to a destination that answers at once. Moves with the brake on and off take turns, in both directions alike: on, off, off, on.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, Connection } from '@temporalio/client';
import { readLog } from '../dev/demo/logs.ts';
import type { Stack } from '../dev/stack.ts';
import type { Traffic } from '../dev/traffic/traffic.ts';
import { now } from '../kit/log.ts';
import { DEFAULT_SETTINGS } from '../platform/local/postgres-server.ts';
import { DEFAULT_LIMITS } from '../ring/limits.ts';
import { decideAndAppend } from '../ringstore/ringstore.ts';
import { fill, MOVED, PARTITIONS, scale, spreadSource } from './pause.ts';
import { type BenchStack, withStack } from './stack.ts';

const SOURCE = 'node-1';
const DESTINATION_MS = 1;
const SEED = 1;
/** Before each move: so long the rate is measured. Before it connections open, statements are prepared, the former move's traces are put away. */
const BEFORE_MS = 8_000;
const WARM_UP_MS = 4_000;
/** Of the wanted rate; with less the traffic, and not the move, would be measured. */
const RATE_SHARE_MIN = 0.95;
/** A shorter move says little of the rate beside it. */
const MOVE_MS_MIN = 10_000;

export interface ImpactOptions {
  readonly rows: number;
  /** Even. */
  readonly moves: number;
  readonly rate: number;
}

export interface ImpactMove {
  readonly brake: 'on' | 'off';
  readonly nodes: string;
  /** From its start to its end in the ring's log, clean-up included. */
  readonly ms: number;
  readonly copyMs: number;
  readonly jobsMoved: number;
  readonly beforePerSecond: number;
  readonly duringPerSecond: number;
  /** From a client's first attempt to the destination's answer. */
  readonly latencyMs: Readonly<Record<'before' | 'during', { readonly p50: number; readonly p99: number }>>;
  /** How often the copy was throttled anew. */
  readonly throttled: number;
}

export interface ImpactReport {
  readonly beforePerSecond: number;
  readonly duringPerSecond: number;
  readonly ratio?: number;
  readonly brakedMs: number;
  readonly unbrakedMs: number;
  readonly brakedToUnbraked: number;
  readonly moves: readonly ImpactMove[];
  readonly rows: number;
  readonly rowBytes: number;
  readonly rate: number;
  readonly destinationMs: number;
  readonly limits: object;
  readonly settings: Readonly<Record<string, string | number>>;
  readonly missing?: string;
}

interface Bench extends BenchStack {
  readonly traffic: Traffic;
}

export function benchImpact(options: ImpactOptions): Promise<ImpactReport> {
  const wanted = { bench: 'impact', nodes: 2, partitions: PARTITIONS, destinationMs: DESTINATION_MS };
  return withStack(wanted, async (bench) => {
    say(`filling ${SOURCE} with ${options.rows} jobs that wait for a retry …`);
    const rowBytes = await fill(bench.stack, options.rows, bench.signal, SOURCE);
    const traffic = bench.startTraffic({ source: spreadSource(), rate: options.rate, seed: SEED });
    return measure({ ...bench, traffic }, options, rowBytes);
  });
}

async function measure(bench: Bench, options: ImpactOptions, rowBytes: number): Promise<ImpactReport> {
  const { stack, traffic, signal } = bench;
  const settings: ImpactReport['settings'] = { ...DEFAULT_SETTINGS, fsync: 'on', synchronous_commit: 'on' };
  say(
    `pinned: ${options.rate} events a second, a destination of ${DESTINATION_MS} ms, ${options.rows} jobs of ${rowBytes} bytes in ${MOVED.length} of ${PARTITIONS} partitions, shared_buffers=${settings['shared_buffers']} fsync=on synchronous_commit=on`,
  );
  const connection = await Connection.connect({ address: stack.temporal.address });
  const client = new Client({ connection });
  const timed: TimedMove[] = [];
  try {
    await setBrake(stack, 'on');
    await sleep(WARM_UP_MS, null, { signal });
    for (let n = 0; n < options.moves; n += 1) {
      const brake = n % 4 === 0 || n % 4 === 3 ? 'on' : 'off';
      await setBrake(stack, brake);
      await sleep(BEFORE_MS, null, { signal });
      const askedAt = now();
      const { operationId, jobsMoved } = await scale(client, stack, n % 2 === 0 ? 1 : 2, signal);
      if (jobsMoved < options.rows)
        throw new Error(`${jobsMoved} jobs were moved, ${options.rows} are pending at least`);
      const { startedAt, endedAt } = await spanOf(stack, operationId);
      timed.push({
        brake,
        operationId,
        jobsMoved,
        askedAt,
        startedAt,
        endedAt,
        nodes: n % 2 === 0 ? '2 → 1' : '1 → 2',
      });
      say(
        `  move ${n + 1} of ${options.moves}: brake ${brake}, ${Math.round(endedAt - startedAt)} ms, ${jobsMoved} jobs`,
      );
      await sleep(WARM_UP_MS, null, { signal });
    }
  } finally {
    await connection.close();
  }
  await traffic.stop();
  return reportOf(bench, options, rowBytes, timed, settings);
}

interface TimedMove {
  readonly brake: 'on' | 'off';
  readonly nodes: string;
  readonly operationId: string;
  readonly jobsMoved: number;
  /** `now()` milliseconds; the ring store's clock is this machine's. */
  readonly askedAt: number;
  readonly startedAt: number;
  readonly endedAt: number;
}

async function setBrake({ ringStore, clusterId }: Stack, brake: 'on' | 'off'): Promise<void> {
  const by = { actor: 'bench', reason: 'bench', operation: null };
  await decideAndAppend(ringStore, clusterId, { type: 'set limits', change: { brake } }, by);
}

/** Of its one move. */
async function spanOf({ ringStore, clusterId }: Stack, operationId: string) {
  const events = await ringStore.read(clusterId);
  const at = (type: string): number =>
    Date.parse(events.findLast(({ event, operation }) => event.type === type && operation === operationId)!.at);
  return { startedAt: at('move started'), endedAt: at('move completed') };
}

async function reportOf(
  { stack, sink, traffic }: Bench,
  { rows, rate }: ImpactOptions,
  rowBytes: number,
  timed: readonly TimedMove[],
  settings: ImpactReport['settings'],
): Promise<ImpactReport> {
  const sentAt = new Map(traffic.sent.map((event) => [event.messageId, event.sentAt]));
  const firsts = new Map<string, number>();
  for (const { messageId, answeredAt, status } of await sink.deliveries()) {
    if (answeredAt === null || status === null || status >= 300) continue;
    firsts.set(messageId, Math.min(answeredAt, firsts.get(messageId) ?? answeredAt));
  }
  const delivered = [...firsts].map(([messageId, at]) => ({ at, ms: at - sentAt.get(messageId)! }));
  const sent = [...sentAt.values()];
  const inside = <T>(of: readonly T[], atOf: (one: T) => number, from: number, to: number): T[] =>
    of.filter((one) => atOf(one) >= from && atOf(one) < to);
  const look = (from: number, to: number) => {
    const found = inside(delivered, ({ at }) => at, from, to);
    const ms = found.map((one) => one.ms).sort((a, b) => a - b);
    const rank = (share: number): number => Math.round(ms[Math.ceil(ms.length * share) - 1] ?? 0);
    const seconds = (to - from) / 1_000;
    const sentPerSecond = inside(sent, (at) => at, from, to).length / seconds;
    return { perSecond: found.length / seconds, sentPerSecond, latency: { p50: rank(0.5), p99: rank(0.99) } };
  };
  const worker = await readLog(stack.logFiles().worker);
  const notes = new Set<string>();
  const moves = timed.map((move): ImpactMove => {
    const before = look(move.askedAt - BEFORE_MS, move.askedAt);
    const during = look(move.startedAt, move.endedAt);
    for (const [when, { sentPerSecond }] of Object.entries({ before, during })) {
      if (sentPerSecond < rate * RATE_SHARE_MIN)
        notes.add(
          `the traffic could not keep its rate ${when} a move: ${Math.round(sentPerSecond)} of ${rate} events a second were sent`,
        );
    }
    const lines = worker.filter((line) => String(line['move'] ?? '').startsWith(`${move.operationId}/`));
    const copied = lines.find(({ msg }) => msg === 'cut over');
    const throttled = lines.filter(({ msg }) => msg === 'copy throttled');
    for (const { throttledBy } of throttled)
      say(`  ${move.operationId.slice(0, 13)}: throttled by ${String(throttledBy)}`);
    return {
      brake: move.brake,
      nodes: move.nodes,
      ms: Math.round(move.endedAt - move.startedAt),
      copyMs: Math.round((copied ? Number(copied['time']) : move.endedAt) - move.startedAt),
      jobsMoved: move.jobsMoved,
      beforePerSecond: round1(before.perSecond),
      duringPerSecond: round1(during.perSecond),
      latencyMs: { before: before.latency, during: during.latency },
      throttled: throttled.length,
    };
  });
  const [braked, unbraked] = (['on', 'off'] as const).map((brake) => moves.filter((move) => move.brake === brake));
  const unbrakedMs = mean(unbraked!.map(({ ms }) => ms));
  const brakedMs = mean(braked!.map(({ ms }) => ms));
  if (unbrakedMs < MOVE_MS_MIN)
    notes.add(`a move takes only ${unbrakedMs} ms: with more --rows the rates beside it are of more worth`);
  for (const move of moves) say(JSON.stringify(move));
  const beforePerSecond = round1(mean(braked!.map((move) => move.beforePerSecond)));
  const duringPerSecond = round1(
    braked!.reduce((sum, { ms, duringPerSecond: perSecond }) => sum + perSecond * ms, 0) /
      braked!.reduce((sum, { ms }) => sum + ms, 0),
  );
  const missing = [...notes].join('; ');
  const isKept = ![...notes].some((note) => note.includes('before a move'));
  if (missing) say(missing);
  return {
    beforePerSecond,
    duringPerSecond,
    // Without its rate before the moves the traffic is limited by something else: no ratio then.
    ...(isKept ? { ratio: Math.round((duringPerSecond / beforePerSecond) * 1_000) / 1_000 } : {}),
    brakedMs: Math.round(brakedMs),
    unbrakedMs: Math.round(unbrakedMs),
    brakedToUnbraked: Math.round((brakedMs / unbrakedMs) * 100) / 100,
    moves,
    rows,
    rowBytes,
    rate,
    destinationMs: DESTINATION_MS,
    limits: DEFAULT_LIMITS,
    settings,
    ...(missing ? { missing } : {}),
  };
}

const mean = (numbers: readonly number[]): number => numbers.reduce((sum, one) => sum + one, 0) / numbers.length;
const round1 = (value: number): number => Math.round(value * 10) / 10;
const say = (line: string): void => void process.stderr.write(`${line}\n`);
