/** Goal: a copy keeps to its limit, slows down where it hurts, and never stands still. Method: the brake on a clock of our own, waiting on the real one. */
import { finished } from 'node:stream/promises';
import { describe, expect, test } from 'vitest';
import { type FeltLoad, LANES_MAX, PacedThrottle, type PaceLimits, throttled } from '../../jobsdb/throttle.ts';
import { DEFAULT_LIMITS } from '../../ring/limits.ts';

const CHUNK = 65_536;
const never = new AbortController().signal;
const limits = (change: Partial<PaceLimits> = {}): PaceLimits => ({ ...DEFAULT_LIMITS, ...change });
const load = (commitMs: number | null, queueDelayMs: number | null = 0, node = 'node-0'): FeltLoad => ({
  node,
  commitMs,
  queueDelayMs,
});

/** A copy that takes what it is given, `bytesPerSecond` at most, on a clock that only we move. */
function copying(change: Partial<PaceLimits> = {}) {
  let at = 0;
  const throttle = new PacedThrottle(limits(change), never, () => at);
  return {
    throttle,
    /** Lets a second go by, at full speed, in which the load is felt four times. */
    second(loads: readonly FeltLoad[], bytesPerSecond = 100_000_000): void {
      for (let quarter = 0; quarter < 4; quarter += 1) {
        const allowed = throttle.state().bytesPerSecond ?? Number.POSITIVE_INFINITY;
        const bytes = Math.min(bytesPerSecond, allowed) / 4;
        at += 250;
        throttle.take(bytes)?.catch(() => undefined);
        throttle.feel(loads);
      }
    },
  };
}

describe('without a limit and without pain', () => {
  test('nobody waits, and all lanes run', () => {
    const { throttle, second } = copying();
    second([load(5), load(null, null, 'node-1')]);
    expect(throttle.take(1_000_000_000)).toBeUndefined();
    expect(throttle.lanes).toBe(LANES_MAX);
    expect(throttle.state()).toEqual({ throttledBy: null, bytesPerSecond: null });
  });
});

test('every byte of a stream is taken, also what is left at its end', async () => {
  let taken = 0;
  const stream = throttled({
    lanes: 1,
    take(bytes) {
      taken += bytes;
      return undefined;
    },
  });
  stream.resume();
  stream.write(Buffer.alloc(150_000));
  stream.end(Buffer.alloc(1_234));
  await finished(stream);
  expect(taken).toBe(151_234);
});

describe('the brake', () => {
  test('halves the rate where commits are slow, leaves one lane, and says which node and how much', () => {
    const { throttle, second } = copying();
    for (let i = 0; i < 3; i += 1) second([load(5)]);
    throttle.feel([load(5), load(83.4, 0, 'node-1')]);
    expect(throttle.lanes).toBe(1);
    expect(throttle.state()).toEqual({
      throttledBy: 'brake: commit latency of node-1 is 83 ms, limit 50 ms',
      bytesPerSecond: 50_000_000,
    });
  });

  test('is on where jobs wait too long, too', () => {
    const { throttle, second } = copying({ queueDelayMsMax: 200 });
    second([load(5)]);
    throttle.feel([load(5, 201)]);
    expect(throttle.state().throttledBy).toBe('brake: queue delay of node-0 is 201 ms, limit 200 ms');
  });

  test('halves no sooner than the last halving can be felt', () => {
    const { throttle, second } = copying();
    for (let i = 0; i < 3; i += 1) second([load(5)]);
    for (let i = 0; i < 5; i += 1) throttle.feel([load(83)]);
    expect(throttle.state().bytesPerSecond).toBe(50_000_000);
  });

  test('never goes below a quarter of what the copy can do, however long it hurts', () => {
    const { throttle, second } = copying();
    for (let i = 0; i < 3; i += 1) second([load(5)]);
    for (let i = 0; i < 60; i += 1) second([load(5_000)]);
    expect(throttle.state().bytesPerSecond).toBe(25_000_000);
  });

  test('leaves a copy that it has never seen at full speed enough to go on', () => {
    const { throttle } = copying();
    for (let i = 0; i < 10; i += 1) throttle.feel([load(5_000)]);
    expect(throttle.state().bytesPerSecond).toBeGreaterThanOrEqual(5_000_000);
  });

  test('lets go in steps once it does not hurt any more, and says meanwhile what it was', () => {
    const { throttle, second } = copying();
    for (let i = 0; i < 3; i += 1) second([load(5)]);
    second([load(83)]);
    let before = throttle.state().bytesPerSecond!;
    second([load(5)]);
    expect(throttle.state().throttledBy).toBe('brake: commit latency of node-0 was 83 ms, limit 50 ms');
    let seconds = 1;
    for (; throttle.state().bytesPerSecond !== null && seconds < 60; seconds += 1) {
      expect(throttle.state().bytesPerSecond).toBeGreaterThan(before);
      before = throttle.state().bytesPerSecond!;
      second([load(5)]);
    }
    expect(seconds).toBeGreaterThan(3);
    expect(seconds).toBeLessThan(20);
    expect(throttle.state()).toEqual({ throttledBy: null, bytesPerSecond: null });
    expect(throttle.lanes).toBe(LANES_MAX);
  });

  test('does not swing about the threshold: just below it nothing rises', () => {
    const { throttle, second } = copying();
    for (let i = 0; i < 3; i += 1) second([load(5)]);
    second([load(83)]);
    const before = throttle.state().bytesPerSecond;
    for (let i = 0; i < 5; i += 1) second([load(49)]);
    expect(throttle.state().bytesPerSecond).toBe(before);
  });

  test('does nothing where it is off, and lets go when it is taken off', () => {
    const off = copying({ brake: 'off' });
    off.second([load(5_000)]);
    expect(off.throttle.state().throttledBy).toBeNull();

    const on = copying();
    on.second([load(5_000)]);
    expect(on.throttle.lanes).toBe(1);
    on.throttle.setLimits(limits({ brake: 'off' }));
    expect(on.throttle.lanes).toBe(LANES_MAX);
    expect(on.throttle.take(1_000_000_000)).toBeUndefined();
  });

  test('a whole move under pain that comes and goes takes less than three times as long', () => {
    const { throttle, second } = copying();
    for (let i = 0; i < 3; i += 1) second([load(5)]);
    let copied = 0;
    let seconds = 0;
    // It hurts whenever the copy takes more than three quarters of what it could.
    for (; copied < 3_000_000_000; seconds += 1) {
      const rate = Math.min(throttle.state().bytesPerSecond ?? 100_000_000, 100_000_000);
      copied += rate;
      second([load(rate > 75_000_000 ? 83 : 5)]);
    }
    expect(seconds).toBeLessThan(3 * 30);
  });
});

describe('a limit in bytes a second', () => {
  test('is kept by all lanes together', async () => {
    const throttle = new PacedThrottle(limits({ bytesPerSecond: 4_000_000 }), never);
    const startedAt = performance.now();
    let bytes = 0;
    const lane = async (): Promise<void> => {
      while (performance.now() - startedAt < 1_000) {
        await throttle.take(CHUNK);
        bytes += CHUNK;
      }
    };
    await Promise.all([lane(), lane()]);
    const perSecond = bytes / ((performance.now() - startedAt) / 1_000);
    expect(perSecond).toBeLessThan(4_000_000 * 1.25); // what may be taken at once comes on top
    expect(perSecond).toBeGreaterThan(4_000_000 * 0.5);
    expect(throttle.state()).toEqual({ throttledBy: 'bytesPerSecond', bytesPerSecond: 4_000_000 });
    expect(throttle.lanes).toBe(LANES_MAX);
  });

  test('that nobody has to wait for throttles nothing', () => {
    const throttle = new PacedThrottle(limits({ bytesPerSecond: 400_000_000 }), never);
    expect(throttle.state()).toEqual({ throttledBy: null, bytesPerSecond: 400_000_000 });
  });

  test('that is taken away lets go who waits for it', async () => {
    const throttle = new PacedThrottle(limits({ bytesPerSecond: 100_000 }), never);
    const waiting = throttle.take(100_000_000); // a quarter of an hour
    throttle.setLimits(limits());
    const startedAt = performance.now();
    await waiting;
    expect(performance.now() - startedAt).toBeLessThan(2_000);
  });

  test('counts where it is lower than what the brake allows', () => {
    const { throttle, second } = copying({ bytesPerSecond: 500_000 });
    second([load(5_000)]);
    expect(throttle.state().bytesPerSecond).toBe(500_000);
  });

  test('is waited for no longer than the copy lives: the wait ends with the reason of the abort', async () => {
    const stop = new AbortController();
    const throttle = new PacedThrottle(limits({ bytesPerSecond: 100_000 }), stop.signal);
    const waiting = throttle.take(100_000_000);
    const ended = expect(waiting).rejects.toThrow('cancelled');
    stop.abort(new Error('cancelled'));
    await ended;
  });
});
