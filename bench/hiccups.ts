/**
 * For what share of a second a core was not there, though nobody else in this machine had it: a loop that does nothing but look at the clock, and the gaps in what it saw.
 * A host shows its guests only a part of what it takes as stolen time (measured: 0.2 % told, 3 % gone, in gaps of up to 7 ms). A process of the bench; one number on standard
 * output, in percent. After Gil Tene's jHiccup.
 */
import { readFileSync } from 'node:fs';
import { waitedMsIn } from './quiet.ts';

const LOOK_MS = 1_000;
/** The loop is compiled meanwhile, on the same core. */
const WARM_UP_MS = 200;
/** Shorter gaps may be the kernel's own work, and make no p99 of milliseconds. */
const GAP_MS = 0.3;

const waitedMs = (): number => waitedMsIn(readFileSync('/proc/thread-self/schedstat', 'utf8'));

const from = performance.now() + WARM_UP_MS;
let lostMs = 0;
let waitedUntilNowMs = waitedMs();
for (let at = performance.now(); at < from + LOOK_MS; ) {
  let now = performance.now();
  if (now - at > GAP_MS) {
    const waited = waitedMs();
    if (at >= from) lostMs += Math.max(now - at - (waited - waitedUntilNowMs), 0);
    waitedUntilNowMs = waited;
    now = performance.now();
  }
  at = now;
}
process.stdout.write(`${((lostMs / LOOK_MS) * 100).toFixed(2)}\n`);
