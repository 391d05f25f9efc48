/**
 * Goal: nobody is there any more to end a cut-over; the source ends it itself (the dead-man), traffic goes on, and who comes back later changes nothing of that.
 * Method: a worker that is killed, or held still for half a minute, between the fence and the hand-over; the way from there to the hand-over is made long by a
 * network that is late, so that it is hit for certain.
 */
import { expect, test } from 'vitest';
import { createNodeControl } from '../../dataplane/reference/control-client.ts';
import type { CutOver } from '../../dev/chaos/cut-overs.ts';
import { findLeftovers } from '../../dev/chaos/leftovers.ts';
import { now } from '../../kit/log.ts';
import { partitionOf } from '../../ring/partition.ts';
import { expectFlawless, type TestCluster, withCluster } from '../e2e/cluster.ts';
import { until } from '../support/wait.ts';
import { scaleAndStrike, setArrow } from './support.ts';

test('the worker is killed, and held still and goes on as a zombie: each time the source lifts its own fence meanwhile, traffic flows, and the move is tried anew', async () => {
  await withCluster({ nodes: 2, network: true, rate: 100 }, async (cluster) => {
    await endedByTheSource(cluster, 3, 'SIGKILL', 18_000);
    await endedByTheSource(cluster, 2, 'SIGSTOP', 30_000);
    // A router holds for longer than a source stays fenced: no client saw anything but a late answer.
    expectFlawless(await cluster.judge());
    expect(await findLeftovers(cluster.stack, new AbortController().signal)).toEqual([]);
  });
});

/** Scales, and strikes the worker in the first cut-over, for so long; it is back when this returns. */
async function endedByTheSource(
  cluster: TestCluster,
  targetNodes: number,
  blow: 'SIGKILL' | 'SIGSTOP',
  forMs: number,
): Promise<void> {
  const events = () => cluster.stack.ringStore.read(cluster.stack.clusterId);
  const { progress, cutOver } = await scaleAndStrike(cluster, targetNodes, async (cutOver) => {
    await untilFenced(cluster, cutOver);
    const worker = (await cluster.stack.parts.list()).find(({ kind }) => kind === 'worker')!;
    const goneAt = now();
    const hit = (await worker.hit(blow, forMs))!;
    for (const node of [cutOver.from, cutOver.to]) await setArrow(cluster, `worker → ${node}'s PostgreSQL`, 'pass');

    const aborted = await until(
      async () => (await events()).find(({ event }) => event.type === 'move aborted' && event.move === cutOver.move),
      { deadlineMs: 20_000, what: 'the source ends the move' },
    );
    expect(aborted).toMatchObject({ actor: cutOver.from, reason: 'dead-man' });
    const abortedAt = now();
    const moved = (await events()).flatMap(({ event }) =>
      event.type === 'move started' && event.move === cutOver.move ? event.partitions : [],
    );
    await until(
      () =>
        cluster.traffic.sent.some(
          ({ userKey, status, sentAt }) =>
            status === 200 && sentAt > abortedAt && moved.includes(partitionOf(userKey, 16)),
        ),
      { deadlineMs: 10_000, what: 'events of these partitions are acknowledged again' },
    );
    expect(now() - goneAt, 'all of that without a worker').toBeLessThan(forMs);
    await hit.back;
  });
  expect(progress.state).toBe('completed');
  const ofOperation = (await events())
    .map(({ event }) => event)
    .filter((event) => 'move' in event && event.move.startsWith(`${progress.operationId}/`));
  const started = ofOperation.filter((event) => event.type === 'move started');
  const partitions = started.find(({ move }) => move === cutOver.move)!.partitions;
  const again = started.filter((event) => event.partitions.join() === partitions.join());
  expect(again.length).toBeGreaterThanOrEqual(2);
  const handedOver = ofOperation.filter((event) => event.type === 'partitions handed over').map(({ move }) => move);
  expect(handedOver).not.toContain(cutOver.move);
  expect(handedOver).toContain(again.at(-1)!.move);
}

/** Makes the way from the quiesce to the hand-over long, and waits until the source is fenced on it. */
async function untilFenced(cluster: TestCluster, { from, to }: CutOver): Promise<void> {
  for (const node of [from, to]) await setArrow(cluster, `worker → ${node}'s PostgreSQL`, { delayMs: 250 });
  const control = createNodeControl((await cluster.stack.platform.describeNode(from))!);
  await until(async () => (await control.status()).partitions.fenced > 0, {
    deadlineMs: 30_000,
    what: 'the source is fenced',
    everyMs: 5,
  });
}
