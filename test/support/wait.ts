import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Waits until `condition` gives something truthy, and returns that. A condition that throws counts as not yet; its last error is the cause of ours.
 */
export async function until<T>(
  condition: () => T | Promise<T>,
  options: { deadlineMs: number; what: string; everyMs?: number },
): Promise<NonNullable<T>> {
  const deadline = performance.now() + options.deadlineMs;
  let cause: unknown;
  for (;;) {
    try {
      const value = await condition();
      if (value) return value;
      cause = undefined;
    } catch (err) {
      cause = err;
    }
    if (performance.now() > deadline)
      throw new Error(`not within ${options.deadlineMs} ms: ${options.what}`, { cause });
    await sleep(options.everyMs ?? 20);
  }
}
