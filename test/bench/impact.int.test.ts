/** Goal: the bench of the impact reports what docs/commands.md says and leaves nothing behind. Method: it is run as a process, with few rows; its figures are not looked at. */
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
  const child = spawn(process.execPath, [MAIN, 'impact', ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  onTestFinished(() => void child.kill('SIGKILL')); // no use where it has ended
  let said = '';
  child.stderr.on('data', (text: Buffer) => {
    said += text.toString();
  });
  return {
    child,
    said: () => said,
    folder: path.join(dataRoot(), `bench-impact-${child.pid}`),
    exited: new Promise<number | null>((resolve) => child.once('exit', resolve)),
  };
}

test('the bench of the impact reports its fields and leaves nothing behind', { timeout: 180_000 }, async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'bench-impact-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const file = path.join(folder, 'report.json');
  const { exited, said, folder: data } = bench(['--rows', '1000', '--moves', '2', '--rate', '40', '--json', file]);
  expect(await exited, said()).toBe(0);
  const report = JSON.parse(readFileSync(file, 'utf8'));
  expect(report).toMatchObject({ rows: 1000, rate: 40, moves: [{ brake: 'on' }, { brake: 'off' }] });
  for (const field of ['beforePerSecond', 'duringPerSecond', 'brakedMs', 'unbrakedMs', 'rowBytes'])
    expect(report[field], field).toBeGreaterThan(0);
  expect(report.missing).toContain('a move takes only');
  expect(existsSync(data)).toBe(false);
});

test('Ctrl-C in the middle of it leaves nothing behind', { timeout: 120_000 }, async () => {
  const { child, exited, said, folder } = bench(['--rows', '1000', '--rate', '40']);
  await until(() => said().includes('pinned:'), { deadlineMs: 90_000, what: 'it measures' });
  child.kill('SIGINT');
  expect(await exited).toBe(130);
  expect(existsSync(folder)).toBe(false);
});
