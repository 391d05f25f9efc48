/**
 * The operator's process: keeps the RingCluster RINGMASTER_CLUSTER and its ring together (controller.ts). Configured by the environment; credentials of the
 * cluster as kubectl finds them (KUBECONFIG, else the pod's service account). Prints one line once it listens; SIGTERM or the end of its parent ends it.
 * It holds no state: it may be killed at any time, and a second one beside it is harmless.
 */
import { z } from 'zod';
import { createOperationsClient } from '../client/operations.ts';
import { lazyTemporalClient, parseTemporalConfig } from '../client/temporal-connection.ts';
import { parseConfig } from '../kit/config.ts';
import { describeError } from '../kit/errors.ts';
import { createLog } from '../kit/log.ts';
import { endWithParent, onStopSignal } from '../kit/parent.ts';
import { createPostgresRingStore, migrateRingStore } from '../ringstore/postgres.ts';
import { startController } from './controller.ts';
import { createHealthServer } from './health.ts';
import { OperatorKube } from './kube.ts';
import { createRingSource } from './rings.ts';

const port = 'must be a port, or 0 for any free one';
const variables = z.object({
  /** The RingCluster's name; others are nothing to us. */
  RINGMASTER_CLUSTER: z.string('is needed').regex(/^[a-z0-9-]{1,40}$/, 'must be 1 to 40 of a-z, 0-9 and -'),
  RINGMASTER_RINGSTORE_URL: z.string('is needed').regex(/^postgres(ql)?:\/\//, 'must be a postgres:// address'),
  RINGMASTER_TASK_QUEUE: z.string().min(1).default('ringmaster'),
  /** Default: the pod's, or the context's. */
  RINGMASTER_KUBE_NAMESPACE: z
    .string()
    .regex(/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/, 'must be a name of Kubernetes: a-z, 0-9 and -')
    .optional(),
  RINGMASTER_KUBE_CONTEXT: z.string().optional(),
  RINGMASTER_OPERATOR_HOST: z.string().min(1).default('127.0.0.1'),
  /** Health only. 0: any free one; the line that it prints says which. */
  RINGMASTER_OPERATOR_PORT: z.coerce.number(port).int(port).min(0, port).max(65_535, port).default(8080),
  KUBECONFIG: z.string().optional(),
});

const log = createLog('operator');

async function main(): Promise<void> {
  // A chart sets what is not given as the empty string.
  const env = Object.fromEntries(Object.entries(process.env).filter(([, value]) => value !== ''));
  const config = parseConfig(variables, env);
  const clusterId = config.RINGMASTER_CLUSTER;
  const temporal = lazyTemporalClient(parseTemporalConfig(env));
  const kube = new OperatorKube(
    {
      clusterId,
      namespace: config.RINGMASTER_KUBE_NAMESPACE,
      context: config.RINGMASTER_KUBE_CONTEXT,
      kubeconfig: config.KUBECONFIG,
    },
    log,
  );
  const url = config.RINGMASTER_RINGSTORE_URL;
  const store = createPostgresRingStore({ connectionString: url, applicationName: 'ringmaster operator', log });
  // Neither the ring store nor Temporal nor the API server has to be there now: the first looks say what is missing, in the status where there is one.
  const rings = createRingSource({ store, clusterId, log, prepare: async () => void (await migrateRingStore(url)) });
  const operations = createOperationsClient({ temporal: temporal.client, taskQueue: config.RINGMASTER_TASK_QUEUE });
  const controller = startController({ clusterId, kube, operations, rings, log });
  const health = createHealthServer(() => controller.health);

  const stop = async (): Promise<void> => {
    await health.close();
    await controller.stop();
    await rings.close();
    await Promise.all([store.close(), temporal.close(), kube.close()]);
  };
  endWithParent(stop);
  onStopSignal((signal) => {
    log.info({ signal }, 'stopping');
    stop().then(
      () => process.exit(0),
      (error: unknown) => fail(error),
    );
  });
  const listens = await health.listen({
    port: config.RINGMASTER_OPERATOR_PORT,
    host: config.RINGMASTER_OPERATOR_HOST,
  });
  log.info({ url: listens, ringCluster: clusterId, namespace: kube.namespace }, 'operator listens');
}

function fail(error: unknown): never {
  log.fatal({ error: describeError(error) }, 'operator failed');
  process.exit(1);
}

await main().catch(fail);
