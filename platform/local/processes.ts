import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (err) {
    return (err as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** The command line of a process, its arguments separated by spaces; null when there is no such process (a zombie counts as none). */
export async function commandLineOf(pid: number): Promise<string | null> {
  try {
    if (process.platform === 'linux') {
      const text = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).replaceAll('\0', ' ').trim();
      return text === '' ? null : text;
    }
    const { stdout } = await run('ps', ['-p', String(pid), '-o', 'command=']);
    return stdout.trim() || null;
  } catch {
    return null;
  }
}

/**
 * Ends what a crash left running: the process `pid`, if it still is the one whose command line holds `mark` (process numbers are used again).
 * Returns whether there was one.
 */
export async function endLeftover(
  pid: number,
  mark: string,
  signal: NodeJS.Signals,
  killAfterMs: number,
): Promise<boolean> {
  const stillIt = async () => (await commandLineOf(pid))?.includes(mark) ?? false;
  if (!(await stillIt())) return false;
  send(pid, signal);
  const killAt = performance.now() + killAfterMs;
  let killed = false;
  while (await stillIt()) {
    if (!killed && performance.now() > killAt) {
      send(pid, 'SIGKILL');
      killed = true;
    }
    if (performance.now() > killAt + 10_000) throw new Error(`process ${pid} (${mark}) cannot be ended`);
    await sleep(20);
  }
  return true;
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // gone, or not ours: the caller looks again
  }
}
