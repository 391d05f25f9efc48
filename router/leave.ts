/**
 * How a router takes its leave of its clients, so that none of them sees an error where HTTP/1.1 lets it be so.
 *
 * In this order: `/ready` is 503 and every answer says `Connection: close` (whoever speaks to it leaves by itself, load balancers send nobody new) → `drainMs`
 * later it accepts nobody any more, once nobody stands in the queue of the port → connections that say nothing get `leaveMs` to say something, and an answer →
 * those that have said nothing are closed, all at once, right after everything that had arrived was read. What is left is a client that writes in the very
 * moment in which its connection, silent for `leaveMs`, is closed: it sees a reset without an answer, and nothing of it was stored.
 */
import type { Server } from 'node:http';
import { Server as NetServer } from 'node:net';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';

/** Answers that are still being written when all of them are given. */
const WRITE_OUT_MS = 1_000;

export interface LeaveOptions {
  readonly drainMs: number;
  readonly leaveMs: number;
  /** Resolves once every request in hand has its answer, or when that has taken too long. */
  readonly inHandEmpty: () => Promise<void>;
  /** Closes the connections that wait for a request, and all of them. */
  readonly closeIdle: () => void;
  readonly closeAll: () => void;
}

/** From here on answers must say `Connection: close`. Resolves when the last connection is closed. */
export async function leave(server: Server, options: LeaveOptions): Promise<void> {
  const { drainMs, leaveMs, inHandEmpty, closeIdle, closeAll } = options;
  if (drainMs > 0) await sleep(drainMs);
  await queueServed(server);
  const closed = new Promise<void>((resolve) => {
    // Not the HTTP server's own: that closes idle connections at once, with what their clients are just about to say.
    NetServer.prototype.close.call(server, () => resolve());
  });
  if (leaveMs > 0) {
    const patience = new AbortController();
    await Promise.race([closed, sleep(leaveMs, null, { signal: patience.signal }).catch(() => undefined)]);
    patience.abort();
  }
  await nextTurn(); // behind the reading of what has arrived
  closeIdle();
  await inHandEmpty();
  closeIdle();
  server.close(); // its own timers
  setTimeout(closeAll, WRITE_OUT_MS).unref();
  await closed;
}

/**
 * Whoever stood in the port's queue has been let in: the kernel resets those that are in it when the port is closed. A turn of the event loop takes one of them
 * (libuv 1.45 and later), so two turns without any mean that nobody is there.
 */
async function queueServed(server: Server): Promise<void> {
  let accepted = 0;
  const count = (): void => {
    accepted += 1;
  };
  server.on('connection', count);
  for (let quiet = 0, before = 0; quiet < 2; before = accepted) {
    await nextTurn();
    quiet = accepted === before ? quiet + 1 : 0;
  }
  server.off('connection', count);
}
