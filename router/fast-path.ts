/**
 * The fast path: connections whose requests are all plain (plain.ts), served on their sockets. A connection with anything else in it goes to the full HTTP stack, with
 * what was read of it, and stays there. Its answers are those of the full stack, header for header.
 *
 * States of a connection: `waiting` (for a request) → `reading` (its body is on its way) → `asking` (its answer is awaited; one at a time) → `waiting`. From `waiting` it
 * may be handed over; from everywhere it may end. Holds: what was handed over is not touched again.
 */
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { BytesInHand } from '../kit/bytes-in-hand.ts';
import type { Answer, AnswerHeaders } from './answer.ts';
import type { Client } from './forward.ts';
import { readAsStream, readInto } from './one-buffer.ts';
import { type PlainHead, readPlainHead } from './plain.ts';

export interface PlainRequest {
  readonly head: PlainHead;
  /** Head and body, and nothing else, as latin1. */
  readonly text: string;
  /** Address of the client. */
  readonly peer: string;
}

export interface FastPathOptions {
  /** How long a connection may be silent before its first request, in the middle of one, and between two. */
  readonly firstMs: number;
  readonly bodyMs: number;
  readonly idleMs: number;
  readonly bodyBytesMax: number;
  /** Calls `done` once with the answer. Never throws. */
  readonly ask: (request: PlainRequest, client: Client, done: (answer: Answer) => void) => void;
  /** To the full stack, with what was read. */
  readonly handOver: (socket: Socket, read: Buffer) => void;
  /** Counts what has not come as a whole yet. */
  readonly bytesInHand: BytesInHand;
  /** Whether each answer is to be the last of its connection. */
  readonly isStopping: () => boolean;
}

/** How often it looks for what has been silent for too long; more often where a limit is short. */
const SWEEP_MS = 500;
/** Answers up to this go in one write with their head. */
const ONE_WRITE_BYTES = 16 * 1_024;
/** As Node's own server answers a client that is too slow. */
const TOO_SLOW = 'HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n';

export class FastPath {
  readonly options: FastPathOptions;
  readonly connections = new Set<FastConnection>();
  readonly #sweeper: NodeJS.Timeout;
  readonly keepAlive: string;
  #date = '';
  #dateUntil = 0;

  constructor(options: FastPathOptions) {
    this.options = options;
    const { firstMs, bodyMs, idleMs } = options;
    this.keepAlive = `Connection: keep-alive\r\nKeep-Alive: timeout=${Math.floor(idleMs / 1_000)}\r\n\r\n`;
    this.#sweeper = setInterval(() => this.#sweep(), Math.min(SWEEP_MS, firstMs / 4, bodyMs / 4, idleMs / 4)).unref();
  }

  accept(socket: Socket): void {
    this.connections.add(new FastConnection(this, socket));
  }

  /** Ends the connections that wait for a request. */
  closeIdle(): void {
    for (const connection of [...this.connections]) if (connection.isIdle) connection.end();
  }

  /** Ends all. */
  close(): void {
    clearInterval(this.#sweeper);
    for (const connection of [...this.connections]) connection.end();
  }

  /** A header line; Node's own server makes it once a second, too. */
  date(): string {
    const now = Date.now();
    if (now >= this.#dateUntil) {
      this.#date = `Date: ${new Date(now).toUTCString()}\r\n`;
      this.#dateUntil = now - (now % 1_000) + 1_000;
    }
    return this.#date;
  }

  #sweep(): void {
    const now = performance.now();
    for (const connection of [...this.connections]) connection.sweep(now);
  }
}

class FastConnection {
  readonly #path: FastPath;
  readonly #socket: Socket;
  readonly #peer: string;
  readonly #client: Client = { gone: false, onGone: new Set() };
  #state: 'waiting' | 'reading' | 'asking' | 'ended' = 'waiting';
  #hasAsked = false;
  /** Performance clock: when it must have gone on. */
  #deadline: number;
  /** While `reading`: what has come of the request, in a place as large as all of it. */
  #partial: { readonly bytes: Buffer; length: number } | null = null;
  /** What came behind the request that is asked for. */
  #behind: Buffer | null = null;

  constructor(path: FastPath, socket: Socket) {
    this.#path = path;
    this.#socket = socket;
    this.#peer = socket.remoteAddress ?? 'unknown';
    this.#deadline = performance.now() + path.options.firstMs;
    if (!readInto(socket, this.#onData)) socket.on('data', this.#onData);
    socket.on('end', this.#onEnd);
    socket.on('close', this.#onClose);
    socket.on('error', ignore);
    socket.resume();
  }

  get isIdle(): boolean {
    return this.#state === 'waiting';
  }

  sweep(now: number): void {
    if (now < this.#deadline || this.#state === 'asking') return;
    if (this.#state === 'reading' || !this.#hasAsked) this.#socket.write(TOO_SLOW);
    this.end();
  }

  end(): void {
    if (this.#state === 'ended') return;
    this.#forget();
    this.#socket.destroy();
    this.#client.gone = true;
    for (const drop of [...this.#client.onGone]) drop();
  }

  /** The bytes are another socket's afterwards (one-buffer.ts). */
  readonly #onData = (bytes: Buffer): void => {
    if (this.#state === 'waiting') this.#read(bytes);
    else if (this.#state === 'reading') this.#readOn(bytes);
    else {
      // Pipelined. Nothing more is read until it is its turn.
      this.#behind = Buffer.concat(this.#behind === null ? [bytes] : [this.#behind, bytes]);
      this.#socket.pause();
    }
  };

  /** A client that closes its half gets no answer any more, as from the full stack. */
  readonly #onEnd = (): void => this.end();
  readonly #onClose = (): void => this.end();

  #read(bytes: Buffer): void {
    const text = bytes.toString('latin1');
    const head = readPlainHead(text);
    if (head === null || head.bodyLength > this.#path.options.bodyBytesMax) {
      this.#handOver(bytes);
      return;
    }
    const length = head.bodyAt + head.bodyLength;
    if (bytes.length < length) this.#begin(bytes, length);
    else if (bytes.length === length) this.#ask({ head, text, peer: this.#peer });
    else {
      this.#behind = Buffer.from(bytes.subarray(length));
      this.#socket.pause();
      this.#ask({ head, text: text.slice(0, length), peer: this.#peer });
    }
  }

  #begin(bytes: Buffer, length: number): void {
    if (!this.#path.options.bytesInHand.take(length)) {
      this.#handOver(bytes); // the full stack says so in its words
      return;
    }
    this.#partial = { bytes: Buffer.allocUnsafeSlow(length), length: bytes.length };
    bytes.copy(this.#partial.bytes);
    this.#state = 'reading';
    this.#deadline = performance.now() + this.#path.options.bodyMs;
  }

  #readOn(bytes: Buffer): void {
    const partial = this.#partial!;
    const copied = bytes.copy(partial.bytes, partial.length);
    partial.length += copied;
    if (partial.length < partial.bytes.length) return;
    this.#stopReading();
    this.#state = 'waiting';
    this.#read(copied < bytes.length ? Buffer.concat([partial.bytes, bytes.subarray(copied)]) : partial.bytes);
  }

  #stopReading(): void {
    if (this.#partial) this.#path.options.bytesInHand.give(this.#partial.bytes.length);
    this.#partial = null;
  }

  #ask(request: PlainRequest): void {
    this.#state = 'asking';
    this.#hasAsked = true;
    this.#path.options.ask(request, this.#client, this.#answer);
  }

  readonly #answer = (answer: Answer): void => {
    if (this.#state === 'ended') return;
    const isLast = this.#path.options.isStopping();
    const { body } = answer;
    const head = `HTTP/1.1 ${answer.status} ${STATUS_CODES[answer.status] ?? 'unknown'}\r\n${this.#linesOf(answer.headers)}content-length: ${body.length}\r\n${isLast ? 'Connection: close\r\n\r\n' : this.#path.keepAlive}`;
    if (body.length <= ONE_WRITE_BYTES) this.#socket.write(head + body.toString('latin1'), 'latin1');
    else {
      this.#socket.cork();
      this.#socket.write(head, 'latin1');
      this.#socket.write(body);
      this.#socket.uncork();
    }
    if (isLast) {
      this.#forget();
      this.#socket.destroySoon(); // once all is written
      return;
    }
    this.#state = 'waiting';
    this.#deadline = performance.now() + this.#path.options.idleMs;
    if (this.#socket.writableNeedDrain) {
      // A client that does not read its answers is not asked for more requests.
      this.#socket.pause();
      this.#socket.once('drain', this.#goOn);
    } else if (this.#behind !== null) this.#goOn();
  };

  readonly #goOn = (): void => {
    if (this.#state !== 'waiting') return;
    const behind = this.#behind;
    this.#behind = null;
    this.#socket.resume();
    if (behind !== null) this.#read(behind);
  };

  #linesOf(headers: AnswerHeaders): string {
    const lines = linesOf(headers);
    return 'date' in headers ? lines : lines + this.#path.date();
  }

  #handOver(bytes: Buffer): void {
    const socket = this.#socket;
    this.#forget();
    socket.pause();
    readAsStream(socket);
    this.#path.options.handOver(socket, Buffer.from(bytes));
    socket.off('error', ignore);
  }

  /** Out of our hands. */
  #forget(): void {
    this.#stopReading();
    this.#state = 'ended';
    this.#path.connections.delete(this);
    const socket = this.#socket;
    socket.off('data', this.#onData);
    socket.off('end', this.#onEnd);
    socket.off('close', this.#onClose);
    socket.off('drain', this.#goOn);
  }
}

const ignore = (): void => undefined;

/** Answers of one node share their headers object while the second lasts (node-pool.ts): their lines are made once. */
const linesByHeaders = new WeakMap<AnswerHeaders, string>();

function linesOf(headers: AnswerHeaders): string {
  let lines = linesByHeaders.get(headers);
  if (lines === undefined) {
    lines = '';
    for (const [name, value] of Object.entries(headers)) {
      if (value === undefined || name === 'content-length') continue;
      for (const one of typeof value === 'string' ? [value] : value) lines += `${name}: ${one}\r\n`;
    }
    linesByHeaders.set(headers, lines);
  }
  return lines;
}
