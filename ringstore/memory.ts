/** A ring store in memory: for tests of others. Held to the same contract as the one on PostgreSQL (test/ringstore/contract.ts). */
import type { RecordedEvent, RingEvent } from '../ring/events.ts';
import { chainEvents, GENESIS_HASH } from './chain.ts';
import { LogCursor } from './cursor.ts';
import {
  type Authorship,
  type DatabaseMarks,
  type RingStore,
  type RingWatcher,
  type RouterFacts,
  type RouterLease,
  VersionConflict,
} from './ringstore.ts';
import { type LogConnection, watchLog } from './watch.ts';

export interface MemoryRingStore extends RingStore {
  /** As if the store came back from a backup: forgets what is behind `version`. */
  forgetAfter(clusterId: string, version: number): void;
  /** As if it was repaired: these are the whole log. */
  restore(clusterId: string, log: readonly RecordedEvent[]): void;
  /** While not null, every call fails with it, and watches lose their connection. */
  fail(error: Error | null): void;
}

export function createMemoryRingStore(): MemoryRingStore {
  return new Memory();
}

class Memory implements MemoryRingStore {
  readonly #logs = new Map<string, RecordedEvent[]>();
  readonly #marks = new Map<string, DatabaseMarks>();
  readonly #leases = new Map<string, { clusterId: string; facts: RouterFacts; renewedAt: number; leaseMs: number }>();
  readonly #waiting = new Set<() => void>();
  readonly #closing = new AbortController();
  #failure: Error | null = null;

  async clusters(): Promise<string[]> {
    this.#throwIfFailing();
    return [...this.#logs.keys()].sort();
  }

  async read(clusterId: string, afterVersion = 0, limit?: number): Promise<RecordedEvent[]> {
    this.#throwIfFailing();
    const log = this.#logs.get(clusterId) ?? [];
    return structuredClone(log.slice(afterVersion, limit === undefined ? undefined : afterVersion + limit));
  }

  async append(
    clusterId: string,
    expectedVersion: number,
    events: readonly RingEvent[],
    by: Authorship,
  ): Promise<RecordedEvent[]> {
    this.#throwIfFailing();
    if (events.length === 0) return [];
    const log = this.#logs.get(clusterId) ?? [];
    if (log.length !== expectedVersion) throw new VersionConflict(clusterId, expectedVersion);
    const previousHash = log.at(-1)?.hash ?? GENESIS_HASH;
    const place = { clusterId, afterVersion: expectedVersion, previousHash, at: new Date().toISOString() };
    // As JSON, as a database would keep it: what is not JSON must not work here only.
    const recorded = chainEvents(place, JSON.parse(JSON.stringify(events)) as RingEvent[], by);
    this.#logs.set(clusterId, [...log, ...recorded]);
    this.#wakeAll();
    return structuredClone(recorded);
  }

  async watch(
    clusterId: string,
    afterVersion: number,
    watcher: RingWatcher,
    signal: AbortSignal,
    lastHash?: string | null,
  ): Promise<void> {
    const either = AbortSignal.any([signal, this.#closing.signal]);
    const cursor = new LogCursor(clusterId, afterVersion, lastHash ?? null);
    await watchLog(async (stop) => this.#connect(clusterId, stop), cursor, watcher, either);
  }

  async marksOf(clusterId: string, databaseId: string): Promise<DatabaseMarks | null> {
    this.#throwIfFailing();
    return this.#marks.get(`${clusterId}/${databaseId}`) ?? null;
  }

  async testify(clusterId: string, databaseId: string, _node: string, marks: DatabaseMarks): Promise<void> {
    this.#throwIfFailing();
    const key = `${clusterId}/${databaseId}`;
    if (marks.instance >= (this.#marks.get(key)?.instance ?? 0)) this.#marks.set(key, structuredClone(marks));
  }

  async renewLease(clusterId: string, facts: RouterFacts, leaseMs: number): Promise<void> {
    this.#throwIfFailing();
    const renewedAt = performance.now();
    for (const [key, lease] of this.#leases) if (renewedAt - lease.renewedAt > lease.leaseMs) this.#leases.delete(key);
    this.#leases.set(`${clusterId}/${facts.router}`, { clusterId, facts: structuredClone(facts), renewedAt, leaseMs });
  }

  async endLease(clusterId: string, router: string): Promise<void> {
    this.#throwIfFailing();
    this.#leases.delete(`${clusterId}/${router}`);
  }

  async leases(clusterId: string): Promise<RouterLease[]> {
    this.#throwIfFailing();
    return [...this.#leases.values()]
      .map((lease) => ({ ...lease, ageMs: performance.now() - lease.renewedAt }))
      .filter((lease) => lease.clusterId === clusterId && lease.ageMs <= lease.leaseMs)
      .map(({ facts, ageMs }) => ({ ...structuredClone(facts), renewedMsAgo: Math.round(ageMs) }))
      .sort((a, b) => (a.router < b.router ? -1 : 1));
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#wakeAll();
  }

  forgetAfter(clusterId: string, version: number): void {
    this.#logs.set(clusterId, (this.#logs.get(clusterId) ?? []).slice(0, version));
    this.#wakeAll();
  }

  restore(clusterId: string, log: readonly RecordedEvent[]): void {
    this.#logs.set(clusterId, structuredClone([...log]));
    this.#wakeAll();
  }

  fail(error: Error | null): void {
    this.#failure = error;
    this.#wakeAll();
  }

  #connect(clusterId: string, stop: AbortSignal): LogConnection {
    this.#throwIfFailing();
    let hinted = false;
    let wake = (): void => {};
    const hint = (): void => {
      hinted = true;
      wake();
    };
    this.#waiting.add(hint);
    stop.addEventListener('abort', hint, { once: true });
    return {
      read: async (afterVersion, limit) => {
        hinted = false;
        return await this.read(clusterId, afterVersion, limit);
      },
      waitForHint: async (ms) => {
        if (hinted || stop.aborted) return;
        const { promise, resolve } = Promise.withResolvers<void>();
        wake = resolve;
        const timer = setTimeout(resolve, ms);
        await promise;
        clearTimeout(timer);
      },
      close: async () => {
        this.#waiting.delete(hint);
        stop.removeEventListener('abort', hint);
      },
    };
  }

  #wakeAll(): void {
    for (const hint of this.#waiting) hint();
  }

  #throwIfFailing(): void {
    if (this.#failure) throw this.#failure;
  }
}
