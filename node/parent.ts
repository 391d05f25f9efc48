/**
 * Ends with the parent, where it asks for that: RINGMASTER_END_WITH_PARENT=1, standard input is a pipe from it; or RINGMASTER_PARENT_FD names the descriptor
 * of such a pipe. It closes when the parent dies, however it dies.
 */
import { Socket } from 'node:net';

/** `onGone` is called once at most. Keeps no process alive by itself. */
export function watchParent(env: Record<string, string | undefined>, onGone: () => void): void {
  let pipe: { on(event: string, listener: () => void): unknown; resume(): unknown; unref?(): unknown } | null = null;
  const fd = Number(env['RINGMASTER_PARENT_FD']);
  if (env['RINGMASTER_END_WITH_PARENT'] === '1') pipe = process.stdin;
  else if (Number.isInteger(fd) && fd >= 3) pipe = new Socket({ fd, readable: true, writable: false });
  if (!pipe) return;
  let gone = false;
  for (const event of ['end', 'close', 'error']) {
    pipe.on(event, () => {
      if (gone) return;
      gone = true;
      onGone();
    });
  }
  pipe.resume(); // its end is told only to who reads
  pipe.unref?.();
}
