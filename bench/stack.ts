/** What a bench of moves runs on: the embedded stack with a destination. They are there while it measures, and nothing of them stays, also after Ctrl-C. */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type SinkProcess, startSinkProcess } from '../dev/sink/process.ts';
import { type Stack, startStack } from '../dev/stack.ts';
import { startTraffic, type Traffic, type TrafficOptions } from '../dev/traffic/traffic.ts';
import { onStopSignal } from '../kit/parent.ts';
import { dataRoot } from '../platform/local/places.ts';

export interface BenchStackOptions {
  /** Names its folder. */
  readonly bench: string;
  readonly nodes: number;
  readonly partitions: number;
  /** How long the destination takes to answer. */
  readonly destinationMs: number;
}

export interface BenchStack {
  readonly stack: Stack;
  readonly sink: SinkProcess;
  /** Aborted when the bench is to end. */
  readonly signal: AbortSignal;
  /** Through the first router, until it is stopped or the bench ends. One at a time. */
  startTraffic(options: Omit<TrafficOptions, 'routerUrl' | 'writeKey'>): Traffic;
}

/** Events that are on their way when a bench is stopped are waited for no longer. */
const TRAFFIC_END_MS = 1_000;

/** Starts a stack, uses it, and takes it down. A stop signal does so at once, and ends the process with 130. */
export async function withStack<T>(options: BenchStackOptions, use: (bench: BenchStack) => Promise<T>): Promise<T> {
  const folder = path.join(dataRoot(), `bench-${options.bench}-${process.pid}`);
  const stopping = new AbortController();
  let starting: Promise<Parts | null> = Promise.resolve(null);
  let traffic: Traffic | null = null;
  let stopped: Promise<void> | null = null;
  const stop = async (): Promise<void> => {
    stopping.abort(new Error('stopped'));
    const parts = await starting.catch(() => null); // what could not be started has ended itself
    if (traffic) await Promise.race([traffic.stop(), sleep(TRAFFIC_END_MS)]);
    await parts?.stack.stop();
    await parts?.sink.stop();
    await rm(folder, { recursive: true, force: true });
  };
  const stopOnce = (): Promise<void> => {
    stopped ??= stop();
    return stopped;
  };
  let signalled = false;
  const unlisten = onStopSignal(() => {
    signalled = true;
    void stopOnce().finally(() => process.exit(130));
  });
  try {
    starting = startParts(folder, options);
    const { stack, sink } = (await starting)!;
    stopping.signal.throwIfAborted();
    return await use({
      stack,
      sink,
      signal: stopping.signal,
      startTraffic(wanted) {
        traffic = startTraffic({ ...wanted, routerUrl: stack.routerUrls[0]!, writeKey: stack.writeKey });
        return traffic;
      },
    });
  } catch (error) {
    // Whatever fails because we stop is no failure of its own: the signal's handler ends the process.
    if (signalled) return await new Promise(() => undefined);
    throw error;
  } finally {
    if (!signalled) {
      await stopOnce();
      unlisten();
    }
  }
}

interface Parts {
  readonly sink: SinkProcess;
  readonly stack: Stack;
}

async function startParts(folder: string, { nodes, partitions, destinationMs }: BenchStackOptions): Promise<Parts> {
  const sink = await startSinkProcess({ destinationMs });
  try {
    const stack = await startStack({
      dataFolder: folder,
      destinationUrl: `${sink.url}/events`,
      nodes,
      partitions,
      onStep: (step) => void process.stderr.write(`${step} …\n`),
    });
    return { sink, stack };
  } catch (error) {
    await sink.stop();
    throw error;
  }
}
