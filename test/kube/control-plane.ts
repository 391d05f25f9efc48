/**
 * A Kubernetes control plane of this machine: the real etcd, API server and controller manager, each a process that ends with this one.
 * What is real: RBAC, admission (with PodSecurity, ServiceAccount and ValidatingAdmissionPolicy), API server tokens, garbage collection, and the controllers
 * that make pods of StatefulSets, Deployments and Jobs and bind volume claims. What is not there: nodes. kubelet.ts stands in for them.
 *
 *   life     startControlPlane → ready: /readyz is ok, and the controllers run (the default namespace has its service account and its root certificate)
 *            restartApiServer: SIGKILL, then the same port, certificate, keys and data
 *            stop → no process, no folder
 *   secrets  the tokens of admin and controller manager are random and lie, as etcd's socket does, in a folder that only this user may enter
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import https from 'node:https';
import { hostname } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { tail } from '../../dev/supervise.ts';
import { CodedError } from '../../kit/errors.ts';
import { type Exit, type KeptProcess, keep } from '../../platform/local/keeper.ts';
import { dataRoot, makeEnterable } from '../../platform/local/places.ts';
import { freePort } from '../../platform/local/ports.ts';
import { findKubeTools } from '../../scripts/lib/kube-tools.mjs';

/** Absolute paths. */
export interface KubeTools {
  etcd: string;
  apiserver: string;
  controllerManager: string;
  kubectl: string;
  helm: string;
}

export interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

export interface ControlPlane {
  /** https://127.0.0.1:port */
  readonly url: string;
  /** A file; the user is cluster admin (group system:masters). */
  readonly kubeconfig: string;
  readonly caFile: string;
  readonly folder: string;
  /** One JSON object a line for each write to what the guard protects, written before the request is answered; audit annotations are in it. */
  readonly auditLog: string;
  /** A kubeconfig file for a service account (TokenRequest, 1 h), mode 0600. */
  kubeconfigFor(namespace: string, serviceAccount: string): Promise<string>;
  /** As admin. Never rejects for a code other than 0. */
  kubectl(args: readonly string[], input?: string): Promise<Ran>;
  /** As admin. Never rejects for a code other than 0. */
  helm(args: readonly string[]): Promise<Ran>;
  /**
   * For tests: SIGKILL, and after `downMs` a start on the same port with the same data. Resolves when it is ready again; the controllers look again less and
   * less often while it is away, so after a long outage they may need as long again.
   */
  restartApiServer(downMs?: number): Promise<void>;
  /** Ends all and deletes the folder. May be called more than once. */
  stop(): Promise<void>;
}

export interface ControlPlaneOptions {
  /** Must be empty or not there yet; deleted by stop(). Default: a new one in the project's data folder. */
  folder?: string;
  /** Default: DEFAULT_CONTROLLERS. The service account and root certificate controllers run in any case: without them no pod is admitted. */
  controllers?: readonly string[];
}

/** What a cluster needs to act on our chart. Absent on purpose: what needs nodes with real kubelets, and both endpoint controllers (endpoints refuse loopback addresses). */
export const DEFAULT_CONTROLLERS: readonly string[] = [
  'statefulset-controller',
  'deployment-controller',
  'replicaset-controller',
  'job-controller',
  'garbage-collector-controller',
  'namespace-controller',
  'disruption-controller',
  'persistentvolume-binder-controller',
  // Admission gives every claim and volume a finalizer that only these two take off: a claim stays until its pod is gone.
  'persistentvolumeclaim-protection-controller',
  'persistentvolume-protection-controller',
  'clusterrole-aggregation-controller',
  'ttl-after-finished-controller',
  'validatingadmissionpolicy-status-controller',
];

/** Run always, and what they make in the default namespace is the sign that controllers are at work. */
const SIGNS: Readonly<Record<string, string>> = {
  'serviceaccount-controller': '/api/v1/namespaces/default/serviceaccounts/default',
  'root-ca-certificate-publisher-controller': '/api/v1/namespaces/default/configmaps/kube-root-ca.crt',
};

const READY_WITHIN_MS = 60_000; // two busy cores; alone it takes a few seconds
const LOOK_EVERY_MS = 25;
const REQUEST_TIMEOUT_MS = 5000;
const START_ATTEMPTS = 4; // another process may be quicker to take a port
const END_ORPHAN_WITHIN_MS = 2000;
const TOKEN_SECONDS = 3600;
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024; // a runaway `logs -f` must not eat the memory
/** Below the working folder of both, as a whole path may be too long for a socket's name; etcd insists on `host:port` even here. */
const ETCD_SOCKET = 'etcd:1';
const FOLDERS = 'kube';
const AUDIT_POLICY = {
  apiVersion: 'audit.k8s.io/v1',
  kind: 'Policy',
  omitStages: ['RequestReceived'],
  rules: [
    {
      level: 'Metadata', // who, what, when and the policies' annotations; no bodies, so no secret
      verbs: ['create', 'update', 'patch', 'delete', 'deletecollection'],
      resources: [
        { group: 'apps', resources: ['statefulsets', 'statefulsets/scale'] },
        { group: 'ringmaster.dev' },
        { group: '', resources: ['persistentvolumeclaims'] },
      ],
    },
    { level: 'None' },
  ],
};

/** The folder is RINGMASTER_KUBE_TOOLS, which the npm scripts set, else what an earlier run built into the cache. */
export function kubeTools(): KubeTools {
  const folder = findKubeTools();
  if (folder === null)
    throw new CodedError(
      'KUBE_TOOLS_MISSING',
      'no Kubernetes binaries: run `npm test`, which builds them once with Go',
    );
  const file = (name: string) => path.join(folder, name);
  return {
    etcd: file('etcd'),
    apiserver: file('kube-apiserver'),
    controllerManager: file('kube-controller-manager'),
    kubectl: file('kubectl'),
    helm: file('helm'),
  };
}

export async function startControlPlane(options: ControlPlaneOptions = {}): Promise<ControlPlane> {
  const plane = new LocalControlPlane(kubeTools(), prepareFolder(options.folder), options.controllers);
  try {
    await plane.start();
    return plane;
  } catch (err) {
    await plane.stop();
    throw err;
  }
}

class LocalControlPlane implements ControlPlane {
  readonly folder: string;
  readonly kubeconfig: string;
  readonly caFile: string;
  readonly auditLog: string;
  readonly #tools: KubeTools;
  readonly #controllers: readonly string[];
  readonly #adminToken = newToken();
  readonly #managerToken = newToken();
  /** What runs, by name. A process that is ended on purpose is taken out first, so that only an unwanted end is told. */
  readonly #running = new Map<string, KeptProcess>();
  readonly #commands = new Set<ChildProcess>();
  #port = 0;
  #ca = '';
  #kubeconfigs = 0;
  #stopped: Promise<void> | undefined;

  constructor(tools: KubeTools, folder: string, controllers: readonly string[] = DEFAULT_CONTROLLERS) {
    this.#tools = tools;
    this.#controllers = controllers;
    this.folder = folder;
    this.kubeconfig = this.#file('admin.kubeconfig');
    this.caFile = this.#file('ca.crt');
    this.auditLog = this.#file('audit.log');
  }

  get url(): string {
    return `https://127.0.0.1:${this.#port}`;
  }

  async start(): Promise<void> {
    const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
    this.#secret('service-accounts.key', key.export({ type: 'sec1', format: 'pem' }).toString());
    this.#secret(
      'tokens.csv',
      [
        `${this.#adminToken},admin,admin,system:masters`,
        `${this.#managerToken},system:kube-controller-manager,system:kube-controller-manager`,
        '',
      ].join('\n'),
    );
    this.#secret('audit-policy.json', JSON.stringify(AUDIT_POLICY));
    await this.#startEtcd();
    for (let attempt = 1; ; attempt += 1) {
      this.#port = await freePort();
      try {
        await this.#startApiServer();
        break;
      } catch (err) {
        if (attempt >= START_ATTEMPTS || !/address already in use/.test(String(err))) throw err;
      }
    }
    this.#secret('admin.kubeconfig', this.#kubeconfigText('admin', { token: this.#adminToken }));
    this.#secret('controller-manager.kubeconfig', this.#kubeconfigText('controllers', { token: this.#managerToken }));
    await this.#startControllers();
  }

  async kubeconfigFor(namespace: string, serviceAccount: string): Promise<string> {
    const answer = await this.#request(
      'POST',
      `/api/v1/namespaces/${encodeURIComponent(namespace)}/serviceaccounts/${encodeURIComponent(serviceAccount)}/token`,
      { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { expirationSeconds: TOKEN_SECONDS } },
    );
    const body = JSON.parse(answer.body) as { status?: { token?: string } | string; message?: string };
    const token = typeof body.status === 'object' ? body.status.token : undefined;
    if (!token)
      throw new CodedError(
        'KUBE_TOKEN_REFUSED',
        `no token for service account ${namespace}/${serviceAccount}: ${body.message ?? `HTTP ${answer.status}`}`,
      );
    this.#kubeconfigs += 1;
    const name = `${namespace}.${serviceAccount}.${this.#kubeconfigs}.kubeconfig`;
    return this.#secret(name, this.#kubeconfigText(serviceAccount, { token }, namespace));
  }

  kubectl(args: readonly string[], input?: string): Promise<Ran> {
    return this.#run(this.#tools.kubectl, args, input);
  }

  helm(args: readonly string[]): Promise<Ran> {
    return this.#run(this.#tools.helm, args);
  }

  async restartApiServer(downMs = 0): Promise<void> {
    await this.#end('kube-apiserver');
    await sleep(downMs);
    if (this.#stopped === undefined) await this.#startApiServer();
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    const commands = [...this.#commands].map((command) => once(command, 'close'));
    for (const command of this.#commands) command.kill('SIGKILL');
    await Promise.all(commands); // one that still writes to its cache would keep the folder
    // Nothing of theirs is kept, so none gets time to write it down; the one that talks ends before the one it talks to.
    for (const name of ['kube-controller-manager', 'kube-apiserver', 'etcd']) await this.#end(name);
    await rm(this.folder, { recursive: true, force: true });
  }

  /** Listens on sockets in our folder, not on ports: it asks nobody who he is, and all secrets of the cluster are in it. */
  async #startEtcd(): Promise<void> {
    const [client, peer] = [`unix://${ETCD_SOCKET}`, 'unix://etcd-peer:1'];
    await this.#launch('etcd', this.#tools.etcd, [
      ...['--name', 'only'],
      ...['--data-dir', this.#file('etcd')],
      ...['--listen-client-urls', client],
      ...['--advertise-client-urls', client],
      ...['--listen-peer-urls', peer],
      ...['--initial-advertise-peer-urls', peer],
      ...['--initial-cluster', `only=${peer}`],
      '--unsafe-no-fsync', // the data dies with the folder: a killed etcd keeps its pages, only a crash of the machine would lose them
      ...['--log-level', 'warn'],
    ]);
    // The API server tries again until etcd answers; this only tells an etcd that ended at once from one that listens.
    await this.#becomes('etcd', 'listening', async () => existsSync(this.#file(ETCD_SOCKET)));
  }

  /** Makes its own certificate at the first start, and finds it again at later ones. */
  async #startApiServer(): Promise<void> {
    const certificates = this.#file('certificates');
    await this.#launch('kube-apiserver', this.#tools.apiserver, [
      ...['--etcd-servers', `unix://${ETCD_SOCKET}`],
      ...['--bind-address', '127.0.0.1'],
      ...['--advertise-address', '127.0.0.1'],
      ...['--secure-port', String(this.#port)],
      ...['--cert-dir', certificates],
      ...['--endpoint-reconciler-type', 'none'], // it would write its own loopback address into an Endpoints object, which refuses it
      ...['--service-cluster-ip-range', '10.96.0.0/16'],
      ...['--authorization-mode', 'RBAC'],
      ...['--token-auth-file', this.#file('tokens.csv')],
      ...['--service-account-issuer', 'https://kubernetes.default.svc.cluster.local'],
      ...['--service-account-key-file', this.#file('service-accounts.key')],
      ...['--service-account-signing-key-file', this.#file('service-accounts.key')],
      ...['--audit-policy-file', this.#file('audit-policy.json')],
      ...['--audit-log-path', this.auditLog],
      '--profiling=false',
    ]);
    await this.#becomes('kube-apiserver', 'ready', async () => {
      // Leaf first, then who signed it: that one is what clients have to know.
      const chain = await readFile(path.join(certificates, 'apiserver.crt'), 'utf8').catch(() => '');
      const signer = chain.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?/g)?.at(-1);
      if (!signer) return false;
      if (signer !== this.#ca) await writeFile(this.caFile, signer);
      this.#ca = signer;
      return (await this.#request('GET', '/readyz')).status === 200;
    });
  }

  async #startControllers(): Promise<void> {
    await this.#launch('kube-controller-manager', this.#tools.controllerManager, [
      ...['--kubeconfig', this.#file('controller-manager.kubeconfig')],
      ...['--controllers', [...new Set([...Object.keys(SIGNS), ...this.#controllers])].join(',')],
      '--use-service-account-credentials=true', // each controller with its own narrow rights, as in a cluster
      ...['--root-ca-file', this.caFile],
      '--leader-elect=false',
      ...['--secure-port', '0'], // nobody asks it anything
      '--profiling=false',
    ]);
    await this.#becomes('kube-controller-manager', 'at work', async () => {
      for (const at of Object.values(SIGNS)) if ((await this.#request('GET', at)).status !== 200) return false;
      return true;
    });
  }

  async #launch(name: string, command: string, args: string[]): Promise<void> {
    const logFile = this.#file(`${name}.log`);
    const started = await keep({
      command,
      args,
      env: { PATH: process.env['PATH'], HOME: this.folder },
      cwd: this.folder,
      logFile,
      endSignal: 'SIGTERM',
      killAfterMs: END_ORPHAN_WITHIN_MS,
    });
    this.#running.set(name, started);
    if (this.#stopped === undefined) return;
    await this.#end(name); // stop() came while a restart was under way, and has looked already
    throw new CodedError('KUBE_STOPPED', `the control plane was stopped while ${name} started`);
  }

  async #end(name: string): Promise<void> {
    const running = this.#running.get(name);
    this.#running.delete(name);
    await running?.end('SIGKILL');
  }

  /** Waits for a condition of a process that has to live meanwhile. From then on its end is told, unless it is ended on purpose. */
  async #becomes(name: string, what: string, isSo: () => Promise<boolean>): Promise<void> {
    const awaited = this.#running.get(name);
    const deadline = performance.now() + READY_WITHIN_MS;
    let last: unknown;
    for (;;) {
      try {
        if (await isSo()) break;
      } catch (err) {
        last = err; // not listening yet, most of the time
      }
      if (awaited === undefined || this.#running.get(name) !== awaited)
        throw new CodedError('KUBE_STOPPED', `${name} was ended before it was ${what}`);
      if (awaited.exit !== undefined || performance.now() > deadline) {
        const how = awaited.exit ? describeExit(awaited.exit) : `is not ${what} after ${READY_WITHIN_MS / 1000} s`;
        const said = await tail(this.#file(`${name}.log`));
        throw new CodedError('KUBE_NOT_STARTED', `${name} ${how}; the end of its log:\n${said}`, {}, { cause: last });
      }
      await sleep(LOOK_EVERY_MS);
    }
    void awaited?.exited.then((exit) => {
      if (this.#running.get(name) === awaited)
        process.stderr.write(`control plane: ${name} ${describeExit(exit)} by itself\n`);
    });
  }

  #request(method: string, at: string, body?: unknown): Promise<{ status: number; body: string }> {
    return new Promise((resolve, reject) => {
      const request = https.request(
        `${this.url}${at}`,
        {
          method,
          ca: this.#ca,
          agent: false,
          timeout: REQUEST_TIMEOUT_MS,
          headers: { authorization: `Bearer ${this.#adminToken}`, 'content-type': 'application/json' },
        },
        (response) => {
          const chunks: Buffer[] = [];
          response.on('data', (chunk: Buffer) => chunks.push(chunk));
          response.on('error', reject);
          response.on('end', () =>
            resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString('utf8') }),
          );
        },
      );
      request.on('timeout', () => request.destroy(new Error(`no answer within ${REQUEST_TIMEOUT_MS} ms`)));
      request.on('error', reject);
      request.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  #run(command: string, args: readonly string[], input?: string): Promise<Ran> {
    return new Promise((resolve, reject) => {
      const child = spawn(command, args, {
        stdio: ['pipe', 'pipe', 'pipe'],
        env: {
          PATH: process.env['PATH'],
          KUBECONFIG: this.kubeconfig,
          HOME: this.#file('home'), // caches of discovery and of helm go with the folder, and a person's own settings stay out
        },
      });
      this.#commands.add(child);
      const texts = { stdout: '', stderr: '' };
      for (const name of ['stdout', 'stderr'] as const) {
        child[name].setEncoding('utf8').on('data', (text: string) => {
          if (texts[name].length < OUTPUT_BYTES_MAX) texts[name] += text;
        });
      }
      child.stdin.on('error', () => {}); // it ended without reading all: its exit code says what of it
      child.stdin.end(input);
      child.on('error', (err) => {
        this.#commands.delete(child);
        reject(err);
      });
      child.on('close', (code) => {
        this.#commands.delete(child);
        resolve({ code: code ?? -1, ...texts });
      });
    });
  }

  #kubeconfigText(user: string, credentials: { token: string }, namespace = 'default'): string {
    return JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'local', cluster: { server: this.url, 'certificate-authority': this.caFile } }],
      users: [{ name: user, user: credentials }],
      contexts: [{ name: 'local', context: { cluster: 'local', user, namespace } }],
      'current-context': 'local',
    });
  }

  #file(name: string): string {
    return path.join(this.folder, name);
  }

  #secret(name: string, text: string): string {
    writeFileSync(this.#file(name), text, { mode: 0o600 });
    return this.#file(name);
  }
}

function describeExit(exit: Exit): string {
  return `ended (${exit.signal ?? `exit ${exit.code}`})`;
}

function newToken(): string {
  return randomBytes(24).toString('hex');
}

/** The name of a folder of ours says whose it is, so that those of processes that were killed can be told from those in use. */
function prepareFolder(wanted: string | undefined): string {
  const mine = `${hostname()}-${process.pid}-`;
  const all = path.join(dataRoot(), FOLDERS);
  const folder = path.resolve(wanted ?? path.join(all, `${mine}${randomBytes(4).toString('hex')}`));
  if (wanted === undefined) {
    makeEnterable(all);
    clearFoldersOfTheDead(all);
  }
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  // stop() deletes it, and another run's data would not fit our keys.
  if (readdirSync(folder).length > 0)
    throw new CodedError('KUBE_FOLDER_NOT_EMPTY', `${folder} is not empty`, { folder });
  chmodSync(folder, 0o700); // it may have been there
  mkdirSync(path.join(folder, 'home'));
  return folder;
}

function clearFoldersOfTheDead(folders: string): void {
  for (const name of readdirSync(folders)) {
    const [, host, pid] = /^(.+)-(\d+)-[0-9a-f]{8}$/.exec(name) ?? [];
    if (host !== hostname() || isAlive(Number(pid))) continue;
    rmSync(path.join(folders, name), { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (err) {
    return (err as NodeJS.ErrnoException).code === 'EPERM';
  }
}
