/** The process of the API. Configured by the environment; prints one line with its address once it listens; SIGTERM or the end of its parent ends it. */
import { z } from 'zod';
import { createOperationsClient } from '../client/operations.ts';
import { lazyTemporalClient, parseTemporalConfig } from '../client/temporal-connection.ts';
import { createVerificationsClient } from '../client/verifications.ts';
import { parseConfig } from '../kit/config.ts';
import { describeError } from '../kit/errors.ts';
import { createLog } from '../kit/log.ts';
import { endWithParent, onStopSignal } from '../kit/parent.ts';
import { onceUp } from '../kit/starting.ts';
import { createPostgresRingStore, migrateRingStore } from '../ringstore/postgres.ts';
import { createRingRepairs } from '../ringstore/repair.ts';
import { createApi } from './server.ts';

const port = 'must be a port, or 0 for any free one';
const variables = z.object({
  /** 0: any free one; the line that it prints says which. */
  RINGMASTER_API_PORT: z.coerce.number(port).int(port).min(0, port).max(65_535, port).default(8080),
  RINGMASTER_API_HOST: z.string().min(1).default('127.0.0.1'),
  RINGMASTER_API_TOKEN: z
    .string('is needed')
    .min(16, 'must have at least 16 characters')
    .regex(/^\S+$/, 'must not contain spaces'),
  RINGMASTER_RINGSTORE_URL: z.string('is needed').regex(/^postgres(ql)?:\/\//, 'must be a postgres:// address'),
  RINGMASTER_TASK_QUEUE: z.string().min(1).default('ringmaster'),
});

const log = createLog('api');

async function main(): Promise<void> {
  const config = parseConfig(variables, process.env);
  const temporalConfig = parseTemporalConfig(process.env);
  await onceUp('the ring store', log, () => migrateRingStore(config.RINGMASTER_RINGSTORE_URL));
  const store = createPostgresRingStore({
    connectionString: config.RINGMASTER_RINGSTORE_URL,
    applicationName: 'ringmaster api',
    log,
  });
  // Not connected yet, on purpose: rings are served while Temporal is down, also by an API that starts then.
  const temporal = lazyTemporalClient(temporalConfig);
  const operations = createOperationsClient({ temporal: temporal.client, taskQueue: config.RINGMASTER_TASK_QUEUE });
  const verifications = createVerificationsClient(temporal.client, config.RINGMASTER_TASK_QUEUE);
  const repairs = createRingRepairs(config.RINGMASTER_RINGSTORE_URL);
  const api = createApi({ store, operations, verifications, repairs, token: config.RINGMASTER_API_TOKEN, log });

  const stop = async (): Promise<void> => {
    await api.close();
    await Promise.all([store.close(), temporal.close()]);
  };
  endWithParent(stop);
  onStopSignal((signal) => {
    log.info({ signal }, 'stopping');
    stop().then(
      () => process.exit(0),
      (error: unknown) => fail(error),
    );
  });
  const url = await api.listen({ port: config.RINGMASTER_API_PORT, host: config.RINGMASTER_API_HOST });
  log.info({ url }, 'api listens');
}

function fail(error: unknown): never {
  log.fatal({ error: describeError(error) }, 'api failed');
  process.exit(1);
}

await main().catch(fail);
