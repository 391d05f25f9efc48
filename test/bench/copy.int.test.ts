/** Goal: the bench of the copy reports what docs/commands.md says and leaves nothing behind. Method: it is run as a process, with few rows; its figures are not looked at. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { until } from '../support/wait.ts';
import { startBench } from './process.ts';

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
  const { exited, said, folder, readReport } = startBench('copy', ['--rows', '2000', '--rounds', '1']);
  expect(await exited, said()).toBe(0);
  const report = readReport();
  expect(report).toMatchObject({ rows: 2000, rounds: 1, settings: { fsync: 'on' } });
  for (const field of ['bytes', 'ourRowsPerSecond', 'copyOnlyRowsPerSecond', 'rssPeakMb', 'rowBytes'])
    expect(report[field], field).toBeGreaterThan(0);
  if (report.missing) expect(report).not.toHaveProperty('ratio');
  else
    for (const field of ['pipeRowsPerSecond', 'ratio', 'copyOnlyRatio'])
      expect(report[field], field).toBeGreaterThan(0);
  expect(existsSync(folder)).toBe(false);
});

test('Ctrl-C in the middle of it leaves nothing behind', { timeout: 120_000 }, async () => {
  const { child, exited, said, folder } = startBench('copy', ['--rows', '100000', '--rounds', '100']);
  await until(() => said().includes('pinned:'), { deadlineMs: 60_000, what: 'it measures' });
  const servers = serversOf(folder);
  expect(servers).toHaveLength(2);
  child.kill('SIGINT');
  expect(await exited).toBe(130);
  expect(existsSync(folder)).toBe(false);
  await until(() => !servers.some(runs), { deadlineMs: 10_000, what: 'its servers have ended' });
});
