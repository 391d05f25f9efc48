/** The loop of every watch: read on from the cursor, hand over, wait for a hint, connect again where the connection is lost. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CodedError, codeOf } from '../kit/errors.ts';
import type { RecordedEvent } from '../ring/events.ts';
import type { LogCursor } from './cursor.ts';
import type { LogCopy, RingWatcher } from './ringstore.ts';

/** Events in one read: bounds what a watcher that starts from the beginning of a long log holds. */
export const WATCH_BATCH = 500;
/** A hint that was lost costs at most this. */
export const WATCH_POLL_MS = 1_000;
const RECONNECT_FIRST_MS = 25;
/** Short: a move's cut-over may be waiting for us. */
const RECONNECT_MAX_MS = 2_000;

/** What the loop needs of a store. */
export interface LogConnection {
  read(afterVersion: number, limit: number): Promise<RecordedEvent[]>;
  /** Resolves once there may be more than the last read began to see, after `ms`, or when the watch stops. Rejects when the connection is lost. */
  waitForHint(ms: number): Promise<void>;
  /** Answers what was asked since the last call, if anything was (copies.ts). */
  answer?(copy: LogCopy): Promise<void>;
  close(): Promise<void>;
}

/**
 * Holds: `onEvents` gets every event behind the cursor once, in order, one call at a time. Hints and polling only decide when it is looked at.
 * Resolves when `signal` aborts; rejects only with what `onEvents` threw.
 */
export async function watchLog(
  open: (signal: AbortSignal) => Promise<LogConnection>,
  cursor: LogCursor,
  watcher: RingWatcher,
  signal: AbortSignal,
): Promise<void> {
  const report = troubleReporter(watcher);
  for (let failures = 0; !signal.aborted; failures += 1) {
    let connection: LogConnection | null = null;
    try {
      connection = await open(signal);
      while (!signal.aborted) {
        const rows = await connection.read(cursor.readAfter, WATCH_BATCH);
        failures = 0;
        const fresh = acceptOrReport(cursor, rows, report);
        if (fresh?.length) await handOver(watcher, fresh);
        if (fresh) report(null);
        if (fresh && rows.length < WATCH_BATCH) watcher.onLooked?.();
        if (watcher.copy) await connection.answer?.(watcher.copy);
        if (!fresh?.length || rows.length < WATCH_BATCH) await connection.waitForHint(WATCH_POLL_MS);
      }
    } catch (error) {
      if (error instanceof WatcherFailed) throw error.cause;
      if (signal.aborted) break;
      report(error instanceof Error ? error : new Error(String(error)));
    } finally {
      await connection?.close().catch(() => {}); // it may be the broken one
    }
    await sleep(backoffMs(failures), null, { signal }).catch(() => {});
  }
}

class WatcherFailed extends Error {}

async function handOver(watcher: RingWatcher, events: RecordedEvent[]): Promise<void> {
  try {
    await watcher.onEvents(events);
  } catch (error) {
    throw new WatcherFailed('the watcher failed', { cause: error });
  }
}

/** A store whose history is not ours is no lost connection: we keep what we have, say so, and go on looking whether it comes to its senses. */
function acceptOrReport(
  cursor: LogCursor,
  rows: RecordedEvent[],
  report: (trouble: Error | null) => void,
): RecordedEvent[] | null {
  try {
    return cursor.accept(rows);
  } catch (error) {
    if (!(error instanceof CodedError)) throw error;
    report(error);
    return null;
  }
}

/** Tells a trouble once, not at every try; and its end. */
function troubleReporter(watcher: RingWatcher): (trouble: Error | null) => void {
  let told: string | null = null;
  return (trouble) => {
    const text = trouble && `${codeOf(trouble)}: ${trouble.message}`;
    if (text === told) return;
    told = text;
    watcher.onTrouble?.(trouble);
  };
}

/** The first try comes nearly at once; jitter, because every router and node loses the same server at the same moment. */
function backoffMs(failures: number): number {
  return Math.min(RECONNECT_MAX_MS, RECONNECT_FIRST_MS * 2 ** failures) * (0.5 + Math.random() / 2);
}
