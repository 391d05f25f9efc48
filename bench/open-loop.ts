/**
 * Sends requests at a fixed rate over kept connections, whether or not answers come, a handful each millisecond, and says how long each took from then on: what waits
 * for a free connection, because answers are late, counts. A process of the bench: `node open-loop.ts PORT RATE SECONDS CONNECTIONS`; one JSON line on standard output.
 */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { endWithParent } from '../kit/parent.ts';
import { benchRequests } from './router-requests.ts';

/** At first connections are made and code is compiled: not counted. */
const WARM_UP_MS = 1_000;
const ANSWERS_WITHIN_MS = 5_000;

endWithParent(() => undefined);
const [port, rate, seconds, connections] = process.argv.slice(2).map(Number) as [number, number, number, number];
const requests = benchRequests(port).map((text) => Buffer.from(text));

const free: Socket[] = [];
const due: number[] = [];
const sentFor = new Map<Socket, number>();
const tookMs: number[] = [];
let failed = 0;
let next = 0;
const startAt = performance.now() + WARM_UP_MS;

function send(): void {
  while (due.length > 0 && free.length > 0) {
    const socket = free.pop()!;
    sentFor.set(socket, due.shift()!);
    next = (next + 1) % requests.length;
    socket.write(requests[next]!);
  }
}

for (let n = 0; n < connections; n += 1) {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true });
  socket.on('connect', () => void free.push(socket));
  socket.on('data', (bytes: Buffer) => {
    const at = performance.now();
    if (!bytes.toString('latin1', 0, 12).startsWith('HTTP/1.1 200')) failed += 1; // an answer is far smaller than a segment
    const since = sentFor.get(socket)!;
    if (since >= startAt) tookMs.push(at - since);
    free.push(socket);
    send();
  });
  socket.on('error', () => {
    failed += 1;
  });
}

const from = performance.now();
const endAt = startAt + seconds * 1_000;
let scheduled = 0;
for (;;) {
  const now = performance.now();
  if (now >= endAt) break;
  for (; from + (scheduled / rate) * 1_000 <= now; scheduled += 1) due.push(now);
  send();
  await sleep(1);
}
const deadline = performance.now() + ANSWERS_WITHIN_MS;
while ((due.length > 0 || free.length < connections) && performance.now() < deadline) await sleep(5);
tookMs.sort((a, b) => a - b);
const rank = (p: number): number => tookMs[Math.max(Math.ceil(p * tookMs.length) - 1, 0)] ?? Number.NaN;
const unanswered = due.length + connections - free.length;
process.stdout.write(
  `${JSON.stringify({ answered: tookMs.length, failed, unanswered, p50Ms: rank(0.5), p99Ms: rank(0.99) })}\n`,
);
process.exit(0);
