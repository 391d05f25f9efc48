/**
 * Waiting for the cluster: by watch, with one deadline for a whole operation, and with a reason at any time.
 *
 *   look() → done            the wait is over
 *          → not yet: why    one log line for each change of reason; a reason that waiting rarely mends is told after `troubleMs`
 *          → throws weather  (a restarting API server, a conflict): a reason like any other, until the deadline
 *          → throws else     the wait ends with that
 *   signal aborted           the wait ends with the signal's reason; what was asked of the cluster stays asked
 */
import { CodedError } from '../../kit/errors.ts';
import type { Logger } from '../../kit/log.ts';
import { KubeWeather } from './kube.ts';
import type { Watched } from './watched.ts';

/** Also without a change: events (why a pod is not ready) are not watched, and how long a reason lasts changes by itself. */
const LOOK_AGAIN_MS = 1000;

export interface NotYet {
  /** What is waited for: a pod's name, a StatefulSet's, a claim's. */
  readonly subject: string;
  /** What is compared to tell whether it is still the same trouble. */
  readonly kind: string;
  readonly reason: string;
  readonly message: string;
  readonly mendsByWaiting: boolean;
  /** Default: LOOK_AGAIN_MS. */
  readonly lookAgainMs?: number;
}

export type Look<T> = { readonly done: T } | { readonly notYet: NotYet };

// biome-ignore lint/suspicious/noExplicitAny: of whichever objects
type AnyWatched = Watched<any>;

/** What a wait that is given up throws: the reason, and since when it is that (ISO 8601). */
export type Late = (last: NotYet, since: string) => Error;

export class Patience {
  readonly #deadline: number;
  readonly #troubleMs: number;
  readonly #signal: AbortSignal | undefined;
  readonly #log: Logger;

  constructor(options: { withinMs: number; troubleMs: number; signal: AbortSignal | undefined; log: Logger }) {
    this.#deadline = performance.now() + options.withinMs;
    this.#troubleMs = options.troubleMs;
    this.#signal = options.signal;
    this.#log = options.log;
  }

  get signal(): AbortSignal | undefined {
    return this.#signal;
  }

  /** Looks, and looks again at each change of `watched`, until it is done. */
  async until<T>(watched: readonly AnyWatched[], look: () => Promise<Look<T>>, late: Late): Promise<T> {
    let wake = Promise.withResolvers<void>();
    const leave = watched.map((each) => each.use(() => wake.resolve()));
    let last: (NotYet & { since: number; sinceText: string }) | null = null;
    try {
      for (;;) {
        this.#signal?.throwIfAborted();
        wake = Promise.withResolvers();
        const seen = await this.#lookOnce(watched, look);
        if ('done' in seen) return seen.done;
        const { notYet } = seen;
        if (last?.subject !== notYet.subject || last.kind !== notYet.kind) {
          last = { ...notYet, since: performance.now(), sinceText: new Date().toISOString() };
          this.#told(notYet);
        } else {
          if (last.reason !== notYet.reason) this.#told(notYet);
          last = { ...notYet, since: last.since, sinceText: last.sinceText };
        }
        const now = performance.now();
        const troubled = !notYet.mendsByWaiting && now - last.since >= this.#troubleMs;
        if (troubled || now >= this.#deadline) {
          // Nothing is known about the pods then: not a reason to call for a person, but to try again.
          throw notYet.kind === 'weather' ? new KubeWeather(notYet.message, null) : late(notYet, last.sinceText);
        }
        await this.#pause(wake.promise, Math.min(notYet.lookAgainMs ?? LOOK_AGAIN_MS, this.#deadline - now));
      }
    } finally {
      for (const each of leave) each();
    }
  }

  #told({ subject, reason, message }: NotYet): void {
    this.#log.info({ subject, reason }, `waits for ${subject}: ${reason}: ${message}`);
  }

  async #lookOnce<T>(watched: readonly AnyWatched[], look: () => Promise<Look<T>>): Promise<Look<T>> {
    const troubled = watched.find((each) => each.trouble instanceof CodedError);
    if (troubled?.trouble) throw troubled.trouble;
    const unsynced = watched.find((each) => !each.synced);
    if (unsynced) {
      const message = unsynced.trouble?.message ?? 'the list of objects has not come yet';
      return { notYet: weather(message) };
    }
    try {
      return await look();
    } catch (error) {
      if (error instanceof KubeWeather) return { notYet: weather(error.message) };
      throw error;
    }
  }

  /** Until `changed`, the time is over or the signal is aborted, whichever is first. */
  async #pause(changed: Promise<void>, ms: number): Promise<void> {
    const over = Promise.withResolvers<void>();
    const timer = setTimeout(over.resolve, Math.max(0, ms));
    const aborted = () => over.resolve();
    this.#signal?.addEventListener('abort', aborted);
    if (this.#signal?.aborted) aborted();
    try {
      await Promise.race([changed, over.promise]);
    } finally {
      clearTimeout(timer);
      this.#signal?.removeEventListener('abort', aborted);
    }
  }
}

const weather = (message: string): NotYet => ({
  subject: 'the API server',
  kind: 'weather',
  reason: 'Weather',
  message,
  mendsByWaiting: true,
});
