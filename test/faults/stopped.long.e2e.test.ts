/**
 * Goal: each kind of process stalls for half a minute in the middle of a cut-over and then goes on, not knowing that time has passed: the operation finishes,
 * the promises are kept, nothing is left over. The worker's case is in dead-man.e2e.test.ts too.
 */
import { expect, test } from 'vitest';
import type { CutOver } from '../../dev/chaos/cut-overs.ts';
import { wellAgain } from '../../dev/cluster.ts';
import type { Part } from '../../dev/faults/parts.ts';
import { now } from '../../kit/log.ts';
import { withCluster } from '../e2e/cluster.ts';
import { expectKept, scaleAndStrike } from './support.ts';

const STOPPED_MS = 30_000;

const victims: readonly (readonly [what: string, isIt: (part: Part, cutOver: CutOver) => boolean])[] = [
  ['the worker', ({ kind }) => kind === 'worker'],
  ["the source's backend", ({ kind, node }, { from }) => kind === 'node' && node === from],
  ["the target's backend", ({ kind, node }, { to }) => kind === 'node' && node === to],
  ["the source's PostgreSQL", ({ kind, node }, { from }) => kind === 'postgres' && node === from],
  ["the target's PostgreSQL", ({ kind, node }, { to }) => kind === 'postgres' && node === to],
  ['the router', ({ kind }) => kind === 'router'],
  ['Temporal', ({ kind }) => kind === 'temporal'],
  ["the ring store's PostgreSQL", ({ kind }) => kind === 'ringstore'],
];

test.each(victims)('%s stands still for half a minute, and goes on', async (_what, isIt) => {
  await withCluster({ nodes: 2, rate: 100 }, async (cluster) => {
    const { parts } = cluster.stack;
    const at = { struck: 0, well: 0 };
    let hit: Part | undefined;
    const { progress } = await scaleAndStrike(cluster, 3, async (cutOver) => {
      hit = (await parts.list()).find((part) => isIt(part, cutOver))!;
      at.struck = now();
      const { back } = (await hit.hit('SIGSTOP', STOPPED_MS))!;
      await back;
      at.well = (await wellAgain(() => hit!.state(), new AbortController().signal))!;
    });
    expect(progress.state).toBe('completed');
    const { kind, name, node } = hit!;
    await expectKept(cluster, [{ kind, target: name, node, at: at.struck, restartedAt: at.well }]);
  });
});
