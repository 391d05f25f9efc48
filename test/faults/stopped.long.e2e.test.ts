/**
 * Goal: each kind of process stalls for half a minute in the middle of a cut-over and then goes on, not knowing that time has passed: the operation finishes,
 * the promises are kept, nothing is left over. The worker's case is in dead-man.e2e.test.ts too. A worker that stands still with a write open at the target holds
 * that node up for a moment only.
 */
import pg from 'pg';
import { expect, test } from 'vitest';
import { createNodeControl } from '../../dataplane/reference/control-client.ts';
import type { CutOver } from '../../dev/chaos/cut-overs.ts';
import { wellAgain } from '../../dev/cluster.ts';
import type { Part } from '../../dev/faults/parts.ts';
import { now } from '../../kit/log.ts';
import { withCluster } from '../e2e/cluster.ts';
import { until } from '../support/wait.ts';
import { expectKept, scaleAndStrike, setArrow } from './support.ts';

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

/** Sessions of a move that hold an import. */
const OPEN_WRITES = `SELECT FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE a.application_name = 'ringmaster mover'
  AND l.relation = 'ringmaster.imports'::regclass AND l.mode = 'RowShareLock'`;

test('the worker stands still with its last write open at the target: that forgets the copy once the source has ended the move, and goes on', async () => {
  await withCluster({ nodes: 2, network: true, rate: 100 }, async (cluster) => {
    const { parts, ringStore, clusterId, platform } = cluster.stack;
    const at = { struck: 0, well: 0 };
    let hit: Part | undefined;
    const { progress } = await scaleAndStrike(cluster, 3, async ({ move, from, to }) => {
      // The way from the fence to the hand-over is made long, so that the write is hit for certain.
      for (const node of [from, to]) await setArrow(cluster, `worker → ${node}'s PostgreSQL`, { delayMs: 250 });
      const [source, target] = [(await platform.describeNode(from))!, (await platform.describeNode(to))!];
      const client = new pg.Client({ ...target.database, application_name: 'test' });
      await client.connect();
      try {
        const isWriting = async (): Promise<boolean> => (await client.query(OPEN_WRITES)).rowCount! > 0;
        await until(
          async () => (await createNodeControl(source).status()).partitions.fenced > 0 && (await isWriting()),
          { deadlineMs: 30_000, what: 'the last write is open', everyMs: 5 },
        );
        hit = (await parts.list()).find(({ kind }) => kind === 'worker')!;
        at.struck = now();
        const { back } = (await hit.hit('SIGSTOP', STOPPED_MS))!;
        for (const node of [from, to]) await setArrow(cluster, `worker → ${node}'s PostgreSQL`, 'pass');
        await until(
          async () =>
            (await ringStore.read(clusterId)).some(({ event }) => event.type === 'move aborted' && event.move === move),
          { deadlineMs: 20_000, what: 'the source ends the move' },
        );
        await until(
          async () =>
            (await client.query('SELECT FROM ringmaster.imports WHERE move = $1', [move])).rowCount === 0 &&
            !(await isWriting()),
          { deadlineMs: 5_000, what: 'the target has forgotten the copy' },
        );
        expect(now() - at.struck, 'all of that without a worker').toBeLessThan(STOPPED_MS);
        await back;
        at.well = (await wellAgain(() => hit!.state(), new AbortController().signal))!;
      } finally {
        await client.end();
      }
    });
    expect(progress.state).toBe('completed');
    const { kind, name, node } = hit!;
    await expectKept(cluster, [{ kind, target: name, node, at: at.struck, restartedAt: at.well }]);
  });
});
