/** For tests that kill in the middle of a copy: a copy as a process, a row at which the target stops, and what must hold at the end. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { createInterface } from 'node:readline';
import pg from 'pg';
import { expect } from 'vitest';
import type { CopyJob } from '../../jobsdb/copy.ts';
import { until } from '../support/wait.ts';
import type { ChildJob, Said } from './copy-child.ts';
import { type TestNode, WORKSPACE } from './move-fixture.ts';

/** Of the advisory lock at which a row waits. */
const STOP_KEY = 7_071;
const WITHIN = { deadlineMs: 30_000 };

export class CopyProcess {
  readonly said: Said[] = [];
  readonly process: ChildProcess;
  readonly #ended: Promise<unknown>;

  constructor(
    job: CopyJob,
    from: TestNode,
    to: TestNode,
    passes: ChildJob['passes'],
    { nodeFlags = [], ...more }: Pick<ChildJob, 'deafAfterCommits'> & { readonly nodeFlags?: readonly string[] } = {},
  ) {
    const { move, token, partitions, datasets, chunkRowsMax } = job;
    const child: ChildJob = {
      ...{ move, token, partitions, datasets, passes, ...more },
      ...(chunkRowsMax ? { chunkRowsMax } : {}),
      sourceUrl: from.database.url,
      targetUrl: to.database.url,
    };
    this.process = spawn(
      process.execPath,
      [...nodeFlags, '--disable-warning=ExperimentalWarning', path.resolve('test/jobsdb/copy-child.ts')],
      { env: { ...process.env, COPY_CHILD_JOB: JSON.stringify(child) }, stdio: ['ignore', 'pipe', 'inherit'] },
    );
    createInterface({ input: this.process.stdout! }).on('line', (line) => this.said.push(JSON.parse(line) as Said));
    this.#ended = once(this.process, 'close');
  }

  signal(signal: NodeJS.Signals): void {
    this.process.kill(signal);
  }

  async kill(): Promise<void> {
    this.process.kill('SIGKILL');
    await this.#ended;
  }

  /** What it said last, when it has ended by itself. */
  async end(): Promise<Said> {
    await this.#ended;
    return this.said.at(-1)!;
  }

  get hasEnded(): boolean {
    return this.process.exitCode !== null || this.process.signalCode !== null;
  }

  /** It has heard nothing since a COMMIT. */
  async isDeaf(): Promise<void> {
    await until(async () => this.said.some((said) => 'deaf' in said), { ...WITHIN, what: 'a commit without answer' });
  }
}

/** The target stops at one row, by its payload's `n`, until the test lets it go on. */
export interface StopAtRow {
  /** A transaction has come there. */
  reached(): Promise<void>;
  letGo(): Promise<void>;
}

export async function stopAtRow(at: TestNode, { datasets }: CopyJob, n: number): Promise<StopAtRow> {
  const gw = datasets.find(({ prefix }) => prefix === 'gw')!.dataset;
  const holder = new pg.Client({ connectionString: at.database.url });
  holder.on('error', () => undefined); // its server may be stopped in the middle
  await holder.connect();
  await holder.query('SELECT pg_advisory_lock($1, 0)', [STOP_KEY]);
  await at.pool.query(`
    CREATE OR REPLACE FUNCTION public.stop_here() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_advisory_xact_lock_shared(${STOP_KEY}, 0); RETURN NEW; END $$;
    CREATE OR REPLACE TRIGGER stop_here BEFORE INSERT ON public.gw_jobs_${gw}
    FOR EACH ROW WHEN ((NEW.event_payload->>'n')::int = ${n}) EXECUTE FUNCTION public.stop_here()`);
  return {
    reached: () =>
      until(
        async () =>
          ((
            await at.pool.query("SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND NOT granted", [
              STOP_KEY,
            ])
          ).rowCount ?? 0) > 0,
        { ...WITHIN, what: `row ${n} at the target` },
      ).then(() => undefined),
    letGo: () => holder.end().catch(() => undefined),
  };
}

/** Jobs `from` to below `to` of one partition, of twenty users; every third has failed once, every seventh is finished. */
export async function fill(node: TestNode, partition: number, from: number, to: number): Promise<void> {
  await node.pool.query(
    `WITH added AS (
       INSERT INTO public.gw_jobs_1 (workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
       SELECT $1, gen_random_uuid(), 'user-' || n % 20, $2, '{}', 'GW', jsonb_build_object('n', n, 'text', repeat(md5(n::text), 6))
       FROM generate_series($3::int, $4::int - 1) AS n RETURNING job_id, (event_payload->>'n')::int AS n),
     seen AS (INSERT INTO ringmaster.message_ids (partition, message_id) SELECT $5, 'm-' || n FROM added)
     INSERT INTO public.gw_job_status_1 (job_id, job_state, attempt, exec_time)
     SELECT job_id, CASE WHEN n % 7 = 0 THEN 'succeeded' ELSE 'failed' END, n % 5, now() FROM added WHERE n % 7 = 0 OR n % 3 = 0 ORDER BY job_id`,
    [WORKSPACE, `${WORKSPACE}-${partition}`, from, to, partition],
  );
}

/** What `fill` leaves pending. */
export const pendingOf = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, i) => from + i)
    .filter((n) => n % 7 !== 0)
    .map((n) => ({
      n,
      user: `user-${n % 20}`,
      state: n % 3 === 0 ? 'failed' : null,
      attempt: n % 3 === 0 ? n % 5 : null,
    }));

/** Every line of the ledger counts the rows that are there, and no row is outside of it. */
export async function expectLedgerFits(at: TestNode, { move, datasets }: CopyJob): Promise<void> {
  for (const { prefix, dataset } of datasets) {
    const { rows } = await at.pool.query<{ told: string; found: string; total: string }>(
      `WITH chunks AS (
         SELECT c.row_count AS told, (SELECT count(*) FROM public.${prefix}_jobs_${dataset} AS j
           WHERE j.job_id > c.after_id + k.constant AND j.job_id <= c.up_to_id + k.constant) AS found
         FROM ringmaster.import_chunks AS c JOIN ringmaster.import_passes AS p USING (move, pass),
           LATERAL (SELECT (p.marks->'prefixes'->c.prefix->>'constant')::bigint AS constant) AS k
         WHERE c.move = $1 AND c.prefix = $2)
       SELECT coalesce(string_agg(told::text, ',' ORDER BY told), '') AS told, coalesce(string_agg(found::text, ',' ORDER BY told), '') AS found,
         (coalesce(sum(told), 0) - (SELECT count(*) FROM public.${prefix}_jobs_${dataset}))::text AS total FROM chunks`,
      [move, prefix],
    );
    expect(rows[0]!.found, `rows of ${prefix} by the ledger`).toBe(rows[0]!.told);
    expect(rows[0]!.total, `rows of ${prefix} outside of the ledger`).toBe('0');
  }
}
