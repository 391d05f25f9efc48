/** The latest ring of one cluster, kept by watching its log. For routers, the API, nodes that need no durable fold. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CodedError, codeOf } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import type { RecordedEvent } from '../ring/events.ts';
import { fold, noRing, type Ring } from '../ring/ring.ts';
import { copyOf } from './copies.ts';
import type { RingStore } from './ringstore.ts';

/** A ring that was folded before, and the hash of the event that it ends with (null: not known). */
export interface RingSnapshot {
  readonly ring: Ring;
  readonly lastHash: string | null;
  /** The events that it ends with, the last of them this ring's: what a view can give back to a store that has lost events. At most TAIL_EVENTS. */
  readonly tail?: readonly RecordedEvent[];
  /** For how long it had been known when it was read from where it was kept. */
  readonly ageMs?: number;
}

export interface RingViewOptions {
  readonly log: Logger;
  /** Under which name it tells `ring repair` what it has seen. Default: it does not. */
  readonly source?: string;
  /** Where to go on from, such as what a process kept on disk. Default: the beginning of the log. */
  readonly initial?: RingSnapshot;
}

/** `events`: what led from the ring before to this one, in order; never empty. */
export type RingListener = (ring: Ring, events: readonly RecordedEvent[]) => void;

const RESTART_MS = 1_000;
/** A view may have seen events that no node has folded yet: these, and what a backup of the last hours lacks. Nodes keep the whole log. */
export const TAIL_EVENTS = 256;

/** Begins to follow at once; `ring` is the initial one (or `noRing`) until the first events are there: see `waitFor`. */
export function followRing(store: RingStore, clusterId: string, options: RingViewOptions): RingView {
  return new RingView(store, clusterId, options);
}

/**
 * Holds: `ring` never goes back, and is never half of an append. While the store is gone or has another history, `ring` stays as it was and `trouble`
 * says why: who has a view serves on what it last knew.
 */
export class RingView {
  readonly clusterId: string;
  readonly #store: RingStore;
  readonly #log: Logger;
  readonly #listeners = new Set<RingListener>();
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;
  readonly #source: string | null;
  #ring: Ring;
  #tail: readonly RecordedEvent[];
  #lastHash: string | null;
  #trouble: Error | null = null;
  #ringSince: number;
  #confirmedAt: number | null = null;

  constructor(store: RingStore, clusterId: string, options: RingViewOptions) {
    this.clusterId = clusterId;
    this.#store = store;
    this.#log = options.log;
    this.#ring = options.initial?.ring ?? noRing(clusterId);
    this.#lastHash = options.initial?.lastHash ?? null;
    this.#tail = options.initial?.tail ?? [];
    this.#ringSince = performance.now() - (options.initial?.ageMs ?? 0);
    this.#source = options.source ?? null;
    this.#running = this.#follow();
  }

  /** The latest ring that is known here. */
  get ring(): Ring {
    return this.#ring;
  }

  /** Hash of the event that `ring` ends with: keep it with the ring where it is written to disk. */
  get lastHash(): string | null {
    return this.#lastHash;
  }

  /** The last events, which lead to `ring`. */
  get tail(): readonly RecordedEvent[] {
    return this.#tail;
  }

  /** For how long it has been the latest that is known here. */
  get ringAgeMs(): number {
    return performance.now() - this.#ringSince;
  }

  /** How long ago the store last said that `ring` is the latest: at most a second or two while it is followed; null: not since this view was made. */
  get confirmedMsAgo(): number | null {
    return this.#confirmedAt === null ? null : performance.now() - this.#confirmedAt;
  }

  /** Why `ring` may be old: a lost connection, RING_STORE_BEHIND, RING_LOG_BROKEN; null when it is well. */
  get trouble(): Error | null {
    return this.#trouble;
  }

  /** Calls `listener` after each change, in order. Returns what ends it. */
  onChange(listener: RingListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * The first ring, from now on, for which `predicate` holds. Throws RING_WAIT_TIMEOUT after `deadlineMs`, RING_VIEW_CLOSED when the view is closed, and
   * the signal's reason.
   */
  async waitFor(
    predicate: (ring: Ring) => boolean,
    options: { readonly deadlineMs: number; readonly signal?: AbortSignal },
  ): Promise<Ring> {
    const { promise, resolve, reject } = Promise.withResolvers<Ring>();
    const look = (): void => {
      try {
        if (predicate(this.#ring)) resolve(this.#ring);
      } catch (error) {
        reject(error);
      }
    };
    const timer = setTimeout(() => reject(this.#timeout(options.deadlineMs)), options.deadlineMs);
    const abort = (): void => reject(options.signal?.reason);
    const closed = (): void => reject(new CodedError('RING_VIEW_CLOSED', `the view of ${this.clusterId} is closed`));
    const unsubscribe = this.onChange(look);
    options.signal?.addEventListener('abort', abort, { once: true });
    this.#stop.signal.addEventListener('abort', closed, { once: true });
    look();
    if (options.signal?.aborted) abort();
    if (this.#stop.signal.aborted) closed();
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      unsubscribe();
      options.signal?.removeEventListener('abort', abort);
      this.#stop.signal.removeEventListener('abort', closed);
    }
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #follow(): Promise<void> {
    const { signal } = this.#stop;
    const watcher = {
      onEvents: (events: RecordedEvent[]) => this.#take(events),
      onTrouble: (trouble: Error | null) => this.#report(trouble),
      onLooked: () => {
        this.#confirmedAt = performance.now();
      },
      ...(this.#source === null ? {} : { copy: copyOf(this.#source, () => this.#tail) }),
    };
    while (!signal.aborted) {
      try {
        await this.#store.watch(this.clusterId, this.#ring.version, watcher, signal, this.#lastHash);
        return; // we were stopped, or the store was closed
      } catch (error) {
        // The fold threw: an event breaks the ring's rules, here or in who wrote it. We serve the last good ring, loudly.
        this.#report(error instanceof Error ? error : new Error(String(error)));
        await sleep(RESTART_MS, null, { signal }).catch(() => {});
      }
    }
  }

  #take(events: RecordedEvent[]): void {
    this.#ring = fold(this.#ring, events);
    this.#ringSince = performance.now();
    this.#lastHash = events.at(-1)!.hash;
    this.#tail = [...this.#tail, ...events].slice(-TAIL_EVENTS);
    this.#report(null);
    for (const listener of [...this.#listeners]) {
      try {
        listener(this.#ring, events);
      } catch (error) {
        this.#log.error({ err: error, clusterId: this.clusterId }, 'a listener to the ring failed');
      }
    }
  }

  #report(trouble: Error | null): void {
    if (trouble?.message === this.#trouble?.message) return;
    this.#trouble = trouble;
    const facts = { clusterId: this.clusterId, version: this.#ring.version };
    if (trouble) {
      this.#log.warn(
        { ...facts, code: codeOf(trouble), error: trouble.message },
        'the ring store is in trouble: going on with the last ring',
      );
    } else this.#log.info(facts, 'following the ring store');
  }

  #timeout(deadlineMs: number): CodedError {
    const trouble = this.#trouble ? ` (${this.#trouble.message})` : '';
    const { version } = this.#ring;
    return new CodedError(
      'RING_WAIT_TIMEOUT',
      `ring of ${this.clusterId}: not within ${deadlineMs} ms, at version ${version}${trouble}`,
      { clusterId: this.clusterId, version },
    );
  }
}
