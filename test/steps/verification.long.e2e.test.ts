/**
 * Goal: a verification whose worker is killed, or that is stopped, at any of its fault points tells the truth all the same, and the next one goes through.
 * Method: as cut-over.e2e.test.ts, on a cluster that has moved something.
 */
import { expect, test } from 'vitest';
import type { VerificationAnswer } from '../../client/api-types.ts';
import { expectFlawless, type TestCluster } from '../e2e/cluster.ts';
import { until } from '../support/wait.ts';
import { pointsOf } from './plan.ts';
import { ask, withSteps } from './support.ts';

/** So slow that jobs wait at any moment, and a move has something to take along that can be compared. */
const DESTINATION_MS = 250;

/** The last word of the verification that is under way. */
async function ended(cluster: TestCluster): Promise<VerificationAnswer> {
  return until(
    async () => {
      const seen = await ask<VerificationAnswer>(cluster, 'GET', 'verify?full=true');
      return seen.endedAt === null ? null : seen;
    },
    { deadlineMs: 90_000, what: 'the verification ends', everyMs: 100 },
  );
}

test('killed or stopped at each of its points, a verification ends, and the next one verifies all', () =>
  withSteps(
    async (steps) => {
      const { cluster } = steps;
      const moved = await steps.operation('something moves', async () => undefined);
      expect(moved.jobsMoved).toBeGreaterThan(0);
      for (const point of pointsOf('verification')) {
        const killed = await startedAt(point);
        const before = cluster.stack.worker.restarts;
        await steps.kill(killed);
        const told = await ended(cluster);
        expect(told, `killed at ${point}`).toMatchObject({
          state: 'completed',
          counts: { missing: 0, differs: 0, 'changed places': 0 },
        });
        expect(told.verdict, `killed at ${point}`).not.toBe('differs');
        await until(() => cluster.stack.worker.restarts > before, { deadlineMs: 30_000, what: 'a worker comes back' });

        const stopped = await startedAt(point);
        await ask(cluster, 'POST', 'verify/stop', { reason: point });
        stopped.go('on');
        expect(['stopped', 'completed'], `stopped at ${point}`).toContain((await ended(cluster)).state);
      }
      expect(await cluster.leftovers()).toEqual([]);
      expectFlawless(await steps.judge());

      async function startedAt(point: ReturnType<typeof pointsOf>[number]) {
        const stopping = steps.comesBy(point);
        await ask(cluster, 'POST', 'verify', { full: true, reason: `to ${point}` });
        return stopping;
      }
    },
    { destinationMs: DESTINATION_MS },
  ));
