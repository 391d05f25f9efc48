/**
 * Stands in for everything below a control plane: kubelet, scheduler, volume provisioner, cluster DNS and network, for one machine. Pods run as local
 * processes, each pod at a loopback address of its own (127.a.b.c), as faithfully as our chart and tests need. Linux only.
 *
 *   node       one, `stand-in`; every pod fits on it once its claims are bound
 *   images     `ringmaster:*` (the project's source), `postgres:*` (the embedded server); no other (kubelet/images.ts)
 *   network    an environment value that is exactly 0.0.0.0 becomes the pod's address; names by cluster-dns.mjs; services whose port is another at their pods
 *              are proxied here (a port below 1024 needs the right to listen there); no network policy
 *   isolation  none: no mount, user or process namespace. Paths of mounts are replaced in environment, command and arguments; securityContext and
 *              resources are not looked at
 *   absent     ephemeral and restartable init containers, postStart hooks, http hooks, grpc probes, host ports, topology and affinity
 *
 * The pods in the API outlive this process, their processes do not: a stand-in that starts later starts them again (restartCount + 1).
 */
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { V1ConfigMap, V1Pod, V1Secret, V1Service } from '@kubernetes/client-node';
import { CodedError } from '../../kit/errors.ts';
import { canEnter, postgresUser } from '../../platform/local/places.ts';
import type { ControlPlane } from './control-plane.ts';
import { Api, ApiError, type Followed, follow, isGone, isWeather, keyOf, persist, type Stored } from './kubelet/api.ts';
import { Claims } from './kubelet/claims.ts';
import { EventWriter } from './kubelet/events.ts';
import type { Failing, Host } from './kubelet/host.ts';
import { hostsOf, Names } from './kubelet/names.ts';
import { PodRunner } from './kubelet/pod.ts';
import { ServiceProxies } from './kubelet/services.ts';

export interface Kubelet {
  /** Pod name → address. */
  addressOf(namespace: string, pod: string): string | null;
  /** For processes outside of pods that must resolve cluster names … */
  readonly dnsFile: string;
  /** … with this in their environment (NODE_OPTIONS and the rest). */
  readonly environment: Readonly<Record<string, string>>;
  /** SIGKILL of a pod's processes, as a machine's OOM killer would; containers are started again by restartPolicy with back-off. False: no such pod runs. */
  kill(namespace: string, pod: string): boolean;
  /**
   * For tests. Replaces what was set before; `fail({})` heals all.
   *   image           cannot be pulled by containers that have not started yet (a name, with or without its tag)
   *   unschedulable   pods of these names fit on no node          volumes   claims get no volume
   *   crash           containers of these pods end with code 1, running ones at once          unready   these pods are not ready
   */
  fail(what: Failing): void;
  logFile(namespace: string, pod: string, container: string): string;
  readonly logsFolder: string;
  /** Ends every process that it has started. Pods in the API stay as they are. */
  stop(): Promise<void>;
}

export interface KubeletOptions {
  controlPlane: Pick<ControlPlane, 'url' | 'kubeconfig' | 'caFile'>;
  /** Of pods, volumes and logs; made if it is not there, left at the end. PostgreSQL's user must be able to enter it. */
  folder: string;
  log?: (line: string) => void;
}

const NODE = 'stand-in';
const HOST_ADDRESS = '127.0.0.1';
const SCHEDULE_AGAIN_MS = 250;
const UNREADY_TOLD_MS = 2000;
const STOP_WITHIN_MS = 5000;
/** A stand-in that listens here holds the subnet 127.a.0.0/16. */
const SUBNET_PORT = 14_871;
const SUBNETS_TRIED = 200;
const HOOK = fileURLToPath(new URL('./cluster-dns.mjs', import.meta.url));

type Pod = V1Pod & Stored;

export async function startKubelet(options: KubeletOptions): Promise<Kubelet> {
  const folder = path.resolve(options.folder);
  const [podsFolder, logsFolder] = [path.join(folder, 'pods'), path.join(folder, 'logs')];
  for (const made of [folder, podsFolder, logsFolder]) mkdirSync(made, { recursive: true });
  for (const open of [folder, podsFolder]) chmodSync(open, statSync(open).mode | 0o111);
  if (!canEnter(folder, postgresUser()))
    throw new CodedError('KUBELET_FOLDER', `${folder}: the user "postgres" must be able to enter it, and all above it`);
  const subnet = await takeSubnet();
  const api = await Api.open(options.controlPlane.kubeconfig);
  const standIn = new StandIn({ ...options, folder, podsFolder, logsFolder }, api, subnet);
  try {
    await standIn.start();
  } catch (err) {
    await standIn.stop();
    throw err;
  }
  return standIn;
}

interface Subnet {
  /** 127.a */
  prefix: string;
  lock: Server;
}

/** Chosen at random, and held by a listener: two stand-ins of one machine never share addresses. */
async function takeSubnet(): Promise<Subnet> {
  for (let attempt = 0; attempt < SUBNETS_TRIED; attempt += 1) {
    const prefix = `127.${16 + Math.floor(Math.random() * 239)}`;
    const lock = createServer((socket) => socket.destroy());
    const held = await new Promise<boolean>((resolve) => {
      lock.once('error', () => resolve(false));
      lock.listen({ host: `${prefix}.0.1`, port: SUBNET_PORT }, () => resolve(true));
    });
    if (held) {
      lock.unref();
      return { prefix, lock };
    }
  }
  throw new CodedError('KUBELET_SUBNET', `no free subnet of 127.0.0.0/8 after ${SUBNETS_TRIED} tries (Linux only)`);
}

class StandIn implements Kubelet, Host {
  readonly api: Api;
  readonly node = NODE;
  readonly address = HOST_ADDRESS;
  readonly podsFolder: string;
  readonly logsFolder: string;
  readonly caFile: string;
  readonly server: URL;
  readonly events: EventWriter;
  readonly signal: AbortSignal;
  failing: Failing = {};
  readonly #abort = new AbortController();
  readonly #subnet: Subnet;
  readonly #addresses = new Set<string>();
  readonly #names: Names;
  readonly #proxies: ServiceProxies;
  readonly #claims: Claims;
  readonly #log: (line: string) => void;
  readonly #runners = new Map<string, PodRunner>();
  readonly #leaving = new Set<Promise<void>>();
  readonly #binding = new Set<string>();
  readonly #unschedulable = new Map<string, string>();
  #pods: Followed<Pod> | null = null;
  #services: Followed<V1Service & Stored> | null = null;
  #data: Followed<Stored>[] = [];
  #timer: NodeJS.Timeout | null = null;
  #unreadyTimer: NodeJS.Timeout | null = null;
  #stopped: Promise<void> | null = null;

  constructor(options: KubeletOptions & { podsFolder: string; logsFolder: string }, api: Api, subnet: Subnet) {
    this.api = api;
    this.#subnet = subnet;
    this.#log = options.log ?? (() => {});
    this.podsFolder = options.podsFolder;
    this.logsFolder = options.logsFolder;
    this.caFile = options.controlPlane.caFile;
    this.server = new URL(options.controlPlane.url);
    this.signal = this.#abort.signal;
    this.events = new EventWriter(api, NODE);
    this.#names = new Names(path.join(options.folder, 'dns.json'));
    this.#proxies = new ServiceProxies({
      takeAddress: () => this.takeAddress(),
      giveBack: (address) => this.giveBack(address),
      pods: () => [...(this.#pods?.objects.values() ?? [])],
      log: (line) => this.log(line),
    });
    this.#claims = new Claims({
      api,
      folder: path.join(options.folder, 'volumes'),
      signal: this.signal,
      events: this.events,
      log: (line) => this.log(line),
      failing: () => this.failing.volumes ?? false,
      onChange: () => this.#schedule(),
    });
  }

  get dnsFile(): string {
    return this.#names.file;
  }

  get environment(): Readonly<Record<string, string>> {
    return this.dnsEnvironment('');
  }

  async start(): Promise<void> {
    await this.#register();
    await this.#claims.makeStorageClass();
    await this.#claims.synced();
    const log = (line: string) => this.log(line);
    this.#services = follow<V1Service & Stored>(this.api, '/api/v1/services', this.signal, log, () => this.#rename());
    const pods = follow<Pod>(this.api, '/api/v1/pods', this.signal, log, (what, pod) => this.#onPod(what, pod));
    this.#pods = pods;
    await Promise.all([pods.synced, this.#services.synced]);
    this.#sweep(pods);
    this.#data = [
      follow<V1Secret & Stored>(this.api, '/api/v1/secrets', this.signal, log, (_what, { metadata }) =>
        this.#onData('secrets', metadata?.namespace, metadata?.name),
      ),
      follow<V1ConfigMap & Stored>(this.api, '/api/v1/configmaps', this.signal, log, (_what, { metadata }) =>
        this.#onData('configmaps', metadata?.namespace, metadata?.name),
      ),
    ];
    this.#timer = setInterval(() => this.#schedule(), SCHEDULE_AGAIN_MS);
    this.#unreadyTimer = setInterval(() => {
      for (const runner of this.#runners.values()) runner.tellUnready();
    }, UNREADY_TOLD_MS);
    this.#schedule();
    this.#rename();
  }

  addressOf(namespace: string, pod: string): string | null {
    return this.#runnerOf(namespace, pod)?.address ?? null;
  }

  kill(namespace: string, pod: string): boolean {
    return this.#runnerOf(namespace, pod)?.kill() ?? false;
  }

  fail(what: Failing): void {
    this.failing = what;
    for (const runner of this.#runners.values()) runner.heal();
    this.#claims.look();
    this.#schedule();
  }

  logFile(namespace: string, pod: string, container: string): string {
    return path.join(this.logsFolder, `${namespace}_${pod}_${container}.log`);
  }

  log(line: string): void {
    this.#log(line);
  }

  dnsEnvironment(namespace: string): Record<string, string> {
    return {
      NODE_OPTIONS: `--import=${pathToFileURL(HOOK).href}`,
      RINGMASTER_CLUSTER_DNS_FILE: this.dnsFile,
      ...(namespace ? { RINGMASTER_CLUSTER_DNS_NAMESPACE: namespace } : {}),
    };
  }

  takeAddress(): string {
    for (;;) {
      const part = () => 1 + Math.floor(Math.random() * 254);
      const address = `${this.#subnet.prefix}.${part()}.${part()}`;
      if (this.#addresses.has(address)) continue;
      this.#addresses.add(address);
      return address;
    }
  }

  giveBack(address: string): void {
    this.#addresses.delete(address);
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    for (const timer of [this.#timer, this.#unreadyTimer]) if (timer) clearInterval(timer);
    this.#abort.abort();
    await Promise.all([...this.#runners.values()].map((runner) => runner.stop(STOP_WITHIN_MS)));
    await Promise.all(this.#leaving);
    await Promise.all([this.#pods?.ended, this.#services?.ended, ...this.#data.map(({ ended }) => ended)]);
    await this.#claims.ended();
    this.#names.stop();
    this.#proxies.stop();
    await this.events.stop();
    await this.api.close();
    await new Promise<void>((resolve) => this.#subnet.lock.close(() => resolve()));
  }

  #runnerOf(namespace: string, pod: string): PodRunner | undefined {
    return [...this.#runners.values()].find((runner) => runner.namespace === namespace && runner.name === pod);
  }

  async #register(): Promise<void> {
    const { api, signal } = this;
    const node = {
      apiVersion: 'v1',
      kind: 'Node',
      metadata: { name: NODE, labels: { 'kubernetes.io/hostname': NODE, 'kubernetes.io/os': 'linux' } },
    };
    try {
      await persist(() => api.create('/api/v1/nodes', node, signal), signal);
    } catch (err) {
      if (!(err instanceof ApiError && err.reason === 'AlreadyExists')) throw err;
    }
    // Admission taints a new node as not ready; the controller that would take that off is absent.
    await persist(() => api.merge(`/api/v1/nodes/${NODE}`, { spec: { taints: null } }, signal), signal);
    const now = new Date().toISOString();
    const room = { cpu: '64', memory: '64Gi', pods: '1000', 'ephemeral-storage': '64Gi' };
    const status = {
      capacity: room,
      allocatable: room,
      addresses: [
        { type: 'InternalIP', address: HOST_ADDRESS },
        { type: 'Hostname', address: NODE },
      ],
      conditions: [
        {
          type: 'Ready',
          status: 'True',
          reason: 'KubeletReady',
          message: 'the kubelet stand-in runs',
          lastHeartbeatTime: now,
          lastTransitionTime: now,
        },
      ],
    };
    await persist(() => api.merge(`/api/v1/nodes/${NODE}/status`, { status }, signal), signal);
  }

  /** Folders of pods that are gone. */
  #sweep(pods: Followed<Pod>): void {
    const living = new Set([...pods.objects.values()].map(({ metadata }) => metadata?.uid));
    for (const uid of existsSync(this.podsFolder) ? readdirSync(this.podsFolder) : [])
      if (!living.has(uid)) rmSync(path.join(this.podsFolder, uid), { recursive: true, force: true });
  }

  #onPod(what: 'set' | 'gone', pod: Pod): void {
    const uid = pod.metadata?.uid ?? '';
    this.#rename();
    const runner = this.#runners.get(uid);
    if (what === 'gone') {
      this.#unschedulable.delete(uid);
      if (!runner) return;
      this.#runners.delete(uid);
      const leaving = runner.vanished().finally(() => this.#leaving.delete(leaving));
      this.#leaving.add(leaving);
      return;
    }
    if (runner) runner.update(pod);
    else if (pod.spec?.nodeName === NODE && !this.signal.aborted) this.#runners.set(uid, new PodRunner(this, pod));
    else if (!pod.spec?.nodeName) this.#schedule();
  }

  #onData(kind: 'secrets' | 'configmaps', namespace: string | undefined, name: string | undefined): void {
    for (const runner of this.#runners.values())
      if (runner.namespace === namespace && runner.refersTo(kind, name ?? '')) runner.refresh();
  }

  #rename(): void {
    this.#names.changed(() => {
      const services = [...(this.#services?.objects.values() ?? [])];
      const pods = [...(this.#pods?.objects.values() ?? [])];
      return hostsOf(pods, services, `${this.#subnet.prefix}.0.2`, this.#proxies.follow(services));
    });
  }

  #schedule(): void {
    if (!this.#pods || this.signal.aborted) return;
    for (const pod of this.#pods.objects.values()) {
      const { uid = '' } = pod.metadata ?? {};
      if (pod.spec?.nodeName || pod.metadata?.deletionTimestamp || (pod.spec?.schedulingGates?.length ?? 0) > 0)
        continue;
      if (this.#binding.has(uid)) continue;
      this.#binding.add(uid);
      void this.#place(pod)
        .catch((err: unknown) => {
          // 409: bound already, which the watch has not told yet.
          const isBound = err instanceof ApiError && err.status === 409;
          if (!isBound && !isGone(err) && !isWeather(err) && !this.signal.aborted)
            this.log(`pod ${keyOf(pod)} cannot be bound: ${(err as Error).message}`); // looked at again soon
        })
        .finally(() => this.#binding.delete(uid));
    }
  }

  async #place(pod: Pod): Promise<void> {
    const { name, namespace, uid = '' } = pod.metadata ?? {};
    const at = `/api/v1/namespaces/${namespace}/pods/${name}`;
    const problem = this.#problemOf(pod);
    if (!problem) {
      const target = { apiVersion: 'v1', kind: 'Node', name: NODE };
      const binding = { apiVersion: 'v1', kind: 'Binding', metadata: { name, uid }, target };
      await this.api.create(`${at}/binding`, binding, this.signal);
      this.#unschedulable.delete(uid);
      this.events.tell(
        'Pod',
        pod,
        'Normal',
        'Scheduled',
        `Successfully assigned ${namespace}/${name} to ${NODE}`,
        'default-scheduler',
      );
      return;
    }
    if (this.#unschedulable.get(uid) === problem) return;
    const condition = {
      type: 'PodScheduled',
      status: 'False',
      reason: 'Unschedulable',
      message: problem,
      lastTransitionTime: new Date().toISOString(),
    };
    const others = (pod.status?.conditions ?? []).filter(({ type }) => type !== 'PodScheduled');
    await this.api.merge(
      `${at}/status`,
      { metadata: { uid }, status: { conditions: [...others, condition] } },
      this.signal,
    );
    this.#unschedulable.set(uid, problem);
    this.events.tell('Pod', pod, 'Warning', 'FailedScheduling', problem, 'default-scheduler');
  }

  /** Why the pod cannot be placed, in the scheduler's words. */
  #problemOf(pod: Pod): string | null {
    const { name = '', namespace = '' } = pod.metadata ?? {};
    if (this.failing.unschedulable?.test(name)) return '0/1 nodes are available: 1 Insufficient memory.';
    for (const { persistentVolumeClaim } of pod.spec?.volumes ?? []) {
      const problem = persistentVolumeClaim && this.#claims.problemOf(namespace, persistentVolumeClaim.claimName);
      if (problem) return `0/1 nodes are available: ${problem}.`;
    }
    return null;
  }
}
