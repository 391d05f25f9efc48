/**
 * Goal: with and without the fast path a router is the same router: the same answers to the same bytes, the same requests at the nodes; and no client, slow, broken or hostile,
 * makes it fail or grow.
 * Method: two routers, one with the fast path and one without, each with its own nodes; raw bytes over sockets, by hand and from seeds.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { gunzipSync, gzipSync } from 'node:zlib';
import { afterEach, describe, expect, test } from 'vitest';
import { partitionOf } from '../../ring/partition.ts';
import type { RouterLimits } from '../../router/limits.ts';
import { understand } from '../../router/understand.ts';
import { until } from '../support/wait.ts';
import { startWorld, type World } from './harness.ts';
import { bytes, event, fuzzedBody, LAST, ODD, oddPieces, post } from './odd-requests.ts';
import { exchange, KeptConnection, type RawAnswer } from './raw.ts';

const worlds: World[] = [];
const make = async (limits: Partial<RouterLimits> = {}, fastPath = true): Promise<World> => {
  const world = await startWorld({ limits, fastPath });
  worlds.push(world);
  return world;
};
afterEach(async () => {
  await Promise.all(worlds.splice(0).map((world) => world.end()));
});

/** What nodes were asked, in no order. */
const seenBy = (world: World): string[] =>
  world.nodes
    .flatMap((node) =>
      node.requests.map(({ method, url, headers, body }) =>
        JSON.stringify([
          method,
          url,
          Object.entries(headers)
            .filter(([name]) => name !== 'host')
            .sort(),
          body,
        ]),
      ),
    )
    .sort();

/** A slow request is cut off soon: half of what is fuzzed never ends. */
const SOON = { bodyTimeoutMs: 400 };

async function bothOf(limits: Partial<RouterLimits> = SOON): Promise<[fast: World, full: World]> {
  return [await make(limits, true), await make(limits, false)];
}

describe('with and without the fast path', () => {
  test('odd requests get the same answers, and nodes the same requests', { timeout: 60_000 }, async () => {
    const [fast, full] = await bothOf();
    for (const [what, text] of ODD) {
      const [a, b] = await Promise.all([fast, full].map((world) => exchange(world.router.url, [bytes(text)])));
      expect(a, what).toEqual(b);
      await until(() => seenBy(fast).length === seenBy(full).length, { deadlineMs: 2_000, what });
      expect(seenBy(fast), what).toEqual(seenBy(full));
      for (const world of [fast, full]) for (const node of world.nodes) node.requests.length = 0;
    }
  });

  test('no request is smuggled in, and what is bad gets a 4xx or an end', async () => {
    const w = await make(SOON);
    for (const [what, text] of ODD.filter(([, text]) => text.includes('smuggled'))) {
      const answers = await exchange(w.router.url, [bytes(text)]);
      expect(
        answers.filter(({ status }) => status < 400),
        what,
      ).toEqual([]);
      expect(
        seenBy(w).filter((request) => request.includes('smuggled')),
        what,
      ).toEqual([]);
    }
  });

  test('600 requests from seeds, broken and cut into pieces: the same answers, and the same at the nodes', {
    timeout: 60_000,
  }, async () => {
    const [fast, full] = await bothOf();
    // Whoever gets it takes it: none is sent on from node to node.
    for (const node of [...fast.nodes, ...full.nodes])
      node.misbehave = (_request, response) => Boolean(response.writeHead(200).end('OK'));
    for (let from = 1; from <= 600; from += 60) {
      await Promise.all(
        Array.from({ length: 60 }, async (_, n) => {
          const seed = from + n;
          const pieces = oddPieces(seed);
          const about = `seed ${seed}: ${JSON.stringify(pieces.map(String))}`;
          const [a, b] = await Promise.all(
            [fast, full].map((world) => exchange(world.router.url, pieces, { last: bytes(LAST) })),
          );
          const of = (world: World): string[] => seenBy(world).filter((request) => request.includes(`s=${seed}"`));
          if (isCutOff(b!) && a!.length > 1) {
            // What was understood, with something broken behind it: the full stack cuts its client off at once, and nobody learns what became of it.
            expect(a!.at(-1), about).toEqual(b![0]);
            expect(of(fast), about).toEqual(expect.arrayContaining(of(full)));
          } else {
            expect(a, about).toEqual(b);
            expect(of(fast), about).toEqual(of(full));
          }
          expect(of(fast).length, about).toBeLessThanOrEqual(1);
        }),
      );
      for (const world of [fast, full]) for (const node of world.nodes) node.requests.length = 0;
    }
  });
});

/** Only the full stack's word for what it cannot read. */
const isCutOff = ([only, ...more]: readonly RawAnswer[]): boolean =>
  more.length === 0 && only !== undefined && only.status >= 400 && only.headers.join() === 'connection: close';

describe.each([true, false])('faithful, fast path %s', (fastPath) => {
  test('Expect: 100-continue is answered, then the request', async () => {
    const w = await make({}, fastPath);
    const body = event('u');
    const head = `POST /v1/track HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n`;
    const answers = await exchange(w.router.url, [bytes(head), bytes(body)], { pauseMs: 50 });
    expect(answers.map(({ status }) => status)).toEqual([100, 200]);
    expect(w.nodes.flatMap((node) => node.requests)[0]?.headers).not.toHaveProperty('expect');
  });

  test('a body of 4 MB arrives whole, one byte more than the limit is refused', async () => {
    const w = await make({}, fastPath);
    const limit = 4_000 * 1_024;
    const userId = w.userOf('node-1');
    const filled = event(userId, { text: '' });
    const body = event(userId, { text: 'x'.repeat(limit - filled.length) });
    expect((await w.post('/v1/track', body)).status).toBe(200);
    expect(w.nodes[1]!.requests[0]!.body === body).toBe(true);
    expect((await w.post('/v1/track', `${body} `)).status).toBe(413);
  });

  test('a compressed body arrives as it was sent', async () => {
    const w = await make({}, fastPath);
    const userId = w.userOf('node-1');
    const zipped = gzipSync(event(userId));
    let seen: Buffer | null = null;
    w.nodes[1]!.misbehave = (_request, response) => {
      seen = w.nodes[1]!.bodies.at(-1)!;
      response.writeHead(200).end('OK');
      return true;
    };
    const answer = await fetch(`${w.router.url}/v1/track`, {
      method: 'POST',
      headers: { 'content-encoding': 'gzip' },
      body: zipped,
    });
    expect(answer.status).toBe(200);
    expect(seen!.equals(zipped)).toBe(true);
    expect(gunzipSync(seen!).toString()).toBe(event(userId));
  });

  test('a client that goes away: what it sent may be stored, nothing is sent again, and the router serves on', async () => {
    const w = await make({}, fastPath);
    const node = w.nodes[0]!;
    const answer = node.answersWhenTold();
    const connection = new KeptConnection(w.router.url);
    void connection.ask(bytes(post(event(w.userOf('node-0'))))).catch(() => undefined);
    await until(() => node.requests.length === 1, { deadlineMs: 3_000, what: 'the node has it' });
    connection.socket.resetAndDestroy();
    answer();
    node.misbehave = null;
    expect((await w.track(w.userOf('node-0'), 'next')).status).toBe(200);
    expect(node.requests).toHaveLength(2);
  });

  test('a client that goes away while it is held is dropped', async () => {
    const w = await make({}, fastPath);
    const userId = w.userOf('node-0');
    await w.startMove('m', 'node-0', 'node-1', [w.partitionOfUser(userId)]);
    w.fence('m');
    const connection = new KeptConnection(w.router.url);
    void connection.ask(bytes(post(event(userId)))).catch(() => undefined);
    await until(() => w.router.held() === 1, { deadlineMs: 3_000, what: 'it is held' });
    connection.socket.destroy();
    await until(() => w.router.held() === 0, { deadlineMs: 3_000, what: 'it is dropped' });
    await w.handOver('m');
    expect(w.nodes.flatMap((node) => node.stored)).toEqual([]);
  });

  test('clients that dribble their head or body, or say nothing, are cut off with 408', async () => {
    const w = await make(SOON, fastPath);
    const text = post(event('u'));
    const dribbled = (from: number): Buffer[] => [
      bytes(text.slice(0, from)),
      ...Array.from(text.slice(from, -1), bytes),
    ];
    const before = performance.now();
    const answers = await Promise.all(
      [dribbled(20), dribbled(text.length - 30), []].map((pieces) => exchange(w.router.url, pieces, { pauseMs: 50 })),
    );
    expect(answers.map((each) => each.map(({ status }) => status))).toEqual([[408], [408], [408]]);
    expect(performance.now() - before).toBeLessThan(5_000);
    expect((await w.track('u', 'next')).status).toBe(200);
  });

  test('a connection over the bound is closed, and those within it are served', async () => {
    const w = await make({ connectionsMax: 2 }, fastPath);
    const kept = [new KeptConnection(w.router.url), new KeptConnection(w.router.url)];
    for (const one of kept) expect((await one.ask(bytes(post(event('u'))))).status).toBe(200);
    expect(await exchange(w.router.url, [bytes(post(event('u')))])).toEqual([]);
    for (const one of kept) expect((await one.ask(bytes(post(event('u'))))).status).toBe(200);
    for (const one of kept) one.socket.destroy();
  });

  test('more bytes than may be in hand: 503, and room again afterwards', async () => {
    const w = await make({ inHandBytesMax: 2_000 }, fastPath);
    const node = w.nodes[0]!;
    const answer = node.answersWhenTold();
    const body = (length: number): string => event(w.userOf('node-0'), { text: 'x'.repeat(length) });
    const first = w.post('/v1/track', body(1_200));
    await until(() => node.requests.length === 1, { deadlineMs: 3_000, what: 'the node has it' });
    const refused = await w.post('/v1/track', body(1_200));
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '1']);
    expect(await refused.json()).toMatchObject({ error: 'ROUTER_FULL' });
    answer();
    node.misbehave = null;
    expect((await first).status).toBe(200);
    expect((await w.post('/v1/track', body(1_200))).status).toBe(200);
  });

  test('each answer of a router that stops is the last of its connection', async () => {
    const w = await make({}, fastPath);
    const userId = w.userOf('node-0');
    await w.startMove('m', 'node-0', 'node-1', [w.partitionOfUser(userId)]);
    w.fence('m');
    const [idle, busy] = [new KeptConnection(w.router.url), new KeptConnection(w.router.url)];
    expect((await idle.ask(bytes(post(event(w.userOf('node-1')))))).status).toBe(200);
    const answer = busy.ask(bytes(post(event(userId))));
    await until(() => w.router.held() === 1, { deadlineMs: 3_000, what: 'it is held' });
    const stopped = w.router.stop();
    await until(() => idle.socket.destroyed, { deadlineMs: 3_000, what: 'the idle connection is closed' });
    await w.handOver('m');
    expect((await answer).headers).toContain('connection: close');
    await stopped;
  });
});

test('10,000 fuzzed bodies: each goes to the owner that a full parse finds, is answered, and leaves nothing behind', {
  timeout: 120_000,
}, async () => {
  const w = await make();
  const wrong: string[] = [];
  for (const node of w.nodes)
    node.misbehave = (_request, response) => {
      const { url, body } = node.requests.pop()!;
      node.bodies.length = 0;
      const understood = understand(url, '', undefined, body);
      if (understood.kind === 'events' && understood.users.every((user) => ownerOf(w, user) !== node.node))
        wrong.push(body);
      response.writeHead(200).end('OK');
      return true;
    };
  const connections = Array.from({ length: 16 }, () => new KeptConnection(w.router.url));
  const statuses = new Map<number, number>();
  const sendSome = async (from: number, to: number): Promise<void> => {
    let seed = from;
    await Promise.all(
      connections.map(async (connection) => {
        while (seed < to) {
          seed += 1;
          const body = fuzzedBody(seed);
          const path = seed % 10 === 0 ? '/v1/batch' : '/v1/track';
          const head = `POST ${path} HTTP/1.1\r\nHost: h\r\nContent-Length: ${body.length}\r\n\r\n`;
          const { status } = await connection.ask(Buffer.concat([bytes(head), body]));
          statuses.set(status, (statuses.get(status) ?? 0) + 1);
          if (status >= 500) throw new Error(`seed ${seed}: ${status}`);
        }
      }),
    );
  };
  await sendSome(0, 2_000);
  const before = heapBytes();
  await sendSome(2_000, 10_000);
  expect([...statuses]).toEqual([[200, 10_000]]);
  expect(wrong).toEqual([]);
  expect(w.router.held()).toBe(0);
  expect(heapBytes() - before).toBeLessThan(8 * 1_024 * 1_024);
  for (const { socket } of connections) socket.destroy();
});

const ownerOf = (world: World, userKey: string): string => world.ring().owners[partitionOf(userKey, 16)]!;

/** What is in use after a collection. */
function heapBytes(): number {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
  return process.memoryUsage().heapUsed;
}
