/** A connection that listens for appends to one cluster's log and reads it. One for each watch. */
import pg from 'pg';
import type { RecordedEvent } from '../ring/events.ts';
import { ASK_CHANNEL, answerAsk, askOf } from './copies.ts';
import { assertUsable } from './migrate.ts';
import type { LogCopy } from './ringstore.ts';
import { type EventRow, eventOf, SELECT_EVENTS } from './rows.ts';
import type { LogConnection } from './watch.ts';

const CLOSE_GRACE_MS = 500;

/** Listening begins before the first read: an append in between is then either read or notified. */
export async function openListener(
  config: pg.ClientConfig,
  clusterId: string,
  signal: AbortSignal,
): Promise<LogConnection> {
  const client = new pg.Client(config);
  const listener = new Listener(client, clusterId, signal);
  try {
    // The driver's connect() never settles when the client is ended meanwhile, which is what a stop does: hence the race.
    await Promise.race([rejectOnAbort(signal), client.connect()]);
    await assertUsable(client);
    await client.query(`LISTEN ringmaster_ring; LISTEN ${ASK_CHANNEL}`);
    return listener;
  } catch (error) {
    await listener.close();
    throw error;
  }
}

function rejectOnAbort(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

class Listener implements LogConnection {
  readonly #client: pg.Client;
  readonly #clusterId: string;
  readonly #signal: AbortSignal;
  /** Set by a notification that no read has begun after: kept, so that one that arrives while nobody waits is not missed. */
  #hinted = false;
  #asked: string | null = null;
  #lost: Error | null = null;
  #wake: () => void = () => {};

  constructor(client: pg.Client, clusterId: string, signal: AbortSignal) {
    this.#client = client;
    this.#clusterId = clusterId;
    this.#signal = signal;
    client.on('notification', ({ channel, payload }) => {
      if (channel === ASK_CHANNEL) {
        const ask = askOf(payload, clusterId);
        if (ask === null) return;
        this.#asked = ask;
      } else if (payload !== this.#clusterId) return;
      this.#hinted = true;
      this.#wake();
    });
    client.on('error', (error) => this.#loses(error));
    client.on('end', () => this.#loses(new Error('the connection to the ring store ended')));
    signal.addEventListener('abort', this.#stop, { once: true });
  }

  async read(afterVersion: number, limit: number): Promise<RecordedEvent[]> {
    this.#hinted = false;
    const { rows } = await this.#client.query<EventRow>({
      name: 'read', // prepared once for each connection: this is asked every second and at every append
      text: SELECT_EVENTS,
      values: [this.#clusterId, afterVersion, limit],
    });
    return rows.map(eventOf);
  }

  async waitForHint(ms: number): Promise<void> {
    if (!this.#hinted && !this.#lost && !this.#signal.aborted) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      const timer = setTimeout(resolve, ms);
      await promise;
      clearTimeout(timer);
      this.#wake = () => {};
    }
    if (this.#lost && !this.#signal.aborted) throw this.#lost;
  }

  async answer(copy: LogCopy): Promise<void> {
    const ask = this.#asked;
    if (ask === null) return;
    this.#asked = null;
    await answerAsk(this.#client, this.#clusterId, ask, copy);
  }

  async close(): Promise<void> {
    this.#signal.removeEventListener('abort', this.#stop);
    const grace = setTimeout(() => this.#destroy(), CLOSE_GRACE_MS);
    await this.#client.end().catch(() => {});
    clearTimeout(grace);
  }

  /** The driver's polite end waits for the other side, which may be silently gone. */
  #destroy(): void {
    const { connection } = this.#client as unknown as { connection: { stream: { destroy(): void } } };
    connection.stream.destroy();
  }

  /** The watch stops: whatever we wait for ends now, a connection attempt or a read with it. */
  readonly #stop = (): void => {
    this.#wake();
    void this.#client.end().catch(() => {});
  };

  #loses(error: Error): void {
    this.#lost ??= error;
    this.#wake();
  }
}
