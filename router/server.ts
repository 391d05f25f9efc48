/**
 * The router: takes events from clients and sends those of a user to the node that owns the user's partition.
 * Holds: it serves from the last ring it knows and asks nobody else (no Temporal, no API); it forwards nothing outside /v1, /beacon and /pixel.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { BytesInHand } from '../kit/bytes-in-hand.ts';
import { describeError } from '../kit/errors.ts';
import { type Logger, now } from '../kit/log.ts';
import type { RingView } from '../ringstore/view.ts';
import type { Answer } from './answer.ts';
import { Circuits } from './circuits.ts';
import { FastPath, type FastPathOptions, type PlainRequest } from './fast-path.ts';
import { type Client, Forwarder, jsonAnswer, unavailable } from './forward.ts';
import { Gates } from './gates.ts';
import { leave } from './leave.ts';
import { type RouterLimits, routerLimits } from './limits.ts';
import { createRouterMetrics, type RouterMetrics } from './metrics.ts';
import { type NodeRequest, utf8Of } from './node-pool.ts';
import {
  cutTarget,
  first,
  headersForNode,
  isForwarded,
  plainHeadersForNode,
  readBody,
  textOf,
  tooMuch,
} from './request.ts';
import { carriesEvents, isSingle, type Understood, understand } from './understand.ts';
import { Upstream } from './upstream.ts';
import { findUserKey } from './user-key.ts';

export interface RouterOptions {
  readonly view: Pick<RingView, 'ring' | 'onChange' | 'trouble' | 'ringAgeMs' | 'confirmedMsAgo'>;
  readonly log: Logger;
  readonly limits?: Partial<RouterLimits>;
  readonly host?: string;
  /** 0: any free one. */
  readonly port?: number;
  /** Default true. Without it every request goes through the full HTTP stack: the same answers, more slowly. */
  readonly fastPath?: boolean;
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

/** An idle connection of a client: above the usual 60 s of load balancers, so that the other side closes first. */
const IDLE_MS = 65_000;
/** From a connection's start, or the first byte of a request, to the end of its header. */
const HEADERS_MS = 15_000;
/** How often the full stack looks for clients that are too slow; more often where the limit is short. */
const LOOK_MS = 5_000;

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
  const onSent = (ms: number): void => metrics.stages.node.observe(ms);
  const circuits = new Circuits({ sender: upstream, limits, now, log, onSent });
  const forwarder = new Forwarder({ ring: () => view.ring, gates, upstream: circuits, metrics, now });
  const inHand = new InHand();
  const bytesInHand = new BytesInHand(limits.inHandBytesMax);
  const unsubscribe = view.onChange((ring) => {
    upstream.ringChanged(ring);
    circuits.ringChanged(ring);
    gates.ringChanged();
  });

  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const beganAt = now();
    const [path, query] = cutTarget(request.url ?? '/');
    const own = ownAnswer(request.method ?? 'GET', path);
    const forwarded = own === null && isForwarded(path) ? forward(request, response, path, query) : null;
    const answer = (await (own ?? forwarded)) ?? jsonAnswer(404, { error: 'NOT_FOUND', message: 'no such path' });
    if (!own) metrics.answered(answer.status, now() - beganAt);
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
    const headers = headersForNode(request); // while its client's address can be asked for
    const beganAt = now();
    const body = await readBody(request, limits, bytesInHand);
    metrics.stages.body.observe(now() - beganAt);
    if (!Buffer.isBuffer(body)) return body;
    try {
      const nodeRequest: NodeRequest = {
        method,
        target: request.url!,
        headers,
        body: body.length > 0 ? body : null,
      };
      const events = carriesEvents(method, path) || path.startsWith('/pixel/');
      const text = events ? await textOf(body, request.headers, limits) : null;
      const understood =
        text === null ? null : understand(path, query, first(request.headers['anonymousid']), text.text);
      return await send(nodeRequest, understood, text?.compressed ? text.text : null, client);
    } finally {
      bytesInHand.give(body.length);
    }
  };

  /** `text`: of a compressed body. */
  const send = (
    request: NodeRequest,
    understood: Understood | null,
    text: string | null,
    client: Client,
  ): Promise<Answer> => {
    if (view.ring.version === 0) return Promise.resolve(unavailable('NO_RING', 'no ring is known yet'));
    if (understood?.kind !== 'events') return forwarder.sendToAny(request, client);
    const { users } = understood;
    return forwarder.send({ request, users, indexes: users.map((_, nth) => nth), text }, client);
  };

  /** The fast path's way through here. Without an event that is understood at once it is the same as the full stack's. */
  const answerPlain = (plain: PlainRequest, client: Client, done: (answer: Answer) => void): void => {
    const { head, text } = plain;
    const beganAt = now();
    inHand.add();
    const hasRoom = bytesInHand.take(head.bodyLength);
    const end = (answer: Answer): void => {
      if (hasRoom) bytesInHand.give(head.bodyLength);
      metrics.answered(answer.status, now() - beganAt);
      inHand.done();
      done(answer);
    };
    if (!hasRoom) {
      end(tooMuch());
      return;
    }
    const fail = (error: unknown): void => {
      log.error({ error: describeError(error) }, 'request failed');
      end(failed);
    };
    try {
      const request = {
        method: 'POST',
        target: head.target,
        headers: plainHeadersForNode(plain),
        body: text.slice(head.bodyAt),
      };
      const key = isSingle(head.path) ? findUserKey(text, head.bodyAt, head.anonymousId) : 'in doubt';
      if (key !== 'in doubt' && key !== null && view.ring.version > 0)
        forwarder.sendOne(request, key.userKey, client, end, fail);
      else {
        const understood = key === null ? null : understand(head.path, '', head.anonymousId, utf8Of(request.body));
        send(request, understood, null, client).then(end, fail);
      }
    } catch (error) {
      fail(error);
    }
  };

  const headersMs = Math.min(HEADERS_MS, limits.bodyTimeoutMs);
  const server = createServer(
    {
      keepAliveTimeout: IDLE_MS,
      requestTimeout: limits.bodyTimeoutMs,
      headersTimeout: headersMs,
      connectionsCheckingInterval: Math.min(LOOK_MS, headersMs / 2),
    },
    (request, response) => {
      inHand.add();
      handle(request, response)
        .catch((error: unknown) => {
          // A bug, or a client that went away while it was sending.
          if (!request.destroyed || request.complete) log.error({ error: describeError(error) }, 'request failed');
          if (!response.headersSent) reply(response, failed, true);
        })
        .finally(() => inHand.done());
    },
  );
  server.maxConnections = limits.connectionsMax;
  const fastPath =
    (options.fastPath ?? true)
      ? putBefore(server, {
          firstMs: headersMs,
          bodyMs: limits.bodyTimeoutMs,
          idleMs: IDLE_MS,
          bodyBytesMax: limits.bodyBytesMax,
          bytesInHand,
          ask: answerPlain,
          isStopping: () => inHand.stopping,
        })
      : null;
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
        closeIdle: () => {
          server.closeIdleConnections();
          fastPath?.closeIdle();
        },
        closeAll: () => {
          server.closeAllConnections();
          fastPath?.close();
        },
      });
      fastPath?.close();
      unsubscribe();
      gates.close();
      circuits.close();
      upstream.close();
    },
  };
}

/** Requests between their first line and their answer. */
class InHand {
  stopping = false;
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

/** A bug. */
const failed = jsonAnswer(500, { error: 'INTERNAL', message: 'the router failed' });

/** Every connection is the fast path's first, and the full stack's once it has met something that is not plain. */
function putBefore(server: Server, options: Omit<FastPathOptions, 'handOver'>): FastPath {
  const [toFullStack] = server.listeners('connection') as ((this: Server, socket: Socket) => void)[];
  const fastPath = new FastPath({
    ...options,
    handOver(socket, read) {
      socket.unshift(read);
      toFullStack!.call(server, socket);
      socket.resume();
    },
  });
  server.removeAllListeners('connection');
  server.on('connection', (socket) => fastPath.accept(socket));
  return fastPath;
}

function reply(response: ServerResponse, answer: Answer, lastOne: boolean): void {
  if (response.destroyed) return;
  response.statusCode = answer.status;
  for (const [name, value] of Object.entries(answer.headers)) {
    if (value !== undefined && name !== 'content-length') response.setHeader(name, value);
  }
  if (lastOne) response.setHeader('connection', 'close');
  response.setHeader('content-length', answer.body.length);
  response.end(answer.body);
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
