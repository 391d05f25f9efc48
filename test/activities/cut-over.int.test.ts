/**
 * Goal: no limit and no brake slows a cut-over, where clients wait.
 * Method: the activities themselves over two real databases; the lowest limit there is, rows that come in at each step, and a count of who asks the throttle.
 */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { PacedThrottle } from '../../jobsdb/throttle.ts';
import { BYTES_PER_SECOND_MIN } from '../../ring/limits.ts';
import { fill, pendingOf } from '../jobsdb/crash-support.ts';
import { createFixture, type Fixture, pendingAt } from '../jobsdb/move-fixture.ts';
import { until } from '../support/wait.ts';
import { startMove } from './move-activities.ts';

/** At the lowest limit some three seconds' worth each. */
const STEP = 1_000;
let f: Fixture;
beforeEach(async () => {
  f = await createFixture();
});
afterEach(() => f.close());

test('a cut-over under the lowest limit asks no throttle for its rows: not before the quiesce, not after it, not behind the fence', async () => {
  let written = 0;
  const comeIn = async (): Promise<void> => {
    await fill(f.a, 0, written, written + STEP);
    written += STEP;
  };
  const { steward } = f.a;
  const move = await startMove(f, {
    async quiesce(command, signal) {
      await comeIn();
      await steward.quiesce(command, signal);
    },
    async fence(command) {
      await comeIn();
      await steward.fence(command);
    },
  });
  await f.append({ type: 'set limits', change: { bytesPerSecond: BYTES_PER_SECOND_MIN } });
  const asked = vi.spyOn(PacedThrottle.prototype, 'take');
  try {
    await comeIn();
    await move.preCopy();
    expect(asked).toHaveBeenCalled();
    asked.mockClear();
    await comeIn();
    const jobs = pendingOf(0, 4 * STEP);
    expect(await move.cutOver()).toMatchObject({ result: 'handed over', jobsMoved: jobs.length });
    expect(asked).not.toHaveBeenCalled();
    const open = "SELECT FROM ringmaster.partitions WHERE partition = 0 AND state = 'open'";
    await until(async () => (await f.b.pool.query(open)).rowCount === 1, {
      deadlineMs: 10_000,
      what: 'the target opens',
    });
    expect(await pendingAt(f.b, 0)).toEqual(jobs);
  } finally {
    asked.mockRestore();
  }
});
