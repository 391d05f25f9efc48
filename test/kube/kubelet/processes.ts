/**
 * A container is more than its first process: what that one has started ends with it. On Linux a PID namespace sees to it; here the processes are found by
 * a mark in their environment, or by the folder they work in (PostgreSQL writes its title over its environment), and by their parents.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

export const CONTAINER_MARK = 'RINGMASTER_STAND_IN_CONTAINER';
const GONE_WITHIN_MS = 10_000;

export interface Belonging {
  /** Value of CONTAINER_MARK. */
  mark: string;
  /** A working directory that only this container's processes have. */
  folder?: string;
}

function isOf(pid: string, { mark, folder }: Belonging): boolean {
  try {
    if (folder && readlinkSync(`/proc/${pid}/cwd`) === folder) return true;
    return readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(`${CONTAINER_MARK}=${mark}`);
  } catch {
    return false; // it has just ended, or is another user's: then not ours
  }
}

/** Living processes (a zombie has no working directory and no environment). */
export function processesOf(belonging: Belonging): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && isOf(name, belonging))
    .map(Number);
}

/** SIGKILL of all that belong, until none is left. */
export async function killAll(belonging: Belonging): Promise<void> {
  const deadline = performance.now() + GONE_WITHIN_MS;
  for (let left = processesOf(belonging); left.length > 0; left = processesOf(belonging)) {
    for (const pid of left) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // ended between the look and the kill
      }
    }
    if (performance.now() > deadline) throw new Error(`processes ${left.join(', ')} of ${belonging.mark} do not end`);
    await sleep(10);
  }
}
