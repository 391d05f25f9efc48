/** Goal: the bench of the pauses reports what docs/commands.md says and leaves nothing behind. Method: it is run as a process, with short queues; its figures are not looked at. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { dataRoot } from '../../platform/local/places.ts';
import { until } from '../support/wait.ts';

const MAIN = fileURLToPath(new URL('../../bench/main.ts', import.meta.url));

function bench(args: readonly string[]) {
  const child = spawn(process.execPath, [MAIN, 'pause', ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  onTestFinished(() => void child.kill('SIGKILL')); // no use where it has ended
  let said = '';
  child.stderr.on('data', (text: Buffer) => {
    said += text.toString();
  });
  return {
    child,
    said: () => said,
    folder: path.join(dataRoot(), `bench-pause-${child.pid}`),
    exited: new Promise<number | null>((resolve) => child.once('exit', resolve)),
  };
}

test('the bench of the pauses reports its fields and leaves nothing behind', { timeout: 180_000 }, async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'bench-pause-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const file = path.join(folder, 'report.json');
  const args = ['--backlogs', '100,300', '--moves', '2', '--rate', '100', '--json', file];
  const { exited, said, folder: data } = bench(args);
  expect(await exited, said()).toBe(0);
  const report = JSON.parse(readFileSync(file, 'utf8'));
  expect(report).toMatchObject({ verdict: 'valid', runs: [{ pending: 100 }, { pending: 300 }] });
  expect(report.deliveryPauseRatio).toBeGreaterThan(0);
  for (const run of report.runs) {
    expect(run.jobsMoved).toBeGreaterThanOrEqual(run.pending);
    expect(run.deliveryPauseMs.samples).toBe(2 * report.partitionsMoved);
    expect(Object.keys(run.holdMs)).toEqual(['p50', 'p99', 'max', 'samples']);
  }
  expect(report.missing).toContain('had a request in them');
  expect(existsSync(data)).toBe(false);
});

test('Ctrl-C in the middle of it leaves nothing behind', { timeout: 120_000 }, async () => {
  const { child, exited, said, folder } = bench(['--backlogs', '100']);
  await until(() => said().includes('pinned:'), { deadlineMs: 60_000, what: 'it measures' });
  child.kill('SIGINT');
  expect(await exited).toBe(130);
  expect(existsSync(folder)).toBe(false);
});

test.for(['100000,1000', '0', '1,x', ''])('backlogs that are not ascending numbers are refused: "%s"', async (list) => {
  const { exited, said } = bench(['--backlogs', list]);
  expect(await exited).toBe(2);
  expect(said()).toContain('ascending whole numbers');
});
