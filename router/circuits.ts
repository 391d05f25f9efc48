/**
 * A circuit for each node: whether it is worth sending anything there.
 *
 * States: closed → *asked* (some sends in a row had no answer; the router asks the node itself) → open (no answer to that either) → closed (an answer).
 * Holds:
 *   - only the router's own question opens a circuit, and only it closes it: no client's request can do either, and none is spent on finding out;
 *   - while it is open nothing is sent to that node, and everything else goes on: a request of a partition that it owns waits at its gate (gates.ts) as for
 *     any node that cannot be reached, a request without a user goes to the next node.
 */
import { get } from 'node:http';
import type { Logger } from '../kit/log.ts';
import type { PartitionIndex } from '../ring/partition.ts';
import type { Ring } from '../ring/ring.ts';
import type { RouterLimits } from './limits.ts';
import type { NodeRequest } from './node-pool.ts';
import type { Fate } from './upstream.ts';

/** Whom requests are sent by; also this, in front of it. Calls `done` once. */
export interface Sender {
  send(url: string, request: NodeRequest, done: (fate: Fate) => void): void;
}

interface Circuit {
  /** Sends without an answer, in a row. */
  failures: number;
  /** When the first of them failed, `now()`. */
  readonly failingSince: number;
  state: 'closed' | 'asked' | 'open';
  timer: NodeJS.Timeout | null;
}

export interface CircuitsOptions {
  readonly sender: Sender;
  readonly limits: RouterLimits;
  readonly now: () => number;
  readonly log: Logger;
  /** Whether a node answers anything at all, within `withinMs`. Default: GET /health. */
  readonly ask?: (url: string, withinMs: number) => Promise<boolean>;
  /** How long each send took, until it was clear what became of it. */
  readonly onSent?: (ms: number) => void;
}

export class Circuits implements Sender {
  readonly #o: CircuitsOptions;
  /** Of nodes whose last send had no answer. */
  readonly #circuits = new Map<string, Circuit>();
  #closed = false;

  constructor(options: CircuitsOptions) {
    this.#o = options;
  }

  send(url: string, request: NodeRequest, done: (fate: Fate) => void): void {
    if (this.#circuits.size > 0 && this.#circuits.get(url)?.state === 'open') {
      done({ kind: 'not sent', because: 'the circuit of the node is open' });
      return;
    }
    const sentAt = this.#o.now();
    this.#o.sender.send(url, request, (fate) => {
      this.#o.onSent?.(this.#o.now() - sentAt);
      if (fate.kind === 'not sent' || fate.kind === 'unknown') this.#failed(url);
      else if (this.#circuits.size > 0 && this.#circuits.get(url)?.state === 'closed') this.#circuits.delete(url);
      done(fate);
    });
  }

  /** For how long the partition's owner has not answered, where its circuit is open; else 0. */
  downMs(ring: Ring, partition: PartitionIndex): number {
    if (this.#circuits.size === 0) return 0;
    const owner = ring.owners[partition];
    const circuit = this.#circuits.get(ring.nodes.find(({ node }) => node === owner)?.url ?? '');
    return circuit?.state === 'open' ? this.#o.now() - circuit.failingSince : 0;
  }

  /** Members whose circuit is open. */
  open(ring: Ring): string[] {
    if (this.#circuits.size === 0) return [];
    return ring.nodes.filter(({ url }) => this.#circuits.get(url)?.state === 'open').map(({ node }) => node);
  }

  /** Forgets nodes that the ring no longer has. */
  ringChanged(ring: Ring): void {
    if (this.#circuits.size === 0) return;
    const urls = new Set(ring.nodes.map((node) => node.url));
    for (const url of [...this.#circuits.keys()]) if (!urls.has(url)) this.#forget(url);
  }

  close(): void {
    this.#closed = true;
    for (const url of [...this.#circuits.keys()]) this.#forget(url);
  }

  #failed(url: string): void {
    if (this.#closed) return;
    let circuit = this.#circuits.get(url);
    if (!circuit) {
      circuit = { failures: 0, failingSince: this.#o.now(), state: 'closed', timer: null };
      this.#circuits.set(url, circuit);
    }
    circuit.failures += 1;
    if (circuit.state !== 'closed' || circuit.failures < this.#o.limits.circuitFailures) return;
    circuit.state = 'asked';
    void this.#ask(url, circuit);
  }

  async #ask(url: string, circuit: Circuit): Promise<void> {
    const { ask = answersHealth, limits, log, now } = this.#o;
    const answers = await ask(url, limits.connectTimeoutMs);
    if (this.#circuits.get(url) !== circuit) return; // the node has left meanwhile, or the router ends
    const downMs = Math.round(now() - circuit.failingSince);
    if (answers) {
      if (circuit.state === 'open') log.info({ url, downMs }, 'circuit closed: the node answers again');
      this.#circuits.delete(url);
      return;
    }
    if (circuit.state === 'asked')
      log.warn({ url, failures: circuit.failures }, 'circuit open: the node does not answer');
    circuit.state = 'open';
    circuit.timer = setTimeout(() => void this.#ask(url, circuit), limits.askEveryMs);
    circuit.timer.unref();
  }

  #forget(url: string): void {
    const timer = this.#circuits.get(url)?.timer;
    if (timer) clearTimeout(timer);
    this.#circuits.delete(url);
  }
}

/** Whatever it says: a node that answers 503 can still say so itself. */
function answersHealth(url: string, withinMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const asking = get(new URL('/health', url), { agent: false, signal: AbortSignal.timeout(withinMs) }, (answer) => {
      answer.destroy();
      resolve(true);
    });
    asking.on('error', () => resolve(false));
  });
}
