/**
 * Sends requests at an even rate over kept connections, whether or not answers come, and says how long each took from when it was to be sent: what waits for a free
 * connection, because answers are late, counts. A process of the bench: `node open-loop.ts PORT RATE SECONDS CONNECTIONS`; one JSON line on standard output.
 *
 * Even: timers of Node are too coarse for it (a tick of a millisecond and a half is thirty requests at once, which measures the sender), so each answer is a beat, and
 * where none comes a thread of its own gives it. When this process was kept from running, it catches up at twice the rate and not at once: all that is asked for at any time
 * is at most the double.
 */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { benchRequests } from './router-requests.ts';

/** At first connections are made and code is compiled: not counted. */
const WARM_UP_MS = 3_000;
const ANSWERS_WITHIN_MS = 5_000;
const BEAT_MS = 0.2;
/** A beat that comes later than this finds more to send than it may at once. */
const LATE_MS = 1;
const READ_BYTES = 64 * 1024;
const OK = 'HTTP/1.1 200';

interface Connection {
  readonly socket: Socket;
  /** When the request that it waits for was to be sent. */
  since: number;
}

if (isMainThread) await main();
else beat(workerData as SharedArrayBuffer);

/** Says nothing where the sender has just looked by itself: a message costs it more than a look. */
function beat(shared: SharedArrayBuffer): void {
  const lookedAt = new Float64Array(shared);
  const never = new Int32Array(new SharedArrayBuffer(4));
  for (;;) {
    Atomics.wait(never, 0, 0, BEAT_MS);
    if (performance.timeOrigin + performance.now() - lookedAt[0]! >= BEAT_MS) parentPort!.postMessage(null);
  }
}

async function main(): Promise<void> {
  const [port, rate, seconds, connections] = process.argv.slice(2).map(Number) as [number, number, number, number];
  const requests = benchRequests(port).map((text) => Buffer.from(text));
  const perMs = rate / 1_000;

  const free: Connection[] = [];
  const due: number[] = [];
  /** Never more than are sent in all: what was owed from before the first that counts may count as well. */
  const tookMs = new Float64Array(Math.ceil(perMs * (WARM_UP_MS + seconds * 1_000)));
  let answered = 0;
  let failed = 0;
  let sent = 0;
  const startAt = performance.now() + WARM_UP_MS;
  const endAt = startAt + seconds * 1_000;

  const shared = new SharedArrayBuffer(Float64Array.BYTES_PER_ELEMENT);
  const lookedAt = new Float64Array(shared);
  let lastAt = performance.now();
  /** Requests that were to be sent until now and are not yet due: a fraction of one, and what is to be caught up. */
  let owed = 0;
  function look(now: number): void {
    if (now < endAt) {
      const elapsedMs = now - lastAt;
      lastAt = now;
      owed += elapsedMs * perMs;
      const most = 2 * Math.min(elapsedMs, LATE_MS) * perMs;
      for (let nth = 0; owed >= 1 && nth < most; nth += 1) {
        owed -= 1;
        due.push(now);
      }
    }
    while (due.length > 0 && free.length > 0) {
      const connection = free.pop()!;
      connection.since = due.shift()!;
      sent += 1;
      connection.socket.write(requests[sent % requests.length]!);
    }
    lookedAt[0] = performance.timeOrigin + now;
  }

  const buffer = Buffer.alloc(READ_BYTES);
  for (let n = 0; n < connections; n += 1) {
    const onAnswer = (): boolean => {
      const now = performance.now();
      if (buffer.toString('latin1', 0, OK.length) !== OK) failed += 1; // an answer is far smaller than a segment
      if (connection.since >= startAt) {
        tookMs[answered] = now - connection.since;
        answered += 1;
      }
      free.push(connection);
      look(now);
      return true;
    };
    const socket = connect({ port, host: '127.0.0.1', noDelay: true, onread: { buffer, callback: onAnswer } });
    const connection: Connection = { socket, since: 0 };
    socket.on('connect', () => void free.push(connection));
    socket.on('error', () => {
      failed += 1;
    });
  }

  const beater = new Worker(new URL(import.meta.url), { workerData: shared });
  beater.on('message', () => look(performance.now()));
  await sleep(endAt - performance.now());
  const deadline = performance.now() + ANSWERS_WITHIN_MS;
  while ((due.length > 0 || free.length < connections) && performance.now() < deadline) await sleep(5);
  const sorted = tookMs.subarray(0, answered).sort();
  const rank = (p: number): number => sorted[Math.max(Math.ceil(p * sorted.length) - 1, 0)] ?? Number.NaN;
  const unanswered = due.length + connections - free.length;
  process.stdout.write(
    `${JSON.stringify({ sent, answered, failed, unanswered, p50Ms: rank(0.5), p99Ms: rank(0.99) })}\n`,
  );
  process.exit(0);
}
