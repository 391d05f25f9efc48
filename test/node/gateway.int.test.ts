import { createHash } from 'node:crypto';
import { connect } from 'node:net';
import { gzipSync } from 'node:zlib';
import { request } from 'undici';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { until } from '../support/wait.ts';
import { basic, CONTROL_TOKEN, post, startTestNode, type TestNode } from './support.ts';

let database: TestDatabase;
let node: TestNode;
beforeAll(async () => {
  database = await createTestDatabase();
  node = await startTestNode(database.url, []);
});
afterAll(async () => {
  await node?.stop();
  await database?.drop();
});

const event = (messageId: string, more: object = {}): object => ({ type: 'track', userId: 'anna', messageId, ...more });

async function stored(
  messageId: string,
): Promise<{ payload: string; user_id: string; partition_id: string; parameters: Record<string, string> } | undefined> {
  const rows = await node.session.pool.query(
    "SELECT event_payload::text AS payload, user_id, partition_id, parameters FROM gw_jobs_1 WHERE parameters ->> 'message_id' = $1",
    [messageId],
  );
  return rows.rows[0];
}

describe('the gateway answers', () => {
  test.each(['track', 'identify', 'page', 'screen', 'group', 'alias', 'merge'])(
    '200 OK to a %s, which is stored with that type',
    async (type) => {
      const answer = await post(node.gatewayUrl, `/v1/${type}`, { userId: 'anna', messageId: `one-${type}` });
      expect([answer.status, answer.text]).toEqual([200, 'OK']);
      expect(JSON.parse((await stored(`one-${type}`))!.payload)).toMatchObject({ type, userId: 'anna' });
    },
  );

  test('200 to a batch of several users, one job each, in its order', async () => {
    const batch = ['x', 'y', 'z'].map((userId, n) => event(`batch-${n}`, { userId }));
    expect((await post(node.gatewayUrl, '/v1/batch', { batch, sentAt: '2026-01-01T00:00:00Z' })).status).toBe(200);
    const rows = await node.session.pool.query(
      "SELECT user_id FROM gw_jobs_1 WHERE parameters ->> 'message_id' LIKE 'batch-%' ORDER BY job_id",
    );
    expect(rows.rows.map((row) => row.user_id)).toEqual(['<<>><<>>x', '<<>><<>>y', '<<>><<>>z']);
  });

  test('200 to a gzip body', async () => {
    const body = gzipSync(JSON.stringify({ batch: [event('gzip')] }));
    expect((await post(node.gatewayUrl, '/v1/batch', body, { 'content-encoding': 'gzip' })).status).toBe(200);
    expect(await stored('gzip')).toBeDefined();
  });

  test('401 to a wrong or missing write key, and stores nothing', async () => {
    expect(
      (await post(node.gatewayUrl, '/v1/track', event('wrong-key'), { authorization: basic('other') })).status,
    ).toBe(401);
    const response = await request(`${node.gatewayUrl}/v1/track`, {
      method: 'POST',
      body: JSON.stringify(event('wrong-key')),
    });
    expect(response.statusCode).toBe(401);
    await response.body.dump();
    expect(await stored('wrong-key')).toBeUndefined();
  });

  test.each([
    ['invalid JSON', '{"batch": ['],
    ['a body that is no object', '[]'],
    ['an empty batch', { batch: [] }],
    ['no batch at all', {}],
    ['a batch that is no array', { batch: { userId: 'anna' } }],
    ['an event that is no object', { batch: ['anna'] }],
    ['an event without any user id', { batch: [event('good-one'), { type: 'track', messageId: 'nobody' }] }],
    [
      'nesting that PostgreSQL cannot hold',
      `{"batch":[{"userId":"anna","messageId":"deep","a":${'['.repeat(20_000)}${']'.repeat(20_000)}}]}`,
    ],
  ])('400 to %s', async (_what, body) => {
    expect((await post(node.gatewayUrl, '/v1/batch', body)).status).toBe(400);
    expect(await stored('good-one')).toBeUndefined();
  });

  test('400 to what is not gzip although it says so', async () => {
    expect((await post(node.gatewayUrl, '/v1/batch', 'no gzip', { 'content-encoding': 'gzip' })).status).toBe(400);
  });

  test('an AnonymousId header is a user id, and the first part of the user key', async () => {
    expect((await post(node.gatewayUrl, '/v1/track', { messageId: 'header' }, { AnonymousId: 'h-1' })).status).toBe(
      200,
    );
    expect((await stored('header'))!.user_id).toBe('h-1<<>><<>>');
  });

  test('413 to a body over the limit: announced, chunked, or after decompression', async () => {
    const large = { batch: [event('large', { text: 'x'.repeat(4_100 * 1024) })] };
    expect((await post(node.gatewayUrl, '/v1/batch', large)).status).toBe(413);
    expect(
      (await post(node.gatewayUrl, '/v1/batch', gzipSync(JSON.stringify(large)), { 'content-encoding': 'gzip' }))
        .status,
    ).toBe(413);
    expect(await chunkedStatus(JSON.stringify(large))).toBe('HTTP/1.1 413 Payload Too Large');
    expect(await stored('large')).toBeUndefined();
  });

  test('200 to a body just below the limit', async () => {
    expect(
      (await post(node.gatewayUrl, '/v1/batch', { batch: [event('nearly', { text: 'x'.repeat(3_990 * 1024) })] }))
        .status,
    ).toBe(200);
  });

  test('404 to another path, 405 to another method', async () => {
    expect((await post(node.gatewayUrl, '/v1/other', {})).status).toBe(404);
    const got = await request(`${node.gatewayUrl}/v1/track`);
    expect(got.statusCode).toBe(405);
    await got.body.dump();
  });
});

describe('an event is stored as it was sent', () => {
  test('numbers that a double cannot hold keep all their digits', async () => {
    await post(
      node.gatewayUrl,
      '/v1/track',
      '{"userId":"anna","messageId":"numbers","big":12345678901234567890,"small":0.12345678901234567890123}',
    );
    const { payload } = (await stored('numbers'))!;
    expect(payload).toContain('12345678901234567890');
    expect(payload).toContain('0.12345678901234567890123');
  });

  test('NUL and lone surrogates, which PostgreSQL cannot hold, are taken out; its neighbours are stored', async () => {
    const batch = [
      event('nul-1', { text: 'a\0b', '\0k': 1 }),
      event('nul-2', { text: 'ok \\u0000', userId: '\ud800x' }),
      event('nul-3'),
    ];
    expect((await post(node.gatewayUrl, '/v1/batch', { batch })).status).toBe(200);
    expect(JSON.parse((await stored('nul-1'))!.payload)).toMatchObject({ text: 'ab', k: 1 });
    expect(JSON.parse((await stored('nul-2'))!.payload)).toMatchObject({ text: 'ok \\u0000' });
    expect(await stored('nul-3')).toBeDefined();
  });

  test('a number as user id counts as its text; an event without messageId gets one', async () => {
    expect((await post(node.gatewayUrl, '/v1/track', { userId: 4711 })).status).toBe(200);
    const rows = await node.session.pool.query("SELECT event_payload FROM gw_jobs_1 WHERE user_id = '<<>><<>>4711'");
    expect(rows.rows[0].event_payload.messageId).toMatch(/^[0-9a-f-]{36}$/);
  });

  test('a messageId that is long or not printable is known by its hash, and stays as it is in the event', async () => {
    const messageId = `${'ä'.repeat(3_000)}\n`;
    expect((await post(node.gatewayUrl, '/v1/track', event(messageId))).status).toBe(200);
    expect((await post(node.gatewayUrl, '/v1/track', event(messageId))).status).toBe(200);
    const key = `sha256:${createHash('sha256').update(messageId.trim()).digest('hex')}`;
    expect(JSON.parse((await stored(key))!.payload)).toMatchObject({ messageId });
  });
});

describe('health and control', () => {
  test('GET /health and /ready say how it is', async () => {
    const health = await request(`${node.gatewayUrl}/health`);
    expect(health.statusCode).toBe(200);
    expect(await health.body.json()).toMatchObject({
      server: 'UP',
      db: 'UP',
      delivery: 'ok',
      node: 'node-0',
      ringVersion: 7,
    });
    const ready = await request(`${node.gatewayUrl}/ready`);
    expect(ready.statusCode).toBe(200);
    await ready.body.dump();
  });

  test('the control API wants its token, and gives status and metrics', async () => {
    const ask = async (path: string, token: string): Promise<[number, string]> => {
      const response = await request(`${node.controlUrl}${path}`, { headers: { authorization: `Bearer ${token}` } });
      return [response.statusCode, await response.body.text()];
    };
    expect((await ask('/control/v1/status', 'wrong'))[0]).toBe(401);
    expect((await ask('/metrics', 'wrong'))[0]).toBe(401);
    const [status, body] = await ask('/control/v1/status', CONTROL_TOKEN);
    expect([status, JSON.parse(body)]).toMatchObject([200, { node: 'node-0', serving: true }]);
    const [, metrics] = await ask('/metrics', CONTROL_TOKEN);
    expect(metrics).toMatch(/ringmaster_node_events_accepted_total\{node="node-0"\} \d+/);
    expect(metrics).toContain('ringmaster_node_ring_version{node="node-0"} 7');
  });

  test('a command with a bad body is refused by name', async () => {
    const response = await request(`${node.controlUrl}/control/v1/fence`, {
      method: 'POST',
      headers: { authorization: `Bearer ${CONTROL_TOKEN}`, 'content-type': 'application/json' },
      body: JSON.stringify({ move: 'm', token: 0, partitions: [] }),
    });
    expect(response.statusCode).toBe(400);
    expect(await response.body.json()).toMatchObject({
      code: 'BAD_REQUEST',
      message: expect.stringContaining('token'),
    });
  });
});

/** The status line of the answer to a chunked body, which announces no length. */
async function chunkedStatus(body: string): Promise<string> {
  const { hostname, port } = new URL(node.gatewayUrl);
  const socket = connect(Number(port), hostname);
  socket.on('error', () => {}); // the node may cut us off while we send
  let answer = '';
  socket.on('data', (data) => {
    answer += data.toString();
  });
  socket.write(
    `POST /v1/batch HTTP/1.1\r\nhost: x\r\nauthorization: ${basic('write-key-1')}\r\ntransfer-encoding: chunked\r\n\r\n`,
  );
  for (let at = 0; at < body.length; at += 65_536) {
    const part = body.slice(at, at + 65_536);
    socket.write(`${part.length.toString(16)}\r\n${part}\r\n`);
  }
  await until(() => answer.includes('\r\n'), { deadlineMs: 10_000, what: 'an answer' });
  socket.destroy();
  return answer.split('\r\n', 1)[0]!;
}
