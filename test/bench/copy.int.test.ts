/** Goal: the bench of the copy reports what docs/commands.md says and leaves nothing behind. Method: it is run as a process, with few rows; its figures are not looked at. */
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
  const child = spawn(process.execPath, [MAIN, 'copy', ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  onTestFinished(() => void child.kill('SIGKILL')); // no use where it has ended
  let said = '';
  child.stderr.on('data', (text: Buffer) => {
    said += text.toString();
  });
  return {
    child,
    said: () => said,
    folder: path.join(dataRoot(), `bench-copy-${child.pid}`),
    exited: new Promise<number | null>((resolve) => child.once('exit', resolve)),
  };
}

/** Its servers' processes. */
const serversOf = (folder: string): number[] =>
  ['source', 'target'].flatMap((side) => {
    const file = path.join(folder, side, 'data/postmaster.pid');
    return existsSync(file) ? [Number(readFileSync(file, 'utf8').split('\n')[0])] : [];
  });
const runs = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

test('the bench of the copy reports its fields and leaves nothing behind', { timeout: 120_000 }, async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'bench-copy-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const file = path.join(folder, 'report.json');
  const { exited, said, folder: data } = bench(['--rows', '2000', '--rounds', '1', '--json', file]);
  expect(await exited, said()).toBe(0);
  const report = JSON.parse(readFileSync(file, 'utf8'));
  expect(report).toMatchObject({ rows: 2000, rounds: 1, settings: { fsync: 'on' } });
  for (const field of ['bytes', 'ourRowsPerSecond', 'copyOnlyRowsPerSecond', 'rssPeakMb', 'rowBytes'])
    expect(report[field], field).toBeGreaterThan(0);
  if (report.missing) expect(report).not.toHaveProperty('ratio');
  else
    for (const field of ['pipeRowsPerSecond', 'ratio', 'copyOnlyRatio'])
      expect(report[field], field).toBeGreaterThan(0);
  expect(existsSync(data)).toBe(false);
});

test('Ctrl-C in the middle of it leaves nothing behind', { timeout: 120_000 }, async () => {
  const { child, exited, said, folder } = bench(['--rows', '100000', '--rounds', '100']);
  await until(() => said().includes('pinned:'), { deadlineMs: 60_000, what: 'it measures' });
  const servers = serversOf(folder);
  expect(servers).toHaveLength(2);
  child.kill('SIGINT');
  expect(await exited).toBe(130);
  expect(existsSync(folder)).toBe(false);
  await until(() => !servers.some(runs), { deadlineMs: 10_000, what: 'its servers have ended' });
});
