/**
 * Goal: a move that meets a burst goes on, and one whose arrivals outrun its copy says so and ends (when which: arrivals.unit.test.ts).
 * Method: the activity itself over two real databases; a limit in the log, and a writer that writes by the clock.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ApplicationFailure } from '@temporalio/common';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Rates } from '../../activities/arrivals.ts';
import { BYTES_PER_SECOND_MIN } from '../../ring/limits.ts';
import { fill } from '../jobsdb/crash-support.ts';
import { createFixture, type Fixture } from '../jobsdb/move-fixture.ts';
import { startMove } from './move-activities.ts';

let f: Fixture;
beforeEach(async () => {
  f = await createFixture();
});
afterEach(() => f.close());

/** Writes so many rows a second behind the first `rows`, `rowsMax` in all. */
function writing(rows: number, rowsPerSecond: number, rowsMax: number): () => Promise<void> {
  const since = performance.now();
  let written = 0;
  let stopped = false;
  const run = (async () => {
    while (!stopped && written < rowsMax) {
      const due = Math.min(rowsMax, Math.floor(((performance.now() - since) * rowsPerSecond) / 1_000));
      if (due > written) await fill(f.a, 0, rows + written, rows + due);
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

// A row of `fill` is some 300 bytes on its way, status and messageId included; every seventh is finished and stays.

test('a burst is let through: its rows are copied, and the passes end', async () => {
  await fill(f.a, 0, 0, 3_000);
  await limit(1_000_000);
  const stop = writing(3_000, 4_000, 6_000);
  try {
    const { passes } = await (await startMove(f)).preCopy();
    expect(passes).toBeGreaterThan(1);
  } finally {
    await stop();
  }
});

test('arrivals that go on outrunning a throttled copy end it by name, with what throttles it and the source as it was', async () => {
  await fill(f.a, 0, 0, 700);
  await limit(BYTES_PER_SECOND_MIN);
  const stop = writing(700, 500, Number.POSITIVE_INFINITY);
  try {
    const refused = await (await startMove(f)).preCopy().then(
      () => null,
      (error: unknown) => error as ApplicationFailure,
    );
    expect(refused).toMatchObject({
      type: 'ARRIVALS_OUTRUN_COPY',
      nonRetryable: true,
      message: expect.stringContaining('arrivals outrun the copy'),
      details: [{ throttledBy: 'bytesPerSecond', bytesPerSecond: BYTES_PER_SECOND_MIN }],
    });
    const rates = refused!.details![0] as Rates & { restMsMax: number };
    expect(rates.rowsPerSecondIn).toBeGreaterThan(rates.rowsPerSecondCopied);
    expect(rates.restMs).toBeGreaterThan(rates.restMsMax);
    expect(await f.a.steward.status()).toMatchObject({ partitions: { paused: 0, fenced: 0 } });
  } finally {
    await stop();
  }
});
