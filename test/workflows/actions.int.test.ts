/**
 * Goal: each cell of the table state × action (workflows/actions.ts, docs/operations.md) is as it says, and from each there is a way to a valid ring that
 * nobody holds. Method: a real Temporal server, the real workflows, the real API in front of them; nodes and copies are played (world.ts).
 */
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createApi } from '../../api/server.ts';
import { createOperationsClient, type OperationsClient } from '../../client/operations.ts';
import { type Action, actions, actionTable, refusalFor, type Situation } from '../../workflows/actions.ts';
import { cancelUpdate, pauseUpdate, undoUpdate } from '../../workflows/messages.ts';
import { FakeVerifications } from '../api/fakes.ts';
import { until } from '../support/wait.ts';
import { Harness, type Operation, type Trial } from './harness.ts';
import { isLeftInOrder } from './in-order.ts';
import { refusal, type World } from './world.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await Harness.open();
});
afterAll(() => harness?.close());

const token = 'a-token-of-some-length';
const START = { targetNodes: 2, partitionsPerMoveMax: 4 } as const;

interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

/** A cluster of one node, its API, and an operation in `situation`. */
async function inSituation<T>(
  situation: Situation,
  run: (at: {
    readonly trial: Trial;
    readonly operation: Operation;
    readonly operations: OperationsClient;
    act(action: Action): Promise<Answer>;
  }) => Promise<T>,
): Promise<T> {
  return await harness.run(1, async (trial) => {
    const { clusterId, world } = trial;
    const operations = createOperationsClient({ temporal: harness.env.client, taskQueue: clusterId });
    const log = pino({ level: 'silent' });
    const api = createApi({ store: world.store, operations, verifications: new FakeVerifications(), token, log });
    try {
      const operation = await reach[situation](trial);
      return await run({
        trial,
        operation,
        operations,
        async act(action) {
          const url = `/v1/clusters/${clusterId}/operations/${operation.firstExecutionRunId}/${action}`;
          const { statusCode, body } = await api.inject({
            method: 'POST',
            url,
            headers: { authorization: `Bearer ${token}` },
            payload: { actor: 'ada', reason: 'a test' },
          });
          return { status: statusCode, body: JSON.parse(body) as Record<string, unknown> };
        },
      });
    } finally {
      world.before.clear();
      await api.close();
    }
  });
}

async function ended(starting: Promise<Operation>): Promise<Operation> {
  const operation = await starting;
  await operation.result();
  return operation;
}

/** How an operation gets there. What it waits for is let go by `finish`. */
const reach: Readonly<Record<Situation, (trial: Trial) => Promise<Operation>>> = {
  async running({ world, start }) {
    const gate = hold(world, 'preCopy');
    const operation = await start(START);
    await gate.arrived;
    return operation;
  },
  async paused(trial) {
    const operation = await reach.running(trial);
    await operation.executeUpdate(pauseUpdate, { args: [{}] });
    return operation;
  },
  async blocked({ world, start, shows }) {
    world.before.set('verifyCluster', () => Promise.reject(refusal('VERIFY_MISMATCH')));
    const operation = await start(START);
    await shows(operation, 'blocked', ({ state }) => state === 'blocked');
    return operation;
  },
  async cancelling({ world, start }) {
    const gate = hold(world, 'cleanUp');
    const operation = await start(START);
    await gate.arrived;
    await operation.executeUpdate(cancelUpdate, { args: [{}] });
    return operation;
  },
  async undoing({ world, start }) {
    const gate = hold(world, 'cleanUp');
    const operation = await start(START);
    await gate.arrived;
    await operation.executeUpdate(undoUpdate, { args: [{}] });
    return operation;
  },
  async 'at its last step'({ world, start }) {
    const gate = hold(world, 'unfreeze');
    const operation = await start(START);
    await gate.arrived;
    return operation;
  },
  async 'blocked at its last step'({ world, start, shows }) {
    world.before.set('unfreeze', () => Promise.reject(refusal('RING_TOO_NEW')));
    const operation = await start(START);
    await shows(operation, 'blocked', ({ state }) => state === 'blocked');
    return operation;
  },
  completed: ({ start }) => ended(start(START)),
  async cancelled(trial) {
    const operation = await reach.cancelling(trial);
    release(trial.world);
    return ended(Promise.resolve(operation));
  },
  async undone(trial) {
    const operation = await reach.undoing(trial);
    release(trial.world);
    return ended(Promise.resolve(operation));
  },
  'nothing to do': ({ start }) => ended(start({ targetNodes: 1 })),
  async failed({ world, start }) {
    // One move is handed over, the next under way, and somebody terminates the run in Temporal's page.
    const gate = hold(world, 'cutOver', 1);
    const operation = await start(START);
    await gate.arrived;
    await operation.terminate('a test');
    release(world);
    return operation;
  },
};

const gates = new WeakMap<World, { open(): void }>();
function hold(
  world: World,
  name: 'preCopy' | 'cutOver' | 'cleanUp' | 'unfreeze',
  after = 0,
): { arrived: Promise<void> } {
  const gate = world.gate(name);
  const wait = world.before.get(name)!;
  let passed = 0;
  world.before.set(name, (input) => {
    passed += 1;
    return passed > after ? wait(input) : undefined;
  });
  gates.set(world, gate);
  return gate;
}
function release(world: World): void {
  world.before.clear();
  gates.get(world)?.open();
}

/** Lets everything go on, and resumes where it waits. */
async function finish({ world }: Trial, operation: Operation, operations: OperationsClient): Promise<void> {
  const { clusterId } = world;
  const id = operation.firstExecutionRunId;
  release(world);
  await until(
    async () => {
      const { state, endedAt } = await operations.progress(clusterId, id);
      if (endedAt !== null) return true;
      if (state === 'paused' || state === 'blocked') await operations.resume(clusterId, id, {}).catch(() => undefined);
      return false;
    },
    { deadlineMs: 20_000, what: 'the end of the operation' },
  );
}

const situations = Object.keys(actionTable) as Situation[];

describe.each(situations)('an operation that is %s', (situation) => {
  const refused = actions.filter((action) => refusalFor(situation, action) !== null);
  const allowed = actions.filter((action) => refusalFor(situation, action) === null);

  const refuses = (): Promise<void> =>
    inSituation(situation, async ({ trial, operation, operations, act }) => {
      const before = await trial.world.types();
      for (const action of refused) {
        const { status, body } = await act(action);
        expect({ action, status, code: body['code'] }).toEqual({
          action,
          status: 409,
          code: refusalFor(situation, action),
        });
      }
      if (situation === 'failed') return; // what the terminated run has left is asked to stop, and the next operation's matter
      expect(await trial.world.types()).toEqual(before);
      await finish(trial, operation, operations);
      await isLeftInOrder(trial.world);
    });
  if (refused.length > 0) test(`refuses ${refused.join(', ')} by name, and goes on`, refuses);

  test.each(allowed)('%s', (action) =>
    inSituation(situation, async ({ trial, operation, operations, act }) => {
      const { world } = trial;
      const outcome = actionTable[situation][action];
      const { status, body } = await act(action);
      if (outcome === 'another operation') {
        expect({ status, result: body['result'] }).toEqual({ status: 202, result: 'started' });
        const undoing = String(body['operationId']);
        await until(async () => (await operations.progress(world.clusterId, undoing)).endedAt !== null, {
          deadlineMs: 20_000,
          what: 'the end of the undo',
        });
        expect(await operations.progress(world.clusterId, undoing)).toMatchObject({
          state: 'completed',
          blockedOn: null,
        });
        expect(await world.sizes()).toEqual({ 'node-0': 16 });
      } else if (outcome === 'nothing to do') {
        expect({ status, result: body['result'] }).toEqual({ status: 200, result: 'nothing to do' });
      } else {
        const progress = action === 'undo' ? (body['progress'] as Record<string, unknown>) : body;
        expect({ status, state: progress['state'] }).toEqual({ status: 200, state: outcome });
        await finish(trial, operation, operations);
        const end = await operations.progress(world.clusterId, operation.firstExecutionRunId);
        if (action === 'undo') {
          expect(end.state).toBe('undone');
          expect(await world.sizes()).toEqual({ 'node-0': 16 });
        }
        if (action === 'cancel') expect(end.state).toBe('cancelled');
      }
      await isLeftInOrder(world);
    }),
  );
});
