/**
 * The embedded stack: everything of a cluster on this machine, real parts only. Started in the order in which one needs the other; stopped in reverse.
 *
 *   ring store (PostgreSQL) · Temporal dev server ─▶ platform agent ─▶ nodes, each with its PostgreSQL ─▶ ring made ─▶ API, worker, routers
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { readFile, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { createNodeControl } from '../dataplane/reference/control-client.ts';
import { createLocalPlatform } from '../platform/local/client.ts';
import { makeEnterable } from '../platform/local/places.ts';
import { freePort } from '../platform/local/ports.ts';
import { type PostgresServer, startPostgres } from '../platform/local/postgres-server.ts';
import type { NodeFacts } from '../ring/events.ts';
import { nodeNames } from '../ring/plan.ts';
import { createPostgresRingStore, migrateRingStore } from '../ringstore/postgres.ts';
import { decideAndAppend, readRing } from '../ringstore/ringstore.ts';
import { routerNodeFlags } from '../router/node-flags.ts';
import { answers, type Cluster, type Hit, type LogFiles, type Victim, type VictimPart, wellAgain } from './cluster.ts';
import { startOperation } from './demo/operations.ts';
import { startTemporal } from './embedded/temporal.ts';
import { type Network, openNetwork } from './faults/network.ts';
import { type Part, type PartKind, type Parts, partsOf } from './faults/parts.ts';
import { type Supervised, supervise } from './supervise.ts';

export interface StackOptions {
  /** Everything lies below it. An existing one is gone on with: the same ring, the same nodes. */
  readonly dataFolder: string;
  /** Where nodes deliver to. */
  readonly destinationUrl: string;
  readonly clusterId?: string;
  /** At the first start. */
  readonly nodes?: number;
  readonly partitions?: number;
  readonly routers?: number;
  /** For tests: more environment of the routers. */
  readonly routerEnv?: Readonly<Record<string, string>>;
  /** Deliveries at once from each node, and how long one may take. */
  readonly deliveriesMax?: number;
  readonly deliveryTimeoutMs?: number;
  /** Whether Temporal's own page is served. */
  readonly temporalUi?: boolean;
  readonly apiPort?: number;
  readonly routerPort?: number;
  /** For tests: lets `kill` of a node through. */
  readonly faults?: boolean;
  /** For tests: every arrow of the network through a proxy. Its addresses stand in the ring's log, so such a stack is not gone on with. */
  readonly network?: boolean;
  /** For tests: whom the worker asks at its fault points (kit/fault-points.ts). */
  readonly faultPointsUrl?: string;
  /** For tests: no ring is made and no node started, an operation does that. Routers are ready once it has. */
  readonly withoutRing?: boolean;
  /** For tests: more environment of the worker, asked at each of its starts. */
  readonly workerEnv?: () => Readonly<Record<string, string>>;
  /** Hears of each step, in a few words. */
  readonly onStep?: (step: string) => void;
}

export interface Stack extends Cluster {
  readonly dataFolder: string;
  readonly ringStoreServer: PostgresServer;
  readonly platform: ReturnType<typeof createLocalPlatform>;
  readonly worker: Supervised;
  readonly routers: readonly Supervised[];
  readonly apiProcess: Supervised;
  /** What can be hit, and how. Killing a node's needs `faults`. */
  readonly parts: Parts;
  /** Null without `network`. */
  readonly network: Network | null;
  logFiles(): LogFiles & { readonly worker: string; readonly api: string };
}

interface Secrets {
  readonly agentToken: string;
  readonly apiToken: string;
  readonly writeKey: string;
}

export async function startStack(options: StackOptions): Promise<Stack> {
  const clusterId = options.clusterId ?? 'demo';
  const { dataFolder } = options;
  const say = options.onStep ?? (() => undefined);
  const stops: (() => Promise<unknown>)[] = [];
  const stop = async (): Promise<void> => {
    for (const end of stops.splice(0).reverse()) await end().catch(() => undefined); // one that is gone already must not keep the others
  };
  try {
    makeEnterable(dataFolder);
    const logs = path.join(dataFolder, 'logs');
    mkdirSync(logs, { recursive: true });
    const secrets = await ownSecrets(path.join(dataFolder, 'secrets.json'));

    say('starting the ring store and Temporal');
    const [ringStoreServer, temporal] = await all([
      startPostgres({ folder: path.join(dataFolder, 'ringstore'), database: 'ringstore' }).then((server) => {
        stops.push(() => server.stop());
        return server;
      }),
      startTemporal({ dataFolder: path.join(dataFolder, 'temporal'), headless: !options.temporalUi }).then(
        (started) => {
          stops.push(() => started.stop());
          return started;
        },
      ),
    ]);
    const network = options.network ? openNetwork() : null;
    if (network) stops.push(() => network.close());
    const through = async (name: string, url: string): Promise<string> => network?.through(name, url) ?? url;
    const ringStoreFrom = (who: string): Promise<string> => through(`${who} → ring store`, ringStoreServer.url);
    await migrateRingStore(ringStoreServer.url);
    const ringStore = createPostgresRingStore({ connectionString: ringStoreServer.url });
    stops.push(() => ringStore.close());

    const agent = await startAgent(options, clusterId, secrets, await ringStoreFrom('nodes'), logs);
    stops.push(() => agent.process.stop());
    const platform = createLocalPlatform({ url: agent.url, token: secrets.agentToken });
    stops.push(() => platform.close());
    const agentUrl = (await network?.agentThrough(agent.url)) ?? agent.url;

    const known = await readRing(ringStore, clusterId);
    const firstNodes = options.withoutRing ? 0 : (options.nodes ?? 2);
    const names = known.version > 0 ? known.nodes.map((facts) => facts.node) : nodeNames(firstNodes);
    say(`starting ${names.length} ${names.length === 1 ? 'node' : 'nodes'}, each with its PostgreSQL`);
    const asOthers = createLocalPlatform({ url: agentUrl, token: secrets.agentToken });
    stops.push(() => asOthers.close());
    const facts = await all(names.map((node) => factsOf(asOthers, node)));
    if (known.version === 0 && !options.withoutRing) {
      await decideAndAppend(
        ringStore,
        clusterId,
        { type: 'make ring', clusterId, partitionCount: options.partitions ?? 64, nodes: facts },
        { actor: 'dev stack', reason: 'first start', operation: null },
      );
    }

    say('starting API, worker and router');
    const temporalEnv = { TEMPORAL_ADDRESS: temporal.address, TEMPORAL_NAMESPACE: temporal.namespace };
    const ringEnv = { RINGMASTER_RINGSTORE_URL: ringStoreServer.url };
    const ringStoreForWorker = await ringStoreFrom('worker');
    const temporalForWorker = new URL(await through('worker → Temporal', `tcp://${temporal.address}`)).host;
    const worker = supervise({
      name: 'worker',
      entry: 'workers/main.ts',
      logFile: path.join(logs, 'worker.log'),
      killAfterMs: 20_000,
      env: () => ({
        ...temporalEnv,
        TEMPORAL_ADDRESS: temporalForWorker,
        RINGMASTER_RINGSTORE_URL: ringStoreForWorker,
        RINGMASTER_PLATFORM: 'local',
        RINGMASTER_AGENT_URL: agentUrl,
        RINGMASTER_AGENT_TOKEN: secrets.agentToken,
        RINGMASTER_DATA_FOLDER: dataFolder,
        ...(options.faultPointsUrl ? { RINGMASTER_FAULT_POINTS: options.faultPointsUrl } : {}),
        ...options.workerEnv?.(),
      }),
      isReady: async () =>
        (await readFile(path.join(logs, 'worker.log'), 'utf8').catch(() => '')).includes('worker running'),
    });
    stops.push(() => worker.stop());

    const apiPort = options.apiPort ?? (await freePort());
    const apiUrl = `http://127.0.0.1:${apiPort}`;
    const apiProcess = supervise({
      name: 'api',
      entry: 'api/main.ts',
      logFile: path.join(logs, 'api.log'),
      env: { ...temporalEnv, ...ringEnv, RINGMASTER_API_PORT: String(apiPort), RINGMASTER_API_TOKEN: secrets.apiToken },
      isReady: () => answers(`${apiUrl}/v1/health`),
    });
    stops.push(() => apiProcess.stop());

    const routers: Supervised[] = [];
    const routerUrls: string[] = [];
    for (let n = 0; n < (options.routers ?? 1); n += 1) {
      const port = n === 0 && options.routerPort ? options.routerPort : await freePort();
      const url = `http://127.0.0.1:${port}`;
      const router = supervise({
        name: `router-${n}`,
        entry: 'router/main.ts',
        nodeFlags: routerNodeFlags,
        logFile: path.join(logs, `router-${n}.log`),
        env: {
          RINGMASTER_RINGSTORE_URL: await ringStoreFrom('routers'),
          RINGMASTER_CLUSTER: clusterId,
          RINGMASTER_ROUTER_PORT: String(port),
          RINGMASTER_ROUTER_RING_FILE: path.join(dataFolder, `router-${n}.ring.json`),
          ...options.routerEnv,
        },
        killAfterMs: 30_000, // it finishes what is in hand, which may be held
        isReady: () => answers(`${url}/ready`),
      });
      stops.push(() => router.stop());
      routers.push(router);
      routerUrls.push(url);
    }
    await all([worker, apiProcess, ...(options.withoutRing ? [] : routers)].map((process) => process.ready()));

    const api = { url: apiUrl, token: secrets.apiToken };
    const parts = partsOf({ dataFolder, ringStoreServer, temporal, worker, routers, routerUrls, platform });
    stops.push(() => parts.close()); // first of all: what is held still cannot end
    return {
      clusterId,
      dataFolder,
      writeKey: secrets.writeKey,
      routerUrls,
      api,
      temporal,
      ringStore,
      ringStoreServer,
      platform,
      worker,
      routers,
      apiProcess,
      parts,
      network,
      scale: (targetNodes, { onCommand, ...how }) => {
        onCommand?.(`POST ${apiUrl}/v1/clusters/${clusterId}/operations {"targetNodes":${targetNodes}}`);
        return startOperation(api, clusterId, targetNodes, how);
      },
      victims: async () =>
        (await parts.list()).flatMap(({ kind, name, node }): Victim[] => {
          const part = victimOf[kind];
          return part ? [{ part, name: node ?? name, node }] : [];
        }),
      hit: async (victim, _blow, signal) => hit(victim, await parts.list(), signal),
      logFiles: () => ({
        // Nodes that were removed meanwhile left their logs: the report reads them too.
        nodes: nodeNames(64).map((node) => path.join(agent.logs, `${node}.log`)),
        routers: routers.map((router) => router.logFile),
        worker: worker.logFile,
        api: apiProcess.logFile,
      }),
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** As Promise.all, but waits for all of them before it throws: what started late must be known to be stopped. */
async function all<T extends readonly unknown[] | []>(
  promises: T,
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  const settled = await Promise.allSettled(promises);
  for (const one of settled) if (one.status === 'rejected') throw one.reason;
  return settled.map((one) => (one as PromiseFulfilledResult<unknown>).value) as {
    -readonly [K in keyof T]: Awaited<T[K]>;
  };
}

async function startAgent(
  options: StackOptions,
  clusterId: string,
  secrets: Secrets,
  ringStoreUrl: string,
  logs: string,
): Promise<{ process: Supervised; url: string; logs: string }> {
  const { dataFolder } = options;
  const nodeConfigFile = path.join(dataFolder, 'node-config.json');
  const destination = {
    id: 'demo',
    url: options.destinationUrl,
    timeoutMs: options.deliveryTimeoutMs ?? 10_000,
    maxInFlight: options.deliveriesMax ?? 64,
  };
  await writePrivate(nodeConfigFile, {
    workspaceId: 'demo',
    sources: [{ writeKey: secrets.writeKey, sourceId: 'demo', destinations: [destination] }],
  });
  const platformFolder = path.join(dataFolder, 'platform');
  const port = await freePort();
  const config = {
    cluster: clusterId,
    token: secrets.agentToken,
    port,
    dataFolder: platformFolder,
    ringStoreUrl,
    nodeConfigFile,
    faults: options.faults ?? false,
  };
  const configFile = path.join(dataFolder, 'agent.json');
  await writePrivate(configFile, config);
  const url = `http://127.0.0.1:${port}`;
  const process = supervise({
    name: 'agent',
    entry: 'platform/local/agent-main.ts',
    logFile: path.join(logs, 'agent.log'),
    killAfterMs: 40_000, // it ends its nodes first
    env: { RINGMASTER_AGENT_CONFIG: configFile },
    isReady: () => answers(`${url}/v1/nodes`, secrets.agentToken),
  });
  await process.ready();
  return { process, url, logs: path.join(platformFolder, 'logs') };
}

async function factsOf(platform: Stack['platform'], node: string): Promise<NodeFacts> {
  const endpoints = await platform.ensureNode(node);
  const control = createNodeControl(endpoints);
  for (;;) {
    const status = await control.status().catch(() => null);
    if (status) return { node, databaseId: status.databaseId, url: endpoints.url };
    await sleep(50);
  }
}

/** What the demo kills; routers, Temporal and the ring store are chaos' alone. */
const victimOf: Readonly<Partial<Record<PartKind, VictimPart>>> = {
  node: 'backend',
  postgres: 'postgresql',
  worker: 'worker',
};

/** A process of this machine knows one way to be killed, whatever `blow` says. Needs `faults`. */
async function hit(victim: Victim, parts: readonly Part[], signal: AbortSignal): Promise<Hit | null> {
  const part = parts.find(({ kind, node }) => victimOf[kind] === victim.part && node === victim.node);
  if (!part || (await part.hit('SIGKILL', 0)) === null) return null;
  const { kind, name, node } = part;
  const did = `SIGKILL of ${kind === 'node' ? `${node}'s backend` : name}`;
  return { kind, did, restarted: wellAgain(() => part.state(), signal) };
}

async function ownSecrets(file: string): Promise<Secrets> {
  const saved = await readFile(file, 'utf8').catch(() => null);
  if (saved !== null) return JSON.parse(saved) as Secrets;
  const token = (): string => randomBytes(24).toString('base64url');
  const secrets = { agentToken: token(), apiToken: token(), writeKey: token() };
  await writePrivate(file, secrets);
  return secrets;
}

async function writePrivate(file: string, value: unknown): Promise<void> {
  await writeFile(`${file}.new`, JSON.stringify(value, null, 2), { mode: 0o600 });
  await rename(`${file}.new`, file);
}
