/**
 * Goal: a move that meets a burst goes on (what is refused: arrivals.unit.test.ts).
 * Method: the activity itself over two real databases; a limit in the log, and a writer that writes by the clock.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { ActivityDeps } from '../../activities/deps.ts';
import { createMoveActivities } from '../../activities/move.ts';
import { fill } from '../jobsdb/crash-support.ts';
import { CLUSTER, createFixture, type Fixture } from '../jobsdb/move-fixture.ts';

const MOVE = 'op/move-1.1';
const ROWS = 3_000; // some 500 bytes each
let f: Fixture;
beforeEach(async () => {
  f = await createFixture();
  await fill(f.a, 0, 0, ROWS);
});
afterEach(() => f.close());

async function preCopy(): Promise<{ jobsCopied: number; passes: number }> {
  const { a, b } = f;
  await f.append({ type: 'start move', holder: 1, move: MOVE, from: 'a', to: 'b', partitions: [0] });
  const activities = createMoveActivities({
    ringStore: f.store,
    platform: { roomOf: async () => null },
    controlOf: async (node: string) => (node === 'a' ? a : b).steward,
    endpointsOf: async (node: string) => ({ database: (node === 'a' ? a : b).database.address }),
    actor: 'worker',
    log: pino({ level: 'silent' }),
  } as unknown as ActivityDeps);
  const asking = { clusterId: CLUSTER, operationId: 'op', reason: 'a test', holder: 1 };
  return new MockActivityEnvironment().run(activities.preCopy, {
    ...asking,
    move: MOVE,
    from: 'a',
    to: 'b',
    partitions: [0],
  });
}

/** Writes so many rows a second, `rowsMax` in all. */
function writing(rowsPerSecond: number, rowsMax: number): () => Promise<void> {
  const since = performance.now();
  let written = 0;
  let stopped = false;
  const run = (async () => {
    while (!stopped && written < rowsMax) {
      const due = Math.min(rowsMax, Math.floor(((performance.now() - since) * rowsPerSecond) / 1_000));
      if (due > written) await fill(f.a, 0, ROWS + written, ROWS + due);
      written = Math.max(written, due);
      await sleep(20);
    }
  })();
  return async () => {
    stopped = true;
    await run;
  };
}
const limit = (bytesPerSecond: number) => f.append({ type: 'set limits', change: { bytesPerSecond } });

test('a burst is let through: its rows are copied, and the passes end', async () => {
  await limit(1_000_000);
  const stop = writing(4_000, 6_000);
  try {
    const { passes } = await preCopy();
    expect(passes).toBeGreaterThan(1);
  } finally {
    await stop();
  }
});
