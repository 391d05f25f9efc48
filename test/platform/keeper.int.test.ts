import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type KeptSpec, keep } from '../../platform/local/keeper.ts';
import { isAlive } from '../../platform/local/processes.ts';
import { until } from '../support/wait.ts';

describe('the keeper', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'ringmaster-keeper-'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  const sleeper = (script: string): KeptSpec => ({
    command: 'sh',
    args: ['-c', script],
    env: { PATH: process.env['PATH'], FOLDER: folder },
    logFile: path.join(folder, 'log'),
    endSignal: 'SIGTERM',
    killAfterMs: 300,
  });

  test('tells how a process ended, and keeps its output', async () => {
    const child = await keep(sleeper('echo said; exit 3'));
    expect(await child.exited).toEqual({ code: 3, signal: null });
    expect(readFileSync(path.join(folder, 'log'), 'utf8')).toBe('said\n');
  });

  test('kills what does not end when asked', async () => {
    const child = await keep(sleeper('trap "" TERM; echo deaf; while :; do sleep 0.05; done'));
    const isDeaf = () => readFileSync(path.join(folder, 'log'), 'utf8').includes('deaf');
    await until(isDeaf, { deadlineMs: 10_000, what: 'it ignores SIGTERM' });
    expect(await child.end()).toEqual({ code: null, signal: 'SIGKILL' });
    expect(isAlive(child.pid)).toBe(false);
  });

  test('says when something cannot be started', async () => {
    await expect(keep({ ...sleeper(''), command: '/does/not/exist' })).rejects.toThrow('cannot start /does/not/exist');
  });

  test.each(['the parent', 'the keeper'])('a child that ignores SIGTERM ends when %s is killed', async (victim) => {
    const spec = sleeper('trap "" TERM; while :; do sleep 0.05; done');
    const keeperModule = fileURLToPath(new URL('../../platform/local/keeper.ts', import.meta.url));
    const program = `
      import { keep } from ${JSON.stringify(keeperModule)};
      import { readFileSync } from 'node:fs';
      const child = await keep(${JSON.stringify(spec)});
      const keeper = Number(/\\) \\w (\\d+)/.exec(readFileSync('/proc/' + child.pid + '/stat', 'utf8'))?.[1]);
      console.log(JSON.stringify({ child: child.pid, keeper }));
    `;
    const parent = spawn(process.execPath, ['--input-type=module-typescript', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const line = await new Promise<string>((resolve) => parent.stdout.once('data', (chunk) => resolve(String(chunk))));
    const { child, keeper } = JSON.parse(line) as { child: number; keeper: number };
    expect([child, keeper].filter(isAlive)).toEqual([child, keeper]);
    if (victim === 'the parent') parent.kill('SIGKILL');
    else process.kill(keeper, 'SIGKILL');
    await until(() => ![child, keeper].some(isAlive), { deadlineMs: 5000, what: 'child and keeper have ended' });
  });
});
