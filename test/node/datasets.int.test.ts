/**
 * Goal: datasets are followed by new ones when they are full and go away when their jobs are done, and nobody who takes in, processes, delivers or imports
 * notices. Method: whole nodes on real databases with limits so small that all of it happens within seconds, under traffic.
 */
import { Writable } from 'node:stream';
import pg from 'pg';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { withCopy } from '../../jobsdb/copy.ts';
import { createPool } from '../../jobsdb/pool.ts';
import type { Dataset } from '../../jobsdb/sql/datasets.ts';
import { type Prefix, prefixes } from '../../jobsdb/sql/schema.ts';
import type { NodeLimits } from '../../node/config.ts';
import { DatasetList, withDatasets } from '../../node/dataset-list.ts';
import { openSession } from '../../node/session.ts';
import { Steward } from '../../node/steward.ts';
import type { WorkingParts } from '../../node/working-parts.ts';
import type { RingCommand } from '../../ring/decide.ts';
import { partitionOf, userKeyOf } from '../../ring/partition.ts';
import { moveOf } from '../../ring/ring.ts';
import { createMemoryRingStore } from '../../ringstore/memory.ts';
import { decideAndAppend } from '../../ringstore/ringstore.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { until } from '../support/wait.ts';
import {
  Destination,
  PARTITIONS,
  post,
  type RunningTestNode,
  seeded,
  startNodeWith,
  startTestNode,
  type TestNode,
} from './support.ts';

const EAGER = { datasetRowsMax: 40, datasetsEveryMs: 15, movedKeepMs: 0 } satisfies Partial<NodeLimits>;
const SOON = { deadlineMs: 30_000 };

let database: TestDatabase;
let destination: Destination;
let url: string;
let ends: (() => Promise<unknown>)[];
/** Warnings and worse of the nodes. */
let troubles: string[];
const logger = pino(
  { level: 'warn' },
  new Writable({
    write(line, _encoding, done) {
      troubles.push(String(line));
      done();
    },
  }),
);

beforeEach(async () => {
  troubles = [];
  database = await createTestDatabase();
  destination = new Destination();
  url = await destination.listen();
  ends = [() => database.drop(), () => destination.close()];
});
afterEach(async () => {
  for (const end of ends.reverse()) await end();
});

const startOne = async (limits: Partial<NodeLimits>): Promise<TestNode> => {
  const node = await startTestNode(database.url, [{ id: 'hook', url }], limits, logger);
  ends.push(() => node.stop());
  return node;
};
const event = (userId: string, n: number): object => ({ type: 'track', userId, n, messageId: `${userId}-${n}` });
const delivered = (count: number) =>
  until(() => destination.accepted.length >= count, {
    ...SOON,
    what: `${count} deliveries (${destination.accepted.length})`,
  });
const datasetsOf = async (pool: pg.Pool): Promise<(Dataset & { attached: boolean })[]> =>
  (await pool.query('SELECT prefix, dataset, move, attached FROM ringmaster.datasets ORDER BY prefix, dataset')).rows;
const tablesOf = async (pool: pg.Pool): Promise<number> =>
  (await pool.query("SELECT FROM pg_tables WHERE tablename ~ '^(gw|rt|batch_rt)_job'")).rowCount ?? 0;

/** Each user's events, by their numbers, came as 1, 2, 3 …, once each. */
function expectInOrder(): void {
  const last = new Map<string, number>();
  for (const {
    event: { userId, n },
  } of destination.accepted) {
    expect(n, `event of ${userId}`).toBe((last.get(userId) ?? 0) + 1);
    last.set(userId, n);
  }
}

describe('a node under traffic', () => {
  test('with datasets that fill up and go all the time: nothing is lost, repeated or out of order, nobody is in trouble, and few are left', async () => {
    const node = await startOne({ ...EAGER, retryMinMs: 5, retryMaxMs: 20 });
    const random = seeded(20_251_125);
    destination.answer = () => (random() < 0.05 ? 500 : 200);
    const made = new Set<string>();
    const numbers = new Map<string, number>();
    for (let sent = 0; sent < 2_000; sent += 20) {
      const batch = Array.from({ length: 20 }, () => {
        const user = `user-${Math.floor(random() * 60)}`;
        const n = (numbers.get(user) ?? 0) + 1;
        numbers.set(user, n);
        return event(user, n);
      });
      expect((await post(node.gatewayUrl, '/v1/batch', { batch })).status).toBe(200);
      for (const { prefix, dataset } of node.steward.datasets()) made.add(`${prefix} ${dataset}`);
    }
    await delivered(2_000);
    expectInOrder();
    expect(destination.accepted).toHaveLength(2_000);
    expect(made.size).toBeGreaterThan(10);
    await until(async () => (await datasetsOf(node.session.pool)).length === prefixes.length, {
      ...SOON,
      what: 'one dataset of each prefix is left',
    });
    expect(await tablesOf(node.session.pool)).toBe(2 * prefixes.length);
    expect(node.steward.datasets()).toHaveLength(prefixes.length);
    expect(troubles).toEqual([]);
  });

  test('a dataset with one job that waits stays, whatever becomes of the others', async () => {
    const node = await startOne({ ...EAGER, retryMinMs: 50, retryMaxMs: 50 });
    destination.answer = ({ event: { userId, n } }) => (userId === 'stuck' && n === 1 && waiting ? 503 : 200);
    let waiting = true;
    for (let n = 1; n <= 200; n += 1)
      await post(node.gatewayUrl, '/v1/batch', { batch: [event('stuck', n), event('other', n)] });
    await until(() => destination.accepted.length === 200, { ...SOON, what: 'all of the other' });
    const gone = async () => (await datasetsOf(node.session.pool)).filter(({ prefix }) => prefix === 'gw').length === 1;
    await until(gone, { ...SOON, what: 'the gw jobs are done' });
    const left = (await datasetsOf(node.session.pool)).filter(({ prefix }) => prefix === 'rt');
    expect(left[0]).toMatchObject({ dataset: 1 });
    waiting = false;
    await delivered(400);
    expectInOrder();
  });

  test('is large in bytes: it is followed as well', async () => {
    const node = await startOne({ datasetBytesMax: 65_536, datasetsEveryMs: 15 });
    const big = 'x'.repeat(2_000);
    for (let n = 1; n <= 60; n += 1)
      await post(node.gatewayUrl, '/v1/batch', { batch: [{ ...event('u', n), big: `${big}${Math.random()}` }] });
    await until(() => node.steward.datasets().some(({ prefix, dataset }) => prefix === 'gw' && dataset > 1), {
      ...SOON,
      what: 'a second gw dataset',
    });
    await delivered(60);
    expectInOrder();
  });

  test('what was read over while its dataset was out of the list is read again', async () => {
    const node = await startOne({ datasetsEveryMs: 3_600_000 });
    await node.session.pool.query("SELECT setval('ringmaster.rt_job_id', 100)");
    await post(node.gatewayUrl, '/v1/batch', { batch: [event('u', 1)] });
    await delivered(1);
    await node.session.pool.query(
      `INSERT INTO rt_jobs_1 (job_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
       SELECT 50, gen_random_uuid(), user_id, partition_id, parameters, custom_val, event_payload || '{"n": 2}' FROM rt_jobs_1`,
    );
    // Again and again, as the keeper does: a user whose job is in flight takes only what lies behind it.
    const again = setInterval(() => (node.work as WorkingParts).readAfresh(), 50);
    await delivered(2);
    clearInterval(again);
    expectInOrder();
  });
});

describe('imports, intake and roll-over at the same time', () => {
  test('the order of every user’s jobs by id is the order of intake, at the new owner as well', async () => {
    const store = createMemoryRingStore();
    const other = await createTestDatabase();
    ends.push(() => other.drop());
    const limits = { ...EAGER, movedKeepMs: 3_600_000, retryMinMs: 10_000, retryMaxMs: 10_000 };
    const start = async (name: string, databaseUrl: string): Promise<RunningTestNode<Steward>> => {
      const node = await startNodeWith(
        (session, work) => new Steward({ session, ringStore: store, work, log: logger, workspaceId: 'workspace' }),
        databaseUrl,
        [{ id: 'hook', url }],
        limits,
        logger,
        name,
      );
      ends.push(() => node.stop());
      return node;
    };
    destination.answer = ({ event: { n } }) => (n % 4 === 0 ? 503 : 200); // the fourth of each user waits, and all behind it
    const append = async (command: RingCommand) =>
      (await decideAndAppend(store, 'test', command, { actor: 'test', reason: 'test', operation: 'op' })).ring;
    const starting = [start('a', database.url), start('b', other.url)];
    const facts = await Promise.all(
      [database.url, other.url].map(async (databaseUrl, i) => {
        await starting[i]; // it has made its schema
        const pool = createPool({ connectionString: databaseUrl, application_name: 'test' });
        ends.push(() => pool.end());
        const { rows } = await pool.query('SELECT database_id::text AS id FROM ringmaster.node');
        return { pool, node: 'ab'[i]!, databaseId: rows[0].id as string, url: '' };
      }),
    );
    const [a, b] = (await Promise.all(starting)) as [RunningTestNode<Steward>, RunningTestNode<Steward>];
    const [atA, atB] = facts.map(({ pool }) => pool) as [pg.Pool, pg.Pool];
    const nodes = facts.map(({ pool: _, ...fact }) => fact);
    await append({ type: 'make ring', clusterId: 'test', partitionCount: PARTITIONS, nodes });
    await append({ type: 'freeze', by: { operationId: 'op', workflowId: 'w', runId: 'r' } });

    // Traffic: each user's events one after the other, sent to whoever takes them in.
    const sent = new Map<string, number>();
    let stop = false;
    const users = Array.from({ length: 24 }, (_, i) => `user-${i}`);
    const traffic = Promise.all(
      users.map(async (user) => {
        for (let n = 1; !stop; ) {
          for (const node of [a, b]) {
            if ((await post(node.gatewayUrl, '/v1/track', event(user, n))).status !== 200) continue;
            sent.set(user, n);
            n += 1;
          }
        }
      }),
    );
    const ring = await append({ type: 'freeze', by: { operationId: 'op', workflowId: 'w', runId: 'r' } });
    const mine = [...ring.owners.keys()].filter((partition) => ring.owners[partition] === 'a');
    for (const [i, partition] of mine.entries()) {
      await new Promise((resolve) => setTimeout(resolve, 150));
      const move = `op/move-${i}.1`;
      await append({ type: 'start move', holder: 1, move, from: 'a', to: 'b', partitions: [partition] });
      const { token } = moveOf(await append({ type: 'claim move', holder: 1, move, attempt: `${i}` }), move)!;
      const command = { move, token, partitions: [partition] };
      const prepared = await b.steward.prepare(command);
      const datasets = prepared.datasets.map(({ prefix, dataset }) => ({ prefix: prefix as Prefix, dataset }));
      await withCopy({ source: atA, target: atB, ...command, datasets }, async (copy) => {
        await copy.pass();
        await a.steward.quiesce({ ...command, limitMs: 5_000 });
        await copy.pass();
        await a.steward.fence({ ...command, holdDeadlineMs: 10_000 });
        await copy.pass({ fenced: true });
        await append({ type: 'hand over', move, token, proof: await copy.verify() });
      });
    }
    await new Promise((resolve) => setTimeout(resolve, 150));
    stop = true;
    await traffic;

    const all = await datasetsOf(atB);
    expect(all.filter(({ prefix, move }) => prefix === 'gw' && move === null).length).toBeGreaterThan(2);
    expect(all.filter(({ move }) => move !== null).length).toBe(mine.length * prefixes.length);
    for (const prefix of ['gw', 'rt']) {
      const selects = all
        .filter((dataset) => dataset.prefix === prefix)
        .map(
          ({ dataset }) => `SELECT job_id, user_id, (event_payload ->> 'n')::int AS n FROM ${prefix}_jobs_${dataset}`,
        );
      const rows = await atB.query<{ job_id: string; user_id: string; n: number }>(
        `SELECT * FROM (${selects.join(' UNION ALL ')}) AS every ORDER BY job_id`,
      );
      expect(new Set(rows.rows.map(({ job_id }) => job_id)).size).toBe(rows.rows.length);
      const last = new Map<string, number>();
      for (const { user_id, n } of rows.rows) {
        expect(n, `${prefix} of ${user_id}`).toBeGreaterThan(last.get(user_id) ?? 0);
        last.set(user_id, n);
      }
      if (prefix === 'gw') {
        for (const user of users) expect(last.get(userKeyOf({ userId: user })), user).toBe(sent.get(user));
      }
    }
    expect(users.some((user) => mine.includes(partitionOf(userKeyOf({ userId: user }), PARTITIONS)))).toBe(true);
    expectInOrder();
  }, 120_000);
});

describe('dropping', () => {
  const DAY = 86_400_000;
  let pool: pg.Pool;
  let instance: number;
  beforeEach(async () => {
    const session = await openSession({ node: 'node-0', clusterId: 'test', databaseUrl: database.url });
    ({ pool, instance } = session);
    ends.push(() => pool.end());
    await pool.query("SELECT ringmaster.add_dataset('gw', NULL)"); // 1 is not live any longer
  });
  const drop = async (dataset: number, keepMs = 0, by = instance): Promise<string> =>
    (
      await pool.query<{ outcome: string }>('SELECT ringmaster.drop_dataset($1, $2, $3, 0, $4) AS outcome', [
        by,
        'gw',
        dataset,
        keepMs,
      ])
    ).rows[0]!.outcome;
  const addJob = (dataset: number) =>
    pool.query(
      `INSERT INTO gw_jobs_${dataset} (uuid, user_id, partition_id, parameters, custom_val, event_payload) VALUES (gen_random_uuid(), 'u', 'ws-1', '{}', 'GW', '{}') RETURNING job_id`,
    );

  test('is for a dataset without pending jobs, not for the live one', async () => {
    const { rows } = await addJob(1);
    expect(await drop(1)).toBe('pending');
    await pool.query("INSERT INTO gw_job_status_1 (job_id, job_state, attempt) VALUES ($1, 'failed', 1)", [
      rows[0].job_id,
    ]);
    expect(await drop(1)).toBe('pending');
    await pool.query("INSERT INTO gw_job_status_1 (job_id, job_state, attempt) VALUES ($1, 'succeeded', 2)", [
      rows[0].job_id,
    ]);
    expect(await drop(2)).toBe('kept');
    expect(await drop(1)).toBe('dropped');
    expect((await datasetsOf(pool)).filter(({ prefix }) => prefix === 'gw')).toMatchObject([{ dataset: 2 }]);
    expect(await drop(1)).toBe('kept');
  });

  test('waits for the grace after the last job was moved away', async () => {
    await pool.query("UPDATE ringmaster.datasets SET migrated_at = now() - interval '1 hour' WHERE dataset = 1");
    expect(await drop(1, DAY)).toBe('kept');
    expect(await drop(1, 60_000)).toBe('dropped');
  });

  test('waits for the grace after an import was attached', async () => {
    await pool.query("SELECT ringmaster.add_dataset('gw', 'op/move-1.1')");
    expect(await drop(3)).toBe('kept'); // not attached
    await pool.query(
      "UPDATE ringmaster.datasets SET attached = true, attached_at = now() - interval '1 hour' WHERE dataset = 3",
    );
    expect(await drop(3, DAY)).toBe('kept');
    expect(await drop(3, 60_000)).toBe('dropped');
  });

  test('gives up at once where somebody still reads, so that nobody queues behind it', async () => {
    const reader = new pg.Client({ connectionString: database.url });
    await reader.connect();
    await reader.query('BEGIN; SELECT FROM gw_jobs_1');
    const began = performance.now();
    await expect(drop(1)).rejects.toMatchObject({ code: '55P03' });
    expect(performance.now() - began).toBeLessThan(2_000);
    await reader.query('COMMIT');
    expect(await drop(1)).toBe('dropped');
    await reader.end();
  });

  test('is refused to a process that is no longer the node', async () => {
    await expect(drop(1, 0, instance - 1)).rejects.toMatchObject({ code: 'RM001' });
  });

  test('a statement that was built with an older list is run again with the newer one; a table that is really missing is told', async () => {
    const list = new DatasetList(pool);
    const topology = { datasets: () => list.current() };
    await list.read();
    const counted = await withDatasets(topology, async (datasets) => {
      const numbers = datasets.filter(({ prefix }) => prefix === 'gw').map(({ dataset }) => dataset);
      if (numbers.includes(1)) {
        const outcome = await list.without({ prefix: 'gw', dataset: 1, move: null }, () => {
          expect(list.current().some(({ prefix, dataset }) => prefix === 'gw' && dataset === 1)).toBe(false);
          return drop(1);
        });
        expect(outcome).toBe('dropped');
      }
      for (const dataset of numbers) await pool.query(`SELECT FROM gw_jobs_${dataset}`);
      return numbers;
    });
    expect(counted).toEqual([2]);
    await expect(withDatasets(topology, () => pool.query('SELECT FROM gw_jobs_99'))).rejects.toMatchObject({
      code: '42P01',
    });
  });
});

describe('what a move leaves', () => {
  test('stays while a move that names the node is open, and for the grace; then dataset and ledger go', async () => {
    const node = await startOne({ ...EAGER, movedKeepMs: 1_500 });
    const { pool } = node.session;
    const prepare = async (move: string): Promise<void> => {
      await pool.query("INSERT INTO ringmaster.imports (move, token, partitions) VALUES ($1, 1, '{0}')", [move]);
      await pool.query("SELECT ringmaster.add_dataset('gw', $1)", [move]);
    };
    await prepare('op/move-1.1');
    await prepare('op/move-2.1'); // never attached: not the keeper's
    const open = { move: 'op/move-9.1', from: 'node-0', to: 'x', partitions: [0], state: 'handed over', token: 1 };
    node.steward.changeRing({ moves: [open] } as never);
    await pool.query(
      "UPDATE ringmaster.datasets SET attached = true, attached_at = now() - interval '1 hour' WHERE move = 'op/move-1.1'",
    );
    await pool.query("UPDATE ringmaster.imports SET prepared_at = now() - interval '2 hours'");
    const left = async () => (await datasetsOf(pool)).flatMap(({ move }) => move ?? []);
    await new Promise((resolve) => setTimeout(resolve, 200)); // a dozen rounds
    expect(await left()).toEqual(['op/move-1.1', 'op/move-2.1']);
    await pool.query("UPDATE ringmaster.datasets SET attached_at = now() WHERE move = 'op/move-1.1'");
    node.steward.changeRing({ moves: [] });
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(await left()).toEqual(['op/move-1.1', 'op/move-2.1']);
    await until(async () => (await left()).length === 1, { ...SOON, what: 'the import goes after the grace' });
    const ledgers = async () => (await pool.query('SELECT move FROM ringmaster.imports')).rows.map(({ move }) => move);
    await until(async () => (await ledgers()).length === 1, { ...SOON, what: 'its ledger too' });
    expect(await ledgers()).toEqual(['op/move-2.1']);
    expect(await left()).toEqual(['op/move-2.1']);
    expect(troubles).toEqual([]);
  });
});
