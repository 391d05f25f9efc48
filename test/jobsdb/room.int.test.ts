/**
 * Goal: a move that has no room at its target is refused before it begins, with numbers that are near the truth.
 * Method: two real databases; what a copy really takes is compared with what was said before; the volume's size is the test's.
 */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { withCopy } from '../../jobsdb/copy.ts';
import { preflight } from '../../jobsdb/preflight.ts';
import { needBytes, type Volume } from '../../jobsdb/room.ts';
import type { CodedError } from '../../kit/errors.ts';
import { addJobs, createFixture, type Fixture, type TestNode, WORKSPACE } from './move-fixture.ts';

const MOVE = 'op/move-1.1';
const MB = 1_000_000;
let f: Fixture;
beforeEach(async () => {
  f = await createFixture();
});
afterEach(() => f.close());

const check = (volume: Volume, partitions = [0]) =>
  preflight({
    source: { node: 'node-0', pool: f.a.pool },
    target: { node: 'node-1', pool: f.b.pool },
    move: MOVE,
    room: { partitions, volume },
  });

/** Without the WAL, which ends at 1 GB: so much is needed twice while it is less. */
async function estimate(partitions: number[]): Promise<number> {
  const [source, target] = await Promise.all([f.a.pool.connect(), f.b.pool.connect()]);
  try {
    return (await needBytes(source, target, partitions)) / 2;
  } finally {
    source.release();
    target.release();
  }
}

/** `rows` jobs of about `bytes` each: half of them failed once, every fifth finished. */
async function fill(node: TestNode, partition: number, rows: number, bytes: number): Promise<void> {
  await node.pool.query(
    `INSERT INTO gw_jobs_1 (workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
     SELECT $1, gen_random_uuid(), 'user-' || n % 100, $2, '{"source_id": "abc"}', 'GW', jsonb_build_object('n', n, 'text',
       (SELECT string_agg(md5(n::text || i), '') FROM generate_series(1, ceil($4::numeric / 32)::int) AS i))
     FROM generate_series(1, $3::int) AS n`,
    [WORKSPACE, `${WORKSPACE}-${partition}`, rows, bytes],
  );
  await node.pool.query(`
    INSERT INTO gw_job_status_1 (job_id, job_state, attempt, exec_time)
    SELECT job_id, CASE WHEN job_id % 5 = 0 THEN 'succeeded' ELSE 'failed' END, 1, now() FROM gw_jobs_1 WHERE job_id % 5 = 0 OR job_id % 2 = 0`);
}

test.each([
  ['small rows', 5_000, 300],
  ['rows that PostgreSQL compresses or stores out of line', 500, 20_000],
])('the estimate is near what the copy of %s takes', async (_what, rows, bytes) => {
  await fill(f.a, 0, rows, bytes);
  await fill(f.a, 1, 50, 100_000); // a neighbour's, which do not count
  await f.a.pool.query(
    'INSERT INTO ringmaster.message_ids (partition, message_id) SELECT 0, gen_random_uuid()::text FROM generate_series(1, 5000)',
  );
  const said = await estimate([0]);
  const sizeAt = async (): Promise<number> =>
    Number((await f.b.pool.query('SELECT pg_database_size(current_database()) AS bytes')).rows[0].bytes);
  const before = await sizeAt();
  const job = await f.copyJob(await f.begin(MOVE, f.a, f.b, [0]), f.a, f.b);
  await withCopy(job, (copy) => copy.pass());
  const took = (await sizeAt()) - before;
  expect(took).toBeGreaterThan(MB);
  expect(said / took).toBeGreaterThan(0.8);
  expect(said / took).toBeLessThan(2);
});

test('a move that would leave less than a tenth of the volume is refused with the numbers, one that leaves it is not', async () => {
  await fill(f.a, 0, 1_000, 10_000);
  const need = (await estimate([0])) * 2;
  expect(need).toBeGreaterThan(10 * MB);
  const totalBytes = 200 * MB;
  await check({ totalBytes, freeBytes: need + 21 * MB });
  const refused = await check({ totalBytes, freeBytes: need + 19 * MB }).then(
    () => null,
    (error: CodedError) => error,
  );
  expect(refused).toMatchObject({
    code: 'NODE_DISK_FULL',
    message: expect.stringMatching(
      /^node-1 has \d+(\.\d)? MB free of 200 MB, the move needs about \d+(\.\d)? MB and 20\.0 MB stay free: add room or move fewer partitions$/,
    ),
    details: { node: 'node-1', totalBytes, reserveBytes: 20 * MB, needBytes: need },
  });
  await check({ totalBytes, freeBytes: 1 * MB }, [2]); // nothing is pending there: nothing is needed
});

test('where only the size of the volume is known, what the server has there counts as used', async () => {
  await fill(f.a, 0, 1_000, 10_000);
  await check({ totalBytes: 1_000_000 * MB, freeBytes: null });
  const refused = check({ totalBytes: 50 * MB, freeBytes: null });
  await expect(refused).rejects.toMatchObject({
    code: 'NODE_DISK_FULL',
    message: expect.stringContaining('of 50.0 MB'),
  });
});

test('a move that has rows at the target already is not asked again: it needs less than it did', async () => {
  await addJobs(f.a.pool, [{ partition: 0 }]);
  const job = await f.copyJob(await f.begin(MOVE, f.a, f.b, [0]), f.a, f.b);
  const full = { totalBytes: 100 * MB, freeBytes: 0 };
  await expect(check(full)).rejects.toMatchObject({ code: 'NODE_DISK_FULL' });
  await withCopy(job, (copy) => copy.pass());
  await check(full);
});
