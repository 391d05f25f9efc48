/** How much memory a process takes that copies so many rows, in its first pass and then in a later one. */
import { expect } from 'vitest';
import type { Said } from './copy-child.ts';
import { CopyProcess, fill } from './crash-support.ts';
import { createFixture } from './move-fixture.ts';

export interface Peaks {
  readonly firstMb: number;
  readonly laterMb: number;
}

/** What is thrown away soon: V8 gives a busy process up to some 40 MB more for it, however few rows there are. What is kept is what is measured. */
const LITTLE_GARBAGE = '--max-semi-space-size=1';
const FILL_ROWS = 50_000;
/** What `fill` leaves pending: every seventh is finished. */
const pendingOf = (from: number, to: number): number => to - from - (Math.ceil(to / 7) - Math.ceil(from / 7));

/** Rows of some 400 bytes, each with its messageId: `rows` before the first pass, and `laterRows` between it and the later one. */
export async function peaksOf(rows: number, laterRows = rows): Promise<Peaks> {
  const f = await createFixture();
  try {
    const written = async (from: number, to: number): Promise<void> => {
      for (let at = from; at < to; at += FILL_ROWS) await fill(f.a, 0, at, Math.min(at + FILL_ROWS, to));
      await f.a.pool.query('ANALYZE'); // as a node's queue is: its statistics are not those of an empty table
    };
    const command = await f.begin('op/move-1.1', f.a, f.b, [0]);
    const job = await f.copyJob(command, f.a, f.b);
    const peakOf = async (from: number, to: number): Promise<number> => {
      await written(from, to);
      const copy = new CopyProcess(job, f.a, f.b, ['pass'], { nodeFlags: [LITTLE_GARBAGE] });
      const ended = (await copy.end()) as Extract<Said, { ended: true }>;
      expect(copy.said).toMatchObject([
        { done: { jobs: pendingOf(from, to), messageIds: to - from } },
        { ended: true, rssPeakMb: expect.any(Number) },
      ]);
      return ended.rssPeakMb;
    };
    return { firstMb: await peakOf(0, rows), laterMb: await peakOf(rows, rows + laterRows) };
  } finally {
    await f.close();
  }
}

/** Some 100 MB are the program and its runtime. Rows that were kept would be half of that, or five times as much. */
export const GROWTH_MAX = 1.2;

export function expectFlat(few: Peaks, many: Peaks): void {
  const told = `few: ${JSON.stringify(few)}, many: ${JSON.stringify(many)}`;
  expect(many.firstMb, told).toBeLessThanOrEqual(few.firstMb * GROWTH_MAX);
  expect(many.laterMb, told).toBeLessThanOrEqual(few.laterMb * GROWTH_MAX);
}
