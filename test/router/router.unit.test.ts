/**
 * Goal: the router sends a user's events to the owner, holds and resends only what was not stored, and keeps each user's order.
 * Method: a real router and real HTTP nodes in this process, a ring store in memory, moves made by hand.
 */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { pino } from 'pino';
import { afterEach, describe, expect, test } from 'vitest';
import { followRing } from '../../ringstore/view.ts';
import type { RouterLimits } from '../../router/limits.ts';
import { keepRingFile, readRingFile } from '../../router/ring-file.ts';
import { startRouter } from '../../router/server.ts';
import { certificateFor } from '../support/certificate.ts';
import { until } from '../support/wait.ts';
import { startWorld, type World } from './harness.ts';

let world: World;
const make = async (limits?: Partial<RouterLimits>, nodes?: number): Promise<World> => {
  world = await startWorld({ ...(limits ? { limits } : {}), ...(nodes ? { nodes } : {}) });
  return world;
};
afterEach(() => world?.end());
const idsAt = (n: number): string[] => world.nodes[n]!.stored.map((event) => event.messageId);
const heldUntil = (n: number) => until(() => world.router.held() === n, { deadlineMs: 3_000, what: `${n} held` });

describe('forwarding', () => {
  test('a request goes to the owner as it came, with the client in X-Forwarded-For and without hop-by-hop headers', async () => {
    const w = await make();
    const userId = w.userOf('node-1');
    const answer = await w.post('/v1/track?x=1', `{ "userId": "${userId}",  "n": 12345678901234567890 }`, {
      headers: { 'x-custom': 'kept', 'x-forwarded-for': '10.0.0.1' },
    });
    expect([answer.status, await answer.text()]).toEqual([200, 'OK']);
    expect(w.nodes[0]!.requests).toEqual([]);
    const [seen] = w.nodes[1]!.requests;
    expect(seen).toMatchObject({
      method: 'POST',
      url: '/v1/track?x=1',
      body: `{ "userId": "${userId}",  "n": 12345678901234567890 }`,
    });
    expect(seen!.headers).toMatchObject({
      'x-custom': 'kept',
      authorization: 'Basic d2s6',
      'x-forwarded-for': '10.0.0.1, 127.0.0.1',
    });
  });

  test('the AnonymousId header counts for the owner, and so does a compressed body', async () => {
    const w = await make();
    for (let n = 0; n < 20; n += 1) {
      const answer = await w.post(
        '/v1/track',
        { userId: 'u', messageId: `${n}` },
        { headers: { anonymousid: `anon-${n}` } },
      );
      expect(answer.status).toBe(200);
    }
    expect(w.nodes.map((node) => node.refusals)).toEqual([0, 0]);
    expect(w.nodes.every((node) => node.stored.length > 0)).toBe(true);
    const body = gzipSync(JSON.stringify({ userId: w.userOf('node-1') }));
    w.nodes[1]!.misbehave = (_request, response) => Boolean(response.writeHead(200).end('zipped'));
    const answer = await fetch(`${w.router.url}/v1/track`, {
      method: 'POST',
      headers: { 'content-encoding': 'gzip' },
      body,
    });
    expect(await answer.text()).toBe('zipped');
  });

  test('what it cannot understand is for a node to refuse; what is no event path is not forwarded', async () => {
    const w = await make();
    expect(await w.post('/v1/track', '{ not json').then((a) => [a.status])).toEqual([400]);
    expect((await w.post('/v1/batch', { batch: [{ userId: 'a' }, {}] })).status).toBe(400);
    const before = w.nodes.flatMap((node) => node.requests).length;
    for (const url of ['/control/v1/status', '/v1', '/v1/%2e%2e/control/v1/fence', '/v1//x', '/v2/track']) {
      expect((await w.post(url, { userId: 'a' })).status).toBe(404);
    }
    expect(w.nodes.flatMap((node) => node.requests).length).toBe(before);
  });

  test('a body over the limit gets 413, announced or not', async () => {
    const w = await make({ bodyBytesMax: 1_000 });
    expect((await w.post('/v1/track', { userId: 'a', text: 'x'.repeat(1_000) })).status).toBe(413);
    const stream = new ReadableStream({
      pull(controller) {
        controller.enqueue(new Uint8Array(600));
        if (Math.random() < 0.2) controller.close();
      },
    });
    const chunked = { method: 'POST', body: stream, duplex: 'half' } as RequestInit;
    expect([413, 400]).toContain((await fetch(`${w.router.url}/v1/track`, chunked)).status);
  });

  test('paths without a user go round all members', async () => {
    const w = await make();
    for (const node of w.nodes)
      node.misbehave = (_request, response) => Boolean(response.writeHead(200).end(node.node));
    const answers = await Promise.all([1, 2].map(() => fetch(`${w.router.url}/v1/sourceConfig`).then((a) => a.text())));
    expect(answers.sort()).toEqual(['node-0', 'node-1']);
  });
});

describe('a batch with users of several nodes', () => {
  const batchOf = (w: World) => {
    const [a, b] = [w.userOf('node-0'), w.userOf('node-1')];
    return `{"sentAt":"t", "batch": [ {"userId":"${a}","messageId":"1","n":9007199254740993}, {"userId":"${b}","name":"Zoë 🦊"} ,{"userId":"${a}","messageId":"3"}], "x": [1]}`;
  };

  test('is split, each event as it was written, in order, with a messageId', async () => {
    const w = await make();
    expect((await w.post('/v1/batch', batchOf(w))).status).toBe(200);
    expect(idsAt(0)).toEqual(['1', '3']);
    expect(idsAt(1)).toEqual([expect.stringMatching(/^[0-9a-f-]{36}$/)]);
    expect(w.nodes[0]!.requests[0]!.body).toContain('"n":9007199254740993');
    expect(JSON.parse(w.nodes[1]!.requests[0]!.body)).toMatchObject({ sentAt: 't', x: [1] });
    expect(w.nodes[1]!.requests[0]!.body).toContain('"name":"Zoë 🦊"');
  });

  test('is answered with an error that tells which events, when one part is not stored', async () => {
    const w = await make();
    w.nodes[1]!.misbehave = (_request, response) => Boolean(response.writeHead(503).end('no'));
    const answer = await w.post('/v1/batch', batchOf(w));
    expect(answer.status).toBe(503);
    expect(await answer.json()).toMatchObject({
      error: 'PARTLY_STORED',
      parts: [
        { events: [0, 2], status: 200 },
        { events: [1], status: 503 },
      ],
    });
  });

  test('of one node is split only when a hand-over has parted its users meanwhile', async () => {
    const w = await make();
    const users = Array.from({ length: 12 }, (_, n) => w.userOf('node-0', n));
    const moved = [w.partitionOfUser(users[0]!)];
    await w.startMove('m', 'node-0', 'node-1', moved);
    w.fence('m');
    const answer = w.post('/v1/batch', { batch: users.map((userId, n) => ({ userId, messageId: `${n}` })) });
    await heldUntil(1);
    await w.handOver('m');
    expect((await answer).status).toBe(200);
    expect(idsAt(1).length).toBeGreaterThan(0);
    expect([...idsAt(0), ...idsAt(1)].sort()).toEqual(users.map((_, n) => `${n}`).sort());
    expect(w.router.held()).toBe(0);
  });
});

describe('a hold', () => {
  test.each(['hand-over', 'abort'])(
    'lasts until the %s, keeps the order of each user, and is told in one line',
    async (end) => {
      const w = await make();
      const userId = w.userOf('node-0');
      const partition = w.partitionOfUser(userId);
      await w.startMove('m', 'node-0', 'node-1', [partition]);
      w.fence('m');
      const answers: Promise<Response>[] = [];
      for (let n = 0; n < 20; n += 1) {
        answers.push(w.track(userId, `${n}`));
        await heldUntil(n + 1);
      }
      expect(w.nodes[0]!.refusals).toBe(1); // those behind the first did not bother the node
      if (end === 'abort') await w.abort('m');
      else await w.handOver('m');
      expect((await Promise.all(answers)).map((a) => a.status)).toEqual(Array(20).fill(200));
      expect(idsAt(end === 'abort' ? 0 : 1)).toEqual(Array.from({ length: 20 }, (_, n) => `${n}`));
      const line = w.lines.find((l) => l['msg'] === 'hold ended')!;
      expect(line).toMatchObject({
        move: 'm',
        partition,
        partitions: [partition],
        held: 20,
        outcome: end === 'abort' ? 'aborted' : 'handed over',
      });
      expect(line['waitsMs']).toHaveLength(20);
      expect(w.router.held()).toBe(0);
    },
  );

  test('leaves other partitions alone', async () => {
    const w = await make();
    const held = w.userOf('node-0');
    await w.startMove('m', 'node-0', 'node-1', [w.partitionOfUser(held)]);
    w.fence('m');
    const answer = w.track(held, 'held');
    await heldUntil(1);
    const other = Array.from({ length: 50 }, (_, n) => w.userOf('node-0', n)).find(
      (u) => w.partitionOfUser(u) !== w.partitionOfUser(held),
    )!;
    expect((await w.track(other, 'other')).status).toBe(200);
    await w.abort('m');
    expect((await answer).status).toBe(200);
  });

  test('goes on while the target has not seen the hand-over, with one request trying at a time', async () => {
    const w = await make();
    const userId = w.userOf('node-0');
    await w.startMove('m', 'node-0', 'node-1', [w.partitionOfUser(userId)]);
    w.fence('m');
    const old = w.ring();
    w.nodes[1]!.seen = () => old;
    const users = Array.from({ length: 400 }, (_, n) => w.userOf('node-0', n)).filter(
      (user) => w.partitionOfUser(user) === w.partitionOfUser(userId),
    );
    const answers = Array.from({ length: 30 }, (_, n) => w.track(users[n % users.length]!, `${n}`));
    await heldUntil(30);
    await w.handOver('m');
    await until(() => w.nodes[1]!.refusals >= 3, { deadlineMs: 2_000, what: 'the target refuses a few times' });
    expect(w.nodes[1]!.refusals).toBeLessThan(10);
    w.nodes[1]!.seen = () => w.ring();
    expect((await Promise.all(answers)).every((a) => a.status === 200)).toBe(true);
    expect(new Set(idsAt(1)).size).toBe(30);
    expect(w.nodes[0]!.stored).toEqual([]);
  });

  test('passes from an aborted move to the next try without a request in between', async () => {
    const w = await make();
    const userId = w.userOf('node-0');
    const partition = w.partitionOfUser(userId);
    await w.startMove('m.1', 'node-0', 'node-1', [partition]);
    w.fence('m.1');
    const answer = w.track(userId, 'a');
    await heldUntil(1);
    const source = w.nodes[0]!;
    await w.decide({ type: 'abort move', move: 'm.1', because: 'test' });
    await w.startMove('m.2', 'node-0', 'node-1', [partition]);
    source.fences.set(partition, 'm.2');
    await until(() => source.refusals >= 2, { deadlineMs: 2_000, what: 'the next fence is met' });
    expect(source.stored).toEqual([]);
    await w.handOver('m.2');
    expect((await answer).status).toBe(200);
    expect(w.lines.filter((l) => l['msg'] === 'hold ended').map((l) => [l['move'], l['outcome']])).toEqual([
      ['m.1', 'aborted'],
      ['m.2', 'handed over'],
    ]);
  });

  test('is followed by one request of each user at a time, of different users at once', async () => {
    const w = await make();
    const userId = w.userOf('node-0');
    const partition = w.partitionOfUser(userId);
    const other = Array.from({ length: 200 }, (_, n) => w.userOf('node-0', n)).find(
      (user) => user !== userId && w.partitionOfUser(user) === partition,
    )!;
    await w.startMove('m', 'node-0', 'node-1', [partition]);
    w.fence('m');
    const target = w.nodes[1]!;
    const onTheWay: string[] = [];
    let most = 0;
    target.misbehave = async () => {
      const user = (JSON.parse(target.requests.at(-1)!.body) as { userId: string }).userId;
      onTheWay.push(user);
      expect(onTheWay.filter((one) => one === user)).toHaveLength(1);
      most = Math.max(most, onTheWay.length);
      await new Promise((resolve) => setTimeout(resolve, 20));
      onTheWay.splice(onTheWay.indexOf(user), 1);
      return false;
    };
    const answers: Promise<Response>[] = [];
    for (let n = 0; n < 8; n += 1) {
      answers.push(w.track(n % 2 === 0 ? userId : other, `${n}`));
      await heldUntil(n + 1);
    }
    await w.handOver('m');
    expect((await Promise.all(answers)).map((a) => a.status)).toEqual(Array(8).fill(200));
    expect(target.requests).toHaveLength(8);
    expect(most).toBe(2);
  });

  test('of a batch holds the later requests of its users, also those of other partitions, and nobody else', async () => {
    const w = await make();
    const users = Array.from({ length: 60 }, (_, n) => w.userOf('node-0', n));
    const [held] = users as [string];
    const open = users.filter((user) => w.partitionOfUser(user) !== w.partitionOfUser(held));
    const [inBatch] = open as [string];
    const notInBatch = open.find((user) => user !== inBatch && w.partitionOfUser(user) === w.partitionOfUser(inBatch))!;
    await w.startMove('m', 'node-0', 'node-1', [w.partitionOfUser(held)]);
    w.fence('m');
    const batch = w.post('/v1/batch', {
      batch: [
        { userId: held, messageId: '1' },
        { userId: inBatch, messageId: '2' },
      ],
    });
    await heldUntil(1);
    const later = w.track(inBatch, '3');
    await heldUntil(2);
    expect((await w.track(notInBatch, 'free')).status).toBe(200);
    await w.abort('m');
    expect([(await batch).status, (await later).status]).toEqual([200, 200]);
    expect(idsAt(0)).toEqual(['free', '1', '2', '3']);
  });

  test('that nobody ends is over after holdMs: 503 with Retry-After', async () => {
    const w = await make({ holdMs: 200 });
    const userId = w.userOf('node-0');
    await w.startMove('m', 'node-0', 'node-1', [w.partitionOfUser(userId)]);
    w.fence('m');
    const answer = await w.track(userId, 'a');
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([503, '1']);
    expect(await answer.json()).toMatchObject({ error: 'HOLD_TIMEOUT' });
  });

  test('ends by a try of its own when the router cannot read the end in the log', async () => {
    const w = await make({ probeEveryMs: 100 });
    const userId = w.userOf('node-0');
    await w.startMove('m', 'node-0', 'node-1', [w.partitionOfUser(userId)]);
    await w.view.waitFor((ring) => ring.version === w.ring().version, { deadlineMs: 1_000 });
    w.fence('m');
    const answer = w.track(userId, 'a');
    await heldUntil(1);
    w.store.fail(new Error('the ring store is down'));
    w.nodes[0]!.fences.clear(); // the node, whose own connection lives, has seen the abort
    expect((await answer).status).toBe(200);
    w.store.fail(null);
  });

  test.each([
    ['requests', { heldRequestsMax: 2 }],
    ['bytes', { heldBytesMax: 150 }],
  ] as const)('has a bound on %s: one more gets 503', async (_what, limits) => {
    const w = await make(limits);
    const userId = w.userOf('node-0');
    await w.startMove('m', 'node-0', 'node-1', [w.partitionOfUser(userId)]);
    w.fence('m');
    const held = [w.track(userId, 'a'), w.track(userId, 'b')];
    await heldUntil(2);
    const answer = await w.track(userId, 'c'.repeat(50));
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([503, '1']);
    expect(await answer.json()).toMatchObject({ error: 'HOLD_FULL' });
    await w.handOver('m');
    expect((await Promise.all(held)).map((a) => a.status)).toEqual([200, 200]);
  });

  test('drops a request whose client has gone', async () => {
    const w = await make();
    const userId = w.userOf('node-0');
    await w.startMove('m', 'node-0', 'node-1', [w.partitionOfUser(userId)]);
    w.fence('m');
    const leaving = new AbortController();
    const left = w.track(userId, 'left', leaving.signal).catch(() => null);
    await heldUntil(1);
    const stays = w.track(userId, 'stays');
    await heldUntil(2);
    leaving.abort();
    await left;
    await heldUntil(1);
    await w.handOver('m');
    expect((await stays).status).toBe(200);
    expect(idsAt(1)).toEqual(['stays']);
  });

  test('a stop lets what is held have its answer', async () => {
    const w = await make();
    const userId = w.userOf('node-0');
    await w.startMove('m', 'node-0', 'node-1', [w.partitionOfUser(userId)]);
    w.fence('m');
    const answer = w.track(userId, 'a');
    await heldUntil(1);
    const stopped = w.router.stop();
    const refuses = () =>
      fetch(`${w.router.url}/health`).then(
        () => false,
        () => true,
      );
    await until(refuses, { deadlineMs: 3_000, what: 'it takes nobody any more' });
    await w.handOver('m');
    expect((await answer).status).toBe(200);
    await stopped;
  });
});

describe('what is sent again', () => {
  test('not-owner from a node that is ahead: waits for that version and sends to the new owner', async () => {
    const w = await make();
    const userId = w.userOf('node-0');
    await w.startMove('m', 'node-0', 'node-1', [w.partitionOfUser(userId)]);
    const { version } = w.ring();
    await w.view.waitFor((ring) => ring.version === version, { deadlineMs: 1_000 });
    // The router's connection lags: the nodes have seen the hand-over, it has not.
    let release = (): void => {};
    const lag = new Promise<void>((resolve) => {
      release = resolve;
    });
    const read = w.store.read.bind(w.store);
    w.store.read = async (...args) => {
      if ((args[1] ?? 0) >= version) await lag;
      return read(...args);
    };
    const ahead = {
      ...w.ring(),
      version: version + 1,
      epoch: 2,
      owners: w.ring().owners.map((o, p) => (p === w.partitionOfUser(userId) ? 'node-1' : o)),
    };
    for (const node of w.nodes) node.seen = () => ahead;
    const answer = w.track(userId, 'a');
    await heldUntil(1);
    w.store.read = read;
    await w.handOver('m');
    release();
    expect((await answer).status).toBe(200);
    expect(idsAt(1)).toEqual(['a']);
    expect(w.nodes[0]!.refusals).toBe(1);
  });

  test('a node that cannot be reached: held until it is back', async () => {
    const w = await make();
    await w.nodes[0]!.stop();
    const userId = w.userOf('node-0');
    const answers = Array.from({ length: 5 }, (_, n) => w.track(userId, `${n}`));
    await heldUntil(5);
    await w.nodes[0]!.start();
    expect((await Promise.all(answers)).map((a) => a.status)).toEqual(Array(5).fill(200));
    expect(new Set(idsAt(0)).size).toBe(5);
  });

  test('a connection that breaks after the request was sent: 502, and never again', async () => {
    const w = await make();
    const userId = w.userOf('node-0');
    w.nodes[0]!.misbehave = (request) => Boolean(request.socket.destroy());
    const answer = await w.track(userId, 'a');
    expect(answer.status).toBe(502);
    expect(await answer.json()).toMatchObject({ error: 'OUTCOME_UNKNOWN' });
    expect(w.nodes[0]!.requests).toHaveLength(1);
  });

  test('a node that gives no answer in time: 502, and never again', async () => {
    const w = await make({ nodeTimeoutMs: 300 });
    w.nodes[0]!.misbehave = () => new Promise(() => {});
    expect((await w.track(w.userOf('node-0'), 'a')).status).toBe(502);
    expect(w.nodes[0]!.requests).toHaveLength(1);
  });

  test('a refusal that is about another partition than was sent: another node may take it, and nobody else waits', async () => {
    const w = await make();
    const userId = w.userOf('node-0');
    const other = Array.from({ length: 16 }, (_, p) => p).find((p) => w.ring().owners[p] === 'node-1')!;
    const source = w.nodes[0]!;
    source.misbehave = (request, response) => {
      if (!source.requests.at(-1)!.body.includes('odd')) return false;
      response.setHeader('ringmaster-state', 'not-owner').setHeader('ringmaster-version', w.ring().version);
      response.writeHead(421).end(JSON.stringify({ error: 'not-owner', partitions: [other] }));
      return request.complete;
    };
    w.nodes[1]!.misbehave = (_request, response) => Boolean(response.writeHead(200).end('mine'));
    const [odd, plain] = await Promise.all([w.track(userId, 'odd'), w.track(userId, 'plain')]);
    expect([await odd.text(), plain.status, w.router.held()]).toEqual(['mine', 200, 0]);
  });

  test('many moves under concurrent clients: each event stored once, each user in order, no client sees an error', async () => {
    const w = await make({}, 3);
    let running = true;
    const sent = new Map<string, string[]>();
    const clients = Array.from({ length: 40 }, async (_, n) => {
      const userId = `client-${n}`;
      const acknowledged: string[] = [];
      sent.set(userId, acknowledged);
      for (let seq = 0; running; seq += 1) {
        const mixed = seq % 5 === 4;
        const events = mixed
          ? [
              { userId, messageId: `${userId}/${seq}` },
              { userId: `${userId}-b`, messageId: `${userId}-b/${seq}` },
            ]
          : [{ userId, messageId: `${userId}/${seq}` }];
        const answer = await w.post('/v1/batch', { batch: events });
        expect(answer.status).toBe(200);
        await answer.arrayBuffer();
        for (const event of events) if (event.userId === userId) acknowledged.push(event.messageId);
      }
    });
    for (let n = 0; n < 30; n += 1) {
      const partition = n % 16;
      const from = w.ring().owners[partition]!;
      const to = `node-${(Number(from.at(-1)) + 1) % 3}`;
      await w.startMove(`m${n}`, from, to, [partition]);
      w.fence(`m${n}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
      if (n % 4 === 3) await w.abort(`m${n}`);
      else {
        await w.handOver(`m${n}`);
        await w.decide({ type: 'complete move', move: `m${n}`, certificate: certificateFor(w.ring(), `m${n}`) });
      }
    }
    running = false;
    await Promise.all(clients);
    const stored = w.nodes.flatMap((node) => node.stored);
    expect(new Set(stored.map((event) => event.messageId)).size).toBe(stored.length);
    for (const [userId, acknowledged] of sent) {
      // Nodes store in the order of their answers: within one node the order is the user's.
      for (const node of w.nodes) {
        const seqs = node.stored
          .filter((event) => event.userKey.endsWith(`>>${userId}`))
          .map((event) => Number(event.messageId.split('/')[1]));
        expect(seqs).toEqual([...seqs].sort((a, b) => a - b));
      }
      expect(stored.filter((event) => event.userKey.endsWith(`>>${userId}`))).toHaveLength(acknowledged.length);
    }
    expect(w.router.held()).toBe(0);
  });
});

describe('without the ring store', () => {
  test('a starting router serves from its ring file', async () => {
    const w = await make();
    const log = pino({ level: 'silent' });
    const folder = await mkdtemp(path.join(tmpdir(), 'ringmaster-router-'));
    const file = path.join(folder, 'state', 'ring.json');
    try {
      expect(await readRingFile(file, 'demo', log)).toBeNull();
      await keepRingFile(file, w.view, log)();
      w.store.fail(new Error('the ring store is down'));
      const initial = await readRingFile(file, 'demo', log);
      const view = followRing(w.store, 'demo', { log, initial: initial! });
      const router = await startRouter({ view, log });
      const answer = await fetch(`${router.url}/v1/track`, {
        method: 'POST',
        body: JSON.stringify({ userId: w.userOf('node-1') }),
      });
      expect(answer.status).toBe(200);
      expect(await (await fetch(`${router.url}/ready`)).json()).toMatchObject({ ready: true, version: 1, epoch: 1 });
      expect(await (await fetch(`${router.url}/metrics`)).text()).toContain('ringmaster_router_ring_version 1');
      await router.stop();
      await view.close();
      expect(await readRingFile(file, 'other', log)).toBeNull();
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test('a router that is started before there is a ring keeps the first one that it sees', async () => {
    const w = await make();
    const log = pino({ level: 'silent' });
    const folder = await mkdtemp(path.join(tmpdir(), 'ringmaster-router-'));
    const file = path.join(folder, 'ring.json');
    try {
      const view = followRing(w.store, 'demo', { log });
      expect(view.ring.version).toBe(0);
      const stop = keepRingFile(file, view, log);
      const kept = await until(() => readRingFile(file, 'demo', log), { deadlineMs: 3_000, what: 'a ring file' });
      expect(kept.ring.version).toBe(1);
      await stop();
      await view.close();
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test('the ring file ends before an event of a newer version: an upgraded router reads that from the store', async () => {
    const w = await make();
    const log = pino({ level: 'silent' });
    const folder = await mkdtemp(path.join(tmpdir(), 'ringmaster-router-'));
    const file = path.join(folder, 'ring.json');
    try {
      const stop = keepRingFile(file, w.view, log);
      await until(() => readRingFile(file, 'demo', log), { deadlineMs: 3_000, what: 'a ring file' });
      await w.store.append('demo', 1, [{ type: 'moon landed' }] as never, {
        actor: 'newer',
        reason: 'test',
        operation: null,
      });
      await w.view.waitFor((ring) => ring.version === 2, { deadlineMs: 3_000 });
      await stop();
      expect((await readRingFile(file, 'demo', log))?.ring.version).toBe(1);
      // Meanwhile it serves on what it has understood, and says so.
      expect((await w.track(w.userOf('node-1'), 'm')).status).toBe(200);
      expect(await (await fetch(`${w.router.url}/ready`)).json()).toMatchObject({
        ready: true,
        version: 2,
        notUnderstood: ['moon landed'],
      });
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test('a router that has never seen a ring is not ready and says so', async () => {
    const w = await make();
    const log = pino({ level: 'silent' });
    const view = followRing(w.store, 'unknown', { log });
    const router = await startRouter({ view, log });
    expect((await fetch(`${router.url}/ready`)).status).toBe(503);
    expect((await fetch(`${router.url}/health`)).status).toBe(200);
    const answer = await fetch(`${router.url}/v1/track`, { method: 'POST', body: '{"userId":"u"}' });
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([503, '1']);
    await router.stop();
    await view.close();
  });
});
