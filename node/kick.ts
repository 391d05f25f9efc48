/** Wakes a loop: a kick that comes while it is busy is not lost. */
export class Kick {
  #kicked = false;
  #wake: (() => void) | null = null;

  kick(): void {
    this.#kicked = true;
    this.#wake?.();
  }

  /** Resolves at the next kick, at once where one came since the last wait, or after `timeoutMs`. */
  async wait(timeoutMs?: number): Promise<void> {
    if (!this.#kicked) {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        if (timeoutMs !== undefined) timer = setTimeout(resolve, timeoutMs);
      });
      clearTimeout(timer);
      this.#wake = null;
    }
    this.#kicked = false;
  }
}

/** Waits of a loop whose work fails: 50 ms, doubling to 2 s; short enough that a database's failover is noticed at once. */
export class LoopBackoff {
  #ms = 0;
  next(): number {
    this.#ms = Math.min(Math.max(this.#ms * 2, 50), 2_000);
    return this.#ms;
  }
  reset(): void {
    this.#ms = 0;
  }
}
