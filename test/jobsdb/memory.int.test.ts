/** Goal: a copy's memory does not grow with its rows (a million of them: memory.long.int.test.ts). Method: processes that copy, each with its own peak. */
import { test } from 'vitest';
import { expectFlat, peaksOf } from './memory-support.ts';

test('copying 100,000 jobs takes no more memory than copying 10,000', { timeout: 180_000 }, async () => {
  const few = await peaksOf(10_000);
  const many = await peaksOf(100_000);
  expectFlat(few, many);
});
