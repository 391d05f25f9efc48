/** How much of a measurement is the machine's and not the measured process': what others had of its cores. And how to let them wait. Linux only. */
import { readFile, writeFile } from 'node:fs/promises';
import { setPriority } from 'node:os';

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
 * From now until the function is called. Of a process its first thread counts; null: nobody is known to wait.
 * Of the cores: on which the host's work would be in the way.
 */
export async function watchTaken(pid: number | null, cores: readonly number[]): Promise<() => Promise<Taken>> {
  const [from, waitedFrom, stolenFrom] = [performance.now(), await waitedMs(pid), await stolenMs(cores)];
  return async () => {
    const [waited, stolen] = [(await waitedMs(pid)) - waitedFrom, await stolenMs(cores)];
    const percent = (ms: number): number => Math.round((ms / (performance.now() - from)) * 10_000) / 100;
    return {
      waitedPercent: percent(waited),
      stolenPercent: percent(Math.max(...stolen.map((ms, nth) => ms - stolenFrom[nth]!))),
    };
  };
}

export const takenOf = ({ waitedPercent, stolenPercent }: Taken): number => waitedPercent + stolenPercent;

/** Documentation/scheduler/sched-stats.rst: time on a core, time waiting for one, in ns. */
async function waitedMs(pid: number | null): Promise<number> {
  if (pid === null) return 0;
  const [, waitedNs] = (await readFile(`/proc/${pid}/schedstat`, 'utf8')).split(' ');
  return Number(waitedNs) / 1e6;
}

/** Of each core (man 5 proc_stat: the eighth number is "steal"). */
async function stolenMs(cores: readonly number[]): Promise<number[]> {
  const stat = await readFile('/proc/stat', 'utf8');
  return cores.map((core) => Number(new RegExp(`^cpu${core} .*`, 'm').exec(stat)![0].split(' ')[8]) * TICK_MS);
}
