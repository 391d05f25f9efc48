/**
 * Goal: of each request the router knows whether a node has provably not stored it, and no answer is guessed at.
 * Method: a pool of connections against a node of which the test plays every byte.
 */
import type { Socket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { type RouterLimits, routerLimits } from '../../router/limits.ts';
import { NodePool, type NodeRequest, type Outcome } from '../../router/node-pool.ts';
import { until } from '../support/wait.ts';
import { startRawNode } from './raw.ts';

const ends: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK';
const withLine = (line: string): string => OK.replace('OK\r\n', `OK\r\n${line}\r\n`);
const request: NodeRequest = { method: 'POST', target: '/v1/track', headers: 'x-a: 1\r\n', body: Buffer.from('{}') };
const outcomeOf = (pool: NodePool, of = request): Promise<Outcome> => new Promise((resolve) => pool.send(of, resolve));

/** A pool for a node that does `onBytes` with what comes. */
async function make(onBytes: (socket: Socket, bytes: Buffer) => void, limits: Partial<RouterLimits> = {}) {
  const node = await startRawNode(onBytes);
  const pool = new NodePool(node.url, { ...routerLimits, ...limits });
  ends.push(node.stop, () => pool.destroy('the test ends'));
  return { node, pool };
}

describe('an answer', () => {
  test.each([
    ['with a length', OK, 'OK'],
    ['in chunks', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nO\r\n1\r\nK\r\n0\r\n\r\n', 'OK'],
    ['after an interim one', `HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n${OK}`, 'OK'],
    ['without a body', 'HTTP/1.1 204 No Content\r\n\r\n', ''],
    ['with a header twice', 'HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\nOK', 'OK'],
  ])('%s is read, in one piece and byte by byte', async (_what, text, body) => {
    let byByte = false;
    const { pool } = await make(async (socket) => {
      for (const piece of byByte ? text : [text]) {
        socket.write(piece, 'latin1');
        if (byByte) await new Promise((resolve) => setImmediate(resolve));
      }
    });
    for (byByte of [false, true]) {
      const outcome = await outcomeOf(pool);
      expect(outcome.kind === 'answered' && outcome.answer.body.toString()).toBe(body);
    }
  });

  test.each([
    ['with two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nOK'],
    [
      'with a length and in chunks',
      'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n0\r\n\r\n',
    ],
    ['with a signed length', 'HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nOK'],
    ['whose end is that of the connection', 'HTTP/1.1 200 OK\r\n\r\nOK'],
    ['of HTTP/1.0', 'HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nOK'],
    ['with a folded line', 'HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n\r\nOK'],
    ['with a bare LF', 'HTTP/1.1 200 OK\r\nX-A: b\nContent-Length: 2\r\n\r\nOK'],
    ['with a bad chunk', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nOK\r\n0\r\n\r\n'],
    ['that switches protocols', 'HTTP/1.1 101 Switching Protocols\r\n\r\n'],
    ['that is none', 'hello, this is not HTTP\r\n\r\n'],
    ['that is too long', `HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n${'x'.repeat(2_000_000)}`],
  ])('%s has an unknown outcome, and its connection is not used again', async (_what, text) => {
    const { pool, node } = await make((socket) => void socket.write(text, 'latin1'));
    expect((await outcomeOf(pool)).kind).toBe('unknown');
    await until(() => node.sockets.size === 0, { deadlineMs: 3_000, what: 'the connection is closed' });
  });
});

describe('a request', () => {
  test.each([100, 40_000])(
    'whose body has %i bytes of every kind: it arrives as it is, given as text or as bytes',
    async (times) => {
      const bytes = Buffer.from(Array.from({ length: times }, (_, n) => n % 256));
      let came = Buffer.alloc(0);
      const { pool } = await make((socket, piece) => {
        came = Buffer.concat([came, piece]);
        const bodyAt = came.indexOf('\r\n\r\n') + 4;
        if (bodyAt >= 4 && came.length >= bodyAt + bytes.length) socket.write(OK);
      });
      for (const body of [bytes, bytes.toString('latin1')]) {
        came = Buffer.alloc(0);
        expect((await outcomeOf(pool, { ...request, body })).kind).toBe('answered');
        expect(came.subarray(came.indexOf('\r\n\r\n') + 4).equals(bytes)).toBe(true);
      }
    },
  );

  test('that finds nobody is provably not sent', async () => {
    const { node, pool } = await make(() => undefined);
    await node.stop();
    expect((await outcomeOf(pool)).kind).toBe('not sent');
  });

  test('whose connection breaks after it was given to it may be stored, whatever the node has read', async () => {
    const { pool } = await make((socket) => void socket.resetAndDestroy());
    expect((await outcomeOf(pool)).kind).toBe('unknown');
  });

  test('that is answered by half may be stored', async () => {
    const { pool } = await make((socket) => void socket.end(OK.slice(0, -1)));
    expect((await outcomeOf(pool)).kind).toBe('unknown');
  });

  test('that gets no answer in time may be stored', async () => {
    const { pool } = await make(() => undefined, { nodeTimeoutMs: 200 });
    expect(await outcomeOf(pool)).toMatchObject({ kind: 'unknown', because: expect.stringContaining('200 ms') });
  });

  test('that waits for a free connection when the node is given up is provably not sent, the one before it may be stored', async () => {
    const { pool, node } = await make(() => undefined, { connectionsPerNode: 1 });
    const first = outcomeOf(pool);
    await until(() => node.sockets.size === 1, { deadlineMs: 3_000, what: 'the first is on its way' });
    const second = outcomeOf(pool);
    pool.destroy('the router stops');
    expect((await second).kind).toBe('not sent');
    expect((await first).kind).toBe('unknown');
  });

  test('goes as it is, once, with one length', async () => {
    let seen = '';
    const { pool } = await make((socket, bytes) => {
      seen += bytes.toString('latin1');
      socket.write(OK);
    });
    await outcomeOf(pool);
    expect(seen).toBe(`POST /v1/track HTTP/1.1\r\nHost: ${pool.host}\r\nx-a: 1\r\nContent-Length: 2\r\n\r\n{}`);
  });
});

describe('a connection', () => {
  test('carries one request after the other, and no more of them than the bound are open', async () => {
    let most = 0;
    const { pool, node } = await make(
      (socket) => {
        most = Math.max(most, node.sockets.size);
        setImmediate(() => socket.write(OK));
      },
      { connectionsPerNode: 3 },
    );
    const outcomes = await Promise.all(Array.from({ length: 50 }, () => outcomeOf(pool)));
    expect(outcomes.every(({ kind }) => kind === 'answered')).toBe(true);
    expect(most).toBe(3);
  });

  test.each([
    ['that the node has closed', true, (socket: Socket) => void socket.end(OK)],
    ['that the node wants to close', true, (socket: Socket) => void socket.write(withLine('Connection: close'))],
    [
      'that the node is about to close',
      false,
      (socket: Socket) => void socket.write(withLine('Keep-Alive: timeout=1')),
    ],
    ['with bytes behind the answer', true, (socket: Socket) => void socket.write(`${OK}HTTP/1.1 200 OK\r\n`)],
  ])('%s is not used again', async (_what, isClosedAtOnce, answer) => {
    const used = new Set<Socket>();
    const { pool, node } = await make((socket) => {
      used.add(socket);
      answer(socket);
    });
    for (let n = 0; n < 3; n += 1) {
      expect((await outcomeOf(pool)).kind).toBe('answered');
      if (isClosedAtOnce) await until(() => node.sockets.size === 0, { deadlineMs: 3_000, what: 'it is closed' });
    }
    expect(used.size).toBe(3);
  });

  test('that is answered before all was taken is not used again', async () => {
    const used = new Set<Socket>();
    const { pool } = await make((socket) => {
      if (used.has(socket)) return;
      used.add(socket);
      socket.pause();
      socket.write(OK);
    });
    const large = { ...request, body: Buffer.alloc(64 * 1_024 * 1_024) };
    expect((await outcomeOf(pool, large)).kind).toBe('answered');
    expect((await outcomeOf(pool)).kind).toBe('answered');
    expect(used.size).toBe(2);
  });
});
