/**
 * The worker process: runs workflows and activities from one task queue until it is told to stop. It holds no state: killed at any moment, another one goes on.
 * Configuration: config.ts.
 */
import { hostname } from 'node:os';
import { Client } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime, Worker, type WorkerDeploymentOptions } from '@temporalio/worker';
import { activityLimits } from '../activities/deps.ts';
import { createHolders } from '../activities/holders.ts';
import { createActivities } from '../activities/index.ts';
import { assertNothingPending } from '../activities/last-look.ts';
import { createNodeControl } from '../dataplane/reference/control-client.ts';
import { CodedError, describeError } from '../kit/errors.ts';
import { switchOnFaultPoints } from '../kit/fault-points.ts';
import { createLog, type Logger } from '../kit/log.ts';
import { endWithParent, onStopSignal } from '../kit/parent.ts';
import { createLocalPlatform } from '../platform/local/client.ts';
import type { NodeEndpoints, Platform } from '../platform/platform.ts';
import type { NodeId } from '../ring/events.ts';
import { createPostgresRingStore } from '../ringstore/postgres.ts';
import { bundleWorkflows } from './bundle.ts';
import { connectionOptions, type WorkerConfig, workerConfig } from './config.ts';

/** Longer than a cut-over takes: a worker that is told to stop finishes the hold that it has begun. Less than a pod's usual 30 s. */
const SHUTDOWN_GRACE_MS = 15_000;
/** Then it ends whatever still runs; another worker repeats it. */
const SHUTDOWN_FORCE_MS = 25_000;

const log = createLog('worker');
const config = readConfig();
const identity = `worker@${hostname()}/${process.pid}`;

Runtime.install({ logger: sdkLogger(log) });
let worker: Worker | null = null;
let stopping = false;
const stop = (): void => {
  stopping = true;
  if (worker?.getState() === 'RUNNING') worker.shutdown();
};
onStopSignal((signal) => {
  log.info({ signal }, 'worker stops');
  stop();
});
endWithParent(stop);

const startedAt = performance.now();
const [connection, workflowBundle] = await Promise.all([
  NativeConnection.connect(connectionOptions(config)),
  bundleWorkflows(),
]).catch((error: unknown) => {
  // Whoever starts us starts us again: Temporal may be on its way.
  log.fatal({ temporal: config.TEMPORAL_ADDRESS, error: describeError(error) }, 'worker cannot start');
  process.exit(1);
});
const ringStore = createPostgresRingStore({
  connectionString: config.RINGMASTER_RINGSTORE_URL,
  applicationName: 'ringmaster worker',
  log,
});
const platform = await openPlatform(config);
const endpointsOf = endpointsFrom(platform);
try {
  worker = await Worker.create({
    connection,
    namespace: config.TEMPORAL_NAMESPACE,
    taskQueue: config.RINGMASTER_TASK_QUEUE,
    identity,
    ...(config.RINGMASTER_BUILD_ID ? { workerDeploymentOptions: deploymentOf(config.RINGMASTER_BUILD_ID) } : {}),
    workflowBundle,
    activities: createActivities({
      ...(config.RINGMASTER_PLATFORM === 'kubernetes' ? { onlyCluster: config.RINGMASTER_CLUSTER } : {}),
      ringStore,
      platform,
      endpointsOf,
      assertNothingPending,
      controlOf: async (node) => createNodeControl(await endpointsOf(node)),
      holders: createHolders(new Client({ connection, namespace: config.TEMPORAL_NAMESPACE })),
      actor: identity,
      log,
      limits: activityLimits,
    }),
    shutdownGraceTime: SHUTDOWN_GRACE_MS,
    shutdownForceTime: SHUTDOWN_FORCE_MS,
    maxHeartbeatThrottleInterval: '2s', // also how soon an activity hears that it is cancelled
    defaultHeartbeatThrottleInterval: '2s',
  });
  const running = worker.run();
  log.info(
    {
      taskQueue: config.RINGMASTER_TASK_QUEUE,
      temporal: config.TEMPORAL_ADDRESS,
      tookMs: Math.round(performance.now() - startedAt),
    },
    'worker running',
  );
  if (stopping) worker.shutdown();
  await running;
} finally {
  await ringStore.close();
  await platform.close();
  await connection.close();
}
log.info('worker stopped');
process.exit(0); // standard input, or an idle connection to a node, must not keep a stopped worker

/** One clear line for who starts us, instead of a stack. */
function readConfig(): WorkerConfig {
  try {
    const read = workerConfig(process.env);
    if (read.RINGMASTER_FAULT_POINTS !== undefined) {
      switchOnFaultPoints(read.RINGMASTER_FAULT_POINTS);
      log.warn('fault points are on: a test may stop this worker anywhere');
    }
    return read;
  } catch (error) {
    log.fatal(describeError(error));
    process.exit(1);
  }
}

/**
 * The build id stands with each task in the histories, and decides nothing: any worker goes on with any operation, and `patched` keeps the workflows' code
 * fit for what older code began. Were operations pinned to the version that began them, one that is blocked for a week would keep that version's workers running.
 */
function deploymentOf(buildId: string): WorkerDeploymentOptions {
  return { version: { deploymentName: 'ringmaster', buildId }, useWorkerVersioning: false };
}

/** Where this worker's nodes run. */
async function openPlatform(config: WorkerConfig): Promise<Platform & { close(): Promise<void> }> {
  if (config.RINGMASTER_PLATFORM === 'kubernetes') {
    const { createKubernetesPlatform } = await import('../platform/kubernetes/index.ts'); // a large client, for those who need it
    return await createKubernetesPlatform(process.env, log);
  }
  return createLocalPlatform({ url: config.RINGMASTER_AGENT_URL, token: config.RINGMASTER_AGENT_TOKEN });
}

/** Asked anew each time: a node that was started again may have moved. */
function endpointsFrom(platform: Platform): (node: NodeId) => Promise<NodeEndpoints> {
  return async (node) => {
    const endpoints = await platform.describeNode(node);
    if (!endpoints) {
      const message = `the platform runs no node ${node}, which this needs: somebody has taken it away by hand. Bring it back (on Kubernetes: raise the replicas of both StatefulSets again; its volume is still there), then resume`;
      throw new CodedError('NODE_ABSENT', message, { node });
    }
    return endpoints;
  };
}

/** Temporal's own lines in our log, from warnings up. */
function sdkLogger(log: Logger): DefaultLogger {
  return new DefaultLogger('WARN', ({ level, message, meta }) => {
    const fields = {
      sdk: true,
      ...meta,
      ...(meta?.['error'] instanceof Error ? { error: meta['error'].message } : {}),
    };
    if (level === 'ERROR') log.error(fields, message);
    else log.warn(fields, message);
  });
}
