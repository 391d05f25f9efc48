/**
 * One pod instance on this node, from the first sight of it to its removal from the API.
 *
 *   volumes → init containers, one after the other → containers, side by side → phase Succeeded or Failed (restart policy Never, OnFailure)
 *   deletionTimestamp → every container is stopped within the grace period → last status → deleted for good (grace 0, this uid only)
 *   gone from the API (force deletion): everything is killed at once
 */
import { chmodSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { V1Pod, V1PodCondition } from '@kubernetes/client-node';
import { ApiError, isGone, isWeather, persist } from './api.ts';
import { Container } from './container.ts';
import type { Place } from './environment.ts';
import type { Host } from './host.ts';
import { PodVolumes } from './mounts.ts';

const MOUNT_AGAIN_MS = 500;
const MOUNT_AGAIN_MAX_MS = 2000;
const TOKENS_LOOKED_AT_MS = 5000;
/** Ours; conditions of others (DisruptionTarget) are kept as they are. */
const CONDITIONS = ['PodScheduled', 'Initialized', 'ContainersReady', 'Ready'] as const;

export class PodRunner {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  readonly address: string;
  readonly #host: Host;
  readonly #folder: string;
  readonly #volumes: PodVolumes;
  readonly #inits: Container[];
  readonly #containers: Container[];
  readonly #startTime: string;
  /** Over: asked to end, or nothing is left to run. */
  readonly #ending = new AbortController();
  readonly #ran: Promise<void>;
  #wake: () => void = () => {};
  #pod: V1Pod;
  #conditions: V1PodCondition[];
  #initialized = false;
  #phase: 'Pending' | 'Running' | 'Succeeded' | 'Failed' = 'Pending';
  #dirty = false;
  #writing: Promise<void> | null = null;
  #gone = false;
  #removing: Promise<void> | null = null;
  #refreshing: Promise<void> = Promise.resolve();
  readonly #timer: NodeJS.Timeout;

  constructor(host: Host, pod: V1Pod) {
    this.#host = host;
    this.#pod = pod;
    this.uid = pod.metadata?.uid ?? '';
    this.namespace = pod.metadata?.namespace ?? '';
    this.name = pod.metadata?.name ?? '';
    this.address = host.takeAddress();
    this.#folder = path.join(host.podsFolder, this.uid);
    mkdirSync(this.#folder, { recursive: true });
    chmodSync(this.#folder, 0o711); // PostgreSQL's user goes through; it cannot look around
    this.#volumes = new PodVolumes(path.join(this.#folder, 'volumes'), host.caFile);
    this.#conditions = pod.status?.conditions ?? [];
    this.#startTime = String(pod.status?.startTime ?? new Date().toISOString());
    const policy = (pod.spec?.restartPolicy ?? 'Always') as 'Always' | 'OnFailure' | 'Never';
    const make = (init: boolean) => (spec: NonNullable<V1Pod['spec']>['containers'][number]) =>
      new Container({
        host,
        spec,
        pod: () => this.#pod,
        volumes: this.#volumes,
        address: this.address,
        folder: this.#folder,
        previous: (init ? pod.status?.initContainerStatuses : pod.status?.containerStatuses)?.find(
          ({ name }) => name === spec.name,
        ),
        restart: init && policy === 'Always' ? 'OnFailure' : policy,
        onChange: () => this.report(),
      });
    this.#inits = (pod.spec?.initContainers ?? []).map(make(true));
    this.#containers = (pod.spec?.containers ?? []).map(make(false));
    for (const container of this.#inits.length > 0 ? this.#containers : [])
      container.state = { waiting: { reason: 'PodInitializing' } };
    this.#timer = setInterval(() => {
      if (Date.now() >= this.#volumes.tokenToRenewAt) this.refresh();
    }, TOKENS_LOOKED_AT_MS);
    const over = pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed';
    if (over || pod.status?.phase === 'Running') this.#phase = pod.status?.phase as 'Running' | 'Succeeded' | 'Failed';
    this.#ran = over
      ? Promise.resolve()
      : this.#run().catch((err: Error) => host.log(`bug: pod ${this.name}: ${err.stack}`));
    this.update(pod);
  }

  get isRunning(): boolean {
    return [...this.#inits, ...this.#containers].some((container) => container.isRunning);
  }

  /** News from the API server. */
  update(pod: V1Pod): void {
    const before = this.#pod;
    this.#pod = pod;
    if (pod.metadata?.deletionTimestamp) {
      const graceMs = (pod.metadata.deletionGracePeriodSeconds ?? 30) * 1000;
      this.#end(graceMs);
      this.#removing ??= this.#remove();
    } else if (JSON.stringify(before.metadata?.labels) !== JSON.stringify(pod.metadata?.labels)) this.refresh();
  }

  /** It is no longer in the API: nobody waits for anything. Resolves when nothing of it is left. */
  async vanished(): Promise<void> {
    this.#gone = true;
    this.#end(0);
    await this.#finish();
  }

  /** Ends the processes and leaves the pod in the API alone. */
  async stop(graceMs: number): Promise<void> {
    this.#gone = true;
    for (const container of [...this.#inits, ...this.#containers]) container.skipHooks();
    this.#end(graceMs);
    await this.#finish();
  }

  kill(): boolean {
    return [...this.#inits, ...this.#containers].map((container) => container.kill()).includes(true);
  }

  heal(): void {
    for (const container of [...this.#inits, ...this.#containers]) container.heal();
    this.tellUnready();
    this.#wake();
    this.report();
  }

  /** While a test makes it so, as a readiness probe would. */
  tellUnready(): void {
    if (this.isRunning && this.#host.failing.unready?.test(this.name))
      this.#host.events.tell(
        'Pod',
        this.#pod,
        'Warning',
        'Unhealthy',
        'Readiness probe failed: made to fail by the test',
      );
  }

  refersTo(kind: 'secrets' | 'configmaps', name: string): boolean {
    return this.#volumes.refersTo(this.#pod, kind, name);
  }

  /** Volumes that follow secrets, config maps, labels and tokens. */
  refresh(): void {
    this.#refreshing = this.#refreshing
      .then(async () => {
        if (!this.#ending.signal.aborted) await this.#volumes.refresh(this.#place());
      })
      .catch((err: Error) => this.#host.log(`${this.name}: ${err.message}`)); // as it was; tried again with the next change
  }

  /** Soon the API server knows how it is; the last word wins. */
  report(): void {
    this.#dirty = true;
    this.#writing ??= this.#write().finally(() => {
      this.#writing = null;
    });
  }

  #place(): Omit<Place, 'mounts'> {
    const { api, address: hostAddress, node, signal } = this.#host;
    return { pod: this.#pod, address: this.address, hostAddress, node, api, signal };
  }

  async #run(): Promise<void> {
    this.report();
    if (!(await this.#mount())) return;
    for (const init of this.#inits) {
      const code = await init.run();
      if (this.#ending.signal.aborted) return;
      if (code !== 0) return this.#over('Failed');
    }
    this.#initialized = true;
    for (const container of this.#containers) container.state = { waiting: { reason: 'ContainerCreating' } };
    this.report();
    const codes = await Promise.all(this.#containers.map((container) => container.run()));
    this.#over(codes.every((code) => code === 0) ? 'Succeeded' : 'Failed');
  }

  #over(phase: 'Succeeded' | 'Failed'): void {
    this.#phase = phase;
    this.report();
  }

  /** False: asked to end meanwhile. */
  async #mount(): Promise<boolean> {
    for (let pause = MOUNT_AGAIN_MS; !this.#ending.signal.aborted; pause = Math.min(pause * 2, MOUNT_AGAIN_MAX_MS)) {
      try {
        await this.#volumes.setUp(this.#place());
        this.#writeKubeconfig();
        return true;
      } catch (err) {
        if (this.#host.signal.aborted) return false;
        const cause = (err as Error).cause;
        // An API server that is away is no fault of the volume.
        if (cause instanceof ApiError ? !isWeather(cause) : !isConnection(cause))
          this.#host.events.tell('Pod', this.#pod, 'Warning', 'FailedMount', (err as Error).message);
        await this.#pause(pause);
      }
    }
    return false;
  }

  async #pause(ms: number): Promise<void> {
    if (this.#ending.signal.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    this.#wake = resolve;
    this.#ending.signal.addEventListener('abort', () => resolve(), { once: true });
    await promise;
    clearTimeout(timer);
  }

  /** For processes that look for the token at its usual place, which is not theirs to have here. */
  #writeKubeconfig(): void {
    const all = [...(this.#pod.spec?.initContainers ?? []), ...(this.#pod.spec?.containers ?? [])];
    const folder = all
      .map((container) => this.#volumes.serviceAccountFolder(container))
      .find((found) => found !== null);
    if (!folder) return;
    const user = `${this.namespace}:${this.#pod.spec?.serviceAccountName ?? 'default'}`;
    const config = {
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [
        {
          name: 'cluster',
          cluster: { server: this.#host.server.origin, 'certificate-authority': path.join(folder, 'ca.crt') },
        },
      ],
      users: [
        // The JavaScript client reads a token file by this provider only.
        {
          name: user,
          user: { 'auth-provider': { name: 'tokenFile', config: { tokenFile: path.join(folder, 'token') } } },
        },
      ],
      contexts: [{ name: 'pod', context: { cluster: 'cluster', user, namespace: this.namespace } }],
      'current-context': 'pod',
    };
    writeFileSync(path.join(this.#folder, 'kubeconfig'), JSON.stringify(config), { mode: 0o600 });
  }

  #end(graceMs: number): void {
    if (!this.#ending.signal.aborted) {
      for (const { name, isRunning } of this.#containers)
        if (isRunning && !this.#gone)
          this.#host.events.tell('Pod', this.#pod, 'Normal', 'Killing', `Stopping container ${name}`);
    }
    this.#ending.abort();
    for (const container of [...this.#inits, ...this.#containers]) container.stop(graceMs);
  }

  async #remove(): Promise<void> {
    await this.#ran;
    if (this.#gone) return;
    this.report();
    await this.#writing;
    const { api, signal } = this.#host;
    const body = { gracePeriodSeconds: 0, preconditions: { uid: this.uid } };
    const at = `/api/v1/namespaces/${this.namespace}/pods/${this.name}`;
    try {
      await persist(() => api.delete(at, body, signal), signal);
    } catch (err) {
      // Gone, or another pod has the name by now: what we wanted. Or this stand-in ends.
      if (!isGone(err) && !(err instanceof ApiError && err.status === 409) && !signal.aborted)
        this.#host.log(`pod ${this.name} cannot be removed: ${(err as Error).message}`);
    }
  }

  #finished: Promise<void> | null = null;
  #finish(): Promise<void> {
    this.#finished ??= (async () => {
      await this.#ran;
      clearInterval(this.#timer);
      await this.#refreshing;
      await this.#writing;
      this.#host.giveBack(this.address);
      rmSync(this.#folder, { recursive: true, force: true });
    })();
    return this.#finished;
  }

  async #write(): Promise<void> {
    const { api, signal } = this.#host;
    while (this.#dirty && !this.#gone) {
      this.#dirty = false;
      const body = { metadata: { uid: this.uid }, status: this.#status() };
      const at = `/api/v1/namespaces/${this.namespace}/pods/${this.name}/status`;
      try {
        await persist(() => api.merge(at, body, signal), signal);
      } catch (err) {
        if (signal.aborted || isGone(err)) return;
        if (err instanceof ApiError && err.status === 409) {
          if (err.message.includes('UID')) return; // another pod has the name by now
          this.#dirty = true;
        } else this.#host.log(`status of pod ${this.name}: ${(err as Error).message}`);
      }
    }
  }

  #status(): object {
    const running = this.#containers.some((container) => container.isRunning || container.wasStarted);
    if (this.#phase === 'Pending' && this.#initialized && running) this.#phase = 'Running';
    const isOver = this.#phase === 'Succeeded' || this.#phase === 'Failed';
    const unready = this.#containers.filter((container) => !container.ready).map(({ name }) => name);
    const allReady = this.#initialized && unready.length === 0 && !isOver;
    const why = isOver
      ? { reason: this.#phase === 'Succeeded' ? 'PodCompleted' : 'PodFailed' }
      : { reason: 'ContainersNotReady', message: `containers with unready status: [${unready.join(' ')}]` };
    this.#condition('PodScheduled', true);
    const incomplete = this.#inits.filter(({ state }) => !('terminated' in state)).map(({ name }) => name);
    this.#condition('Initialized', this.#initialized || isOver, {
      reason: 'ContainersNotInitialized',
      message: `containers with incomplete status: [${incomplete.join(' ')}]`,
    });
    this.#condition('ContainersReady', allReady, why);
    this.#condition('Ready', allReady, why);
    const others = (this.#pod.status?.conditions ?? []).filter(
      ({ type }) => !(CONDITIONS as readonly string[]).includes(type),
    );
    return {
      phase: this.#phase,
      conditions: [
        ...this.#conditions.filter(({ type }) => (CONDITIONS as readonly string[]).includes(type)),
        ...others,
      ],
      hostIP: this.#host.address,
      hostIPs: [{ ip: this.#host.address }],
      podIP: this.address,
      podIPs: [{ ip: this.address }],
      startTime: this.#startTime,
      ...(this.#inits.length > 0 ? { initContainerStatuses: this.#inits.map((container) => container.status()) } : {}),
      containerStatuses: this.#containers.map((container) => container.status()),
    };
  }

  #condition(type: (typeof CONDITIONS)[number], is: boolean, why?: { reason: string; message?: string }): void {
    const status = is ? 'True' : 'False';
    const before = this.#conditions.find((condition) => condition.type === type);
    const now = new Date().toISOString() as unknown as Date; // plain JSON here: times are strings
    const lastTransitionTime = before?.status === status ? before.lastTransitionTime : now;
    const condition: V1PodCondition = { type, status, lastTransitionTime, ...(is ? {} : why) };
    this.#conditions = [...this.#conditions.filter((other) => other.type !== type), condition];
  }
}

function isConnection(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' && /^(ECONN|UND_ERR|EPIPE|ETIMEDOUT)/.test(code);
}
