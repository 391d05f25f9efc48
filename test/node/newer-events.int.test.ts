/**
 * Goal: a node that meets events of a newer version serves on as it is and refuses every command, also when it starts then.
 * Method: the steward on a real database; an event of a type that nobody knows is appended in the middle of a move.
 */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CLUSTER, createFixture, type Fixture, type TestNode } from '../jobsdb/move-fixture.ts';
import { until } from '../support/wait.ts';

let fixture: Fixture;
beforeEach(async () => {
  fixture = await createFixture();
});
afterEach(() => fixture.close());

async function appendNewer(): Promise<number> {
  const { version } = await fixture.ring();
  const by = { actor: 'newer', reason: 'test', operation: null };
  await fixture.store.append(CLUSTER, version, [{ type: 'moon landed' }] as never, by);
  return version + 1;
}
const seesNewer = ({ steward }: TestNode) =>
  until(async () => (await steward.status()).notUnderstood, { deadlineMs: 10_000, what: 'the newer event is seen' });

test('it goes on with what it owns, obeys no command, and says which types it does not know', async () => {
  const { a, b } = fixture;
  const move = await fixture.begin('op/move-1.1', a, b, [0]);
  await appendNewer();
  expect(await seesNewer(a)).toEqual(['moon landed']);
  await seesNewer(b);
  for (const refused of [
    a.steward.quiesce({ ...move, limitMs: 1_000 }),
    a.steward.fence({ ...move, holdDeadlineMs: 1_000 }),
    b.steward.prepare(move),
  ])
    await expect(refused).rejects.toMatchObject({ code: 'RING_TOO_NEW' });
  expect(await a.steward.status()).toMatchObject({ serving: true, blocked: null, partitions: { open: 2 } });
});

test('one that starts then serves what its rows say, and opens nothing that it has not been given before', async () => {
  const { a, b } = fixture;
  const move = await fixture.begin('op/move-1.1', a, b, [0]);
  const token = move.token;
  await appendNewer();
  await seesNewer(b);
  const proof = { jobsPending: 0, jobsCopied: 0, prefixes: [] };
  const { version } = await fixture.ring();
  const handedOver = { type: 'partitions handed over', move: move.move, token, proof } as const;
  await fixture.store.append(CLUSTER, version, [handedOver], { actor: 'newer', reason: 'test', operation: null });
  const [a2, b2] = await Promise.all([fixture.restart(a), fixture.restart(b)]);
  await until(async () => (await a2.steward.status()).serving && (await b2.steward.status()).serving, {
    deadlineMs: 15_000,
    what: 'both serve',
  });
  await seesNewer(b2);
  expect(await b2.steward.status()).toMatchObject({ partitions: { open: 2, closed: 2 } });
  expect(b2.work.calls).toEqual(['opened 2,3']);
});
