const DELAYS_MS = [0, 1000, 2000, 5000, 10_000];
const STEADY_MS = 60_000;

/** How long to wait before something that ended by itself is started again: at once, then longer each time; from the start after a minute up. */
export class Backoff {
  #restarts = 0;

  /** `upMs`: how long it was up this time. */
  next(upMs: number): number {
    if (upMs >= STEADY_MS) this.#restarts = 0;
    const delay = DELAYS_MS[Math.min(this.#restarts, DELAYS_MS.length - 1)] ?? 0;
    this.#restarts += 1;
    return delay;
  }
}
