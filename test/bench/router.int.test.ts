/** Goal: the bench of the router reports what docs/commands.md says, or why it cannot, and leaves nothing behind. Method: it is run as a process; its figures are not looked at. */
import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
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
    expect(Object.keys(report.halfLoad)).toEqual(['rps', 'router', 'nginx', 'direct']);
  }
  expect(existsSync(folder)).toBe(false);
});
