/** What the chart is installed with on this machine: as its defaults are, but for one router and one worker, small volumes, and trouble that is told soon. */

/** Where the chart's processes listen, each in its pod. */
export const chartPorts = {
  gateway: 8080,
  control: 8081,
  postgresql: 5432,
  router: 8080,
  api: 8080,
  operator: 8080,
} as const;

export interface ChartFacts {
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
  const destination = { id: 'demo', url: destinationUrl, timeoutMs: deliveryTimeoutMs, maxInFlight: deliveriesMax };
  return {
    image: { repository: 'ringmaster', tag: 'dev' },
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
    router: { replicas: 1 }, // the traffic has one router's address
    worker: { replicas: 1, troubleMs: TROUBLE_MS },
  };
}

/** How long an image that cannot be pulled and the like may last before a person hears of it. */
const TROUBLE_MS = 10_000;
