/**
 * Goal: whatever dies in the middle of a copy, the rows are at the target once, in order, with their states, and the ledger fits them.
 * Method: two PostgreSQL servers of its own, with durability; the copy is a process that is really killed or stopped, at a row at which the target waits
 * for a lock of the test's. Then a new attempt claims, prepares, finishes, and what is pending at the target is compared with what was written.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { MoveCommand } from '../../dataplane/contract.ts';
import { type CopyJob, withCopy } from '../../jobsdb/copy.ts';
import { createDatabaseAt } from '../support/database.ts';
import { type OwnPostgres, startOwnPostgres } from '../support/own-postgres.ts';
import { until } from '../support/wait.ts';
import { CopyProcess, expectLedgerFits, fill, pendingOf, stopAtRow } from './crash-support.ts';
import { createFixture, type Fixture, pendingAt } from './move-fixture.ts';

const MOVE = 'op/move-1.1';
const ROWS = 12_000;
const CHUNK_ROWS = 600;
const MIDDLE = 10_499;
const SOON = { deadlineMs: 20_000 };

let servers: { a: OwnPostgres; b: OwnPostgres };
let f: Fixture;
let written: number;
beforeAll(async () => {
  // A crash of the target shall lose what it may: nothing writes its log ahead of commits that ask for it.
  const settings = {
    fsync: 'on',
    synchronous_commit: 'on',
    full_page_writes: 'on',
    wal_writer_delay: '10s',
    wal_writer_flush_after: '1GB',
  };
  const [a, b] = await Promise.all([startOwnPostgres({ settings }), startOwnPostgres({ settings })]);
  servers = { a, b };
});
afterAll(() => Promise.all([servers.a.close(), servers.b.close()]));
beforeEach(async () => {
  f = await createFixture(4, { makeDatabase: (node) => createDatabaseAt(servers[node].server.address) });
  await fill(f.a, 0, 0, ROWS);
  written = ROWS;
});
afterEach(() => f.close());

const begin = async (): Promise<{ command: MoveCommand; job: CopyJob }> => {
  const command = await f.begin(MOVE, f.a, f.b, [0]);
  return { command, job: await f.copyJob(command, f.a, f.b, CHUNK_ROWS) };
};
let attempts = 0;
const claimAgain = (): Promise<MoveCommand> => {
  attempts += 1;
  return f.claim(MOVE, `again-${attempts}`);
};
/** A node may need a moment after its server was away, as every activity that asks it tries again. */
const triedAgain = <T>(what: string, run: () => Promise<T>): Promise<T> => {
  let answer: { value: T } | undefined;
  return until(
    async () => {
      answer = await run().then(
        (value) => ({ value }),
        () => undefined,
      );
      return answer !== undefined;
    },
    { ...SOON, what },
  ).then(() => answer!.value);
};
const prepareAgain = async (): Promise<{ command: MoveCommand; job: CopyJob }> => {
  const command = await claimAgain();
  return { command, job: await triedAgain('the target prepares', () => f.copyJob(command, f.a, f.b, CHUNK_ROWS)) };
};
const writeMore = async (rows: number): Promise<void> => {
  await fill(f.a, 0, written, written + rows);
  written += rows;
};

/** From wherever the copy is to the end, in this process; and then everything is there. */
async function finishAndCompare({ command, job }: { command: MoveCommand; job: CopyJob }): Promise<void> {
  await withCopy(job, async (copy) => {
    await copy.pass();
    await triedAgain('the source pauses', () => f.a.steward.quiesce({ ...command, limitMs: 5_000 }));
    await copy.pass();
    await triedAgain('the source fences', () => f.a.steward.fence({ ...command, holdDeadlineMs: 20_000 }));
    await copy.pass({ fenced: true });
    await expectLedgerFits(f.b, job);
    await f.append({ type: 'hand over', move: MOVE, token: command.token, proof: await copy.verify() });
  });
  await expectMoved();
}

async function expectMoved(): Promise<void> {
  const state = "SELECT FROM ringmaster.partitions WHERE partition = 0 AND state = 'open'";
  await until(async () => (await f.b.pool.query(state)).rowCount === 1, { ...SOON, what: 'the target opens' });
  expect(await pendingAt(f.b, 0)).toEqual(pendingOf(0, written));
  const seen = await f.b.pool.query<{ count: number }>('SELECT count(*)::int FROM ringmaster.message_ids');
  expect(seen.rows[0]!.count).toBe(written);
}

describe('the worker is killed', () => {
  test('in the middle of a chunk: the next attempt ends its open transaction, and goes on after what was committed', async () => {
    const { job } = await begin();
    const stop = await stopAtRow(f.b, job, MIDDLE);
    const worker = new CopyProcess(job, f.a, f.b, ['pass']);
    await stop.reached();
    await worker.kill();
    const next = await prepareAgain();
    await stop.letGo();
    await expectLedgerFits(f.b, next.job);
    await finishAndCompare(next);
  });

  test('in the middle of a later pass', async () => {
    const { job } = await begin();
    await withCopy(job, (copy) => copy.pass());
    await writeMore(2_000);
    const stop = await stopAtRow(f.b, job, ROWS + 1_000);
    const worker = new CopyProcess(job, f.a, f.b, ['pass']);
    await stop.reached();
    await worker.kill();
    await stop.letGo();
    await writeMore(100);
    await finishAndCompare(await prepareAgain());
  });

  test('in the middle of the fenced pass', async () => {
    const { command, job } = await begin();
    await withCopy(job, (copy) => copy.pass());
    await f.a.steward.quiesce({ ...command, limitMs: 5_000 });
    await writeMore(2_000);
    await f.a.steward.fence({ ...command, holdDeadlineMs: 20_000 });
    const stop = await stopAtRow(f.b, job, ROWS + 1_000);
    const worker = new CopyProcess(job, f.a, f.b, ['fenced']);
    await stop.reached();
    await worker.kill();
    await stop.letGo();
    await finishAndCompare(await prepareAgain());
  });

  test.each([
    ['a chunk', 3],
    ['the first pass', Math.ceil(ROWS / CHUNK_ROWS) + 1],
  ])('between the commit of %s and its answer', async (_what, commits) => {
    const { job } = await begin();
    const worker = new CopyProcess(job, f.a, f.b, ['pass', 'pass'], { deafAfterCommits: commits });
    await worker.isDeaf();
    await worker.kill();
    await finishAndCompare(await prepareAgain());
  });

  test('between the commit of the fenced pass and its answer', async () => {
    const { command, job } = await begin();
    await withCopy(job, (copy) => copy.pass());
    await f.a.steward.quiesce({ ...command, limitMs: 5_000 });
    await writeMore(500);
    await f.a.steward.fence({ ...command, holdDeadlineMs: 20_000 });
    const worker = new CopyProcess(job, f.a, f.b, ['fenced'], { deafAfterCommits: 1 });
    await worker.isDeaf();
    await worker.kill();
    await finishAndCompare(await prepareAgain());
  });
});

describe('PostgreSQL goes down at once, and comes back', () => {
  test.each(['source', 'target'] as const)('the %s’s, in the middle of a chunk', async (side) => {
    const { job } = await begin();
    const stop = await stopAtRow(f.b, job, MIDDLE);
    const worker = new CopyProcess(job, f.a, f.b, ['pass']);
    await stop.reached();
    await servers[side === 'source' ? 'a' : 'b'].server.stop('immediate');
    await stop.letGo();
    expect(await worker.end()).toMatchObject({ because: expect.any(String) });
    await servers[side === 'source' ? 'a' : 'b'].server.restart();
    const next = await prepareAgain();
    await expectLedgerFits(f.b, next.job);
    await finishAndCompare(next);
  });

  test('the target’s, after a pass was reported: what was reported is there', async () => {
    const { job } = await begin();
    await withCopy(job, (copy) => copy.pass());
    await servers.b.server.restart('immediate');
    const next = await prepareAgain();
    const done = await f.b.pool.query('SELECT FROM ringmaster.import_passes WHERE move = $1 AND done', [MOVE]);
    expect(done.rowCount).toBe(1);
    await expectLedgerFits(f.b, next.job);
    await finishAndCompare(next);
  });
});

describe('an older attempt is stopped in the middle of a chunk, and wakes', () => {
  test('its open write is ended and a newer one goes on; what it does when it wakes changes nothing', async () => {
    const { job } = await begin();
    const stop = await stopAtRow(f.b, job, MIDDLE);
    const zombie = new CopyProcess(job, f.a, f.b, ['pass', 'pass']);
    await stop.reached();
    zombie.signal('SIGSTOP');
    const next = await prepareAgain();
    await stop.letGo();
    await finishAndCompare(next);
    zombie.signal('SIGCONT');
    expect(await zombie.end()).toMatchObject({ because: expect.any(String) });
    await expectLedgerFits(f.b, job);
    expect(await pendingAt(f.b, 0)).toEqual(pendingOf(0, written));
  });

  test('one that wakes at the hand-over is refused by the log', async () => {
    const { command, job } = await begin();
    await withCopy(job, async (zombie) => {
      await zombie.pass();
      await f.a.steward.quiesce({ ...command, limitMs: 5_000 });
      await f.a.steward.fence({ ...command, holdDeadlineMs: 20_000 });
      await zombie.pass({ fenced: true });
      const proof = await zombie.verify();
      const next = await prepareAgain();
      await expect(f.append({ type: 'hand over', move: MOVE, token: command.token, proof })).rejects.toMatchObject({
        code: 'STALE_TOKEN',
      });
      await expect(zombie.pass({ fenced: true })).rejects.toMatchObject({ code: 'STALE_TOKEN' });
      await finishAndCompare(next);
    });
  });
});
