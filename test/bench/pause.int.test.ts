/** Goal: the bench of the pauses reports what docs/commands.md says and leaves nothing behind. Method: it is run as a process, with short queues; its figures are not looked at. */
import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
import { until } from '../support/wait.ts';
import { startBench } from './process.ts';

test('the bench of the pauses reports its fields and leaves nothing behind', { timeout: 180_000 }, async () => {
  const args = ['--backlogs', '100,300', '--moves', '2', '--rate', '100'];
  const { exited, said, folder, readReport } = startBench('pause', args);
  expect(await exited, said()).toBe(0);
  const report = readReport();
  expect(report).toMatchObject({ verdict: 'valid', runs: [{ pending: 100 }, { pending: 300 }] });
  expect(report.deliveryPauseRatio).toBeGreaterThan(0);
  for (const run of report.runs) {
    expect(run.jobsMoved).toBeGreaterThanOrEqual(run.pending);
    expect(run.deliveryPauseMs.samples).toBe(2 * report.partitionsMoved);
    expect(Object.keys(run.holdMs)).toEqual(['p50', 'p99', 'max', 'samples']);
  }
  expect(report.missing).toContain('had a request in them');
  expect(existsSync(folder)).toBe(false);
});

test('Ctrl-C in the middle of it leaves nothing behind', { timeout: 120_000 }, async () => {
  const { child, exited, said, folder } = startBench('pause', ['--backlogs', '100']);
  await until(() => said().includes('pinned:'), { deadlineMs: 60_000, what: 'it measures' });
  child.kill('SIGINT');
  expect(await exited).toBe(130);
  expect(existsSync(folder)).toBe(false);
});

test.for(['100000,1000', '0', '1,x', ''])('backlogs that are not ascending numbers are refused: "%s"', async (list) => {
  const { exited, said } = startBench('pause', ['--backlogs', list]);
  expect(await exited).toBe(2);
  expect(said()).toContain('ascending whole numbers');
});
