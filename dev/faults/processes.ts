/** The processes of this machine, as faults and the search for strays need them. */
import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface ProcessRow {
  readonly pid: number;
  readonly parent: number;
  /** With its arguments. */
  readonly command: string;
}

/** Every process that is there now; one that ends meanwhile may be missing, and one that has ended and is not yet buried is. */
export async function listProcesses(): Promise<ProcessRow[]> {
  if (process.platform === 'linux') {
    const pids = (await readdir('/proc')).map(Number).filter(Number.isInteger);
    return (await Promise.all(pids.map(readProcess))).filter((row) => row !== null);
  }
  const { stdout } = await run('ps', ['-A', '-ww', '-o', 'pid=,ppid=,args='], { maxBuffer: 64 * 1_024 * 1_024 });
  return stdout.split('\n').flatMap((line) => {
    const match = /^\s*(\d+)\s+(\d+)\s+(.*)$/.exec(line);
    return match ? [{ pid: Number(match[1]), parent: Number(match[2]), command: match[3]! }] : [];
  });
}

async function readProcess(pid: number): Promise<ProcessRow | null> {
  try {
    const [stat, command] = await Promise.all([
      readFile(`/proc/${pid}/stat`, 'utf8'),
      readFile(`/proc/${pid}/cmdline`, 'utf8'),
    ]);
    if (command === '') return null; // the kernel's own, or a zombie
    // "pid (name, which may hold anything) state parent …"
    const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
    return { pid, parent, command: command.replaceAll('\0', ' ').trim() };
  } catch {
    return null; // it has ended
  }
}

/** A process and all below it: a PostgreSQL server is a family. The process itself comes first. */
export function familyOf(pid: number, all: readonly ProcessRow[]): number[] {
  const family = [pid];
  for (const member of family) family.push(...all.filter(({ parent }) => parent === member).map((row) => row.pid));
  return family;
}
