/**
 * Goal: a node whose ring store came back from an older backup serves on, obeys nobody, says so, and goes on once the store has what it has seen; also when it
 * starts then.
 * Method: the steward on a real database; the ring store in memory forgets.
 */
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { RecordedEvent } from '../../ring/events.ts';
import type { MemoryRingStore } from '../../ringstore/memory.ts';
import { CLUSTER, createFixture, type Fixture, type TestNode } from '../jobsdb/move-fixture.ts';
import { until } from '../support/wait.ts';

let fixture: Fixture;
let store: MemoryRingStore;
beforeEach(async () => {
  fixture = await createFixture();
  store = fixture.store as MemoryRingStore;
});
afterEach(() => fixture.close());

const kept = async ({ pool }: TestNode): Promise<RecordedEvent[]> =>
  (await pool.query<{ event: RecordedEvent }>('SELECT event FROM ringmaster.ring_log ORDER BY version')).rows.map(
    ({ event }) => event,
  );
const keeps = (node: TestNode, version: number) =>
  until(async () => (await kept(node)).length === version, { deadlineMs: 10_000, what: `version ${version} is kept` });
const saysSo = (node: TestNode) =>
  until(async () => (await node.steward.status()).ringTrouble, { deadlineMs: 10_000, what: 'it says so' });

test('it keeps the whole log, in its own database', async () => {
  await fixture.begin('op/move-1.1', fixture.a, fixture.b, [0]);
  const log = await store.read(CLUSTER);
  await keeps(fixture.a, log.length);
  expect(await kept(fixture.a)).toEqual(log);
  const again = await fixture.restart(fixture.b);
  await fixture.claim('op/move-1.1', 'another');
  await keeps(again, log.length + 1);
  expect(await kept(again)).toEqual(await store.read(CLUSTER));
});

test('a store with less is not followed: it serves on and refuses commands, even with a token that fits, until the store has it again', async () => {
  const { a, b } = fixture;
  const move = await fixture.begin('op/move-1.1', a, b, [0]);
  const whole = await store.read(CLUSTER);
  await keeps(a, whole.length);
  store.forgetAfter(CLUSTER, whole.length - 1);
  expect(await saysSo(a)).toContain('RING_STORE_BEHIND');
  // Another history, in which the same number is another attempt's.
  const other = await fixture.claim('op/move-1.1', 'of another history');
  expect(other.token).toBe(move.token);
  for (const command of [move, other])
    await expect(a.steward.quiesce({ ...command, limitMs: 1_000 })).rejects.toMatchObject({
      code: 'RING_STORE_BEHIND',
    });
  expect(await a.steward.status()).toMatchObject({
    serving: true,
    foldedVersion: whole.length,
    partitions: { open: 2 },
  });

  store.forgetAfter(CLUSTER, 0);
  store.restore(CLUSTER, whole);
  await until(async () => !(await a.steward.status()).ringTrouble, { deadlineMs: 10_000, what: 'it follows again' });
  await a.steward.quiesce({ ...move, limitMs: 1_000 });
});

test('one that starts then goes on with its own copy of the log', async () => {
  const { a, b } = fixture;
  const move = await fixture.begin('op/move-1.1', a, b, [0]);
  await b.steward.prepare(move);
  const proof = { jobsPending: 0, jobsCopied: 0, prefixes: [] };
  const ring = await fixture.append({ type: 'hand over', move: move.move, token: move.token, proof });
  await until(async () => (await b.steward.status()).partitions.open === 3, { deadlineMs: 10_000, what: 'b has it' });
  await keeps(a, ring.version);
  await keeps(b, ring.version);
  store.forgetAfter(CLUSTER, 2);

  const [a2, b2] = await Promise.all([fixture.restart(a), fixture.restart(b)]);
  for (const node of [a2, b2]) {
    await until(async () => (await node.steward.status()).serving, { deadlineMs: 10_000, what: 'it serves' });
    expect(await saysSo(node)).toContain('RING_STORE_BEHIND');
    expect(await node.steward.status()).toMatchObject({ foldedVersion: ring.version, epoch: ring.epoch });
  }
  // With the store's part of the log the partition would be open at the source, and closed where it is.
  expect(await a2.steward.status()).toMatchObject({ partitions: { open: 1, closed: 3 } });
  expect(await b2.steward.status()).toMatchObject({ partitions: { open: 3, closed: 1 } });
});
