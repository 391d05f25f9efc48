/** The router's process. Configuration by environment: see `settings`. */
import { hostname } from 'node:os';
import { z } from 'zod';
import { parseConfig } from '../kit/config.ts';
import { describeError } from '../kit/errors.ts';
import { createLog } from '../kit/log.ts';
import { endWithParent } from '../kit/parent.ts';
import { createPostgresRingStore } from '../ringstore/postgres.ts';
import { followRing } from '../ringstore/view.ts';
import { routerLimits } from './limits.ts';
import { keepRingFile, readRingFile } from './ring-file.ts';
import { startRouter } from './server.ts';

const limit = (fallback: number, max: number) =>
  z.coerce.number().int().min(1, `a whole number from 1 to ${max}`).max(max).default(fallback);

const settings = z.object({
  /** The cluster whose ring to route by. */
  RINGMASTER_CLUSTER: z.string().regex(/^[a-z0-9-]{1,40}$/, '1 to 40 of a-z, 0-9 and -'),
  /** postgres:// address of the ring store, with its password: never logged. */
  RINGMASTER_RINGSTORE_URL: z.string().min(1, 'a postgres:// address'),
  RINGMASTER_ROUTER_HOST: z.string().default('127.0.0.1'),
  /** 0: any free port, told by the line `listening`. */
  RINGMASTER_ROUTER_PORT: z.coerce.number().int().min(0).max(65_535).default(0),
  /** Where the last ring is kept. Without it a router that starts while the ring store is down has no ring. */
  RINGMASTER_ROUTER_RING_FILE: z.string().optional(),
  RINGMASTER_ROUTER_HOLD_MS: limit(routerLimits.holdMs, 300_000),
  RINGMASTER_ROUTER_HELD_REQUESTS_MAX: limit(routerLimits.heldRequestsMax, 1_000_000),
  RINGMASTER_ROUTER_HELD_BYTES_MAX: limit(routerLimits.heldBytesMax, 2 ** 34),
  RINGMASTER_ROUTER_IN_HAND_BYTES_MAX: limit(routerLimits.inHandBytesMax, 2 ** 34),
  RINGMASTER_ROUTER_NODE_TIMEOUT_MS: limit(routerLimits.nodeTimeoutMs, 600_000),
  RINGMASTER_ROUTER_CONNECTIONS_PER_NODE: limit(routerLimits.connectionsPerNode, 10_000),
});

const log = createLog('router');

async function main(): Promise<void> {
  const config = parseConfig(settings, process.env);
  const file = config.RINGMASTER_ROUTER_RING_FILE;
  const initial = file ? await readRingFile(file, config.RINGMASTER_CLUSTER, log) : null;
  const store = createPostgresRingStore({
    connectionString: config.RINGMASTER_RINGSTORE_URL,
    applicationName: 'ringmaster-router',
    log,
  });
  const source = `router@${hostname()}/${process.pid}`;
  const view = followRing(store, config.RINGMASTER_CLUSTER, { log, source, ...(initial ? { initial } : {}) });
  const stopKeeping = file ? keepRingFile(file, view, log) : null;
  const router = await startRouter({
    view,
    log,
    host: config.RINGMASTER_ROUTER_HOST,
    port: config.RINGMASTER_ROUTER_PORT,
    limits: {
      holdMs: config.RINGMASTER_ROUTER_HOLD_MS,
      heldRequestsMax: config.RINGMASTER_ROUTER_HELD_REQUESTS_MAX,
      heldBytesMax: config.RINGMASTER_ROUTER_HELD_BYTES_MAX,
      inHandBytesMax: config.RINGMASTER_ROUTER_IN_HAND_BYTES_MAX,
      nodeTimeoutMs: config.RINGMASTER_ROUTER_NODE_TIMEOUT_MS,
      connectionsPerNode: config.RINGMASTER_ROUTER_CONNECTIONS_PER_NODE,
      stopMs: config.RINGMASTER_ROUTER_HOLD_MS + 5_000,
    },
  });
  log.info({ url: router.url, version: view.ring.version, clusterId: config.RINGMASTER_CLUSTER }, 'listening');

  let stopping = false;
  const stop = async (because: string): Promise<void> => {
    if (stopping) return;
    stopping = true;
    log.info({ because, held: router.held() }, 'stopping');
    await router.stop();
    await view.close();
    await stopKeeping?.();
    await store.close();
    log.info('stopped');
    process.exit(0);
  };
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void stop(signal));
  endWithParent(() => undefined); // at once: nobody is left who could want an orderly end
}

main().catch((error: unknown) => {
  log.fatal({ error: describeError(error) }, 'cannot start');
  process.exit(1);
});
