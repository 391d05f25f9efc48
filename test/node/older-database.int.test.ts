/**
 * Goal: a node whose database was restored from an older backup opens nothing and takes nothing in, and says so by name; with its own volume back it goes on.
 * Method: the node's process on a PostgreSQL of its own, whose folder is copied while it is stopped and put back later.
 */
import { execFile } from 'node:child_process';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openSession } from '../../node/session.ts';
import { Steward } from '../../node/steward.ts';
import { whatIsOlder } from '../../node/witness.ts';
import type { PostgresServer } from '../../platform/local/postgres-server.ts';
import { createMemoryRingStore, type MemoryRingStore } from '../../ringstore/memory.ts';
import { type DatabaseMarks, decideAndAppend } from '../../ringstore/ringstore.ts';
import { addJobs, RecordingWork } from '../jobsdb/move-fixture.ts';
import { type OwnPostgres, startOwnPostgres } from '../support/own-postgres.ts';
import { until } from '../support/wait.ts';

describe('what only grows', () => {
  const told: DatabaseMarks = { instance: 3, server: 'a', logBytes: 1_000, jobIds: { gw: 10, rt: 5 } };
  const mine = (changed: Partial<DatabaseMarks>): DatabaseMarks => ({ ...told, instance: 4, ...changed });
  test.each([
    ['the same database, started again', mine({}), null],
    ['one that has gone on', mine({ logBytes: 2_000, jobIds: { gw: 11, rt: 9, batch_rt: 1 } }), null],
    ['from before a start of its node', mine({ instance: 3 }), 'starts of its node'],
    ['from before some jobs', mine({ jobIds: { gw: 9, rt: 5 } }), 'its last gw job is 9'],
    ['from before a prefix had any', mine({ jobIds: { gw: 10 } }), 'its last rt job is 0'],
    ['from before some statuses', mine({ logBytes: 999 }), 'its log has 999 bytes'],
    ['dumped and restored on a new server', mine({ server: 'b', logBytes: 1 }), null],
    ['an older dump on a new server', mine({ server: 'b', logBytes: 1, jobIds: { gw: 9, rt: 5 } }), 'its last gw job'],
  ])('%s', (_what, marks, expected) => {
    const because = whatIsOlder(marks, told);
    if (expected === null) expect(because).toBeNull();
    else expect(because).toContain(expected);
  });
});

describe('a node', () => {
  const CLUSTER = 'test';
  const log = pino({ level: 'silent' });
  let own: OwnPostgres;
  let server: PostgresServer;
  let store: MemoryRingStore;
  let ends: (() => Promise<unknown>)[];

  beforeEach(async () => {
    own = await startOwnPostgres();
    server = own.server;
    store = createMemoryRingStore();
    ends = [];
  });
  afterEach(async () => {
    for (const end of ends) await end();
    await store.close();
    await own.close();
  });

  async function start() {
    const session = await openSession({ node: 'node-0', clusterId: CLUSTER, databaseUrl: server.url });
    const work = new RecordingWork();
    const steward = new Steward({ session, ringStore: store, work, log, workspaceId: 'ws-1' });
    let ended = false;
    const end = async (): Promise<void> => {
      if (ended) return;
      ended = true;
      await steward.stop();
      await session.pool.end();
    };
    ends.push(end);
    const starting = steward.start();
    return { session, work, steward, starting, end };
  }
  const statesAt = async ({ session }: Awaited<ReturnType<typeof start>>): Promise<string[]> =>
    (await session.pool.query<{ state: string }>('SELECT DISTINCT state FROM ringmaster.partitions')).rows.map(
      ({ state }) => state,
    );
  const told = (databaseId: string, holds: (marks: DatabaseMarks) => boolean) =>
    until(
      async () => {
        const marks = await store.marksOf(CLUSTER, databaseId);
        return marks !== null && holds(marks);
      },
      { deadlineMs: 20_000, what: 'it has told how far its database is' },
    );
  /** With owners and times, as a snapshot of a volume has them. */
  const copy = (from: string, to: string) => promisify(execFile)('cp', ['-a', from, to]);
  const folder = (name: string): string => path.join(server.folder, name);

  test('that comes back with a database from before some events opens nothing, and goes on with the right one', async () => {
    const first = await start();
    const { databaseId } = first.session;
    const nodes = [{ node: 'node-0', databaseId, url: 'http://node-0' }];
    await decideAndAppend(
      store,
      CLUSTER,
      { type: 'make ring', clusterId: CLUSTER, partitionCount: 4, nodes },
      { actor: 'test', reason: 'test', operation: null },
    );
    await until(async () => (await first.steward.status()).partitions.open === 4, { deadlineMs: 10_000, what: 'open' });
    await first.end();
    await server.stop();
    await copy(folder('data'), folder('backup'));
    await server.restart();

    const second = await start();
    await second.starting;
    const [id] = await addJobs(second.session.pool, [{ partition: 0 }]);
    await told(databaseId, ({ instance, jobIds }) => instance === second.session.instance && jobIds['gw'] === id);
    await second.end();
    await server.stop();
    await copy(folder('data'), folder('right'));
    await rm(folder('data'), { recursive: true });
    await copy(folder('backup'), folder('data'));
    await server.restart();

    const older = await start();
    await older.starting;
    expect(await older.steward.status()).toMatchObject({
      serving: false,
      blocked: { code: 'NODE_DATABASE_OLDER', message: expect.stringContaining('node-0') },
      partitions: { open: 0, closed: 4 },
    });
    expect(await statesAt(older)).toEqual(['closed']); // what the gateway asks
    expect(older.work.calls.filter((call) => call.startsWith('opened'))).toEqual([]);
    await older.end();

    await server.stop();
    await rm(folder('data'), { recursive: true });
    await copy(folder('right'), folder('data'));
    await server.restart();
    const right = await start();
    await right.starting;
    expect(await right.steward.status()).toMatchObject({ serving: true, blocked: null, partitions: { open: 4 } });
    await told(databaseId, ({ instance }) => instance === right.session.instance);
  });
});
