/**
 * How our processes end: with their parent, and on signals.
 *
 * A parent that wants its child to end with it gives it a pipe and names its file descriptor in RINGMASTER_PARENT_FD. The pipe closes when the parent dies,
 * however it dies; nothing else is ever sent over it.
 */
import { Socket } from 'node:net';

export const PARENT_FD_VARIABLE = 'RINGMASTER_PARENT_FD';
/** An orderly end that takes longer is cut off, so that a killed parent leaves nothing behind for long. */
const END_WITHIN_MS = 4000;
/** Ctrl-C reaches a process more than once: from the terminal, from npm, from scripts/run.mjs. Only a later one means impatience. */
const SAME_SIGNAL_MS = 1000;

/**
 * Calls `onEnd` once when the parent is gone, then exits the process, at the latest END_WITHIN_MS later. Does nothing when no parent asked for it.
 * Keeps no process alive by itself. Call it once, early.
 */
export function endWithParent(onEnd: () => void | Promise<void>): void {
  const fd = Number(process.env[PARENT_FD_VARIABLE]);
  delete process.env[PARENT_FD_VARIABLE]; // it is ours, not our children's
  if (!Number.isInteger(fd) || fd < 3) return;
  let socket: Socket;
  try {
    socket = new Socket({ fd, readable: true, writable: false });
  } catch {
    return; // inherited through something that closed it
  }
  let ended = false;
  const end = () => {
    if (ended) return;
    ended = true;
    setTimeout(() => process.exit(1), END_WITHIN_MS).unref();
    Promise.resolve()
      .then(onEnd)
      .catch(() => {})
      .finally(() => process.exit(1));
  };
  socket.on('error', end);
  socket.on('close', end);
  socket.resume(); // 'close' comes only to one who reads
  socket.unref();
}

/**
 * SIGINT, SIGTERM and SIGHUP: the first calls `onStop`, one that comes more than a second later calls `onImpatient` (by default: exit at once).
 * Returns a function that takes the handlers away again.
 */
export function onStopSignal(
  onStop: (signal: NodeJS.Signals) => void,
  onImpatient: () => void = () => process.exit(130),
): () => void {
  let firstAt: number | null = null;
  const handle = (signal: NodeJS.Signals) => {
    const now = performance.now();
    if (firstAt === null) {
      firstAt = now;
      onStop(signal);
    } else if (now - firstAt > SAME_SIGNAL_MS) {
      onImpatient();
    }
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const signal of signals) process.on(signal, handle);
  return () => {
    for (const signal of signals) process.off(signal, handle);
  };
}
