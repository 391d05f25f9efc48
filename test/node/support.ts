/** A node on a real database with a simple steward, and a destination that records what it was sent. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Pool, PoolClient } from 'pg';
import { type Logger, pino } from 'pino';
import { request } from 'undici';
import type { ImportTarget, NodeStatus, PartitionState } from '../../dataplane/contract.ts';
import type { Dataset } from '../../jobsdb/sql/datasets.ts';
import { enterAlone } from '../../jobsdb/sql/partitions.ts';
import {
  defaultLimits,
  type NodeConfig,
  type NodeConfigFile,
  type NodeLimits,
  parseNodeConfigFile,
} from '../../node/config.ts';
import { DatasetList } from '../../node/dataset-list.ts';
import { type NodeSteward, type RunningNode, startNode } from '../../node/node.ts';
import { openSession } from '../../node/session.ts';
import type { NodeSession, NodeWork } from '../../node/work.ts';
import { noRing, type Ring } from '../../ring/ring.ts';

export const PARTITIONS = 8;
export const WRITE_KEY = 'write-key-1';
const log = pino({ level: process.env['RINGMASTER_LOG_LEVEL'] ?? 'silent' });

/** `$1` partitions, `$2` state, `$3` token, `$4` move or null; inside a transaction that has called `ringmaster.enter_alone`. */
const setStates = `
  INSERT INTO ringmaster.partitions (partition, state, token, move)
  SELECT p, $2, $3, $4 FROM unnest($1::integer[]) AS p
  ON CONFLICT (partition) DO UPDATE SET state = excluded.state, token = excluded.token, move = excluded.move`;

/** Sets states as the steward does: alone inside the locks, memory told before a stop and after an opening. */
export class SimpleSteward implements NodeSteward {
  readonly #session: NodeSession;
  readonly #work: NodeWork;
  readonly datasetList: DatasetList;
  #ring: Ring;

  constructor(session: NodeSession, work: NodeWork) {
    this.#session = session;
    this.#work = work;
    this.datasetList = new DatasetList(session.pool);
    const nodes = [{ node: session.node, databaseId: session.databaseId, url: '' }];
    this.#ring = {
      ...noRing(session.clusterId),
      version: 7,
      epoch: 1,
      partitionCount: PARTITIONS,
      nodes,
      owners: Array.from({ length: PARTITIONS }, () => session.node),
    };
  }

  ring = (): Ring => this.#ring;
  changeRing(change: Partial<Ring>): void {
    this.#ring = { ...this.#ring, ...change };
  }
  datasets = (): readonly Dataset[] => this.datasetList.current();

  async start(): Promise<void> {
    await this.#session.pool.query(
      `INSERT INTO ringmaster.partitions (partition, state, token) SELECT p, 'open', 1 FROM generate_series(0, ${PARTITIONS - 1}) AS p ON CONFLICT DO NOTHING`,
    );
    await this.datasetList.read();
    const open = await this.#session.pool.query<{ partition: number }>(
      "SELECT partition FROM ringmaster.partitions WHERE state = 'open'",
    );
    this.#work.opened(open.rows.map((row) => row.partition));
  }

  async stop(): Promise<void> {}

  async set(partitions: readonly number[], state: PartitionState): Promise<void> {
    if (state !== 'open') this.#work.stop(partitions);
    const client = await this.#session.pool.connect();
    await client.query('BEGIN');
    await client.query(enterAlone, [this.#session.instance, partitions]);
    await client.query(setStates, [
      partitions,
      state,
      7,
      state === 'paused' || state === 'fenced' ? 'op-1/move-3.1' : null,
    ]);
    await client.query('COMMIT');
    client.release();
    if (state === 'open') this.#work.opened(partitions);
  }

  status = async (): Promise<NodeStatus> => ({
    node: this.#session.node,
    databaseId: this.#session.databaseId,
    instance: this.#session.instance,
    foldedVersion: 7,
    epoch: 1,
    settledVersion: 7,
    serving: true,
    blocked: null,
    partitions: { open: PARTITIONS, closed: 0, paused: 0, fenced: 0 },
  });
  countPending = async (): Promise<number> => 0;
  prepare = async (): Promise<ImportTarget> => ({ datasets: [] });
  quiesce = async (): Promise<void> => {};
  fence = async (): Promise<void> => {};
}

export interface RunningTestNode<S> extends RunningNode {
  readonly session: NodeSession;
  readonly steward: S;
  readonly superseded: unknown[];
}
export type TestNode = RunningTestNode<SimpleSteward>;

export const CONTROL_TOKEN = 'a-token-for-tests-only';

const simple = (session: NodeSession, work: NodeWork): SimpleSteward => new SimpleSteward(session, work);

export async function startTestNode(
  databaseUrl: string,
  destinations: NodeConfigFile['sources'][number]['destinations'],
  limits: Partial<NodeLimits> = {},
  logger: Logger = log,
): Promise<TestNode> {
  return startNodeWith(simple, databaseUrl, destinations, limits, logger);
}

export async function startNodeWith<S extends NodeSteward>(
  makeSteward: (session: NodeSession, work: NodeWork) => S,
  databaseUrl: string,
  destinations: NodeConfigFile['sources'][number]['destinations'],
  limits: Partial<NodeLimits> = {},
  logger: Logger = log,
  name = 'node-0',
): Promise<RunningTestNode<S>> {
  const session = await openSession({ node: name, clusterId: 'test', databaseUrl });
  const superseded: unknown[] = [];
  const config: NodeConfig = {
    node: name,
    clusterId: 'test',
    databaseUrl,
    ringStoreUrl: '',
    controlToken: CONTROL_TOKEN,
    host: '127.0.0.1',
    gatewayPort: 0,
    controlPort: 0,
    limits: { ...defaultLimits, retryMinMs: 50, retryMaxMs: 200, endMs: 3_000, ...limits },
    ...parseNodeConfigFile(
      JSON.stringify({
        workspaceId: 'workspace',
        sources: [{ writeKey: WRITE_KEY, sourceId: 'source-1', destinations }],
      } satisfies NodeConfigFile),
    ),
  };
  let steward: S | undefined;
  const node = await startNode({
    config,
    session,
    log: logger,
    makeSteward: (work) => (steward = makeSteward(session, work)),
    onSuperseded: (error) => superseded.push(error),
  });
  return { ...node, session, steward: steward!, superseded };
}

/**
 * From now on the connection is lost at each COMMIT for which `lose` says so, after it has happened. Gives a function that ends this.
 * `before`: instead it is lost before the COMMIT arrives where that says so.
 */
export function loseCommits(pool: Pool, lose: () => boolean, before: () => boolean = () => false): () => void {
  const connect = pool.connect.bind(pool) as (callback?: unknown) => Promise<PoolClient>;
  const lossy = async (): Promise<PoolClient> => {
    const client = await connect();
    const query = client.query.bind(client) as (...args: unknown[]) => Promise<unknown>;
    const release = client.release.bind(client);
    const patched = client as unknown as { query: unknown; release: unknown };
    patched.query = async (...args: unknown[]) => {
      if (args[0] !== 'COMMIT') return await query(...args);
      if (before()) {
        await query('ROLLBACK');
        throw new Error('lost before COMMIT');
      }
      const result = await query('COMMIT');
      if (lose()) throw new Error('lost at COMMIT');
      return result;
    };
    patched.release = (error?: Error | boolean) => {
      patched.query = query;
      patched.release = release;
      release(error);
    };
    return client;
  };
  // Pool.query passes a callback: those are no transactions.
  pool.connect = ((callback?: unknown) =>
    callback === undefined ? lossy() : connect(callback)) as typeof pool.connect;
  return () => {
    pool.connect = connect as typeof pool.connect;
  };
}

export interface Answer {
  readonly status: number;
  readonly headers: Record<string, string | string[] | undefined>;
  readonly text: string;
}

export const basic = (writeKey: string): string => `Basic ${Buffer.from(`${writeKey}:`).toString('base64')}`;

/** POSTs `body` (an object is sent as JSON) with the write key. */
export async function post(
  url: string,
  path: string,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const response = await request(`${url}${path}`, {
    method: 'POST',
    headers: { authorization: basic(WRITE_KEY), 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body),
  });
  return { status: response.statusCode, headers: response.headers, text: await response.body.text() };
}

export interface Received {
  readonly event: { userId: string; messageId: string; n: number } & Record<string, unknown>;
  readonly messageId: string;
  readonly attempt: number;
  readonly text: string;
  readonly at: number;
}

type AnswerOf = number | { status: number; headers: Record<string, string>; body?: string };

/** `answer` gives the status, and may wait or ask for headers. */
export class Destination {
  readonly received: Received[] = [];
  /** Accepted with 2xx, in the order of acceptance. */
  readonly accepted: Received[] = [];
  answer: (received: Received) => Promise<AnswerOf> | AnswerOf = () => 200;
  /** Deliveries of one user at the same time: must stay at one. */
  readonly concurrent = new Map<string, number>();
  concurrentMax = 0;
  openMax = 0;
  #open = 0;
  readonly #server: Server;

  constructor() {
    this.#server = createServer((incoming, response) => {
      const chunks: Buffer[] = [];
      incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
      incoming.on('end', async () => {
        const text = Buffer.concat(chunks).toString();
        const received: Received = {
          event: JSON.parse(text),
          text,
          messageId: String(incoming.headers['x-message-id']),
          attempt: Number(incoming.headers['x-attempt']),
          at: performance.now(),
        };
        this.received.push(received);
        const user = received.event.userId;
        this.#open += 1;
        this.openMax = Math.max(this.openMax, this.#open);
        const concurrent = (this.concurrent.get(user) ?? 0) + 1;
        this.concurrent.set(user, concurrent);
        this.concurrentMax = Math.max(this.concurrentMax, concurrent);
        const answer = await this.answer(received);
        this.#open -= 1;
        this.concurrent.set(user, this.concurrent.get(user)! - 1);
        const { status, headers = {}, body = '' } = typeof answer === 'number' ? { status: answer } : answer;
        if (status >= 200 && status < 300) this.accepted.push(received);
        response.writeHead(status, headers).end(body);
      });
    });
  }

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/hook`;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** A generator of numbers in [0, 1) that a seed repeats (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
