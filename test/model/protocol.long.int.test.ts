/** Goal and method: see protocol.int.test.ts. Here: the comparisons that take minutes. */
import { expect, test } from 'vitest';
import { longComparisons } from './scenarios.ts';
import { compareInThread } from './thread.ts';

test.each(longComparisons)('whole steps leave out no state that fine ones reach: $name', async ({ name, bounds }) => {
  const { wholeStates, fineStates, missed } = await compareInThread(bounds);
  process.stdout.write(`${name}: ${wholeStates} states by whole steps, ${fineStates} by fine ones\n`);
  expect(missed).toEqual([]);
});
