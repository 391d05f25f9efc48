import { statfs } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Room } from '../../platform/platform.ts';
import { type OperationProgress, resumeUpdate } from '../../workflows/messages.ts';
import { createFixture, type Fixture, type FixtureOptions, pendingAt, WORKSPACE } from '../jobsdb/move-fixture.ts';
import { createDatabaseAt, createTestDatabase } from '../support/database.ts';
import { startOwnPostgres } from '../support/own-postgres.ts';
import { mountTinyDisk, tinyDisksMissing } from '../support/tiny-disk.ts';
import { until } from '../support/wait.ts';
import { Harness } from './harness.ts';
import { withTwoNodes } from './two-nodes.ts';

const noDisks = tinyDisksMissing();
if (noDisks) console.warn(`skipped: ${noDisks}`);

let harness: Harness;
beforeAll(async () => {
  harness = await Harness.open();
});
afterAll(() => harness?.close());

interface Trial {
  readonly f: Fixture;
  /** Waits until the operation, which moves all of node-1 to node-0, is blocked. */
  blocked(): Promise<OperationProgress>;
  resume(): Promise<OperationProgress>;
}

/** An operation from two nodes to one, with a worker of its own. */
async function scaleDown(
  options: FixtureOptions & { readonly roomOf?: () => Promise<Room | null> },
  prepare: (f: Fixture) => Promise<unknown>,
  run: (trial: Trial) => Promise<void>,
): Promise<void> {
  const f = await createFixture(4, { names: ['node-0', 'node-1'], ...options });
  try {
    await prepare(f);
    await withTwoNodes(harness, f, options.roomOf ? { roomOf: options.roomOf } : {}, async ({ start, shows }) => {
      const operation = await start({ targetNodes: 1 });
      await run({
        f,
        blocked: () => shows(operation, 'the operation is blocked', ({ state }) => state === 'blocked', 30_000),
        resume: async () => {
          await operation.executeUpdate(resumeUpdate, { args: [{}] });
          return operation.result();
        },
      });
    });
  } finally {
    await f.close();
  }
}

/** Pending jobs of all partitions of node-1, in order. */
async function fill(f: Fixture, rows: number, bytes: number): Promise<void> {
  for (const partition of [0, 1, 2, 3]) {
    if ((await f.ring()).owners[partition] !== 'node-1') continue;
    await f.b.pool.query(
      `INSERT INTO gw_jobs_1 (workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
       SELECT $1, gen_random_uuid(), 'anna', $2, '{}', 'GW', jsonb_build_object('n', n, 'text',
         (SELECT string_agg(md5(n::text || i), '') FROM generate_series(1, ceil($4::numeric / 32)::int) AS i))
       FROM generate_series(1, $3::int) AS n`,
      [WORKSPACE, `${WORKSPACE}-${partition}`, rows, bytes],
    );
  }
}
const pendingNumbers = async (f: Fixture, node: 'a' | 'b'): Promise<number[]> => {
  const all = await Promise.all([0, 1, 2, 3].map((partition) => pendingAt(f[node], partition)));
  return all.flat().map(({ n }) => n);
};
/** Nothing has gone, and no copy is left at the target, soon after the move was aborted. */
async function expectUntouched(f: Fixture, rows: number): Promise<void> {
  expect(await pendingNumbers(f, 'b')).toHaveLength(rows);
  await until(
    async () => (await f.a.pool.query('SELECT FROM ringmaster.datasets WHERE move IS NOT NULL')).rowCount === 0,
    {
      deadlineMs: 10_000,
      what: 'no copy is left at the target',
    },
  );
}

test('a schema that differs blocks the operation by name; made alike and resumed, it finishes', async () => {
  await scaleDown(
    {},
    async (f) => {
      await fill(f, 50, 100);
      await f.b.pool.query('ALTER TABLE gw_jobs_1 ADD COLUMN more text');
    },
    async ({ f, blocked, resume }) => {
      const seen = await blocked();
      expect(seen.blockedOn).toMatchObject({
        code: 'SCHEMA_DIFFERS',
        message: 'gw_jobs_1.more is text at node-1, missing at node-0',
        move: 'move-1',
      });
      expect(seen.nextAction).toBe(`ringmaster resume ${seen.operationId}`);
      await expectUntouched(f, 100);
      await f.b.pool.query('ALTER TABLE gw_jobs_1 DROP COLUMN more');
      expect(await resume()).toMatchObject({ state: 'completed', jobsMoved: 100 });
      expect(await pendingNumbers(f, 'a')).toEqual(
        [...Array(2)].flatMap(() => Array.from({ length: 50 }, (_, n) => n + 1)),
      );
    },
  );
});

test.skipIf(noDisks)(
  'too little room at the target blocks the operation with the numbers; with a larger disk it finishes',
  async () => {
    const disk = mountTinyDisk(120);
    const postgres = await startOwnPostgres({
      folder: `${disk.folder}/server`,
      settings: { max_wal_size: '32MB', min_wal_size: '32MB', shared_buffers: '16MB' },
    });
    try {
      await scaleDown(
        {
          makeDatabase: (node) => (node === 'a' ? createDatabaseAt(postgres.server.address) : createTestDatabase()),
          roomOf: async () => {
            const { bsize, blocks, bavail } = await statfs(`${disk.folder}/server/data`);
            return { totalBytes: blocks * bsize, freeBytes: bavail * bsize };
          },
        },
        (f) => fill(f, 1_000, 40_000),
        async ({ f, blocked, resume }) => {
          const seen = await blocked();
          expect(seen.blockedOn).toMatchObject({
            code: 'NODE_DISK_FULL',
            message: expect.stringMatching(
              /^node-0 has .+ MB free of 126 MB, the move needs about .+ MB and 12\.6 MB stay free: /,
            ),
          });
          await expectUntouched(f, 2_000);
          disk.resize(600);
          expect(await resume()).toMatchObject({ state: 'completed', jobsMoved: 2_000 });
          expect(await pendingNumbers(f, 'a')).toHaveLength(2_000);
        },
      );
    } finally {
      await postgres.close();
      disk.close();
    }
  },
);

test.skipIf(noDisks)(
  'a disk that fills up in the middle of a copy blocks the operation by name; with room it finishes',
  async () => {
    const disk = mountTinyDisk(16);
    const postgres = await startOwnPostgres();
    try {
      // Only the tables lie there: where WAL has no room the whole server ends.
      await postgres.query(`CREATE TABLESPACE tiny LOCATION '${disk.folder}'`);
      await scaleDown(
        {
          makeDatabase: async (node) => {
            if (node === 'b') return createTestDatabase();
            const database = await createDatabaseAt(postgres.server.address);
            await postgres.query(`ALTER DATABASE ${database.address.database} SET default_tablespace = tiny`);
            return database;
          },
        },
        (f) => fill(f, 1_000, 20_000),
        async ({ f, blocked, resume }) => {
          expect((await blocked()).blockedOn).toMatchObject({
            code: 'NODE_DISK_FULL',
            message: expect.stringMatching(/^node-0.*: its disk is full \(SQLSTATE 53100\): could not extend file/),
          });
          await expectUntouched(f, 2_000);
          disk.resize(300);
          expect(await resume()).toMatchObject({ state: 'completed', jobsMoved: 2_000 });
          expect(await pendingNumbers(f, 'a')).toHaveLength(2_000);
        },
      );
    } finally {
      await postgres.close();
      disk.close();
    }
  },
);
