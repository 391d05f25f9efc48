/** A bench as a process, as people run it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { dataRoot } from '../../platform/local/places.ts';

const MAIN = fileURLToPath(new URL('../../bench/main.ts', import.meta.url));

export interface BenchProcess {
  readonly child: ChildProcess;
  /** What it has said to people so far. */
  said(): string;
  /** Where its data lies while it runs. */
  readonly folder: string;
  readonly exited: Promise<number | null>;
  /** What it wrote to the file of `--json`, once it has exited with 0. */
  readReport(): ReturnType<typeof JSON.parse>;
}

/** It ends with the test, at the latest. */
export function startBench(name: 'copy' | 'pause' | 'impact' | 'router', args: readonly string[]): BenchProcess {
  const out = mkdtempSync(path.join(tmpdir(), `bench-${name}-`));
  onTestFinished(() => rmSync(out, { recursive: true }));
  const file = path.join(out, 'report.json');
  const child = spawn(process.execPath, [MAIN, name, ...args, '--json', file], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  onTestFinished(() => void child.kill('SIGKILL')); // no use where it has ended
  let said = '';
  child.stderr!.on('data', (text: Buffer) => {
    said += text.toString();
  });
  return {
    child,
    said: () => said,
    folder: path.join(dataRoot(), `bench-${name}-${child.pid}`),
    exited: new Promise((resolve) => child.once('exit', resolve)),
    readReport: () => JSON.parse(readFileSync(file, 'utf8')),
  };
}
