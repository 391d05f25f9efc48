/** Goal: a process works and ends whatever becomes of its log's reader. Method: a process of its own, whose standard output is read, not read, or closed. */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { expect, onTestFinished, test } from 'vitest';

const LOG = new URL('../../kit/log.ts', import.meta.url).href;

/** Runs with a `log`; `told()` says something on standard error, which is read. Ends with the test, at the latest. */
function start(script: string): ChildProcessByStdio<null, Readable, Readable> {
  const source = `import { createLog } from ${JSON.stringify(LOG)};
    const log = createLog('test');
    const told = (what) => process.stderr.write(what);
    setInterval(() => undefined, 1_000);
    ${script}`;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', source], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  return child;
}

test('what is logged right before a process ends is written', async () => {
  const child = start(`for (let n = 0; n < 100; n += 1) log.info({ n }, 'last words'); process.exit(7);`);
  const [read, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
  const lines = read
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(lines.map(({ n }) => n)).toEqual(Array.from({ length: 100 }, (_, n) => n));
  expect(lines[99]).toMatchObject({ level: 'info', component: 'test', msg: 'last words' });
  expect(code).toBe(7);
});

test('a process whose log nobody reads any more works on, and ends when it wants to', async () => {
  const child = start(`
    log.info('up');
    process.on('SIGUSR2', () => { log.info('one'); log.info('two'); setTimeout(() => told('works on'), 50); });
    process.on('SIGTERM', () => { log.info('last'); log.info('words'); process.exit(7); });`);
  await once(child.stdout, 'data');
  child.stdout.destroy();
  const ended = once(child, 'exit');
  child.kill('SIGUSR2');
  expect(String(await once(child.stderr, 'data'))).toBe('works on');
  child.kill('SIGTERM');
  expect(await ended).toEqual([7, null]);
});

test('so does one that learns of it only at its end', async () => {
  const child = start(`
    log.info('up');
    process.on('SIGTERM', () => { log.info('last'); log.info('words'); process.exit(7); });`);
  await once(child.stdout, 'data');
  child.stdout.destroy();
  await once(child.stdout, 'close');
  const ended = Promise.all([once(child, 'exit'), text(child.stderr)]);
  child.kill('SIGTERM');
  expect(await ended).toEqual([[7, null], '']);
});

test('lines that nobody reads in time wait in a bounded place, and what is dropped is counted', async () => {
  const [line, count] = ['x'.repeat(10_000), 3_000];
  const child = start(`
    for (let n = 0; n < ${count}; n += 1) log.info({ n, line: '${line}' });
    told('logged');
    process.on('SIGTERM', () => process.exit(0));`);
  await once(child.stderr, 'data');
  let read = '';
  child.stdout.on('data', (bytes: Buffer) => {
    read += bytes.toString();
    if (read.includes('log lines dropped')) child.kill('SIGTERM');
  });
  await once(child.stdout, 'close');
  const lines = read
    .trim()
    .split('\n')
    .map((each) => JSON.parse(each) as { n?: number; lines?: number; level: string });
  const kept = lines.filter(({ n }) => n !== undefined).length;
  expect(kept * line.length).toBeGreaterThan(7 * 1_024 * 1_024);
  expect(kept * line.length).toBeLessThan(9 * 1_024 * 1_024);
  expect(lines.filter((each) => each.lines !== undefined)).toMatchObject([{ level: 'warn', lines: count - kept }]);
});
