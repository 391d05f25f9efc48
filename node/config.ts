/** What a node is told: by its environment who it is and what it may use, by a file what sources and destinations there are. */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { parseConfig } from '../kit/config.ts';
import { CodedError } from '../kit/errors.ts';

export interface DestinationConfig {
  readonly id: string;
  readonly url: string;
  /** A delivery without an answer within this has failed. */
  readonly timeoutMs: number;
  /** Deliveries to it at once; of one user never more than one. */
  readonly maxInFlight: number;
}

export interface SourceConfig {
  readonly writeKey: string;
  readonly sourceId: string;
  readonly destinations: readonly DestinationConfig[];
}

/** The node's bounds and paces. Each has a default below, and an environment variable `RINGMASTER_NODE_<NAME>`. */
export interface NodeLimits {
  /** Largest body, also after decompression: RudderStack's 4,000 kB. */
  readonly bodyBytesMax: number;
  /** Requests that may wait for their commit, and the bodies in hand (arriving or waiting): beyond, 503. */
  readonly intakeRequestsMax: number;
  readonly intakeBytesMax: number;
  /** A request that has waited this long for its turn is answered 503. */
  readonly intakeWaitMaxMs: number;
  /** How long a group gathers before it is committed, and its largest size. */
  readonly groupMs: number;
  readonly groupEventsMax: number;
  /** A messageId that was stored within this is not stored again. */
  readonly messageWindowMs: number;
  readonly pruneEveryMs: number;
  readonly pruneRows: number;
  /** A live dataset that has so many rows, or bytes, is followed by a new one. */
  readonly datasetRowsMax: number;
  readonly datasetBytesMax: number;
  /** Between two looks at the datasets: is one full, are all jobs of one done. */
  readonly datasetsEveryMs: number;
  /** What was moved away or came by a move is kept so long, also when all its jobs are done. */
  readonly movedKeepMs: number;
  /** gw jobs in one processing transaction. */
  readonly processBatch: number;
  /** Jobs remembered (without payload) for one destination, of one partition of it, of one user of it. */
  readonly bufferJobsMax: number;
  readonly bufferPartitionJobsMax: number;
  readonly bufferUserJobsMax: number;
  /** First wait before a retry; doubles with every attempt, with jitter, up to the maximum. */
  readonly retryMinMs: number;
  readonly retryMaxMs: number;
  /** A destination's Retry-After counts up to this. */
  readonly retryAfterMaxMs: number;
  /** 0: tried until delivered or refused. Else: aborted after so many attempts. */
  readonly attemptsMax: number;
  /** How long a result may wait for others to share its commit. */
  readonly resultLingerMs: number;
  /** A graceful end waits this long for what is in flight. */
  readonly endMs: number;
}

export interface NodeConfig {
  readonly node: string;
  readonly clusterId: string;
  readonly databaseUrl: string;
  readonly ringStoreUrl: string;
  readonly controlToken: string;
  readonly host: string;
  readonly gatewayPort: number;
  readonly controlPort: number;
  readonly workspaceId: string;
  readonly sources: readonly SourceConfig[];
  readonly limits: NodeLimits;
}

/** Default, least and greatest value of each limit. */
const limitRanges: Readonly<Record<keyof NodeLimits, readonly [number, number, number]>> = {
  bodyBytesMax: [4_000 * 1_024, 1_024, 64 * 1_024 * 1_024],
  intakeRequestsMax: [10_000, 1, 1_000_000],
  intakeBytesMax: [128 * 1_024 * 1_024, 1_024, 2 ** 32],
  intakeWaitMaxMs: [10_000, 1, 600_000],
  groupMs: [2, 0, 1_000],
  groupEventsMax: [1_000, 1, 10_000],
  messageWindowMs: [15 * 60_000, 0, 7 * 86_400_000],
  pruneEveryMs: [5_000, 10, 3_600_000],
  pruneRows: [5_000, 1, 100_000],
  datasetRowsMax: [100_000, 1, 100_000_000],
  datasetBytesMax: [300 * 1_024 * 1_024, 8_192, 2 ** 40],
  datasetsEveryMs: [5_000, 10, 3_600_000],
  movedKeepMs: [3_600_000, 0, 30 * 86_400_000],
  processBatch: [1_000, 1, 10_000],
  bufferJobsMax: [50_000, 1, 1_000_000],
  bufferPartitionJobsMax: [4_096, 1, 1_000_000],
  bufferUserJobsMax: [256, 1, 1_000_000],
  retryMinMs: [500, 1, 3_600_000],
  retryMaxMs: [5 * 60_000, 1, 86_400_000],
  retryAfterMaxMs: [3_600_000, 1, 86_400_000],
  attemptsMax: [0, 0, 32_000],
  resultLingerMs: [1, 0, 1_000],
  endMs: [10_000, 0, 600_000],
};

export const defaultLimits: NodeLimits = Object.fromEntries(
  Object.entries(limitRanges).map(([name, [value]]) => [name, value]),
) as unknown as NodeLimits;

const port = z.coerce.number({ error: 'must be a port' }).int().min(0).max(65_535);
const required = z.string({ error: 'is missing' }).min(1, 'is empty');

const environment = z.object({
  RINGMASTER_NODE: required.regex(/^[a-z0-9-]{1,40}$/, 'must be 1 to 40 of a-z, 0-9 and -'),
  RINGMASTER_CLUSTER: required,
  RINGMASTER_NODE_DATABASE_URL: required,
  RINGMASTER_RINGSTORE_URL: required,
  RINGMASTER_CONTROL_TOKEN: required.min(16, 'must have 16 characters at least'),
  RINGMASTER_GATEWAY_PORT: port,
  RINGMASTER_CONTROL_PORT: port,
  RINGMASTER_HOST: z.string().min(1).default('127.0.0.1'),
  RINGMASTER_NODE_CONFIG: required,
});

const destination = z.object({
  id: z.string().min(1).max(200),
  url: z.url({ protocol: /^https?$/ }),
  timeoutMs: z.int().min(1).max(600_000).default(10_000),
  maxInFlight: z.int().min(1).max(1_000).default(64),
});
const file = z.object({
  workspaceId: z.string().min(1).max(200),
  sources: z.array(
    z.object({ writeKey: z.string().min(1), sourceId: z.string().min(1).max(200), destinations: z.array(destination) }),
  ),
});
export type NodeConfigFile = z.input<typeof file>;

/** Throws CONFIG_INVALID, which names each bad variable or field and prints no value. */
export function readNodeConfig(env: Record<string, string | undefined>): NodeConfig {
  const own = parseConfig(environment, env);
  return {
    node: own.RINGMASTER_NODE,
    clusterId: own.RINGMASTER_CLUSTER,
    databaseUrl: own.RINGMASTER_NODE_DATABASE_URL,
    ringStoreUrl: own.RINGMASTER_RINGSTORE_URL,
    controlToken: own.RINGMASTER_CONTROL_TOKEN,
    host: own.RINGMASTER_HOST,
    gatewayPort: own.RINGMASTER_GATEWAY_PORT,
    controlPort: own.RINGMASTER_CONTROL_PORT,
    limits: readLimits(env),
    ...parseNodeConfigFile(readConfigFile(own.RINGMASTER_NODE_CONFIG)),
  };
}

/** `text`: the JSON of RINGMASTER_NODE_CONFIG. */
export function parseNodeConfigFile(text: string): Pick<NodeConfig, 'workspaceId' | 'sources'> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new CodedError('CONFIG_INVALID', 'RINGMASTER_NODE_CONFIG: the file is not JSON');
  }
  const parsed = parseConfig(file, json as Record<string, string>);
  const seen = new Map<string, string>();
  for (const { id, url } of parsed.sources.flatMap((source) => source.destinations)) {
    if ((seen.get(id) ?? url) !== url)
      throw new CodedError('CONFIG_INVALID', `RINGMASTER_NODE_CONFIG: destination ${id} has two urls`);
    seen.set(id, url);
  }
  return parsed;
}

/** `bodyBytesMax` is set by `RINGMASTER_NODE_BODY_BYTES_MAX`. */
export const limitVariable = (name: string): string =>
  `RINGMASTER_NODE_${name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`;

function readLimits(env: Record<string, string | undefined>): NodeLimits {
  const names = Object.keys(limitRanges) as (keyof NodeLimits)[];
  const schema = z.object(
    Object.fromEntries(
      names.map((name) => {
        const [value, min, max] = limitRanges[name];
        return [
          limitVariable(name),
          z.coerce
            .number({ error: `must be a number from ${min} to ${max}` })
            .min(min)
            .max(max)
            .default(value),
        ];
      }),
    ),
  );
  const parsed = parseConfig(schema, env) as Record<string, number>;
  return Object.fromEntries(names.map((name) => [name, parsed[limitVariable(name)]])) as unknown as NodeLimits;
}

function readConfigFile(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new CodedError(
      'CONFIG_INVALID',
      `RINGMASTER_NODE_CONFIG: the file cannot be read (${(error as NodeJS.ErrnoException).code})`,
    );
  }
}
