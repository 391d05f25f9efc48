/**
 * Holds processes still, by order of its parent (pauser.ts): JSON lines on standard input, each answered by one line on standard output once it is done.
 * Holds: when standard input ends, as it does however the parent ends, everything that is still stopped goes on, and so does this process's own end.
 */
import { createInterface } from 'node:readline';
import type { PauserOrder } from './pauser.ts';

const stopped = new Map<number, readonly number[]>();

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const order = JSON.parse(line) as PauserOrder;
    if ('stop' in order) {
      stopped.set(order.id, order.stop);
      send(order.stop, 'SIGSTOP');
    } else {
      send(stopped.get(order.goOn) ?? [], 'SIGCONT');
      stopped.delete(order.goOn);
    }
    process.stdout.write(`${order.id}\n`);
  })
  .on('close', () => {
    for (const pids of stopped.values()) send(pids, 'SIGCONT');
  });
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {}); // Ctrl-C is for the parent, which ends us

function send(pids: readonly number[], signal: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch {
      // it has ended meanwhile
    }
  }
}
