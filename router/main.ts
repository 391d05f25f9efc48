/**
 * The router's process. Configuration by environment: see `settings`. `--workers N`, or RINGMASTER_ROUTER_WORKERS: so many processes with one port (workers.ts).
 * SIGTERM or SIGINT: it takes its leave (leave.ts) and ends.
 */
import { hostname } from 'node:os';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { parseConfig } from '../kit/config.ts';
import { describeError } from '../kit/errors.ts';
import { createLog } from '../kit/log.ts';
import { endWithParent } from '../kit/parent.ts';
import { createPostgresRingStore } from '../ringstore/postgres.ts';
import { followRing, type RingView } from '../ringstore/view.ts';
import { keepLease } from './lease.ts';
import { type RouterLimits, routerLimits } from './limits.ts';
import { keepRingFile, readRingFile } from './ring-file.ts';
import { type Router, startRouter } from './server.ts';
import { joinWorkers, startWorkers, type Workers, workerNumber } from './workers.ts';

/** More than any machine has cores for. */
const WORKERS_MAX = 256;
/** A worker that is started again is given connections as soon as it listens: it waits so long for a ring. */
const RING_WITHIN_MS = 5_000;
/** Beyond all that a graceful stop waits for. */
const END_MARGIN_MS = 10_000;

const limit = (fallback: number, max: number) =>
  z.coerce.number().int().min(1, `a whole number from 1 to ${max}`).max(max).default(fallback);
const limitOrNone = (fallback: number, max: number) =>
  z.coerce.number().int().min(0, `a whole number from 0 to ${max}`).max(max).default(fallback);

const settings = z.object({
  /** The cluster whose ring to route by. */
  RINGMASTER_CLUSTER: z.string().regex(/^[a-z0-9-]{1,40}$/, '1 to 40 of a-z, 0-9 and -'),
  /** postgres:// address of the ring store, with its password: never logged. */
  RINGMASTER_RINGSTORE_URL: z.string().min(1, 'a postgres:// address'),
  RINGMASTER_ROUTER_HOST: z.string().default('127.0.0.1'),
  /** 0: any free port, told by the line `listening`. */
  RINGMASTER_ROUTER_PORT: z.coerce.number().int().min(0).max(65_535).default(0),
  /** Processes; one for each core is what a machine of its own can use. */
  RINGMASTER_ROUTER_WORKERS: limit(1, WORKERS_MAX),
  /** Where the last ring is kept. Without it a router that starts while the ring store is down has no ring. */
  RINGMASTER_ROUTER_RING_FILE: z.string().optional(),
  /** Names this version where routers are listed. */
  RINGMASTER_BUILD_ID: z.string().min(1).max(200).optional(),
  RINGMASTER_ROUTER_HOLD_MS: limit(routerLimits.holdMs, 300_000),
  RINGMASTER_ROUTER_HELD_REQUESTS_MAX: limit(routerLimits.heldRequestsMax, 1_000_000),
  RINGMASTER_ROUTER_HELD_BYTES_MAX: limit(routerLimits.heldBytesMax, 2 ** 34),
  RINGMASTER_ROUTER_IN_HAND_BYTES_MAX: limit(routerLimits.inHandBytesMax, 2 ** 34),
  RINGMASTER_ROUTER_NODE_TIMEOUT_MS: limit(routerLimits.nodeTimeoutMs, 600_000),
  RINGMASTER_ROUTER_CONNECT_TIMEOUT_MS: limit(routerLimits.connectTimeoutMs, 60_000),
  RINGMASTER_ROUTER_CONNECTIONS_PER_NODE: limit(routerLimits.connectionsPerNode, 10_000),
  RINGMASTER_ROUTER_DRAIN_MS: limitOrNone(routerLimits.drainMs, 300_000),
  RINGMASTER_ROUTER_LEAVE_MS: limitOrNone(routerLimits.leaveMs, 60_000),
});
type Settings = z.infer<typeof settings>;

const worker = workerNumber();
const log = createLog('router', worker === null ? {} : { worker });

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { workers: { type: 'string' } } });
  const fromFlag = values.workers === undefined ? {} : { RINGMASTER_ROUTER_WORKERS: values.workers };
  const config = parseConfig(settings, { ...process.env, ...fromFlag });
  if (worker === null && config.RINGMASTER_ROUTER_WORKERS > 1) runPrimary(config);
  else await runRouter(config);
}

function runPrimary(config: Settings): void {
  const { stopMs, drainMs, leaveMs } = limitsOf(config);
  let workers: Workers | null = null;
  const end = endOnce(async (because) => {
    await workers?.stop(because, stopMs + drainMs + leaveMs + END_MARGIN_MS);
  });
  workers = startWorkers(config.RINGMASTER_ROUTER_WORKERS, log, () => void end('a worker cannot start', 1));
}

async function runRouter(config: Settings): Promise<void> {
  const file = config.RINGMASTER_ROUTER_RING_FILE;
  const initial = file ? await readRingFile(file, config.RINGMASTER_CLUSTER, log) : null;
  const store = createPostgresRingStore({
    connectionString: config.RINGMASTER_RINGSTORE_URL,
    applicationName: 'ringmaster-router',
    log,
  });
  const source = `router@${hostname()}/${process.pid}`;
  const view = followRing(store, config.RINGMASTER_CLUSTER, { log, source, ...(initial ? { initial } : {}) });
  // One of several writes it, all of them read it.
  const stopKeeping = file && (worker ?? 1) === 1 ? keepRingFile(file, view, log) : null;
  let router: Router | null = null;
  let stopLease: (() => Promise<void>) | null = null;
  const end = endOnce(async () => {
    await router?.stop();
    await stopLease?.();
    await view.close();
    await stopKeeping?.();
    await store.close();
  });
  const whole =
    worker === null
      ? null
      : joinWorkers(
          () => router,
          (because) => void end(because),
        );
  if (whole) await hasRing(view);
  const started = await startRouter({
    view,
    log,
    host: config.RINGMASTER_ROUTER_HOST,
    port: config.RINGMASTER_ROUTER_PORT,
    limits: limitsOf(config),
    ...(whole ? { whole } : {}),
  });
  router = started;
  log.info({ url: started.url, version: view.ring.version, clusterId: config.RINGMASTER_CLUSTER }, 'listening');
  stopLease = keepLease(
    store,
    view,
    () => ({
      router: source,
      url: started.url,
      worker,
      build: config.RINGMASTER_BUILD_ID ?? null,
      version: view.ring.version,
      epoch: view.ring.epoch,
      ringAgeMs: Math.round(view.ringAgeMs),
      confirmedMsAgo: view.confirmedMsAgo === null ? null : Math.round(view.confirmedMsAgo),
      upMs: Math.round(process.uptime() * 1_000),
    }),
    log,
  );
}

/** What a router of several workers holds and has in hand is bounded as if it were one. */
function limitsOf(config: Settings): Partial<RouterLimits> & Pick<RouterLimits, 'stopMs' | 'drainMs' | 'leaveMs'> {
  const share = (whole: number): number => Math.ceil(whole / config.RINGMASTER_ROUTER_WORKERS);
  return {
    holdMs: config.RINGMASTER_ROUTER_HOLD_MS,
    heldRequestsMax: share(config.RINGMASTER_ROUTER_HELD_REQUESTS_MAX),
    heldBytesMax: share(config.RINGMASTER_ROUTER_HELD_BYTES_MAX),
    inHandBytesMax: share(config.RINGMASTER_ROUTER_IN_HAND_BYTES_MAX),
    nodeTimeoutMs: config.RINGMASTER_ROUTER_NODE_TIMEOUT_MS,
    connectTimeoutMs: config.RINGMASTER_ROUTER_CONNECT_TIMEOUT_MS,
    connectionsPerNode: share(config.RINGMASTER_ROUTER_CONNECTIONS_PER_NODE),
    stopMs: config.RINGMASTER_ROUTER_HOLD_MS + 5_000,
    drainMs: config.RINGMASTER_ROUTER_DRAIN_MS,
    leaveMs: config.RINGMASTER_ROUTER_LEAVE_MS,
  };
}

/** Ends the process once, on signals or when it is called. */
function endOnce(stop: (because: string) => Promise<void>): (because: string, code?: number) => Promise<void> {
  let stopping = false;
  const end = async (because: string, code = 0): Promise<void> => {
    if (stopping) return;
    stopping = true;
    log.info({ because }, 'stopping');
    await stop(because);
    log.info('stopped');
    process.exit(code);
  };
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void end(signal));
  endWithParent(() => undefined); // at once: nobody is left who could want an orderly end
  return end;
}

async function hasRing(view: RingView): Promise<void> {
  // Without one it listens all the same, and says that it is not ready.
  await view.waitFor((ring) => ring.version > 0, { deadlineMs: RING_WITHIN_MS }).catch(() => undefined);
}

main().catch((error: unknown) => {
  log.fatal({ error: describeError(error) }, 'cannot start');
  process.exit(1);
});
