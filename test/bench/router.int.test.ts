/** Goal: the bench of the router reports what docs/commands.md says, or why it cannot, and leaves nothing behind. Method: it is run as a process; its figures are not looked at. */
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
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
    expect(Object.keys(report.halfLoad)).toEqual(['rps', 'rounds', 'router', 'nginx', 'direct']);
  }
  expect(existsSync(folder)).toBe(false);
});

test('a bench of the router that is killed leaves no process behind', async ({ skip }) => {
  const { child, exited, said, folder } = startBench('router', ['--seconds', '30', '--rounds', '1']);
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  let hasExited = false;
  void exited.then(() => {
    hasExited = true;
  });
  const pids = (): number[] => descendantsOf(child.pid!);
  // Two nginx with a worker each, the router, and the load.
  await until(() => hasExited || (pids().length === 6 && pids().some((pid) => nameOf(pid) === 'wrk')), {
    deadlineMs: 30_000,
    what: 'servers and load run',
  });
  if (said().includes('not on this machine')) skip(said());
  const all = pids();
  child.kill('SIGKILL');
  await until(() => all.every((pid) => nameOf(pid) === null), { deadlineMs: 10_000, what: 'they have ended' });
});

function descendantsOf(pid: number): number[] {
  const children = read(`/proc/${pid}/task/${pid}/children`)?.trim().split(' ').filter(Boolean).map(Number) ?? [];
  return [...children, ...children.flatMap(descendantsOf)];
}

/** Null where no such process runs (any more: one that nobody has waited for yet has ended, too). */
const nameOf = (pid: number): string | null => {
  const [, name, state] = /\((.*)\) (.)/.exec(read(`/proc/${pid}/stat`) ?? '') ?? [];
  return name === undefined || state === 'Z' ? null : name;
};

function read(file: string): string | null {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return null;
  }
}
