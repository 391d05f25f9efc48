/** The wait after the traffic, for what is still to be delivered. */
import { setTimeout as sleep } from 'node:timers/promises';
import { now } from '../../kit/log.ts';
import type { SinkProcess } from '../sink/process.ts';
import type { Traffic } from '../traffic/traffic.ts';

/** Without a delivery for this long the wait ends. */
const QUIET_MS = 60_000;
/** When nothing is missing any more, only late duplicates can come. */
const LATE_MS = 3_000;

/** Until 60 s have passed without a delivery; sooner only when every acknowledged event has ended, and a little has passed for late duplicates. */
export async function drain(
  traffic: Traffic,
  sink: SinkProcess,
  signal: AbortSignal,
  draw: (line: string) => void,
): Promise<void> {
  const since = now();
  for (;;) {
    const stats = await sink.stats();
    const left = traffic.acknowledged - stats.delivered - stats.aborted;
    const quietMs = now() - Math.max(stats.lastAt, since);
    if (stats.inFlight === 0 && quietMs > QUIET_MS) return;
    // The counts are close: now the ids decide. Events without an acknowledgement may have been delivered too.
    if (left <= 0 && stats.inFlight === 0 && quietMs > LATE_MS && (await nothingMissing(traffic, sink))) return;
    draw(
      `${Math.max(left, 0)} to be delivered${quietMs > 5_000 ? `, no delivery for ${Math.round(quietMs / 1_000)} s (ends at ${QUIET_MS / 1_000})` : ''}`,
    );
    await sleep(250, null, { signal });
  }
}

async function nothingMissing(traffic: Traffic, sink: SinkProcess): Promise<boolean> {
  const ended = new Set<string>();
  for (const { messageId, status } of await sink.deliveries()) {
    if (status !== null && status < 500 && status !== 408 && status !== 429) ended.add(messageId);
  }
  return traffic.sent.every((event) => event.status === null || event.status >= 300 || ended.has(event.messageId));
}
