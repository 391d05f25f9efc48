/**
 * What a process needs at its start may be on its way too: in a cluster everything starts at once. It waits for a while instead of ending at once, which would
 * look like a crash loop, and make Kubernetes wait longer each time.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, describeError } from './errors.ts';
import type { Logger } from './log.ts';

/** An image to pull, a volume to attach, a database to make. Then the process ends, and says why. */
const START_WITHIN_MS = 120_000;
const AGAIN_MS = 250;

/** Nothing answers there, or not yet: no name, no listener, no route, a server that is starting (57P03) or stopping (57P01, 57P02). */
const AWAY = new Set([
  ...['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ENOTFOUND', 'EAI_AGAIN', 'ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH'],
  ...['57P01', '57P02', '57P03'],
]);

/** What the PostgreSQL driver says of a connection that did not come about in time, or ended without a word: it has no code for that (pg/lib/client.js, pg-pool/index.js). */
const CONNECTION_LOST = /^(connection terminated|timeout expired|timeout exceeded when trying to connect)/i;

/** Runs `open` until it no longer fails for `what` being away; throws what it throws otherwise, or at the deadline. `open` must be repeatable. */
export async function onceUp<T>(
  what: string,
  log: Logger,
  open: () => Promise<T>,
  withinMs: number = START_WITHIN_MS,
): Promise<T> {
  const deadline = performance.now() + withinMs;
  for (let told = false; ; told = true) {
    try {
      return await open();
    } catch (error) {
      if (!isAway(error) || performance.now() > deadline) throw error;
      if (!told) log.info({ error: describeError(error) }, `waiting for ${what}`);
      await sleep(AGAIN_MS);
    }
  }
}

function isAway(error: unknown): boolean {
  const code = codeOf(error);
  return code !== null ? AWAY.has(code) : error instanceof Error && CONNECTION_LOST.test(error.message);
}
