/** The fault proxy between a real client and a real server: each way of misbehaving is what it says, and over when it is over. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { startTcpProxy, type TcpProxy } from '../../dev/faults/tcp-proxy.ts';
import { until } from '../support/wait.ts';

let server: Server;
let proxy: TcpProxy;
/** What the server got, all connections together; it sends everything back. */
let received: Buffer[];
let serverSockets: Socket[];
let clients: Peer[];

beforeEach(async () => {
  received = [];
  serverSockets = [];
  clients = [];
  server = createServer({ allowHalfOpen: true }, (socket) => {
    serverSockets.push(socket);
    socket.on('error', () => undefined);
    socket.on('data', (chunk) => {
      received.push(chunk);
      socket.write(chunk);
    });
    socket.on('end', () => socket.end('bye'));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  proxy = await startTcpProxy({ host: '127.0.0.1', port: (server.address() as AddressInfo).port });
});
afterEach(async () => {
  for (const { socket } of clients) socket.destroy();
  await proxy.close();
  for (const socket of serverSockets) socket.destroy();
  await new Promise((resolve) => server.close(resolve));
});

interface Peer {
  readonly socket: Socket;
  text(): string;
  /** Null: open. */
  ended(): 'ended' | 'reset' | 'refused' | null;
}

function dial(): Peer {
  const socket = connect({ host: '127.0.0.1', port: proxy.port, allowHalfOpen: true });
  let text = '';
  let ended: ReturnType<Peer['ended']> = null;
  socket.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1');
  });
  socket.on('end', () => {
    ended ??= 'ended';
  });
  socket.on('error', (error: NodeJS.ErrnoException) => {
    ended = error.code === 'ECONNREFUSED' ? 'refused' : 'reset';
  });
  const peer = { socket, text: () => text, ended: () => ended };
  clients.push(peer);
  return peer;
}
const soon = <T>(what: string, condition: () => T): Promise<NonNullable<T>> =>
  until(condition, { deadlineMs: 10_000, what });
const echoed = async (peer: Peer, text: string): Promise<void> => {
  const before = peer.text();
  peer.socket.write(text);
  await soon(`${text} comes back`, () => peer.text() === before + text);
};
/** Time in which something would have come, if anything came. */
const aMoment = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 300));
const gotAll = (): string => Buffer.concat(received).toString('latin1');

test('it passes on every byte in order, however many, and each side its end', async () => {
  const peer = dial();
  const bytes = randomBytes(8 * 1_024 * 1_024).toString('latin1');
  peer.socket.write(bytes, 'latin1');
  await soon('all of it comes back', () => peer.text().length === bytes.length);
  expect(peer.text() === bytes).toBe(true);
  peer.socket.end();
  await soon('the answer to the end', () => peer.ended());
  expect(peer.ended()).toBe('ended');
  expect(peer.text().slice(bytes.length)).toBe('bye');
  await soon('the connection is over', () => proxy.connections === 0);
});

test('a server that resets resets the client', async () => {
  const peer = dial();
  await echoed(peer, 'hello');
  serverSockets[0]!.resetAndDestroy();
  await soon('the reset', () => peer.ended());
  expect(peer.ended()).toBe('reset');
});

test('cut: open connections are reset, new ones refused; afterwards new ones work', async () => {
  const peer = dial();
  await echoed(peer, 'hello');
  await proxy.set('cut');
  await soon('the reset', () => peer.ended() === 'reset');
  await soon("the server's side is closed too", () => serverSockets[0]!.destroyed);
  const refused = dial();
  await soon('the refusal', () => refused.ended() === 'refused');
  await proxy.set('pass');
  await echoed(dial(), 'again');
});

describe('silent', () => {
  test('nothing arrives and nobody is told; what was lost is lost, and its connection is reset afterwards', async () => {
    const [talking, idle] = [dial(), dial()];
    await echoed(talking, 'hello');
    await echoed(idle, 'hi');
    await proxy.set('silent');
    talking.socket.write('lost');
    const late = dial();
    await once(late.socket, 'connect');
    late.socket.write('lost too');
    await aMoment();
    expect(gotAll()).not.toContain('lost');
    expect([talking, idle, late].map(({ ended }) => ended())).toEqual([null, null, null]);
    await proxy.set('pass');
    await soon('both are reset', () => talking.ended() === 'reset' && late.ended() === 'reset');
    await echoed(idle, 'still there'); // it lost nothing
    await echoed(dial(), 'again');
    expect(gotAll()).not.toContain('lost');
  });

  test('an end is not told either', async () => {
    const peer = dial();
    await echoed(peer, 'hello');
    await proxy.set('silent');
    serverSockets[0]!.destroy();
    await aMoment();
    expect(peer.ended()).toBeNull();
    await proxy.set('pass');
    await soon('now it is', () => peer.ended() === 'reset');
  });
});

test('no answers: what is sent arrives, what is answered does not', async () => {
  const peer = dial();
  await echoed(peer, 'hello');
  await proxy.set('no answers');
  peer.socket.write('order');
  await soon('the order arrives', () => gotAll().includes('order'));
  const late = dial();
  late.socket.write('second');
  await soon('of a new connection too', () => gotAll().includes('second'));
  await aMoment();
  expect([peer.text(), late.text()]).toEqual(['hello', '']);
  expect([peer.ended(), late.ended()]).toEqual([null, null]);
  await proxy.set('pass');
  await soon('both are reset', () => peer.ended() === 'reset' && late.ended() === 'reset');
});

test('delayed: everything arrives so much later, in order, and much at once is no slower', async () => {
  const peer = dial();
  await echoed(peer, 'hello');
  await proxy.set({ delayMs: 200 });
  const since = performance.now();
  for (let n = 0; n < 20; n += 1) {
    peer.socket.write(String(n % 10));
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await soon('all come back', () => peer.text() === 'hello01234567890123456789');
  const took = performance.now() - since;
  expect(took).toBeGreaterThanOrEqual(400); // there and back
  expect(took).toBeLessThan(3_000);
  expect(peer.ended()).toBeNull();
});

test('slow: so many bytes a second', async () => {
  const peer = dial();
  await echoed(peer, 'hello');
  await proxy.set({ bytesPerSecond: 50_000 });
  const since = performance.now();
  peer.socket.write(Buffer.alloc(30_000, 'x'));
  await soon('all come back', () => peer.text().length === 30_005);
  expect(performance.now() - since).toBeGreaterThanOrEqual(550);
  await proxy.set('pass');
  await echoed(peer, 'quick');
});
