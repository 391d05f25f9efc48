/**
 * Goal: what accepted sockets read is theirs, though all of them read into one buffer; and what Node has inside is as one-buffer.ts expects it.
 * Method: a server and its clients; for the way through a router, two connections whose bytes come in turn.
 */
import { once } from 'node:events';
import { connect, createServer, Socket } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { readAsStream, readInto } from '../../router/one-buffer.ts';
import { until } from '../support/wait.ts';
import { startWorld, type World } from './harness.ts';
import { bytes, event, post } from './odd-requests.ts';
import { KeptConnection } from './raw.ts';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

/** Both ends of a new connection. */
async function pair(): Promise<{ client: Socket; accepted: Socket }> {
  const server = createServer({ noDelay: true });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const client = connect({ port: (server.address() as { port: number }).port, host: '127.0.0.1', noDelay: true });
  const [[accepted]] = (await Promise.all([once(server, 'connection'), once(client, 'connect')])) as [[Socket], []];
  ends.push(
    () => new Promise((resolve) => server.close(resolve)),
    () => client.destroy(),
    () => accepted.destroy(),
  );
  return { client, accepted };
}

const soon = { deadlineMs: 3_000 };

describe('an accepted socket', () => {
  test('gives what it reads to its taker, and no data event; its end and its close are told', async () => {
    const { client, accepted } = await pair();
    const taken: string[] = [];
    const told: string[] = [];
    for (const name of ['data', 'end', 'close'] as const) accepted.on(name, () => told.push(name));
    expect(readInto(accepted, (read) => taken.push(read.toString()))).toBe(true);
    accepted.resume();
    client.write('one');
    await until(() => taken.join('') === 'one', { ...soon, what: 'it is read' });
    client.end('two');
    await until(() => told.includes('close'), { ...soon, what: 'it is closed' });
    expect([taken.join(''), told]).toEqual(['onetwo', ['end', 'close']]);
  });

  test('reads into the place of the one before', async () => {
    const [a, b] = [await pair(), await pair()];
    const kept: Buffer[] = [];
    for (const { accepted } of [a, b]) {
      readInto(accepted, (read) => kept.push(read));
      accepted.resume();
    }
    a.client.write('first');
    await until(() => kept.length === 1, { ...soon, what: 'one is read' });
    b.client.write('other');
    await until(() => kept.length === 2, { ...soon, what: 'both are read' });
    expect(kept.map(String)).toEqual(['other', 'other']);
  });

  test('reads nothing while it is paused', async () => {
    const { client, accepted } = await pair();
    const taken: string[] = [];
    readInto(accepted, (read) => {
      taken.push(read.toString());
      accepted.pause();
    });
    accepted.resume();
    client.write('one');
    await until(() => taken.length === 1, { ...soon, what: 'it is read' });
    await new Promise((resolve) => client.write('two', resolve));
    for (let n = 0; n < 20; n += 1) await turn();
    expect(taken).toEqual(['one']);
    accepted.resume();
    await until(() => taken.join('') === 'onetwo', { ...soon, what: 'the rest is read' });
  });

  test('is a stream again: what comes stays as it came, and waits for its reader', async () => {
    const { client, accepted } = await pair();
    const other = await pair();
    readInto(accepted, () => undefined);
    readInto(other.accepted, () => undefined);
    other.accepted.resume();
    readAsStream(accepted);
    accepted.pause();
    const large = Buffer.alloc(4 * 1_024 * 1_024, 'large ');
    client.write(large);
    accepted.read(0);
    await until(() => accepted.readableLength >= accepted.readableHighWaterMark, { ...soon, what: 'it is full' });
    for (let n = 0; n < 20; n += 1) await turn();
    expect(accepted.readableLength).toBeLessThan(large.length / 4);
    other.client.write('small '.repeat(20_000));
    await until(() => other.accepted.bytesRead === 120_000, { ...soon, what: 'the other one has read' });
    client.end();
    const chunks: Buffer[] = [];
    for await (const chunk of accepted) chunks.push(chunk as Buffer);
    expect(Buffer.concat(chunks).equals(large)).toBe(true);
  });
});

describe('left as it is', () => {
  test('one without a connection', () => {
    expect(readInto(new Socket(), () => undefined)).toBe(false);
  });

  test('one that reads into a buffer already', async () => {
    const { accepted } = await pair();
    const taken: string[] = [];
    expect(readInto(accepted, () => taken.push('first'))).toBe(true);
    expect(readInto(accepted, () => taken.push('second'))).toBe(false);
  });

  test('a stream', async () => {
    const { client, accepted } = await pair();
    readAsStream(accepted);
    client.end('text');
    expect((await accepted.toArray()).join('')).toBe('text');
  });
});

describe('in a router', () => {
  let world: World;
  const users = (): [string, string] => [world.userOf('node-0'), world.userOf('node-1')];
  const start = async (): Promise<void> => {
    world = await startWorld();
    ends.push(() => world.end());
  };
  const open = (): KeptConnection => {
    const connection = new KeptConnection(world.router.url);
    ends.push(() => connection.socket.destroy());
    return connection;
  };

  test('a request behind another one is its own when its turn comes', async () => {
    await start();
    const [ours, theirs] = users();
    const node = world.nodes[0]!;
    const answer = node.answersWhenTold();
    const connection = open();
    const behind = [event(ours, { nth: 2, text: 'ours'.repeat(20) }), event(ours, { nth: 3 })];
    const first = connection.ask(bytes(post(event(ours, { nth: 1 })) + post(behind[0]!)));
    await until(() => node.requests.length === 1, { ...soon, what: 'the node has the first' });
    connection.socket.write(bytes(post(behind[1]!)));
    expect((await open().ask(bytes(post(event(theirs, { text: 'x'.repeat(4_000) }))))).status).toBe(200);
    answer();
    node.misbehave = null;
    await first;
    await until(() => node.requests.length === 3, { ...soon, what: 'the node has all' });
    expect(node.requests.slice(1).map(({ body }) => body)).toEqual(behind);
  });

  test('a request that comes in pieces is its own, whatever comes in between', async () => {
    await start();
    const [ours, theirs] = users();
    const body = event(ours, { text: 'ours'.repeat(1_000) });
    const text = post(body);
    const [connection, other] = [open(), open()];
    connection.socket.write(bytes(text.slice(0, -1_000)));
    expect((await other.ask(bytes(post(event(theirs, { text: 'x'.repeat(8_000) }))))).status).toBe(200);
    expect((await connection.ask(bytes(text.slice(-1_000)))).status).toBe(200);
    expect(world.nodes[0]!.requests.map((request) => request.body)).toEqual([body]);
  });
});
