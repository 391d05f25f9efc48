/**
 * A whole cluster on Kubernetes, on this machine: the chart, installed by helm into a real API server whose real controllers make the pods; the kubelet stand-in
 * runs each pod as processes at its own loopback address. Outside of it are only Temporal's dev server, the traffic and the destination.
 *
 *   control plane · Temporal ─▶ kubelet ─▶ namespace (restricted pod security) ─▶ helm install ─▶ the operator makes the ring ─▶ RingCluster is steady
 *
 * Holds: whatever ends the start, nothing of it is left but what lies in `dataFolder`.
 */
import { randomBytes } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { AppsV1Api, CoreV1Api, CustomObjectsApi, KubeConfig, type V1Pod } from '@kubernetes/client-node';
import { CodedError } from '../../kit/errors.ts';
import { makeEnterable } from '../../platform/local/places.ts';
import { createPostgresRingStore } from '../../ringstore/postgres.ts';
import { type ControlPlane, kubeTools, type Ran, startControlPlane } from '../../test/kube/control-plane.ts';
import { type Kubelet, startKubelet } from '../../test/kube/kubelet.ts';
import { answers, type Blow, type Cluster, type Hit, type Victim, type VictimPart, wellAgain } from '../cluster.ts';
import { listOperations } from '../demo/operations.ts';
import { startTemporal } from '../embedded/temporal.ts';
import { type ChartPorts, chartValues, chooseChartPorts } from './values.ts';

export interface KubeStackOptions {
  /** Everything lies below it; it must be new. */
  readonly dataFolder: string;
  /** Where nodes deliver to. */
  readonly destinationUrl: string;
  readonly clusterId?: string;
  readonly nodes?: number;
  readonly partitions?: number;
  /** Deliveries at once from each node, and how long one may take. */
  readonly deliveriesMax?: number;
  readonly deliveryTimeoutMs?: number;
  /** Values of the chart on top of ours, as `--set` takes them. */
  readonly set?: readonly string[];
  readonly signal?: AbortSignal;
  /** Hears of each step, in a few words. */
  readonly onStep?: (step: string) => void;
  /** Hears often how far a step is. */
  readonly onProgress?: (line: string) => void;
}

/** What we read of the custom resource. */
export interface RingClusterObject {
  readonly metadata: { readonly name: string; readonly generation: number };
  readonly spec: { readonly nodes?: number };
  readonly status?: {
    readonly nodes?: number;
    readonly state?: string;
    readonly phase?: string | null;
    readonly observedGeneration?: number;
    readonly epoch?: number;
    readonly operation?: { readonly id: string; readonly to: number } | null;
    readonly blockedOn?: { readonly code: string; readonly message: string } | null;
    readonly nextAction?: string | null;
    readonly conditions?: readonly {
      readonly type: string;
      readonly status: string;
      readonly reason: string;
      readonly message: string;
    }[];
  };
}

export interface KubeStack extends Cluster {
  readonly controlPlane: ControlPlane;
  readonly kubelet: Kubelet;
  readonly namespace: string;
  readonly release: string;
  /** What the names of the chart's objects begin with. */
  readonly fullName: string;
  /** In the cluster's namespace, as its admin; a code other than 0 is an answer. */
  kubectl(...args: string[]): Promise<Ran>;
  /** `helm upgrade --reset-then-reuse-values` with these flags; throws what helm says when it fails. */
  upgrade(...flags: string[]): Promise<string>;
  ringCluster(): Promise<RingClusterObject>;
  /** Pods of a component, such as `backend`. */
  pods(component: string): Promise<V1Pod[]>;
}

const CHART = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../deploy/helm/ringmaster');
const NAMESPACE = 'ringmaster';
const RELEASE = 'demo';
const FULL_NAME = 'demo-ringmaster';
const GROUP = { group: 'ringmaster.dev', version: 'v1alpha1', plural: 'ringclusters' };
/** Ten processes and three nodes on two busy cores come up in about a minute. */
const UP_WITHIN_MS = 300_000;
/** At the start nobody is there to resolve it. */
const BLOCKED_MAX_MS = 45_000;
const LOOK_EVERY_MS = 250;
/** From the change of a number until its operation shows; an operator that was just killed must come back in it. */
const OPERATION_WITHIN_MS = 90_000;
/** No operation so long after the operator has seen the number: there is none to come. */
const NOTHING_AFTER_MS = 4_000;

/** Throws KUBE_TOOLS_MISSING, which says what to do, before anything is made. */
export function assertToolsAreThere(): void {
  kubeTools();
}

export async function startKubeStack(options: KubeStackOptions): Promise<KubeStack> {
  assertToolsAreThere();
  const starting = new Starting(options);
  try {
    return await starting.run();
  } catch (error) {
    await starting.stop();
    throw error;
  }
}

class Starting {
  readonly #o: KubeStackOptions;
  readonly #stops: (() => Promise<unknown>)[] = [];

  constructor(options: KubeStackOptions) {
    this.#o = options;
  }

  async run(): Promise<KubeStack> {
    const { dataFolder, signal } = this.#o;
    const say = this.#o.onStep ?? (() => undefined);
    const clusterId = this.#o.clusterId ?? 'demo';
    const nodes = this.#o.nodes ?? 2;
    makeEnterable(dataFolder);

    say('starting a Kubernetes control plane (etcd, API server, controller manager) and Temporal');
    const [controlPlane, temporal] = await this.#all([
      startControlPlane({ folder: path.join(dataFolder, 'control-plane') }).then((started) => this.#kept(started)),
      startTemporal({
        dataFolder: path.join(dataFolder, 'temporal'),
        headless: true,
        ...(signal ? { signal } : {}),
      }).then((started) => this.#kept(started)),
    ]);
    signal?.throwIfAborted();
    const kubelet = this.#kept(await startKubelet({ controlPlane, folder: path.join(dataFolder, 'kubelet') }));

    const kube = new Kube(controlPlane, clusterId);
    await kube.makeNamespace();
    const writeKey = randomBytes(24).toString('base64url');
    const valuesFile = path.join(dataFolder, 'values.json');
    const ports = await chooseChartPorts();
    const values = chartValues({
      ports,
      clusterId,
      nodes,
      partitions: this.#o.partitions ?? 64,
      temporal: { address: temporal.address, namespace: temporal.namespace },
      destinationUrl: this.#o.destinationUrl,
      writeKey,
      deliveriesMax: this.#o.deliveriesMax ?? 64,
      deliveryTimeoutMs: this.#o.deliveryTimeoutMs ?? 10_000,
    });
    await writeFile(valuesFile, JSON.stringify(values, null, 2), { mode: 0o600 });
    say(`helm install ${RELEASE} deploy/helm/ringmaster --set backendReplicaCount=${nodes}`);
    await kube.helm('install', RELEASE, CHART, '--values', valuesFile, ...setFlags(this.#o.set ?? []));
    signal?.throwIfAborted();

    say(`waiting for the RingCluster to be steady with ${nodes} ${nodes === 1 ? 'node' : 'nodes'}`);
    await this.#steady(kube, nodes);
    const routerUrls = await this.#addresses(kube, 'router', ports.router, '/ready');
    const [apiUrl] = await this.#addresses(kube, 'api', ports.api, '/v1/health');
    const api = { url: apiUrl!, token: await kube.secretValue('apiToken') };
    const [ringStorePod] = await kube.pods('ringstore');
    const ringStore = createPostgresRingStore({
      connectionString: await kube.ringStoreUrl(ringStorePod!.status!.podIP!, ports.postgresql),
    });
    this.#stops.push(() => ringStore.close());

    const base = { controlPlane, kubelet, clusterId, api };
    let asked = 0;
    return {
      ...base,
      writeKey,
      routerUrls,
      temporal,
      ringStore,
      namespace: NAMESPACE,
      release: RELEASE,
      fullName: FULL_NAME,
      kubectl: (...args) => kube.kubectl(...args),
      upgrade: (...flags) => kube.upgrade(...flags),
      ringCluster: () => kube.ringCluster(),
      pods: (component) => kube.pods(component),
      scale: async (targetNodes, how) => {
        const byHelm = asked % 2 === 0; // both ways that people have, in turn
        // After a `kubectl scale` the number is kubectl's, and helm (server-side apply) takes it back only when told to.
        const flags = ['--set', `backendReplicaCount=${targetNodes}`, ...(asked > 0 ? ['--force-conflicts'] : [])];
        const kubectl = ['scale', 'ringcluster', clusterId, `--replicas=${targetNodes}`];
        asked += 1;
        const known = await listOperations(api, clusterId, how.signal);
        how.onCommand?.(
          byHelm
            ? `helm upgrade ${RELEASE} deploy/helm/ringmaster --reset-then-reuse-values ${flags.join(' ')}`
            : `kubectl ${kubectl.join(' ')}`,
        );
        if (byHelm) await kube.upgrade(...flags);
        else await kube.mustKubectl(...kubectl);
        return operationOf(
          { api, kube, clusterId },
          targetNodes,
          known.map(({ operationId }) => operationId),
          how.signal,
        );
      },
      victims: () => victimsOf(kube),
      hit: (victim, blow, stopping) => hit(victim, blow, { kube, kubelet, ports }, stopping),
      logFiles: () => logFilesOf(kubelet),
      stop: () => this.stop(),
    };
  }

  async stop(): Promise<void> {
    for (const end of this.#stops.splice(0).reverse()) await end().catch(() => undefined); // one that is gone already must not keep the others
  }

  #kept<T extends { stop(): Promise<void> }>(started: T): T {
    this.#stops.push(() => started.stop());
    return started;
  }

  /** As Promise.all, but waits for all before it throws: what started late must be known to be stopped. */
  async #all<A, B>(promises: readonly [Promise<A>, Promise<B>]): Promise<[A, B]> {
    await Promise.allSettled(promises);
    return Promise.all(promises);
  }

  async #steady(kube: Kube, nodes: number): Promise<void> {
    let blockedSince: number | null = null;
    await this.#wait('the RingCluster to be steady', kube, async () => {
      const { status } = await kube.ringCluster();
      const at = performance.now();
      blockedSince = status?.blockedOn ? (blockedSince ?? at) : null;
      if (status?.blockedOn && blockedSince !== null && at - blockedSince > BLOCKED_MAX_MS) {
        const { code, message } = status.blockedOn;
        throw new CodedError('OPERATION_BLOCKED', `the first start is blocked on ${code}: ${message}`);
      }
      return status?.state === 'steady' && status.nodes === nodes;
    });
  }

  /** Of all pods of a component, each once it answers 2xx at `probe`. */
  async #addresses(kube: Kube, component: string, port: number, probe: string): Promise<string[]> {
    const urls: string[] = [];
    await this.#wait(`${component} pods`, kube, async () => {
      const pods = await kube.pods(component);
      urls.splice(0, urls.length, ...pods.map((pod) => `http://${pod.status?.podIP ?? '0.0.0.0'}:${port}`));
      return pods.length > 0 && (await Promise.all(urls.map((url) => answers(url + probe)))).every(Boolean);
    });
    return urls;
  }

  async #wait(what: string, kube: Kube, done: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + UP_WITHIN_MS;
    for (;;) {
      this.#o.signal?.throwIfAborted();
      if (await done()) return;
      const { line, unready } = await kube.summary();
      this.#o.onProgress?.(line);
      if (performance.now() > deadline)
        throw new CodedError(
          'NOT_UP',
          `waited ${UP_WITHIN_MS / 1_000} s for ${what}; not ready: ${unready.join('; ')}`,
        );
      await sleep(LOOK_EVERY_MS);
    }
  }
}

/** What we ask of the API server: in one namespace, as its admin. */
class Kube {
  readonly #controlPlane: ControlPlane;
  readonly #clusterId: string;
  readonly #core: CoreV1Api;
  readonly #apps: AppsV1Api;
  readonly #custom: CustomObjectsApi;

  constructor(controlPlane: ControlPlane, clusterId: string) {
    this.#controlPlane = controlPlane;
    this.#clusterId = clusterId;
    const config = new KubeConfig();
    config.loadFromFile(controlPlane.kubeconfig);
    this.#core = config.makeApiClient(CoreV1Api);
    this.#apps = config.makeApiClient(AppsV1Api);
    this.#custom = config.makeApiClient(CustomObjectsApi);
  }

  async makeNamespace(): Promise<void> {
    const labels = {
      'pod-security.kubernetes.io/enforce': 'restricted',
      'pod-security.kubernetes.io/warn': 'restricted',
    };
    await this.#core.createNamespace({ body: { metadata: { name: NAMESPACE, labels } } });
  }

  kubectl(...args: string[]): Promise<Ran> {
    return this.#controlPlane.kubectl(['--namespace', NAMESPACE, ...args]);
  }

  async mustKubectl(...args: string[]): Promise<string> {
    return stdoutOf(`kubectl ${args[0]}`, await this.kubectl(...args));
  }

  async helm(...args: string[]): Promise<string> {
    return stdoutOf(`helm ${args[0]}`, await this.#controlPlane.helm([...args, '--namespace', NAMESPACE]));
  }

  upgrade(...flags: string[]): Promise<string> {
    return this.helm('upgrade', RELEASE, CHART, '--reset-then-reuse-values', ...flags);
  }

  async ringCluster(): Promise<RingClusterObject> {
    return (await this.#custom.getNamespacedCustomObject({
      ...GROUP,
      namespace: NAMESPACE,
      name: this.#clusterId,
    })) as RingClusterObject;
  }

  async pods(component?: string): Promise<V1Pod[]> {
    const labelSelector = `app.kubernetes.io/instance=${RELEASE}${component ? `,app.kubernetes.io/component=${component}` : ''}`;
    const { items } = await this.#core.listNamespacedPod({ namespace: NAMESPACE, labelSelector });
    return items.filter((pod) => !pod.metadata?.deletionTimestamp);
  }

  /** Null: there is none of that name. */
  async pod(name: string): Promise<V1Pod | null> {
    const { items } = await this.#core.listNamespacedPod({
      namespace: NAMESPACE,
      fieldSelector: `metadata.name=${name}`,
    });
    return items[0] ?? null;
  }

  async replicas(statefulSet: string): Promise<number> {
    const { spec } = await this.#apps.readNamespacedStatefulSet({ namespace: NAMESPACE, name: statefulSet });
    return spec?.replicas ?? 1;
  }

  async secretValue(what: 'apiToken' | 'ringStorePassword'): Promise<string> {
    const { name, key } = secretKeys[what];
    const { data } = await this.#core.readNamespacedSecret({ namespace: NAMESPACE, name });
    const value = data?.[key];
    if (!value) throw new CodedError('SECRET_MISSING', `secret ${name} has no key ${key}`);
    return Buffer.from(value, 'base64').toString('utf8');
  }

  async ringStoreUrl(host: string, port: number): Promise<string> {
    const password = encodeURIComponent(await this.secretValue('ringStorePassword'));
    return `postgres://ringmaster:${password}@${host}:${port}/ringstore`;
  }

  async summary(): Promise<{ line: string; unready: string[] }> {
    const pods = await this.pods();
    const { status } = await this.ringCluster();
    const unready = pods.filter((pod) => !isReady(pod)).map(describePod);
    const state = [status?.state ?? 'not yet seen by the operator', status?.phase, status?.blockedOn?.message]
      .filter(Boolean)
      .join(', ');
    return { line: `${pods.length - unready.length}/${pods.length} pods ready · ring: ${state}`, unready };
  }
}

const secretKeys = {
  apiToken: { name: FULL_NAME, key: 'api-token' },
  ringStorePassword: { name: FULL_NAME, key: 'ringstore-password' },
} as const;

/** The operation that a changed number has led to. */
async function operationOf(
  { api, kube, clusterId }: { api: KubeStack['api']; kube: Kube; clusterId: string },
  targetNodes: number,
  known: readonly string[],
  signal: AbortSignal,
): Promise<string | null> {
  const deadline = performance.now() + OPERATION_WITHIN_MS;
  let nothingSince: number | null = null;
  for (;;) {
    const fresh = (await listOperations(api, clusterId, signal)).find(
      ({ operationId }) => !known.includes(operationId),
    );
    if (fresh) return fresh.operationId;
    const { metadata, status } = await kube.ringCluster();
    const isDone =
      status?.state === 'steady' && status.nodes === targetNodes && status.observedGeneration === metadata.generation;
    const at = performance.now();
    nothingSince = isDone ? (nothingSince ?? at) : null;
    if (nothingSince !== null && at - nothingSince > NOTHING_AFTER_MS) return null;
    if (at > deadline) {
      const condition = status?.conditions?.find(({ type }) => type === 'Synced');
      throw new CodedError(
        'NO_OPERATION',
        `no operation came of ${targetNodes} nodes within ${OPERATION_WITHIN_MS / 1_000} s (${condition?.message ?? status?.state ?? 'no status'})`,
      );
    }
    await sleep(LOOK_EVERY_MS, null, { signal });
  }
}

const partsOfPods: readonly VictimPart[] = ['backend', 'postgresql', 'worker'];

async function victimsOf(kube: Kube): Promise<Victim[]> {
  const pods = await kube.pods();
  return pods.flatMap((pod): Victim[] => {
    const part = partsOfPods.find((one) => one === pod.metadata?.labels?.['app.kubernetes.io/component']);
    if (!part || !isReady(pod)) return [];
    const name = pod.metadata!.name!;
    return [{ part, name, node: part === 'worker' ? null : `node-${ordinalOf(name)}` }];
  });
}

async function hit(
  { part, name, node }: Victim,
  blow: Blow,
  { kube, kubelet, ports }: { kube: Kube; kubelet: Kubelet; ports: ChartPorts },
  signal: AbortSignal,
): Promise<Hit | null> {
  const before = await kube.pod(name);
  if (!before) return null;
  let did = `SIGKILL of pod ${name}`;
  if (blow === 'SIGKILL') {
    if (!kubelet.kill(NAMESPACE, name)) return null;
  } else {
    const args = ['delete', 'pod', name, ...(blow === 'delete now' ? ['--grace-period=0', '--force'] : [])];
    did = `kubectl ${args.join(' ')}`;
    await kube.mustKubectl(...args, '--wait=false');
  }
  const state = async (): Promise<'well' | 'unwell' | 'gone'> => {
    if (part === 'worker') {
      const workers = await kube.pods('worker');
      return workers.some((pod) => isReady(pod) && isAnother(pod, before)) ? 'well' : 'unwell';
    }
    const pod = await kube.pod(name);
    if (!pod && (await kube.replicas(`${FULL_NAME}-${part}`)) <= ordinalOf(name)) return 'gone';
    if (!pod || !isReady(pod) || !isAnother(pod, before)) return 'unwell';
    const backend = part === 'backend' ? pod : await kube.pod(`${FULL_NAME}-backend-${ordinalOf(name)}`);
    if (!backend) return 'gone'; // taken away by the operation: it delivers nothing any more
    return (await answers(`http://${backend.status?.podIP}:${ports.gateway}/health`)) ? 'well' : 'unwell';
  };
  return { kind: 'pod', did: node ? `${did} (${node})` : did, restarted: wellAgain(state, signal) };
}

/** The nodes' and the routers' logs: of each container, also of pods that are gone. */
function logFilesOf(kubelet: Kubelet): { nodes: string[]; routers: string[] } {
  const files = readdirSync(kubelet.logsFolder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath, entry.name));
  const of = (component: string): string[] =>
    files.filter((file) => path.relative(kubelet.logsFolder, file).includes(`${FULL_NAME}-${component}-`));
  return { nodes: of('backend'), routers: of('router') };
}

const setFlags = (set: readonly string[]): string[] => set.flatMap((one) => ['--set', one]);

function stdoutOf(what: string, { code, stdout, stderr }: Ran): string {
  if (code !== 0) throw new CodedError('KUBE_COMMAND', `${what} failed: ${stderr.trim() || stdout.trim()}`);
  return stdout;
}

const isReady = (pod: V1Pod): boolean =>
  !pod.metadata?.deletionTimestamp &&
  (pod.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ?? false);

const restartsOf = (pod: V1Pod): number =>
  (pod.status?.containerStatuses ?? []).reduce((sum, { restartCount }) => sum + restartCount, 0);

/** Another pod, or the same with its processes started again. */
const isAnother = (pod: V1Pod, before: V1Pod): boolean =>
  pod.metadata?.uid !== before.metadata?.uid || restartsOf(pod) > restartsOf(before);

const ordinalOf = (pod: string): number => Number(pod.slice(pod.lastIndexOf('-') + 1));

function describePod(pod: V1Pod): string {
  const waiting = pod.status?.containerStatuses?.find(({ state }) => state?.waiting)?.state?.waiting;
  const why = waiting?.reason ?? pod.status?.conditions?.find(({ status }) => status === 'False')?.message;
  return `${pod.metadata?.name} (${pod.status?.phase ?? 'unknown'}${why ? `: ${why}` : ''})`;
}
