/**
 * A chaos run: stack → traffic → operations one after the other, faults meanwhile → heal → the last operation ends → drain → check → what is left over.
 * Holds: whatever happens, what was started is stopped, and nothing stays held still.
 */
import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { now } from '../../kit/log.ts';
import { checkDelivery } from '../checker/checker.ts';
import { drain } from '../demo/drain.ts';
import { lineOf } from '../demo/run.ts';
import type { Screen } from '../demo/screen.ts';
import { DRAIN_MS, FIRST_MS } from '../demo/slowness.ts';
import { Watch } from '../demo/watch.ts';
import { type SinkProcess, startSinkProcess } from '../sink/process.ts';
import { type Stack, startStack } from '../stack.ts';
import { seededSource } from '../traffic/source.ts';
import { startTraffic, type Traffic } from '../traffic/traffic.ts';
import { type CutOverWatch, watchCutOvers } from './cut-overs.ts';
import { Injector, type Struck } from './injector.ts';
import { findLeftovers } from './leftovers.ts';
import { type OperationsSeen, operate } from './operator.ts';
import type { ChaosOptions } from './options.ts';
import { type ChaosPlan, FIRST_SIZE, planChaos } from './plan.ts';
import { type ChaosReport, exitCodeOf, reportChaos } from './report.ts';
import { listTargets } from './targets.ts';

export interface ChaosOutcome {
  readonly report: ChaosReport;
  /** Where the data lies, if it was kept. */
  readonly kept: string | null;
}

const CLUSTER = 'chaos';
const PARTITIONS = 32;
const ROUTERS = 2;
/** Above the longest pause but the rare long ones: then clients send again what a stalled router still has in hand. */
const REQUEST_TIMEOUT_MS = 8_000;
/** At least one fault has to strike inside a cut-over: so long it is tried after the others. */
const AIM_WITHIN_MS = 120_000;

export async function runChaos(
  options: ChaosOptions,
  dataFolder: string,
  screen: Screen,
  signal: AbortSignal,
): Promise<ChaosOutcome> {
  const say = (line: string): void => screen.say(line);
  const plan = planChaos(options.seed, options.seconds, options.kinds);
  say(`· seed ${options.seed}: ${plan.faults.length} faults in ${options.seconds} s`);
  let sink: SinkProcess | null = null;
  let stack: Stack | null = null;
  let traffic: Traffic | null = null;
  let cutOvers: CutOverWatch | null = null;
  let keep = true;
  try {
    await mkdir(dataFolder, { recursive: true });
    sink = await startSinkProcess({ destinationMs: FIRST_MS, logFile: path.join(dataFolder, 'deliveries.ndjson') });
    stack = await startStack({
      dataFolder: path.join(dataFolder, 'stack'),
      destinationUrl: `${sink.url}/events`,
      clusterId: CLUSTER,
      nodes: FIRST_SIZE,
      partitions: PARTITIONS,
      routers: ROUTERS,
      faults: true,
      network: options.kinds.includes('network'),
      onStep: (step) => say(`· ${step}`),
    });
    signal.throwIfAborted();
    traffic = startTraffic({
      routerUrl: stack.routerUrls,
      writeKey: stack.writeKey,
      source: seededSource(options.seed),
      rate: options.rate,
      seed: options.seed,
      requestTimeoutMs: REQUEST_TIMEOUT_MS,
      logFile: path.join(dataFolder, 'sent.ndjson'),
    });
    cutOvers = watchCutOvers(stack);
    const watch = new Watch(traffic, sink, true);
    const struck = await strikeAndOperate({ options, plan, stack, cutOvers, watch, screen, signal });

    say('· traffic stops; waiting for what is still to be delivered');
    await traffic.stop();
    await sink.setDestinationMs(DRAIN_MS);
    await drain(traffic, sink, signal, (line) => screen.progress(`  ${line}`));
    say('· looking for what is left over');
    const leftovers = await findLeftovers(stack, signal);
    await cutOvers.stop();
    const { faults, operations, trouble } = struck;
    const check = checkDelivery({
      sent: traffic.sent,
      received: await sink.deliveries(),
      faults,
      waitEnded: true,
    });
    const report = reportChaos({ options, check, faults, cutOvers, operations, leftovers, trouble });
    keep = options.keep || exitCodeOf(report) !== 0;
    return { report, kept: keep ? dataFolder : null };
  } finally {
    say('· stopping');
    if (traffic) await Promise.race([traffic.stop(), sleep(1_000)]); // after Ctrl-C nobody waits for its last requests
    await cutOvers?.stop().catch(() => undefined);
    await stack?.stop();
    await sink?.stop();
    if (!keep || signal.aborted) await rm(dataFolder, { recursive: true, force: true });
  }
}

interface Striking {
  readonly options: ChaosOptions;
  readonly plan: ChaosPlan;
  readonly stack: Stack;
  readonly cutOvers: CutOverWatch;
  readonly watch: Watch;
  readonly screen: Screen;
  readonly signal: AbortSignal;
}

/** Until the last fault has healed and the last operation is over. What keeps it from that is told as trouble: what was sent is checked all the same. */
async function strikeAndOperate({ options, plan, stack, cutOvers, watch, screen, signal }: Striking): Promise<{
  faults: Struck[];
  operations: OperationsSeen;
  trouble: string | null;
}> {
  const say = (line: string): void => screen.say(line);
  const startedAt = now();
  const enough = new AbortController();
  const timer = setTimeout(() => enough.abort(), options.seconds * 1_000);
  let shown = '';
  let trouble: string | null = null;
  const troubled = (error: unknown): void => {
    if (signal.aborted) throw error;
    trouble ??= error instanceof Error ? error.message : String(error);
    say(`! ${trouble}`);
  };
  const seen: OperationsSeen = { completed: 0, cancelled: 0, undone: 0, blocked: 0 };
  const noMore = new AbortController();
  const operating = operate({
    api: stack.api,
    clusterId: stack.clusterId,
    operations: plan.operations,
    seen,
    enough: noMore.signal,
    signal,
    say,
    onProgress: (progress) => {
      shown = lineOf(progress);
    },
  });
  operating.catch(() => undefined); // awaited below
  const injector = new Injector(() => listTargets(stack), cutOvers, { say, signal });
  const striking = async (): Promise<Struck[]> => {
    await injector.run(plan.faults, startedAt, enough.signal);
    await sleep(Math.max(0, startedAt + options.seconds * 1_000 - now()), null, { signal });
    await aimAgain(plan, injector, cutOvers, signal);
    say('· no more faults: everything heals');
    return injector.heal();
  };
  const draw = (): void => screen.progress(`  ${shown} · ${watch.line()}`);
  let faults: Struck[] = [];
  try {
    faults = await watch.during(striking(), draw);
  } catch (error) {
    troubled(error);
  } finally {
    clearTimeout(timer);
    noMore.abort();
  }
  await watch.during(operating, draw).catch(troubled);
  signal.throwIfAborted();
  if (!faults.some(({ landedAt, at }) => cutOvers.at(at) !== null && cutOvers.at(at) === cutOvers.at(landedAt)))
    troubled(new Error('no fault struck inside a cut-over: this run proves little'));
  return { faults, operations: seen, trouble };
}

/** Cut-overs are short: where none was hit, the plan's aimed faults come again until one is. */
async function aimAgain(
  plan: ChaosPlan,
  injector: Injector,
  cutOvers: CutOverWatch,
  signal: AbortSignal,
): Promise<void> {
  const over = AbortSignal.any([signal, AbortSignal.timeout(AIM_WITHIN_MS)]);
  for (const fault of plan.faults) {
    if (over.aborted || injector.landed.some((at) => cutOvers.at(at) !== null)) return;
    await injector.strike({ ...fault, moment: 'cut-over', lateMs: 0 }, AIM_WITHIN_MS, over);
  }
}
