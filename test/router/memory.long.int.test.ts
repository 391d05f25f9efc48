/**
 * Goal: a router under full load does not grow. Method: a router as a process, clients and nodes here as bare sockets, so that it is the router that is busy, for
 * RINGMASTER_TEST_SECONDS (300); its memory after the first fifth is compared with that of the rest.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { benchRequests } from '../../bench/router-requests.ts';
import { until } from '../support/wait.ts';
import { startRawNode } from './raw.ts';

const SECONDS = Number(process.env['RINGMASTER_TEST_SECONDS'] ?? 300);
const CLIENTS = 64;
/** V8 doubles its young generation as it sees fit, to a hundred MB; small from the start, what is left to grow is what stayed of requests. */
const YOUNG = '--max-semi-space-size=4';
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK';

test('memory is flat under full load', async () => {
  const node = await startRawNode((socket) => void socket.write(OK)); // a request of this size comes in one piece
  onTestFinished(node.stop);
  const script = fileURLToPath(new URL('../../bench/router-process.ts', import.meta.url));
  const router = spawn(process.execPath, [YOUNG, script, node.url], { stdio: ['ignore', 'pipe', 'inherit'] });
  onTestFinished(() => void router.kill('SIGKILL'));
  const port = await portOf(router);
  const requests = benchRequests(port).map((text) => Buffer.from(text));
  let answered = 0;
  let stopped = false;
  const sockets: Socket[] = [];
  for (let n = 0; n < CLIENTS; n += 1) {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    socket.on('connect', () => void socket.write(requests[n]!));
    socket.on('data', (bytes) => {
      if (!bytes.toString('latin1').startsWith('HTTP/1.1 200 ')) throw new Error(bytes.toString());
      answered += 1;
      if (!stopped) socket.write(requests[answered % requests.length]!);
    });
    sockets.push(socket);
  }
  const samples: number[] = [];
  const from = performance.now();
  while (performance.now() - from < SECONDS * 1_000) {
    await sleep(1_000);
    samples.push(rssMb(router.pid!));
  }
  stopped = true;
  for (const socket of sockets) socket.destroy();
  const early = samples.slice(Math.floor(samples.length / 10), Math.ceil(samples.length / 5));
  const late = samples.slice(-Math.ceil(samples.length / 5));
  process.stdout.write(
    `${answered} requests in ${SECONDS} s; RSS in MB: ${samples.filter((_, nth) => nth % 30 === 0 || nth === samples.length - 1).join(' ')}\n`,
  );
  expect(answered).toBeGreaterThan(SECONDS * 100);
  // V8 lets its heap breathe by some 20 MB; what stayed of each request would be far more after a million of them.
  expect(Math.max(...late) - Math.max(...early)).toBeLessThan(32);
});

async function portOf(router: ChildProcess): Promise<number> {
  let said = '';
  router.stdout!.on('data', (text: Buffer) => {
    said += text.toString();
  });
  const url = await until(() => /"url":"([^"]+)"/.exec(said)?.[1], { deadlineMs: 20_000, what: 'the router listens' });
  return Number(new URL(url).port);
}

const rssMb = (pid: number): number =>
  Math.round(Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1_024);
