/**
 * One container of a pod: pulled, configured, started, probed, started again, ended.
 *
 *   waiting (ContainerCreating) → running → terminated → waiting (CrashLoopBackOff) → running …
 *   waiting (ErrImagePull → ImagePullBackOff), waiting (CreateContainerConfigError): tried again with back-off; any heal() tries at once
 *   restart policy: Always; OnFailure and Never end at `terminated`
 */
import { appendFileSync, mkdirSync, rmSync } from 'node:fs';
import { appendFile } from 'node:fs/promises';
import path from 'node:path';
import type { V1Container, V1ContainerStatus, V1LifecycleHandler, V1Pod } from '@kubernetes/client-node';
import { type Exit, type KeptProcess, keep } from '../../../platform/local/keeper.ts';
import { isWeather } from './api.ts';
import { ConfigError, environmentOf, expand, type Place, relocate } from './environment.ts';
import type { Host } from './host.ts';
import { imageOf, type Run } from './images.ts';
import type { PodVolumes } from './mounts.ts';
import { runProbes } from './probes.ts';
import { type Belonging, CONTAINER_MARK, killAll } from './processes.ts';

export interface Terminated {
  exitCode: number;
  reason: string;
  message?: string;
  startedAt: string;
  finishedAt: string;
}
export type State =
  | { waiting: { reason: string; message?: string } }
  | { running: { startedAt: string } }
  | { terminated: Terminated };

const BACK_OFF_MS = 200;
const BACK_OFF_MAX_MS = 5000;
/** A container that ran this long begins its back-off anew. */
const STEADY_MS = 10_000;
const PULL_SHOWN_MS = 300;
const CONFIG_AGAIN_MS = 1000;
const LOOK_AT_DEADLINE_MS = 25;
const SIGNALS: Record<string, number> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGABRT: 6,
  SIGKILL: 9,
  SIGSEGV: 11,
  SIGTERM: 15,
};

export interface ContainerOptions {
  host: Host;
  spec: V1Container;
  /** The pod as last heard. */
  pod: () => V1Pod;
  volumes: PodVolumes;
  address: string;
  /** Of the pod. */
  folder: string;
  previous: V1ContainerStatus | undefined;
  restart: 'Always' | 'OnFailure' | 'Never';
  onChange: () => void;
}

export class Container {
  readonly #options: ContainerOptions;
  readonly #changes = new EventTarget();
  state: State = { waiting: { reason: 'ContainerCreating' } };
  lastState: Partial<Record<'terminated', Terminated>> = {};
  restarts: number;
  started = false;
  #ready = false;
  #stopping = false;
  #ends = false;
  #process: KeptProcess | null = null;
  #run: Run | null = null;
  #belonging: Belonging | null = null;
  #oomKilled = false;
  #hookless = false;
  #killAt = Number.POSITIVE_INFINITY;
  #starts = 0;
  #pulled = false;

  constructor(options: ContainerOptions) {
    this.#options = options;
    const { previous } = options;
    // A container that ran under a kubelet before us ended with it, as with its machine: this is its next start.
    this.restarts = previous ? previous.restartCount + (previous.containerID ? 1 : 0) : 0;
    // Plain JSON here: times are strings, whatever the type says.
    const ended = previous?.state?.terminated as unknown as Terminated | undefined;
    if (ended) this.lastState = { terminated: ended };
  }

  get name(): string {
    return this.#options.spec.name;
  }

  get isRunning(): boolean {
    return this.#process !== null;
  }

  /** It has been started at least once, or cannot be any more. */
  get wasStarted(): boolean {
    return this.#starts > 0 || this.restarts > 0;
  }

  get ready(): boolean {
    return this.#ready && !this.#options.host.failing.unready?.test(this.#podName);
  }

  get #podName(): string {
    return this.#options.pod().metadata?.name ?? '';
  }

  get #image(): string {
    return this.#options.spec.image ?? '';
  }

  status(): object {
    const { uid } = this.#options.pod().metadata ?? {};
    return {
      name: this.name,
      image: this.#image,
      imageID: this.#pulled ? `stand-in://${this.#image}` : '',
      ...(this.#starts > 0 ? { containerID: `stand-in://${uid}.${this.name}.${this.#starts}` } : {}),
      ready: this.ready,
      started: this.started,
      restartCount: this.restarts,
      state: this.state,
      lastState: this.lastState,
    };
  }

  /** Resolves when it has ended for good: with its exit code, or null if it was never started. */
  async run(): Promise<number | null> {
    const { restart } = this.#options;
    let backOff = BACK_OFF_MS;
    while (!this.#stopping) {
      if (!(await this.#pull()) || !(await this.#configure())) continue;
      const from = performance.now();
      const code = await this.#runOnce();
      if (this.#stopping || restart === 'Never' || (restart === 'OnFailure' && code === 0)) return this.#exitCode();
      if (performance.now() - from > STEADY_MS) backOff = BACK_OFF_MS;
      const message = `back-off ${backOff}ms restarting failed container=${this.name} pod=${this.#podName}_${this.#options.pod().metadata?.namespace}(${this.#options.pod().metadata?.uid})`;
      this.#tell('Warning', 'BackOff', `Back-off restarting failed container ${this.name} in pod ${this.#podName}`);
      if ('terminated' in this.state) this.lastState = this.state;
      this.restarts += 1;
      this.#set({ waiting: { reason: 'CrashLoopBackOff', message } });
      await this.#pause(backOff);
      backOff = Math.min(backOff * 2, BACK_OFF_MAX_MS);
    }
    return this.#exitCode();
  }

  /** SIGTERM (after the hook), and SIGKILL after the grace period. May be called again with a shorter one. */
  stop(graceMs: number): void {
    this.#stopping = true;
    this.#terminate(graceMs);
    this.#changes.dispatchEvent(new Event('stop'));
  }

  /** The stand-in itself ends: no time for hooks. */
  skipHooks(): void {
    this.#hookless = true;
  }

  /** As a machine's OOM killer would. False: it does not run. */
  kill(): boolean {
    if (!this.#process) return false;
    this.#oomKilled = true;
    this.#killNow();
    return true;
  }

  /** Something outside was mended or broken: whoever waits looks again at once. */
  heal(): void {
    if (this.#process && this.#crashes) this.#killNow();
    this.#changes.dispatchEvent(new Event('heal'));
  }

  async exec(command: readonly string[], timeoutMs: number): Promise<string | null> {
    const image = imageOf(this.#image);
    const run = this.#run;
    if (!image || !run) return 'the container does not run';
    const spec = image.exec(
      command.map((word) => relocate(word, run.mounts)),
      run,
    );
    if (!spec) return await image.answer(command, run, timeoutMs);
    try {
      const child = await keep(spec);
      const killing = setTimeout(() => child.signal('SIGKILL'), timeoutMs);
      const { code } = await child.exited;
      clearTimeout(killing);
      return code === 0 ? null : `command "${command.join(' ')}" ended with ${code ?? `a signal (${timeoutMs} ms)`}`;
    } catch (err) {
      return (err as Error).message;
    }
  }

  get #crashes(): boolean {
    return this.#options.host.failing.crash?.test(this.#podName) ?? false;
  }

  #exitCode(): number | null {
    if ('terminated' in this.state) return this.state.terminated.exitCode;
    return this.lastState.terminated?.exitCode ?? null;
  }

  #set(state: State): void {
    this.state = state;
    this.#options.onChange();
  }

  #tell(type: 'Normal' | 'Warning', reason: string, message: string): void {
    this.#options.host.events.tell('Pod', this.#options.pod(), type, reason, message);
  }

  /** Until `ms` are over, or something has changed, or it is asked to stop. */
  async #pause(ms: number): Promise<void> {
    if (this.#stopping) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    const wake = () => resolve();
    for (const event of ['stop', 'heal']) this.#changes.addEventListener(event, wake);
    await promise;
    clearTimeout(timer);
    for (const event of ['stop', 'heal']) this.#changes.removeEventListener(event, wake);
  }

  /** False: asked to stop meanwhile. */
  async #pull(): Promise<boolean> {
    for (let backOff = BACK_OFF_MS; !this.#stopping; backOff = Math.min(backOff * 2, BACK_OFF_MAX_MS)) {
      if (this.#pulled) return true;
      const image = this.#image;
      const broken = this.#options.host.failing.image;
      const isBroken = broken !== undefined && (image === broken || image.startsWith(`${broken}:`));
      if (imageOf(image) && !isBroken) {
        this.#pulled = true;
        return true;
      }
      const why = `failed to pull image "${image}": no such image`;
      this.#tell('Normal', 'Pulling', `Pulling image "${image}"`);
      this.#tell('Warning', 'Failed', `Failed to pull image "${image}": no such image`);
      this.#tell('Warning', 'Failed', 'Error: ErrImagePull');
      this.#set({ waiting: { reason: 'ErrImagePull', message: why } });
      await this.#pause(PULL_SHOWN_MS);
      if (this.#stopping) return false;
      this.#tell('Normal', 'BackOff', `Back-off pulling image "${image}"`);
      this.#tell('Warning', 'Failed', 'Error: ImagePullBackOff');
      this.#set({
        waiting: { reason: 'ImagePullBackOff', message: `Back-off pulling image "${image}": ErrImagePull: ${why}` },
      });
      await this.#pause(backOff);
    }
    return false;
  }

  async #configure(): Promise<boolean> {
    const { host, pod, spec, volumes, address, folder } = this.#options;
    while (!this.#stopping) {
      const mark = `${pod().metadata?.uid}/${spec.name}/${this.#starts + 1}`;
      const place: Place = {
        pod: pod(),
        address,
        hostAddress: host.address,
        node: host.node,
        api: host.api,
        mounts: volumes.mountsOf(spec, {}),
        signal: host.signal,
      };
      try {
        const { env, raw } = await environmentOf(spec, place, this.#given(mark));
        const mounts = volumes.mountsOf(spec, raw);
        const scratch = path.join(folder, 'containers', spec.name);
        const tmp = mounts.find(({ mountPath }) => mountPath === '/tmp');
        if (tmp) env['TMPDIR'] ??= tmp.folder;
        const expanded = (words: readonly string[] | undefined) =>
          (words ?? []).map((word) => relocate(expand(word, raw), mounts));
        this.#run = {
          container: spec,
          command: expanded(spec.command),
          args: expanded(spec.args),
          env: this.#hooked(env),
          mounts,
          address,
          logFile: host.logFile(pod().metadata?.namespace ?? '', this.#podName, spec.name),
          scratch,
        };
        this.#belonging = { mark };
        const own = imageOf(this.#image)?.folder(this.#run);
        if (own) this.#belonging.folder = own;
        return true;
      } catch (err) {
        if (host.signal.aborted) return false;
        if (err instanceof ConfigError) {
          this.#tell('Warning', 'Failed', `Error: ${err.message}`);
          this.#set({ waiting: { reason: 'CreateContainerConfigError', message: err.message } });
        } else if (!isWeather(err) || !(err instanceof Error)) {
          this.#set({ waiting: { reason: 'CreateContainerError', message: (err as Error).message } });
        } else host.log(`${this.#podName}/${spec.name}: ${err.message}`); // the API server is away
        await this.#pause(CONFIG_AGAIN_MS);
      }
    }
    return false;
  }

  #given(mark: string): Record<string, string> {
    const { host, pod, spec, volumes, folder } = this.#options;
    const { hostname, port } = host.server;
    const token = volumes.serviceAccountFolder(spec);
    return {
      PATH: `${path.dirname(process.execPath)}:${process.env['PATH'] ?? '/usr/bin:/bin'}`,
      HOME: process.env['HOME'] ?? '/',
      HOSTNAME: this.#podName,
      KUBERNETES_SERVICE_HOST: hostname,
      KUBERNETES_SERVICE_PORT: port,
      KUBERNETES_SERVICE_PORT_HTTPS: port,
      ...host.dnsEnvironment(pod().metadata?.namespace ?? ''),
      ...(token ? { KUBECONFIG: path.join(folder, 'kubeconfig') } : {}),
      [CONTAINER_MARK]: mark,
    };
  }

  /** A container that sets NODE_OPTIONS itself keeps the hook. */
  #hooked(env: Record<string, string>): Record<string, string> {
    const hook = this.#options.host.dnsEnvironment('')['NODE_OPTIONS'] ?? '';
    const own = env['NODE_OPTIONS'] ?? '';
    return own.includes(hook) ? env : { ...env, NODE_OPTIONS: `${hook} ${own}`.trim() };
  }

  async #runOnce(): Promise<number> {
    const { host, spec } = this.#options;
    const run = this.#run!;
    const image = imageOf(this.#image)!;
    this.#starts += 1;
    this.#oomKilled = false;
    this.#ends = false;
    this.#killAt = Number.POSITIVE_INFINITY;
    const startedAt = new Date().toISOString();
    if (this.#crashes) {
      await appendFile(run.logFile, 'made to crash by the test\n');
      return this.#terminated({ code: 1, signal: null }, startedAt);
    }
    let child: KeptProcess;
    try {
      rmSync(run.scratch, { recursive: true, force: true });
      mkdirSync(run.scratch, { recursive: true });
      child = await keep(await image.prepare(run));
    } catch (err) {
      appendFileSync(run.logFile, `${(err as Error).message}\n`);
      return this.#terminated({ code: 1, signal: null }, startedAt, (err as Error).message);
    }
    this.#process = child;
    this.#tell('Normal', 'Started', `Started container ${spec.name}`);
    this.#set({ running: { startedAt } });
    if (this.#stopping) this.#terminate(0); // asked while it was being started
    const probing = new AbortController();
    const probes = this.#probe(probing.signal);
    const exit = await child.exited;
    this.#process = null;
    this.#ready = false;
    this.started = false;
    probing.abort();
    await killAll(this.#belonging!).catch((err: Error) => host.log(err.message)); // told; the next start will show what it means
    await probes; // one may be under way; each has its timeout
    return this.#terminated(exit, startedAt);
  }

  #terminated(exit: Exit, startedAt: string, message?: string): number {
    const number = exit.signal ? (SIGNALS[exit.signal] ?? 0) : 0;
    const exitCode = exit.code ?? 128 + number;
    const reason = this.#oomKilled ? 'OOMKilled' : exitCode === 0 ? 'Completed' : 'Error';
    const finishedAt = new Date().toISOString();
    this.#options.host.log(`${this.#podName}/${this.name} ended with code ${exitCode} (${reason})`);
    this.#set({ terminated: { exitCode, reason, startedAt, finishedAt, ...(message ? { message } : {}) } });
    return exitCode;
  }

  async #probe(signal: AbortSignal): Promise<void> {
    const { spec, address, onChange, host } = this.#options;
    const target = {
      container: spec,
      address,
      exec: (command: readonly string[], timeoutMs: number) => this.exec(command, timeoutMs),
    };
    const results = {
      started: () => {
        this.started = true;
        onChange();
      },
      ready: (is: boolean) => {
        this.#ready = is;
        onChange();
      },
      failed: (kind: string, why: string) => this.#tell('Warning', 'Unhealthy', `${kind} probe failed: ${why}`),
      dead: (kind: string) => {
        this.#tell('Normal', 'Killing', `Container ${spec.name} failed ${kind} probe, will be restarted`);
        this.#terminate((this.#options.pod().spec?.terminationGracePeriodSeconds ?? 30) * 1000);
      },
    };
    await runProbes(target, results, signal).catch((err: Error) =>
      host.log(`bug: probes of ${spec.name}: ${err.stack}`),
    );
  }

  #terminate(graceMs: number): void {
    this.#killAt = Math.min(this.#killAt, performance.now() + graceMs);
    const child = this.#process;
    if (!child || this.#ends) return;
    this.#ends = true;
    const watching = setInterval(() => {
      if (performance.now() < this.#killAt) return;
      clearInterval(watching);
      this.#killNow();
    }, LOOK_AT_DEADLINE_MS);
    void child.exited.then(() => clearInterval(watching));
    void this.#preStop(this.#options.spec.lifecycle?.preStop).then(() => {
      child.signal(imageOf(this.#image)?.stopSignal ?? 'SIGTERM');
    });
  }

  async #preStop(hook: V1LifecycleHandler | undefined): Promise<void> {
    if (this.#hookless) return;
    const left = () => Math.max(0, this.#killAt - performance.now());
    if (hook?.sleep) await this.#orExit(hook.sleep.seconds * 1000);
    if (!hook?.exec) return;
    const why = await this.exec(hook.exec.command ?? [], left());
    if (why) this.#tell('Warning', 'FailedPreStopHook', why);
  }

  async #orExit(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    await Promise.race([promise, this.#process?.exited]);
    clearTimeout(timer);
  }

  /** The first process and all that it has started, at once. */
  #killNow(): void {
    const child = this.#process;
    if (!child) return;
    child.signal('SIGKILL');
    if (this.#belonging) void killAll(this.#belonging).catch((err: Error) => this.#options.host.log(err.message)); // told; looked at again when it has ended
  }
}
