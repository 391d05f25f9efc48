/** How traffic and deliveries go, for people; and the hand on the destination's slowness. */
import { setTimeout as sleep } from 'node:timers/promises';
import { now } from '../../kit/log.ts';
import type { SinkProcess } from '../sink/process.ts';
import type { Traffic } from '../traffic/traffic.ts';
import { FIRST_MS, nextDelay } from './slowness.ts';

/** Looks at traffic and sink now and then; makes the destination slower or quicker where that is ours to choose. */
export class Watch {
  readonly #traffic: Traffic;
  readonly #sink: SinkProcess;
  readonly #steers: boolean;
  #delay = FIRST_MS;
  #backlog = 0;
  #rate = 0;
  #seen = { at: now(), acknowledged: 0 };

  constructor(traffic: Traffic, sink: SinkProcess, steers: boolean) {
    this.#traffic = traffic;
    this.#sink = sink;
    this.#steers = steers;
  }

  line(): string {
    return `${Math.round(this.#rate)} events/s, ${this.#backlog} to be delivered`;
  }

  async during<T>(work: Promise<T>, draw?: () => void): Promise<T> {
    let running = true;
    const looking = (async () => {
      while (running) {
        await this.#look().catch(() => undefined); // the sink is busy: next time
        if (running) draw?.();
        await sleep(250);
      }
    })();
    try {
      return await work;
    } finally {
      running = false;
      await looking;
    }
  }

  async #look(): Promise<void> {
    const stats = await this.#sink.stats();
    const at = now();
    const { acknowledged } = this.#traffic;
    this.#backlog = Math.max(0, acknowledged - stats.delivered - stats.aborted);
    if (at - this.#seen.at >= 1_000) {
      this.#rate = ((acknowledged - this.#seen.acknowledged) / (at - this.#seen.at)) * 1_000;
      this.#seen = { at, acknowledged };
    }
    if (!this.#steers) return;
    const delay = nextDelay(this.#delay, this.#backlog);
    if (delay !== this.#delay) await this.#sink.setDestinationMs(delay);
    this.#delay = delay;
  }
}
