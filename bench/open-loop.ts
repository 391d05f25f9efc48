/**
 * Sends requests at an even rate over kept connections, whether or not answers come, and says how long each took from when it was to be sent: what waits for a free
 * connection, because answers are late, counts. A process of the bench: `node open-loop.ts PORT RATE SECONDS CONNECTIONS`; one JSON line on standard output.
 *
 * Even: timers of Node are too coarse for it (a tick of a millisecond and a half is thirty requests at once, which measures the sender), so a thread of its own gives
 * the beat. When this process was kept from running, it catches up at twice the rate and not at once: all that is asked for at any time is at most the double.
 */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { isMainThread, parentPort, Worker } from 'node:worker_threads';
import { benchRequests } from './router-requests.ts';

/** At first connections are made and code is compiled: not counted. */
const WARM_UP_MS = 3_000;
const ANSWERS_WITHIN_MS = 5_000;
const BEAT_MS = 0.2;
/** A beat that comes later than this finds more to send than it may at once. */
const LATE_MS = 1;

if (isMainThread) await main();
else beat();

function beat(): void {
  const never = new Int32Array(new SharedArrayBuffer(4));
  for (;;) {
    Atomics.wait(never, 0, 0, BEAT_MS);
    parentPort!.postMessage(null);
  }
}

async function main(): Promise<void> {
  const [port, rate, seconds, connections] = process.argv.slice(2).map(Number) as [number, number, number, number];
  const requests = benchRequests(port).map((text) => Buffer.from(text));

  const free: Socket[] = [];
  const due: number[] = [];
  const sentFor = new Map<Socket, number>();
  const tookMs: number[] = [];
  let failed = 0;
  let sent = 0;
  const startAt = performance.now() + WARM_UP_MS;

  function send(): void {
    while (due.length > 0 && free.length > 0) {
      const socket = free.pop()!;
      sentFor.set(socket, due.shift()!);
      sent += 1;
      socket.write(requests[sent % requests.length]!);
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

  const endAt = startAt + seconds * 1_000;
  const perMs = rate / 1_000;
  let lastAt = performance.now();
  /** Requests that were to be sent until now and are not yet due: a fraction of one, and what is to be caught up. */
  let owed = 0;
  const onBeat = (): void => {
    const now = performance.now();
    const elapsedMs = now - lastAt;
    lastAt = now;
    owed += elapsedMs * perMs;
    const most = 2 * Math.min(elapsedMs, LATE_MS) * perMs;
    for (let nth = 0; owed >= 1 && nth < most; nth += 1) {
      owed -= 1;
      due.push(now);
    }
    send();
  };
  const beater = new Worker(new URL(import.meta.url));
  beater.on('message', onBeat);
  await sleep(endAt - performance.now());
  beater.off('message', onBeat);
  const deadline = performance.now() + ANSWERS_WITHIN_MS;
  while ((due.length > 0 || free.length < connections) && performance.now() < deadline) await sleep(5);
  tookMs.sort((a, b) => a - b);
  const rank = (p: number): number => tookMs[Math.max(Math.ceil(p * tookMs.length) - 1, 0)] ?? Number.NaN;
  const unanswered = due.length + connections - free.length;
  process.stdout.write(
    `${JSON.stringify({ sent, answered: tookMs.length, failed, unanswered, p50Ms: rank(0.5), p99Ms: rank(0.99) })}\n`,
  );
  process.exit(0);
}
