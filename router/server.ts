/**
 * The router: takes events from clients and sends those of a user to the node that owns the user's partition.
 * Holds: it serves from the last ring it knows and asks nobody else (no Temporal, no API); it forwards nothing outside /v1, /beacon and /pixel.
 */
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo } from 'node:net';
import { promisify } from 'node:util';
import { gunzip, inflate } from 'node:zlib';
import { describeError } from '../kit/errors.ts';
import { type Logger, now } from '../kit/log.ts';
import type { RingView } from '../ringstore/view.ts';
import { Circuits } from './circuits.ts';
import { type Client, Forwarder, jsonAnswer, unavailable } from './forward.ts';
import { Gates } from './gates.ts';
import { leave } from './leave.ts';
import { type RouterLimits, routerLimits } from './limits.ts';
import { createRouterMetrics, type RouterMetrics } from './metrics.ts';
import { carriesEvents, understand } from './understand.ts';
import { type Answer, type Fate, type NodeRequest, Upstream } from './upstream.ts';

export interface RouterOptions {
  readonly view: Pick<RingView, 'ring' | 'onChange' | 'trouble' | 'ringAgeMs' | 'confirmedMsAgo'>;
  readonly log: Logger;
  readonly limits?: Partial<RouterLimits>;
  readonly host?: string;
  /** 0: any free one. */
  readonly port?: number;
  /** Where this is one of several workers: what all of them say. */
  readonly whole?: {
    ready(own: ReadyAnswer): Promise<ReadyAnswer>;
    metrics(): Promise<string>;
  };
}

/** What `/ready` says. */
export interface ReadyAnswer {
  /** Has a ring, whatever its age, and does not stop. */
  readonly ready: boolean;
  readonly version: number;
  readonly epoch: number;
  /** For how long it has had this ring. */
  readonly ringAgeMs: number;
  /** How long ago the ring store last said that this is the latest; null: not since the start. */
  readonly confirmedMsAgo: number | null;
  readonly held: number;
  /** Nodes that do not answer. */
  readonly down: readonly string[];
  readonly trouble: string | null;
  readonly notUnderstood?: readonly string[];
}

export interface Router {
  readonly url: string;
  readonly metrics: RouterMetrics;
  /** Requests held now. */
  held(): number;
  ready(): ReadyAnswer;
  /** Says that it goes, takes nothing new in after `drainMs`, finishes what is in hand, closes (leave.ts). */
  stop(): Promise<void>;
}

const decompressors = new Map([
  ['gzip', promisify(gunzip)],
  ['deflate', promisify(inflate)],
]);

export async function startRouter(options: RouterOptions): Promise<Router> {
  const { view, log } = options;
  const limits: RouterLimits = { ...routerLimits, ...options.limits };
  const gates = new Gates({
    ring: () => view.ring,
    limits,
    now,
    onHoldEnded: (ended) => log.info(ended, 'hold ended'),
    onWait: (ms) => metrics.holdSeconds.observe(ms / 1_000),
    downMs: (partition) => circuits.downMs(view.ring, partition),
  });
  const metrics = createRouterMetrics({
    ring: () => view.ring,
    ringAgeMs: () => view.ringAgeMs,
    confirmedMsAgo: () => view.confirmedMsAgo,
    openCircuits: () => circuits.open(view.ring),
    held: () => gates.held,
    heldBytes: () => gates.heldBytes,
  });
  const upstream = new Upstream(limits);
  const onSent = (ms: number): void => metrics.stages.node.observe(ms / 1_000);
  const circuits = new Circuits({
    sender: { send: (url, request, done) => void upstream.send(url, request).then(done) },
    limits,
    now,
    log,
    onSent,
  });
  const throughCircuits = {
    send: (url: string, request: NodeRequest) => new Promise<Fate>((done) => circuits.send(url, request, done)),
  };
  const forwarder = new Forwarder({ ring: () => view.ring, gates, upstream: throughCircuits, metrics, now });
  const inHand = new InHand();
  const unsubscribe = view.onChange((ring) => {
    upstream.ringChanged(ring);
    circuits.ringChanged(ring);
    gates.ringChanged();
  });

  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const beganAt = now();
    const [path, query] = cutTarget(request.url ?? '/');
    const own = ownAnswer(request.method ?? 'GET', path);
    const answer =
      (await own) ??
      (isForwarded(path)
        ? await forward(request, response, path, query)
        : jsonAnswer(404, { error: 'NOT_FOUND', message: 'no such path' }));
    if (!own) {
      metrics.requests.inc({ status: String(answer.status) });
      metrics.stages.whole.observe((now() - beganAt) / 1_000);
    }
    reply(response, answer, inHand.stopping);
  };

  const ready = (): ReadyAnswer => {
    const { version, epoch, notUnderstood } = view.ring;
    return {
      ready: version > 0 && !inHand.stopping,
      version,
      epoch,
      ringAgeMs: Math.round(view.ringAgeMs),
      confirmedMsAgo: view.confirmedMsAgo === null ? null : Math.round(view.confirmedMsAgo),
      held: gates.held,
      down: circuits.open(view.ring),
      trouble: view.trouble ? describeError(view.trouble) : null,
      ...(notUnderstood.length > 0 ? { notUnderstood } : {}),
    };
  };

  const ownAnswer = (method: string, path: string): Answer | Promise<Answer> | null => {
    if (method !== 'GET') return null;
    switch (path) {
      case '/health':
        return jsonAnswer(200, { status: 'ok' });
      case '/ready':
        return Promise.resolve(options.whole?.ready(ready()) ?? ready()).then((answer) =>
          jsonAnswer(answer.ready ? 200 : 503, answer),
        );
      case '/metrics':
        return (options.whole?.metrics() ?? metrics.registry.metrics()).then((text) => ({
          status: 200,
          headers: { 'content-type': metrics.registry.contentType },
          body: Buffer.from(text),
        }));
      default:
        return null;
    }
  };

  const forward = async (
    request: IncomingMessage,
    response: ServerResponse,
    path: string,
    query: string,
  ): Promise<Answer> => {
    const method = request.method ?? 'GET';
    const client: Client = { gone: false, onGone: new Set() };
    response.once('close', () => {
      if (response.writableFinished) return;
      client.gone = true;
      for (const drop of [...client.onGone]) drop();
    });
    const beganAt = now();
    const body = await readBody(request, limits, inHand);
    metrics.stages.body.observe((now() - beganAt) / 1_000);
    if (!Buffer.isBuffer(body)) return body;
    inHand.bytes += body.length;
    try {
      if (view.ring.version === 0) return unavailable('NO_RING', 'no ring is known yet');
      const nodeRequest: NodeRequest = {
        method,
        target: request.url!,
        headers: headersForNode(request),
        body: body.length > 0 ? body : null,
      };
      const events = carriesEvents(method, path) || path.startsWith('/pixel/');
      const text = events ? await textOf(body, request.headers, limits) : null;
      const understood =
        text === null ? null : understand(path, query, first(request.headers['anonymousid']), text.text);
      if (understood?.kind !== 'events') return await forwarder.sendToAny(nodeRequest, client);
      const indexes = understood.users.map((_, nth) => nth);
      return await forwarder.send(
        { request: nodeRequest, body, users: understood.users, indexes, text: text!.compressed ? text!.text : null },
        client,
      );
    } finally {
      inHand.bytes -= body.length;
    }
  };

  const server = createServer(
    {
      keepAliveTimeout: 65_000,
      requestTimeout: limits.bodyTimeoutMs,
      headersTimeout: Math.min(15_000, limits.bodyTimeoutMs),
    },
    (request, response) => {
      inHand.add();
      handle(request, response)
        .catch((error: unknown) => {
          // A bug, or a client that went away while it was sending.
          if (!request.destroyed || request.complete) log.error({ error: describeError(error) }, 'request failed');
          if (!response.headersSent)
            reply(response, jsonAnswer(500, { error: 'INTERNAL', message: 'the router failed' }), true);
        })
        .finally(() => inHand.done());
    },
  );
  const url = await listen(server, options.host ?? '127.0.0.1', options.port ?? 0);

  return {
    url,
    metrics,
    held: () => gates.held,
    ready,
    async stop() {
      inHand.stopping = true;
      const { drainMs, leaveMs, stopMs } = limits;
      await leave(server, {
        drainMs,
        leaveMs,
        inHandEmpty: () => inHand.empty(stopMs),
        closeIdle: () => server.closeIdleConnections(),
        closeAll: () => server.closeAllConnections(),
      });
      unsubscribe();
      gates.close();
      circuits.close();
      await upstream.close();
    },
  };
}

/** Requests between their first line and their answer. */
class InHand {
  stopping = false;
  bytes = 0;
  #count = 0;
  #waiting: (() => void) | null = null;

  add(): void {
    this.#count += 1;
  }
  done(): void {
    this.#count -= 1;
    if (this.#count === 0) this.#waiting?.();
  }
  async empty(withinMs: number): Promise<void> {
    if (this.#count === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting = resolve;
    const timer = setTimeout(resolve, withinMs);
    await promise;
    clearTimeout(timer);
  }
}

/** The body, or the answer to one that is not taken. */
function readBody(request: IncomingMessage, limits: RouterLimits, inHand: InHand): Promise<Buffer | Answer> {
  const announced = Number(request.headers['content-length'] ?? 0);
  if (announced > limits.bodyBytesMax) {
    request.resume();
    return Promise.resolve(tooLarge(limits));
  }
  if (inHand.bytes + announced > limits.inHandBytesMax) {
    request.resume();
    return Promise.resolve(unavailable('ROUTER_FULL', 'too many bytes are in hand'));
  }
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    request.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > limits.bodyBytesMax) {
        chunks.length = 0;
        resolve(tooLarge(limits));
      } else chunks.push(chunk);
    });
    request.on('end', () => resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks)));
    request.on('error', reject);
    request.on('close', () => {
      if (!request.complete) reject(new Error('the client went away'));
    });
  });
}

function tooLarge(limits: RouterLimits): Answer {
  return jsonAnswer(413, { error: 'BODY_TOO_LARGE', message: `the body is larger than ${limits.bodyBytesMax} bytes` });
}

/** The body's text, decompressed where it must be; null where that cannot be done (then a node may judge it). */
async function textOf(
  body: Buffer,
  headers: IncomingHttpHeaders,
  limits: RouterLimits,
): Promise<{ text: string; compressed: boolean } | null> {
  const encoding = headers['content-encoding'];
  if (encoding === undefined || encoding === 'identity') return { text: body.toString('utf8'), compressed: false };
  const decompress = decompressors.get(encoding);
  if (!decompress) return null;
  try {
    return {
      text: (await decompress(body, { maxOutputLength: limits.bodyBytesMax })).toString('utf8'),
      compressed: true,
    };
  } catch {
    return null;
  }
}

/** Of this connection only (RFC 9110, 7.6.1); `host` and `content-length` are written anew; `expect` has been answered here. */
const notForwarded = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'host',
  'content-length',
  'expect',
]);

function headersForNode(request: IncomingMessage): Record<string, string | string[]> {
  const headers: Record<string, string | string[]> = {};
  const named = first(request.headers.connection)
    ?.toLowerCase()
    .split(',')
    .map((name) => name.trim());
  for (const [name, value] of Object.entries(request.headers)) {
    if (value === undefined || notForwarded.has(name) || named?.includes(name)) continue;
    headers[name] = value;
  }
  const before = request.headers['x-forwarded-for'];
  const peer = request.socket.remoteAddress ?? 'unknown';
  headers['x-forwarded-for'] = before ? `${before}, ${peer}` : peer;
  return headers;
}

function reply(response: ServerResponse, answer: Answer, lastOne: boolean): void {
  if (response.destroyed) return;
  response.statusCode = answer.status;
  for (const [name, value] of Object.entries(answer.headers)) {
    if (value !== undefined && !notForwarded.has(name)) response.setHeader(name, value);
  }
  if (lastOne) response.setHeader('connection', 'close');
  response.setHeader('content-length', answer.body.length);
  response.end(answer.body);
}

const first = (value: string | string[] | undefined): string | undefined => (Array.isArray(value) ? value[0] : value);

function cutTarget(target: string): [path: string, query: string] {
  const at = target.indexOf('?');
  return at < 0 ? [target, ''] : [target.slice(0, at), target.slice(at + 1)];
}

/** Only what clients send events to. A path that a node could read as another one is none of these. */
function isForwarded(path: string): boolean {
  if (!/^\/(v1|beacon|pixel)\//.test(path)) return false;
  return !/(^|[/\\])\.{1,2}([/\\]|$)|%2e|%2f|%5c|\\|\/\//i.test(path);
}

function listen(server: Server, host: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => {
      server.off('error', reject);
      const { port: bound } = server.address() as AddressInfo;
      resolve(`http://${host.includes(':') ? `[${host}]` : host}:${bound}`);
    });
  });
}
