/**
 * For what share of a second a core was not there, though nobody else in this machine had it: a loop that does nothing but look at the clock, and the gaps in what it saw.
 * A host shows its guests only a part of what it takes as stolen time (measured: 0.2 % told, 3 % gone, in gaps of up to 7 ms). A process of the bench; one number on standard
 * output, in percent. After Gil Tene's jHiccup.
 */
const LOOK_MS = 1_000;
/** The loop is compiled meanwhile, on the same core. */
const WARM_UP_MS = 200;
/** Shorter gaps may be the kernel's own work, and make no p99 of milliseconds. */
const GAP_MS = 0.3;

const from = performance.now() + WARM_UP_MS;
let lostMs = 0;
for (let at = performance.now(); at < from + LOOK_MS; ) {
  const now = performance.now();
  if (at >= from && now - at > GAP_MS) lostMs += now - at;
  at = now;
}
process.stdout.write(`${((lostMs / LOOK_MS) * 100).toFixed(2)}\n`);
