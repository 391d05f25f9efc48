/**
 * The demo: stack → traffic → operations one after the other → drain → check → report.
 * Holds: whatever happens, what was started is stopped.
 */
import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { OperationProgress } from '../../workflows/messages.ts';
import { checkDelivery } from '../checker/checker.ts';
import type { Cluster } from '../cluster.ts';
import { type SinkProcess, startSinkProcess } from '../sink/process.ts';
import { startStack } from '../stack.ts';
import { type EventSource, fileSource, seededSource } from '../traffic/source.ts';
import { startTraffic, type Traffic } from '../traffic/traffic.ts';
import { drain } from './drain.ts';
import { Killer, planKills } from './kills.ts';
import { readLog } from './logs.ts';
import { watchOperation } from './operations.ts';
import type { DemoOptions } from './options.ts';
import { BEFORE_MS, buildReport, type DemoReport } from './report.ts';
import type { Screen } from './screen.ts';
import { DRAIN_MS, FIRST_MS } from './slowness.ts';
import { Watch } from './watch.ts';

export interface DemoOutcome {
  readonly report: DemoReport;
  /** What kept the demo from its full length, if anything did. */
  readonly trouble: Error | null;
  /** Where the data lies, if it was kept. */
  readonly kept: string | null;
}

const CLUSTER = 'demo';

export async function runDemo(
  options: DemoOptions,
  dataFolder: string,
  screen: Screen,
  signal: AbortSignal,
): Promise<DemoOutcome> {
  let source: EventSource | null = null;
  let sink: SinkProcess | null = null;
  let cluster: Cluster | null = null;
  let traffic: Traffic | null = null;
  let keep = true;
  // Only then: the Kubernetes client takes its time to load. What is missing is told before anything is made.
  const kube = options.platform === 'kubernetes' ? await import('../kube/kube-stack.ts') : null;
  kube?.assertToolsAreThere();
  try {
    await mkdir(dataFolder, { recursive: true });
    source = options.input
      ? await fileSource({
          file: options.input,
          userField: options.userField,
          ...(options.events ? { events: options.events } : {}),
        })
      : seededSource(options.seed);
    sink = await startSinkProcess({
      destinationMs: options.destinationMs ?? FIRST_MS,
      ...(options.failOneIn === undefined ? {} : { failOneIn: options.failOneIn }),
      logFile: path.join(dataFolder, 'deliveries.ndjson'),
    });
    const onStep = (step: string): void => screen.say(`· ${step}`);
    const wanted = {
      dataFolder: path.join(dataFolder, 'stack'),
      destinationUrl: `${sink.url}/events`,
      clusterId: CLUSTER,
      nodes: options.nodes,
      partitions: options.partitions,
      onStep,
    };
    cluster =
      kube !== null
        ? await kube.startKubeStack({ ...wanted, signal, onProgress: (line) => screen.progress(`  ${line}`) })
        : await startStack({ ...wanted, faults: options.killPods !== undefined });
    signal.throwIfAborted();
    let failures = 0;
    traffic = startTraffic({
      routerUrl: cluster.routerUrls[0]!,
      writeKey: cluster.writeKey,
      source,
      rate: options.rate,
      seed: options.seed,
      logFile: path.join(dataFolder, 'sent.ndjson'),
      onFailure: (because) => {
        failures += 1;
        if (failures <= 3) screen.say(`! a client saw a request fail: ${because}`);
      },
    });
    const watch = new Watch(traffic, sink, options.destinationMs === undefined);
    screen.say(`· traffic: ${options.rate} events a second; first operation in ${BEFORE_MS / 1_000} s`);
    const killer = new Killer(cluster, planKills(options.killPods ?? 0, options.to.length, options.seed), {
      seed: options.seed,
      signal,
      say: (line) => screen.say(line),
    });
    const operations: OperationProgress[] = [];
    let trouble: Error | null = null;
    let unfinished: OperationProgress | null = null;
    try {
      await watch.during(sleep(BEFORE_MS, null, { signal }), () => screen.progress(`  warming up · ${watch.line()}`));
      for (const targetNodes of options.to) {
        killer.operationBegins();
        const progress = await watch.during(
          scaleAndWatch(cluster, targetNodes, signal, screen, (seen) => {
            unfinished = seen;
            killer.look(seen);
            screen.progress(`  ${lineOf(seen)} · ${watch.line()}`);
          }),
        );
        unfinished = null;
        if (progress) {
          operations.push(progress);
          screen.say(
            `· ${progress.from} → ${progress.to} nodes: ${progress.state}, ${progress.partitionsMoved} partitions and ${progress.jobsMoved} pending jobs moved`,
          );
          if (progress.state !== 'completed' && progress.state !== 'nothing to do')
            throw new Error(`operation ${progress.operationId} ended as ${progress.state}`);
        } else screen.say(`· ${targetNodes} nodes: nothing to do`);
      }
      if (killer.missed > 0)
        throw new Error(`${killer.missed} of ${options.killPods} were not killed: the operations were over too soon`);
      // The whole input at least once, where there is one.
      while (options.input && source.rounds === 0 && !traffic.failure) {
        await watch.during(sleep(500, null, { signal }), () =>
          screen.progress(`  sending the rest of the input · ${watch.line()}`),
        );
      }
    } catch (error) {
      if (signal.aborted) throw error;
      if (unfinished) operations.push(unfinished); // as it was last seen
      trouble = error instanceof Error ? error : new Error(String(error));
      screen.say(`! ${trouble.message}`); // what was sent until now is checked all the same
    }
    trouble ??= traffic.failure;
    screen.say('· traffic stops; waiting for what is still to be delivered');
    await traffic.stop();
    if (options.destinationMs === undefined) await sink.setDestinationMs(DRAIN_MS);
    await drain(traffic, sink, signal, (line) => screen.progress(`  ${line}`));

    const received = await sink.deliveries();
    const { sent } = traffic;
    const faults = await killer.faults();
    const check = checkDelivery({ sent, received, faults, waitEnded: true });
    const logs = cluster.logFiles();
    const report = buildReport({
      operations,
      routers: await Promise.all(logs.routers.map(readLog)),
      nodes: (await Promise.all(logs.nodes.map(readLog))).flat(),
      sent,
      received,
      check,
      faults,
    });
    keep = options.keep || report.verdict !== 'valid' || trouble !== null;
    return { report, trouble, kept: keep ? dataFolder : null };
  } finally {
    screen.say('· stopping');
    if (traffic) await Promise.race([traffic.stop(), sleep(1_000)]); // after Ctrl-C nobody waits for its last requests
    source?.close();
    await cluster?.stop();
    await sink?.stop();
    if (!keep || signal.aborted) await rm(dataFolder, { recursive: true, force: true });
  }
}

/** One operation, asked for as people do it on this platform; null where there was nothing to do. */
async function scaleAndWatch(
  cluster: Cluster,
  targetNodes: number,
  signal: AbortSignal,
  screen: Screen,
  onProgress: (progress: OperationProgress) => void,
): Promise<OperationProgress | null> {
  const operationId = await cluster.scale(targetNodes, {
    reason: `demo: scale to ${targetNodes}`,
    signal,
    onCommand: (command) => screen.say(`$ ${command}`),
  });
  return operationId === null
    ? null
    : watchOperation(cluster.api, cluster.clusterId, operationId, { signal, onProgress });
}

export function lineOf(progress: OperationProgress): string {
  const jobs = progress.moves.reduce((sum, move) => sum + move.jobsCopied, 0);
  const { blockedOn } = progress;
  const phase = blockedOn ? `blocked on ${blockedOn.code}: ${blockedOn.message}` : (progress.phase ?? progress.state);
  return `${progress.from} → ${progress.to} nodes · ${phase} · ${progress.partitionsMoved}/${progress.partitionsToMove} partitions, ${jobs} jobs copied`;
}
