/** A whole cluster under traffic, for tests: real processes, real servers; judged by the checker, which knows only what was sent and received. */

import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { expect } from 'vitest';
import { findLeftovers } from '../../dev/chaos/leftovers.ts';
import type { checkDelivery, Fault, SentEvent } from '../../dev/checker/checker.ts';
import { runOperation } from '../../dev/demo/operations.ts';
import { type SinkProcess, startSinkProcess } from '../../dev/sink/process.ts';
import { type Stack, type StackOptions, startStack } from '../../dev/stack.ts';
import { seededSource } from '../../dev/traffic/source.ts';
import { startTraffic, type Traffic } from '../../dev/traffic/traffic.ts';
import { dataRoot } from '../../platform/local/places.ts';
import type { Ring } from '../../ring/ring.ts';
import { readRing } from '../../ringstore/ringstore.ts';
import type { OperationProgress } from '../../workflows/messages.ts';
import { type Balancer, startBalancer } from '../support/balancer.ts';
import { until } from '../support/wait.ts';
import { judgeTraffic } from './judge.ts';

export interface TestCluster {
  readonly stack: Stack;
  readonly sink: SinkProcess;
  readonly traffic: Traffic;
  /** Null, unless it was asked for. */
  readonly balancer: Balancer | null;
  scale(targetNodes: number): Promise<OperationProgress>;
  ring(): Promise<Ring>;
  /** Stops the traffic, waits until every acknowledged event was delivered (or 30 s without a delivery), and judges; `also`: what other clients have sent. */
  judge(faults?: readonly Fault[], also?: readonly SentEvent[]): Promise<ReturnType<typeof checkDelivery>>;
  /** What must not be there when an operation is over, and still is a minute later: what a node puts away by itself takes a moment. Queues may be in use. */
  leftovers(): Promise<string[]>;
}

export async function withCluster(
  options: Pick<
    StackOptions,
    'nodes' | 'partitions' | 'routers' | 'routerEnv' | 'network' | 'faultPointsUrl' | 'workerEnv'
  > & {
    /** Clients come through a load balancer, not to each router in turn. */
    readonly balanced?: boolean;
    readonly rate?: number;
    readonly destinationMs?: number;
    readonly seed?: number;
  },
  run: (cluster: TestCluster) => Promise<void>,
): Promise<void> {
  const seed = options.seed ?? randomBytes(4).readUInt32BE();
  const dataFolder = path.join(dataRoot(), `test-${process.pid}-${randomBytes(4).toString('hex')}`);
  const stopping = new AbortController();
  let sink: SinkProcess | undefined;
  let stack: Stack | undefined;
  let traffic: Traffic | undefined;
  let balancer: Balancer | null = null;
  try {
    sink = await startSinkProcess({ destinationMs: options.destinationMs ?? 40 });
    stack = await startStack({
      dataFolder,
      destinationUrl: `${sink.url}/events`,
      nodes: options.nodes ?? 2,
      partitions: options.partitions ?? 16,
      ...(options.workerEnv ? { workerEnv: options.workerEnv } : {}),
      ...(options.routers ? { routers: options.routers } : {}),
      ...(options.routerEnv ? { routerEnv: options.routerEnv } : {}),
      faults: true,
      network: options.network ?? false,
      ...(options.faultPointsUrl ? { faultPointsUrl: options.faultPointsUrl } : {}),
    });
    balancer = options.balanced ? await startBalancer(stack.routerUrls) : null;
    traffic = startTraffic({
      routerUrl: balancer?.url ?? stack.routerUrls,
      writeKey: stack.writeKey,
      source: seededSource(seed),
      rate: options.rate ?? 150,
      seed,
    });
    const [theSink, theStack, theTraffic] = [sink, stack, traffic];
    await until(() => theTraffic.acknowledged > 200, { deadlineMs: 30_000, what: 'traffic flows' });
    await run({
      stack,
      sink,
      traffic,
      balancer,
      ring: () => readRing(theStack.ringStore, theStack.clusterId),
      scale: async (targetNodes) =>
        (await runOperation(theStack.api, theStack.clusterId, targetNodes, {
          reason: 'test',
          signal: stopping.signal,
          onProgress: () => undefined,
        }))!,
      judge: (faults, also) => judgeTraffic(theTraffic, theSink, faults, also),
      leftovers: () => findLeftovers(theStack, stopping.signal, { queuesInUse: true }),
    });
  } catch (error) {
    throw new Error(`seed ${seed}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  } finally {
    stopping.abort();
    await traffic?.stop().catch(() => undefined);
    await balancer?.close();
    await stack?.stop();
    await sink?.stop();
    await rm(dataFolder, { recursive: true, force: true });
  }
}

/** Nothing lost, twice, out of order or unknown, and no client saw an error. */
export function expectFlawless(judged: ReturnType<typeof checkDelivery>): void {
  expect(judged).toMatchObject({
    verdict: 'valid',
    events: { lost: 0, duplicated: 0, reordered: 0, unknown: 0, clientErrors: 0 },
  });
  expect(judged.events.delivered).toBeGreaterThan(500);
}
