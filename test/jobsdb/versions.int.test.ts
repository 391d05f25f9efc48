/**
 * Goal: nodes whose PostgreSQL is of different versions, from the oldest that we work with to the newest, move jobs to each other, and both count the same
 * digests. Method: a real PostgreSQL 15 beside the run's 18; rows with whatever is odd in their columns.
 */
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openCopy } from '../../jobsdb/copy.ts';
import { migrateJobsDb } from '../../jobsdb/migrate.ts';
import { createPool } from '../../jobsdb/pool.ts';
import { preflight } from '../../jobsdb/preflight.ts';
import { contentHash, digestSum, stateHash } from '../../jobsdb/sql/digest.ts';
import { jobColumns, statusColumns } from '../../jobsdb/sql/schema.ts';
import { createDatabaseAt, createTestDatabase, type TestDatabase } from '../support/database.ts';
import { type OwnPostgres, POSTGRES_15, startOwnPostgres } from '../support/own-postgres.ts';
import { until } from '../support/wait.ts';
import { createFixture, WORKSPACE } from './move-fixture.ts';

let postgres15: OwnPostgres;
beforeAll(async () => {
  postgres15 = await startOwnPostgres({ binaries: POSTGRES_15 });
});
afterAll(() => postgres15?.close());
const databaseOf = (version: number): Promise<TestDatabase> =>
  version === 15 ? createDatabaseAt(postgres15.server.address) : createTestDatabase();

const ODD_JSON = [
  ...['{}', '[]', '""', 'null', 'true', '[null, [], {}, ""]'],
  ...[
    '{"n": 1}',
    '{"n": 1.0}',
    '{"n": 1.00}',
    '{"n": -0}',
    '{"n": 1e2}',
    '{"n": 12345678901234567890.1234567890123456789}',
  ],
  ...[
    '{"n": 1e300}',
    '{"n": -1e-300}',
    '{"b": 1, "a": 2, "b": 3}',
    '{"": {"": {"": [[[[{"deep": [1, [2, [3]]]}]]]]}}}',
  ],
  ...[
    String.raw`"\"\\\/\b\f\n\r\t"`,
    String.raw`"\u00e9 \ud83d\ude00"`,
    '"é 😀 中文 ﷽ \u200b\u202e"',
    '{"é": "e\u0301"}',
    String.raw`{"\u0001": "\u007f"}`,
  ],
  JSON.stringify({ long: 'x'.repeat(20_000), list: Array.from({ length: 500 }, (_, n) => n / 7) }),
];
const ODD_TIMES = [
  'infinity',
  '-infinity',
  '2026-03-29 02:30:00.123456+02',
  '1970-01-01 00:00:00Z',
  '0044-03-15 12:00:00+00 BC',
];
const ODD_CONSUMERS = [null, '{}', '{""}', '{a,NULL,"a\\"b","ü\\\\"}', '{NULL}'];
const ODD_TEXT = ['', ' ', 'anna', '<<>>ünï', 'it\'s \\ a "user"', '\u001f\u001f'];

/** The nth job, with something odd in each of its columns, and its last status. */
const at = <T>(list: readonly T[], n: number): T => list[n % list.length]!;
const jobRow = (n: number, partition: number): unknown[] => [
  at(ODD_TEXT, n) === '' ? '' : WORKSPACE,
  `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`,
  at(ODD_TEXT, n),
  `${WORKSPACE}-${partition}`,
  at(ODD_JSON, n + 3),
  n % 2 === 0 ? '' : 'WEBHOOK',
  at(ODD_JSON, n),
  n,
  at(ODD_TIMES, n),
  at(ODD_TIMES, n + 1),
  at(ODD_CONSUMERS, n),
];
const statusRow = (n: number, jobId: string): unknown[] => [
  jobId,
  at(['failed', 'waiting', 'executing'], n),
  n,
  at([...ODD_TIMES, null], n),
  at([null, ...ODD_TIMES], n),
  at([null, '', '503'], n),
  at(ODD_JSON, n + 5),
  at(ODD_JSON, n + 7),
  at(ODD_TEXT, n),
];
const list = (count: number): string => Array.from({ length: count }, (_, i) => `$${i + 1}`).join(', ');
const ROWS = ODD_JSON.length * 3;

async function addOddJobs(client: pg.ClientBase | pg.Pool, partition: number): Promise<void> {
  const [, ...columns] = jobColumns;
  const [, ...ofStatus] = statusColumns;
  for (let n = 0; n < ROWS; n += 1) {
    const added = await client.query<{ job_id: string }>(
      `INSERT INTO public.gw_jobs_1 (${columns.join(', ')}) VALUES (${list(columns.length)}) RETURNING job_id`,
      jobRow(n, partition),
    );
    if (n % 3 === 0) continue; // a job that nobody has tried yet
    const values = statusRow(n, added.rows[0]!.job_id);
    await client.query(
      `INSERT INTO public.gw_job_status_1 (${ofStatus.join(', ')}) VALUES (${list(values.length)})`,
      values,
    );
  }
}

/** All columns as text, in the order of ids; the ids themselves are the target's own. */
async function rowsOf(pool: pg.Pool, dataset: number): Promise<unknown[]> {
  const [, ...columns] = jobColumns;
  const ofStatus = statusColumns.filter((column) => column !== 'job_id');
  const text = [...columns.map((c) => `j.${c}::text`), ...ofStatus.map((c) => `s.${c}::text AS s_${c}`)];
  const found = await pool.query(
    `SET TIME ZONE 'UTC'; SELECT ${text.join(', ')} FROM public.gw_jobs_${dataset} AS j
     LEFT JOIN public.gw_job_status_${dataset} AS s USING (job_id) ORDER BY j.job_id`,
  );
  return (found as unknown as pg.QueryResult[])[1]!.rows;
}

describe.each([
  [15, 18],
  [18, 15],
])('from PostgreSQL %i to %i', (from, to) => {
  test('a move brings every row as it was, whatever is odd in it, and is verified', async () => {
    const f = await createFixture(4, { makeDatabase: (node) => databaseOf(node === 'a' ? from : to) });
    try {
      await addOddJobs(f.a.pool, 0);
      const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
      await preflight({
        source: { node: 'a', pool: f.a.pool },
        target: { node: 'b', pool: f.b.pool },
        move: command.move,
      });
      const copy = await openCopy(await f.copyJob(command, f.a, f.b, 10));
      let failed = true;
      try {
        await copy.pass();
        await f.a.steward.quiesce({ ...command, limitMs: 1_000 });
        await f.a.steward.fence({ ...command, holdDeadlineMs: 30_000 });
        await copy.pass({ fenced: true });
        const proof = await copy.verify();
        expect(proof).toMatchObject({ jobsPending: ROWS });
        await f.append({ type: 'hand over', move: command.move, token: command.token, proof });
        failed = false;
      } finally {
        copy.close(failed);
      }
      await until(async () => (await f.b.steward.status()).partitions.open === 3, {
        deadlineMs: 10_000,
        what: 'the partition opens at its new owner',
      });
      await f.a.steward.stop(); // it marks what it gave away as migrated: what it had is compared without that
      await f.a.pool.query("DELETE FROM public.gw_job_status_1 WHERE job_state = 'migrated'");
      expect(await rowsOf(f.b.pool, 2)).toEqual(await rowsOf(f.a.pool, 1));
    } finally {
      await f.close();
    }
  });
});

test('PostgreSQL 15 and 18 count the same digest of each row', async () => {
  const [old, young] = await Promise.all([15, 18].map(databaseOf));
  try {
    const digests = await Promise.all(
      [old!, young!].map(async ({ url }) => {
        await migrateJobsDb(url);
        const client = new pg.Client({ connectionString: url });
        await client.connect();
        try {
          await addOddJobs(client, 0);
          const { rows } = await client.query<{ job_id: string; content: string; state: string }>(
            `SELECT j.job_id, (${contentHash('j', 'j.job_id')})::text AS content, (${stateHash('s.', 'j.job_id')})::text AS state
             FROM gw_jobs_1 AS j LEFT JOIN gw_job_status_1 AS s USING (job_id) ORDER BY j.job_id`,
          );
          const sum = await client.query<{ sum: string }>(
            `SELECT ${digestSum(contentHash('j', 'j.job_id'))} AS sum FROM gw_jobs_1 AS j`,
          );
          return { rows, sum: sum.rows[0]!.sum };
        } finally {
          await client.end();
        }
      }),
    );
    expect(digests[0]!.rows).toHaveLength(ROWS);
    expect(new Set(digests[0]!.rows.map(({ content }) => content)).size).toBe(ROWS);
    expect(digests[1]).toEqual(digests[0]);
    expect(digests[0]!.sum).toBe(String(digests[0]!.rows.reduce((sum, { content }) => sum + BigInt(content), 0n)));
  } finally {
    await Promise.all([old!.drop(), young!.drop()]);
  }
});

describe('a PostgreSQL that is too old', () => {
  const refused = { code: 'POSTGRES_TOO_OLD' };

  test('is refused by a node at its start, which has changed nothing', async () => {
    const database = await databaseOf(15);
    const client = new pg.Client({ connectionString: database.url });
    try {
      await expect(migrateJobsDb(database.url, { postgresOldest: 160_000 })).rejects.toMatchObject({
        ...refused,
        message: expect.stringMatching(/^PostgreSQL is 15\.\d+ at the jobs database; 16 or newer is needed$/),
      });
      await client.connect();
      const tables = await client.query("SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace");
      expect(tables.rowCount).toBe(0);
    } finally {
      await client.end();
      await database.drop();
    }
  });

  test.each([
    ['source', 15, 18],
    ['target', 18, 15],
  ])('at the %s is refused before a move, with the versions of both', async (_side, from, to) => {
    const databases = await Promise.all([from, to].map(databaseOf));
    const pools = databases.map(({ url }) => createPool({ connectionString: url, application_name: 'test' }));
    try {
      await expect(
        preflight({
          source: { node: 'node-0', pool: pools[0]! },
          target: { node: 'node-1', pool: pools[1]! },
          move: 'op/move-1.1',
          postgresOldest: 160_000,
        }),
      ).rejects.toMatchObject({
        ...refused,
        message: expect.stringMatching(
          new RegExp(`^PostgreSQL is ${from}\\.\\d+ at node-0, ${to}\\.\\d+ at node-1; 16 or newer is needed$`),
        ),
      });
    } finally {
      await Promise.all(pools.map((pool) => pool.end()));
      await Promise.all(databases.map((database) => database.drop()));
    }
  });
});
