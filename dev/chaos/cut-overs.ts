/**
 * Sees cut-overs from outside: a move's source is quiesced or fenced, and the log has no end of the move yet. The log says which moves might be in one (claimed
 * again after the pre-copy), their sources' status when they are.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { NodeStatus } from '../../dataplane/contract.ts';
import { createNodeControl } from '../../dataplane/reference/control-client.ts';
import { now } from '../../kit/log.ts';
import type { NodeEndpoints } from '../../platform/platform.ts';
import type { MoveId, NodeId, RecordedEvent } from '../../ring/events.ts';
import type { RingStore } from '../../ringstore/ringstore.ts';
import type { Stack } from '../stack.ts';

export interface CutOver {
  readonly move: MoveId;
  readonly from: NodeId;
  readonly to: NodeId;
  /** When the source was first seen quiesced or fenced: it was a little sooner. */
  readonly seenAt: number;
  /** By the log, on the clock of this machine, which is all there is. Null: not yet. */
  endedAt: number | null;
}

interface OpenMove {
  readonly from: NodeId;
  readonly to: NodeId;
  claims: number;
  seen: CutOver | null;
}

const LOOK_EVERY_MS = 12;
/** A node that is down or stopped answers late: the others are looked at meanwhile. */
const STATUS_WITHIN_MS = 500;
/** Of a move's claims the first is its pre-copy's. */
const CLAIMS_MIN = 2;

export class CutOverWatch {
  readonly all: CutOver[] = [];
  readonly #open = new Map<MoveId, OpenMove>();
  readonly #waiting = new Set<(cutOver: CutOver) => void>();
  readonly #statusOf: (node: NodeId, signal: AbortSignal) => Promise<NodeStatus>;
  readonly #stopping = new AbortController();
  readonly #running: Promise<unknown>;

  constructor(
    ringStore: RingStore,
    clusterId: string,
    statusOf: (node: NodeId, signal: AbortSignal) => Promise<NodeStatus>,
  ) {
    this.#statusOf = statusOf;
    const { signal } = this.#stopping;
    const onEvents = (events: RecordedEvent[]): void => events.forEach((event) => void this.#fold(event));
    this.#running = Promise.all([ringStore.watch(clusterId, 0, { onEvents }, signal), this.#look()]);
    this.#running.catch(() => undefined); // told by stop()
  }

  /** The next one that is seen, or one that is going on; null: none within `ms`. */
  async next(ms: number, signal: AbortSignal): Promise<CutOver | null> {
    const goingOn = this.#now();
    if (goingOn) return goingOn;
    const { promise, resolve } = Promise.withResolvers<CutOver>();
    this.#waiting.add(resolve);
    const patience = new AbortController();
    const over = AbortSignal.any([signal, patience.signal]);
    try {
      return await Promise.race([promise, sleep(ms, null, { signal: over }).catch(() => null)]);
    } finally {
      patience.abort();
      this.#waiting.delete(resolve);
    }
  }

  /** The cut-over that was going on at `at`, as far as was seen. */
  at(at: number): CutOver | null {
    return this.all.find(({ seenAt, endedAt }) => seenAt <= at && (endedAt === null || at < endedAt)) ?? null;
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  #now(): CutOver | null {
    return this.all.findLast(({ endedAt }) => endedAt === null) ?? null;
  }

  #fold({ event, at }: RecordedEvent): void {
    if (event.type === 'move started')
      this.#open.set(event.move, { from: event.from, to: event.to, claims: 0, seen: null });
    if (event.type === 'move claimed') {
      const move = this.#open.get(event.move);
      if (move) move.claims += 1;
    }
    if (event.type === 'partitions handed over' || event.type === 'move aborted') {
      const seen = this.#open.get(event.move)?.seen;
      if (seen) seen.endedAt = Date.parse(at);
      this.#open.delete(event.move);
    }
  }

  async #look(): Promise<void> {
    const { signal } = this.#stopping;
    const looking = new Set<NodeId>();
    while (!signal.aborted) {
      for (const [move, open] of this.#open) {
        if (open.claims < CLAIMS_MIN || open.seen || looking.has(open.from)) continue;
        looking.add(open.from);
        void this.#statusOf(open.from, AbortSignal.any([signal, AbortSignal.timeout(STATUS_WITHIN_MS)]))
          .then((status) => this.#onStatus(move, open, status))
          .catch(() => undefined) // it is down: nothing is seen
          .finally(() => looking.delete(open.from));
      }
      await sleep(LOOK_EVERY_MS, null, { signal }).catch(() => undefined);
    }
  }

  #onStatus(move: MoveId, open: OpenMove, { partitions }: NodeStatus): void {
    // Between question and answer the log may have ended it: then what is paused there is another move's.
    if (partitions.paused + partitions.fenced === 0 || open.seen || this.#open.get(move) !== open) return;
    open.seen = { move, from: open.from, to: open.to, seenAt: now(), endedAt: null };
    this.all.push(open.seen);
    for (const wake of this.#waiting) wake(open.seen);
    this.#waiting.clear();
  }
}

/** Of a stack's cluster, from now on. Addresses of nodes are asked for once: they do not change. */
export function watchCutOvers({ ringStore, clusterId, platform }: Stack): CutOverWatch {
  const known = new Map<NodeId, NodeEndpoints>();
  return new CutOverWatch(ringStore, clusterId, async (node, signal) => {
    const endpoints = known.get(node) ?? (await platform.describeNode(node));
    if (!endpoints) throw new Error(`${node} is not there`);
    known.set(node, endpoints);
    return createNodeControl(endpoints).status(signal);
  });
}
