/** The chart's values as its files tell them, and a sample of each that is not the default. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadYaml } from '@kubernetes/client-node';

export const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
export const CHART = path.join(PROJECT, 'deploy/helm/ringmaster');
export const chartFile = (name: string): string => readFileSync(path.join(CHART, name), 'utf8');

/** A line of values.yaml: `path` with dots, the value, and whether a comment stands right above it. */
export interface DocumentedValue {
  readonly path: string;
  readonly value: unknown;
  readonly commented: boolean;
}

interface SchemaNode {
  readonly properties?: Readonly<Record<string, SchemaNode>>;
}

/** Those that the schema describes as one value: a map such as `behavior` is one. */
export function documentedValues(): DocumentedValue[] {
  const values = loadYaml<Record<string, unknown>>(chartFile('values.yaml'));
  const schema = JSON.parse(chartFile('values.schema.json')) as SchemaNode;
  const commented = commentedPaths();
  const found: DocumentedValue[] = [];
  const walk = (at: Record<string, unknown>, node: SchemaNode, prefix: string): void => {
    for (const [key, value] of Object.entries(at)) {
      const below = node.properties?.[key];
      const name = prefix + key;
      if (below?.properties) walk(value as Record<string, unknown>, below, `${name}.`);
      else found.push({ path: name, value, commented: commented.has(name) });
    }
  };
  walk(values, schema, '');
  return found;
}

function commentedPaths(): Set<string> {
  const found = new Set<string>();
  const open: string[] = [];
  let comment = false;
  for (const line of chartFile('values.yaml').split('\n')) {
    const key = /^( *)([A-Za-z]\w*):/.exec(line);
    if (key) {
      open.length = key[1]!.length / 2;
      open.push(key[2]!);
      if (comment) found.add(open.join('.'));
    }
    comment = /^ *#/.test(line) && !/^# ---/.test(line);
  }
  return found;
}

/** `{ a: { b: value } }` of `a.b`. */
export const nested = (name: string, value: unknown): Record<string, unknown> =>
  name.split('.').reduceRight<unknown>((inner, key) => ({ [key]: inner }), value) as Record<string, unknown>;

export function merged(...all: Record<string, unknown>[]): Record<string, unknown> {
  const isMap = (value: unknown): value is Record<string, unknown> =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  const result: Record<string, unknown> = {};
  for (const one of all) {
    for (const [key, value] of Object.entries(one)) {
      const there = result[key];
      result[key] = isMap(there) && isMap(value) ? merged(there, value) : value;
    }
  }
  return result;
}

export interface Sample {
  readonly value: unknown;
  /** Values without which this one does nothing, or is refused. */
  readonly with?: Readonly<Record<string, unknown>>;
  /** What must be in what is rendered. */
  readonly shows: string | RegExp;
}

const autoscaled = { 'backendAutoscaling.enabled': true };
const routersScaled = { 'router.autoscaling.enabled': true };
const withTls = { 'temporal.tls.enabled': true };
const withDevServer = { 'temporal.devServer.enabled': true };
const peer = [{ namespaceSelector: { matchLabels: { team: 'sampled' } } }];

const own: Record<string, Sample> = {
  backendReplicaCount: { value: 7, shows: /kind: RingCluster[\s\S]*\n {2}nodes: 7\n/ },
  'global.backendReplicaCount': { value: 6, shows: /kind: RingCluster[\s\S]*\n {2}nodes: 6\n/ },
  'backendAutoscaling.enabled': { value: true, shows: /scaleTargetRef:\n {4}apiVersion: ringmaster.dev/ },
  'backendAutoscaling.minNodes': { value: 3, with: autoscaled, shows: 'minReplicas: 3' },
  'backendAutoscaling.maxNodes': { value: 9, with: autoscaled, shows: 'maxReplicas: 9' },
  'backendAutoscaling.targetCPUUtilizationPercentage': {
    value: 61,
    with: autoscaled,
    shows: 'averageUtilization: 61',
  },
  'backendAutoscaling.metrics': {
    value: [
      { type: 'Pods', pods: { metric: { name: 'sampled' }, target: { type: 'AverageValue', averageValue: '5' } } },
    ],
    with: autoscaled,
    shows: 'name: sampled',
  },
  'backendAutoscaling.behavior': {
    value: { scaleUp: { stabilizationWindowSeconds: 77 } },
    with: autoscaled,
    shows: 'stabilizationWindowSeconds: 77',
  },
  clusterId: { value: 'sampled', shows: /kind: RingCluster\nmetadata:\n {2}name: "sampled"/ },
  partitionCount: { value: 256, shows: 'partitionCount: 256' },
  deleteVolumes: { value: true, shows: 'deleteVolumes: true' },
  deleteVolumesAfter: { value: '168h', shows: 'deleteVolumesAfter: "168h"' },
  fullnameOverride: { value: 'sampled', shows: 'name: sampled-backend' },
  'image.repository': { value: 'registry.example/sampled', shows: 'registry.example/sampled:' },
  'image.tag': { value: 'sampled', shows: 'ringmaster:sampled' },
  'image.pullPolicy': { value: 'Always', shows: 'imagePullPolicy: Always' },
  imagePullSecrets: { value: [{ name: 'sampled' }], shows: /imagePullSecrets:\n\s+- name: sampled/ },
  logLevel: { value: 'debug', shows: /RINGMASTER_LOG_LEVEL\n\s+value: debug/ },
  'ports.gateway': { value: 18_001, shows: /RINGMASTER_GATEWAY_PORT\n\s+value: "18001"/ },
  'ports.control': { value: 18_002, shows: /RINGMASTER_CONTROL_PORT\n\s+value: "18002"/ },
  'ports.postgresql': { value: 18_003, shows: '- port=18003' },
  'ports.router': { value: 18_004, shows: /RINGMASTER_ROUTER_PORT\n\s+value: "18004"/ },
  'ports.api': { value: 18_005, shows: /RINGMASTER_API_PORT\n\s+value: "18005"/ },
  'ports.operator': { value: 18_006, shows: /RINGMASTER_OPERATOR_PORT\n\s+value: "18006"/ },
  'nodeConfig.workspaceId': { value: 'sampled', shows: btoa('{"sources":[],"workspaceId":"sampled"}') },
  'nodeConfig.sources': {
    value: [{ writeKey: 'k', sourceId: 's', destinations: [{ id: 'd', url: 'http://sampled', maxInFlight: 3 }] }],
    shows: btoa(
      '{"sources":[{"destinations":[{"id":"d","maxInFlight":3,"url":"http://sampled"}],"sourceId":"s","writeKey":"k"}],"workspaceId":"default"}',
    ),
  },
  'nodeConfig.existingSecret': { value: 'sampled', shows: 'secretName: sampled' },
  'nodeConfig.key': {
    value: 'sampled.json',
    with: { 'nodeConfig.existingSecret': 'there' },
    shows: 'key: sampled.json',
  },
  'temporal.address': { value: 'sampled:7233', shows: 'value: "sampled:7233"' },
  'temporal.namespace': { value: 'sampled', shows: /TEMPORAL_NAMESPACE\n\s+value: "sampled"/ },
  'temporal.taskQueue': { value: 'sampled', shows: /RINGMASTER_TASK_QUEUE\n\s+value: "sampled"/ },
  'temporal.tls.enabled': { value: true, shows: /TEMPORAL_TLS\n\s+value: "true"/ },
  'temporal.tls.serverName': {
    value: 'sampled',
    with: withTls,
    shows: /TEMPORAL_TLS_SERVER_NAME\n\s+value: "sampled"/,
  },
  'temporal.tls.existingSecret': { value: 'sampled', with: withTls, shows: 'secretName: sampled' },
  'temporal.tls.clientCertificate': {
    value: true,
    with: { ...withTls, 'temporal.tls.existingSecret': 'there' },
    shows: 'TEMPORAL_TLS_CLIENT_KEY_PATH',
  },
  'temporal.apiKey.existingSecret': { value: 'sampled', shows: /TEMPORAL_API_KEY[\s\S]*?name: sampled/ },
  'temporal.apiKey.key': {
    value: 'sampled',
    with: { 'temporal.apiKey.existingSecret': 'there' },
    shows: /TEMPORAL_API_KEY[\s\S]*?key: sampled/,
  },
  'temporal.devServer.enabled': { value: true, shows: 'start-dev' },
  'temporal.devServer.image': { value: 'sampled:1', with: withDevServer, shows: 'image: "sampled:1"' },
  'temporal.devServer.resources': { value: { requests: { cpu: '77m' } }, with: withDevServer, shows: 'cpu: 77m' },
  'backend.terminationGracePeriodSeconds': { value: 77, shows: 'terminationGracePeriodSeconds: 77' },
  'postgresql.terminationGracePeriodSeconds': { value: 77, shows: 'terminationGracePeriodSeconds: 77' },
  'worker.terminationGracePeriodSeconds': { value: 77, shows: 'terminationGracePeriodSeconds: 77' },
  'postgresql.image': { value: 'sampled:18', shows: 'image: "sampled:18"' },
  'postgresql.runAsUser': { value: 70, shows: 'runAsUser: 70' },
  'postgresql.parameters': { value: { shared_buffers: '256MB', max_connections: 150 }, shows: '"max_connections=150"' },
  'postgresql.storage.size': { value: '77Gi', shows: 'storage: 77Gi' },
  'postgresql.storage.className': { value: 'sampled', shows: 'storageClassName: "sampled"' },
  'postgresql.storage.accessModes': { value: ['ReadWriteOncePod'], shows: '- ReadWriteOncePod' },
  'ringstore.url': { value: 'postgres://u:p@sampled/db', shows: btoa('postgres://u:p@sampled/db') },
  'ringstore.existingSecret': { value: 'sampled', shows: /RINGMASTER_RINGSTORE_URL[\s\S]*?name: sampled/ },
  'ringstore.urlKey': {
    value: 'sampled',
    with: { 'ringstore.existingSecret': 'there' },
    shows: /RINGMASTER_RINGSTORE_URL[\s\S]*?key: sampled/,
  },
  'ringstore.storage.size': { value: '7Gi', shows: 'storage: 7Gi' },
  'ringstore.storage.className': { value: 'sampled', shows: 'storageClassName: "sampled"' },
  'router.replicas': { value: 7, shows: 'replicas: 7' },
  'router.holdMs': {
    value: 40_500,
    shows: /terminationGracePeriodSeconds: 61[\s\S]*RINGMASTER_ROUTER_HOLD_MS\n\s+value: "40500"/,
  },
  'router.drainMs': {
    value: 9_500,
    shows: /terminationGracePeriodSeconds: 40[\s\S]*RINGMASTER_ROUTER_DRAIN_MS\n\s+value: "9500"/,
  },
  'router.workers': { value: 7, shows: /RINGMASTER_ROUTER_WORKERS\n\s+value: "7"/ },
  'router.autoscaling.enabled': { value: true, shows: /scaleTargetRef: .*kind: Deployment/ },
  'router.autoscaling.minReplicas': { value: 4, with: routersScaled, shows: 'minReplicas: 4' },
  'router.autoscaling.maxReplicas': { value: 44, with: routersScaled, shows: 'maxReplicas: 44' },
  'router.autoscaling.targetCPUUtilizationPercentage': {
    value: 61,
    with: routersScaled,
    shows: 'averageUtilization: 61',
  },
  'router.service.type': { value: 'LoadBalancer', shows: 'type: LoadBalancer' },
  'router.service.port': { value: 8888, shows: 'port: 8888' },
  'router.service.annotations': { value: { 'example.com/sampled': 'yes' }, shows: 'example.com/sampled: "yes"' },
  'worker.replicas': { value: 7, shows: 'replicas: 7' },
  'worker.readyWithinMs': { value: 77_000, shows: /RINGMASTER_KUBE_READY_WITHIN_MS\n\s+value: "77000"/ },
  'worker.troubleMs': { value: 7_000, shows: /RINGMASTER_KUBE_TROUBLE_MS\n\s+value: "7000"/ },
  'api.replicas': { value: 7, shows: 'replicas: 7' },
  'api.service.type': { value: 'NodePort', shows: 'type: NodePort' },
  'api.service.port': { value: 8888, shows: 'port: 8888' },
  'guard.enabled': { value: false, shows: /^(?![\s\S]*kind: ValidatingAdmissionPolicy)/ },
  'guard.trustedUsers': { value: ['system:serviceaccount:a:sampled'], shows: "in ['system:serviceaccount:a:sampled']" },
  'podDisruptionBudgets.enabled': { value: false, shows: /^(?![\s\S]*kind: PodDisruptionBudget)/ },
  'networkPolicy.enabled': { value: false, shows: /^(?![\s\S]*kind: NetworkPolicy)/ },
  'networkPolicy.routerFrom': { value: peer, shows: 'team: sampled' },
  'networkPolicy.apiFrom': { value: peer, shows: 'team: sampled' },
  'networkPolicy.monitoringFrom': { value: peer, shows: 'team: sampled' },
};

/** Every part's pods have these. */
const ofEveryPart: Record<string, Sample> = {
  resources: { value: { requests: { cpu: '77m' } }, shows: 'cpu: 77m' },
  podAnnotations: { value: { 'example.com/sampled': 'yes' }, shows: 'example.com/sampled: "yes"' },
  podLabels: { value: { sampled: 'label' }, shows: 'sampled: label' },
  nodeSelector: { value: { sampled: 'machine' }, shows: /nodeSelector:\n\s+sampled: machine/ },
  tolerations: { value: [{ key: 'sampled', operator: 'Exists' }], shows: 'key: sampled' },
  affinity: {
    value: {
      podAntiAffinity: {
        preferredDuringSchedulingIgnoredDuringExecution: [
          { weight: 1, podAffinityTerm: { topologyKey: 'sampled', labelSelector: { matchLabels: { a: 'b' } } } },
        ],
      },
    },
    shows: 'topologyKey: sampled',
  },
  topologySpreadConstraints: {
    value: [
      {
        maxSkew: 1,
        topologyKey: 'sampled',
        whenUnsatisfiable: 'ScheduleAnyway',
        labelSelector: { matchLabels: { a: 'b' } },
      },
    ],
    shows: 'topologyKey: sampled',
  },
  priorityClassName: { value: 'sampled', shows: 'priorityClassName: sampled' },
  extraEnv: { value: [{ name: 'SAMPLED', value: 'yes' }], shows: 'name: SAMPLED' },
};

/** Where a secret can be brought. */
const ofEverySecret: Record<string, Sample> = {
  existingSecret: { value: 'sampled', shows: 'name: sampled' },
  key: { value: 'sampled', shows: 'key: sampled' },
};

export const isOfEveryPart = (name: string): boolean => !own[name] && (name.split('.')[1] ?? '') in ofEveryPart;

/** Undefined where nobody has thought of one. */
export function sampleOf(name: string): Sample | undefined {
  if (own[name]) return own[name];
  const [first, second, last] = name.split('.');
  if (first === 'auth' && last) {
    const sample = ofEverySecret[last];
    return sample && { ...sample, with: { [`auth.${second}.existingSecret`]: last === 'key' ? 'there' : 'sampled' } };
  }
  return second ? ofEveryPart[second] : undefined;
}

/** All values that a sample needs. */
export const valuesOf = (name: string, sample: Sample): Record<string, unknown> =>
  merged(...Object.entries(sample.with ?? {}).map(([key, value]) => nested(key, value)), nested(name, sample.value));

/** Names of samples that are not values of the chart any more. */
export const samplesWithoutValue = (paths: ReadonlySet<string>): string[] =>
  Object.keys(own).filter((name) => !paths.has(name));
