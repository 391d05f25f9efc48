/**
 * A router's lease in the ring store: how `ringmaster status` knows which routers there are, and how old their rings are.
 * Holds: nothing depends on it. A router that cannot write it serves on, and is listed no longer once its last lease is over.
 */
import { describeError } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import type { RingStore, RouterFacts } from '../ringstore/ringstore.ts';
import type { RingView } from '../ringstore/view.ts';

const RENEW_EVERY_MS = 5_000;
/** Three renewals: one that is lost takes no router off the list. */
const LEASE_MS = 15_000;
/** After a new ring: the list shows it soon, and an operation's many rings do not become as many writes of every router. */
const RENEW_SOON_MS = 1_000;
/** A router that stops does not wait longer for a store that does not answer. */
const END_WITHIN_MS = 1_000;

/** Renews until it is stopped; that ends the lease, where the store can be reached. Never rejects. */
export function keepLease(
  store: Pick<RingStore, 'renewLease' | 'endLease'>,
  view: Pick<RingView, 'clusterId' | 'onChange'>,
  facts: () => RouterFacts,
  log: Logger,
): () => Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  let dueAt = 0;
  let stopped = false;
  let isTold = false;
  let renewing: Promise<void> | null = null;

  const renew = async (): Promise<void> => {
    try {
      await store.renewLease(view.clusterId, facts(), LEASE_MS);
      isTold = false;
    } catch (error) {
      if (!isTold && !stopped) log.warn({ error: describeError(error) }, 'the lease cannot be renewed: serving on');
      isTold = true;
    }
  };
  const renewIn = (ms: number): void => {
    if (stopped) return;
    clearTimeout(timer);
    dueAt = performance.now() + ms;
    timer = setTimeout(() => {
      renewing = renew().finally(() => {
        renewing = null;
        renewIn(RENEW_EVERY_MS);
      });
    }, ms);
    timer.unref();
  };
  const unsubscribe = view.onChange(() => {
    if (renewing === null && dueAt - performance.now() > RENEW_SOON_MS) renewIn(RENEW_SOON_MS);
  });
  renewIn(0);

  return async () => {
    stopped = true;
    clearTimeout(timer);
    unsubscribe();
    const ending = Promise.resolve(renewing)
      .then(() => store.endLease(view.clusterId, facts().router))
      .catch(() => undefined); // then it ends by itself
    let patience: NodeJS.Timeout | undefined;
    const impatient = new Promise<void>((resolve) => {
      patience = setTimeout(resolve, END_WITHIN_MS);
    });
    await Promise.race([ending, impatient]);
    clearTimeout(patience);
  };
}
