/**
 * Goal: a verification goes on until everything is compared, can be stopped at any moment, and goes on from there.
 * Method: the real workflow and its client over Temporal's dev server; what would reach the nodes' databases is played.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { CompareMovesInput, CompareSlice } from '../../activities/types.ts';
import {
  createVerificationsClient,
  type VerificationsClient,
  type VerifyProgress,
} from '../../client/verifications.ts';
import type { VerifyInput } from '../../workflows/messages.ts';
import { until } from '../support/wait.ts';
import { Harness, type Trial } from './harness.ts';
import { refusal } from './world.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await Harness.open();
});
afterAll(() => harness.close());

const sample = (n: number) =>
  ({
    move: `op/move-${n}.1`,
    kind: 'missing',
    prefix: 'gw',
    tableAtSource: 'gw_jobs_1',
    idAtSource: n,
    tableAtTarget: null,
    idAtTarget: null,
    partition: 0,
    columns: [],
  }) as const;
/** Slices of 10 jobs, a move each; the third differs, the fourth cannot be compared. */
const slices =
  (moves: number, seen: (number | null)[] = []) =>
  ({ cursor }: CompareMovesInput): CompareSlice => {
    const n = (cursor?.handedOverAt ?? 0) + 1;
    seen.push(cursor?.handedOverAt ?? null);
    return {
      cursor: n < moves ? { handedOverAt: n, within: null } : null,
      movesTotal: moves,
      jobsTotal: 10 * moves,
      movesDone: 1,
      jobsCompared: n === 4 ? 0 : 10,
      counts: { missing: n === 3 ? 2 : 0, added: 0, differs: 0, 'changed places': 0 },
      samples: n === 3 ? [sample(31), sample(32)] : [],
      notCompared: n === 4 ? [{ move: 'op/move-4.1', jobs: 10, because: 'gone' }] : [],
    };
  };

interface Verifying extends Trial {
  readonly client: VerificationsClient;
  ended(full?: boolean): Promise<VerifyProgress>;
}
const trial = (run: (trial: Verifying) => Promise<void>): Promise<void> =>
  harness.run(2, async (some) => {
    const client = createVerificationsClient(harness.env.client, some.clusterId);
    const ended = (full = true) =>
      until(
        async () => {
          const progress = await client.progress(some.clusterId, full);
          return progress.endedAt === null ? null : progress;
        },
        { deadlineMs: 15_000, what: 'the verification ends' },
      );
    await run({ ...some, client, ended });
  });

describe('a look at the cluster', () => {
  test('finds it as it should be, and twice at once it is one', () =>
    trial(async ({ client, clusterId, ended, world }) => {
      const gate = world.gate('checkCluster');
      const first = await client.start({ clusterId });
      expect((await client.start({ clusterId })).runId).toBe(first.runId);
      gate.open();
      expect(await ended(false)).toMatchObject({
        state: 'completed',
        verdict: 'verified',
        cluster: { nodes: 2, problemCount: 0 },
      });
    }));

  test('names an open move, and a node that is not there', () =>
    trial(async ({ client, clusterId, ended, world }) => {
      await world.append({ type: 'freeze', by: { operationId: 'op', workflowId: 'w', runId: 'r' } });
      await world.append({
        type: 'start move',
        holder: 1,
        move: 'op/move-1.1',
        from: 'node-0',
        to: 'node-1',
        partitions: [0],
      });
      world.pods.delete('node-1');
      await client.start({ clusterId });
      const { verdict, cluster } = await ended(false);
      expect(verdict).toBe('differs');
      expect(cluster!.problems).toEqual([
        { node: null, move: 'op/move-1.1', what: 'is open: started' },
        { node: 'node-1', move: null, what: 'does not answer: node-1 does not answer' },
      ]);
    }));
});

describe('a comparison', () => {
  test('goes on to the end, counts everything, and names as many differences as were wanted', () =>
    trial(async ({ client, clusterId, ended, world }) => {
      world.compare = slices(5);
      await client.start({ clusterId, full: true, samplesMax: 1 });
      expect(await ended()).toMatchObject({
        state: 'completed',
        verdict: 'differs',
        movesDone: 5,
        jobsTotal: 50,
        jobsCompared: 40,
        counts: { missing: 2 },
        samples: [{ idAtSource: 31 }],
        notComparedMoves: 1,
        notComparedJobs: 10,
        cursor: null,
      });
    }));

  test('where something could not be compared it is not called verified', () =>
    trial(async ({ client, clusterId, ended, world }) => {
      const play = slices(4);
      world.compare = (input) => ({
        ...play(input),
        counts: { missing: 0, added: 0, differs: 0, 'changed places': 0 },
      });
      await client.start({ clusterId, full: true });
      expect(await ended()).toMatchObject({ state: 'completed', verdict: 'incomplete' });
    }));

  test('is stopped in the middle, and goes on from there; one runs at a time', () =>
    trial(async ({ client, clusterId, ended, world }) => {
      const seen: (number | null)[] = [];
      const play = slices(5, seen);
      const arrived = Promise.withResolvers<void>();
      world.compare = (input) => {
        const slice = play(input);
        // The third is held at the gate until it is cancelled.
        if (seen.length === 2) void world.gate('compareMoves').arrived.then(arrived.resolve);
        return slice;
      };
      await client.start({ clusterId, full: true });
      await arrived.promise;
      await expect(client.start({ clusterId, full: true })).rejects.toMatchObject({ code: 'VERIFY_RUNNING' });
      await expect(client.start({ clusterId, full: true, resume: true })).rejects.toMatchObject({
        code: 'VERIFY_RUNNING',
      });
      expect(await client.stop(clusterId, { actor: 'ada' })).toMatchObject({ state: 'stopping' });
      expect(await ended()).toMatchObject({
        state: 'stopped',
        verdict: null,
        jobsCompared: 20,
        cursor: { handedOverAt: 2 },
      });
      await expect(client.stop(clusterId, {})).rejects.toMatchObject({ code: 'VERIFY_UNKNOWN' });
      await expect(client.start({ clusterId, full: true, operation: 'other', resume: true })).rejects.toMatchObject({
        code: 'VERIFY_UNKNOWN',
      });

      world.before.delete('compareMoves');
      world.compare = play;
      await client.start({ clusterId, full: true, resume: true });
      expect(await ended()).toMatchObject({
        state: 'completed',
        jobsCompared: 40,
        movesDone: 5,
        counts: { missing: 2 },
      });
      expect(seen).toEqual([null, 1, 2, 3, 4]);
      await expect(client.start({ clusterId, full: true, resume: true })).rejects.toMatchObject({
        code: 'VERIFY_UNKNOWN',
      });
    }));

  test('a long one goes on in new runs', () =>
    trial(async ({ clusterId, ended, world }) => {
      const seen: (number | null)[] = [];
      world.compare = slices(12, seen);
      const input: VerifyInput = { clusterId, full: true, continueAsNewAfterEvents: 20 };
      const handle = await harness.env.client.workflow.start('VerifyMoves', {
        args: [input],
        taskQueue: clusterId,
        workflowId: `verify/${clusterId}`,
      });
      expect(await ended()).toMatchObject({ state: 'completed', movesDone: 12, jobsCompared: 110 });
      expect(seen).toHaveLength(12);
      const { runId } = await harness.env.client.workflow.getHandle(`verify/${clusterId}`).describe();
      expect(runId).not.toBe(handle.firstExecutionRunId);
    }));

  test('what is refused for good ends it by name, and it may be resumed', () =>
    trial(async ({ client, clusterId, ended, world }) => {
      const play = slices(3);
      world.compare = (input) => {
        if (input.cursor?.handedOverAt === 1) throw refusal('RING_STORE_TOO_NEW');
        return play(input);
      };
      await client.start({ clusterId, full: true });
      expect(await ended()).toMatchObject({
        state: 'failed',
        because: expect.stringContaining('RING_STORE_TOO_NEW'),
        jobsCompared: 10,
      });
      world.compare = play;
      await client.start({ clusterId, full: true, resume: true });
      expect(await ended()).toMatchObject({ state: 'completed', movesDone: 3 });
    }));

  test('under another workflow id it is refused', () =>
    trial(async ({ clusterId }) => {
      const input: VerifyInput = { clusterId, full: true };
      const run = harness.env.client.workflow.execute('VerifyMoves', {
        args: [input],
        taskQueue: clusterId,
        workflowId: `mine-${clusterId}`,
      });
      await expect(run).rejects.toMatchObject({ cause: { type: 'WORKFLOW_ID' } });
    }));
});
