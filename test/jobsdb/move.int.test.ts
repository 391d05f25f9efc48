/**
 * Goal: a move keeps every pending job, its order and its state, whatever is written meanwhile and whoever comes too late.
 * Method: two real databases with real stewards, a ring in memory; the test plays orchestrator, gateway and deliverer step by step.
 */

import pg from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type CopyJob, openCopy, withCopy } from '../../jobsdb/copy.ts';
import { certificateFor } from '../support/certificate.ts';
import { until } from '../support/wait.ts';
import { addJobs, addStatus, createFixture, type Fixture, pendingAt, type TestNode } from './move-fixture.ts';

let f: Fixture;
beforeEach(async () => {
  f = await createFixture();
});
afterEach(() => f.close());

const numbers = async (node: TestNode, partition: number, prefix: 'gw' | 'rt' = 'gw'): Promise<number[]> =>
  (await pendingAt(node, partition, prefix)).map((row) => row.n);
const stateOf = async (node: TestNode, partition: number): Promise<string> =>
  (
    await node.pool.query<{ state: string }>('SELECT state FROM ringmaster.partitions WHERE partition = $1', [
      partition,
    ])
  ).rows[0]!.state;
const opens = (node: TestNode, partition: number) =>
  until(async () => (await stateOf(node, partition)) === 'open', {
    deadlineMs: 5_000,
    what: `partition ${partition} opens at ${node.name}`,
  });
const jobs = (partition: number, from: number, to: number, more = {}) =>
  Array.from({ length: to - from }, (_, i) => ({ partition, payload: { n: from + i }, ...more }));
const copyPass = (job: CopyJob) => withCopy(job, (copy) => copy.pass());
const verifyPending = (job: CopyJob) => withCopy(job, (copy) => copy.verify());
const handOver = async (move: string, token: number, job: CopyJob) =>
  f.append({ type: 'hand over', move, token, proof: await verifyPending(job) });

/** The whole of a move, nothing going wrong. */
async function moveAll(move: string, from: TestNode, to: TestNode, partitions: number[]): Promise<void> {
  const command = await f.begin(move, from, to, partitions);
  const job = await f.copyJob(command, from, to);
  await copyPass(job);
  await from.steward.quiesce({ ...command, limitMs: 1_000 });
  await copyPass(job);
  await from.steward.fence({ ...command, holdDeadlineMs: 5_000 });
  await copyPass(job);
  await handOver(move, command.token, job);
  for (const partition of partitions) await opens(to, partition);
  await until(async () => (await from.steward.status()).settledVersion >= (await f.ring()).version, {
    deadlineMs: 5_000,
    what: 'the source has put away what it moved',
  });
  await f.append({ type: 'complete move', move, certificate: certificateFor(await f.ring(), move) });
}

describe('a move', () => {
  test('brings every pending job, in order, with its state and attempts; leaves finished ones; and the source keeps nothing pending', async () => {
    await addJobs(f.a.pool, jobs(0, 0, 20));
    const [waiting, done] = await addJobs(f.a.pool, [
      { partition: 0, payload: { n: 100 }, states: ['executing', 'failed'] },
      { partition: 0, payload: { n: 101 }, states: ['executing', 'succeeded'] },
    ]);
    await addStatus(f.a.pool, waiting!, 'failed', 'gw', 7);
    await addJobs(f.a.pool, jobs(0, 0, 3, { prefix: 'rt' }));
    await addJobs(f.a.pool, jobs(1, 500, 503));
    expect(done).toBeGreaterThan(0);

    await moveAll('op/move-1.1', f.a, f.b, [0]);

    expect(await numbers(f.b, 0)).toEqual([...Array.from({ length: 20 }, (_, n) => n), 100]);
    expect((await pendingAt(f.b, 0)).at(-1)).toMatchObject({ state: 'failed', attempt: 7 });
    expect(await numbers(f.b, 0, 'rt')).toEqual([0, 1, 2]);
    expect(await numbers(f.a, 0)).toEqual([]);
    expect(await numbers(f.a, 1)).toEqual([500, 501, 502]); // its neighbours do not notice
    expect(await stateOf(f.a, 0)).toBe('closed');
    expect(await f.a.steward.countPending()).toBe(3);
  });

  test('what it brings lies in tables with the indexes of any other, from the end of the first pass on', async () => {
    const indexes = async (dataset: number): Promise<string[]> =>
      (
        await f.b.pool.query<{ indexdef: string }>(
          "SELECT indexdef FROM pg_indexes WHERE tablename IN ('gw_jobs_' || $1, 'gw_job_status_' || $1) ORDER BY indexname",
          [dataset],
        )
      ).rows.map(({ indexdef }) => indexdef.replaceAll(`_${dataset}`, '_n'));
    await addJobs(f.a.pool, jobs(0, 0, 3));
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const job = await f.copyJob(command, f.a, f.b);
    const { dataset } = job.datasets.find(({ prefix }) => prefix === 'gw')!;
    expect(await indexes(dataset)).toHaveLength(3); // its rows are indexed by partition when they are there
    await copyPass(job);
    expect(await indexes(dataset)).toEqual(await indexes(1));
  });

  test('brings what comes in and what is finished while it copies', async () => {
    const ids = await addJobs(f.a.pool, jobs(0, 0, 10));
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const job = await f.copyJob(command, f.a, f.b);
    await copyPass(job);
    await addJobs(f.a.pool, jobs(0, 10, 15));
    await addStatus(f.a.pool, ids[0]!, 'succeeded');
    await addStatus(f.a.pool, ids[1]!, 'failed');
    expect(await copyPass(job)).toMatchObject({ pass: 2, jobs: 5, statuses: 2 });
    await f.a.steward.quiesce({ ...command, limitMs: 1_000 });
    await addJobs(f.a.pool, jobs(0, 15, 17)); // paused: intake goes on
    await f.a.steward.fence({ ...command, holdDeadlineMs: 5_000 });
    await copyPass(job);
    await handOver(command.move, command.token, job);
    await opens(f.b, 0);
    expect(await numbers(f.b, 0)).toEqual(Array.from({ length: 16 }, (_, i) => i + 1));
  });

  test('what comes in after the last ids were reserved is brought as well, also where it is more than was reserved for', async () => {
    await addJobs(f.a.pool, jobs(0, 0, 3));
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const job = await f.copyJob(command, f.a, f.b);
    await withCopy(job, async (copy) => {
      await copy.pass();
      await f.a.steward.quiesce({ ...command, limitMs: 1_000 });
      await copy.reserve();
      await addJobs(f.a.pool, jobs(0, 3, 5));
      await f.a.pool.query(
        "SELECT setval('ringmaster.gw_job_id', (SELECT last_value + 20000 FROM ringmaster.gw_job_id))",
      ); // others' intake
      await addJobs(f.a.pool, jobs(0, 5, 7));
      await f.a.steward.fence({ ...command, holdDeadlineMs: 5_000 });
      await copy.pass({ fenced: true });
      await f.append({ type: 'hand over', move: command.move, token: command.token, proof: await copy.verify() });
    });
    await opens(f.b, 0);
    await addJobs(f.b.pool, jobs(0, 7, 8));
    expect(await numbers(f.b, 0)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  test('there and back and there again: each job lives at one node, ids of what comes later lie above', async () => {
    await addJobs(f.a.pool, jobs(0, 0, 5));
    await moveAll('op/move-1.1', f.a, f.b, [0]);
    await addJobs(f.b.pool, jobs(0, 5, 8));
    expect(await numbers(f.b, 0)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    await moveAll('op/move-2.1', f.b, f.a, [0]);
    await addJobs(f.a.pool, jobs(0, 8, 9));
    expect(await numbers(f.a, 0)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
    expect(await numbers(f.b, 0)).toEqual([]);
    await moveAll('op/move-3.1', f.a, f.b, [0]);
    expect(await numbers(f.b, 0)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  });

  test('a status written at the new owner outranks every status that came along', async () => {
    const [id] = await addJobs(f.a.pool, [{ partition: 0, payload: { n: 1 } }]);
    for (let i = 0; i < 30; i += 1) await addStatus(f.a.pool, id!, 'failed', 'gw', i);
    await moveAll('op/move-1.1', f.a, f.b, [0]);
    await f.b.pool.query(
      `INSERT INTO public.gw_job_status_2 (job_id, job_state, attempt) SELECT job_id, 'succeeded', 31 FROM public.gw_jobs_2`,
    );
    expect(await numbers(f.b, 0)).toEqual([]);
  });

  test('brings the window of messageIds', async () => {
    await f.a.pool.query("INSERT INTO ringmaster.message_ids (partition, message_id) VALUES (0, 'm-1'), (1, 'm-2')");
    await moveAll('op/move-1.1', f.a, f.b, [0]);
    const known = await f.b.pool.query<{ message_id: string }>('SELECT message_id FROM ringmaster.message_ids');
    expect(known.rows).toEqual([{ message_id: 'm-1' }]);
  });

  test('copies in chunks, and a retry goes on after the last one that was committed', async () => {
    await addJobs(f.a.pool, jobs(0, 0, 25));
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const first = await f.copyJob(command, f.a, f.b, 10);
    const dying = new AbortController();
    let rows = 0;
    await expect(
      copyPass({
        ...first,
        signal: dying.signal,
        onRows: (n) => {
          rows += n;
          dying.abort(new Error('the worker dies'));
        },
      }),
    ).rejects.toThrow('the worker dies');
    expect(rows % 10).toBe(0); // one chunk, or one of each lane
    expect(rows).toBeGreaterThan(0);
    const retry = await f.claim(command.move, 'retry');
    const second = await f.copyJob(retry, f.a, f.b, 10);
    expect(await copyPass(second)).toMatchObject({ pass: 1, jobs: 25 - rows });
    await f.a.steward.quiesce({ ...retry, limitMs: 1_000 });
    await f.a.steward.fence({ ...retry, holdDeadlineMs: 5_000 });
    await copyPass(second);
    await handOver(retry.move, retry.token, second);
    await opens(f.b, 0);
    expect(await numbers(f.b, 0)).toEqual(Array.from({ length: 25 }, (_, n) => n));
  });
});

describe('chunks are ranges of ids', () => {
  test('over gaps, ids of other partitions, and a sudden rise in density every row arrives, in order, never more than a chunk at a time', async () => {
    await addJobs(f.a.pool, jobs(0, 0, 3));
    await addJobs(f.a.pool, jobs(1, 900, 1_100)); // not moved: sparse ids for those that are
    await addJobs(f.a.pool, jobs(0, 3, 5));
    await f.a.pool.query("SELECT setval('ringmaster.gw_job_id', last_value + 100000) FROM ringmaster.gw_job_id");
    await addJobs(f.a.pool, jobs(0, 5, 65)); // dense, after ranges have grown wide
    await addJobs(f.a.pool, jobs(1, 1_100, 1_130));
    await addJobs(f.a.pool, jobs(0, 65, 66));
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const chunks: number[] = [];
    const job = { ...(await f.copyJob(command, f.a, f.b, 10)), onRows: (rows: number) => chunks.push(rows) };
    expect(await copyPass(job)).toMatchObject({ pass: 1, jobs: 66 });
    expect(chunks.reduce((sum, rows) => sum + rows, 0)).toBe(66);
    expect(Math.max(...chunks)).toBeLessThanOrEqual(10);
    await f.a.steward.quiesce({ ...command, limitMs: 1_000 });
    await f.a.steward.fence({ ...command, holdDeadlineMs: 5_000 });
    await copyPass(job);
    await handOver(command.move, command.token, job);
    await opens(f.b, 0);
    expect(await numbers(f.b, 0)).toEqual(Array.from({ length: 66 }, (_, n) => n));
  });
});

describe('lanes', () => {
  test('that are held back now and then leave nothing behind, however ranges were split', async () => {
    // Sparse, then dense: the last range is too much for a chunk, and comes back in halves when the other lane may have ended.
    for (const n of [0, 1, 2]) {
      await addJobs(f.a.pool, jobs(0, n, n + 1));
      await f.a.pool.query("SELECT setval('ringmaster.gw_job_id', last_value + 60) FROM ringmaster.gw_job_id");
    }
    await addJobs(f.a.pool, jobs(0, 3, 25));
    for (let seed = 1; seed <= 12; seed += 1) {
      let state = seed * 7_919;
      const throttle = {
        take: () => undefined,
        get lanes() {
          state = (state * 48_271) % 2_147_483_647;
          return 1 + (state % 2);
        },
      };
      const command = await f.begin(`op/move-${seed}.1`, f.a, f.b, [0]);
      const job = { ...(await f.copyJob(command, f.a, f.b, 4)), throttle };
      expect(await copyPass(job), `seed ${seed}`).toMatchObject({ pass: 1, jobs: 25 });
      await f.append({ type: 'abort move', move: command.move, because: 'the next seed' });
    }
  }, 60_000);

  test('and a range that nobody has copied is found by asking for the whole', async () => {
    await addJobs(f.a.pool, jobs(0, 0, 25));
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const job = await f.copyJob(command, f.a, f.b, 10);
    const dying = new AbortController();
    const dies = { signal: dying.signal, onRows: () => dying.abort(new Error('the worker dies')) };
    await expect(copyPass({ ...job, ...dies })).rejects.toThrow('the worker dies');
    // The ledger claims a range whose rows are not there.
    await f.b.pool.query(`
      INSERT INTO ringmaster.import_chunks (move, prefix, pass, after_id, up_to_id, row_count, digest, state_digest)
      SELECT 'op/move-1.1', 'gw', 1, max(up_to_id), max(up_to_id) + 3, 0, 0, 0 FROM ringmaster.import_chunks`);
    await expect(copyPass(job)).rejects.toMatchObject({ code: 'COPY_DIFFERS', details: { what: 'row_count' } });
  });
});

describe('a row with a lower id that commits late', () => {
  test('is in the pass: the copy waits for transactions that were writing when it took its mark', async () => {
    const late = new pg.Client({ connectionString: f.a.database.url });
    await late.connect();
    await late.query('BEGIN');
    await addJobs(late, [{ partition: 0, payload: { n: 0 } }]);
    await addJobs(f.a.pool, [{ partition: 0, payload: { n: 1 } }]);
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const job = await f.copyJob(command, f.a, f.b);
    const copying = copyPass(job);
    const waited = await Promise.race([
      copying.then(() => 'copied'),
      new Promise((resolve) => setTimeout(resolve, 300, 'waits')),
    ]);
    expect(waited).toBe('waits');
    await late.query('COMMIT');
    await late.end();
    expect(await copying).toMatchObject({ jobs: 2 });
  });

  test('holds for statuses as well', async () => {
    const [id] = await addJobs(f.a.pool, [{ partition: 0, payload: { n: 0 } }]);
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const job = await f.copyJob(command, f.a, f.b);
    await copyPass(job);
    const late = new pg.Client({ connectionString: f.a.database.url });
    await late.connect();
    await late.query('BEGIN');
    await addStatus(late, id!, 'succeeded');
    const copying = copyPass(job);
    await new Promise((resolve) => setTimeout(resolve, 100)); // the wait itself is what the test above shows; here only the outcome counts
    await late.query('COMMIT');
    await late.end();
    expect(await copying).toMatchObject({ statuses: 1 });
  });
});

describe('who comes too late', () => {
  test('an older attempt cannot write at the target once a newer one has prepared', async () => {
    await addJobs(f.a.pool, jobs(0, 0, 3));
    const old = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const oldJob = await f.copyJob(old, f.a, f.b);
    const next = await f.claim(old.move, 'newer');
    await f.copyJob(next, f.a, f.b);
    await expect(copyPass(oldJob)).rejects.toMatchObject({ code: 'STALE_TOKEN' });
  });

  test('an older attempt in the middle of its passes cannot write another row once a newer one has prepared', async () => {
    await addJobs(f.a.pool, jobs(0, 0, 3));
    const old = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const copy = await openCopy(await f.copyJob(old, f.a, f.b));
    await copy.pass();
    await copy.reserve();
    await addJobs(f.a.pool, jobs(0, 3, 5));
    await f.copyJob(await f.claim(old.move, 'newer'), f.a, f.b);
    await expect(copy.pass({ fenced: true })).rejects.toMatchObject({ code: 'STALE_TOKEN' });
    copy.close(true);
    expect((await f.b.pool.query('SELECT FROM public.gw_jobs_2')).rowCount).toBe(3);
  });

  test('an older attempt cannot command source or target once a newer one has claimed', async () => {
    const old = await f.begin('op/move-1.1', f.a, f.b, [0]);
    await f.claim(old.move, 'newer');
    await until(async () => (await f.a.steward.status()).foldedVersion >= (await f.ring()).version, {
      deadlineMs: 5_000,
      what: 'folded',
    });
    await expect(f.a.steward.quiesce({ ...old, limitMs: 100 })).rejects.toMatchObject({ code: 'STALE_TOKEN' });
    await expect(f.b.steward.prepare(old)).rejects.toMatchObject({ code: 'STALE_TOKEN' });
    expect(await stateOf(f.a, 0)).toBe('open');
  });

  test('a command older than one that the partition has obeyed is refused by its row, whatever the process remembers', async () => {
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    await f.a.pool.query('UPDATE ringmaster.partitions SET token = $1 WHERE partition = 0', [command.token + 1]);
    await expect(f.a.steward.quiesce({ ...command, limitMs: 100 })).rejects.toMatchObject({ code: 'STALE_TOKEN' });
    expect(await stateOf(f.a, 0)).toBe('open');
    expect(f.a.work.calls.slice(-2)).toEqual(['stop 0', 'opened 0']);
  });

  test('a newer attempt waits for an open write of the older one', async () => {
    const old = await f.begin('op/move-1.1', f.a, f.b, [0]);
    await f.copyJob(old, f.a, f.b);
    const writing = await f.b.pool.connect();
    await writing.query('BEGIN');
    await writing.query('SELECT token FROM ringmaster.imports WHERE move = $1 FOR SHARE', [old.move]);
    const next = await f.claim(old.move, 'newer');
    let prepared = false;
    const preparing = f.b.steward.prepare(next).then(() => {
      prepared = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(prepared).toBe(false);
    await writing.query('COMMIT');
    writing.release();
    await preparing;
  });

  test('prepare is refused for partitions that the node owns', async () => {
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    await f.b.pool.query(
      "INSERT INTO ringmaster.partitions (partition, state, token) VALUES (0, 'open', 1) ON CONFLICT (partition) DO UPDATE SET state = 'open'",
    );
    await expect(f.b.steward.prepare(command)).rejects.toMatchObject({ code: 'NODE_OWNS_PARTITION' });
  });

  test('a process that is no longer the node changes nothing', async () => {
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const zombie = f.a.steward;
    await f.a.pool.query('SELECT * FROM ringmaster.raise_instance()');
    await expect(zombie.quiesce({ ...command, limitMs: 100 })).rejects.toMatchObject({ code: 'RM001' });
  });
});

describe('an aborted move', () => {
  test('is forgotten at a target whose database is away just then, as soon as it is back; and the target follows the log', async () => {
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    await f.copyJob(command, f.a, f.b);
    const { pool } = f.b.session;
    const connect = pool.connect.bind(pool) as (...args: unknown[]) => unknown;
    let refused = 0;
    // A single query of the pool connects by a callback: that is the copy of the log being kept, which is not what is tried here.
    pool.connect = ((...args: unknown[]) => {
      if (refused === 2 || args.length > 0) return connect(...args);
      refused += 1;
      return Promise.reject(new Error('connect ECONNREFUSED'));
    }) as typeof pool.connect;
    await f.append({ type: 'abort move', move: command.move, because: 'test' });
    const { version } = await f.ring();
    await until(() => f.b.steward.ring().version === version, { deadlineMs: 5_000, what: 'the target has folded it' });
    expect(refused).toBe(2);
    expect((await f.b.pool.query('SELECT FROM ringmaster.imports')).rowCount).toBe(0);
    await moveAll('op/move-1.2', f.a, f.b, [0]);
  });

  test('lifts the fence at the source and is forgotten at the target, also its messageIds', async () => {
    await f.a.pool.query("INSERT INTO ringmaster.message_ids (partition, message_id) VALUES (0, 'm-1')");
    await addJobs(f.a.pool, jobs(0, 0, 3));
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const job = await f.copyJob(command, f.a, f.b);
    await f.a.steward.quiesce({ ...command, limitMs: 1_000 });
    await f.a.steward.fence({ ...command, holdDeadlineMs: 5_000 });
    await copyPass(job);
    expect(await stateOf(f.a, 0)).toBe('fenced');
    await f.append({ type: 'abort move', move: command.move, because: 'test' });
    await opens(f.a, 0);
    await until(
      async () => (await f.b.pool.query("SELECT FROM pg_tables WHERE tablename ~ '^(gw|rt)_jobs_2$'")).rowCount === 0,
      { deadlineMs: 5_000, what: 'the copy is dropped' },
    );
    await until(async () => (await f.b.pool.query('SELECT FROM ringmaster.message_ids')).rowCount === 0, {
      deadlineMs: 5_000,
      what: 'its messageIds too',
    });
    expect(await numbers(f.a, 0)).toEqual([0, 1, 2]);
    await moveAll('op/move-1.2', f.a, f.b, [0]);
    expect(await numbers(f.b, 0)).toEqual([0, 1, 2]);
  });

  test('the source aborts by itself when nobody ends the move, and then serves again', async () => {
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    await f.a.steward.quiesce({ ...command, limitMs: 1_000 });
    await f.a.steward.fence({ ...command, holdDeadlineMs: 300 });
    await opens(f.a, 0);
    expect((await f.ring()).moves).toEqual([]);
    expect((await f.store.read('test')).at(-1)).toMatchObject({ actor: 'a', event: { type: 'move aborted' } });
  });

  test('a retry does not get more time for a fence that is there', async () => {
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    await f.a.steward.quiesce({ ...command, limitMs: 1_000 });
    await f.a.steward.fence({ ...command, holdDeadlineMs: 400 });
    const retry = await f.claim(command.move, 'retry');
    await f.a.steward.quiesce({ ...retry, limitMs: 1_000 });
    expect(await stateOf(f.a, 0)).toBe('fenced');
    await f.a.steward.fence({ ...retry, holdDeadlineMs: 60_000 });
    await opens(f.a, 0);
  });

  test('deliveries that do not end in time: QUIESCE_TIMEOUT names the destination, and the partitions stay paused until the abort', async () => {
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    f.a.work.busy = new Promise(() => undefined);
    await expect(f.a.steward.quiesce({ ...command, limitMs: 50 })).rejects.toMatchObject({
      code: 'QUIESCE_TIMEOUT',
      details: { destinations: ['slow-destination'] },
    });
    expect(await stateOf(f.a, 0)).toBe('paused');
    await f.append({ type: 'abort move', move: command.move, because: 'test' });
    await opens(f.a, 0);
    // The row is open before the deliveries hear of it.
    await until(() => f.a.work.calls.at(-1) === 'opened 0', { deadlineMs: 5_000, what: 'deliveries go on' });
  });
});

describe('a restart', () => {
  test('finds its fence as it was, and the state ends as the log says', async () => {
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    await f.a.steward.quiesce({ ...command, limitMs: 1_000 });
    await f.a.steward.fence({ ...command, holdDeadlineMs: 60_000 });
    const again = await f.restart(f.a);
    await until(async () => (await again.steward.status()).serving, { deadlineMs: 5_000, what: 'it serves' });
    expect(await stateOf(again, 0)).toBe('fenced');
    expect(again.work.calls).toEqual(['opened 1']);
    await f.append({ type: 'abort move', move: command.move, because: 'test' });
    await opens(again, 0);
  });

  test('over a long log does not take a move that goes on for one that is over', async () => {
    for (let i = 0; i < 300; i += 1) {
      await f.append({ type: 'start move', holder: 1, move: `old-${i}`, from: 'a', to: 'b', partitions: [1] });
      await f.append({ type: 'abort move', move: `old-${i}`, because: 'history' });
    }
    await f.b.pool.query("INSERT INTO ringmaster.message_ids (partition, message_id) VALUES (3, 'own')");
    await f.a.pool.query("INSERT INTO ringmaster.message_ids (partition, message_id) VALUES (0, 'm-1')");
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    await copyPass(await f.copyJob(command, f.a, f.b));
    await f.a.steward.quiesce({ ...command, limitMs: 1_000 });
    await f.a.steward.fence({ ...command, holdDeadlineMs: 60_000 });
    const [source, target] = [await f.restart(f.a), await f.restart(f.b)];
    await f.claim(command.move, 'an event that neither has settled yet');
    for (const node of [source, target])
      await until(async () => (await node.steward.status()).settledVersion >= (await f.ring()).version, {
        deadlineMs: 20_000,
        what: 'it has settled',
      });
    expect(await stateOf(source, 0)).toBe('fenced');
    const window = await target.pool.query<{ message_id: string }>(
      'SELECT message_id FROM ringmaster.message_ids ORDER BY 1',
    );
    expect(window.rows.map((row) => row.message_id)).toEqual(['m-1', 'own']);
  }, 120_000);

  test('with another database: it opens nothing and says why', async () => {
    await f.a.pool.query('UPDATE ringmaster.node SET database_id = gen_random_uuid()');
    const again = await f.restart(f.a);
    await until(async () => (await again.steward.status()).blocked !== null, {
      deadlineMs: 5_000,
      what: 'it is blocked',
    });
    expect(await again.steward.status()).toMatchObject({ serving: false, blocked: { code: 'NODE_OTHER_DATABASE' } });
    expect(again.work.calls).toEqual([]);
  });
});

describe('a node that has left the ring', () => {
  test('and comes back with pending jobs, as from an older volume, neither delivers them nor puts them away: it says how many', async () => {
    await moveAll('op/move-1.1', f.b, f.a, [2, 3]);
    await addJobs(f.b.pool, [...jobs(2, 0, 4), { partition: 2, payload: { n: 9 }, states: ['succeeded'] }]);
    await f.append({ type: 'leave node', holder: 1, node: 'b' });
    const again = await f.restart(f.b);
    const folded = async () => (await again.steward.status()).foldedVersion >= (await f.ring()).version;
    await until(folded, { deadlineMs: 5_000, what: 'it has folded the ring' });
    await f.append({ type: 'unfreeze', holder: 1 }); // one more event: it had its chance to settle the last one
    await until(folded, { deadlineMs: 5_000, what: 'it has folded that as well' });
    expect((await again.steward.status()).serving).toBe(false);
    expect(await again.steward.countPending()).toBe(4);
    expect(await numbers(again, 2)).toEqual([0, 1, 2, 3]);
    expect(again.work.calls).toEqual([]);
  });

  test('and comes back with nothing but what was moved away joins, and that stays dead', async () => {
    await addJobs(f.b.pool, jobs(2, 0, 5));
    await moveAll('op/move-1.1', f.b, f.a, [2, 3]);
    await f.append({ type: 'leave node', holder: 1, node: 'b' });
    const again = await f.restart(f.b);
    const { databaseId } = await again.steward.status();
    expect(await again.steward.countPending()).toBe(0);
    await f.append({ type: 'join node', holder: 1, facts: { node: 'b', databaseId, url: 'http://b' } });
    await until(async () => (await again.steward.status()).serving, { deadlineMs: 5_000, what: 'it serves' });
    await moveAll('op/move-2.1', f.a, again, [2]);
    expect(await numbers(again, 2)).toEqual([0, 1, 2, 3, 4]); // once each: the copy, not the old rows
  });
});

describe('verification', () => {
  /** Damages every row that is written to a table of the target's import, as a bad disk or a bug of ours might. */
  const damage = (table: string, change: string) =>
    f.b.pool.query(`
      CREATE FUNCTION public.damage() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ${change}; END $$;
      CREATE TRIGGER damage BEFORE INSERT ON public.${table} FOR EACH ROW EXECUTE FUNCTION public.damage()`);
  const oneRow = "NEW.event_payload->>'n' = '3'";
  const swap = `
    IF NEW.event_payload->>'n' = '3' THEN NEW.uuid := '33333333-3333-4333-8333-333333333334'; END IF;
    IF NEW.event_payload->>'n' = '4' THEN NEW.uuid := '33333333-3333-4333-8333-333333333333'; END IF; RETURN NEW`;
  const damages = [
    [
      'a byte of a payload that changed',
      'gw_jobs_2',
      `IF ${oneRow} THEN NEW.event_payload := '{"n": 3, "x": "b"}'; END IF; RETURN NEW`,
    ],
    ['a row that is missing', 'gw_jobs_2', `IF ${oneRow} THEN RETURN NULL; END IF; RETURN NEW`],
    [
      'a row too many',
      'gw_jobs_2',
      `IF ${oneRow} THEN INSERT INTO public.gw_jobs_2 SELECT NEW.job_id - 1, NEW.workspace_id, gen_random_uuid(), NEW.user_id, NEW.partition_id, NEW.parameters, NEW.custom_val, '{}'; END IF; RETURN NEW`,
    ],
    ['two rows that changed places', 'gw_jobs_2', swap],
    ['an attempt that differs', 'gw_job_status_2', 'NEW.attempt := 9; RETURN NEW'],
    ['a status that is missing', 'gw_job_status_2', 'RETURN NULL'],
  ] as const;
  const six = async (from: number) => {
    await addJobs(f.a.pool, jobs(0, from, from + 3));
    await f.a.pool.query("SELECT nextval('ringmaster.gw_job_id')"); // an id that nobody has
    await addJobs(f.a.pool, [
      { partition: 0, payload: { n: 3, x: 'a' }, states: ['failed'] },
      { partition: 0, payload: { n: 4 } },
      { partition: 0, payload: { n: 5 } },
    ]);
    await f.a.pool.query(
      `UPDATE public.gw_jobs_1 SET uuid = ('33333333-3333-4333-8333-33333333333' || (event_payload->>'n'))::uuid
       WHERE event_payload->>'n' IN ('3', '4')`,
    );
  };

  test.each(damages)('of the first pass finds %s, and keeps nothing of that chunk', async (_, table, change) => {
    await six(0);
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const job = await f.copyJob(command, f.a, f.b);
    await damage(table, change);
    await expect(copyPass(job)).rejects.toMatchObject({ code: 'COPY_DIFFERS' });
    expect((await f.b.pool.query('SELECT FROM public.gw_jobs_2')).rowCount).toBe(0);
    await f.b.pool.query(`DROP FUNCTION public.damage() CASCADE`);
    expect(await copyPass(job)).toMatchObject({ pass: 1, jobs: 6 });
  });

  test.each(damages)('of a later pass finds %s, and keeps nothing of that pass', async (_, table, change) => {
    await addJobs(f.a.pool, jobs(0, 10, 12));
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const job = await f.copyJob(command, f.a, f.b);
    await copyPass(job);
    await six(0);
    await damage(table, change);
    await expect(copyPass(job)).rejects.toMatchObject({ code: 'COPY_DIFFERS' });
    expect((await f.b.pool.query('SELECT FROM public.gw_jobs_2')).rowCount).toBe(2);
    await f.b.pool.query(`DROP FUNCTION public.damage() CASCADE`);
    expect(await copyPass(job)).toMatchObject({ pass: 2, jobs: 6, statuses: 1 });
  });

  test('of a later pass finds a job that is finished at the target alone', async () => {
    const [id] = await addJobs(f.a.pool, jobs(0, 0, 2));
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const job = await f.copyJob(command, f.a, f.b);
    await copyPass(job);
    await f.b.pool.query(
      "INSERT INTO public.gw_job_status_2 (id, job_id, job_state, attempt) SELECT 0, min(job_id), 'succeeded', 1 FROM public.gw_jobs_2",
    );
    await addStatus(f.a.pool, id!, 'failed');
    await expect(copyPass(job)).rejects.toMatchObject({ code: 'COPY_DIFFERS' });
  });

  /** Everything up to the fence, with rows that only the source knows of brought in by `unseen` after the last pass before it. */
  async function fencedWith(unseen: (ids: number[]) => Promise<unknown>): Promise<Promise<unknown>> {
    const ids = await addJobs(f.a.pool, jobs(0, 0, 3));
    const skipped = await f.a.pool.query<{ id: string }>("SELECT nextval('ringmaster.gw_job_id') AS id");
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const job = await f.copyJob(command, f.a, f.b);
    await copyPass(job);
    await f.a.pool.query("SELECT nextval('public.gw_job_status_1_id_seq')");
    const lateIds = await addJobs(f.a.pool, jobs(0, 3, 5));
    const late = await f.a.pool.query<{ id: string }>("SELECT nextval('ringmaster.gw_job_id') AS id");
    await f.a.steward.quiesce({ ...command, limitMs: 1_000 });
    return withCopy(job, async (copy) => {
      await copy.pass();
      await unseen([Number(skipped.rows[0]!.id), Number(late.rows[0]!.id), ids[0]!, lateIds[0]!]);
      await copy.reserve();
      await f.a.steward.fence({ ...command, holdDeadlineMs: 10_000 });
      await copy.pass({ fenced: true });
      return await copy.verify();
    });
  }
  const addAt = (id: number) =>
    f.a.pool.query(
      `INSERT INTO public.gw_jobs_1 (job_id, workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
       VALUES ($1, $2, gen_random_uuid(), 'late', $3, '{}', 'GW', '{"n": 99}')`,
      [id, 'ws-1', 'ws-1-0'],
    );

  test('after the fence agrees where both sides have the same', async () => {
    await expect(fencedWith(async () => undefined)).resolves.toMatchObject({
      jobsPending: 5,
      jobsCopied: 5,
      prefixes: [
        { prefix: 'gw', pending: 5 },
        { prefix: 'rt', pending: 0 },
        { prefix: 'batch_rt', pending: 0 },
      ],
    });
  });
  test('after the fence finds a job below the last marks that no pass has seen', async () => {
    await expect(fencedWith(([, late]) => addAt(late!))).rejects.toMatchObject({ code: 'VERIFY_MISMATCH' });
  });
  test('after the fence finds a status below the last marks that no pass has seen', async () => {
    const late = fencedWith(([, , id]) =>
      f.a.pool.query(
        "INSERT INTO public.gw_job_status_1 (id, job_id, job_state, attempt) VALUES (1, $1, 'succeeded', 1)",
        [id],
      ),
    );
    await expect(late).rejects.toMatchObject({ code: 'VERIFY_MISMATCH' });
  });
});

describe('an attempt that takes over', () => {
  test('goes on with a pass that was reserved ahead: what came after the reservation is brought, and nothing twice', async () => {
    const ids = await addJobs(f.a.pool, jobs(0, 0, 3));
    const first = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const dying = await openCopy(await f.copyJob(first, f.a, f.b));
    await dying.pass();
    await f.a.steward.quiesce({ ...first, limitMs: 1_000 });
    await dying.reserve();
    dying.close(true);
    await addJobs(f.a.pool, jobs(0, 3, 5));
    const retry = await f.claim(first.move, 'retry');
    await withCopy(await f.copyJob(retry, f.a, f.b), async (copy) => {
      expect(await copy.pass()).toMatchObject({ pass: 2, jobs: 2 });
      await addJobs(f.a.pool, jobs(0, 5, 7));
      await addStatus(f.a.pool, ids[1]!, 'failed');
      await f.a.steward.quiesce({ ...retry, limitMs: 1_000 });
      expect(await copy.pass()).toMatchObject({ pass: 3, jobs: 2, statuses: 1 });
      await copy.reserve();
      await addJobs(f.a.pool, jobs(0, 7, 8));
      await f.a.steward.fence({ ...retry, holdDeadlineMs: 5_000 });
      expect(await copy.pass({ fenced: true })).toMatchObject({ pass: 4, jobs: 1, statuses: 0 });
      await f.append({ type: 'hand over', move: retry.move, token: retry.token, proof: await copy.verify() });
    });
    await opens(f.b, 0);
    expect(await numbers(f.b, 0)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  test('after the fenced pass brings nothing twice, and both sides agree', async () => {
    const ids = await addJobs(f.a.pool, jobs(0, 0, 3));
    const first = await f.begin('op/move-1.1', f.a, f.b, [0]);
    await withCopy(await f.copyJob(first, f.a, f.b), async (copy) => {
      await copy.pass();
      await copy.reserve();
      await addStatus(f.a.pool, ids[0]!, 'failed');
      await f.a.steward.quiesce({ ...first, limitMs: 1_000 });
      await f.a.steward.fence({ ...first, holdDeadlineMs: 5_000 });
      expect(await copy.pass({ fenced: true })).toMatchObject({ statuses: 1 });
    });
    const retry = await f.claim(first.move, 'retry');
    await withCopy(await f.copyJob(retry, f.a, f.b), async (copy) => {
      expect(await copy.pass()).toMatchObject({ pass: 3, jobs: 0, statuses: 0 });
      await copy.reserve();
      await f.a.steward.quiesce({ ...retry, limitMs: 1_000 });
      await f.a.steward.fence({ ...retry, holdDeadlineMs: 5_000 });
      await copy.pass({ fenced: true });
      await f.append({ type: 'hand over', move: retry.move, token: retry.token, proof: await copy.verify() });
    });
    await opens(f.b, 0);
    expect(await pendingAt(f.b, 0)).toMatchObject([{ n: 0, state: 'failed' }, { n: 1 }, { n: 2 }]);
  });

  test('finds that a dataset which it was reading has gone, and does not go on', async () => {
    await addJobs(f.a.pool, jobs(0, 0, 3));
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const job = await f.copyJob(command, f.a, f.b);
    await copyPass(job);
    await f.a.pool.query("SELECT ringmaster.add_dataset('gw', NULL)");
    await f.a.pool.query("DELETE FROM ringmaster.datasets WHERE prefix = 'gw' AND dataset = 1");
    await expect(copyPass(job)).rejects.toMatchObject({ code: 'SOURCE_DATASET_GONE' });
  });
});

describe('all job types and datasets', () => {
  test('come along: batch jobs, and a dataset that is made while it copies', async () => {
    await addJobs(f.a.pool, jobs(0, 0, 3, { prefix: 'batch_rt', states: ['executing', 'failed'] }));
    await addJobs(f.a.pool, jobs(0, 0, 2));
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    await withCopy(await f.copyJob(command, f.a, f.b), async (copy) => {
      await copy.pass();
      await f.a.pool.query("SELECT ringmaster.add_dataset('gw', NULL)");
      await f.a.pool.query(
        `INSERT INTO public.gw_jobs_2 (workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
         SELECT 'ws-1', gen_random_uuid(), 'user-0', 'ws-1-0', '{}', 'GW', jsonb_build_object('n', n) FROM generate_series(2, 4) AS n`,
      );
      await f.a.pool.query(
        "INSERT INTO public.gw_job_status_2 (job_id, job_state, attempt) SELECT max(job_id), 'failed', 2 FROM public.gw_jobs_2",
      );
      expect(await copy.pass()).toMatchObject({ jobs: 3, statuses: 1 });
      await f.a.steward.quiesce({ ...command, limitMs: 1_000 });
      await copy.reserve();
      await f.a.steward.fence({ ...command, holdDeadlineMs: 5_000 });
      await copy.pass({ fenced: true });
      await f.append({ type: 'hand over', move: command.move, token: command.token, proof: await copy.verify() });
    });
    await opens(f.b, 0);
    expect(await numbers(f.b, 0)).toEqual([0, 1, 2, 3, 4]);
    expect((await pendingAt(f.b, 0)).at(-1)).toMatchObject({ state: 'failed', attempt: 2 });
    expect(await pendingAt(f.b, 0, 'batch_rt')).toMatchObject([0, 1, 2].map((n) => ({ n, state: 'failed' })));
  });

  test('a status that comes in each pass is the job’s state at the end, and one that finishes a job takes it out', async () => {
    const ids = await addJobs(f.a.pool, jobs(0, 0, 4));
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    await withCopy(await f.copyJob(command, f.a, f.b), async (copy) => {
      await copy.pass();
      for (const [n, state] of ['executing', 'failed', 'executing'].entries()) {
        await addStatus(f.a.pool, ids[0]!, state, 'gw', n + 1);
        await addStatus(f.a.pool, ids[0]!, 'waiting', 'gw', n + 1);
        if (n === 1) await addStatus(f.a.pool, ids[2]!, 'succeeded');
        expect(await copy.pass()).toMatchObject({ jobs: 0, statuses: n === 1 ? 2 : 1 });
      }
      await f.a.steward.quiesce({ ...command, limitMs: 1_000 });
      await copy.reserve();
      await f.a.steward.fence({ ...command, holdDeadlineMs: 5_000 });
      await copy.pass({ fenced: true });
      const proof = await copy.verify();
      expect(proof).toMatchObject({ jobsPending: 3, jobsCopied: 4 });
      await f.append({ type: 'hand over', move: command.move, token: command.token, proof });
    });
    await opens(f.b, 0);
    expect(await pendingAt(f.b, 0)).toMatchObject([{ n: 0, state: 'waiting', attempt: 3 }, { n: 1 }, { n: 3 }]);
  });
});
