/** Connections to the nodes. Says of each request what is known of its fate; never sends anything twice. */
import { type Dispatcher, Pool } from 'undici';
import { headers as answerHeaders } from '../dataplane/contract.ts';
import { describeError } from '../kit/errors.ts';
import type { Ring } from '../ring/ring.ts';
import type { RouterLimits } from './limits.ts';

export interface NodeRequest {
  readonly method: string;
  /** Path with query, as the client sent it. */
  readonly target: string;
  readonly headers: Record<string, string | string[]>;
  readonly body: Buffer | null;
}

export interface Answer {
  readonly status: number;
  readonly headers: Record<string, string | string[] | undefined>;
  readonly body: Buffer;
}

/**
 * `answered`: by the node, other than 421. `refused`: 421, nothing was stored. `not sent`: no byte left this process. `unknown`: reset or silent after we began to
 * send; it may be stored.
 */
export type Fate =
  | { readonly kind: 'answered'; readonly answer: Answer }
  | {
      readonly kind: 'refused';
      readonly state: 'not-owner' | 'fenced';
      readonly version: number;
      readonly move: string | null;
      readonly partitions: readonly number[];
    }
  | { readonly kind: 'not sent'; readonly because: string }
  | { readonly kind: 'unknown'; readonly because: string };

const answerBytesMax = 1_024 * 1_024; // a node's answers are short; more is not a node

export class Upstream {
  readonly #limits: RouterLimits;
  readonly #pools = new Map<string, Pool>();
  #closed = false;

  constructor(limits: RouterLimits) {
    this.#limits = limits;
  }

  send(url: string, request: NodeRequest): Promise<Fate> {
    if (this.#closed) return Promise.resolve({ kind: 'not sent', because: 'the router stops' });
    const pool = this.#poolOf(url);
    return new Promise((resolve) => {
      const catcher = new AnswerCatcher(resolve);
      try {
        pool.dispatch(
          {
            path: request.target,
            method: request.method as Dispatcher.HttpMethod,
            headers: request.headers,
            body: request.body,
          },
          catcher,
        );
      } catch (error) {
        // The pool was closed under us, or refuses the request's form: nothing was sent.
        resolve({ kind: 'not sent', because: describeError(error) });
      }
    });
  }

  /** Lets go of nodes that the ring no longer has; what is on its way there finishes. */
  ringChanged(ring: Ring): void {
    const urls = new Set(ring.nodes.map((node) => node.url));
    for (const [url, pool] of this.#pools) {
      if (urls.has(url)) continue;
      this.#pools.delete(url);
      pool.close().catch(() => undefined); // a node that is gone has nothing more to say
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    const pools = [...this.#pools.values()];
    this.#pools.clear();
    await Promise.all(pools.map((pool) => pool.destroy()));
  }

  #poolOf(url: string): Pool {
    let pool = this.#pools.get(url);
    if (!pool) {
      pool = new Pool(url, {
        connections: this.#limits.connectionsPerNode,
        pipelining: 1,
        connectTimeout: this.#limits.connectTimeoutMs,
        headersTimeout: this.#limits.nodeTimeoutMs,
        bodyTimeout: this.#limits.nodeTimeoutMs,
        keepAliveTimeout: 4_000, // below Node's default of 5 s where the node gives no hint: it must not close under a request
        keepAliveTimeoutThreshold: 1_000,
      });
      this.#pools.set(url, pool);
    }
    return pool;
  }
}

/** Collects one answer. `#started` tells "not sent" from "unknown": undici calls onRequestStart right before the first byte is written. */
class AnswerCatcher implements Dispatcher.DispatchHandler {
  readonly #resolve: (fate: Fate) => void;
  readonly #chunks: Buffer[] = [];
  #bytes = 0;
  #started = false;
  #status = 0;
  #headers: Answer['headers'] = {};

  constructor(resolve: (fate: Fate) => void) {
    this.#resolve = resolve;
  }

  onRequestStart(): void {
    this.#started = true;
  }

  onResponseStart(_controller: Dispatcher.DispatchController, status: number, headers: Answer['headers']): void {
    this.#status = status;
    this.#headers = headers;
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#bytes += chunk.length;
    if (this.#bytes > answerBytesMax) controller.abort(new Error('answer too long'));
    else this.#chunks.push(chunk);
  }

  onResponseEnd(): void {
    const body = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks);
    const answer = { status: this.#status, headers: this.#headers, body };
    this.#resolve((answer.status === 421 && refusalOf(answer)) || { kind: 'answered', answer });
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    const because = describeError(error);
    this.#resolve(this.#started ? { kind: 'unknown', because } : { kind: 'not sent', because });
  }
}

function refusalOf(answer: Answer): Fate | null {
  const state = answer.headers[answerHeaders.state];
  if (state !== 'not-owner' && state !== 'fenced') return null; // not one of ours: the client sees it
  const move = answer.headers[answerHeaders.move];
  return {
    kind: 'refused',
    state,
    version: Number(answer.headers[answerHeaders.version]) || 0,
    move: typeof move === 'string' ? move : null,
    partitions: partitionsIn(answer.body),
  };
}

function partitionsIn(body: Buffer): number[] {
  try {
    const { partitions } = JSON.parse(body.toString('utf8')) as { partitions?: unknown };
    return Array.isArray(partitions) ? partitions.filter((p) => Number.isInteger(p)) : [];
  } catch {
    return []; // then all of the request's
  }
}
