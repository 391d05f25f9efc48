/**
 * How a client reaches Temporal: by the standard variables that Temporal's own tools read, so that what works for `temporal workflow list` works here.
 * https://docs.temporal.io/develop/environment-configuration; configuration files and profiles of theirs are not read.
 */
import { readFileSync } from 'node:fs';
import { Client, Connection, type ConnectionOptions } from '@temporalio/client';
import { z } from 'zod';
import { parseConfig } from '../kit/config.ts';
import { CodedError } from '../kit/errors.ts';

const flag = z.stringbool({ truthy: ['true', '1'], falsy: ['false', '0'], error: 'must be true or false' }).optional();
const text = z.string().min(1, 'must not be empty').optional();

/** The variables; a process's own schema can be extended by them (`.extend(temporalVariables.shape)`). */
export const temporalVariables = z.object({
  /** `host:port`. */
  TEMPORAL_ADDRESS: z
    .string()
    .regex(/^[^\s/]+:\d{1,5}$/, 'must be host:port')
    .default('127.0.0.1:7233'),
  TEMPORAL_NAMESPACE: z.string().min(1, 'must not be empty').default('default'),
  /** Temporal Cloud and the like. Implies TLS. */
  TEMPORAL_API_KEY: text,
  /** `true` where the server's certificate is of a public authority and no other TLS variable is needed; `false` turns it off. */
  TEMPORAL_TLS: flag,
  TEMPORAL_TLS_SERVER_NAME: text,
  TEMPORAL_TLS_SERVER_CA_CERT_PATH: text,
  TEMPORAL_TLS_SERVER_CA_CERT_DATA: text,
  TEMPORAL_TLS_CLIENT_CERT_PATH: text,
  TEMPORAL_TLS_CLIENT_CERT_DATA: text,
  TEMPORAL_TLS_CLIENT_KEY_PATH: text,
  TEMPORAL_TLS_CLIENT_KEY_DATA: text,
  /** The Node SDK cannot do it; refused rather than overlooked. */
  TEMPORAL_TLS_DISABLE_HOST_VERIFICATION: flag,
});
type TemporalVariables = z.infer<typeof temporalVariables>;

export interface TemporalConfig {
  readonly address: string;
  readonly namespace: string;
  /** What both `Connection` and a worker's `NativeConnection` take. */
  readonly connection: Pick<ConnectionOptions, 'address' | 'apiKey'> & { readonly tls?: TlsOptions | boolean };
}

interface TlsOptions {
  serverNameOverride?: string;
  serverRootCACertificate?: Buffer;
  clientCertPair?: { crt: Buffer; key: Buffer };
}

/** Throws CONFIG_INVALID, naming the variable. */
export function parseTemporalConfig(env: Record<string, string | undefined>): TemporalConfig {
  const variables = parseConfig(temporalVariables, env);
  const tls = tlsOf(variables);
  const apiKey = variables.TEMPORAL_API_KEY;
  return {
    address: variables.TEMPORAL_ADDRESS,
    namespace: variables.TEMPORAL_NAMESPACE,
    connection: { address: variables.TEMPORAL_ADDRESS, ...(apiKey ? { apiKey } : {}), ...(tls ? { tls } : {}) },
  };
}

/** Connects at the first call, not now: a process that needs Temporal only for some of what it does starts without it. */
export function lazyTemporalClient(config: TemporalConfig): { readonly client: Client; close(): Promise<void> } {
  const connection = Connection.lazy(config.connection);
  const client = new Client({ connection, namespace: config.namespace });
  return { client, close: () => connection.close() };
}

function tlsOf(variables: TemporalVariables): TlsOptions | boolean | undefined {
  if (variables.TEMPORAL_TLS_DISABLE_HOST_VERIFICATION)
    invalid('TEMPORAL_TLS_DISABLE_HOST_VERIFICATION', 'is not supported');
  if (variables.TEMPORAL_TLS === false) return undefined;
  const ca = pem(variables, 'TEMPORAL_TLS_SERVER_CA_CERT');
  const crt = pem(variables, 'TEMPORAL_TLS_CLIENT_CERT');
  const key = pem(variables, 'TEMPORAL_TLS_CLIENT_KEY');
  if (!crt !== !key) invalid('TEMPORAL_TLS_CLIENT_CERT and TEMPORAL_TLS_CLIENT_KEY', 'belong together');
  const options: TlsOptions = {
    ...(variables.TEMPORAL_TLS_SERVER_NAME ? { serverNameOverride: variables.TEMPORAL_TLS_SERVER_NAME } : {}),
    ...(ca ? { serverRootCACertificate: ca } : {}),
    ...(crt && key ? { clientCertPair: { crt, key } } : {}),
  };
  if (Object.keys(options).length > 0) return options;
  return variables.TEMPORAL_TLS || variables.TEMPORAL_API_KEY ? true : undefined;
}

type PemVariable = 'TEMPORAL_TLS_SERVER_CA_CERT' | 'TEMPORAL_TLS_CLIENT_CERT' | 'TEMPORAL_TLS_CLIENT_KEY';

/** `…_DATA` holds the text itself, `…_PATH` names its file. */
function pem(variables: TemporalVariables, name: PemVariable): Buffer | undefined {
  const data = variables[`${name}_DATA`];
  const path = variables[`${name}_PATH`];
  if (data && path) invalid(`${name}_DATA and ${name}_PATH`, 'exclude each other');
  if (data) return Buffer.from(data);
  if (!path) return undefined;
  try {
    return readFileSync(path);
  } catch (error) {
    return invalid(`${name}_PATH`, `cannot be read (${(error as NodeJS.ErrnoException).code})`);
  }
}

function invalid(variable: string, what: string): never {
  const problem = `${variable}: ${what}`;
  throw new CodedError('CONFIG_INVALID', problem, { problems: [problem] });
}
