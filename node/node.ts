/**
 * A node, put together: gateway → intake → gw → processor → rt → delivery, beside it the steward with the control API.
 * Start: the session has raised the instance number; the steward folds the log and opens what is owned; only then does anybody listen.
 * End: nothing more is taken in, what is in hand is finished within a bound, results are written. Whatever is left is pending in the database.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { NodeControl, NodeLoad } from '../dataplane/contract.ts';
import { countPendingByDestination } from '../jobsdb/sql/delivery.ts';
import { describeError } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import type { NodeConfig } from './config.ts';
import { createControlApi } from './control.ts';
import { DatasetKeeper } from './dataset-keeper.ts';
import { type DatasetList, withDatasets } from './dataset-list.ts';
import { Gateway } from './gateway.ts';
import { Health } from './health.ts';
import { Intake } from './intake.ts';
import { MessageWindow } from './message-window.ts';
import { createNodeMetrics } from './metrics.ts';
import type { NodeSession, NodeTopology, NodeWork } from './work.ts';
import { WorkingParts } from './working-parts.ts';

/** What a node needs of its steward (steward.ts; tests have simpler ones). */
export type NodeSteward = NodeControl &
  NodeTopology & { readonly datasetList: DatasetList; start(): Promise<void>; stop(): Promise<void> };

export interface NodeDeps {
  readonly config: NodeConfig;
  readonly session: NodeSession;
  readonly makeSteward: (work: NodeWork) => NodeSteward;
  readonly log: Logger;
  /** This process is no longer the node: nothing of it may go on. Called once. */
  readonly onSuperseded: (error: unknown) => void;
}

export interface RunningNode {
  readonly gatewayUrl: string;
  readonly controlUrl: string;
  readonly work: NodeWork;
  /** Orderly, within `limits.endMs` and a little. Closes the session's pool. */
  stop(): Promise<void>;
}

const PING_MS = 1_000;

export async function startNode({ config, session, makeSteward, log, onSuperseded }: NodeDeps): Promise<RunningNode> {
  let superseded = false;
  const shared = {
    session,
    config,
    log,
    metrics: createNodeMetrics(config.node),
    health: new Health(),
    topology: { ring: () => steward.ring(), datasets: () => steward.datasets() } satisfies NodeTopology,
    onSuperseded: (error: unknown) => {
      if (superseded) return;
      superseded = true;
      onSuperseded(error);
    },
  };
  // A connection that is lost while somebody holds it, between two queries, must not end the process.
  const work = new WorkingParts(shared);
  const steward = makeSteward(work);
  const intake = new Intake({ ...shared, onStored: (partitions) => work.stored(partitions) });
  const messageWindow = new MessageWindow({ ...shared, limits: config.limits });
  const keeper = new DatasetKeeper({
    ...shared,
    list: steward.datasetList,
    limits: config.limits,
    onMissed: () => work.readAfresh(),
  });
  const { health, metrics } = shared;

  const ping = cached(PING_MS, async () => {
    const pinged = session.pool.query('SELECT').then(() => null, describeError);
    const trouble = await Promise.race([pinged, delay(PING_MS, `no answer within ${PING_MS} ms`, { ref: false })]);
    if (trouble === null) health.succeeded('database');
    else health.failed('database', trouble);
    return trouble === null;
  });
  const describe = async (): Promise<object> => ({
    server: 'UP',
    db: (await ping()) ? 'UP' : 'DOWN',
    delivery: health.delivery(),
    troubles: health.troubles(),
    node: config.node,
    instance: session.instance,
    ringVersion: steward.ring().version,
  });
  const gateway = new Gateway({
    ...shared,
    intake,
    health: describe,
    ready: async () => ({
      ready: (await ping()) && steward.datasets().length > 0 && !superseded,
      body: await describe(),
    }),
  });
  const load = (): NodeLoad => ({ commitMs: intake.commitMs, queueDelayMs: work.queueDelayMs });
  const control = createControlApi({ control: steward, load, token: config.controlToken, metrics, log });
  metrics.observe({
    inFlight: () => work.inFlight,
    ringVersion: () => steward.ring().version,
    waitingRequests: () => intake.waiting,
    load,
    pending: () => countPending(session, steward),
  });

  const end = async (): Promise<void> => {
    const inHand = gateway.stop().then(() => intake.stop());
    await Promise.race([inHand, delay(config.limits.endMs, undefined, { ref: false })]);
    gateway.destroy();
    await Promise.race([intake.stop(), delay(1_000, undefined, { ref: false })]);
    await Promise.race([work.end(config.limits.endMs), delay(config.limits.endMs + 2_000, undefined, { ref: false })]);
    await Promise.race([
      Promise.all([messageWindow.stop(), keeper.stop(), steward.stop(), control.close()]),
      delay(2_000, undefined, { ref: false }),
    ]);
    await Promise.race([session.pool.end(), delay(1_000, undefined, { ref: false })]);
  };
  try {
    work.start();
    await steward.start();
    messageWindow.start();
    keeper.start();
    const controlUrl = await control.listen({ host: config.host, port: config.controlPort });
    const gatewayUrl = await gateway.listen();
    let ending: Promise<void> | null = null;
    return { gatewayUrl, controlUrl, work, stop: () => (ending ??= end()) };
  } catch (error) {
    await end();
    throw error;
  }
}

async function countPending(
  session: NodeSession,
  topology: NodeTopology,
): Promise<{ prefix: string; destination: string; count: number }[]> {
  return withDatasets(topology, async (datasets) => {
    const counts: { prefix: string; destination: string; count: number }[] = [];
    for (const { prefix, dataset } of datasets) {
      const counted = await session.pool.query<{ destination: string | null; count: number }>(
        countPendingByDestination(prefix, dataset),
      );
      for (const { destination, count } of counted.rows) counts.push({ prefix, destination: destination ?? '', count });
    }
    return counts;
  });
}

/** At most one call each `ms`; who comes between gets the last result, or waits for the one that is under way. */
function cached<T>(ms: number, read: () => Promise<T>): () => Promise<T> {
  let at = -Infinity;
  let result: Promise<T> | null = null;
  return () => {
    if (result && performance.now() - at < ms) return result;
    at = performance.now();
    result = read();
    return result;
  };
}
