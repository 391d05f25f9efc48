/**
 * How fast a copy may go: asked as its rows stream. Pure of databases and of Temporal; who copies calls `take`, who watches the nodes sets the pace.
 *
 * Two things slow a copy down, and the slower one counts:
 *   the limit   `bytesPerSecond`, set by people: a bucket that fills at this rate
 *   the brake   where the load of source or target is above a threshold the rate is halved, and again as long as it hurts; where it is well below, the rate
 *               rises by equal steps, until it is beyond what the copy can do and the brake lets go (AIMD, as TCP does). Halving is quick and rising slow:
 *               users feel the pain, nobody feels the seconds that a move takes longer.
 * Holds: the brake never goes below `BRAKE_FLOOR_SHARE` of what the copy has done without it: a move is what helps a node that has too much, and one that
 * stands still blocks the operation. `lanes` is 1 while the brake is on.
 */
import { Transform } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { MoveLimits } from '../ring/limits.ts';

export interface Throttle {
  /**
   * Called before `bytes` go on from the source to the target, every some 64 kB and for what is left at the end of a stream. Undefined: go on at once; else wait for it. It rejects with the signal's
   * reason as soon as the copy is aborted.
   */
  take(bytes: number): Promise<void> | undefined;
  /** How many streams may run just now: to be looked at before each chunk, as it changes while a copy runs. At least 1. */
  readonly lanes: number;
}

/** How many bytes are asked for together. */
const TAKE_BYTES = 65_536;

/** Between a stream of rows and where they go: passes on what it may. */
export function throttled(throttle: Throttle): Transform {
  let bytes = 0;
  const take = (): Promise<void> | undefined => {
    const taken = bytes;
    bytes = 0;
    return throttle.take(taken);
  };
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      bytes += chunk.length;
      const wait = bytes >= TAKE_BYTES ? take() : undefined;
      if (wait) wait.then(() => done(null, chunk), done);
      else done(null, chunk);
    },
    flush(done) {
      const wait = bytes > 0 ? take() : undefined;
      if (wait) wait.then(() => done(), done);
      else done();
    },
  });
}

export type PaceLimits = Omit<MoveLimits, 'movesPerNode'>;

/** What a node tells of itself (dataplane/contract.ts, `NodeLoad`); null: it does not know. */
export interface FeltLoad {
  readonly node: string;
  /** p90 of the last seconds. */
  readonly commitMs: number | null;
  readonly queueDelayMs: number | null;
}

export interface ThrottleState {
  /** `bytesPerSecond`; or `brake: …`, which node, what of it, and how much; null: as fast as it can. */
  readonly throttledBy: string | null;
  /** What the copy may do at present; null: no limit. */
  readonly bytesPerSecond: number | null;
}

export const LANES_MAX = 2;
/** Of the copy's own best rate. The brake is at it only while it hurts, so a whole move takes less than three times as long. */
const BRAKE_FLOOR_SHARE = 0.25;
/** And where the copy has not been seen at full speed yet: a quarter of what a small machine does. */
const BRAKE_FLOOR_BYTES = 5_000_000;
/** A halved rate needs that long to be felt at the node, whose load is of its last two seconds. */
const HALVE_EVERY_MS = 1_000;
/** The load must be below this share of its threshold before the rate rises: no swinging about the threshold itself. */
const CALM_SHARE = 0.8;
/** From nothing to the best rate. */
const RISE_MS = 8_000;
/** The brake lets go when it would allow so much more than the copy has ever done. */
const LET_GO_AT = 1.25;
/** What may be taken at once after a pause: so much of a second's bytes, and never less than one buffer. */
const BURST_SECONDS = 0.1;
const BURST_BYTES_MIN = 65_536;
/** Who waits looks again: the rate may have changed. */
const LOOK_EVERY_MS = 100;
/** Over so long the copy's own rate is measured. */
const MEASURE_MS = 1_000;
/** A limit counts as what throttles for so long after somebody had to wait for it. */
const WAITED_MS = 2_000;

interface Pain {
  readonly what: string;
  readonly ms: number;
  readonly limit: number;
}
interface Braking {
  rate: number;
  pain: Pain;
  hurts: boolean;
  halvedAt: number;
  roseAt: number;
}

export class PacedThrottle implements Throttle {
  readonly #signal: AbortSignal;
  readonly #now: () => number;
  #limits: PaceLimits;
  #braking: Braking | null = null;
  /** Bytes that may be taken at once; below 0: what was taken ahead and is waited for. */
  #credit = 0;
  #filledAt: number;
  #waitedAt = Number.NEGATIVE_INFINITY;
  #bytes = 0;
  #measuredAt: number;
  /** The most that the copy has done in a second. */
  #best = 0;

  /** `now`: milliseconds that only grow. */
  constructor(limits: PaceLimits, signal: AbortSignal, now: () => number = () => performance.now()) {
    this.#limits = limits;
    this.#signal = signal;
    this.#now = now;
    this.#filledAt = now();
    this.#measuredAt = now();
  }

  get lanes(): number {
    return this.#braking ? 1 : LANES_MAX;
  }

  take(bytes: number): Promise<void> | undefined {
    this.#measure(bytes);
    this.#fill();
    if (this.#rate() === Number.POSITIVE_INFINITY) return undefined;
    this.#credit -= bytes;
    return this.#credit >= 0 ? undefined : this.#untilPaid();
  }

  /** From now on, also for who waits. */
  setLimits(limits: PaceLimits): void {
    this.#limits = limits;
    if (limits.brake === 'off') this.#braking = null;
  }

  /** What the nodes say just now: to be called a few times a second. */
  feel(loads: readonly FeltLoad[]): void {
    this.#measure(0);
    if (this.#limits.brake === 'off') return;
    const worst = this.#worst(loads);
    const at = this.#now();
    const share = worst ? shareOf(worst) : 0;
    if (worst && share > 1) this.#halve(worst, at);
    else this.#rise(share <= CALM_SHARE, at);
  }

  state(): ThrottleState {
    const rate = this.#rate();
    const bytesPerSecond = rate === Number.POSITIVE_INFINITY ? null : Math.round(rate);
    const isLimit = this.#limits.bytesPerSecond === rate;
    if (this.#braking && !isLimit) {
      const { hurts, pain } = this.#braking;
      const what = `${pain.what} ${hurts ? 'is' : 'was'} ${Math.round(pain.ms)} ms, limit ${pain.limit} ms`;
      return { throttledBy: `brake: ${what}`, bytesPerSecond };
    }
    const waits = isLimit && this.#now() - this.#waitedAt < WAITED_MS;
    return { throttledBy: waits ? 'bytesPerSecond' : null, bytesPerSecond };
  }

  #rate(): number {
    return Math.min(
      this.#limits.bytesPerSecond ?? Number.POSITIVE_INFINITY,
      this.#braking?.rate ?? Number.POSITIVE_INFINITY,
    );
  }

  #fill(): void {
    const rate = this.#rate();
    const at = this.#now();
    if (rate === Number.POSITIVE_INFINITY) this.#credit = 0;
    else {
      const most = Math.max(rate * BURST_SECONDS, BURST_BYTES_MIN);
      this.#credit = Math.min(most, this.#credit + (rate * (at - this.#filledAt)) / 1_000);
    }
    this.#filledAt = at;
  }

  /** What lanes take meanwhile is waited for together: the sum keeps to the rate. */
  async #untilPaid(): Promise<void> {
    for (this.#fill(); this.#credit < 0; this.#fill()) {
      this.#waitedAt = this.#now();
      const ms = Math.ceil((-this.#credit / this.#rate()) * 1_000);
      await sleep(Math.min(ms, LOOK_EVERY_MS), undefined, { signal: this.#signal }).catch((error: unknown) => {
        throw this.#signal.aborted ? this.#signal.reason : error;
      });
    }
  }

  /** The rate of a copy that is being braked says nothing about what it can do, unless it is more. */
  #measure(bytes: number): void {
    const at = this.#now();
    const since = at - this.#measuredAt;
    if (since >= MEASURE_MS) {
      this.#best = Math.max(this.#best, (this.#bytes * 1_000) / since);
      this.#bytes = 0;
      this.#measuredAt = at;
    }
    this.#bytes += bytes;
  }

  /** What is furthest above its threshold, or nearest to it. */
  #worst(loads: readonly FeltLoad[]): Pain | null {
    const { commitMsMax, queueDelayMsMax } = this.#limits;
    const felt = loads.flatMap(({ node, commitMs, queueDelayMs }) => [
      { what: `commit latency of ${node}`, ms: commitMs, limit: commitMsMax },
      { what: `queue delay of ${node}`, ms: queueDelayMs, limit: queueDelayMsMax },
    ]);
    return felt.reduce<Pain | null>(
      (worst, pain) =>
        pain.ms !== null && pain.ms / pain.limit > (worst ? shareOf(worst) : -1) ? { ...pain, ms: pain.ms } : worst,
      null,
    );
  }

  #halve(pain: Pain, at: number): void {
    const floor = Math.max(this.#best * BRAKE_FLOOR_SHARE, BRAKE_FLOOR_BYTES);
    const { rate, halvedAt } = this.#braking ?? {
      rate: Math.max(this.#best, 2 * BRAKE_FLOOR_BYTES),
      halvedAt: Number.NEGATIVE_INFINITY,
    };
    const isFelt = at - halvedAt >= HALVE_EVERY_MS;
    this.#fill(); // what was earned until now, at the rate of until now
    this.#braking = {
      rate: isFelt ? Math.max(floor, rate / 2) : rate,
      pain,
      hurts: true,
      halvedAt: isFelt ? at : halvedAt,
      roseAt: at,
    };
  }

  #rise(isCalm: boolean, at: number): void {
    const braking = this.#braking;
    if (!braking) return;
    const since = at - braking.roseAt;
    braking.roseAt = at;
    braking.hurts = false;
    if (!isCalm) return;
    this.#fill();
    const most = Math.max(this.#best, BRAKE_FLOOR_BYTES);
    braking.rate += (most * since) / RISE_MS;
    if (braking.rate >= most * LET_GO_AT) this.#braking = null;
  }
}

const shareOf = ({ ms, limit }: Pain): number => ms / limit;
