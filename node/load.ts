/** How long things take at this node just now: what live traffic feels, measured in memory where it happens. */

/** A load is of so long: short enough that a brake on it lets go soon, long enough for a dozen commits of a quiet node. */
const WINDOW_MS = 2_000;
/** Of a busy node the latest so many count. */
const SAMPLES_MAX = 512;

/** How long one kind of thing took, each time it ended in the last seconds; with what has begun and not ended yet, so that a standstill is seen at once. */
export class RecentTimes {
  readonly #now: () => number;
  /** A ring: when it ended, how long it took. */
  readonly #samples: { at: number; ms: number }[] = [];
  #next = 0;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** `since`: when it began. */
  ended(since: number): void {
    const at = this.#now();
    this.#samples[this.#next] = { at, ms: at - since };
    this.#next = (this.#next + 1) % SAMPLES_MAX;
  }

  /** Nearest rank. `runningSince`: of the oldest that goes on; it counts where it has taken longer already. Null: nothing ended lately, and nothing goes on. */
  quantiles(runningSince: number | null = null): { p50: number; p90: number } | null {
    const at = this.#now();
    const times = this.#samples.filter((sample) => at - sample.at <= WINDOW_MS).map(({ ms }) => ms);
    times.sort((a, b) => a - b);
    const running = runningSince === null ? 0 : at - runningSince;
    if (times.length === 0) return runningSince === null ? null : { p50: running, p90: running };
    const rank = (share: number): number => times[Math.ceil(times.length * share) - 1]!;
    return { p50: rank(0.5), p90: Math.max(rank(0.9), running) };
  }
}

/** The earliest of some times; null stands for none. */
export function earliest(times: Iterable<number | null>): number | null {
  let first: number | null = null;
  for (const time of times) if (time !== null && (first === null || time < first)) first = time;
  return first;
}
