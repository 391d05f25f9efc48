/**
 * Goal: a move is over only with its certificate in the log; where there can be none nothing is over, and nobody has lost anything.
 * Method: the activity itself over two real databases and their stewards.
 */
import { MockActivityEnvironment } from '@temporalio/testing';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { ActivityDeps } from '../../activities/deps.ts';
import { createMoveActivities } from '../../activities/move.ts';
import type { Acceptance } from '../../activities/types.ts';
import type { RingEvent } from '../../ring/events.ts';
import { addJobs, CLUSTER, createFixture, type Fixture, pendingAt } from '../jobsdb/move-fixture.ts';
import { damage, handOverMove, importedTable } from '../jobsdb/moved.ts';

const MOVE = 'op/move-1.1';
let f: Fixture;
beforeEach(async () => {
  f = await createFixture();
  await addJobs(
    f.a.pool,
    Array.from({ length: 10 }, (_, n) => ({ partition: 0, payload: { n, text: 'hello' } })),
  );
  await handOverMove(f, MOVE, f.a, f.b, [0]);
});
afterEach(() => f.close());

const cleanUp = async (more: { readonly accept?: Acceptance } = {}): Promise<void> => {
  const { a, b } = f;
  const activities = createMoveActivities({
    ringStore: f.store,
    controlOf: async (node: string) => (node === 'a' ? a : b).steward,
    endpointsOf: async (node: string) => ({ database: (node === 'a' ? a : b).database.address }),
    actor: 'worker',
    log: pino({ level: 'silent' }),
    limits: { settleWithinMs: 5_000, pollEveryMs: 10, standInAfterMs: 500, lostAfterMs: 1_000, caretakerIdleMs: 1_000 },
  } as unknown as ActivityDeps);
  const asking = { clusterId: CLUSTER, operationId: 'op', reason: 'a test', holder: 1, askedBy: 'ada' };
  await new MockActivityEnvironment().run(activities.cleanUp, {
    ...asking,
    move: MOVE,
    from: 'a',
    to: 'b',
    partitions: [0],
    ...more,
  });
};
const completions = async (): Promise<Extract<RingEvent, { type: 'move completed' }>[]> =>
  (await f.store.read(CLUSTER)).flatMap(({ event }) => (event.type === 'move completed' ? [event] : []));

test('the event that ends a move carries its certificate: who asked, when, and what was found on both sides; again it changes nothing', async () => {
  await cleanUp();
  await cleanUp();
  const [completed, ...more] = await completions();
  expect(more).toEqual([]);
  const ring = await f.ring();
  expect(completed!.certificate).toMatchObject({
    form: 1,
    epoch: ring.epoch,
    handedOverAt: ring.version - 1,
    askedBy: { actor: 'ada', reason: 'test', operation: 'op' },
    jobs: 10,
    tables: [
      { prefix: 'gw', jobs: 10 },
      { prefix: 'rt', jobs: 0 },
      { prefix: 'batch_rt', jobs: 0 },
    ],
  });
  expect(completed!.certificate!.times.started <= completed!.certificate!.times.handedOver).toBe(true);
});

test('where a row differs the move stays open and everything stays where it is; once put right it is completed', async () => {
  await damage(f.b, MOVE, 'one payload byte');
  await expect(cleanUp()).rejects.toMatchObject({ type: 'CERTIFICATE_MISMATCH', nonRetryable: true });
  expect(await completions()).toEqual([]);
  expect((await f.ring()).moves).toMatchObject([{ move: MOVE, state: 'handed over' }]);
  expect(await pendingAt(f.b, 0)).toHaveLength(10);
  expect((await f.a.pool.query('SELECT FROM public.gw_jobs_1')).rowCount).toBe(10);

  await f.b.pool.query(
    `UPDATE ${await importedTable(f.b, MOVE)} SET event_payload = jsonb_set(event_payload, '{text}', '"hello"')`,
  );
  await cleanUp();
  expect(await completions()).toHaveLength(1);
});

test('a difference that is accepted ends the move without a certificate; who, why and what differs stands in the log, and the ring tells it from then on', async () => {
  await damage(f.b, MOVE, 'one payload byte');
  await cleanUp({ accept: { by: 'ada', reason: 'a test event' } });
  const [completed] = await completions();
  expect(completed!.certificate).toBeUndefined();
  expect(completed!.accepted).toMatchObject({ by: 'ada', reason: 'a test event' });
  expect(completed!.accepted!.difference).toMatch(/gw/);
  const ring = await f.ring();
  expect(ring.moves).toEqual([]);
  expect(ring.losses).toMatchObject([{ kind: 'difference', move: MOVE, by: 'ada', version: ring.version }]);
  await cleanUp();
  expect(await completions()).toHaveLength(1);
});

test('what was accepted and does not differ (any more) is certified as any other move', async () => {
  await cleanUp({ accept: { by: 'ada', reason: 'to be sure' } });
  const [completed] = await completions();
  expect(completed!.certificate).toMatchObject({ jobs: 10 });
  expect(completed!.accepted).toBeUndefined();
  expect((await f.ring()).losses).toEqual([]);
});
