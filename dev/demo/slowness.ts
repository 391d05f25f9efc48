/**
 * How slow the destination is, where nobody has said: so slow that about BACKLOG events wait to be delivered, however quick this machine and however many nodes
 * deliver. Without a backlog a move would have nothing to move; with one that only grows the demo would not end.
 */
const BACKLOG_LOW = 3_000;
const BACKLOG_HIGH = 5_000;
export const FIRST_MS = 100;
const LEAST_MS = 5;
/** Quiesce waits for deliveries in flight: the pause in deliveries is at least this long, so not longer. */
const MOST_MS = 400;
/** For the end, when what waits is only to be emptied. */
export const DRAIN_MS = 2;

/** The next delay, for the backlog as it is now. Small steps: the backlog answers late. */
export function nextDelay(ms: number, backlog: number): number {
  if (backlog < BACKLOG_LOW) return Math.min(MOST_MS, ms * 1.1);
  if (backlog > BACKLOG_HIGH) return Math.max(LEAST_MS, ms / 1.2);
  return ms;
}
