/**
 * When pre-copy has come near enough to cut over, and when it never will: passes that no longer get smaller are followed by a cut-over only where what then
 * remains fits into a short pause, as predicted from the rates of the last pass. Pure; the clock is the caller's.
 *
 * A limit or a brake is not lifted for it: people set the one, and the other keeps users of both nodes from harm. The refusal names what throttles instead.
 */
import type { ThrottleState } from '../jobsdb/throttle.ts';
import { CodedError } from '../kit/errors.ts';

/** Pre-copy ends when a pass has written no more than this: what then remains is copied within milliseconds. */
export const SMALL_REST_ROWS = 500;
/** Or when passes no longer get smaller, so many at most: the cut-over stops processing and delivery first, which ends the growth of all but intake. */
export const PASSES_MAX = 6;
/** What the passes of a cut-over may take together, as predicted: a fifth of the time after which a source lifts its fence. */
export const REST_MS_MAX = 2_000;
/** In a row: after one, a burst may be over. */
const GROWING_PASSES_MAX = 2;

/** One pass: job and status rows that it wrote, and when, in milliseconds of a clock that only grows. */
export interface PassSeen {
  readonly rows: number;
  readonly startedAt: number;
  readonly endedAt: number;
}

export interface Rates {
  readonly rowsPerSecondIn: number;
  readonly rowsPerSecondCopied: number;
  /** What the cut-over's passes would take: what has come since the last mark, and what comes while that is copied. */
  readonly restMs: number;
}

/** What to do after these passes (at least one). */
export function afterPasses(passes: readonly PassSeen[]): 'next pass' | 'cut over' | Rates {
  const last = passes.at(-1)!;
  if (last.rows <= SMALL_REST_ROWS) return 'cut over';
  const before = passes.at(-2);
  if (!before) return 'next pass';
  const isLast = passes.length >= PASSES_MAX;
  if (last.rows < before.rows && !isLast) return 'next pass';
  const rates = ratesOf(before, last);
  if (rates.restMs <= REST_MS_MAX) return 'cut over';
  return isLast || growing(passes) >= GROWING_PASSES_MAX ? rates : 'next pass';
}

/** Of the last pass, whose rows came since the one before had begun. */
function ratesOf(before: PassSeen, last: PassSeen): Rates {
  const tookMs = Math.max(1, last.endedAt - last.startedAt);
  const cameIn = last.rows / Math.max(1, last.startedAt - before.startedAt); // rows a millisecond
  const copied = last.rows / tookMs;
  const firstMs = (cameIn * tookMs) / copied;
  const restMs = firstMs + (cameIn * firstMs) / copied;
  return {
    rowsPerSecondIn: Math.round(cameIn * 1_000),
    rowsPerSecondCopied: Math.round(copied * 1_000),
    restMs: Math.round(restMs),
  };
}

/** How many of the last passes were no smaller than the one before. */
function growing(passes: readonly PassSeen[]): number {
  let count = 0;
  for (let nth = passes.length - 1; nth > 0 && passes[nth]!.rows >= passes[nth - 1]!.rows; nth -= 1) count += 1;
  return count;
}

export function arrivalsOutrunCopy(move: string, rates: Rates, throttle: ThrottleState): CodedError {
  const { rowsPerSecondIn, rowsPerSecondCopied, restMs } = rates;
  const by = throttle.throttledBy;
  const advice = by
    ? `the copy is throttled (${by}, ${throttle.bytesPerSecond} bytes a second), which is likely why: raise the limit, or move fewer partitions at once`
    : 'nothing throttles the copy: move fewer partitions at once, or when less comes in';
  return new CodedError(
    'ARRIVALS_OUTRUN_COPY',
    `${move}: arrivals outrun the copy: ${rowsPerSecondIn} rows a second come in, ${rowsPerSecondCopied} are copied, the rest would take ${restMs} ms of at most ${REST_MS_MAX}; ${advice}`,
    { ...rates, restMsMax: REST_MS_MAX, ...throttle },
  );
}
