/** Goal and method: see protocol.int.test.ts. Here: the comparisons that take minutes. */
import { expect, test } from 'vitest';
import { compareSteps } from './compare.ts';
import { longComparisons } from './scenarios.ts';

test.each(longComparisons)('whole steps leave out no state that fine ones reach: $name', ({ name, bounds }) => {
  const { wholeStates, fineStates, missed } = compareSteps(bounds);
  process.stdout.write(`${name}: ${wholeStates} states by whole steps, ${fineStates} by fine ones\n`);
  expect(missed).toEqual([]);
});
