/** Goal and method: those of memory.int.test.ts, with a million jobs. */
import { test } from 'vitest';
import { expectFlat, peaksOf } from './memory-support.ts';

test('copying a million jobs takes no more memory than copying 10,000', async () => {
  const few = await peaksOf(10_000);
  const many = await peaksOf(1_000_000, 300_000);
  process.stderr.write(`${JSON.stringify({ few, many })}\n`);
  expectFlat(few, many);
});
