/** Clients that keep their order, a destination that keeps its books. */

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { checkDelivery, type Delivery } from '../../dev/checker/checker.ts';
import { startSinkProcess } from '../../dev/sink/process.ts';
import { type Sink, STATUS_PROPERTY, startSink } from '../../dev/sink/sink.ts';
import { fileSource, seededSource } from '../../dev/traffic/source.ts';
import { startTraffic } from '../../dev/traffic/traffic.ts';
import { userKeyOf } from '../../ring/partition.ts';
import { until } from '../support/wait.ts';

interface Seen {
  readonly path: string;
  readonly authorization: string | undefined;
  readonly events: { userId: string; anonymousId?: string; messageId: string; properties: unknown }[];
}

/** A gateway that notes who is on its way at once, and answers as `answer` says. */
async function startGateway(answer: (nth: number) => { status: number; afterMs: number } | 'reset') {
  const seen: Seen[] = [];
  const onTheWay = new Set<string>();
  const overlaps: string[] = [];
  const server: Server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    const parsed = JSON.parse(body);
    const events = (parsed.batch ?? [parsed]) as Seen['events'];
    const users = new Set(events.map(userKeyOf));
    for (const user of users) {
      if (onTheWay.has(user)) overlaps.push(user);
      onTheWay.add(user);
    }
    seen.push({ path: request.url!, authorization: request.headers.authorization, events });
    const said = answer(seen.length);
    if (said !== 'reset') await new Promise((resolve) => setTimeout(resolve, said.afterMs));
    for (const user of users) onTheWay.delete(user);
    if (said === 'reset') request.socket.destroy();
    else response.writeHead(said.status).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const stop = async (): Promise<void> => {
    server.closeAllConnections();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  };
  return { url, seen, overlaps, stop };
}

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'ringmaster-traffic-'));
});
afterEach(() => rm(folder, { recursive: true }));

describe('traffic', () => {
  test('a user’s next request comes only after the answer to the last, in order, also when requests fail', async () => {
    let n = 0;
    const gateway = await startGateway(() => {
      n += 1;
      if (n % 10 === 3) return 'reset';
      return { status: n % 10 === 7 ? 503 : 200, afterMs: (n * 7) % 30 };
    });
    const traffic = startTraffic({
      routerUrl: gateway.url,
      writeKey: 'wk',
      source: seededSource(7),
      rate: 1_000,
      logFile: path.join(folder, 'sent.ndjson'),
    });
    await until(() => traffic.acknowledged > 400, { deadlineMs: 10_000, what: 'traffic' });
    await traffic.stop();
    await gateway.stop();
    expect(gateway.overlaps).toEqual([]);
    expect(gateway.seen[0]!.authorization).toBe(`Basic ${Buffer.from('wk:').toString('base64')}`);
    expect(traffic.sent.every((event) => event.status === 200)).toBe(true);
    expect(traffic.clientErrors).toBeGreaterThan(10);
    expect(checkDelivery({ sent: traffic.sent, received: [], faults: [], waitEnded: true }).events.clientErrors).toBe(
      traffic.clientErrors,
    );
    // Each user's events reach the gateway in the order of their seq; a repeat comes before any later one.
    const seqOf = new Map(traffic.sent.map((event) => [event.messageId, event.seq]));
    const last = new Map<string, number>();
    for (const { events } of gateway.seen) {
      for (const event of events) {
        const key = userKeyOf(event);
        const seq = seqOf.get(event.messageId)!;
        expect(seq).toBeGreaterThanOrEqual((last.get(key) ?? 0) - 5); // a whole batch is repeated from its first
        last.set(key, seq);
      }
    }
    const firstSeen = new Map<string, string[]>();
    for (const event of gateway.seen.flatMap((request) => request.events)) {
      const ids = firstSeen.get(userKeyOf(event)) ?? [];
      firstSeen.set(userKeyOf(event), ids);
      if (!ids.includes(event.messageId)) ids.push(event.messageId);
    }
    for (const ids of firstSeen.values()) expect(ids.map((id) => seqOf.get(id))).toEqual(ids.map((_, nth) => nth));
    const shapes = new Set(
      gateway.seen.map(
        ({ path: at, events }) => `${at} ${new Set(events.map(userKeyOf)).size > 1 ? 'mixed' : 'one user'}`,
      ),
    );
    expect(shapes).toEqual(new Set(['/v1/track one user', '/v1/batch one user', '/v1/batch mixed']));
    const logged = (await readFile(path.join(folder, 'sent.ndjson'), 'utf8')).trim().split('\n');
    expect(logged).toHaveLength(traffic.sent.length);
  });

  test('the rate is kept while a slow answer holds a user back', async () => {
    const gateway = await startGateway(() => ({ status: 200, afterMs: 50 }));
    const since = performance.now();
    const made = () => traffic.sent.length + traffic.queued;
    const traffic = startTraffic({ routerUrl: gateway.url, writeKey: 'wk', source: seededSource(1), rate: 500 });
    await until(() => made() > 600, { deadlineMs: 10_000, what: 'a second of traffic' });
    const perSecond = made() / ((performance.now() - since) / 1_000);
    expect(perSecond).toBeGreaterThan(375);
    expect(perSecond).toBeLessThan(625);
    await until(() => traffic.queued > 10, { deadlineMs: 10_000, what: 'a queue: the busiest user’s' });
    await traffic.stop();
    await gateway.stop();
    expect(traffic.sent.every((event) => event.status === 200)).toBe(true);
  });

  test('a 400 is not sent again', async () => {
    const gateway = await startGateway(() => ({ status: 400, afterMs: 0 }));
    const traffic = startTraffic({ routerUrl: gateway.url, writeKey: 'wk', source: seededSource(1), rate: 100 });
    await until(() => traffic.clientErrors > 5, { deadlineMs: 5_000, what: 'errors' });
    await traffic.stop();
    await gateway.stop();
    expect(traffic.sent.every((event) => event.attempts === 1 && event.status === 400)).toBe(true);
  });
});

describe('sources', () => {
  test('the sample of real edits, packed, starts again at its end as new events', async () => {
    const source = await fileSource({
      file: 'test/data/wikipedia-edits-sample.ndjson.gz',
      userField: 'user',
      events: 300,
    });
    const first = await source.next();
    for (let n = 1; n < 300; n += 1) await source.next();
    expect(source.rounds).toBe(0);
    expect(await source.next()).toEqual(first);
    expect(source.rounds).toBe(1);
    source.close();
    expect(first).toMatchObject({ userId: expect.any(String), originalTimestamp: expect.stringMatching(/^2015-/) });
  });

  test.each([
    ['{"user":"a"}\nnot json\n', 'line 2: not JSON'],
    ['{"user":"a"}\n\n{"name":"b"}\n', "line 3: no user in field 'user'"],
    ['', 'no line in it'],
  ])('%j is refused: %s', async (text, message) => {
    const file = path.join(folder, 'in.ndjson');
    await writeFile(file, text);
    await expect(
      (async () => {
        const source = await fileSource({ file, userField: 'user' });
        for (let n = 0; n < 3; n += 1) await source.next();
      })(),
    ).rejects.toThrow(message);
    await expect(fileSource({ file: path.join(folder, 'none'), userField: 'user' })).rejects.toThrow('ENOENT');
  });

  test('made-up users: the same seed the same events, a heavy tail', async () => {
    const [a, b] = [seededSource(5), seededSource(5)];
    const counts = new Map<string, number>();
    for (let n = 0; n < 5_000; n += 1) {
      const [one, other] = [await a.next(), await b.next()];
      expect({ ...one, originalTimestamp: '' }).toEqual({ ...other, originalTimestamp: '' });
      counts.set(one.userId, (counts.get(one.userId) ?? 0) + 1);
    }
    const sorted = [...counts.values()].sort((x, y) => y - x);
    expect(sorted[0]! / 5_000).toBeGreaterThan(0.05);
    expect(counts.size).toBeGreaterThan(500);
  });
});

describe('the sink', () => {
  let sink: Sink;
  afterEach(() => sink?.stop());
  const post = (messageId: string, properties: object = {}, signal?: AbortSignal) =>
    fetch(`${sink.url}/events`, {
      method: 'POST',
      headers: { 'ringmaster-node': 'node-1' },
      body: JSON.stringify({ messageId, userId: 'u', properties }),
      ...(signal ? { signal } : {}),
    });

  test('takes its time, writes down what began and what was answered', async () => {
    const logFile = path.join(folder, 'deliveries.ndjson');
    sink = await startSink({ destinationMs: 60, logFile });
    const before = performance.now();
    expect((await post('a')).status).toBe(200);
    expect(performance.now() - before).toBeGreaterThan(55);
    expect((await post('b', { [STATUS_PROPERTY]: 400 })).status).toBe(400);
    const leaving = new AbortController();
    const cut = post('c', {}, leaving.signal).catch(() => null);
    await until(() => sink.stats().inFlight === 1, { deadlineMs: 2_000, what: 'in flight' });
    leaving.abort();
    await cut;
    await until(() => sink.stats().inFlight === 0, { deadlineMs: 2_000, what: 'over' });
    expect(sink.stats()).toMatchObject({ received: 3, delivered: 1, aborted: 1, inFlight: 0 });
    expect(sink.deliveries).toMatchObject([
      { messageId: 'a', userKey: '<<>><<>>u', node: 'node-1', status: 200, answeredAt: expect.any(Number) },
      { messageId: 'b', status: 400 },
      { messageId: 'c', status: null, answeredAt: null },
    ]);
    await sink.stop();
    const lines = (await readFile(logFile, 'utf8'))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines.filter((line) => line.began)).toHaveLength(3);
    expect(lines.filter((line) => line.answered)).toHaveLength(2);
  });

  test('fails one in N', async () => {
    sink = await startSink({ destinationMs: 0, failOneIn: 3 });
    const statuses: number[] = [];
    for (let n = 0; n < 6; n += 1) statuses.push((await post(`m${n}`)).status);
    expect(statuses).toEqual([200, 200, 500, 200, 200, 500]);
  });

  test('as a process: stats, deliveries, another delay', async () => {
    const process = await startSinkProcess({ destinationMs: 0 });
    try {
      await fetch(`${process.url}/x`, { method: 'POST', body: JSON.stringify({ messageId: 'a', userId: 'u' }) });
      await process.setDestinationMs(30);
      expect(await process.stats()).toMatchObject({ received: 1, delivered: 1, destinationMs: 30 });
      expect((await process.deliveries()).map((delivery: Delivery) => delivery.messageId)).toEqual(['a']);
    } finally {
      await process.stop();
    }
    await expect(fetch(process.url)).rejects.toThrow();
  });
});
