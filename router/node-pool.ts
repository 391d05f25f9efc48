/**
 * The connections to one node: each carries one request at a time, and is kept for the next one. A small HTTP/1.1 client on sockets, as a router's time is mostly spent
 * in its HTTP stacks.
 *
 * Holds: a request is given to a socket once, whole; "not sent" is said only of one that was given to none.
 */
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { describeError } from '../kit/errors.ts';
import { ANSWER_BYTES_MAX, type Answer, type AnswerHead, type ReadAnswer, readAnswer } from './answer.ts';
import type { RouterLimits } from './limits.ts';

export interface NodeRequest {
  readonly method: string;
  /** Path with query, as the client sent it. */
  readonly target: string;
  /** Header lines, each with its CRLF: without Host and Content-Length, and without what is of one connection only. */
  readonly headers: string;
  readonly body: Body | null;
}

/** Bytes: as they are, or as latin1, a character each. */
export type Body = Buffer | string;

export const utf8Of = (body: Body): string =>
  (typeof body === 'string' ? Buffer.from(body, 'latin1') : body).toString('utf8');

/** `answered`: by the node. `not sent`: no byte left this process. `unknown`: reset, silent or not understood after we began to send; it may be stored. */
export type Outcome =
  | { readonly kind: 'answered'; readonly answer: Answer }
  | { readonly kind: 'not sent'; readonly because: string }
  | { readonly kind: 'unknown'; readonly because: string };

interface Job {
  readonly request: NodeRequest;
  readonly done: (outcome: Outcome) => void;
}

/** Where a node does not say for how long it keeps a connection: below Node's default of 5 s. It must not close under a request. */
const IDLE_MS_DEFAULT = 4_000;
/** So much earlier than the node says. */
const IDLE_MS_MARGIN = 1_000;
/** A connection that is used again after longer may be dead without having told us, whatever the node says. */
const IDLE_MS_MAX = 600_000;
/** How often it looks for what has been silent for too long; more often where the limit is short. */
const SWEEP_MS = 500;
const READ_BYTES = 16 * 1_024;
/** Bodies up to this go in one write with their head. */
const ONE_WRITE_BYTES = 16 * 1_024;

export class NodePool {
  readonly host: string;
  readonly #url: URL;
  readonly #limits: RouterLimits;
  readonly #all = new Set<Connection>();
  /** The one used last is used next: what is not needed gets old and is closed. */
  readonly #idle: Connection[] = [];
  readonly #waiting: Job[] = [];
  readonly #sweeper: NodeJS.Timeout;
  #connecting = 0;
  /** Null; or why nothing more is sent. */
  #closed: string | null = null;
  lastHead: AnswerHead | null = null;

  constructor(url: string, limits: RouterLimits) {
    this.#url = new URL(url);
    this.#limits = limits;
    this.host = this.#url.host;
    this.#sweeper = setInterval(() => this.#sweep(), Math.min(SWEEP_MS, limits.nodeTimeoutMs / 4)).unref();
  }

  /** Calls `done` once. */
  send(request: NodeRequest, done: (outcome: Outcome) => void): void {
    if (this.#closed !== null) {
      done({ kind: 'not sent', because: this.#closed });
      return;
    }
    const job = { request, done };
    const now = performance.now();
    const connection = this.#takeIdle(now);
    if (connection) connection.carry(job, now);
    else {
      this.#waiting.push(job);
      this.#grow();
    }
  }

  /** What is on its way finishes, what waits is not sent; then no connection is left. */
  retire(because: string): void {
    this.#closed = because;
    for (const connection of this.#idle.splice(0)) connection.end(because);
    this.#refuseWaiting(because);
    if (this.#all.size === 0) clearInterval(this.#sweeper);
  }

  destroy(because: string): void {
    this.retire(because);
    for (const connection of [...this.#all]) connection.end(because);
  }

  // ---- told by its connections

  connected(connection: Connection): void {
    this.#connecting -= 1;
    this.released(connection);
  }

  released(connection: Connection): void {
    const job = this.#waiting.shift();
    if (job) connection.carry(job, performance.now());
    else if (this.#closed !== null) connection.end(this.#closed);
    else this.#idle.push(connection);
  }

  notConnected(connection: Connection, because: string): void {
    this.#connecting -= 1;
    this.#all.delete(connection);
    // Nobody else is there to carry the others either.
    if (this.#all.size === this.#connecting) this.#refuseWaiting(because);
    else this.#waiting.shift()?.done({ kind: 'not sent', because });
    this.#grow();
  }

  ended(connection: Connection): void {
    this.#all.delete(connection);
    const at = this.#idle.indexOf(connection);
    if (at >= 0) this.#idle.splice(at, 1);
    this.#grow();
  }

  /** Ends what has been silent for too long. */
  #sweep(): void {
    const now = performance.now();
    for (const connection of [...this.#all]) connection.sweep(now, this.#limits.nodeTimeoutMs);
  }

  #takeIdle(now: number): Connection | undefined {
    const connection = this.#idle.pop();
    if (connection === undefined || connection.isFresh(now)) return connection;
    // The others have not been used for longer.
    for (const old of [connection, ...this.#idle.splice(0)]) old.end('idle');
    return undefined;
  }

  #grow(): void {
    if (this.#closed !== null) {
      if (this.#all.size === 0) clearInterval(this.#sweeper);
      return;
    }
    while (this.#waiting.length > this.#connecting && this.#all.size < this.#limits.connectionsPerNode) {
      this.#connecting += 1;
      this.#all.add(new Connection(this, this.#url, this.#limits.connectTimeoutMs));
    }
  }

  #refuseWaiting(because: string): void {
    for (const job of this.#waiting.splice(0)) job.done({ kind: 'not sent', because });
  }
}

class Connection {
  readonly #pool: NodePool;
  readonly #socket: Socket;
  readonly #timer: NodeJS.Timeout;
  #state: 'connecting' | 'idle' | 'busy' | 'ended' = 'connecting';
  /** What it carries while `busy`. */
  #job: Job | null = null;
  /** Performance clock: when it took its job, or fell idle. */
  #since = 0;
  #idleMs = IDLE_MS_DEFAULT;
  /** Of an answer that has begun. */
  #read: Buffer | null = null;
  #because = 'the connection was closed';

  constructor(pool: NodePool, url: URL, connectTimeoutMs: number) {
    this.#pool = pool;
    const host = url.hostname.replace(/^\[|\]$/g, '');
    const port = Number(url.port || (url.protocol === 'https:' ? 443 : 80));
    if (url.protocol === 'https:') {
      this.#socket = connectTls({ host, port, servername: host, ALPNProtocols: ['http/1.1'] });
      this.#socket.on('data', (bytes: Buffer) => this.#take(bytes));
    } else {
      const onread = {
        buffer: Buffer.allocUnsafeSlow(READ_BYTES),
        callback: (length: number, into: Uint8Array) => {
          this.#take((into as Buffer).subarray(0, length));
          return true;
        },
      };
      this.#socket = connectTcp({ host, port, noDelay: true, onread });
    }
    this.#timer = setTimeout(() => this.end(`no connection within ${connectTimeoutMs} ms`), connectTimeoutMs);
    this.#socket.once(url.protocol === 'https:' ? 'secureConnect' : 'connect', () => {
      clearTimeout(this.#timer);
      this.#fallIdle();
      pool.connected(this);
    });
    this.#socket.on('error', (error) => {
      this.#because = describeError(error);
    });
    this.#socket.on('end', () => this.end('the node closed the connection'));
    this.#socket.on('close', () => this.end(this.#because));
  }

  isFresh(now: number): boolean {
    return now - this.#since < this.#idleMs && !this.#socket.destroyed;
  }

  sweep(now: number, nodeTimeoutMs: number): void {
    if (this.#state === 'idle' && !this.isFresh(now)) this.end('idle');
    else if (this.#state === 'busy' && now - this.#since >= nodeTimeoutMs)
      this.end(`no answer within ${nodeTimeoutMs} ms`);
  }

  carry(job: Job, now: number): void {
    const { method, target, headers, body } = job.request;
    this.#state = 'busy';
    this.#job = job;
    this.#since = now;
    const head = `${method} ${target} HTTP/1.1\r\nHost: ${this.#pool.host}\r\n${headers}`;
    if (body === null) {
      const expectsBody = method === 'POST' || method === 'PUT' || method === 'PATCH';
      this.#socket.write(expectsBody ? `${head}Content-Length: 0\r\n\r\n` : `${head}\r\n`, 'latin1');
    } else if (body.length <= ONE_WRITE_BYTES) {
      this.#socket.write(`${head}Content-Length: ${body.length}\r\n\r\n${textOf(body)}`, 'latin1');
    } else {
      this.#socket.cork();
      this.#socket.write(`${head}Content-Length: ${body.length}\r\n\r\n`, 'latin1');
      this.#socket.write(body, 'latin1');
      this.#socket.uncork();
    }
  }

  /** Its end, whoever wanted it. What it carries has an unknown outcome, as all of it was given to the socket. */
  end(because: string): void {
    const state = this.#state;
    if (state === 'ended') return;
    this.#state = 'ended';
    clearTimeout(this.#timer);
    this.#socket.destroy();
    const job = this.#job;
    this.#job = null;
    if (state === 'connecting') this.#pool.notConnected(this, because);
    else this.#pool.ended(this);
    job?.done({ kind: 'unknown', because });
  }

  #take(bytes: Buffer): void {
    const job = this.#job;
    if (job === null) {
      this.end('the node spoke unasked');
      return;
    }
    const all = this.#read === null ? bytes : Buffer.concat([this.#read, bytes]);
    const answer = readAnswer(all, job.request.method, this.#pool.lastHead);
    if (answer === 'bad') this.end('an answer that is not understood');
    else if (answer !== 'more') this.#answered(job, answer, answer.end === all.length);
    else if (all.length > ANSWER_BYTES_MAX) this.end('answer too long');
    else this.#read = all === bytes ? Buffer.from(bytes) : all;
  }

  /** `isAll`: nothing came behind the answer. */
  #answered(job: Job, answer: ReadAnswer, isAll: boolean): void {
    const { head } = answer;
    this.#pool.lastHead = head;
    this.#read = null;
    this.#job = null;
    // One that was answered before all of it was taken has bytes under way that the next one would stand behind.
    const isClean = isAll && this.#socket.writableLength === 0;
    if (head.keepAliveMs !== null) this.#idleMs = Math.min(Math.max(head.keepAliveMs - IDLE_MS_MARGIN, 0), IDLE_MS_MAX);
    this.#fallIdle();
    if (head.keepAlive && isClean) this.#pool.released(this);
    else this.end('done');
    job.done({ kind: 'answered', answer });
  }

  #fallIdle(): void {
    this.#state = 'idle';
    this.#since = performance.now();
  }
}

const textOf = (body: Body): string => (typeof body === 'string' ? body : body.toString('latin1'));
