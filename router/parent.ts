/** Development only: the end of this process with the one that started it. A router imports nothing of platform/, so it looks by itself. */
import { Socket } from 'node:net';

/**
 * Calls `onEnd` once when the parent is gone: when the pipe closes that RINGMASTER_PARENT_FD names, or, with RINGMASTER_END_WITH_PARENT=1, standard input.
 * Does nothing when neither is set.
 */
export function whenParentEnds(env: NodeJS.ProcessEnv, onEnd: () => void): void {
  const fd = Number(env['RINGMASTER_PARENT_FD']);
  let ended = false;
  const end = (): void => {
    if (ended) return;
    ended = true;
    onEnd();
  };
  const watch = (pipe: Socket | NodeJS.ReadStream): void => {
    for (const event of ['end', 'close', 'error']) pipe.on(event, end);
    pipe.resume(); // the end comes only to one who reads
    pipe.unref();
  };
  if (Number.isInteger(fd) && fd > 2) watch(new Socket({ fd, readable: true, writable: false }));
  else if (env['RINGMASTER_END_WITH_PARENT'] === '1') watch(process.stdin);
}
