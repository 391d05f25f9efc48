/** How much of a measurement is the machine's and not the measured process': what others had of its cores. And how to let them wait. Linux only. */
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { setPriority } from 'node:os';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Others get a tenth of a core that we would have whole (the scheduler's weights: 9,548 to 1,024). */
const NICE = -10;
const TICK_MS = 10; // USER_HZ is 100 on every Linux that runs Node

/** Of the time, in percent. */
export interface Taken {
  /** The process could have run, and other processes had its core. */
  readonly waitedPercent: number;
  /** The host ran something else on one of our cores: the one from which it took most. */
  readonly stolenPercent: number;
}

/** Puts this process, and all that it starts from now on, before what else the machine runs. False: it has no right to (CAP_SYS_NICE). */
export function goFirst(): boolean {
  try {
    setPriority(NICE);
    return true;
  } catch {
    return false;
  }
}

/**
 * The same for a process that was started `detached`, among sessions: each has its share of a core, whatever its processes' own priorities are
 * (man 7 sched, "The autogroup feature"). Not for others: it would be their whole session's.
 */
export async function sessionGoesFirst(pid: number): Promise<void> {
  await writeFile(`/proc/${pid}/autogroup`, String(NICE)).catch(() => undefined); // a kernel without; no right to; ended
}

/**
 * Whether what is started by `chrt -f 1` may have the realtime class (SCHED_FIFO, man 7 sched), in which nobody of the others has its core while it wants to run.
 * A higher priority alone leaves them whole slices of 4 ms, one after the other: measured, 0.8 to 1.3 % of a core for the kernel's own threads on a machine that does nothing else.
 */
export const mayBeRealtime = (): Promise<boolean> =>
  run('chrt', ['-f', '1', 'true']).then(
    () => true,
    () => false, // no right to (CAP_SYS_NICE), or the kernel shares realtime out by group
  );

/**
 * Puts the first thread of a process there, while `work` runs. Not for one that keeps its core busy: the kernel takes 5 % of each second from the realtime class
 * (`sched_rt_runtime_us`), in one piece.
 */
export async function inRealtime<T>(pids: readonly number[], work: () => Promise<T>): Promise<T> {
  const put = (args: readonly string[]) => Promise.all(pids.map((pid) => run('chrt', [...args, String(pid)])));
  await put(['-f', '-p', '1']);
  try {
    return await work();
  } finally {
    await put(['-o', '-p', '0']).catch(() => undefined); // one has ended
  }
}

export interface Watched extends Taken {
  /** Processor time of the process, all its threads. */
  readonly usedMs: number;
  readonly elapsedMs: number;
}

/**
 * From now until the function is called. Of a process its first thread waits; null: of none, which uses nothing and waits for nothing.
 * Of the cores: on which the host's work would be in the way.
 */
export async function watch(pid: number | null, cores: readonly number[]): Promise<() => Promise<Watched>> {
  const from = performance.now();
  const look = () => Promise.all([usedMs(pid), waitedMs(pid), stolenMs(cores)]);
  const [usedFrom, waitedFrom, stolenFrom] = await look();
  return async () => {
    const [used, waited, stolen] = await look();
    const elapsedMs = performance.now() - from;
    const percent = (ms: number): number => Math.round((ms / elapsedMs) * 10_000) / 100;
    return {
      usedMs: used - usedFrom,
      elapsedMs,
      waitedPercent: percent(waited - waitedFrom),
      stolenPercent: percent(Math.max(...stolen.map((ms, nth) => ms - stolenFrom[nth]!))),
    };
  };
}

export const takenOf = ({ waitedPercent, stolenPercent }: Taken): number => waitedPercent + stolenPercent;

/** man 5 proc_pid_stat: utime and stime. */
async function usedMs(pid: number | null): Promise<number> {
  if (pid === null) return 0;
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
}

const waitedMs = async (pid: number | null): Promise<number> =>
  pid === null ? 0 : waitedMsIn(await readFile(`/proc/${pid}/schedstat`, 'utf8'));

/** Documentation/scheduler/sched-stats.rst: time on a core, time waiting for one, in ns. */
export const waitedMsIn = (schedstat: string): number => Number(schedstat.split(' ')[1]) / 1e6;

/** Of each core (man 5 proc_stat: the eighth number is "steal"). */
async function stolenMs(cores: readonly number[]): Promise<number[]> {
  const stat = await readFile('/proc/stat', 'utf8');
  return cores.map((core) => Number(new RegExp(`^cpu${core} .*`, 'm').exec(stat)![0].split(' ')[8]) * TICK_MS);
}
