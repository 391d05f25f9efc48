/** A cluster on Kubernetes under traffic, for tests: the chart, the real API server and controllers, the kubelet stand-in; judged by the independent checker. */
import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import type { checkDelivery } from '../../dev/checker/checker.ts';
import { type KubeStack, type RingClusterObject, startKubeStack } from '../../dev/kube/kube-stack.ts';
import { type SinkProcess, startSinkProcess } from '../../dev/sink/process.ts';
import { seededSource } from '../../dev/traffic/source.ts';
import { startTraffic, type Traffic } from '../../dev/traffic/traffic.ts';
import { dataRoot } from '../../platform/local/places.ts';
import type { Ring } from '../../ring/ring.ts';
import { readRing } from '../../ringstore/ringstore.ts';
import { until } from '../support/wait.ts';
import { judgeTraffic } from './judge.ts';

export interface KubeCluster {
  readonly stack: KubeStack;
  readonly seed: number;
  ring(): Promise<Ring>;
  /** Resolves when the operator says so of the newest generation, and the ring has so many nodes. */
  steadyWith(nodes: number): Promise<RingClusterObject>;
  /** What both StatefulSets want. */
  replicas(): Promise<{ backend: number; postgresql: number }>;
  /** Stops the traffic, waits until every acknowledged event was delivered (or 30 s without a delivery), and judges. */
  judge(): Promise<ReturnType<typeof checkDelivery>>;
  /** What must not be there when no operation is under way. */
  leftovers(): Promise<string[]>;
  stop(): Promise<void>;
}

const STEADY_WITHIN_MS = 240_000;

export async function startKubeCluster(options: {
  readonly nodes: number;
  readonly partitions?: number;
  readonly rate?: number;
  readonly destinationMs?: number;
}): Promise<KubeCluster> {
  const seed = randomBytes(4).readUInt32BE();
  const dataFolder = path.join(dataRoot(), `test-${process.pid}-${randomBytes(4).toString('hex')}`);
  let sink: SinkProcess | undefined;
  let stack: KubeStack | undefined;
  let traffic: Traffic | undefined;
  const stop = async (): Promise<void> => {
    await traffic?.stop().catch(() => undefined); // its requests may fail: nobody waits for them any more
    await stack?.stop();
    await sink?.stop();
    await rm(dataFolder, { recursive: true, force: true });
  };
  try {
    sink = await startSinkProcess({ destinationMs: options.destinationMs ?? 40 });
    stack = await startKubeStack({
      dataFolder,
      destinationUrl: `${sink.url}/events`,
      nodes: options.nodes,
      partitions: options.partitions ?? 16,
    });
    traffic = startTraffic({
      routerUrl: stack.routerUrls[0]!,
      writeKey: stack.writeKey,
      source: seededSource(seed),
      rate: options.rate ?? 80,
      seed,
    });
    const [theSink, theStack, theTraffic] = [sink, stack, traffic];
    await until(() => theTraffic.acknowledged > 200, { deadlineMs: 30_000, what: 'traffic flows' });
    const ring = (): Promise<Ring> => readRing(theStack.ringStore, theStack.clusterId);
    const replicas = async (): Promise<{ backend: number; postgresql: number }> => {
      const of = async (component: string): Promise<number> => {
        const path = 'jsonpath={.spec.replicas}';
        const name = `${theStack.fullName}-${component}`;
        return Number((await theStack.kubectl('get', 'statefulset', name, '--output', path)).stdout);
      };
      return { backend: await of('backend'), postgresql: await of('postgresql') };
    };
    return {
      stack,
      seed,
      ring,
      replicas,
      steadyWith: (nodes) =>
        until(
          async () => {
            const seen = await theStack.ringCluster();
            const { metadata, status } = seen;
            if (status?.state === 'blocked')
              throw new Error(`blocked on ${status.blockedOn?.code}: ${status.blockedOn?.message}`);
            const isSteady = status?.state === 'steady' && status.observedGeneration === metadata.generation;
            return isSteady && status.nodes === nodes ? seen : null;
          },
          { deadlineMs: STEADY_WITHIN_MS, what: `the cluster is steady with ${nodes} nodes`, everyMs: 200 },
        ),
      judge: () => judgeTraffic(theTraffic, theSink),
      async leftovers() {
        const { nodes, freeze, moves } = await ring();
        const wanted = await replicas();
        return [
          ...(freeze ? [`frozen by ${freeze.operationId}`] : []),
          ...moves.map((move) => `open move ${move.move} (${move.state})`),
          ...Object.entries(wanted).flatMap(([what, count]) =>
            count === nodes.length ? [] : [`${count} ${what} replicas for ${nodes.length} nodes`],
          ),
        ];
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw new Error(`seed ${seed}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
}
