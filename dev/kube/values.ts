/**
 * What the chart is installed with on this machine: as its defaults are, but for one router and one worker, small volumes, trouble that is told soon, and ports
 * that are free here.
 */
import { freePort } from '../../platform/local/ports.ts';

/** Where the chart's processes listen, each in its pod; `routerService` is the port of the routers' Service. */
export interface ChartPorts {
  readonly gateway: number;
  readonly control: number;
  readonly postgresql: number;
  readonly router: number;
  readonly api: number;
  readonly operator: number;
  readonly routerService: number;
}

/**
 * Each pod has a loopback address of its own, so a port can only be taken by a process that listens at all addresses of this machine: that one is in the way
 * at 127.0.0.1 as well, where freePort looks. All differ, as no two of a pod may be the same.
 */
export async function chooseChartPorts(): Promise<ChartPorts> {
  const taken = new Set<number>();
  const free = async (): Promise<number> => {
    const port = await freePort(taken);
    taken.add(port);
    return port;
  };
  return {
    gateway: await free(),
    control: await free(),
    postgresql: await free(),
    router: await free(),
    api: await free(),
    operator: await free(),
    routerService: await free(),
  };
}

export interface ChartFacts {
  readonly ports: ChartPorts;
  readonly clusterId: string;
  readonly nodes: number;
  readonly partitions: number;
  readonly temporal: { readonly address: string; readonly namespace: string };
  readonly destinationUrl: string;
  readonly writeKey: string;
  readonly deliveriesMax: number;
  readonly deliveryTimeoutMs: number;
}

export function chartValues(facts: ChartFacts): object {
  const { clusterId, destinationUrl, writeKey, deliveriesMax, deliveryTimeoutMs } = facts;
  const { routerService, ...ports } = facts.ports;
  const destination = { id: 'demo', url: destinationUrl, timeoutMs: deliveryTimeoutMs, maxInFlight: deliveriesMax };
  return {
    image: { repository: 'ringmaster', tag: 'dev' },
    ports,
    clusterId,
    backendReplicaCount: facts.nodes,
    partitionCount: facts.partitions,
    nodeConfig: {
      workspaceId: 'demo',
      sources: [{ writeKey, sourceId: 'demo', destinations: [destination] }],
    },
    temporal: facts.temporal,
    postgresql: { storage: { size: '1Gi' } },
    ringstore: { storage: { size: '1Gi' } },
    router: {
      replicas: 1, // the traffic has one router's address
      service: { port: routerService }, // its default needs root: the kubelet stand-in listens there itself
    },
    api: { service: { port: ports.api } },
    worker: { replicas: 1, troubleMs: TROUBLE_MS },
  };
}

/** How long an image that cannot be pulled and the like may last before a person hears of it. */
const TROUBLE_MS = 10_000;
