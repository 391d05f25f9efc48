/**
 * Holds processes still (SIGSTOP), as a stalled machine does, and lets them go on (SIGCONT): zombies that come back. Through a process of its own, so that
 * nothing stays stopped when this one is killed: a stopped process notices nothing, not even that its parent is gone.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export type PauserOrder =
  | { readonly id: number; readonly stop: readonly number[] }
  | { readonly id: number; readonly goOn: number };

export interface Pauser {
  /** Stops these processes. The answer lets them go on; it may be called again. */
  pause(pids: readonly number[]): Promise<() => Promise<void>>;
  /** Whatever is still stopped goes on. */
  close(): Promise<void>;
}

export function startPauser(): Pauser {
  const main = fileURLToPath(new URL('./pauser-main.ts', import.meta.url));
  const child: ChildProcess = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', main], {
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
    env: { PATH: process.env['PATH'] },
  });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const waiting = new Map<number, () => void>();
  let ids = 0;
  child.stdin!.on('error', () => undefined); // it is gone: 'exit' tells
  createInterface({ input: child.stdout! }).on('line', (line) => waiting.get(Number(line))?.());
  const ask = async (order: (id: number) => PauserOrder): Promise<number> => {
    ids += 1;
    const id = ids;
    const done = new Promise<void>((resolve) => waiting.set(id, resolve));
    child.stdin!.write(`${JSON.stringify(order(id))}\n`);
    const isDone = await Promise.race([done.then(() => true), exited.then(() => false)]);
    waiting.delete(id);
    if (!isDone) throw new Error('the process that stops others has ended');
    return id;
  };
  return {
    async pause(pids) {
      const stopped = await ask((id) => ({ id, stop: pids }));
      let goesOn: Promise<unknown> | undefined;
      return async () => {
        goesOn ??= ask((id) => ({ id, goOn: stopped }));
        await goesOn;
      };
    },
    async close() {
      child.stdin!.end();
      await exited;
    },
  };
}
