/** The node's HTTP API for events: RudderStack's paths and answers. Speaks only HTTP; what is stored, and when, is the intake's. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { BytesInHand } from '../kit/bytes-in-hand.ts';
import { describeError } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import { readBody } from './body.ts';
import type { NodeConfig, SourceConfig } from './config.ts';
import { eventTypes, parseEvents } from './event.ts';
import type { Intake } from './intake.ts';
import type { NodeMetrics } from './metrics.ts';
import { HttpRefusal } from './refusal.ts';

export interface GatewayDeps {
  readonly config: Pick<NodeConfig, 'host' | 'gatewayPort' | 'sources' | 'limits'>;
  readonly intake: Intake;
  readonly metrics: NodeMetrics;
  readonly log: Logger;
  /** Bodies of GET /health and GET /ready; `ready` decides the latter's status. */
  readonly health: () => Promise<object>;
  readonly ready: () => Promise<{ ready: boolean; body: object }>;
}

const types = new Map<string, string>([...eventTypes, 'batch'].map((type) => [`/v1/${type}`, type]));
/** After an answer to a body that was not read to its end: time for the client to read the answer before the connection is cut. */
const LINGER_MS = 500;

export class Gateway {
  readonly #deps: GatewayDeps;
  readonly #server: Server;
  readonly #sources: ReadonlyMap<string, SourceConfig>;
  readonly #inHand: BytesInHand;
  #stopping = false;

  constructor(deps: GatewayDeps) {
    this.#deps = deps;
    this.#sources = new Map(deps.config.sources.map((source) => [source.writeKey, source]));
    this.#inHand = new BytesInHand(deps.config.limits.intakeBytesMax);
    this.#server = createServer(
      { keepAliveTimeout: 75_000 },
      (request, response) => void this.#answer(request, response),
    );
  }

  /** Gives the URL. */
  async listen(): Promise<string> {
    const { host, gatewayPort } = this.#deps.config;
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(gatewayPort, host, resolve);
    });
    return `http://${host}:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Takes no new connections, and ends each kept one with its next answer; resolves when all are answered. */
  async stop(): Promise<void> {
    this.#stopping = true;
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeIdleConnections();
    await closed;
  }

  /** Cuts what is left. */
  destroy(): void {
    this.#server.closeAllConnections();
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (this.#stopping) response.shouldKeepAlive = false;
    const path = (request.url ?? '').split('?', 1)[0]!;
    try {
      const type = types.get(path);
      if (request.method === 'POST' && type !== undefined) await this.#takeIn(type, request, response);
      else if (request.method === 'GET' && path === '/health') sendJson(response, 200, await this.#deps.health());
      else if (request.method === 'GET' && path === '/ready') {
        const { ready, body } = await this.#deps.ready();
        sendJson(response, ready && !this.#stopping ? 200 : 503, body);
      } else
        throw new HttpRefusal(type !== undefined || path === '/health' || path === '/ready' ? 405 : 404, 'Not found');
    } catch (error) {
      this.#refuse(request, response, error);
    }
    this.#deps.metrics.answers.inc({ status: String(response.statusCode) });
  }

  async #takeIn(type: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { intake, config } = this.#deps;
    const source = this.#sources.get(writeKeyOf(request));
    if (!source) throw new HttpRefusal(401, 'Invalid Write Key', { 'www-authenticate': 'Basic' });
    const body = await readBody(request, config.limits.bodyBytesMax, this.#inHand);
    try {
      const anonymousId = request.headers['anonymousid'];
      const events = parseEvents(type, typeof anonymousId === 'string' ? anonymousId : undefined, body.text);
      await intake.store(source, events, () => request.socket.destroyed);
    } finally {
      this.#inHand.give(body.bytes);
    }
    response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8', 'content-length': 2 });
    response.end('OK');
  }

  #refuse(request: IncomingMessage, response: ServerResponse, error: unknown): void {
    if (response.destroyed) return;
    let refusal: HttpRefusal;
    if (error instanceof HttpRefusal) refusal = error;
    else {
      this.#deps.log.error({ error: describeError(error) }, 'request failed');
      refusal = new HttpRefusal(500, 'internal error');
    }
    if (!request.complete) {
      response.shouldKeepAlive = false; // the rest of the body is not wanted
      request.resume();
      response.once('finish', () => setTimeout(() => request.socket.destroy(), LINGER_MS).unref());
    }
    response.writeHead(refusal.status, {
      'content-type': refusal.message.startsWith('{') ? 'application/json' : 'text/plain; charset=utf-8',
      'content-length': Buffer.byteLength(refusal.message),
      ...refusal.headers,
    });
    response.end(refusal.message);
  }
}

/** Basic authentication, the write key as the user; RudderStack's SDKs leave the password empty. */
function writeKeyOf(request: IncomingMessage): string {
  const encoded = /^Basic\s+(\S+)$/i.exec(request.headers.authorization ?? '')?.[1];
  return encoded === undefined ? '' : Buffer.from(encoded, 'base64').toString().split(':', 1)[0]!;
}

function sendJson(response: ServerResponse, status: number, body: object): void {
  const text = JSON.stringify(body);
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
  response.end(text);
}
