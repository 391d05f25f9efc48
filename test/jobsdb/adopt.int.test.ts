/**
 * Goal: jobs that were written before the ring existed get their partition where that is safe, before newer ones of their users are at work, and are never lost.
 * Method: two real databases with real stewards, a ring in memory; jobs without a partition are written, and a node starts.
 */
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { withCopy } from '../../jobsdb/copy.ts';
import { partitionOf } from '../../ring/partition.ts';
import type { MemoryRingStore } from '../../ringstore/memory.ts';
import { until } from '../support/wait.ts';
import { addJobs, createFixture, type Fixture, pendingAt, type TestNode, WORKSPACE } from './move-fixture.ts';

const PARTITIONS = 4; // 0 and 1 are a's
let f: Fixture;
beforeEach(async () => {
  f = await createFixture(PARTITIONS, { adoptRows: 10 });
});
afterEach(() => f.close());

const SOON = { deadlineMs: 20_000 };
const users = Array.from({ length: 400 }, (_, n) => `user-${n}`);
const usersOf = (partition: number): string[] => users.filter((user) => partitionOf(user, PARTITIONS) === partition);

/** Writes a job without a partition. */
const addOld = async (node: TestNode, user: string, n: number, more: { workspace?: string; done?: boolean } = {}) => {
  const { rows } = await node.pool.query<{ job_id: string }>(
    `INSERT INTO public.gw_jobs_1 (workspace_id, uuid, user_id, parameters, custom_val, event_payload)
     VALUES ($1, gen_random_uuid(), $2, '{}', 'GW', jsonb_build_object('n', $3::int)) RETURNING job_id`,
    [more.workspace ?? '', user, n],
  );
  const id = rows[0]!.job_id;
  if (more.done)
    await node.pool.query(
      "INSERT INTO public.gw_job_status_1 (job_id, job_state, attempt) VALUES ($1, 'succeeded', 1)",
      [id],
    );
  return id;
};
const partitionIds = async (node: TestNode): Promise<Record<string, number>> => {
  const { rows } = await node.pool.query<{ id: string; count: number }>(
    'SELECT partition_id AS id, count(*)::int AS count FROM public.gw_jobs_1 GROUP BY 1 ORDER BY 1',
  );
  return Object.fromEntries(rows.map(({ id, count }) => [id, count]));
};
const unadopted = async (node: TestNode): Promise<number> => (await partitionIds(node))[''] ?? 0;
const serves = (node: TestNode) =>
  until(async () => (await node.steward.status()).serving, { ...SOON, what: `${node.name} serves` });

describe('a node that starts', () => {
  test('adopts the pending jobs of its partitions, in place, in their workspace or the configured one; others stay as they are, and are counted', async () => {
    const mine = usersOf(1).slice(0, 25);
    for (const [n, user] of mine.entries()) await addOld(f.a, user, n);
    await addOld(f.a, mine[0]!, 100, { workspace: 'another' });
    await addOld(f.a, mine[0]!, 101, { done: true });
    for (const user of usersOf(2).slice(0, 3)) await addOld(f.a, user, 0);
    await addJobs(f.a.pool, [{ partition: 1, user: mine[0]!, payload: { n: 200 } }]);
    const again = await f.restart(f.a);
    await serves(again);
    expect(await partitionIds(again)).toEqual({ '': 4, 'another-1': 1, [`${WORKSPACE}-1`]: 26 });
    expect((await pendingAt(again, 1)).map(({ n }) => n)).toEqual([...mine.keys(), 200]); // before what is newer
    expect((await again.steward.status()).unadopted).toBe(3);
    expect(await again.steward.countPending()).toBe(25 + 1 + 3 + 1);
    // They are nobody's stale rows: nothing is put away of them, whatever moves.
    const { version } = await f.append({ type: 'unfreeze', holder: 1 });
    await until(async () => (await again.steward.status()).settledVersion >= version, { ...SOON, what: 'it settles' });
    expect(await again.steward.countPending()).toBe(25 + 1 + 3 + 1);
  });

  test('opens nothing before all are adopted, and goes on where another process was ended in the middle', async () => {
    const mine = [...usersOf(0), ...usersOf(1)].slice(0, 60);
    const ids: string[] = [];
    for (const [n, user] of mine.entries()) ids.push(await addOld(f.a, user, n));
    const lock = new pg.Client({ connectionString: f.a.database.url });
    await lock.connect();
    await lock.query('BEGIN');
    await lock.query('SELECT FROM public.gw_jobs_1 WHERE job_id = $1 FOR UPDATE', [ids[25]]);
    const first = await f.restart(f.a);
    await until(async () => (await unadopted(f.a)) === 40, { ...SOON, what: 'two batches' });
    expect(first.work.calls).toEqual([]);
    expect((await first.steward.status()).serving).toBe(false);
    const ending = f.restart(first);
    await lock.query('COMMIT');
    await lock.end();
    const second = await ending;
    expect(first.work.calls).toEqual([]);
    await serves(second);
    expect(await unadopted(f.a)).toBe(0);
    expect((await second.steward.status()).unadopted).toBeUndefined();
    const seen = [...(await pendingAt(second, 0)), ...(await pendingAt(second, 1))].map(({ n }) => n);
    expect(seen.sort((x, y) => x - y)).toEqual([...mine.keys()]);
  });

  test('aborts a move that was taking their partition away, as its copy has read over them; the next one brings them', async () => {
    const [user] = usersOf(0) as [string];
    for (let n = 0; n < 3; n += 1) await addOld(f.a, user, n);
    await addJobs(f.a.pool, [{ partition: 0, user, payload: { n: 3 } }]);
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    await withCopy(await f.copyJob(command, f.a, f.b), (copy) => copy.pass());
    const again = await f.restart(f.a);
    await serves(again);
    expect((await f.store.read('test')).at(-1)).toMatchObject({
      actor: 'a',
      event: { type: 'move aborted', move: 'op/move-1.1' },
    });
    const next = await f.begin('op/move-1.2', again, f.b, [0]);
    await withCopy(await f.copyJob(next, again, f.b), async (copy) => {
      await copy.pass();
      await again.steward.quiesce({ ...next, limitMs: 1_000 });
      await again.steward.fence({ ...next, holdDeadlineMs: 10_000 });
      await copy.pass({ fenced: true });
      await f.append({ type: 'hand over', move: next.move, token: next.token, proof: await copy.verify() });
    });
    await until(async () => (await pendingAt(f.b, 0)).length === 4, { ...SOON, what: 'they are at the new owner' });
    expect((await pendingAt(f.b, 0)).map(({ n }) => n)).toEqual([0, 1, 2, 3]);
  });

  test('and does not reach the ring store delivers nothing until it has adopted them', async () => {
    await addOld(f.a, usersOf(0)[0]!, 0);
    await f.a.steward.stop();
    (f.store as MemoryRingStore).fail(new Error('the ring store is away'));
    const again = await f.restart(f.a);
    await new Promise((resolve) => setTimeout(resolve, 5_500)); // longer than a starting node waits before it serves on its own rows
    expect((await again.steward.status()).serving).toBe(false);
    expect(again.work.calls).toEqual([]);
    (f.store as MemoryRingStore).fail(null);
    await serves(again);
    expect(await unadopted(again)).toBe(0);
  }, 60_000);
});

describe('a node that is no member', () => {
  test('counts them and leaves them; as the only node of a new ring it adopts them', async () => {
    await f.append({ type: 'unfreeze', holder: 1 });
    const [user] = usersOf(3) as [string];
    await addOld(f.b, user, 0);
    await f.b.pool.query('UPDATE ringmaster.node SET folded_version = 0; DELETE FROM ringmaster.partitions');
    const alone = await f.elsewhere(f.b, 'other');
    await until(async () => (await alone.steward.status()).unadopted === 1, { ...SOON, what: 'it has counted' });
    expect(await unadopted(alone)).toBe(1);
    const facts = { node: 'b', databaseId: alone.session.databaseId, url: 'http://b' };
    await f.append({ type: 'make ring', clusterId: 'other', partitionCount: PARTITIONS, nodes: [facts] }, 'other');
    await serves(alone);
    expect(await partitionIds(alone)).toEqual({ [`${WORKSPACE}-3`]: 1 });
  });
});
