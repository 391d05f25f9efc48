/** Goal: the bench of the impact reports what docs/commands.md says and leaves nothing behind. Method: it is run as a process, with few rows; its figures are not looked at. */
import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
import { until } from '../support/wait.ts';
import { startBench } from './process.ts';

test('the bench of the impact reports its fields and leaves nothing behind', { timeout: 180_000 }, async () => {
  const { exited, said, folder, readReport } = startBench('impact', ['--rows', '1000', '--moves', '2', '--rate', '40']);
  expect(await exited, said()).toBe(0);
  const report = readReport();
  expect(report).toMatchObject({ rows: 1000, rate: 40, moves: [{ brake: 'on' }, { brake: 'off' }] });
  for (const field of ['beforePerSecond', 'duringPerSecond', 'brakedMs', 'unbrakedMs', 'rowBytes'])
    expect(report[field], field).toBeGreaterThan(0);
  expect(report.missing).toContain('a move takes only');
  expect(existsSync(folder)).toBe(false);
});

test('Ctrl-C in the middle of it leaves nothing behind', { timeout: 120_000 }, async () => {
  const { child, exited, said, folder } = startBench('impact', ['--rows', '1000', '--rate', '40']);
  await until(() => said().includes('pinned:'), { deadlineMs: 90_000, what: 'it measures' });
  child.kill('SIGINT');
  expect(await exited).toBe(130);
  expect(existsSync(folder)).toBe(false);
});
