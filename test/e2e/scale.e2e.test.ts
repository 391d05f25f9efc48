/**
 * Goal: the whole path keeps its promises while a cluster is scaled under traffic, whoever starts the operation, and whether or not the worker lives through it.
 * Method: the embedded stack as `npm start` has it, seeded traffic, an independent checker.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { partitionsOf } from '../../ring/ring.ts';
import { findTemporalCli } from '../../scripts/lib/temporal-cli.mjs';
import { until } from '../support/wait.ts';
import { expectFlawless, withCluster } from './cluster.ts';

test('a cluster grows and shrinks under traffic: nothing lost, twice or out of order, and nothing left over', async () => {
  await withCluster({ nodes: 1 }, async (cluster) => {
    const up = await cluster.scale(3);
    expect(up).toMatchObject({ state: 'completed', from: 1, to: 3 });
    const ring = await cluster.ring();
    const shares = ring.nodes.map((facts) => partitionsOf(ring, facts.node).length);
    expect(Math.max(...shares) - Math.min(...shares)).toBeLessThanOrEqual(1);
    const down = await cluster.scale(1);
    expect(down).toMatchObject({ state: 'completed', from: 3, to: 1 });
    expect(up.jobsMoved + down.jobsMoved).toBeGreaterThan(0);
    expectFlawless(await cluster.judge());
    expect(await cluster.leftovers()).toEqual([]);
  });
});

test('a node that left comes back with its old database: what was moved away from it stays away', async () => {
  await withCluster({ nodes: 2 }, async (cluster) => {
    const before = (await cluster.ring()).nodes;
    const down = await cluster.scale(1);
    expect(down.jobsMoved).toBeGreaterThan(0);
    const up = await cluster.scale(2);
    expect(up).toMatchObject({ state: 'completed', from: 1, to: 2 });
    expect((await cluster.ring()).nodes.find(({ node }) => node === 'node-1')).toEqual(before[1]);
    expectFlawless(await cluster.judge()); // a job of its first life that came alive again would be a duplicate
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

test('an operation typed into Temporal does it as well', async () => {
  await withCluster({ nodes: 2 }, async (cluster) => {
    const input = JSON.stringify({ clusterId: 'demo', targetNodes: 3, reason: 'typed' });
    const args = [
      'workflow',
      'start',
      '--address',
      cluster.stack.temporal.address,
      '--type',
      'ScaleCluster',
      '--task-queue',
      'ringmaster',
      '--workflow-id',
      'scale/demo',
      '--input',
      input,
    ];
    await promisify(execFile)(findTemporalCli()!, args);
    await until(async () => (await cluster.ring()).nodes.length === 3 && (await cluster.ring()).freeze === null, {
      deadlineMs: 90_000,
      what: 'the cluster has three nodes and an unfrozen ring',
    });
    expectFlawless(await cluster.judge());
    expect(await cluster.leftovers()).toEqual([]);
  });
});
