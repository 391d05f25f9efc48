import { expect, test } from 'vitest';
import { createSpeed } from '../../client/cli/progress-display.ts';
import { ago, describeEvent, duration, plain, table } from '../../client/cli/text.ts';
import { progressOf } from '../api/fakes.ts';

test.each([
  [-5, '0 ms'],
  [850, '850 ms'],
  [4_210, '4.2 s'],
  [59_400, '59 s'],
  [60_000, '1 min'],
  [185_000, '3 min 5 s'],
  [7_800_000, '2 h 10 min'],
  [273_600_000, '3 d 4 h'],
])('%d ms are read as %s', (ms, text) => {
  expect(duration(ms)).toBe(text);
});

test('what seems to lie in the future is just now', () => {
  expect(ago('2026-01-01T00:00:05Z', Date.parse('2026-01-01T00:00:00Z'))).toBe('just now');
  expect(ago('2026-01-01T00:00:00Z', Date.parse('2026-01-01T00:00:12Z'))).toBe('12 s ago');
});

test('a table has numbers to the right and nothing that a terminal would obey', () => {
  expect(
    table(
      ['NODE', 'N'],
      [
        ['a\u001b[2J', 1],
        ['b', 1_000],
      ],
    ),
  ).toEqual(['NODE       N', 'a?[2J      1', 'b      1,000']);
  expect(plain('a\nb')).toBe('a?b');
});

test('an event of a newer version is named, not hidden', () => {
  expect(describeEvent({ type: 'node painted' } as never)).toBe('node painted (of a newer version)');
});

test('the speed is that of the last seconds, and the time left that of the partitions so far', () => {
  let now = 0;
  const speed = createSpeed(() => now);
  expect(speed.of(progressOf({ partitionsToMove: 10 }))).toEqual({ perSecond: null, leftMs: null });
  now = 2_000;
  expect(speed.of(progressOf({ partitionsToMove: 10, partitionsMoved: 2, jobsCopied: 4_000 }))).toEqual({
    perSecond: 2_000,
    leftMs: 8_000,
  });
  now = 20_000;
  expect(speed.of(progressOf({ partitionsToMove: 10, partitionsMoved: 10, jobsCopied: 4_000 }))).toEqual({
    perSecond: null,
    leftMs: null,
  });
});
