/**
 * Goal: guards that stand behind another one, or that only trouble reaches, hold when they are asked alone; `npm run test:mutants` takes each of them out
 * (guards.ts).
 * Method: real databases, stewards, nodes and activities; the test plays whoever comes too late, lags, or lost its connection.
 */
import { MockActivityEnvironment } from '@temporalio/testing';
import type pg from 'pg';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { ActivityDeps } from '../../activities/deps.ts';
import { assertNothingPending } from '../../activities/last-look.ts';
import { createMoveActivities } from '../../activities/move.ts';
import { createPodActivities, type PodDeps } from '../../activities/pods.ts';
import type { MoveActivityInput, RemoveInput } from '../../activities/types.ts';
import type { MoveCommand, NodeControl } from '../../dataplane/contract.ts';
import { type Copy, type CopyJob, openCopy, withCopy } from '../../jobsdb/copy.ts';
import { beginHolding, ensureImport } from '../../jobsdb/imports.ts';
import { createPool } from '../../jobsdb/pool.ts';
import { beginAlone } from '../../jobsdb/sql/intake.ts';
import { CodedError } from '../../kit/errors.ts';
import { openSession } from '../../node/session.ts';
import { OutcomeUnknown, PartitionTransactions } from '../../node/transaction.ts';
import type { NodeSession } from '../../node/work.ts';
import type { Removal } from '../../platform/platform.ts';
import { partitionOf } from '../../ring/partition.ts';
import { addJobs, CLUSTER, createFixture, type Fixture, pendingAt, type TestNode } from '../jobsdb/move-fixture.ts';
import { Destination, PARTITIONS, post, startTestNode, type TestNode as TestBackend } from '../node/support.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { until } from '../support/wait.ts';
import { factsOf, World } from '../workflows/world.ts';

const log = pino({ level: 'silent' });
const SOON = { deadlineMs: 5_000 };

/** Whether `work` comes to its end by itself, or waits for a lock in this database. */
async function waitsOrEnds(pool: pg.Pool, work: Promise<unknown>): Promise<'waits' | 'ends'> {
  let ended = false;
  const end = (): void => {
    ended = true;
  };
  work.then(end, end);
  const waiting =
    "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND wait_event_type = 'Lock'";
  await until(async () => ended || (await pool.query(waiting)).rowCount! > 0, { ...SOON, what: 'it waits or ends' });
  return ended ? 'ends' : 'waits';
}

/** Connections with a transaction that a test has open: one that fails leaves it so, and its pool would wait for it at its end. */
const inHand = new Set<pg.PoolClient>();
function letGo(): void {
  for (const client of inHand) client.release(true);
  inHand.clear();
}

async function take(pool: pg.Pool): Promise<pg.PoolClient> {
  const client = await pool.connect();
  inHand.add(client);
  return client;
}

/** A transaction of the node's working parts, open inside `partitions`. */
async function enter(pool: pg.Pool, session: NodeSession, partitions: readonly number[]): Promise<pg.PoolClient> {
  const client = await take(pool);
  await client.query('BEGIN');
  await client.query('SELECT * FROM ringmaster.enter($1, $2::integer[])', [session.instance, partitions]);
  return client;
}
async function leave(client: pg.PoolClient): Promise<void> {
  await client.query('COMMIT');
  inHand.delete(client);
  client.release();
}

describe('between two nodes', () => {
  let f: Fixture;
  beforeEach(async () => {
    f = await createFixture();
  });
  afterEach(() => {
    copy?.close(true); // twice is once
    letGo();
    return f.close();
  });

  let copy: Copy | undefined;
  const MOVE = 'op/move-1.1';
  const numbers = async (node: TestNode): Promise<number[]> => (await pendingAt(node, 0)).map((row) => row.n);
  const stateAt = async (node: TestNode): Promise<string> =>
    (await node.pool.query<{ state: string }>('SELECT state FROM ringmaster.partitions WHERE partition = 0')).rows[0]!
      .state;
  const jobs = (from: number, to: number) =>
    Array.from({ length: to - from }, (_, i) => ({ partition: 0, payload: { n: from + i } }));
  const begin = () => f.begin(MOVE, f.a, f.b, [0]);
  const copyPass = (job: CopyJob) => withCopy(job, (copy) => copy.pass());
  const stop = async (command: MoveCommand): Promise<void> => {
    await f.a.steward.quiesce({ ...command, limitMs: 1_000 });
    await f.a.steward.fence({ ...command, holdDeadlineMs: 10_000 });
  };
  const folded = (node: TestNode) =>
    until(async () => (await node.steward.status()).foldedVersion >= (await f.ring()).version, {
      ...SOON,
      what: `${node.name} has folded the log`,
    });

  test('a fence without its quiesce is refused', async () => {
    const command = await begin();
    await expect(f.a.steward.fence({ ...command, holdDeadlineMs: 5_000 })).rejects.toMatchObject({
      code: 'MOVE_INVALID',
    });
    expect(await stateAt(f.a)).toBe('open');
  });

  test('a fence waits for an intake that is inside', async () => {
    const command = await begin();
    await f.a.steward.quiesce({ ...command, limitMs: 1_000 });
    const intake = await enter(f.a.pool, f.a.session, [0]);
    const fencing = f.a.steward.fence({ ...command, holdDeadlineMs: 5_000 });
    expect(await waitsOrEnds(f.a.pool, fencing)).toBe('waits');
    await leave(intake);
    await fencing;
    expect(await stateAt(f.a)).toBe('fenced');
  });

  test('a new process of the node waits for the open transaction of the former one', async () => {
    const former = await enter(f.a.pool, f.a.session, [0]);
    const starting = openSession({ node: 'a', clusterId: CLUSTER, databaseUrl: f.a.database.url });
    expect(await waitsOrEnds(f.a.pool, starting)).toBe('waits');
    await leave(former);
    const session = await starting;
    expect(session.instance).toBe(f.a.session.instance + 1);
    await session.pool.end();
  });

  test('a partition that was handed over without a copy here is not opened', async () => {
    const command = await begin();
    const proof = { jobsPending: 0, jobsCopied: 0, prefixes: [] };
    await f.append({ type: 'hand over', move: MOVE, token: command.token, proof });
    await until(async () => (await f.b.steward.status()).blocked !== null || (await stateAt(f.b)) === 'open', {
      ...SOON,
      what: 'the target has folded the hand-over',
    });
    expect(await stateAt(f.b)).toBe('closed');
    expect((await f.b.steward.status()).blocked).toMatchObject({ code: 'NODE_IMPORT_MISSING' });
  });

  test('what is imported is not seen before the hand-over', async () => {
    await addJobs(f.a.pool, jobs(0, 3));
    const command = await begin();
    await folded(f.b);
    await copyPass(await f.copyJob(command, f.a, f.b));
    expect(await numbers(f.b)).toEqual([]);
    expect(await stateAt(f.b)).toBe('closed');
    expect(await f.b.steward.countPending()).toBe(0);
  });

  test('an older attempt begins no pass once a newer one has prepared', async () => {
    await addJobs(f.a.pool, jobs(0, 3));
    const old = await begin();
    copy = await openCopy(await f.copyJob(old, f.a, f.b));
    await copy.pass();
    await f.copyJob(await f.claim(MOVE, 'newer'), f.a, f.b);
    await expect(copy.reserve()).rejects.toMatchObject({ code: 'STALE_TOKEN' });
    copy.close(true);
  });

  test('an older attempt writes no row, also in a pass that it has begun', async () => {
    await addJobs(f.a.pool, jobs(0, 3));
    const old = await begin();
    copy = await openCopy(await f.copyJob(old, f.a, f.b));
    await copy.reserve();
    await f.copyJob(await f.claim(MOVE, 'newer'), f.a, f.b);
    await expect(copy.pass()).rejects.toMatchObject({ code: 'STALE_TOKEN' });
    expect((await f.b.pool.query('SELECT FROM public.gw_jobs_2')).rowCount).toBe(0);
  });

  test('a reservation waits for whoever draws ids at the target', async () => {
    copy = await openCopy(await f.copyJob(await begin(), f.a, f.b));
    await copy.pass();
    const intake = await enter(f.b.pool, f.b.session, [2]);
    const reserving = copy.reserve();
    expect(await waitsOrEnds(f.b.pool, reserving)).toBe('waits');
    await leave(intake);
    await reserving;
    copy.close();
  });

  test('a newer attempt waits for a write that the older one has begun', async () => {
    const old = await begin();
    await f.copyJob(old, f.a, f.b);
    const writing = await take(f.b.pool);
    await beginHolding(writing, MOVE, old.token);
    const { token } = await f.claim(MOVE, 'newer');
    const raising = await take(f.b.pool);
    await raising.query('BEGIN');
    const preparing = ensureImport(raising, { pool: f.b.pool, graceMs: 60_000 }, MOVE, token, [0]);
    expect(await waitsOrEnds(f.b.pool, preparing)).toBe('waits');
    await leave(writing);
    await preparing;
    await leave(raising);
  });

  test('an older attempt does not lower the token of an import', async () => {
    const old = await begin();
    const newer = await f.claim(MOVE, 'newer');
    await f.copyJob(newer, f.a, f.b);
    const late = await take(f.b.pool);
    await late.query('BEGIN');
    await expect(ensureImport(late, { pool: f.b.pool }, MOVE, old.token, [0])).rejects.toMatchObject({
      code: 'STALE_TOKEN',
    });
    await leave(late); // of nothing
  });

  test('stale rows at the target are put away before it can own the partition', async () => {
    await addJobs(f.b.pool, jobs(900, 903));
    await addJobs(f.a.pool, jobs(0, 2));
    const command = await begin();
    const job = await f.copyJob(command, f.a, f.b);
    await copyPass(job);
    await stop(command);
    await copyPass(job);
    const proof = await withCopy(job, (copy) => copy.verify());
    await f.append({ type: 'hand over', move: MOVE, token: command.token, proof });
    await until(async () => (await stateAt(f.b)) === 'open', { ...SOON, what: 'the target opens' });
    expect(await numbers(f.b)).toEqual([0, 1]);
  });

  test('a row that changes on its way is found', async () => {
    await addJobs(f.a.pool, jobs(0, 3));
    const job = await f.copyJob(await begin(), f.a, f.b);
    await f.b.pool.query(`
      CREATE FUNCTION public.spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.user_id := 'somebody else'; RETURN NEW; END $$;
      CREATE TRIGGER spoil BEFORE INSERT ON public.gw_jobs_2 FOR EACH ROW EXECUTE FUNCTION public.spoil()`);
    await expect(copyPass(job)).rejects.toMatchObject({ code: 'COPY_DIFFERS' });
  });

  test('passes whose ids do not lie above each other are found', async () => {
    await addJobs(f.a.pool, jobs(0, 3));
    const command = await begin();
    const job = await f.copyJob(command, f.a, f.b);
    await copyPass(job);
    await stop(command);
    await copyPass(job);
    await f.b.pool.query(`
      UPDATE ringmaster.import_passes
      SET marks = jsonb_set(marks, '{prefixes,gw,constant}', to_jsonb((marks #>> '{prefixes,gw,constant}')::bigint - 100000))
      WHERE pass = 2`);
    await expect(withCopy(job, (copy) => copy.verify())).rejects.toThrow('do not follow');
  });

  test('a node that lags obeys only after it has folded the command’s token', async () => {
    await folded(f.b);
    const { version } = await f.ring();
    const lag = Promise.withResolvers<void>();
    const read = f.store.read.bind(f.store);
    f.store.read = async (...args) => {
      if (args[1] !== undefined && args[1] >= version - 1) await lag.promise; // watchers read on from there; whoever appends reads all
      return read(...args);
    };
    const command = await begin();
    const preparing = f.b.steward.prepare(command).then(
      ({ datasets }) => `prepared ${datasets.length}`,
      (error: unknown) => String(error),
    );
    lag.resolve();
    expect(await preparing).toBe('prepared 3');
  });

  test('a row that was set under a later position than the log’s stays as it is', async () => {
    await f.a.pool.query(
      "UPDATE ringmaster.partitions SET token = 1000, state = 'paused', move = 'op/later' WHERE partition = 0",
    );
    const again = await f.restart(f.a);
    await until(async () => (await again.steward.status()).serving, { ...SOON, what: 'it serves' });
    expect(await stateAt(again)).toBe('paused');
  });

  describe('the cut-over', () => {
    const input: MoveActivityInput = {
      clusterId: CLUSTER,
      operationId: 'op',
      reason: 'a test',
      holder: 1,
      move: MOVE,
      from: 'a',
      to: 'b',
      partitions: [0],
    };
    /** The activity as it is, whose source does something else at its fence. */
    async function cutOver(fence: NodeControl['fence'], quiesced?: () => Promise<void>) {
      await addJobs(f.a.pool, jobs(0, 3));
      await f.append({ type: 'start move', holder: 1, move: MOVE, from: 'a', to: 'b', partitions: [0] });
      const { a, b } = f;
      const source = {
        prepare: (command: MoveCommand) => a.steward.prepare(command),
        quiesce: async (command: MoveCommand & { limitMs: number }) => {
          await a.steward.quiesce(command);
          await quiesced?.();
        },
        fence,
      };
      const activities = createMoveActivities({
        ringStore: f.store,
        controlOf: async (node: string) => (node === 'a' ? source : b.steward),
        endpointsOf: async (node: string) => ({ database: (node === 'a' ? a : b).database.address }),
        actor: 'test',
        log,
      } as unknown as ActivityDeps);
      return new MockActivityEnvironment().run(activities.cutOver, input);
    }
    const types = async () => (await f.store.read(CLUSTER)).map(({ event }) => event.type);

    test('a copy that differs is not handed over', async () => {
      let unseen = '';
      const ended = await cutOver(
        async (command) => {
          await f.a.steward.fence(command);
          // A job below the last pass's mark, as if it had committed unseen: the copy has missed it.
          await f.a.pool.query(
            `INSERT INTO public.gw_jobs_1 (job_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
             SELECT $1, gen_random_uuid(), user_id, partition_id, parameters, custom_val, '{"n": 9}' FROM public.gw_jobs_1 LIMIT 1`,
            [unseen],
          );
        },
        async () => {
          unseen = (await f.a.pool.query("SELECT nextval('ringmaster.gw_job_id')::text AS id")).rows[0].id;
        },
      );
      expect(ended).toMatchObject({ result: 'aborted', code: 'VERIFY_MISMATCH' });
      expect(await types()).not.toContain('partitions handed over');
      await until(async () => (await stateAt(f.a)) === 'open', { ...SOON, what: 'the source serves again' });
      expect(await numbers(f.a)).toEqual([0, 1, 2, 9]);
    });

    test('trouble inside the fence aborts the move', async () => {
      const ended = await cutOver(async () => {
        throw new Error('connection reset');
      });
      expect(ended).toMatchObject({ result: 'aborted', code: 'CUT_OVER_FAILED' });
      expect((await types()).at(-1)).toBe('move aborted');
    });

    test('an attempt that was overtaken in its cut-over leaves the move alone', async () => {
      const ending = cutOver(async (command) => {
        await f.claim(MOVE, 'newer');
        await folded(f.a);
        await f.a.steward.fence(command);
      });
      await expect(ending).rejects.toThrow('claimed again');
      expect((await types()).at(-1)).toBe('move claimed');
      expect((await f.ring()).moves).toMatchObject([{ state: 'started', attempt: 'newer' }]);
    });
  });
});

describe('at a node', () => {
  let database: TestDatabase;
  let destination: Destination;
  let node: TestBackend;
  beforeEach(async () => {
    database = await createTestDatabase();
    destination = new Destination();
    node = await startTestNode(database.url, [{ id: 'hook', url: await destination.listen() }]);
  });
  afterEach(async () => {
    letGo();
    await node.stop();
    await destination.close();
    await database.drop();
  });

  const partitionOfUser = (userId: string): number => partitionOf(`<<>><<>>${userId}`, PARTITIONS);
  const annas = partitionOfUser('anna');
  const ben = Array.from({ length: 100 }, (_, n) => `ben-${n}`).find((user) => partitionOfUser(user) !== annas)!;
  const send = async (userId: string, ...numbers: number[]): Promise<void> => {
    const batch = numbers.map((n) => ({ type: 'track', userId, n, messageId: `${userId}/${n}` }));
    expect((await post(node.gatewayUrl, '/v1/batch', { batch })).status).toBe(200);
  };
  /** The row alone: nobody tells the process. As a quiesce does it waits for those inside, who have read the row: the first processing after a start is one. */
  const setRow = (state: 'paused' | 'fenced') =>
    node.session.pool.query(
      `${beginAlone(node.session.instance, [annas])};
       UPDATE ringmaster.partitions SET state = '${state}', move = 'op/move-1.1' WHERE partition = ${annas}; COMMIT`,
    );
  const statesOf = async (userId: string, prefix: 'gw' | 'rt'): Promise<string[]> =>
    (
      await node.session.pool.query<{ job_state: string }>(
        `SELECT s.job_state FROM ${prefix}_job_status_1 AS s JOIN ${prefix}_jobs_1 AS j USING (job_id) WHERE j.user_id LIKE '%' || $1 ORDER BY s.id`,
        [userId],
      )
    ).rows.map((row) => row.job_state);
  const received = (): string[] => destination.received.map(({ messageId }) => messageId);
  /** Whatever comes first goes first: when this has arrived the others had their turn. */
  const othersHadTheirTurn = async (): Promise<void> => {
    await send(ben, 1);
    await until(() => received().includes(`${ben}/1`), { ...SOON, what: 'the delivery of another user' });
  };

  test('a partition that its row says is paused is not processed', async () => {
    await setRow('paused');
    await send('anna', 1);
    await othersHadTheirTurn();
    expect(await statesOf('anna', 'gw')).toEqual([]);
    expect(received()).toEqual([`${ben}/1`]);
  });

  test('of a partition that its row says is paused nothing more is delivered', async () => {
    const first = Promise.withResolvers<number>();
    destination.answer = ({ messageId }) => (messageId === 'anna/1' ? first.promise : 200);
    await send('anna', 1, 2);
    await until(() => received().length === 1, { ...SOON, what: 'a delivery in flight' });
    await until(async () => (await statesOf('anna', 'gw')).length === 2, { ...SOON, what: 'both are processed' });
    await setRow('paused');
    first.resolve(200);
    await until(async () => (await statesOf('anna', 'rt')).includes('succeeded'), { ...SOON, what: 'its result' });
    await othersHadTheirTurn();
    expect(received()).toEqual(['anna/1', `${ben}/1`]);
  });

  test('the result of a delivery that ends after the fence is not written', async () => {
    const first = Promise.withResolvers<number>();
    destination.answer = () => first.promise;
    await send('anna', 1);
    await until(() => received().length === 1, { ...SOON, what: 'a delivery in flight' });
    await setRow('fenced');
    first.resolve(200);
    await node.work.idle([annas], AbortSignal.timeout(5_000));
    expect(await statesOf('anna', 'rt')).toEqual(['executing']);
  });

  test('after a commit in doubt the next transaction waits until that one has ended', async () => {
    const { session } = node;
    const open = await take(session.pool);
    // The connection is lost at COMMIT for us; the server has not noticed.
    const lost = {
      query: (text: string) => (text === 'COMMIT' ? Promise.reject(new Error('lost at COMMIT')) : open.query(text)),
      on: () => undefined,
      off: () => undefined,
      release: () => undefined,
    };
    const connections: unknown[] = [lost];
    const connect = async () => connections.shift() ?? session.pool.connect();
    const transactions = new PartitionTransactions({ ...session, pool: { connect } } as unknown as NodeSession);
    await expect(transactions.run([annas], async () => undefined)).rejects.toBeInstanceOf(OutcomeUnknown);
    const next = transactions.run([annas], async () => 'inside');
    expect(await waitsOrEnds(session.pool, next)).toBe('waits');
    await leave(open);
    expect(await next).toBe('inside');
  });
});

describe('the orchestrator', () => {
  const asking = { clusterId: 'c', operationId: 'op', reason: 'a test' };
  const by = { operationId: 'op', workflowId: 'scale/c', runId: 'op' };
  let world: World;
  const run = <I, O>(activity: (input: I) => Promise<O>, input: I): Promise<O> =>
    new MockActivityEnvironment().run(activity, input);

  /** node-0 owns all; node-1 and node-2 are members with nothing. */
  beforeEach(async () => {
    world = new World('c');
    await world.make(1, 8);
    await world.append({ type: 'freeze', by });
    for (const node of ['node-1', 'node-2']) await world.append({ type: 'join node', holder: 1, facts: factsOf(node) });
  });

  /** The activity as it is, on a platform whose removal is played. */
  function remove(
    input: Pick<RemoveInput, 'node' | 'deleteVolumes'>,
    removeNode: (node: string, removal: Removal) => Promise<void>,
    look: PodDeps['assertNothingPending'] = async () => undefined,
  ) {
    const control = {
      status: async () => ({ foldedVersion: 1_000, settledVersion: 1_000, serving: true, blocked: null }),
      countPending: async () => 0,
    };
    const pods = createPodActivities({
      ringStore: world.store,
      platform: { removeNode },
      controlOf: async () => control,
      assertNothingPending: look,
      actor: 'test',
      log,
      limits: {
        settleWithinMs: 1_000,
        pollEveryMs: 10,
        standInAfterMs: 500,
        lostAfterMs: 1_000,
        caretakerIdleMs: 1_000,
      },
    } as unknown as PodDeps);
    return run(pods.removeNode, { ...asking, holder: 1, ...input });
  }

  test('a node that owns a partition is not removed', async () => {
    const removed: string[] = [];
    const removing = remove({ node: 'node-0' }, async (node) => void removed.push(node));
    await expect(removing).rejects.toMatchObject({ type: 'NODE_NOT_EMPTY' });
    expect(removed).toEqual([]);
  });

  test('a node is not removed while a hand-over away from it has no certificate', async () => {
    const handedOver = { move: 'm1', token: 1, proof: { jobsPending: 0, jobsCopied: 0, prefixes: [] } };
    const { version } = await world.ring();
    const away = [
      { type: 'move started', move: 'm0', from: 'node-0', to: 'node-2', partitions: [0] },
      { type: 'partitions handed over', ...handedOver, move: 'm0' },
      { type: 'move started', move: 'm1', from: 'node-2', to: 'node-0', partitions: [0] },
      { type: 'partitions handed over', ...handedOver },
      { type: 'move completed', move: 'm0' },
      { type: 'move completed', move: 'm1' },
    ] as const;
    await world.store.append('c', version, away, { actor: 'older', reason: 'test', operation: null });
    const removed: string[] = [];
    const removing = remove({ node: 'node-2' }, async (node) => void removed.push(node));
    await expect(removing).rejects.toMatchObject({
      type: 'CERTIFICATE_MISSING',
      message: expect.stringContaining('(m1)'),
    });
    expect(removed).toEqual([]);
    expect((await world.ring()).nodes).toHaveLength(3);
  });

  test('the platform is given a last look into the database of a member that leaves', async () => {
    const database = { host: 'h', port: 1, user: 'u', password: 'p', database: 'd' };
    const removing = remove(
      { node: 'node-2' },
      async (_node, { lastLook }) => lastLook?.(database),
      async (node) => {
        throw new CodedError('NODE_NOT_EMPTY', `${node} holds a job`);
      },
    );
    await expect(removing).rejects.toMatchObject({ type: 'NODE_NOT_EMPTY', message: 'node-2 holds a job' });
  });

  test('the data of a node that never joined stays, whatever was asked', async () => {
    const deleted: boolean[] = [];
    const platform = async (_node: string, { deleteData }: Removal) => void deleted.push(deleteData);
    await remove({ node: 'node-2', deleteVolumes: true }, platform);
    await remove({ node: 'node-3', deleteVolumes: true }, platform);
    expect(deleted).toEqual([true, false]);
  });

  test('a member above the node that leaves stays', async () => {
    const removed: string[] = [];
    const removing = remove({ node: 'node-1' }, async (node) => {
      if (node === 'node-1' && removed.length === 0)
        throw new CodedError('REPLICAS_CHANGED', 'node-2 lies above', { above: ['node-2'] });
      removed.push(node);
    });
    await expect(removing).rejects.toMatchObject({ type: 'REPLICAS_CHANGED' });
    expect(removed).toEqual([]);
  });

  test('a move without its proof fails the verification of the cluster', async () => {
    await world.append({
      type: 'start move',
      holder: 1,
      move: 'op/move-1.1',
      from: 'node-0',
      to: 'node-1',
      partitions: [0],
    });
    const verifying = run(world.activities().verifyCluster, { ...asking, moves: ['op/move-1.1'] });
    await expect(verifying).rejects.toMatchObject({ type: 'VERIFY_MISMATCH' });
  });

  test('the freeze of a run that goes on is not taken over', async () => {
    const other = { operationId: 'op2', workflowId: 'scale/c', runId: 'op2' };
    const freezing = run(world.activities().freeze, { ...asking, operationId: 'op2', by: other });
    await expect(freezing).rejects.toMatchObject({ type: 'RING_BUSY' });
    expect((await world.ring()).freeze?.runId).toBe('op');
  });

  test('the last look finds a pending job, and lets an empty database go', async () => {
    const database = await createTestDatabase();
    const session = await openSession({ node: 'node-2', clusterId: 'c', databaseUrl: database.url });
    const pool = createPool({ connectionString: database.url, application_name: 'test' });
    try {
      await assertNothingPending('node-2', database.address);
      await addJobs(pool, [{ partition: 0, states: ['succeeded'] }, { partition: 0 }]);
      await expect(assertNothingPending('node-2', database.address)).rejects.toMatchObject({
        code: 'NODE_NOT_EMPTY',
        details: { pendingJobs: 1 },
      });
    } finally {
      await Promise.all([pool.end(), session.pool.end()]);
      await database.drop();
    }
  });
});
