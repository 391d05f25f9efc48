import { afterAll, beforeAll, expect, test } from 'vitest';
import { partitionsOf } from '../../ring/ring.ts';
import { cancelUpdate, resumeUpdate } from '../../workflows/messages.ts';
import {
  addJobs,
  CLUSTER,
  createFixture,
  type Fixture,
  type FixtureOptions,
  pendingAt,
} from '../jobsdb/move-fixture.ts';
import { handOverMove } from '../jobsdb/moved.ts';
import { until } from '../support/wait.ts';
import { Harness, type Operation } from './harness.ts';
import { nodeOf, type TwoNodes, withTwoNodes } from './two-nodes.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await Harness.open();
});
afterAll(() => harness?.close());

interface Trial extends TwoNodes {
  readonly f: Fixture;
  /** What of node-1 answers. */
  readonly is: { backend: boolean; database: boolean };
  drain(): Promise<Operation>;
}

async function halfDead(run: (trial: Trial) => Promise<void>, options: FixtureOptions = {}): Promise<void> {
  const f = await createFixture(4, { names: ['node-0', 'node-1'], ...options });
  const is = { backend: false, database: true };
  try {
    for (const partition of partitionsOf(await f.ring(), 'node-1'))
      await addJobs(
        f.b.pool,
        Array.from({ length: 20 }, (_, n) => ({ partition, payload: { n } })),
      );
    const gone = () => Promise.reject(new Error('connect ECONNREFUSED'));
    await withTwoNodes(
      harness,
      f,
      {
        databaseOf: (name, { database: { address } }) =>
          name === 'node-1' && !is.database ? { ...address, port: 1 } : address,
        controlOf: async (name) =>
          name === 'node-0' || is.backend
            ? nodeOf(f, name).steward
            : { status: gone, countPending: gone, prepare: gone, quiesce: gone, fence: gone },
      },
      ({ start, shows }) =>
        run({ f, is, start, shows, drain: () => start({ goal: { kind: 'drain', node: 'node-1' } }) }),
    );
  } finally {
    await f.close();
  }
}

const arrived = async (f: Fixture): Promise<number> => {
  const all = await Promise.all([0, 1, 2, 3].map((partition) => pendingAt(f.a, partition)));
  return all.flat().length;
};

test('all that it has goes, certified; the backend that was thought dead wakes up and may write nothing more', () =>
  halfDead(async ({ f, is, drain }) => {
    const owned = partitionsOf(await f.ring(), 'node-1');
    const ended = await (await drain()).result();
    expect(ended).toMatchObject({ state: 'completed', partitionsMoved: owned.length, jobsMoved: 20 * owned.length });
    const ring = await f.ring();
    expect(ring).toMatchObject({ drained: ['node-1'], freeze: null, moves: [], losses: [] });
    expect(partitionsOf(ring, 'node-1')).toEqual([]);
    expect(await arrived(f)).toBe(20 * owned.length);
    const events = await f.store.read(CLUSTER);
    const completed = events.flatMap(({ event }) => (event.type === 'move completed' ? [event] : []));
    expect(completed.every(({ certificate }) => certificate !== undefined)).toBe(true);
    // The zombie: its instance is over.
    is.backend = true;
    await expect(
      f.b.session.pool.query('SELECT * FROM ringmaster.enter($1, $2)', [f.b.session.instance, owned]),
    ).rejects.toMatchObject({ code: 'RM001' });
    // Started again it is the node, has nothing, and has put all away.
    const again = await f.restart(f.b);
    await until(
      async () => {
        const { partitions, settledVersion } = await again.steward.status();
        return partitions.open === 0 && settledVersion >= ring.version;
      },
      { deadlineMs: 10_000, what: 'the node is back, and has nothing' },
    );
    for (const partition of owned) expect(await pendingAt(again, partition)).toEqual([]);
  }));

test('its database gone too the operation is blocked, lists what is at risk, gives nothing away, and goes on by itself', () =>
  halfDead(async ({ f, is, drain, shows }) => {
    is.database = false;
    const operation = await drain();
    const blocked = await shows(operation, 'blocked', ({ state }) => state === 'blocked');
    expect(blocked.blockedOn).toMatchObject({ code: 'NODE_LOST', phase: 'move partitions', move: 'move-1' });
    const owned = partitionsOf(await f.ring(), 'node-1');
    expect(blocked.blockedOn?.message).toMatch(
      new RegExp(
        `neither the backend of node-1 nor its PostgreSQL answers: partitions ${owned[0]}(-|,)${owned.at(-1)} \\(2\\) are at risk`,
      ),
    );
    expect((await f.store.read(CLUSTER)).some(({ event }) => event.type === 'partitions handed over')).toBe(false);
    is.database = true;
    await shows(operation, 'it looks again', ({ state, blockedOn }) => state !== 'blocked' || blockedOn === null);
    expect(await operation.result()).toMatchObject({ state: 'completed', jobsMoved: 20 * owned.length });
    expect(await arrived(f)).toBe(20 * owned.length);
  }));

const forget = { actor: 'ada', goal: { kind: 'forget', node: 'node-1', acceptLoss: true } } as const;

test('a node that never comes back is forgotten: the others own what it had and serve it, and the loss is told', () =>
  halfDead(async ({ f, is, drain, shows, start }) => {
    is.database = false;
    const owned = partitionsOf(await f.ring(), 'node-1');
    const blocked = await drain();
    await shows(blocked, 'blocked', ({ blockedOn }) => blockedOn?.code === 'NODE_LOST');
    await blocked.executeUpdate(cancelUpdate, { args: [{}] });
    expect((await blocked.result()).state).toBe('cancelled');
    const ended = await (await start({ ...forget, reason: 'its disk burnt' })).result();
    expect(ended).toMatchObject({ state: 'completed', from: 2, to: 1 });
    expect(ended.notes).toEqual(["node-1 is forgotten: what it held is lost, which the ring's log says"]);
    const ring = await f.ring();
    expect(ring.nodes.map(({ node }) => node)).toEqual(['node-0']);
    expect(ring.losses).toMatchObject([{ kind: 'node', node: 'node-1', by: 'ada', reason: 'its disk burnt' }]);
    expect((await f.a.steward.status()).partitions).toMatchObject({ open: 4, closed: 0 });
    for (const partition of owned) expect(await pendingAt(f.a, partition)).toEqual([]);
  }));

test.each(['database', 'backend'] as const)('a node whose %s answers is not forgotten', (what) =>
  halfDead(async ({ f, is, shows, start }) => {
    is.database = what === 'database';
    is.backend = what === 'backend';
    const operation = await start({ ...forget, reason: 'its disk burnt' });
    const blocked = await shows(operation, 'blocked', ({ state }) => state === 'blocked');
    expect(blocked.blockedOn).toMatchObject({ code: 'NODE_ANSWERS', phase: 'mark nodes' });
    await operation.executeUpdate(cancelUpdate, { args: [{}] });
    expect((await operation.result()).state).toBe('cancelled');
    expect(await f.ring()).toMatchObject({ losses: [], freeze: null });
  }),
);

test('what is stale at a node is put away before it becomes the owner without a move', () =>
  halfDead(
    async ({ f, is, start }) => {
      // It has given the partition away a moment ago, and puts away one job at a time: it is in the middle of that when it gets the partition back.
      const jobs = 1_200;
      await addJobs(
        f.a.pool,
        Array.from({ length: jobs }, (_, n) => ({ partition: 0, payload: { n } })),
      );
      await handOverMove(f, 'op/move-1.1', f.a, f.b, [0], undefined, false);
      is.database = false;
      expect(await (await start({ ...forget, reason: 'its disk burnt' })).result()).toMatchObject({
        state: 'completed',
      });
      const ring = await f.ring();
      expect(ring.losses?.map(({ kind }) => kind)).toEqual(['difference', 'node']);
      expect((await f.a.steward.status()).partitions.open).toBe(4);
      expect(await pendingAt(f.a, 0)).toEqual([]);
    },
    { putAwayRows: 1 },
  ));

test.each([
  [{ kind: 'forget', node: 'node-1' }, 'x', 'INPUT_INVALID'],
  [{ kind: 'forget', node: 'node-1', acceptLoss: true }, '', 'REASON_NEEDED'],
])('nothing is forgotten without acceptance and reason: %j, %j', (goal, reason, code) =>
  halfDead(async ({ f, start }) => {
    const before = (await f.ring()).version;
    await expect((await start({ goal: goal as never, reason })).result()).rejects.toMatchObject({
      cause: { type: code },
    });
    expect((await f.ring()).version).toBe(before);
  }),
);

test('a person need not wait for the next look', () =>
  halfDead(async ({ is, drain, shows }) => {
    is.database = false;
    const operation = await drain();
    await shows(operation, 'blocked', ({ state }) => state === 'blocked');
    is.database = true;
    await operation.executeUpdate(resumeUpdate, { args: [{}] });
    expect(await operation.result()).toMatchObject({ state: 'completed' });
  }));

test('a backend that answers is never stood in for', () =>
  halfDead(async ({ f, is, drain }) => {
    is.backend = true;
    expect(await (await drain()).result()).toMatchObject({ state: 'completed' });
    const { rows } = await f.b.pool.query('SELECT instance::int FROM ringmaster.node');
    expect(rows).toEqual([{ instance: f.b.session.instance }]);
  }));
