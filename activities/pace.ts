/**
 * The pace of one copy while it runs: reads the limits that people set, asks source and target what they feel, and says what slows the copy down.
 * Nothing here ends a copy: where the ring store or a node does not answer it goes on at the pace that it had.
 */
import type { NodeControl } from '../dataplane/contract.ts';
import { type FeltLoad, PacedThrottle, type Throttle, type ThrottleState } from '../jobsdb/throttle.ts';
import { describeError } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import type { MoveId } from '../ring/events.ts';
import { fold, limitsOf, type Ring } from '../ring/ring.ts';
import type { RingStore } from '../ringstore/ringstore.ts';

/** A load is one small request of a node, from memory. */
const FEEL_EVERY_MS = 250;
/** How soon a change of limits is in force: one small read of the ring store. */
const LIMITS_EVERY_MS = 1_000;

export interface PaceOptions {
  readonly ringStore: Pick<RingStore, 'read'>;
  /** As it was just now: what came since is read. */
  readonly ring: Ring;
  readonly source: Pick<NodeControl, 'status'>;
  readonly target: Pick<NodeControl, 'status'>;
  readonly move: MoveId;
  readonly signal: AbortSignal;
  readonly log: Logger;
}

export interface Pace {
  readonly throttle: Throttle;
  /** For people: stands in the heartbeat's details. */
  state(): ThrottleState;
  /** Ends what watches. Resolves when nothing of it goes on. */
  stop(): Promise<void>;
}

/** Watches from now on, until `stop` or the signal. */
export function createPace(options: PaceOptions): Pace {
  const stopping = new AbortController();
  const signal = AbortSignal.any([options.signal, stopping.signal]);
  const throttle = new PacedThrottle(limitsOf(options.ring), options.signal);
  const told = tellChanges(options, throttle);
  const watching = Promise.all([
    every(LIMITS_EVERY_MS, signal, followLimits(options, throttle)),
    every(FEEL_EVERY_MS, signal, async () => {
      await feel(options, throttle, signal);
      told();
    }),
  ]);
  return {
    throttle,
    state: () => throttle.state(),
    async stop() {
      stopping.abort(new Error('the copy has ended'));
      await watching;
    },
  };
}

function followLimits(
  { ringStore, ring: first, move, log }: PaceOptions,
  throttle: PacedThrottle,
): () => Promise<void> {
  let ring = first;
  let trouble = '';
  return async () => {
    try {
      const events = await ringStore.read(ring.clusterId, ring.version);
      trouble = '';
      ring = fold(ring, events);
      if (events.some(({ event }) => event.type === 'limits set')) {
        throttle.setLimits(limitsOf(ring));
        log.info({ move, limits: limitsOf(ring) }, 'limits changed');
      }
    } catch (error) {
      const now = describeError(error);
      if (now !== trouble)
        log.warn({ move, error: now }, 'limits cannot be read: the copy goes on under the last ones');
      trouble = now;
    }
  };
}

/** A node that does not answer is neither well nor hurt: then the pace stays. One that tells no load (version N−1) does not brake. */
async function feel({ source, target }: PaceOptions, throttle: PacedThrottle, signal: AbortSignal): Promise<void> {
  const asked = await Promise.allSettled([source.status(signal), target.status(signal)]);
  if (asked.some(({ status }) => status === 'rejected')) return;
  throttle.feel(
    asked.flatMap((answer): FeltLoad[] => {
      if (answer.status === 'rejected' || !answer.value.load) return [];
      const { node, load } = answer.value;
      return [{ node, commitMs: load.commitMs?.p90 ?? null, queueDelayMs: load.queueDelayMs }];
    }),
  );
}

/** One line for each change of what throttles; how much it does so changes all the time. */
function tellChanges({ move, log }: PaceOptions, throttle: PacedThrottle): () => void {
  const kindOf = ({ throttledBy }: ThrottleState): string => throttledBy?.split(':')[0] ?? '';
  let before = '';
  return () => {
    const state = throttle.state();
    if (kindOf(state) === before) return;
    before = kindOf(state);
    log.info({ move, ...state }, state.throttledBy === null ? 'copy goes on unthrottled' : 'copy throttled');
  };
}

/** One after the other, until the signal; `act` never rejects for weather. */
async function every(ms: number, signal: AbortSignal, act: () => Promise<void>): Promise<void> {
  while (!signal.aborted) {
    await act();
    if (signal.aborted) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(end, ms);
      function end(): void {
        clearTimeout(timer);
        signal.removeEventListener('abort', end);
        resolve();
      }
      signal.addEventListener('abort', end, { once: true });
    });
  }
}
