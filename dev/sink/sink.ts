/**
 * The destination: a webhook receiver that takes its time, and writes down every delivery that began and how it was answered.
 * Holds: a delivery counts as answered only when the answer was handed to a connection that was still there.
 */
import { createWriteStream, type WriteStream } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { now } from '../../kit/log.ts';
import { userKeyOf } from '../../ring/partition.ts';
import type { Delivery } from '../checker/checker.ts';

export interface SinkOptions {
  readonly host?: string;
  /** 0: any free one. */
  readonly port?: number;
  /** How long each answer takes. */
  readonly destinationMs: number;
  /** One in so many deliveries is answered 500: it will be tried again. 0: none. */
  readonly failOneIn?: number;
  /** Where deliveries are also written, one JSON line when each begins and one when it is answered. */
  readonly logFile?: string;
}

export interface SinkStats {
  /** Deliveries that began. */
  readonly received: number;
  /** When the last one began or was answered, `now()` milliseconds; 0 before the first. */
  readonly lastAt: number;
  readonly inFlight: number;
  /** Events with a delivery that was answered 2xx. */
  readonly delivered: number;
  /** Events that were refused for good. */
  readonly aborted: number;
  readonly destinationMs: number;
}

export interface Sink {
  readonly url: string;
  readonly deliveries: readonly Delivery[];
  stats(): SinkStats;
  setDestinationMs(ms: number): void;
  stop(): Promise<void>;
}

/** The field of an event's properties that makes the sink answer it with this status, always: for events that a destination refuses. */
export const STATUS_PROPERTY = 'ringmasterSinkStatus';

const bodyBytesMax = 8 * 1_024 * 1_024;

export async function startSink(options: SinkOptions): Promise<Sink> {
  const deliveries: Delivery[] = [];
  const delivered = new Set<string>();
  const aborted = new Set<string>();
  const file: WriteStream | null = options.logFile ? createWriteStream(options.logFile, { flags: 'a' }) : null;
  let destinationMs = options.destinationMs;
  let inFlight = 0;
  let lastAt = 0;

  const stats = (): SinkStats => ({
    received: deliveries.length,
    lastAt,
    inFlight,
    delivered: delivered.size,
    aborted: aborted.size,
    destinationMs,
  });

  const deliver = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const body = await read(request);
    const event = parse(body);
    if (!event) return void response.writeHead(400).end('not an event');
    const delivery: Delivery = {
      ...event.facts,
      node: headerOf(request, 'ringmaster-node'),
      startedAt: now(),
      answeredAt: null,
      status: null,
    };
    deliveries.push(delivery);
    const nth = deliveries.length;
    lastAt = delivery.startedAt;
    inFlight += 1;
    file?.write(
      `${JSON.stringify({ began: nth, messageId: delivery.messageId, userKey: delivery.userKey, node: delivery.node, startedAt: delivery.startedAt })}\n`,
    );
    if (destinationMs > 0) await new Promise((resolve) => setTimeout(resolve, destinationMs));
    inFlight -= 1;
    if (response.destroyed) return; // whoever sent it is gone: it was not answered
    const status = event.status ?? (options.failOneIn && nth % options.failOneIn === 0 ? 500 : 200);
    response.writeHead(status).end('{}');
    delivery.answeredAt = now();
    delivery.status = status;
    lastAt = delivery.answeredAt;
    if (status < 300) delivered.add(delivery.messageId);
    else if (status < 500 && status !== 408 && status !== 429) aborted.add(delivery.messageId);
    file?.write(
      `${JSON.stringify({ answered: nth, messageId: delivery.messageId, answeredAt: delivery.answeredAt, status })}\n`,
    );
  };

  const control = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const asJson = (body: unknown): void =>
      void response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    if (request.method === 'GET' && request.url === '/_stats') return asJson(stats());
    if (request.method === 'GET' && request.url === '/_deliveries') {
      response.writeHead(200, { 'content-type': 'application/x-ndjson' });
      const size = 1_000;
      for (let at = 0; at < deliveries.length; at += size) {
        const lines = deliveries.slice(at, at + size).map((delivery) => `${JSON.stringify(delivery)}\n`);
        if (!response.write(lines.join(''))) await new Promise((resolve) => response.once('drain', resolve));
      }
      return void response.end();
    }
    if (request.method === 'PUT' && request.url === '/_destination-ms') {
      const ms = Number(await read(request));
      if (!Number.isFinite(ms) || ms < 0) return void response.writeHead(400).end('milliseconds');
      destinationMs = ms;
      return asJson(stats());
    }
    return void response.writeHead(404).end();
  };

  const server = createServer({ keepAliveTimeout: 65_000 }, (request, response) => {
    const handled = request.url?.startsWith('/_')
      ? control(request, response)
      : request.method === 'POST'
        ? deliver(request, response)
        : null;
    if (!handled) return void response.writeHead(405).end();
    handled.catch(() => response.destroy()); // the connection broke while it was read
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port ?? 0, options.host ?? '127.0.0.1', resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://${options.host ?? '127.0.0.1'}:${port}`,
    deliveries,
    stats,
    setDestinationMs(ms) {
      destinationMs = ms;
    },
    async stop() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
      if (file) await new Promise<void>((resolve) => file.end(() => resolve()));
    },
  };
}

interface ReceivedEvent {
  readonly facts: { readonly messageId: string; readonly userKey: string };
  /** What its properties ask to be answered. */
  readonly status: number | null;
}

function parse(body: string): ReceivedEvent | null {
  try {
    const event = JSON.parse(body) as {
      messageId?: unknown;
      userId?: string;
      anonymousId?: string;
      properties?: Record<string, unknown>;
    };
    if (typeof event.messageId !== 'string') return null;
    const status = event.properties?.[STATUS_PROPERTY];
    return {
      facts: { messageId: event.messageId, userKey: userKeyOf(event) },
      status: typeof status === 'number' ? status : null,
    };
  } catch {
    return null;
  }
}

function headerOf(request: IncomingMessage, name: string): string | null {
  const value = request.headers[name];
  return typeof value === 'string' ? value : null;
}

function read(request: IncomingMessage): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    request.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > bodyBytesMax) request.destroy();
      else chunks.push(chunk);
    });
    request.on('end', () => resolve(Buffer.concat(chunks).toString('utf8')));
    request.on('error', reject);
    request.on('close', () => {
      if (!request.complete) reject(new Error('cut off'));
    });
  });
}
