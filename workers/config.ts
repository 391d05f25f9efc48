/** The worker's environment. Temporal's variables are its standard ones. */
import { readFileSync } from 'node:fs';
import type { NativeConnectionOptions } from '@temporalio/worker';
import { z } from 'zod';
import { parseConfig } from '../kit/config.ts';

const isTrue = z.enum(['0', '1', 'false', 'true']).transform((value) => value === '1' || value === 'true');

const common = z.object({
  RINGMASTER_RINGSTORE_URL: z
    .string('must be the ring store’s postgres:// address')
    .regex(/^postgres(ql)?:\/\//, 'must begin with postgres://'),
  RINGMASTER_TASK_QUEUE: z.string().min(1).default('ringmaster'),
  /** Names this version of the worker in Temporal's histories, such as the image's tag. Default: a hash of the workflows' code. */
  RINGMASTER_BUILD_ID: z.string().min(1).max(200).optional(),
  TEMPORAL_ADDRESS: z.string().min(1).default('127.0.0.1:7233'),
  TEMPORAL_NAMESPACE: z.string().min(1).default('default'),
  TEMPORAL_API_KEY: z.string().min(1).optional(),
  TEMPORAL_TLS: isTrue.optional(),
  TEMPORAL_TLS_SERVER_NAME: z.string().min(1).optional(),
  TEMPORAL_TLS_SERVER_CA_CERT_PATH: z.string().min(1).optional(),
  TEMPORAL_TLS_CLIENT_CERT_PATH: z.string().min(1).optional(),
  TEMPORAL_TLS_CLIENT_KEY_PATH: z.string().min(1).optional(),
});
const NO_FAULTS = 'is for tests on this machine: RINGMASTER_PLATFORM must be local';

/** Which platform this worker's nodes run on, and what that one needs. */
const workerEnvironment = z.discriminatedUnion(
  'RINGMASTER_PLATFORM',
  [
    common.extend({
      RINGMASTER_PLATFORM: z.literal('local'),
      RINGMASTER_AGENT_URL: z.url('must be the platform agent’s http:// address'),
      RINGMASTER_AGENT_TOKEN: z.string('must be the platform agent’s token').min(1),
      /** Of a test that stops this worker at its fault points (kit/fault-points.ts). */
      RINGMASTER_FAULT_POINTS: z.string().optional(),
    }),
    /** The rest is read by platform/kubernetes/config.ts. */
    common.extend({
      RINGMASTER_PLATFORM: z.literal('kubernetes'),
      RINGMASTER_CLUSTER: z
        .string('must be the cluster’s id')
        .regex(/^[a-z0-9-]{1,40}$/, 'must be 1 to 40 of a-z, 0-9 and -'),
      RINGMASTER_FAULT_POINTS: z.never(NO_FAULTS).optional(),
    }),
  ],
  'must be local or kubernetes',
);

export type WorkerConfig = Readonly<z.infer<typeof workerEnvironment>>;

export const workerConfig = (env: Record<string, string | undefined>): WorkerConfig =>
  parseConfig(workerEnvironment, { RINGMASTER_PLATFORM: 'local', ...env });

/** TLS as soon as anything of it is named, or an API key is (which must not travel in the clear). */
export function connectionOptions(config: WorkerConfig): NativeConnectionOptions {
  const {
    TEMPORAL_API_KEY: apiKey,
    TEMPORAL_TLS_CLIENT_CERT_PATH: certPath,
    TEMPORAL_TLS_CLIENT_KEY_PATH: keyPath,
  } = config;
  const { TEMPORAL_TLS_SERVER_CA_CERT_PATH: caPath, TEMPORAL_TLS_SERVER_NAME: serverName } = config;
  const wantsTls = config.TEMPORAL_TLS ?? Boolean(apiKey || certPath || caPath || serverName);
  return {
    address: config.TEMPORAL_ADDRESS,
    ...(apiKey ? { apiKey } : {}),
    tls: wantsTls
      ? {
          ...(serverName ? { serverNameOverride: serverName } : {}),
          ...(caPath ? { serverRootCACertificate: readFileSync(caPath) } : {}),
          ...(certPath && keyPath
            ? { clientCertPair: { crt: readFileSync(certPath), key: readFileSync(keyPath) } }
            : {}),
        }
      : null,
  };
}
