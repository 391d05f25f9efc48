/** Goal: pre-copy ends where a cut-over is short, goes on while that helps, and says so where it never will. */
import { expect, test } from 'vitest';
import { afterPasses, arrivalsOutrunCopy, type PassSeen, REST_MS_MAX } from '../../activities/arrivals.ts';

/** Passes one after the other: rows, and milliseconds that each took. */
const passes = (...of: [rows: number, ms: number][]): PassSeen[] => {
  let at = 0;
  return of.map(([rows, ms]) => {
    const startedAt = at;
    at += ms;
    return { rows, startedAt, endedAt: at };
  });
};

test('a small pass is the last', () => {
  expect(afterPasses(passes([500, 10_000]))).toBe('cut over');
  expect(afterPasses(passes([1_000_000, 60_000], [500, 60_000]))).toBe('cut over');
});

test('as long as passes get smaller there is another one', () => {
  expect(afterPasses(passes([1_000_000, 60_000]))).toBe('next pass');
  expect(afterPasses(passes([1_000_000, 60_000], [900_000, 54_000]))).toBe('next pass');
});

test('passes that no longer get smaller are followed by a cut-over where the rest is copied soon', () => {
  expect(afterPasses(passes([5_000, 300], [5_000, 300]))).toBe('cut over');
  expect(afterPasses(passes([600_000, 20_000], [5_000, 500], [6_000, 600]))).toBe('cut over');
});

test('a burst is let through: after one pass that is larger there is another', () => {
  const burst = passes([100_000, 10_000], [5_000, 1_000], [50_000, 10_000]);
  expect(afterPasses(burst)).toBe('next pass');
  expect(afterPasses([...burst, ...passes([400, 100])])).toBe('cut over');
});

test('passes that grow and grow are refused, with both rates', () => {
  const rates = afterPasses(passes([10_000, 5_000], [20_000, 10_000], [40_000, 20_000]));
  expect(rates).toMatchObject({ rowsPerSecondIn: 4_000, rowsPerSecondCopied: 2_000 });
  expect((rates as { restMs: number }).restMs).toBeGreaterThan(REST_MS_MAX);
});

test('after the last pass a rest that is too much is refused also where it has become smaller', () => {
  const slowly = Array.from({ length: 6 }, (_, nth): [number, number] => [100_000 - nth, 60_000]);
  expect(afterPasses(passes(...slowly))).toMatchObject({ rowsPerSecondIn: 1_667 });
});

test('the refusal names what throttles, and what to do', () => {
  const rates = { rowsPerSecondIn: 4_000, rowsPerSecondCopied: 2_000, restMs: 60_000 };
  const limited = arrivalsOutrunCopy('op/move-1.1', rates, { throttledBy: 'bytesPerSecond', bytesPerSecond: 100_000 });
  expect(limited).toMatchObject({ code: 'ARRIVALS_OUTRUN_COPY', details: { throttledBy: 'bytesPerSecond' } });
  expect(limited.message).toContain('throttled (bytesPerSecond, 100000 bytes a second)');
  expect(limited.message).toContain('raise the limit');
  const unlimited = arrivalsOutrunCopy('op/move-1.1', rates, { throttledBy: null, bytesPerSecond: null });
  expect(unlimited.message).toContain('nothing throttles');
});
