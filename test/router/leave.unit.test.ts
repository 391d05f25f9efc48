/** Goal: a router that ends takes its leave of each client so that none sees an error. Method: clients that are sockets, whose every byte the test knows. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { until } from '../support/wait.ts';
import { startWorld, type World } from './harness.ts';

let world: World;
const clients: Client[] = [];
afterEach(async () => {
  for (const client of clients.splice(0)) client.socket.destroy();
  await world?.end();
});

interface Client {
  readonly socket: Socket;
  readonly ended: Promise<'closed' | 'reset'>;
  /** Sends a request of this user, without waiting. */
  send(userId: string): void;
  /** The next whole answer. */
  answer(): Promise<string>;
}

function client(url: string): Client {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  let said = '';
  socket.on('data', (bytes) => {
    said += bytes.toString();
  });
  const ended = new Promise<'closed' | 'reset'>((resolve) => {
    socket.on('error', () => resolve('reset'));
    socket.on('close', () => resolve('closed'));
  });
  const one: Client = {
    socket,
    ended,
    send(userId) {
      const body = JSON.stringify({ userId, messageId: `m-${Math.random()}` });
      socket.write(`POST /v1/track HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
    },
    async answer() {
      await until(() => /\r\n\r\n[\s\S]+/.test(said), { deadlineMs: 5_000, what: 'an answer' });
      const answer = said;
      said = '';
      return answer;
    },
  };
  clients.push(one);
  return one;
}

/** Whether its port takes nobody in any more. */
const isClosed = (url: string): Promise<boolean> =>
  fetch(`${url}/health`).then(
    () => false,
    () => true,
  );

const statusOf = (answer: string): string => answer.split(' ')[1]!;
const saysClose = (answer: string): boolean => /\r\nconnection: close\r\n/i.test(answer);

describe.each([
  ['plain requests', true],
  ['the full HTTP stack', false],
])('a router that ends, with connections of %s,', (_, fastPath) => {
  test('answers a client that speaks once more, and tells it to leave', async () => {
    world = await startWorld({ fastPath, limits: { leaveMs: 3_000 } });
    const one = client(world.router.url);
    one.send(world.userOf('node-0'));
    expect(saysClose(await one.answer())).toBe(false);
    const startedAt = performance.now();
    const stopped = world.router.stop();
    await until(() => isClosed(world.router.url), { deadlineMs: 1_000, what: 'nobody new is let in' });
    one.send(world.userOf('node-1'));
    const answer = await one.answer();
    expect([statusOf(answer), saysClose(answer)]).toEqual(['200', true]);
    expect(await one.ended).toBe('closed');
    await stopped;
    expect(performance.now() - startedAt).toBeLessThan(2_500); // nobody is left to wait for
  });

  test('closes, without a reset, whoever has said nothing for so long', async () => {
    world = await startWorld({ fastPath, limits: { leaveMs: 200 } });
    const one = client(world.router.url);
    one.send(world.userOf('node-0'));
    await one.answer();
    const startedAt = performance.now();
    await world.router.stop();
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(190);
    expect(await one.ended).toBe('closed');
  });

  test('is not ready at once, and takes connections until balancers have noticed', async () => {
    world = await startWorld({ fastPath, limits: { drainMs: 600 } });
    const stopped = world.router.stop();
    const ready = await fetch(`${world.router.url}/ready`);
    expect([ready.status, ready.headers.get('connection')]).toEqual([503, 'close']);
    const late = client(world.router.url);
    late.send(world.userOf('node-0'));
    expect(statusOf(await late.answer())).toBe('200');
    await stopped;
    await expect(fetch(`${world.router.url}/ready`)).rejects.toThrow();
  });

  test('lets in whoever stands in the queue of its port', async () => {
    world = await startWorld({ fastPath, limits: { leaveMs: 1_000 } });
    const several = Array.from({ length: 20 }, () => client(world.router.url));
    await Promise.all(several.map(({ socket }) => once(socket, 'connect')));
    // These stand in the queue when it is told to stop: the event loop has had no turn in which to accept them.
    const queued = Array.from({ length: 20 }, () => client(world.router.url));
    const stopped = world.router.stop();
    for (const one of [...several, ...queued]) one.send(world.userOf('node-0'));
    const answers = await Promise.all([...several, ...queued].map((one) => one.answer()));
    expect(answers.map(statusOf)).toEqual(answers.map(() => '200'));
    await stopped;
  });

  test('finishes what is held', async () => {
    world = await startWorld({ fastPath });
    const user = world.userOf('node-0');
    await world.startMove('op-1/move-1.1', 'node-0', 'node-1', [world.partitionOfUser(user)]);
    world.fence('op-1/move-1.1');
    const one = client(world.router.url);
    one.send(user);
    await until(() => world.router.held() === 1, { deadlineMs: 3_000, what: 'held' });
    const stopped = world.router.stop();
    await world.handOver('op-1/move-1.1');
    expect(statusOf(await one.answer())).toBe('200');
    await stopped;
    expect(world.nodes[1]!.stored).toHaveLength(1);
  });
});
