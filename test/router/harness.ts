/** A ring in memory, nodes that keep a partition's rules and can be made to misbehave, a router between them and the test. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pino } from 'pino';
import { headers } from '../../dataplane/contract.ts';
import type { RingCommand } from '../../ring/decide.ts';
import { partitionOf, userKeyOf } from '../../ring/partition.ts';
import { moveOf, noRing, type Ring } from '../../ring/ring.ts';
import { createMemoryRingStore } from '../../ringstore/memory.ts';
import { decideAndAppend } from '../../ringstore/ringstore.ts';
import { followRing, type RingView } from '../../ringstore/view.ts';
import type { RouterLimits } from '../../router/limits.ts';
import { type Router, startRouter } from '../../router/server.ts';

export interface Stored {
  readonly userKey: string;
  readonly messageId: string;
  readonly body: string;
}

type Misbehaviour = (request: IncomingMessage, response: ServerResponse) => boolean | Promise<boolean>;

/** Takes in what the ring that it has seen allows. `seen` can be kept behind, `fences` set by hand. */
export class FakeNode {
  readonly node: string;
  readonly stored: Stored[] = [];
  readonly fences = new Map<number, string>();
  readonly requests: { method: string; url: string; headers: IncomingMessage['headers']; body: string }[] = [];
  /** Of its requests, byte by byte. */
  readonly bodies: Buffer[] = [];
  refusals = 0;
  seen: () => Ring = () => noRing('demo');
  /** Answers in place of the node where it returns true; called before anything is stored. */
  misbehave: Misbehaviour | null = null;
  #server: Server | null = null;
  #port = 0;

  constructor(node: string) {
    this.node = node;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** It has a request and says nothing, until it is told to: then `OK`, with nothing stored. */
  answersWhenTold(): () => void {
    let answer = (): void => undefined;
    this.misbehave = (_request, response) =>
      new Promise((resolve) => {
        answer = () => {
          response.writeHead(200).end('OK');
          resolve(true);
        };
      });
    return () => answer();
  }

  async start(): Promise<void> {
    const server = createServer((request, response) => void this.#take(request, response));
    this.#server = server;
    await new Promise<void>((resolve) => server.listen(this.#port, '127.0.0.1', resolve));
    this.#port = (server.address() as AddressInfo).port;
  }

  async stop(): Promise<void> {
    const server = this.#server;
    this.#server = null;
    server?.closeAllConnections();
    await new Promise<void>((resolve) => (server ? server.close(() => resolve()) : resolve()));
  }

  async #take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of request) chunks.push(chunk as Buffer);
    } catch {
      return;
    }
    this.bodies.push(Buffer.concat(chunks));
    const body = this.bodies.at(-1)!.toString();
    this.requests.push({ method: request.method!, url: request.url!, headers: request.headers, body });
    if (this.misbehave && (await this.misbehave(request, response))) return;
    let events: { anonymousId?: string; userId?: string; messageId?: string }[];
    try {
      const parsed = JSON.parse(body) as { batch?: [] };
      events = parsed.batch ?? [parsed as object];
    } catch {
      response.writeHead(400).end('invalid JSON');
      return;
    }
    if (events.some((event) => !event.userId && !event.anonymousId)) {
      response.writeHead(400).end('no user id');
      return;
    }
    const ring = this.seen();
    const keys = events.map((event) =>
      userKeyOf({ anonymousIdHeader: request.headers['anonymousid'] as string, ...event }),
    );
    const partitions = keys.map((key) => partitionOf(key, ring.partitionCount));
    const foreign = partitions.filter((partition) => ring.owners[partition] !== this.node);
    const fenced = partitions.filter((partition) => this.fences.has(partition));
    if (foreign.length > 0 || fenced.length > 0) {
      this.refusals += 1;
      const state = foreign.length > 0 ? 'not-owner' : 'fenced';
      response.setHeader(headers.state, state);
      response.setHeader(headers.version, ring.version);
      if (state === 'fenced') response.setHeader(headers.move, this.fences.get(fenced[0]!)!);
      response.writeHead(421).end(JSON.stringify({ error: state, partitions: foreign.length > 0 ? foreign : fenced }));
      return;
    }
    events.forEach((event, nth) => {
      this.stored.push({ userKey: keys[nth]!, messageId: event.messageId ?? '', body: JSON.stringify(event) });
    });
    response.writeHead(200).end('OK');
  }
}

export interface World {
  readonly nodes: FakeNode[];
  readonly view: RingView;
  readonly router: Router;
  /** Lines that the router logged. */
  readonly lines: Record<string, unknown>[];
  readonly store: ReturnType<typeof createMemoryRingStore>;
  decide(command: RingCommand): Promise<Ring>;
  ring(): Ring;
  /** A user whose partition `node` owns; the nth of them. */
  userOf(node: string, nth?: number): string;
  partitionOfUser(userId: string): number;
  /** Freezes the ring, starts and claims a move of these partitions. */
  startMove(move: string, from: string, to: string, partitions: number[]): Promise<void>;
  fence(move: string): void;
  handOver(move: string): Promise<void>;
  abort(move: string): Promise<void>;
  post(
    path: string,
    body: unknown,
    options?: { headers?: Record<string, string>; signal?: AbortSignal },
  ): Promise<Response>;
  track(userId: string, messageId: string, signal?: AbortSignal): Promise<Response>;
  end(): Promise<void>;
}

/** `nodes` nodes that share 16 partitions. Nodes see the latest ring at once unless a test says otherwise. */
export async function startWorld(
  options: { nodes?: number; limits?: Partial<RouterLimits>; fastPath?: boolean } = {},
): Promise<World> {
  const store = createMemoryRingStore();
  const nodes = Array.from({ length: options.nodes ?? 2 }, (_, n) => new FakeNode(`node-${n}`));
  for (const node of nodes) await node.start();
  let latest = noRing('demo');
  const by = { actor: 'test', reason: 'test', operation: null };
  const decide = async (command: RingCommand): Promise<Ring> => {
    latest = (await decideAndAppend(store, 'demo', command, by)).ring;
    return latest;
  };
  for (const node of nodes) node.seen = () => latest;
  await decide({
    type: 'make ring',
    clusterId: 'demo',
    partitionCount: 16,
    nodes: nodes.map((node) => ({ node: node.node, databaseId: node.node, url: node.url })),
  });
  const lines: Record<string, unknown>[] = [];
  const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const view = followRing(store, 'demo', { log });
  await view.waitFor((ring) => ring.version >= latest.version, { deadlineMs: 2_000 });
  const { limits = {}, fastPath = true } = options;
  const router = await startRouter({ view, log, limits: { leaveMs: 0, ...limits }, fastPath });
  const holder = { operationId: 'op-1', workflowId: 'scale/demo', runId: 'run-1' };

  const world: World = {
    nodes,
    view,
    router,
    lines,
    store,
    decide,
    ring: () => latest,
    partitionOfUser: (userId) => partitionOf(userKeyOf({ userId }), 16),
    userOf(node, nth = 0) {
      for (let n = 0, found = 0; ; n += 1) {
        if (latest.owners[world.partitionOfUser(`user-${n}`)] !== node) continue;
        if (found === nth) return `user-${n}`;
        found += 1;
      }
    },
    async startMove(move, from, to, partitions) {
      await decide({ type: 'freeze', by: holder });
      const { holder: number } = latest.freeze!;
      await decide({ type: 'start move', holder: number, move, from, to, partitions });
      await decide({ type: 'claim move', holder: number, move, attempt: '1' });
    },
    fence(move) {
      const { from, partitions } = moveOf(latest, move)!;
      for (const partition of partitions) nodes.find((node) => node.node === from)!.fences.set(partition, move);
    },
    async handOver(move) {
      const { from, token } = moveOf(latest, move)!;
      await decide({ type: 'hand over', move, token, proof: { jobsPending: 0, jobsCopied: 0, prefixes: [] } });
      nodes.find((node) => node.node === from)!.fences.clear();
    },
    async abort(move) {
      const { from } = moveOf(latest, move)!;
      await decide({ type: 'abort move', move, because: 'test' });
      nodes.find((node) => node.node === from)!.fences.clear();
    },
    post: (path, body, { headers: extra, signal } = {}) =>
      fetch(router.url + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization: 'Basic d2s6', ...extra },
        body: typeof body === 'string' ? body : JSON.stringify(body),
        ...(signal ? { signal } : {}),
      }),
    track: (userId, messageId, signal) =>
      world.post('/v1/track', { userId, messageId, event: 'e' }, signal ? { signal } : {}),
    async end() {
      await router.stop();
      await view.close();
      await store.close();
      for (const node of nodes) await node.stop();
    },
  };
  return world;
}
