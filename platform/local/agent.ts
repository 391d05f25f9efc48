/**
 * The local platform agent: an HTTP server on 127.0.0.1 which alone starts and stops nodes and their PostgreSQL servers on this machine. It stands where
 * Kubernetes stands in production, so a killed worker kills no node, and a restarted agent starts the nodes that were wanted, at their old ports.
 *
 *   PUT    /v1/nodes/:node               want it; 200 with its endpoints when it runs, 202 with its condition after LONG_POLL_MS
 *   GET    /v1/nodes                     [{ node, condition, pid }]
 *   GET    /v1/nodes/:node               its endpoints, 404 when it is not wanted
 *   GET    /v1/nodes/:node/room          { room: { totalBytes, freeBytes } } of its data's file system, or { room: null }
 *   DELETE /v1/nodes/:node/backend       ends the backend only; 200 with the address of its database, or null where that does not run
 *   DELETE /v1/nodes/:node?deleteData=   204 when both processes have ended (and the data is gone)
 *   POST   /v1/nodes/:node/kill          { what, signal }: only with `faults`, for tests
 *
 * Every request carries the bearer token.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import fastify, { type FastifyReply } from 'fastify';
import pino, { type Logger } from 'pino';
import { z } from 'zod';
import { type DatabaseAddress, NODE_NAME, type NodeSummary } from '../platform.ts';
import { ManagedNode, type NodeRecord, NodeUnwanted } from './managed-node.ts';
import { dataRoot, makeEnterable } from './places.ts';
import { freePort } from './ports.ts';
import { initializePostgres } from './postgres-server.ts';

const HERE = path.dirname(fileURLToPath(import.meta.url));
/** An answer comes within this, so that no proxy or client timeout decides about a slow start; the client asks again. */
const LONG_POLL_MS = 20_000;
const SIGNALS = ['SIGKILL', 'SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGSTOP', 'SIGCONT'] as const;

export const agentOptions = z.strictObject({
  cluster: z.string().regex(NODE_NAME),
  token: z.string().min(16),
  /** 0: any free one. */
  port: z.int().min(0).max(65_535).default(0),
  /** Everything of this agent and its nodes lies below it. */
  dataFolder: z.string().optional(),
  ringStoreUrl: z.string(),
  /** JSON file with write keys and destinations, handed on to every node. */
  nodeConfigFile: z.string().optional(),
  nodeEntry: z.string().default(path.resolve(HERE, '../../node/main.ts')),
  /** Added to every node's environment. */
  nodeEnvironment: z.record(z.string(), z.string()).default({}),
  postgresSettings: z.record(z.string(), z.union([z.string(), z.number()])).default({}),
  /** PostgreSQL data directories made ahead, while nobody waits: a node then starts half a second sooner. */
  spares: z.int().min(0).max(8).default(1),
  /** Whether `kill` is there. */
  faults: z.boolean().default(false),
});
export type AgentOptions = z.input<typeof agentOptions>;

export interface Agent {
  url: string;
  /** Ends the nodes and their PostgreSQL servers, then the server. They stay wanted: the next agent on this data starts them. */
  close(): Promise<void>;
}

const stateFile = z.strictObject({
  nodes: z.record(
    z.string(),
    z.strictObject({
      wanted: z.boolean(),
      gatewayPort: z.int(),
      controlPort: z.int(),
      databasePort: z.int(),
      controlToken: z.string(),
    }),
  ),
});

const nodeParams = z.object({ node: z.string().regex(NODE_NAME, 'must match [a-z0-9-]{1,40}') });
const removeQuery = z.object({ deleteData: z.enum(['true', 'false']).default('false') });
const killBody = z.strictObject({ what: z.enum(['backend', 'postgres']), signal: z.enum(SIGNALS).default('SIGKILL') });

export async function startAgent(input: AgentOptions, log: Logger = pino({ name: 'agent' })): Promise<Agent> {
  const options = agentOptions.parse(input);
  const dataFolder = path.resolve(options.dataFolder ?? path.join(dataRoot(), 'platform'));
  const nodes = new Nodes(options, dataFolder, log);
  await nodes.load();

  const app = fastify({ logger: false, forceCloseConnections: true });
  const expected = digest(`Bearer ${options.token}`);
  app.addHook('onRequest', async (request, reply) => {
    if (!timingSafeEqual(digest(request.headers.authorization ?? ''), expected)) {
      await refuse(reply, 401, 'UNAUTHORIZED', 'a bearer token is needed');
    }
  });
  app.setErrorHandler(async (err, _request, reply) => {
    if (err instanceof z.ZodError) return refuse(reply, 400, 'BAD_REQUEST', z.prettifyError(err));
    if (err instanceof NodeUnwanted) return refuse(reply, 409, 'NODE_REMOVED', err.message);
    const status = (err as { statusCode?: number }).statusCode ?? 500;
    if (status >= 500) log.error({ err }, 'request failed');
    return refuse(reply, status, status < 500 ? 'BAD_REQUEST' : 'INTERNAL', (err as Error).message);
  });

  app.get('/v1/nodes', () => nodes.list());
  app.get('/v1/nodes/:node', async (request, reply) => {
    const { node } = nodeParams.parse(request.params);
    const found = nodes.get(node);
    if (!found?.record.wanted) return refuse(reply, 404, 'NODE_UNKNOWN', `${node} is not wanted here`);
    if (!found.endpoints) return reply.code(202).send({ condition: found.condition, trouble: found.lastTrouble });
    return found.endpoints;
  });
  app.get('/v1/nodes/:node/room', async (request) => {
    const { node } = nodeParams.parse(request.params);
    return { room: (await nodes.get(node)?.room()) ?? null };
  });
  app.put('/v1/nodes/:node', async (request, reply) => {
    const { node } = nodeParams.parse(request.params);
    const wanted = await nodes.want(node);
    const patience = AbortSignal.timeout(LONG_POLL_MS);
    try {
      return await wanted.whenRunning(patience);
    } catch (err) {
      if (!patience.aborted) throw err;
      return reply.code(202).send({ condition: wanted.condition, trouble: wanted.lastTrouble });
    }
  });
  app.delete('/v1/nodes/:node/backend', async (request) => {
    const { node } = nodeParams.parse(request.params);
    return { database: await nodes.endBackend(node) };
  });
  app.delete('/v1/nodes/:node', async (request, reply) => {
    const { node } = nodeParams.parse(request.params);
    const { deleteData } = removeQuery.parse(request.query);
    await nodes.remove(node, deleteData === 'true');
    return reply.code(204).send();
  });
  if (options.faults) {
    app.post('/v1/nodes/:node/kill', async (request, reply) => {
      const { node } = nodeParams.parse(request.params);
      const { what, signal } = killBody.parse(request.body);
      if (!nodes.get(node)?.kill(what, signal))
        return refuse(reply, 404, 'NODE_UNKNOWN', `${node} has no ${what} that runs`);
      return reply.code(204).send();
    });
  }

  const url = await app.listen({ host: '127.0.0.1', port: options.port });
  nodes.startWanted();
  log.info({ url, dataFolder }, 'agent listens');
  return {
    url,
    close: async () => {
      await app.close();
      await nodes.close();
    },
  };
}

/** All nodes of this agent and what stays of them. Changes of one node run one after the other; of different nodes, side by side. */
class Nodes {
  readonly #options: z.output<typeof agentOptions>;
  readonly #folder: string;
  readonly #log: Logger;
  readonly #nodes = new Map<string, ManagedNode>();
  readonly #turns = new Map<string, Promise<unknown>>();
  #saving: Promise<void> = Promise.resolve();
  #spares: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(options: z.output<typeof agentOptions>, folder: string, log: Logger) {
    this.#options = options;
    this.#folder = folder;
    this.#log = log;
  }

  async load(): Promise<void> {
    makeEnterable(this.#folder);
    mkdirSync(path.join(this.#folder, 'logs'), { recursive: true });
    const text = await readFile(this.#stateFile, 'utf8').catch((err: NodeJS.ErrnoException) => {
      if (err.code === 'ENOENT') return null;
      throw err;
    });
    if (text === null) return;
    const { nodes } = stateFile.parse(JSON.parse(text));
    for (const [name, record] of Object.entries(nodes)) this.#nodes.set(name, this.#make(name, record));
  }

  startWanted(): void {
    for (const node of this.#nodes.values()) if (node.record.wanted) node.want();
    this.#makeSpares();
  }

  get(name: string): ManagedNode | undefined {
    return this.#nodes.get(name);
  }

  list(): NodeSummary[] {
    return [...this.#nodes.values()]
      .map(({ name, condition, pid }) => ({ node: name, condition, ...(pid === undefined ? {} : { pid }) }))
      .sort((a, b) => a.node.localeCompare(b.node, 'en', { numeric: true }));
  }

  want(name: string): Promise<ManagedNode> {
    return this.#inTurn(name, async () => {
      if (this.#closed) throw new NodeUnwanted(name);
      const known = this.#nodes.get(name);
      const node = known ?? this.#make(name, await this.#newRecord());
      this.#nodes.set(name, node);
      if (!known || !node.record.wanted) {
        node.record.wanted = true;
        await this.#save(); // before the start: a crash of the agent must not forget a node that runs
      }
      node.want();
      return node;
    });
  }

  /** It stays wanted: an agent that restarts now starts it again, and the removal begins afresh. */
  endBackend(name: string): Promise<DatabaseAddress | null> {
    return this.#inTurn(name, async () => (await this.#nodes.get(name)?.endBackend()) ?? null);
  }

  remove(name: string, deleteData: boolean): Promise<void> {
    return this.#inTurn(name, async () => {
      const node = this.#nodes.get(name);
      if (!node) return;
      node.record.wanted = false;
      await this.#save();
      await node.unwant();
      if (!deleteData) return;
      await node.deleteData();
      this.#nodes.delete(name);
      await this.#save();
      this.#log.info({ node: name }, 'node and data deleted');
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(
      [...this.#nodes.keys()].map((name) => this.#inTurn(name, async () => this.#nodes.get(name)?.unwant())),
    );
    await this.#spares;
  }

  #inTurn<T>(name: string, work: () => Promise<T>): Promise<T> {
    const turn = (this.#turns.get(name) ?? Promise.resolve()).then(work, work);
    this.#turns.set(name, turn);
    return turn;
  }

  #make(name: string, record: NodeRecord): ManagedNode {
    const { cluster, nodeEntry, ringStoreUrl, nodeConfigFile, nodeEnvironment, postgresSettings } = this.#options;
    return new ManagedNode(name, record, {
      cluster,
      nodeEntry,
      ringStoreUrl,
      nodeConfigFile,
      nodeEnvironment,
      postgresSettings,
      folder: path.join(this.#folder, 'nodes', name),
      logFile: path.join(this.#folder, 'logs', `${name}.log`),
      log: this.#log,
      takeSpare: (folder) => this.#takeSpare(folder),
    });
  }

  async #newRecord(): Promise<NodeRecord> {
    const taken = new Set(
      [...this.#nodes.values()].flatMap(({ record }) => [record.gatewayPort, record.controlPort, record.databasePort]),
    );
    const next = async () => {
      const port = await freePort(taken);
      taken.add(port);
      return port;
    };
    return {
      wanted: false,
      gatewayPort: await next(),
      controlPort: await next(),
      databasePort: await next(),
      controlToken: randomBytes(24).toString('base64url'),
    };
  }

  get #stateFile(): string {
    return path.join(this.#folder, 'agent.json');
  }

  #save(): Promise<void> {
    const write = async () => {
      const nodes = Object.fromEntries([...this.#nodes].map(([name, node]) => [name, node.record]));
      const scratch = `${this.#stateFile}.new`;
      await writeFile(scratch, `${JSON.stringify({ nodes }, null, 2)}\n`, { mode: 0o600 }); // holds the control tokens
      await rename(scratch, this.#stateFile);
    };
    this.#saving = this.#saving.then(write, write);
    return this.#saving;
  }

  #spareFolder(index: number): string {
    return path.join(this.#folder, 'spares', String(index));
  }

  async #takeSpare(folder: string): Promise<boolean> {
    try {
      for (let index = 0; index < this.#options.spares; index += 1) {
        // A spare being made has no `ready` name yet, so what can be renamed is whole.
        if (await moved(`${this.#spareFolder(index)}.ready`, folder)) return true;
      }
      return false;
    } finally {
      this.#makeSpares();
    }
  }

  /** In the background, one after the other; a failure only costs the time saved. */
  #makeSpares(): void {
    const make = async () => {
      for (let index = 0; index < this.#options.spares && !this.#closed; index += 1) {
        const folder = this.#spareFolder(index);
        if (await readFile(path.join(`${folder}.ready`, 'password')).catch(() => null)) continue;
        await rm(folder, { recursive: true, force: true });
        await initializePostgres(folder);
        await rename(folder, `${folder}.ready`);
      }
    };
    this.#spares = this.#spares.then(make).catch((err: unknown) => this.#log.warn({ err }, 'no spare made'));
  }
}

/** False when there is nothing at `from`, or already something at `to`. */
async function moved(from: string, to: string): Promise<boolean> {
  try {
    await rename(from, to);
    return true;
  } catch (err) {
    if (['ENOENT', 'ENOTEMPTY', 'EEXIST'].includes((err as NodeJS.ErrnoException).code ?? '')) return false;
    throw err;
  }
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

function refuse(reply: FastifyReply, status: number, code: string, message: string) {
  return reply.code(status).send({ error: { code, message } });
}
