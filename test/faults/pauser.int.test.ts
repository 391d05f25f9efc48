/** Holding processes still, with real ones: they stop, they go on, and they go on also when whoever holds them is killed. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, test } from 'vitest';
import { startPauser } from '../../dev/faults/pauser.ts';
import { familyOf, listProcesses } from '../../dev/faults/processes.ts';
import { until } from '../support/wait.ts';

const started: ChildProcess[] = [];
afterEach(() => {
  for (const child of started.splice(0)) child.kill('SIGKILL');
});

/** Counts as long as it runs. */
function startCounter(): { pid: number; count: () => number } {
  const child = spawn(process.execPath, ['-e', 'setInterval(() => console.log("tick"), 5)'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  started.push(child);
  let count = 0;
  createInterface({ input: child.stdout! }).on('line', () => {
    count += 1;
  });
  return { pid: child.pid!, count: () => count };
}
const counts = async ({ count }: { count: () => number }): Promise<void> => {
  const before = count();
  await until(() => count() > before + 3, { deadlineMs: 10_000, what: 'it counts' });
};
/** What had been written before the stop may still arrive: still is what stays still. */
const isStill = ({ count }: { count: () => number }): Promise<boolean> =>
  until(
    async () => {
      const before = count();
      await new Promise((resolve) => setTimeout(resolve, 200));
      return count() === before;
    },
    { deadlineMs: 10_000, what: 'it stands still' },
  );

test('a process that is held stands still until it is let go; the others go on', async () => {
  const [held, other] = [startCounter(), startCounter()];
  await Promise.all([counts(held), counts(other)]);
  const pauser = startPauser();
  try {
    const letGo = await pauser.pause([held.pid]);
    await isStill(held);
    await counts(other);
    await letGo();
    await letGo();
    await counts(held);
    await pauser.pause([other.pid]);
    await isStill(other);
  } finally {
    await pauser.close();
  }
  await counts(other); // the end lets everything go
});

test('whoever holds a process is killed: the process goes on', async () => {
  const held = startCounter();
  await counts(held);
  const pauserFile = fileURLToPath(new URL('../../dev/faults/pauser.ts', import.meta.url));
  const holder = spawn(
    process.execPath,
    [
      '--disable-warning=ExperimentalWarning',
      '--input-type=module',
      '-e',
      `const { startPauser } = await import(${JSON.stringify(pauserFile)}); await startPauser().pause([${held.pid}]); console.log('held');`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  started.push(holder);
  await new Promise<void>((resolve) => createInterface({ input: holder.stdout! }).once('line', () => resolve()));
  await isStill(held);
  holder.kill('SIGKILL');
  await counts(held);
});

test('a family is a process with all that it started, and what those started', async () => {
  const child = spawn('sh', ['-c', `"${process.execPath}" -e 'setInterval(() => {}, 1000)' & wait`], {
    stdio: 'ignore',
  });
  started.push(child);
  const family = await until(
    async () => {
      const found = familyOf(child.pid!, await listProcesses());
      return found.length === 2 ? found : null;
    },
    { deadlineMs: 10_000, what: 'a shell and its child' },
  );
  expect(family[0]).toBe(child.pid);
  expect(familyOf(process.pid, await listProcesses())).toEqual(expect.arrayContaining(family));
  process.kill(family[1]!, 'SIGKILL'); // else it would outlive its shell
});
