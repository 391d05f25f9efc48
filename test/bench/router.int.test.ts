/** Goal: the bench of the router reports what docs/commands.md says, or why it cannot, and leaves nothing behind. Method: it is run as a process; its figures are not looked at. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, rmSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { expect, onTestFinished, test } from 'vitest';
import { familyOf, listProcesses } from '../../dev/faults/processes.ts';
import { until } from '../support/wait.ts';
import { startBench } from './process.ts';

test('the bench of the router reports its fields, or what is missing, and leaves nothing behind', async () => {
  const { exited, said, folder, readReport } = startBench('router', ['--seconds', '1', '--rounds', '1']);
  expect(await exited, said()).toBe(0);
  const report = readReport();
  expect(said()).toContain('pinned: ');
  expect(report).toMatchObject({ seconds: 1, rounds: 1, requestBytes: 367, bodyBytes: 194 });
  // On a machine that has all it needs and nothing else to do there is a ratio; everywhere else a reason.
  expect('ratio' in report).toBe(!('missing' in report));
  if ('router' in report) {
    for (const side of ['router', 'nginx'])
      expect(Object.keys(report[side])).toEqual(['rps', 'p50Ms', 'p99Ms', 'cpuPercent', 'cpuUsPerRequest']);
    expect('addedP99MsAtHalfLoad' in report).toBe('ratio' in report);
    expect(Object.keys(report.halfLoad)).toEqual(['rps', 'rounds', 'isRealtime', 'router', 'nginx', 'direct']);
  }
  expect(existsSync(folder)).toBe(false);
});

test('what others in this machine have of a core is no hiccup', async ({ skip }) => {
  const BUSY = 3;
  if (process.platform !== 'linux') skip('cores are pinned on Linux only');
  const onOneCore = (...args: readonly string[]) =>
    spawn('taskset', ['-c', '0', process.execPath, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  const busy = Array.from({ length: BUSY }, () => onOneCore('-e', 'console.log(); for (;;);'));
  onTestFinished(async () => {
    for (const child of busy) child.kill('SIGKILL');
    await Promise.all(busy.map((child) => child.exitCode ?? child.signalCode ?? once(child, 'exit')));
  });
  await Promise.all(busy.map((child) => once(child.stdout!, 'data')));
  const lostPercent = Number(await text(onOneCore('bench/hiccups.ts').stdout!));
  // They have three quarters of it. A host that takes something meanwhile may be seen.
  expect(lostPercent).toBeLessThan(50);
  expect(lostPercent).toBeGreaterThanOrEqual(0);
});

test('a bench of the router that is killed leaves no process behind', async ({ skip }) => {
  const { child, exited, said, folder } = startBench('router', ['--seconds', '30', '--rounds', '1']);
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  let hasExited = false;
  void exited.then(() => {
    hasExited = true;
  });
  /** Two nginx with a worker each, the router, and the load; below it nobody else. Empty until all are there. */
  const family = async (): Promise<number[]> => {
    const all = await listProcesses();
    const [, ...pids] = familyOf(child.pid!, all);
    const hasLoad = all.some(({ pid, command }) => pids.includes(pid) && command.startsWith('wrk '));
    return pids.length === 6 && hasLoad ? pids : [];
  };
  let started: number[] = [];
  await until(
    async () => {
      started = await family();
      return hasExited || started.length > 0;
    },
    { deadlineMs: 30_000, what: 'servers and load run' },
  );
  if (said().includes('not on this machine')) skip(said());
  expect(started).toHaveLength(6);
  child.kill('SIGKILL');
  await until(async () => (await listProcesses()).every(({ pid }) => !started.includes(pid)), {
    deadlineMs: 10_000,
    what: 'they have ended',
  });
});
