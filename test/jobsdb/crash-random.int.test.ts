/**
 * Goal: a copy that is killed again and again, at any point, while the source takes in and works on its jobs, ends as if nothing had happened.
 * Method: a model of a node writes as the node does, in transactions that `ringmaster.enter` begins, and remembers what it has committed; a process copies,
 * and is killed at random rows and commits. At the end: fenced, verified, handed over, opened, compared with the model. A failure prints its seed;
 * TEST_SEED runs one again.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type CopyJob, withCopy } from '../../jobsdb/copy.ts';
import { beginEntered } from '../../jobsdb/sql/intake.ts';
import { seeded } from '../node/support.ts';
import { until } from '../support/wait.ts';
import { CopyProcess, expectLedgerFits, stopAtRow } from './crash-support.ts';
import { createFixture, type Fixture, pendingAt, type TestNode, WORKSPACE } from './move-fixture.ts';

const MOVE = 'op/move-1.1';
const PARTITION = 0;
const AT_START = 4_000;
const CHUNK_ROWS = 300;
const KILLS = 4;
const SEEDS = process.env['TEST_SEED'] ? [Number(process.env['TEST_SEED'])] : [1, Math.floor(Math.random() * 1e9)];

let f: Fixture;
beforeEach(async () => {
  f = await createFixture();
});
afterEach(() => f.close());

interface Job {
  readonly id: string;
  readonly n: number;
  state: string | null;
  attempt: number | null;
}

/** Takes in, and gives its jobs states, until the partition is fenced. */
class Writer {
  readonly jobs: Job[] = [];
  readonly #node: TestNode;
  readonly #random: () => number;
  #running: Promise<void> = Promise.resolve();
  #isEnough = false;

  constructor(node: TestNode, random: () => number) {
    this.#node = node;
    this.#random = random;
  }

  start(): void {
    this.#running = (async () => {
      while (!this.#isEnough && (await this.write(1 + Math.floor(this.#random() * 20)))) await sleep(5);
    })();
    this.#running.catch(() => undefined); // told by whoever stops it
  }

  async stop(): Promise<void> {
    this.#isEnough = true;
    await this.#running;
  }

  /** One transaction. False: the partition takes in no more. */
  async write(rows: number): Promise<boolean> {
    const client = await this.#node.pool.connect();
    try {
      const entered = (await client.query(beginEntered(this.#node.session.instance, [PARTITION]))) as unknown as {
        rows: { state: string }[];
      }[];
      const { state } = entered.at(-1)!.rows[0]!;
      if (state === 'fenced' || state === 'closed') {
        await client.query('ROLLBACK');
        return false;
      }
      const first = this.jobs.length;
      const added = await client.query<{ id: string; n: number }>(
        `WITH seen AS (INSERT INTO ringmaster.message_ids (partition, message_id) SELECT $3, 'm-' || n FROM generate_series($4::int, $5::int) AS n)
         INSERT INTO public.gw_jobs_1 (workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
         SELECT $1, gen_random_uuid(), 'user-' || n % 20, $2, '{}', 'GW', jsonb_build_object('n', n, 'text', repeat(md5(n::text), 6))
         FROM generate_series($4::int, $5::int) AS n RETURNING job_id::text AS id, (event_payload->>'n')::int AS n`,
        [WORKSPACE, `${WORKSPACE}-${PARTITION}`, PARTITION, first, first + rows - 1],
      );
      const fresh: Job[] = added.rows.map((row) => ({ ...row, state: null, attempt: null }));
      const changes = state === 'open' ? this.#changes() : [];
      if (changes.length > 0)
        await client.query(
          `INSERT INTO public.gw_job_status_1 (job_id, job_state, attempt, exec_time)
           SELECT u.id, u.state, u.attempt, now() FROM unnest($1::bigint[], $2::text[], $3::int[]) AS u (id, state, attempt)`,
          [
            changes.map(({ job }) => job.id),
            changes.map((change) => change.state),
            changes.map(({ attempt }) => attempt),
          ],
        );
      await client.query('COMMIT');
      this.jobs.push(...fresh.sort((x, y) => x.n - y.n));
      for (const { job, state: became, attempt } of changes) Object.assign(job, { state: became, attempt });
      return true;
    } finally {
      client.release();
    }
  }

  /** Each job at most once. */
  #changes(): { job: Job; state: string; attempt: number }[] {
    const chosen = new Map<string, { job: Job; state: string; attempt: number }>();
    for (let nth = 0; nth < 10 && this.jobs.length > 0; nth += 1) {
      const job = this.jobs[Math.floor(this.#random() * this.jobs.length)]!;
      if (job.state === 'succeeded') continue;
      const state = this.#random() < 0.5 ? 'succeeded' : 'failed';
      chosen.set(job.id, { job, state, attempt: (job.attempt ?? 0) + 1 });
    }
    return [...chosen.values()];
  }

  pending() {
    return this.jobs
      .filter(({ state }) => state !== 'succeeded')
      .map(({ n, state, attempt }) => ({ n, user: `user-${n % 20}`, state, attempt }));
  }
}

/** A process copies until it is killed at a row or after a commit, or has ended by itself. */
async function copyAndKill(job: CopyJob, random: () => number, rows: number): Promise<void> {
  const passes = ['pass', 'pass', 'pass'] as const;
  if (random() < 0.5) {
    const deafAfterCommits = 1 + Math.floor(random() * 20);
    const worker = new CopyProcess(job, f.a, f.b, passes, { deafAfterCommits });
    await until(() => worker.hasEnded || worker.said.some((said) => 'deaf' in said), {
      deadlineMs: 30_000,
      what: `commit ${deafAfterCommits}, or the end`,
    });
    return worker.kill();
  }
  const n = Math.floor(random() * rows);
  const stop = await stopAtRow(f.b, job, n);
  const worker = new CopyProcess(job, f.a, f.b, passes);
  const reached = stop.reached();
  reached.catch(() => undefined); // an attempt that has ended before comes to no row
  await Promise.race([reached, worker.end()]);
  await worker.kill();
  await stop.letGo();
}

test.each(SEEDS)('killed at random points, seed %i', async (seed) => {
  const random = seeded(seed);
  const writer = new Writer(f.a, random);
  while (writer.jobs.length < AT_START) await writer.write(500);
  writer.start();
  try {
    let command = await f.begin(MOVE, f.a, f.b, [PARTITION]);
    let job = await f.copyJob(command, f.a, f.b, CHUNK_ROWS);
    for (let kill = 1; kill <= KILLS; kill += 1) {
      await copyAndKill(job, random, writer.jobs.length);
      command = await f.claim(MOVE, `attempt-after-kill-${kill}`);
      job = await f.copyJob(command, f.a, f.b, CHUNK_ROWS);
      await expectLedgerFits(f.b, job);
    }
    await withCopy(job, async (copy) => {
      await copy.pass();
      await f.a.steward.quiesce({ ...command, limitMs: 5_000 });
      await copy.pass();
      await copy.reserve();
      await f.a.steward.fence({ ...command, holdDeadlineMs: 20_000 });
      await copy.pass({ fenced: true });
      await expectLedgerFits(f.b, job);
      await f.append({ type: 'hand over', move: MOVE, token: command.token, proof: await copy.verify() });
    });
  } finally {
    await writer.stop();
  }
  const open = "SELECT FROM ringmaster.partitions WHERE partition = 0 AND state = 'open'";
  await until(async () => (await f.b.pool.query(open)).rowCount === 1, {
    deadlineMs: 10_000,
    what: 'the target opens',
  });
  expect(await pendingAt(f.b, PARTITION), `seed ${seed}`).toEqual(writer.pending());
  const seen = await f.b.pool.query<{ count: number }>('SELECT count(*)::int FROM ringmaster.message_ids');
  expect(seen.rows[0]!.count, `seed ${seed}`).toBe(writer.jobs.length);
});
