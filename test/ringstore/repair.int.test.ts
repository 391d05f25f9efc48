/**
 * Goal: a ring store that came back from an older backup gets back what nodes and routers have seen, event by event, and never anything that they disagree on.
 * Method: real ring stores on PostgreSQL, whose log is cut as a backup would have it; nodes and routers are views, each with connections of its own.
 */
import pg from 'pg';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { RecordedEvent } from '../../ring/events.ts';
import { assertChain } from '../../ringstore/chain.ts';
import { createPostgresRingStore, migrateRingStore } from '../../ringstore/postgres.ts';
import { createRingRepairs, type RepairReport } from '../../ringstore/repair.ts';
import { decideAndAppend, type RingStore } from '../../ringstore/ringstore.ts';
import { followRing, type RingSnapshot, type RingView } from '../../ringstore/view.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { until } from '../support/wait.ts';
import { by, facts } from './contract.ts';

const CLUSTER = 'c';
const log = pino({ level: 'silent' });
const approved = { actor: 'ada', reason: 'a test' };

let database: TestDatabase;
let admin: pg.Pool;
let ends: (() => Promise<unknown>)[];

beforeEach(async () => {
  database = await createTestDatabase();
  await migrateRingStore(database.url);
  admin = new pg.Pool({ connectionString: database.url, max: 2 });
  ends = [];
});
afterEach(async () => {
  await Promise.all(ends.map((end) => end()));
  await admin.end();
  await database.drop();
});

/** A process of its own: it remembers nothing of others. */
function newStore(): RingStore {
  const store = createPostgresRingStore({ connectionString: database.url });
  ends.push(() => store.close());
  return store;
}
function follow(source: string, initial?: RingSnapshot): RingView {
  const view = followRing(newStore(), CLUSTER, { log, source, ...(initial ? { initial } : {}) });
  ends.unshift(() => view.close());
  return view;
}
const followed = async (source: string, version: number): Promise<RingView> => {
  const view = follow(source);
  await view.waitFor((ring) => ring.version === version, { deadlineMs: 10_000 });
  return view;
};

/** A ring of two nodes, and limits set until the log has so many events. */
async function logOf(length: number): Promise<RecordedEvent[]> {
  const store = newStore();
  const nodes = [facts('node-0'), facts('node-1')];
  await decideAndAppend(store, CLUSTER, { type: 'make ring', clusterId: CLUSTER, partitionCount: 4, nodes }, by);
  await append(store, length - 1);
  return store.read(CLUSTER);
}
async function append(store: RingStore, count: number, from = 1_000_000): Promise<void> {
  for (let n = 0; n < count; n += 1)
    await decideAndAppend(store, CLUSTER, { type: 'set limits', change: { bytesPerSecond: from + n } }, by);
}

/** As a backup of that moment has it. */
async function restoreTo(version: number): Promise<void> {
  await admin.query('ALTER TABLE ringmaster_ring.events DISABLE TRIGGER append_only');
  await admin.query('DELETE FROM ringmaster_ring.events WHERE version > $1', [version]);
  await admin.query('ALTER TABLE ringmaster_ring.events ENABLE ALWAYS TRIGGER append_only');
}

const repairs = () => createRingRepairs(database.url, { answerWithinMs: 4_000, quietMs: 1_000 });
const hashOf = ({ repair }: RepairReport): string => repair!.hash;
const isBehind = (view: RingView) =>
  until(() => (view.trouble as { code?: string } | null)?.code === 'RING_STORE_BEHIND', {
    deadlineMs: 10_000,
    what: 'the view notices',
  });

test('what is lost is given back from whoever has seen most, event by event; everybody goes on, and nothing of the question is left', async () => {
  const before = await logOf(12);
  const views = [await followed('node-0', 12), await followed('router@a/1', 12)];
  await append(newStore(), 3, 2_000_000);
  const whole = await newStore().read(CLUSTER);
  for (const view of views) await view.waitFor((ring) => ring.version === 15, { deadlineMs: 10_000 });
  await restoreTo(5);
  const late = await followed('node-1', 5);

  const seen = await repairs().look(CLUSTER);
  expect(seen).toMatchObject({
    store: { version: 5, hash: before[4]!.hash },
    missing: [],
    astray: [],
    repair: { keepTo: 5, setAside: [], hash: whole[14]!.hash },
    repaired: false,
  });
  expect(seen.copies.map(({ source, version, agreesTo }) => [source, version, agreesTo])).toEqual([
    ['node-0', 15, 5],
    ['node-1', 5, 5],
    ['router@a/1', 15, 5],
  ]);
  expect(await newStore().read(CLUSTER)).toHaveLength(5);

  expect(await repairs().repair(CLUSTER, { hash: hashOf(seen), ...approved })).toMatchObject({ repaired: true });
  const after = await newStore().read(CLUSTER);
  expect(after).toEqual(whole);
  assertChain(after);
  for (const view of [...views, late]) {
    await until(() => view.trouble === null && view.ring.version === 15, { deadlineMs: 10_000, what: 'it follows' });
  }
  expect(await repairs().look(CLUSTER)).toMatchObject({ repair: null });
  expect((await admin.query('SELECT FROM ringmaster_ring.copies')).rowCount).toBe(0);
  expect(
    (await admin.query('SELECT actor, reason, source, kept_to::int, appended_to::int FROM ringmaster_ring.repairs'))
      .rows,
  ).toEqual([{ ...approved, source: 'node-0', kept_to: 5, appended_to: 15 }]);
});

test('a store that came back empty gets all of it', async () => {
  await logOf(4);
  await followed('node-0', 4);
  await followed('node-1', 4);
  await restoreTo(0);
  const seen = await repairs().look(CLUSTER);
  await repairs().repair(CLUSTER, { hash: hashOf(seen), ...approved });
  expect(await newStore().read(CLUSTER)).toHaveLength(4);
});

test('a member that does not answer may have seen more: nothing is done unless it is left out by name', async () => {
  await logOf(6);
  await followed('node-0', 6);
  await restoreTo(3);
  const seen = await repairs().look(CLUSTER);
  expect(seen.missing).toEqual(['node-1']);
  const request = { hash: hashOf(seen), ...approved };
  await expect(repairs().repair(CLUSTER, request)).rejects.toMatchObject({
    code: 'RING_COPY_MISSING',
    details: { missing: ['node-1'] },
  });
  expect(await newStore().read(CLUSTER)).toHaveLength(3);
  expect(await repairs().repair(CLUSTER, { ...request, without: ['node-1'] })).toMatchObject({ repaired: true });
});

describe('a log that went on after it was restored', () => {
  async function forked(): Promise<{ report: RepairReport; lost: RecordedEvent[]; fork: RecordedEvent[] }> {
    const lost = await logOf(6);
    const views = [await followed('node-0', 6), await followed('node-1', 6)];
    await restoreTo(3);
    for (const view of views) await isBehind(view);
    await append(newStore(), 5, 7_000_000);
    const fork = await newStore().read(CLUSTER);
    return { report: await repairs().look(CLUSTER), lost, fork };
  }

  test('is left as it is, until somebody wants what came since set aside: that is kept beside the log', async () => {
    const { report, lost, fork } = await forked();
    expect(report.repair).toMatchObject({ keepTo: 3, hash: lost[5]!.hash });
    expect(report.repair!.setAside.map(({ version }) => version)).toEqual([4, 5, 6, 7, 8]);
    const request = { hash: hashOf(report), ...approved };
    await expect(repairs().repair(CLUSTER, request)).rejects.toMatchObject({ code: 'RING_STORE_FORKED' });
    expect(await newStore().read(CLUSTER)).toEqual(fork);

    await repairs().repair(CLUSTER, { ...request, setAside: true });
    expect(await newStore().read(CLUSTER)).toEqual(lost);
    const aside = await admin.query<{ hash: string }>('SELECT hash FROM ringmaster_ring.set_aside ORDER BY version');
    expect(aside.rows.map(({ hash }) => hash)).toEqual(fork.slice(3).map(({ hash }) => hash));
    await expect(admin.query('DELETE FROM ringmaster_ring.events')).rejects.toMatchObject({ code: 'RM002' });
  });

  test('and whom a process of that time has followed: it goes on with the repaired one; a router that did is named', async () => {
    const lost = await logOf(6);
    await followed('node-0', 6);
    await followed('node-1', 6);
    await restoreTo(3);
    const worker = newStore();
    await append(worker, 5, 7_000_000);
    await followed('router@b/1', 8);
    const seen = await repairs().look(CLUSTER);
    expect(seen.astray).toEqual(['router@b/1']);
    await repairs().repair(CLUSTER, { hash: hashOf(seen), setAside: true, ...approved });
    expect(await worker.read(CLUSTER)).toEqual(lost);
    await append(worker, 1, 9_000_000);
  });

  test('and that a node has followed: nothing is done, and both are named', async () => {
    await logOf(6);
    await followed('node-0', 6);
    await restoreTo(3);
    await append(newStore(), 5, 7_000_000);
    await followed('node-1', 8);
    await expect(repairs().look(CLUSTER)).rejects.toMatchObject({
      code: 'RING_COPIES_DISAGREE',
      details: { sources: ['node-0', 'node-1'] },
    });
  });
});

test('what was approved is done, or nothing: a copy that has more by now is refused', async () => {
  await logOf(6);
  await followed('node-0', 6);
  await followed('node-1', 6);
  await restoreTo(3);
  await repairs().look(CLUSTER);
  const other = 'f'.repeat(64);
  await expect(repairs().repair(CLUSTER, { hash: other, ...approved })).rejects.toMatchObject({
    code: 'RING_COPIES_CHANGED',
  });
  expect(await newStore().read(CLUSTER)).toHaveLength(3);
});

test('a router that has only the end of a log cannot repair one that was cut before that', async () => {
  await logOf(6);
  const router = await followed('router@a/1', 6);
  await router.close();
  await restoreTo(3);
  follow('router@a/2', { ring: router.ring, lastHash: router.lastHash, tail: router.tail.slice(-1) });
  await expect(repairs().look(CLUSTER)).rejects.toMatchObject({
    code: 'RING_COPIES_TOO_SHORT',
    details: { source: 'router@a/2' },
  });
});

test('a copy that somebody has edited is refused: each event is checked by its hash', async () => {
  await logOf(6);
  const honest = await followed('node-0', 6);
  await honest.close();
  const tail = honest.tail.map((event) => (event.version === 5 ? { ...event, actor: 'somebody else' } : event));
  await restoreTo(3);
  follow('node-0', { ring: honest.ring, lastHash: honest.lastHash, tail });
  await expect(repairs().look(CLUSTER)).rejects.toMatchObject({ code: 'RING_LOG_BROKEN' });
});

test('a process that has seen more decides nothing on a store that was restored', async () => {
  await logOf(3);
  const worker = newStore();
  await append(worker, 3, 7_000_000);
  await restoreTo(3);
  await expect(append(worker, 1, 8_000_000)).rejects.toMatchObject({ code: 'RING_STORE_BEHIND' });
  await expect(worker.read(CLUSTER)).rejects.toMatchObject({ code: 'RING_STORE_BEHIND' }); // also what is decided without an append
  await expect(worker.append(CLUSTER, 3, [{ type: 'ring unfrozen', holder: 1 }], by)).rejects.toMatchObject({
    code: 'RING_STORE_BEHIND',
  });
  expect(await newStore().read(CLUSTER)).toHaveLength(3);
});

test('a store that is not migrated yet is enough for who follows, and for nodes that tell how far they are', async () => {
  await logOf(3);
  await admin.query('DROP TABLE ringmaster_ring.set_aside, ringmaster_ring.node_marks, ringmaster_ring.copies CASCADE');
  const store = newStore();
  expect(await store.read(CLUSTER)).toHaveLength(3);
  const databaseId = '11111111-1111-4111-8111-111111111111';
  expect(await store.marksOf(CLUSTER, databaseId)).toBeNull();
  await store.testify(CLUSTER, databaseId, 'node-0', { instance: 1, server: 'a', logBytes: 1, jobIds: {} });
  await restoreTo(2);
  await expect(store.read(CLUSTER)).rejects.toMatchObject({ code: 'RING_STORE_BEHIND' });
});
