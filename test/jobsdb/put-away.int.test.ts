/**
 * Goal: what a node holds of partitions that it does not own goes in small batches, is marked by whom it was taken, and holds nobody up.
 * Method: two real databases with real stewards, a ring in memory; what the log says is appended, what the tables hold is looked at.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { withCopy } from '../../jobsdb/copy.ts';
import { certificateFor } from '../support/certificate.ts';
import { until } from '../support/wait.ts';
import { addJobs, createFixture, type Fixture, pendingAt, type TestNode, WORKSPACE } from './move-fixture.ts';

let f: Fixture;
const ROWS = 10;
beforeEach(async () => {
  f = await createFixture(4, { putAwayRows: ROWS });
});
afterEach(() => f.close());

const MOVE = 'op/move-1.1';
const SOON = { deadlineMs: 45_000 };
const settled = (node: TestNode, version: number) =>
  until(async () => (await node.steward.status()).settledVersion >= version, { ...SOON, what: 'it has settled' });
const marked = async (node: TestNode, prefix = 'gw') =>
  (
    await node.pool.query<{ move: string | null; count: number; batches: number }>(
      `SELECT parameters ->> 'move' AS move, count(*)::int AS count, count(DISTINCT exec_time)::int AS batches
       FROM public.${prefix}_job_status_1 WHERE job_state = 'migrated' GROUP BY 1 ORDER BY 1`,
    )
  ).rows;
const addMany = (node: TestNode, partition: number, count: number, prefix = 'gw') =>
  node.pool.query(
    `INSERT INTO public.${prefix}_jobs_1 (workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
     SELECT $1, gen_random_uuid(), 'user', $1 || '-' || $2::int, '{}', 'GW', jsonb_build_object('n', n) FROM generate_series(1, $3::int) AS n`,
    [WORKSPACE, partition, count],
  );

/** The move up to its hand-over. Gives the version of the hand-over. */
async function move(name: string, from: TestNode, to: TestNode, partitions: number[]): Promise<number> {
  const command = await f.begin(name, from, to, partitions);
  const job = await f.copyJob(command, from, to);
  return withCopy(job, async (copy) => {
    await copy.pass();
    await from.steward.quiesce({ ...command, limitMs: 1_000 });
    await from.steward.fence({ ...command, holdDeadlineMs: 10_000 });
    await copy.pass({ fenced: true });
    const proof = await copy.verify();
    return (await f.append({ type: 'hand over', move: name, token: command.token, proof })).version;
  });
}

describe('what was handed over', () => {
  test('is marked by the move, a batch in each transaction, all prefixes, and its window of messageIds goes', async () => {
    await addMany(f.a, 0, 55);
    await addMany(f.a, 0, 5, 'rt');
    await addMany(f.a, 0, 1, 'batch_rt');
    await f.a.pool.query(
      "INSERT INTO ringmaster.message_ids (partition, message_id) SELECT 0, 'm-' || n FROM generate_series(1, 35) AS n UNION ALL SELECT 1, 'own'",
    );
    await addMany(f.a, 1, 3);
    await settled(f.a, await move(MOVE, f.a, f.b, [0]));
    expect(await marked(f.a)).toEqual([{ move: MOVE, count: 55, batches: 6 }]);
    expect(await marked(f.a, 'rt')).toMatchObject([{ move: MOVE, count: 5 }]);
    expect(await marked(f.a, 'batch_rt')).toMatchObject([{ move: MOVE, count: 1 }]);
    expect((await f.a.pool.query('SELECT message_id FROM ringmaster.message_ids')).rows).toEqual([
      { message_id: 'own' },
    ]);
    expect(await pendingAt(f.a, 1)).toHaveLength(3);
    const noted = await f.a.pool.query(
      'SELECT prefix FROM ringmaster.datasets WHERE migrated_at IS NOT NULL ORDER BY 1',
    );
    expect(noted.rows.map(({ prefix }) => prefix)).toEqual(['batch_rt', 'gw', 'rt']);
  });

  test('a batch is bounded by what it looks at: finished jobs count as well', async () => {
    await addJobs(
      f.a.pool,
      Array.from({ length: 40 }, (_, n) => ({
        partition: 0,
        payload: { n },
        states: n % 20 === 0 ? [] : ['succeeded'],
      })),
    );
    await settled(f.a, await move(MOVE, f.a, f.b, [0]));
    expect(await marked(f.a)).toEqual([{ move: MOVE, count: 2, batches: 2 }]);
  });

  test('holds up no command, and settles only when nothing is left', async () => {
    const other = await f.begin('op/move-2.1', f.a, f.b, [1]);
    await addMany(f.a, 0, 6_000);
    const version = await move(MOVE, f.a, f.b, [0]);
    await until(async () => (await marked(f.a)).length > 0, { ...SOON, what: 'it has begun' });
    await f.a.steward.quiesce({ ...other, limitMs: 1_000 });
    await f.a.steward.fence({ ...other, holdDeadlineMs: 10_000 });
    expect(await pendingAt(f.a, 0)).not.toEqual([]);
    expect((await f.a.steward.status()).settledVersion).toBeLessThan(version);
    await f.append({ type: 'abort move', move: other.move, because: 'test' });
    await settled(f.a, version);
    expect(await pendingAt(f.a, 0)).toEqual([]);
    expect(await marked(f.a)).toMatchObject([{ move: MOVE, count: 6_000 }]);
  });

  test('after a restart in the middle the rest is marked by the same move, and nothing twice', async () => {
    await addMany(f.a, 0, 3_000);
    const version = await move(MOVE, f.a, f.b, [0]);
    await until(async () => (await marked(f.a)).length > 0, { ...SOON, what: 'it has begun' });
    const again = await f.restart(f.a);
    expect(await pendingAt(again, 0)).not.toEqual([]);
    await f.append({ type: 'complete move', move: MOVE, certificate: certificateFor(await f.ring(), MOVE) });
    await settled(again, version + 1);
    expect(await marked(again)).toMatchObject([{ move: MOVE, count: 3_000 }]);
    expect(await pendingAt(again, 0)).toEqual([]);
  });

  test('and comes back in the middle of it: what was left of the old rows is gone before the new copy is made', async () => {
    await addMany(f.a, 0, 3_000);
    await move(MOVE, f.a, f.b, [0]);
    await f.append({ type: 'complete move', move: MOVE, certificate: certificateFor(await f.ring(), MOVE) }); // the orchestrator waits for settling; here it does not
    await settled(f.a, await move('op/move-2.1', f.b, f.a, [0]));
    expect((await pendingAt(f.a, 0)).map(({ n }) => n)).toEqual(Array.from({ length: 3_000 }, (_, n) => n + 1));
    expect(await marked(f.a)).toMatchObject([{ move: MOVE, count: 3_000 }]);
  });
});

describe('stale rows that no move took', () => {
  test('are marked with no move when the target prepares, in batches, complete before the import is made', async () => {
    await addMany(f.b, 0, 35);
    const command = await f.begin(MOVE, f.a, f.b, [0]);
    await f.copyJob(command, f.a, f.b);
    expect(await marked(f.b)).toEqual([{ move: null, count: 35, batches: 4 }]);
  });

  test('a retry of the same move puts nothing away of what its copy has brought', async () => {
    await f.a.pool.query("INSERT INTO ringmaster.message_ids (partition, message_id) VALUES (0, 'm-1')");
    const command = await f.begin(MOVE, f.a, f.b, [0]);
    await withCopy(await f.copyJob(command, f.a, f.b), (copy) => copy.pass());
    await f.copyJob(await f.claim(MOVE, 'retry'), f.a, f.b);
    expect((await f.b.pool.query('SELECT message_id FROM ringmaster.message_ids')).rows).toEqual([
      { message_id: 'm-1' },
    ]);
  });
});
