/** What holds of every ring store, whatever is behind it. Run by memory.unit.test.ts and postgres.int.test.ts. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { NodeFacts, RecordedEvent, RingEvent } from '../../ring/events.ts';
import { assertChain, GENESIS_HASH } from '../../ringstore/chain.ts';
import { decideAndAppend, type RingStore, readRing, VersionConflict } from '../../ringstore/ringstore.ts';

export const by = { actor: 'test', reason: 'to see', operation: null };
export const facts = (node: string): NodeFacts => ({ node, databaseId: `db-${node}`, url: `http://${node}` });
export const joined = (n: number): RingEvent => ({ type: 'node joined', ...facts(`node-${n}`) });

let clusters = 0;
/** A cluster that no other test has. */
export function newCluster(): string {
  clusters += 1;
  return `c-${process.pid}-${clusters}`;
}

/** Collects what a watch hands over; `upTo(version)` waits for it. */
export function collect(store: RingStore, clusterId: string, after = 0, lastHash: string | null = null) {
  const stop = new AbortController();
  const events: RecordedEvent[] = [];
  const troubles: (Error | null)[] = [];
  let wake = (): void => {};
  const watcher = {
    onEvents: (fresh: RecordedEvent[]) => {
      events.push(...fresh);
      wake();
    },
    onTrouble: (trouble: Error | null) => {
      troubles.push(trouble);
      wake();
    },
  };
  const ended = store.watch(clusterId, after, watcher, stop.signal, lastHash);
  const waitFor = async (what: string, holds: () => boolean, deadlineMs = 10_000): Promise<void> => {
    const timer = setTimeout(() => wake(), deadlineMs);
    const started = performance.now();
    while (!holds()) {
      if (performance.now() - started >= deadlineMs) throw new Error(`not within ${deadlineMs} ms: ${what}`);
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
    clearTimeout(timer);
  };
  return {
    events,
    troubles,
    versions: () => events.map((event) => event.version),
    waitFor,
    upTo: (version: number) => waitFor(`version ${version}`, () => events.at(-1)?.version === version),
    stop: async () => {
      stop.abort();
      await ended;
    },
  };
}

export const range = (from: number, to: number): number[] => Array.from({ length: to - from + 1 }, (_, i) => from + i);

export function testRingStore(name: string, factory: () => Promise<RingStore> | RingStore): void {
  describe(`a ring store (${name})`, () => {
    let store: RingStore;
    beforeAll(async () => {
      store = await factory();
    });
    afterAll(async () => {
      await store.close();
    });

    test('an unknown cluster has an empty log', async () => {
      expect(await store.read('nobody')).toEqual([]);
      expect((await readRing(store, 'nobody')).version).toBe(0);
    });

    test('what was appended is read back in order, with who, why and when', async () => {
      const cluster = newCluster();
      const author = { actor: 'anna', reason: 'größer, "bitte"\n', operation: 'op-1' };
      const appended = await store.append(cluster, 0, [joined(0), joined(1)], author);
      const read = await store.read(cluster);
      expect(read).toEqual(appended);
      expect(read.map((event) => event.version)).toEqual([1, 2]);
      expect(read[0]).toMatchObject({ clusterId: cluster, event: joined(0), ...author });
      expect(new Date(read[0]!.at).toISOString()).toBe(read[0]!.at);
      expect(await store.clusters()).toContain(cluster);
    });

    test('a part of the log can be read: behind a version, and so many', async () => {
      const cluster = newCluster();
      await store.append(cluster, 0, range(0, 9).map(joined), by);
      expect((await store.read(cluster, 3, 4)).map((event) => event.version)).toEqual([4, 5, 6, 7]);
      expect((await store.read(cluster, 8)).map((event) => event.version)).toEqual([9, 10]);
      expect(await store.read(cluster, 10)).toEqual([]);
    });

    test('each event carries the hash of the one before, the first one zeros', async () => {
      const cluster = newCluster();
      await store.append(cluster, 0, [joined(0)], by);
      await store.append(cluster, 1, [joined(1), joined(2)], by);
      const log = await store.read(cluster);
      expect(log[0]!.previousHash).toBe(GENESIS_HASH);
      expect(log[1]!.previousHash).toBe(log[0]!.hash);
      expect(() => assertChain(log)).not.toThrow();
      const forged = log.map((event) => (event.version === 2 ? { ...event, reason: 'another' } : event));
      expect(() => assertChain(forged)).toThrow(/event 2/);
    });

    test('an append to an older version is refused, and has written nothing', async () => {
      const cluster = newCluster();
      await store.append(cluster, 0, [joined(0), joined(1)], by);
      await expect(store.append(cluster, 1, [joined(2), joined(3)], by)).rejects.toThrow(VersionConflict);
      await expect(store.append(cluster, 0, [joined(2)], by)).rejects.toThrow(VersionConflict);
      expect(await store.read(cluster)).toHaveLength(2);
    });

    test('an append to a version that is not there yet is refused, and has written nothing', async () => {
      const cluster = newCluster();
      await expect(store.append(cluster, 3, [joined(0)], by)).rejects.toThrow(VersionConflict);
      await store.append(cluster, 0, [joined(0)], by);
      await expect(store.append(cluster, 2, [joined(1)], by)).rejects.toThrow(VersionConflict);
      expect(await store.read(cluster)).toHaveLength(1);
    });

    test('of many who append at the same version exactly one wins', async () => {
      const cluster = newCluster();
      const tries = range(0, 7).map((n) => store.append(cluster, 0, [joined(n), joined(n + 100)], by));
      const results = await Promise.allSettled(tries);
      const won = results.filter((result) => result.status === 'fulfilled');
      expect(won).toHaveLength(1);
      for (const result of results)
        if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(VersionConflict);
      expect(await store.read(cluster)).toEqual(won[0]!.value);
    });

    test('many who decide at once all get through, one after the other', async () => {
      const cluster = newCluster();
      const nodes = [facts('node-0')];
      await decideAndAppend(store, cluster, { type: 'make ring', clusterId: cluster, partitionCount: 4, nodes }, by);
      const identity = { operationId: 'op', workflowId: 'w', runId: 'r' };
      await decideAndAppend(store, cluster, { type: 'freeze', by: identity }, by);
      const joins = range(1, 8).map((n) =>
        decideAndAppend(store, cluster, { type: 'join node', holder: 1, facts: facts(`node-${n}`) }, by),
      );
      await Promise.all(joins);
      const ring = await readRing(store, cluster);
      expect(ring.nodes).toHaveLength(9);
      expect(ring.version).toBe(10);
      assertChain(await store.read(cluster));
    });

    test('who decides from a ring that is no longer the latest appends behind the latest all the same', async () => {
      const cluster = newCluster();
      const nodes = [facts('node-0')];
      const made = { type: 'make ring', clusterId: cluster, partitionCount: 4, nodes } as const;
      const { ring: old } = await decideAndAppend(store, cluster, made, by);
      const freeze = { type: 'freeze', by: { operationId: 'op', workflowId: 'w', runId: 'r' } } as const;
      const { ring: frozen } = await decideAndAppend(store, cluster, freeze, by, { from: old });
      expect(frozen.version).toBe(2);
      const join = (node: string) => ({ type: 'join node', holder: 1, facts: facts(node) }) as const;
      // By the old ring it would be refused, as that one is not frozen.
      await decideAndAppend(store, cluster, join('node-1'), by, { from: old });
      const { ring } = await decideAndAppend(store, cluster, join('node-2'), by, { from: frozen });
      expect(ring.nodes).toHaveLength(3);
      assertChain(await store.read(cluster));
    });

    test('a watcher gets what was there, then what comes, in order', async () => {
      const cluster = newCluster();
      await store.append(cluster, 0, range(0, 4).map(joined), by);
      const watch = collect(store, cluster, 2);
      await watch.upTo(5);
      for (const n of range(5, 14)) await store.append(cluster, n, [joined(n)], by);
      await watch.upTo(15);
      expect(watch.versions()).toEqual(range(3, 15));
      await watch.stop();
    });

    test('a watcher gets a long log whole', async () => {
      const cluster = newCluster();
      await store.append(cluster, 0, range(0, 1_249).map(joined), by);
      const watch = collect(store, cluster);
      await watch.upTo(1_250);
      expect(watch.versions()).toEqual(range(1, 1_250));
      await watch.stop();
    });

    test('a watcher of a cluster that does not exist yet sees its first event', async () => {
      const cluster = newCluster();
      const watch = collect(store, cluster);
      await store.append(cluster, 0, [joined(0)], by);
      await watch.upTo(1);
      await watch.stop();
    });

    test('onEvents is called one call at a time', async () => {
      const cluster = newCluster();
      const stop = new AbortController();
      let running = 0;
      let most = 0;
      const done = Promise.withResolvers<void>();
      const onEvents = async (events: RecordedEvent[]): Promise<void> => {
        running += 1;
        most = Math.max(most, running);
        await new Promise((resolve) => setTimeout(resolve, 3));
        running -= 1;
        if (events.at(-1)!.version === 20) done.resolve();
      };
      const watching = store.watch(cluster, 0, { onEvents }, stop.signal);
      for (const n of range(0, 19)) await store.append(cluster, n, [joined(n)], by);
      await done.promise;
      expect(most).toBe(1);
      stop.abort();
      await watching;
    });

    test('an error of onEvents ends the watch with that error', async () => {
      const cluster = newCluster();
      await store.append(cluster, 0, [joined(0)], by);
      const onEvents = (): void => {
        throw new Error('I cannot');
      };
      await expect(store.watch(cluster, 0, { onEvents }, new AbortController().signal)).rejects.toThrow('I cannot');
    });

    test('a watch ends soon after its signal, also when the signal came first', async () => {
      const watch = collect(store, newCluster());
      const started = performance.now();
      await watch.stop();
      await store.watch(newCluster(), 0, { onEvents: () => {} }, AbortSignal.abort());
      expect(performance.now() - started).toBeLessThan(1_000);
    });

    test('a watcher that knows another event at its version does not follow: RING_STORE_BEHIND', async () => {
      const cluster = newCluster();
      const [first] = await store.append(cluster, 0, [joined(0), joined(1)], by);
      const other = collect(store, cluster, 1, 'f'.repeat(64));
      const same = collect(store, cluster, 1, first!.hash);
      await same.upTo(2);
      await other.waitFor('trouble', () => other.troubles.length > 0);
      expect(other.troubles[0]).toMatchObject({ code: 'RING_STORE_BEHIND' });
      expect(other.events).toEqual([]);
      await Promise.all([other.stop(), same.stop()]);
    });

    test('a watcher that has seen more than the store holds does not follow, until the store has it again', async () => {
      const cluster = newCluster();
      await store.append(cluster, 0, [joined(0)], by);
      const watch = collect(store, cluster, 2);
      await watch.waitFor('trouble', () => watch.troubles.length > 0);
      expect(watch.troubles[0]).toMatchObject({ code: 'RING_STORE_BEHIND' });
      await store.append(cluster, 1, [joined(1), joined(2)], by);
      await watch.upTo(3);
      await watch.waitFor('well again', () => watch.troubles.at(-1) === null);
      expect(watch.versions()).toEqual([3]);
      await watch.stop();
    });

    test('a router is listed until it ends its lease, or lets it run out', async () => {
      const cluster = newCluster();
      const facts = {
        url: 'http://r',
        worker: null,
        build: null,
        version: 3,
        epoch: 1,
        ringAgeMs: 5,
        confirmedMsAgo: 1,
      };
      const names = async (): Promise<string[]> => (await store.leases(cluster)).map(({ router }) => router);
      for (const router of ['b', 'a']) await store.renewLease(cluster, { ...facts, router, upMs: 1 }, 60_000);
      await store.renewLease(newCluster(), { ...facts, router: 'elsewhere', upMs: 1 }, 60_000);
      await store.renewLease(cluster, { ...facts, router: 'a', version: 4, upMs: 2 }, 60_000);
      const [first] = await store.leases(cluster);
      expect(first).toMatchObject({ ...facts, router: 'a', version: 4, upMs: 2 });
      expect(first!.renewedMsAgo).toBeGreaterThanOrEqual(0);
      expect(await names()).toEqual(['a', 'b']);
      await store.endLease(cluster, 'a');
      await store.renewLease(cluster, { ...facts, router: 'c', upMs: 1 }, 50);
      expect(await names()).toEqual(['b', 'c']);
      const deadline = performance.now() + 5_000;
      while ((await names()).includes('c') && performance.now() < deadline)
        await new Promise((go) => setTimeout(go, 10));
      expect(await names()).toEqual(['b']);
    });
  });
}
