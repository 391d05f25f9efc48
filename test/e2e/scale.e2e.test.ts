/**
 * Goal: the whole path keeps its promises while a cluster is scaled under traffic, whoever starts the operation, and whether or not the worker lives through it.
 * Method: the embedded stack as `npm start` has it, seeded traffic, an independent checker.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { partitionsOf } from '../../ring/ring.ts';
import { findTemporalCli } from '../../scripts/lib/temporal-cli.mjs';
import { expectFlawless, type TestCluster, withCluster } from './cluster.ts';

test('a cluster grows, shrinks and grows again under traffic, by operations from the API and typed into Temporal: nothing lost, twice or out of order, nothing left over', async () => {
  await withCluster({ nodes: 1 }, async (cluster) => {
    await typeIntoTemporal(cluster, 3);
    const ring = await cluster.ring();
    const shares = ring.nodes.map((facts) => partitionsOf(ring, facts.node).length);
    expect(Math.max(...shares) - Math.min(...shares)).toBeLessThanOrEqual(1);
    const down = await cluster.scale(1);
    expect(down).toMatchObject({ state: 'completed', from: 3, to: 1 });
    expect(down.jobsMoved).toBeGreaterThan(0);
    // It comes back with its old database: what was moved away from it stays away, or it would be delivered twice.
    const up = await cluster.scale(2);
    expect(up).toMatchObject({ state: 'completed', from: 1, to: 2 });
    const before = ring.nodes.find(({ node }) => node === 'node-1')!;
    expect((await cluster.ring()).nodes).toContainEqual(before);
    expectFlawless(await cluster.judge());
    expect(await cluster.leftovers()).toEqual([]);
  });
});

test('the worker is killed in the middle of moves and started again: the operation finishes, and nothing shows', async () => {
  await withCluster({ nodes: 2 }, async (cluster) => {
    const kills: string[] = [];
    const watching = new AbortController();
    // Each time something claims a move, the worker that is about to do it is killed: the 1st claim is a pre-copy's, the 2nd its retry's, later ones a cut-over's.
    const killing = cluster.stack.ringStore.watch(
      cluster.stack.clusterId,
      0,
      {
        onEvents: (events) => {
          for (const { event } of events) {
            if (event.type !== 'move claimed' || kills.length >= 3) continue;
            kills.push(event.move);
            cluster.stack.worker.kill('SIGKILL');
          }
        },
      },
      watching.signal,
    );
    const progress = await cluster.scale(3);
    watching.abort();
    await killing;
    expect(kills.length).toBe(3);
    expect(cluster.stack.worker.restarts).toBeGreaterThanOrEqual(2);
    expect(progress.state).toBe('completed');
    expectFlawless(await cluster.judge());
    expect(await cluster.leftovers()).toEqual([]);
  });
});

/** As a person does it who has only Temporal's own command; returns when the operation has ended. */
async function typeIntoTemporal({ stack, ring }: TestCluster, targetNodes: number): Promise<void> {
  const input = JSON.stringify({ clusterId: stack.clusterId, targetNodes, reason: 'typed' });
  const args = [
    ...['workflow', 'execute', '--address', stack.temporal.address],
    ...['--type', 'ScaleCluster', '--task-queue', 'ringmaster', '--workflow-id', `scale/${stack.clusterId}`],
    ...['--input', input],
  ];
  await promisify(execFile)(findTemporalCli()!, args, { timeout: 120_000 });
  const { nodes, freeze } = await ring();
  expect(nodes).toHaveLength(targetNodes);
  expect(freeze).toBeNull();
}
