/** The rings of all clusters, for the API: fresh where the ring store answers, the last known where it does not. */
import { CodedError } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import { type RingCommand, RingRefusal } from '../ring/decide.ts';
import type { RecordedEvent } from '../ring/events.ts';
import type { LimitsChange } from '../ring/limits.ts';
import { fold, noRing, type Ring } from '../ring/ring.ts';
import { LogCursor } from '../ringstore/cursor.ts';
import { type Authorship, decideAndAppend, type RingStore, type RouterLease } from '../ringstore/ringstore.ts';
import { followRing, type RingView } from '../ringstore/view.ts';

export interface LatestRing {
  readonly ring: Ring;
  /** Why it may be old. */
  readonly trouble: CodedError | null;
}

const CLUSTER_ID = /^[a-z0-9-]{1,40}$/;

export class Rings {
  readonly #store: RingStore;
  readonly #log: Logger;
  readonly #views = new Map<string, RingView>();
  readonly #stop = new AbortController();

  constructor(store: RingStore, log: Logger) {
    this.#store = store;
    this.#log = log;
  }

  /** Throws RING_STORE_UNREACHABLE where the store is gone and nothing is known yet. */
  async clusters(): Promise<string[]> {
    try {
      return await this.#store.clusters();
    } catch (error) {
      if (this.#views.size === 0) throw unreachable(error);
      return [...this.#views.keys()].sort();
    }
  }

  async storeReachable(): Promise<boolean> {
    return await this.#store.clusters().then(
      () => true,
      () => false,
    );
  }

  /**
   * The ring of a cluster. Asks the store for what came since the last look: who has just appended sees it. Throws CLUSTER_UNKNOWN, or RING_STORE_UNREACHABLE
   * where the store is gone and nothing is known of the cluster.
   */
  async latest(clusterId: string): Promise<LatestRing> {
    if (!CLUSTER_ID.test(clusterId)) throw unknown(clusterId);
    const known = this.#views.get(clusterId);
    const ring = known?.ring ?? noRing(clusterId);
    // As a watcher reads: a store that came back with another history is not mixed with what we know.
    const cursor = new LogCursor(clusterId, ring.version, known?.lastHash ?? null);
    try {
      const events = cursor.accept(await this.#read(clusterId, cursor.readAfter));
      const latest = foldOrBroken(ring, events);
      if (!known && events.length > 0) this.#follow(clusterId, latest, events.at(-1)!.hash);
      if (latest.version === 0) throw unknown(clusterId);
      return { ring: latest, trouble: null };
    } catch (error) {
      if (ring.version === 0 || !(error instanceof CodedError)) throw error;
      return { ring, trouble: error };
    }
  }

  /** The ring as it was. Throws CLUSTER_UNKNOWN, RING_VERSION_UNKNOWN, RING_STORE_UNREACHABLE. */
  async at(clusterId: string, version: number): Promise<{ ring: Ring; at: string | null }> {
    const { ring: latest } = await this.latest(clusterId);
    if (version > latest.version) {
      const message = `the log of ${clusterId} ends at version ${latest.version}`;
      throw new CodedError('RING_VERSION_UNKNOWN', message, { clusterId, version: latest.version });
    }
    const events = await this.#read(clusterId, 0, version);
    return { ring: foldOrBroken(noRing(clusterId), events), at: events.at(-1)?.at ?? null };
  }

  /** Routers whose lease is not over; null where the store cannot be asked. */
  async routers(clusterId: string): Promise<RouterLease[] | null> {
    return await this.#store.leases(clusterId).catch(() => null);
  }

  /** The whole log. Throws CLUSTER_UNKNOWN, RING_STORE_UNREACHABLE. */
  async wholeLog(clusterId: string): Promise<RecordedEvent[]> {
    await this.latest(clusterId);
    return await this.#read(clusterId, 0);
  }

  /** A part of the log. Where nothing is there yet it waits up to `waitMs` for more. */
  async log(clusterId: string, after: number, limit: number, waitMs: number): Promise<RecordedEvent[]> {
    await this.latest(clusterId);
    const events = await this.#read(clusterId, after, limit);
    const view = this.#views.get(clusterId);
    if (events.length > 0 || waitMs === 0 || !view) return events;
    const options = { deadlineMs: waitMs, signal: this.#stop.signal };
    const more = await view.waitFor((ring) => ring.version > after, options).catch(() => null);
    return more ? await this.#read(clusterId, after, limit) : [];
  }

  /** The events at these versions. Throws RING_STORE_UNREACHABLE. */
  async events(clusterId: string, versions: Iterable<number>): Promise<Map<number, RecordedEvent>> {
    const found = new Map<number, RecordedEvent>();
    for (const version of new Set(versions)) {
      const [event] = await this.#read(clusterId, version - 1, 1);
      if (event) found.set(version, event);
    }
    return found;
  }

  /** Throws LIMITS_INVALID, CLUSTER_UNKNOWN, RING_TOO_NEW, RING_STORE_UNREACHABLE. The ring after it. */
  async setLimits(clusterId: string, change: LimitsChange, by: Authorship): Promise<Ring> {
    return await this.append(clusterId, { type: 'set limits', change }, by);
  }

  /** What anybody may do to a ring, also while an operation holds it. Throws what the ring refuses by its code, CLUSTER_UNKNOWN, RING_STORE_UNREACHABLE. */
  async append(clusterId: string, command: RingCommand, by: Authorship): Promise<Ring> {
    const { trouble } = await this.latest(clusterId);
    if (trouble) throw trouble;
    try {
      return (await decideAndAppend(this.#store, clusterId, command, by)).ring;
    } catch (error) {
      if (error instanceof RingRefusal) throw new CodedError(error.code, error.message, { clusterId });
      throw unreachable(error);
    }
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await Promise.all([...this.#views.values()].map((view) => view.close()));
  }

  #follow(clusterId: string, ring: Ring, lastHash: string): void {
    if (this.#stop.signal.aborted || this.#views.has(clusterId)) return;
    this.#views.set(clusterId, followRing(this.#store, clusterId, { log: this.#log, initial: { ring, lastHash } }));
  }

  async #read(clusterId: string, after: number, limit?: number): Promise<RecordedEvent[]> {
    try {
      return await this.#store.read(clusterId, after, limit);
    } catch (error) {
      throw unreachable(error);
    }
  }
}

function unknown(clusterId: string): CodedError {
  const shown = clusterId.slice(0, 40);
  return new CodedError('CLUSTER_UNKNOWN', `there is no cluster ${JSON.stringify(shown)}`, { clusterId: shown });
}

function foldOrBroken(ring: Ring, events: RecordedEvent[]): Ring {
  try {
    return fold(ring, events);
  } catch (error) {
    const what = error instanceof Error ? error.message : String(error);
    throw new CodedError('RING_LOG_BROKEN', `log of ${ring.clusterId}: ${what}`, {}, { cause: error });
  }
}

function unreachable(error: unknown): CodedError {
  if (error instanceof CodedError) return error;
  return new CodedError('RING_STORE_UNREACHABLE', 'the ring store cannot be reached', {}, { cause: error });
}
