/**
 * Goal: the ways out (a drain and its undo, an undo of what has ended and of what is under way, a node that is forgotten) are no places where a worker must not
 * die or an operation must not be cancelled: what is not done is as it was, what is done is done once, and a loss is only what was accepted as one.
 * Method: as cut-over.e2e.test.ts, for the fault points that no operation that scales comes by.
 */
import { expect, test } from 'vitest';
import type { OperationAnswer, UndoAnswer } from '../../client/api-types.ts';
import { checkDelivery, type Delivery, type Fault, type SentEvent } from '../../dev/checker/checker.ts';
import { now } from '../../kit/log.ts';
import { type PartitionIndex, partitionOf } from '../../ring/partition.ts';
import { partitionsOf, type Ring } from '../../ring/ring.ts';
import { expectFlawless, type TestCluster } from '../e2e/cluster.ts';
import { type Act, type Exit, type ExitStep, exitStepsOf, exits } from './plan.ts';
import type { StepRun } from './run.ts';
import { ask, withSteps } from './support.ts';

const ACTS: readonly Act[] = ['kill', 'cancel'];
const stepsOf = (...wanted: readonly Exit[]): ExitStep[] => ACTS.flatMap((act) => exitStepsOf(act, wanted));
const UNDOS = ['undo', 'undo, under its freeze', 'undo under way'] as const;
const nothing = async (): Promise<void> => undefined;
const ownersOf = ({ nodes, owners }: Ring) => ({ nodes, owners });

async function started(cluster: TestCluster, what: string, body: object): Promise<string> {
  const answer = await ask<OperationAnswer | UndoAnswer>(cluster, 'POST', what, body);
  if (answer.result !== 'started') throw new Error(`${what}: ${answer.result}`);
  return answer.operationId;
}

test('every way out is in a test', () => {
  expect(['drain', 'undo of a drain', 'forget', ...UNDOS].sort()).toEqual([...exits].sort());
});

test('a drain, and its undo', () =>
  withSteps(async (steps) => {
    const { cluster } = steps;
    const node = 'node-1';
    const drain = (reason: string) => started(cluster, `nodes/${node}/drain`, { reason });
    for (const step of stepsOf('drain')) {
      const before = await cluster.ring();
      let { operationId: drained } = await steps.exit(step, { start: drain });
      if (step.act === 'cancel') {
        expect(await cluster.ring(), 'cancelled, it is marked, and nothing is moved').toMatchObject({
          ...ownersOf(before),
          drained: [node],
        });
        ({ operationId: drained } = await steps.operation('the same drain again', nothing, { start: drain }));
      }
      const after = await cluster.ring();
      expect(after).toMatchObject({ nodes: before.nodes, drained: [node] });
      expect(partitionsOf(after, node)).toEqual([]);

      const back = stepsOf('undo of a drain').find(({ act, point }) => act === step.act && point === step.point)!;
      await steps.exit(back, { start: (reason) => started(cluster, `operations/${drained}/undo`, { reason }) });
      const undone = await cluster.ring();
      expect(undone.drained ?? []).toEqual([]);
      if (step.act === 'kill') expect(undone.owners).toEqual(before.owners);
      else {
        expect(undone.owners, 'cancelled, it is active again, and nothing is moved back').toEqual(after.owners);
        await steps.operation('its share goes back', nothing, {
          start: (reason) => started(cluster, 'operations', { targetNodes: 2, reason }),
        });
      }
    }
    expectFlawless(await steps.judge());
  }));

test('an undo of what has ended, and of what is under way', () =>
  withSteps(async (steps) => {
    const { cluster } = steps;
    for (const step of stepsOf(...UNDOS)) {
      const before = await cluster.ring();
      expect(before.nodes).toHaveLength(2);
      let there: Ring;
      if (step.exit === 'undo under way') {
        await steps.exit(step, {
          meanwhile: async (operationId) => {
            there = await cluster.ring();
            await ask(cluster, 'POST', `operations/${operationId}/undo`, { reason: step.point });
          },
        });
      } else {
        const { operationId } = await steps.operation('what is to be undone', nothing);
        there = await cluster.ring();
        await steps.exit(step, { start: (reason) => started(cluster, `operations/${operationId}/undo`, { reason }) });
      }
      const after = await cluster.ring();
      expect(ownersOf(there!), 'something was done').not.toEqual(ownersOf(before));
      if (step.act === 'kill') expect(ownersOf(after)).toEqual(ownersOf(before));
      else {
        expect(ownersOf(after), 'what is handed over stays there').toEqual(ownersOf(there!));
        await steps.operation('down again', nothing);
      }
    }
    expectFlawless(await steps.judge());
  }));

/** So slow that jobs wait at any moment, and a node that dies takes some of them with it. */
const DESTINATION_MS = 300;

test('a node that is forgotten', () =>
  withSteps(
    async (steps) => {
      const { cluster } = steps;
      const node = 'node-2';
      const losses: AcceptedLoss[] = [];
      const faults: Fault[] = [];
      for (const step of stepsOf('forget')) {
        await steps.operation('a node more', nothing);
        const { loss, fault } = await dies(cluster, node);
        losses.push(loss);
        faults.push(fault);
        const start = (reason: string) => started(cluster, `nodes/${node}/forget`, { reason, acceptLoss: true });
        const isTooSoon = step.act === 'cancel' && step.point === 'forgetNode: before its effect';
        const { notes } = await steps.exit(step, { start, leaves: isTooSoon ? leavesOf(node) : [] });
        if (isTooSoon) {
          const ring = await cluster.ring();
          expect(partitionsOf(ring, node), 'cancelled, it has what it had').toEqual([...loss.partitions]);
          expect(ring.losses ?? []).toHaveLength(losses.length - 1);
          await steps.operation('forget, and nothing happens', nothing, { start });
        } else expect(notes.filter((note) => note.startsWith(`${node} is forgotten`))).toHaveLength(1);
        const ring = await cluster.ring();
        expect(ring.nodes.map((facts) => facts.node)).not.toContain(node);
        expect(ring.losses, 'each is told once').toHaveLength(losses.length);
        expect(ring.losses?.at(-1)).toMatchObject({ kind: 'node', node });
      }
      await expectOnlyLost(steps, losses, faults);
    },
    { destinationMs: DESTINATION_MS },
  ));

/** What a node that died may take with it: what was acknowledged of these partitions by then. */
interface AcceptedLoss {
  readonly partitions: readonly PartitionIndex[];
  readonly until: number;
}

/** For good: neither its processes nor its data come back. */
async function dies({ stack, ring }: TestCluster, node: string): Promise<{ loss: AcceptedLoss; fault: Fault }> {
  const before = await ring();
  const partitions = partitionsOf(before, node);
  expect(partitions.length).toBeGreaterThan(0);
  const at = now();
  await stack.platform.kill(node, 'backend', 'SIGKILL');
  await stack.platform.kill(node, 'postgres', 'SIGQUIT');
  await stack.platform.removeNode(node, {
    deleteData: true,
    left: { cluster: stack.clusterId, epoch: before.epoch, at: new Date().toISOString() },
  });
  const until = now();
  return { loss: { partitions, until }, fault: { kind: 'node', target: node, at, restartedAt: until } };
}

/** As `leftovers` tells of a member that is gone. */
const leavesOf = (node: string): string[] => [
  `${node} is a member and does not run`,
  `0 backends of ${node} run, not 1`,
  `0 PostgreSQL servers of ${node} run, not 1`,
];

/** What is lost was acknowledged by a node that was forgotten, and all the rest keeps the promises. */
async function expectOnlyLost(
  { cluster }: StepRun,
  losses: readonly AcceptedLoss[],
  faults: readonly Fault[],
): Promise<void> {
  const judged = await cluster.judge(faults);
  const { sent } = cluster.traffic;
  const received = await cluster.sink.deliveries();
  const { partitionCount } = await cluster.ring();
  const arrived = new Set(received.filter(isOk).map(({ messageId }) => messageId));
  const isGivenUp = (event: SentEvent): boolean =>
    isOk(event) &&
    !arrived.has(event.messageId) &&
    losses.some(
      ({ partitions, until }) =>
        event.answeredAt! <= until && partitions.includes(partitionOf(event.userKey, partitionCount)),
    );
  const givenUp = sent.filter(isGivenUp).length;
  expect(givenUp, 'the nodes that died held something').toBeGreaterThan(0);
  expect(judged.events.lost, 'all that is lost was accepted as lost').toBe(givenUp);
  const rest = checkDelivery({ sent: sent.filter((event) => !isGivenUp(event)), received, faults, waitEnded: true });
  expect(rest, JSON.stringify(rest)).toMatchObject({
    verdict: 'valid',
    events: { lost: 0, reordered: 0, unknown: 0 },
  });
  expect(rest.events.delivered).toBeGreaterThan(500);
}

const isOk = ({ status, answeredAt }: SentEvent | Delivery): boolean =>
  answeredAt !== null && status !== null && status >= 200 && status < 300;
