import type { FastifyInstance } from 'fastify';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createApi } from '../../api/server.ts';
import { CodedError } from '../../kit/errors.ts';
import { createMemoryRingStore, type MemoryRingStore } from '../../ringstore/memory.ts';
import { decideAndAppend } from '../../ringstore/ringstore.ts';
import { by as holder } from '../ring/drawing.ts';
import { FakeOperations, FakeVerifications } from './fakes.ts';

const token = 'a-token-of-some-length';
const by = { actor: 'test', reason: 'to see', operation: null };
const node = (n: number) => ({ node: `node-${n}`, databaseId: `db-${n}`, url: `http://node-${n}` });

let store: MemoryRingStore;
let operations: FakeOperations;
let api: FastifyInstance;

beforeEach(async () => {
  store = createMemoryRingStore();
  const nodes = [node(0), node(1)];
  await decideAndAppend(store, 'demo', { type: 'make ring', clusterId: 'demo', partitionCount: 8, nodes }, by);
  operations = new FakeOperations();
  api = createApi({ store, operations, verifications: new FakeVerifications(), token, log: pino({ level: 'silent' }) });
});
afterEach(async () => {
  await api.close();
  await store.close();
});

async function call(method: 'GET' | 'PATCH', body?: object, cluster = 'demo') {
  const response = await api.inject({
    method,
    url: `/v1/clusters/${cluster}/limits`,
    headers: { authorization: `Bearer ${token}` },
    ...(body === undefined ? {} : { payload: body }),
  });
  return { status: response.statusCode, body: response.json() };
}

describe('the limits of moves', () => {
  test('are the defaults until somebody sets them', async () => {
    const { status, body } = await call('GET');
    expect(status).toBe(200);
    expect(body).toMatchObject({
      clusterId: 'demo',
      version: 1,
      limits: { bytesPerSecond: { value: null, set: null }, brake: { value: 'on', set: null } },
    });
  });

  test('are set by an event of the log, and say who set them, when and why', async () => {
    const asked = { bytesPerSecond: 20_000_000, brake: 'off', reason: 'the network is shared', actor: 'ann' };
    const { status, body } = await call('PATCH', asked);
    expect(status).toBe(200);
    const set = { version: 2, by: 'ann', reason: 'the network is shared', at: expect.any(String) };
    expect(body).toMatchObject({
      version: 2,
      limits: {
        bytesPerSecond: { value: 20_000_000, set },
        brake: { value: 'off', set },
        commitMsMax: { value: 50, set: null },
      },
    });
    expect((await store.read('demo', 1)).map(({ event, actor }) => [event, actor])).toEqual([
      [{ type: 'limits set', change: { bytesPerSecond: 20_000_000, brake: 'off' } }, 'ann'],
    ]);
    expect((await call('GET')).body).toEqual(body);
  });

  test('keep what a request does not name, and go back to the default by name', async () => {
    await call('PATCH', { bytesPerSecond: 20_000_000, movesPerNode: 2 });
    const { body } = await call('PATCH', { bytesPerSecond: 'default' });
    expect(body.limits).toMatchObject({ bytesPerSecond: { value: null, set: null }, movesPerNode: { value: 2 } });
  });

  test('are set again without a further event', async () => {
    await call('PATCH', { brake: 'off', actor: 'ann' });
    expect((await call('PATCH', { brake: 'off', actor: 'bob' })).body.limits.brake.set.by).toBe('ann');
    expect(await store.read('demo')).toHaveLength(2);
  });

  test('are set while an operation holds the ring, and without Temporal', async () => {
    await decideAndAppend(store, 'demo', { type: 'freeze', by: holder('run-1') }, by);
    operations.down = new CodedError('TEMPORAL_UNREACHABLE', 'gone');
    expect((await call('PATCH', { brake: 'off' })).status).toBe(200);
  });

  test.each([
    [
      'a value outside its range',
      { movesPerNode: 17 },
      422,
      'LIMITS_INVALID',
      /movesPerNode must be a whole number from 1 to 16/,
    ],
    ['a value of another type', { brake: false }, 422, 'LIMITS_INVALID', /brake must be on or off/],
    ['null where it means nothing', { commitMsMax: null }, 422, 'LIMITS_INVALID', /commitMsMax/],
    ['a limit that does not exist', { rows: 5 }, 400, 'BODY_INVALID', /rows/],
    ['no limit at all', { reason: 'why not' }, 400, 'BODY_INVALID', /must name a limit/],
    ['no body', undefined, 400, 'BODY_INVALID', /body/],
    ['a reason that is too long', { brake: 'on', reason: 'x'.repeat(501) }, 400, 'BODY_INVALID', /reason/],
  ])('%s is refused, and nothing is appended', async (_what, body, status, code, message) => {
    const answer = await call('PATCH', body);
    expect([answer.status, answer.body.code]).toEqual([status, code]);
    expect(answer.body.message).toMatch(message);
    expect(await store.read('demo')).toHaveLength(1);
  });

  test('of a cluster that is not there are neither told nor set', async () => {
    expect((await call('GET', undefined, 'other')).body.code).toBe('CLUSTER_UNKNOWN');
    expect((await call('PATCH', { brake: 'off' }, 'other')).body.code).toBe('CLUSTER_UNKNOWN');
  });

  test('are not set where the ring store is gone, and still told as last known', async () => {
    await call('GET');
    const gone = async (): Promise<never> => {
      throw new Error('gone');
    };
    store.read = gone;
    store.append = gone;
    expect(await call('PATCH', { brake: 'off' })).toMatchObject({
      status: 503,
      body: { code: 'RING_STORE_UNREACHABLE' },
    });
    expect((await call('GET')).body.limits.brake.value).toBe('on');
  });
});
