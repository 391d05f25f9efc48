/** The way to the nodes. Says of each request what is known of its fate; never sends anything twice. */
import { headers as answerHeaders } from '../dataplane/contract.ts';
import type { Ring } from '../ring/ring.ts';
import type { Answer } from './answer.ts';
import type { RouterLimits } from './limits.ts';
import { NodePool, type NodeRequest, type Outcome } from './node-pool.ts';

/**
 * `answered`: by the node, other than 421. `refused`: 421, nothing was stored. `not sent`: no byte left this process. `unknown`: reset or silent after we began to
 * send; it may be stored.
 */
export type Fate =
  | Outcome
  | {
      readonly kind: 'refused';
      readonly state: 'not-owner' | 'fenced';
      readonly version: number;
      readonly move: string | null;
      readonly partitions: readonly number[];
    };

export class Upstream {
  readonly #limits: RouterLimits;
  readonly #pools = new Map<string, NodePool>();
  #closed = false;

  constructor(limits: RouterLimits) {
    this.#limits = limits;
  }

  /** Calls `done` once. */
  send(url: string, request: NodeRequest, done: (fate: Fate) => void): void {
    if (this.#closed) {
      done({ kind: 'not sent', because: 'the router stops' });
      return;
    }
    this.#poolOf(url).send(request, (outcome) => {
      if (outcome.kind !== 'answered' || outcome.answer.status !== 421) done(outcome);
      else done(refusalOf(outcome.answer) ?? outcome);
    });
  }

  /** Lets go of nodes that the ring no longer has; what is on its way there finishes. */
  ringChanged(ring: Ring): void {
    const urls = new Set(ring.nodes.map((node) => node.url));
    for (const [url, pool] of this.#pools) {
      if (urls.has(url)) continue;
      this.#pools.delete(url);
      pool.retire('the node has left the ring');
    }
  }

  close(): void {
    this.#closed = true;
    for (const pool of this.#pools.values()) pool.destroy('the router stops');
    this.#pools.clear();
  }

  #poolOf(url: string): NodePool {
    let pool = this.#pools.get(url);
    if (!pool) {
      pool = new NodePool(url, this.#limits);
      this.#pools.set(url, pool);
    }
    return pool;
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
