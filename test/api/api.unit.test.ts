import type { FastifyInstance } from 'fastify';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createApi } from '../../api/server.ts';
import { CodedError } from '../../kit/errors.ts';
import type { RingCommand } from '../../ring/decide.ts';
import type { Ring } from '../../ring/ring.ts';
import { createMemoryRingStore, type MemoryRingStore } from '../../ringstore/memory.ts';
import { decideAndAppend, readRing } from '../../ringstore/ringstore.ts';
import { certificateFor } from '../support/certificate.ts';
import { FakeOperations, FakeVerifications } from './fakes.ts';

const token = 'a-token-of-some-length';
const by = { actor: 'test', reason: 'to see', operation: null };
const node = (n: number) => ({ node: `node-${n}`, databaseId: `db-${n}`, url: `http://node-${n}` });

let store: MemoryRingStore;
let operations: FakeOperations;
let verifications: FakeVerifications;
let api: FastifyInstance;

beforeEach(async () => {
  store = createMemoryRingStore();
  const nodes = [node(0), node(1)];
  await decideAndAppend(store, 'demo', { type: 'make ring', clusterId: 'demo', partitionCount: 8, nodes }, by);
  operations = new FakeOperations();
  verifications = new FakeVerifications();
  api = createApi({ store, operations, verifications, token, log: pino({ level: 'silent' }) });
});
afterEach(async () => {
  await api.close();
  await store.close();
});

async function call(method: 'GET' | 'POST', url: string, body?: unknown, headers: Record<string, string> = {}) {
  const response = await api.inject({
    method,
    url: `/v1${url}`,
    headers: { authorization: `Bearer ${token}`, ...headers },
    ...(body === undefined ? {} : { payload: body as object }),
  });
  return { status: response.statusCode, body: response.json(), headers: response.headers };
}
const scale = (body: unknown, headers?: Record<string, string>) =>
  call('POST', '/clusters/demo/operations', body, headers);

/** The ring's log and the operations, which a refused request must leave as they are. */
const everything = async () => JSON.stringify([await store.read('demo'), operations.operations, operations.requests]);

describe('who may call', () => {
  test.each([
    ['no token', {}],
    ['a wrong token', { authorization: 'Bearer wrong' }],
    ['a token of the same length', { authorization: `Bearer ${token.replace('a', 'b')}` }],
    ['another scheme', { authorization: `Basic ${token}` }],
  ])('with %s: 401 UNAUTHORIZED', async (_name, headers) => {
    for (const url of ['/v1/clusters', '/v1/clusters/demo', '/v1/clusters/demo/log', '/v1/nothing']) {
      const response = await api.inject({ method: 'GET', url, headers });
      expect(response.statusCode).toBe(401);
      expect(response.json()).toMatchObject({ code: 'UNAUTHORIZED', details: {} });
      expect(response.headers['www-authenticate']).toBe('Bearer');
    }
  });

  test('health needs no token and says what is reachable', async () => {
    const response = await api.inject({ method: 'GET', url: '/v1/health' });
    expect(response.json()).toEqual({ status: 'ok', ringStore: 'ok', temporal: 'ok' });
  });

  test("each answer carries the request's id, the caller's own where there is one", async () => {
    expect((await call('GET', '/clusters', undefined, { 'x-request-id': 'mine-1' })).headers['x-request-id']).toBe(
      'mine-1',
    );
    const odd = (await call('GET', '/clusters', undefined, { 'x-request-id': 'a b{}' })).headers['x-request-id'];
    expect(odd).toMatch(/^[0-9a-f-]{36}$/);
  });
});

describe('looking at a cluster', () => {
  test('clusters are listed', async () => {
    expect((await call('GET', '/clusters')).body).toEqual({ clusters: [{ clusterId: 'demo' }] });
  });

  test('a cluster shows its nodes, its freeze and the operation that runs', async () => {
    const { operationId } = (await scale({ targetNodes: 3 })).body;
    const identity = { operationId, workflowId: 'scale/demo', runId: operationId };
    await decideAndAppend(store, 'demo', { type: 'freeze', by: identity }, by);
    const { body } = await call('GET', '/clusters/demo');
    expect(body).toMatchObject({
      clusterId: 'demo',
      version: 2,
      epoch: 1,
      partitionCount: 8,
      freeze: { operationId, holder: 1 },
      openMoves: [],
      operation: { operationId, state: 'running' },
      temporal: 'ok',
      ringTrouble: null,
    });
    expect(body.nodes).toEqual([
      { node: 'node-0', url: 'http://node-0', partitions: 4, drained: false },
      { node: 'node-1', url: 'http://node-1', partitions: 4, drained: false },
    ]);
  });

  test('any ring of the past can be shown', async () => {
    const identity = { operationId: 'op', workflowId: 'w', runId: 'r' };
    await decideAndAppend(store, 'demo', { type: 'freeze', by: identity }, by);
    expect((await call('GET', '/clusters/demo/ring')).body).toMatchObject({
      version: 2,
      freeze: { operationId: 'op' },
    });
    const before = (await call('GET', '/clusters/demo/ring?at=1')).body;
    expect(before).toMatchObject({ version: 1, freeze: null });
    expect(before.nodes[1].owns).toEqual([4, 5, 6, 7]);
    expect(await call('GET', '/clusters/demo/ring?at=3')).toMatchObject({
      status: 404,
      body: { code: 'RING_VERSION_UNKNOWN' },
    });
    expect(await call('GET', '/clusters/demo/ring?at=x')).toMatchObject({
      status: 400,
      body: { code: 'QUERY_INVALID' },
    });
  });

  test('the log is read in parts, and can be waited for', async () => {
    const first = (await call('GET', '/clusters/demo/log')).body;
    expect(first.events.map((event: { version: number }) => event.version)).toEqual([1]);
    expect(first.next).toBe(1);
    const waiting = call('GET', '/clusters/demo/log?after=1&waitMs=5000');
    const identity = { operationId: 'op', workflowId: 'w', runId: 'r' };
    await decideAndAppend(store, 'demo', { type: 'freeze', by: identity }, by);
    expect((await waiting).body).toMatchObject({ next: 2, events: [{ version: 2, event: { type: 'ring frozen' } }] });
    expect((await call('GET', '/clusters/demo/log?after=2&waitMs=10')).body).toEqual({ events: [], next: 2 });
  });

  test('a request that waits for the log does not hold up the end of the API', async () => {
    await call('GET', '/clusters/demo');
    const waiting = call('GET', '/clusters/demo/log?after=1&waitMs=20000');
    await new Promise((resolve) => setTimeout(resolve, 20));
    const started = performance.now();
    await api.close();
    expect((await waiting).body).toEqual({ events: [], next: 1 });
    expect(performance.now() - started).toBeLessThan(2_000);
  });

  test('rings and logs are served while Temporal is down, and it is said', async () => {
    operations.down = new CodedError('TEMPORAL_UNREACHABLE', 'Temporal cannot be reached');
    expect(await call('GET', '/clusters/demo')).toMatchObject({
      status: 200,
      body: { operation: null, temporal: 'unreachable' },
    });
    expect((await call('GET', '/clusters/demo/ring')).status).toBe(200);
    expect((await call('GET', '/clusters/demo/log')).status).toBe(200);
    expect(await scale({ targetNodes: 3 })).toMatchObject({ status: 503, body: { code: 'TEMPORAL_UNREACHABLE' } });
    expect(await scale({ targetNodes: 3, dryRun: true })).toMatchObject({ status: 200 });
  });

  test('the last known ring is served while the ring store is down; nothing is changed on it', async () => {
    await call('GET', '/clusters/demo');
    store.fail(new Error('gone'));
    expect(await call('GET', '/clusters/demo')).toMatchObject({
      status: 200,
      body: { version: 1, ringTrouble: 'the ring store cannot be reached' },
    });
    expect((await call('GET', '/clusters')).body).toEqual({ clusters: [{ clusterId: 'demo' }] });
    expect(await scale({ targetNodes: 3 })).toMatchObject({ status: 503, body: { code: 'RING_STORE_UNREACHABLE' } });
    expect((await api.inject({ method: 'GET', url: '/v1/health' })).json()).toMatchObject({ ringStore: 'unreachable' });
    expect(operations.operations).toHaveLength(0);
  });

  test('a log with events of a newer version is shown with their types, and nothing is changed on it', async () => {
    const newer = [{ type: 'moon landed' }] as never;
    await store.append('demo', 1, newer, { actor: 'newer', reason: 'test', operation: null });
    expect(await call('GET', '/clusters/demo')).toMatchObject({
      status: 200,
      body: { version: 2, ringTrouble: null, notUnderstood: ['moon landed'] },
    });
    const refused = { status: 409, body: { code: 'RING_TOO_NEW' } };
    expect(await scale({ targetNodes: 3 })).toMatchObject(refused);
    expect(operations.operations).toHaveLength(0);
  });

  test('a ring store that came back with less is not followed', async () => {
    const identity = { operationId: 'op', workflowId: 'w', runId: 'r' };
    await decideAndAppend(store, 'demo', { type: 'freeze', by: identity }, by);
    await call('GET', '/clusters/demo');
    store.forgetAfter('demo', 1);
    expect((await call('GET', '/clusters/demo')).body).toMatchObject({
      version: 2,
      ringTrouble: expect.stringMatching(/not followed/),
    });
    expect(await scale({ targetNodes: 3 })).toMatchObject({ status: 503, body: { code: 'RING_STORE_BEHIND' } });
  });
});

describe('starting an operation', () => {
  test('answers 202 with its id, and where to look', async () => {
    const { status, body, headers } = await scale({ targetNodes: 3, reason: 'more load', actor: 'anna' });
    expect(status).toBe(202);
    expect(body).toEqual({
      result: 'started',
      operationId: operations.operations[0]!.progress.operationId,
      workflowId: 'scale/demo',
    });
    expect(operations.operations[0]!.input).toMatchObject({
      clusterId: 'demo',
      targetNodes: 3,
      reason: 'more load',
      actor: 'anna',
    });
    const progress = await call('GET', String(headers['location']).slice('/v1'.length));
    expect(progress.body).toMatchObject({ operationId: body.operationId, state: 'running', to: 3 });
  });

  test('a dry run answers the plan and starts nothing', async () => {
    const { status, body } = await scale({ targetNodes: 3, reason: 'x', dryRun: true });
    expect(status).toBe(200);
    expect(body).toMatchObject({ result: 'plan', plan: { added: ['node-2'], partitionsMoved: 2 } });
    expect((await call('POST', '/clusters/demo/plan', { targetNodes: 3 })).body.plan).toEqual(body.plan);
    expect(operations.operations).toHaveLength(0);
  });

  test('an approved plan is executed if it is still the plan', async () => {
    const { hash } = (await call('POST', '/clusters/demo/plan', { targetNodes: 3 })).body.plan;
    expect((await scale({ targetNodes: 3, planHash: hash })).status).toBe(202);
    expect(operations.operations[0]!.input.planHash).toBe(hash);
  });

  test('the same number of nodes on a balanced ring: 200, nothing to do', async () => {
    expect(await scale({ targetNodes: 2 })).toMatchObject({ status: 200, body: { result: 'nothing to do' } });
    expect((await call('POST', '/clusters/demo/plan', { targetNodes: 2 })).body.result).toBe('nothing to do');
    expect(operations.operations).toHaveLength(0);
  });

  test('the same number of nodes on a ring that an ended operation left frozen starts one, which clears it', async () => {
    await decideAndAppend(
      store,
      'demo',
      { type: 'freeze', by: { operationId: 'gone', workflowId: 'w', runId: 'r' } },
      by,
    );
    expect((await scale({ targetNodes: 2 })).status).toBe(202);
  });

  test('the same idempotency key and body: the same answer, also after it is done', async () => {
    const key = { 'idempotency-key': 'k-1' };
    const first = await scale({ targetNodes: 3, reason: 'x' }, key);
    expect(await scale({ reason: 'x', targetNodes: 3 }, key)).toMatchObject({ status: 202, body: first.body });
    operations.operations[0]!.progress = { ...operations.operations[0]!.progress, state: 'completed', endedAt: 'now' };
    expect((await scale({ targetNodes: 3, reason: 'x' }, key)).body).toEqual(first.body);
    expect(operations.operations).toHaveLength(1);
  });

  test('the same idempotency key with another body: 422 IDEMPOTENCY_KEY_REUSED', async () => {
    const key = { 'idempotency-key': 'k-1' };
    await scale({ targetNodes: 3 }, key);
    const before = await everything();
    expect(await scale({ targetNodes: 4 }, key)).toMatchObject({
      status: 422,
      body: { code: 'IDEMPOTENCY_KEY_REUSED' },
    });
    expect(await everything()).toBe(before);
  });
});

describe('bad input gets one clear error and changes nothing', () => {
  test.each([
    ['text', '3'],
    ['a fraction', 2.5],
    ['null', null],
    ['a list', [3]],
    ['0', 0],
    ['negative', -1],
    ['more than partitions', 9],
    ['enormous', 1e300],
  ])('targetNodes %s: 422 TARGET_NODES_INVALID', async (_name, targetNodes) => {
    const before = await everything();
    for (const path of ['operations', 'plan']) {
      const answer = await call('POST', `/clusters/demo/${path}`, { targetNodes });
      expect(answer).toMatchObject({
        status: 422,
        body: { code: 'TARGET_NODES_INVALID', details: { min: 1, max: 8 } },
      });
      expect(answer.body.message).toMatch(/whole number from 1 to 8/);
    }
    expect(await everything()).toBe(before);
  });

  test('targetNodes has a limit of its own, however many partitions there are', async () => {
    await decideAndAppend(
      store,
      'big',
      { type: 'make ring', clusterId: 'big', partitionCount: 4096, nodes: [node(0)] },
      by,
    );
    const plan = (targetNodes: number) => call('POST', '/clusters/big/plan', { targetNodes });
    expect(await plan(1001)).toMatchObject({ status: 422, body: { details: { max: 1000 } } });
    expect((await plan(1000)).status).toBe(200);
  });

  test.each([
    ['no body', undefined],
    ['no targetNodes', { reason: 'x' }],
    ['a list', [1]],
    ['a misspelt field', { targetNodes: 3, dryrun: true }],
    ['dryRun as text', { targetNodes: 3, dryRun: 'yes' }],
    ['a plan hash that is none', { targetNodes: 3, planHash: 'xyz' }],
    ['a reason that is a number', { targetNodes: 3, reason: 7 }],
    ['a reason too long', { targetNodes: 3, reason: 'x'.repeat(501) }],
  ])('%s: 400 BODY_INVALID', async (_name, body) => {
    const before = await everything();
    const answer = await scale(body);
    expect(answer).toMatchObject({ status: 400, body: { code: 'BODY_INVALID' } });
    expect(answer.body.message).toBeTruthy();
    expect(await everything()).toBe(before);
  });

  test('text that is no JSON: 400 BODY_INVALID; too much of it: 413; another type: 415', async () => {
    const json = { 'content-type': 'application/json' };
    expect(await scale('{"targetNodes":', json)).toMatchObject({ status: 400, body: { code: 'BODY_INVALID' } });
    expect(await scale(`"${'x'.repeat(70_000)}"`, json)).toMatchObject({
      status: 413,
      body: { code: 'BODY_TOO_LARGE' },
    });
    expect(await scale('a', { 'content-type': 'text/csv' })).toMatchObject({
      status: 415,
      body: { code: 'CONTENT_TYPE_INVALID' },
    });
  });

  test('an idempotency key that is no key: 400', async () => {
    expect(await scale({ targetNodes: 3 }, { 'idempotency-key': 'ö ü' })).toMatchObject({ status: 400 });
    expect(operations.operations).toHaveLength(0);
  });

  test.each(['nope', 'DEMO', 'demo%27%20OR%201=1', 'a'.repeat(99)])(
    'the unknown cluster %s: 404 CLUSTER_UNKNOWN',
    async (cluster) => {
      const before = await everything();
      for (const path of ['', '/ring', '/log', '/operations', '/operations/abc']) {
        expect(await call('GET', `/clusters/${cluster}${path}`)).toMatchObject({
          status: 404,
          body: { code: 'CLUSTER_UNKNOWN' },
        });
      }
      for (const path of ['/plan', '/operations']) {
        const answer = await call('POST', `/clusters/${cluster}${path}`, { targetNodes: 3 });
        expect(answer).toMatchObject({ status: 404, body: { code: 'CLUSTER_UNKNOWN' } });
      }
      expect(await everything()).toBe(before);
    },
  );

  test('a second operation while one runs: 409 OPERATION_RUNNING, which names the first', async () => {
    const { operationId } = (await scale({ targetNodes: 3 })).body;
    const before = await everything();
    for (const targetNodes of [4, 3, 2]) {
      const answer = await scale({ targetNodes });
      expect(answer).toMatchObject({ status: 409, body: { code: 'OPERATION_RUNNING', details: { operationId } } });
      expect(answer.body.message).toContain(operationId);
    }
    expect(await everything()).toBe(before);
  });

  test('another plan than the approved one: 409 PLAN_CHANGED', async () => {
    const before = await everything();
    for (const dryRun of [true, false]) {
      const answer = await scale({ targetNodes: 3, planHash: '0'.repeat(16), dryRun });
      expect(answer).toMatchObject({ status: 409, body: { code: 'PLAN_CHANGED' } });
    }
    expect(await everything()).toBe(before);
  });

  test('a ring with events of a newer version is shown, and not changed: RING_TOO_NEW', async () => {
    await store.append('demo', 1, [{ type: 'node painted' } as never], by);
    expect((await call('GET', '/clusters/demo')).status).toBe(200);
    expect(await scale({ targetNodes: 3 })).toMatchObject({ status: 409, body: { code: 'RING_TOO_NEW' } });
  });

  test('an unknown route: 404 ROUTE_UNKNOWN', async () => {
    expect(await call('POST', '/clusters')).toMatchObject({ status: 404, body: { code: 'ROUTE_UNKNOWN' } });
  });
});

describe('steering an operation', () => {
  test.each([
    ['pause', 'paused'],
    ['resume', 'running'],
    ['retry', 'running'],
    ['cancel', 'cancelling'],
  ])('%s answers the progress; it passes on who and why', async (action, state) => {
    const { operationId } = (await scale({ targetNodes: 3 })).body;
    const path = `/clusters/demo/operations/${operationId.slice(0, 6)}/${action}`;
    expect(await call('POST', path, { reason: 'lunch', actor: 'anna' })).toMatchObject({
      status: 200,
      body: { operationId, state },
    });
    expect((await call('POST', path)).status).toBe(200);
    expect(operations.requests[0]).toEqual({ action, operationId, request: { reason: 'lunch', actor: 'anna' } });
  });

  test('a difference is accepted with a reason only, and only by retry', async () => {
    const { operationId } = (await scale({ targetNodes: 3 })).body;
    const retry = (body: object, action = 'retry') =>
      call('POST', `/clusters/demo/operations/${operationId}/${action}`, body);
    expect(await retry({ acceptDifference: true })).toMatchObject({
      status: 400,
      body: { code: 'BODY_INVALID', message: 'reason: is needed where a difference is accepted' },
    });
    expect((await retry({ acceptDifference: true, reason: 'x' }, 'resume')).status).toBe(400);
    expect((await retry({ acceptDifference: true, reason: 'x', actor: 'anna' })).status).toBe(200);
    expect(operations.requests).toEqual([
      { action: 'retry', operationId, request: { acceptDifference: true, reason: 'x', actor: 'anna' } },
    ]);
  });

  describe('undo', () => {
    const undo = (operation: string, body: object = {}) =>
      call('POST', `/clusters/demo/operations/${operation}/undo`, body);
    /** An operation, by the log, that moves partition 0 to node-1. */
    async function moved(operation: string): Promise<void> {
      const own = { actor: 'worker', reason: 'to see', operation };
      const append = (command: RingCommand) => decideAndAppend(store, 'demo', command, own);
      const { ring } = await append({
        type: 'freeze',
        by: { operationId: operation, workflowId: 'w', runId: operation },
      });
      const holder = ring.freeze!.holder;
      const move = `${operation}/move-1.1`;
      await append({ type: 'start move', holder, move, from: 'node-0', to: 'node-1', partitions: [0] });
      const claimed = await append({ type: 'claim move', holder, move, attempt: 'x' });
      const proof = { jobsPending: 0, jobsCopied: 0, prefixes: [] };
      const over = await append({ type: 'hand over', move, token: claimed.ring.version, proof });
      await append({ type: 'complete move', move, certificate: certificateFor(over.ring, move) });
      await append({ type: 'unfreeze', holder });
    }

    test('of one that runs stops it', async () => {
      const { operationId } = (await scale({ targetNodes: 3 })).body;
      expect(await undo(operationId.slice(0, 6), { reason: 'a mistake', actor: 'anna' })).toMatchObject({
        status: 200,
        body: { result: 'undoing', progress: { operationId, state: 'undoing' } },
      });
      expect(operations.requests).toEqual([
        { action: 'undo', operationId, request: { reason: 'a mistake', actor: 'anna' } },
      ]);
    });

    test('of one that has ended is planned from the log, and is an operation of its own', async () => {
      await moved('0b5e7');
      const planned = await undo('0b5', { dryRun: true });
      expect(planned).toMatchObject({
        status: 200,
        body: { result: 'plan', underWay: false, plan: { moves: [{ from: 'node-1', to: 'node-0', partitions: [0] }] } },
      });
      expect(operations.operations).toHaveLength(0);
      expect((await undo('0b5', { planHash: '0123456789abcdef' })).body.code).toBe('PLAN_CHANGED');
      const started = await undo('0b5', { planHash: planned.body.plan.hash, reason: 'a mistake' });
      expect(started).toMatchObject({ status: 202, body: { result: 'started' } });
      expect(operations.operations[0]?.input).toMatchObject({
        clusterId: 'demo',
        goal: { kind: 'undo', operation: '0b5e7' },
        reason: 'a mistake',
      });
      expect((await undo('0b5')).body.code).toBe('OPERATION_RUNNING');
    });

    test('of one whose partitions have moved on says what is undone first', async () => {
      await moved('0b5e7');
      await decideAndAppend(
        store,
        'demo',
        { type: 'freeze', by: { operationId: '1', workflowId: 'w', runId: '1' } },
        by,
      );
      const ring = (await readRing(store, 'demo')).freeze!;
      const later = { actor: 'worker', reason: 'later', operation: '1c' };
      const move = '1c/move-1.1';
      const holder = ring.holder;
      const append = (command: RingCommand) => decideAndAppend(store, 'demo', command, later);
      await append({ type: 'join node', holder, facts: node(2) });
      await append({ type: 'start move', holder, move, from: 'node-1', to: 'node-2', partitions: [0] });
      const { ring: claimed } = await append({ type: 'claim move', holder, move, attempt: 'x' });
      const proof = { jobsPending: 0, jobsCopied: 0, prefixes: [] };
      await append({ type: 'hand over', move, token: claimed.version, proof });
      expect(await undo('0b5')).toMatchObject({
        status: 409,
        body: { code: 'UNDO_OUT_OF_ORDER', message: expect.stringContaining('Undo first, in this order: 1c') },
      });
    });

    test('of what moved nothing there is nothing to do; of what nobody knows it is refused', async () => {
      const { operationId } = (await scale({ targetNodes: 3 })).body;
      operations.operations[0]!.progress = { ...operations.operations[0]!.progress, endedAt: 'now' };
      expect(await undo(operationId)).toMatchObject({ status: 200, body: { result: 'nothing to do' } });
      expect(await undo('abc')).toMatchObject({ status: 404, body: { code: 'OPERATION_UNKNOWN' } });
      expect((await undo(operationId, { why: 1 })).status).toBe(400);
    });
  });

  test('what is unknown or over is refused', async () => {
    expect(await call('POST', '/clusters/demo/operations/abc/pause')).toMatchObject({
      status: 404,
      body: { code: 'OPERATION_UNKNOWN' },
    });
    expect(await call('GET', '/clusters/demo/operations/A%20B')).toMatchObject({
      status: 404,
      body: { code: 'OPERATION_UNKNOWN' },
    });
    const { operationId } = (await scale({ targetNodes: 3 })).body;
    operations.operations[0]!.progress = { ...operations.operations[0]!.progress, endedAt: 'now' };
    expect(await call('POST', `/clusters/demo/operations/${operationId}/pause`)).toMatchObject({
      status: 409,
      body: { code: 'OPERATION_ENDED' },
    });
    expect(await call('POST', `/clusters/demo/operations/${operationId}/cancel`, { why: 1 })).toMatchObject({
      status: 400,
    });
  });

  test('operations are listed, the newest first', async () => {
    const { operationId } = (await scale({ targetNodes: 3, reason: 'x' })).body;
    const { body } = await call('GET', '/clusters/demo/operations?limit=5');
    expect(body.operations).toMatchObject([{ operationId, targetNodes: 3, reason: 'x' }]);
    expect((await call('GET', '/clusters/demo/operations?limit=0')).body.code).toBe('QUERY_INVALID');
  });
});

describe('verifying', () => {
  const operationId = '5d0ec5b2-9376-4228-82ac-7516b6afe922';
  const other = '5d0ec5b2-1111-4228-82ac-7516b6afe922';
  /** Two moves of the operation: one certified, one handed over and not yet; one of another operation, which was aborted. */
  async function moveSome(): Promise<void> {
    const append = async (operation: string, command: RingCommand): Promise<Ring> =>
      (await decideAndAppend(store, 'demo', command, { actor: 'worker', reason: 'to grow', operation })).ring;
    const proof = { jobsPending: 5, jobsCopied: 6, prefixes: [{ prefix: 'gw', pending: 5, digest: '7' }] };
    await append(operationId, { type: 'freeze', by: { operationId, workflowId: 'w', runId: 'r' } });
    for (const [operation, n, partition] of [
      [operationId, 1, 0],
      [operationId, 2, 1],
      [other, 1, 2],
    ] as const) {
      const move = `${operation}/move-${n}.1`;
      await append(operation, {
        type: 'start move',
        holder: 1,
        move,
        from: 'node-0',
        to: 'node-1',
        partitions: [partition],
      });
      const { moves } = await append(operation, { type: 'claim move', holder: 1, move, attempt: 'x' });
      if (operation === other) await append(operation, { type: 'abort move', move, because: 'slow' });
      else {
        const token = moves.find((open) => open.move === move)!.token;
        const ring = await append(operation, { type: 'hand over', move, token, proof });
        if (n === 1) await append(operation, { type: 'complete move', move, certificate: certificateFor(ring, move) });
      }
    }
  }

  test("an operation's certificates come from the log, also while Temporal is down, and by a unique beginning of its id", async () => {
    await moveSome();
    verifications.down = new CodedError('TEMPORAL_UNREACHABLE', 'down');
    const { status, body } = await call('GET', '/clusters/demo/certificates?operation=5d0ec5b2-9&partitions=true');
    expect(status).toBe(200);
    expect(body).toMatchObject({
      clusterId: 'demo',
      operation: operationId,
      moves: [
        { from: 'node-0', to: 'node-1', state: 'completed', jobsProven: 5, uncertifiedBecause: null },
        {
          state: 'handed over',
          jobsProven: 5,
          certificate: null,
          uncertifiedBecause: expect.stringContaining('not been found equal'),
        },
      ],
    });
    expect(body.moves[0].certificate).toMatchObject({
      jobs: 5,
      tables: [{ prefix: 'gw', partitions: [[0, 5, '7', '9', 1, 5, 101, 105]] }],
    });
    const short = await call('GET', `/clusters/demo/certificates?operation=${operationId}`);
    expect(short.body.moves[0].certificate.tables[0].partitions).toEqual([]);
  });

  test.each([
    ['an operation that moved nothing', 'operation=aaaa', 404, 'OPERATION_UNKNOWN'],
    ['a beginning of two', 'operation=5d0e', 409, 'OPERATION_AMBIGUOUS'],
    ['none', '', 400, 'QUERY_INVALID'],
    ['a misspelt parameter', 'operation=5d0ec5b2-9&partition=true', 400, 'QUERY_INVALID'],
  ])('certificates of %s: refused by name', async (_name, query, status, code) => {
    await moveSome();
    expect(await call('GET', `/clusters/demo/certificates?${query}`)).toMatchObject({ status, body: { code } });
  });

  test('is started, looked at and stopped', async () => {
    await moveSome();
    const started = await call('POST', '/clusters/demo/verify', {
      full: true,
      operation: '5d0ec5b2-9',
      samples: 3,
      actor: 'ada',
    });
    expect(started).toMatchObject({ status: 202, body: { workflowId: 'verify/demo' } });
    expect(verifications.requests).toEqual([
      { clusterId: 'demo', full: true, operation: operationId, samplesMax: 3, actor: 'ada' },
    ]);
    expect(await call('POST', '/clusters/demo/verify', { full: true })).toMatchObject({
      status: 409,
      body: { code: 'VERIFY_RUNNING' },
    });
    expect((await call('GET', '/clusters/demo/verify?full=true')).body).toMatchObject({
      state: 'running',
      operation: operationId,
    });
    expect((await call('POST', '/clusters/demo/verify/stop', { reason: 'later' })).body).toMatchObject({
      state: 'stopped',
    });
    expect(verifications.stops).toEqual([{ reason: 'later' }]);
    expect(await call('POST', '/clusters/demo/verify/stop')).toMatchObject({
      status: 404,
      body: { code: 'VERIFY_UNKNOWN' },
    });
  });

  test.each([
    ['too many samples', { samples: 201 }, 'BODY_INVALID'],
    ['half a sample', { samples: 0.5 }, 'BODY_INVALID'],
    ['a misspelt field', { ful: true }, 'BODY_INVALID'],
    ['an operation that is none', { operation: '../x' }, 'BODY_INVALID'],
  ])('with %s nothing is started', async (_name, body, code) => {
    expect(await call('POST', '/clusters/demo/verify', body)).toMatchObject({ status: 400, body: { code } });
    expect(verifications.requests).toEqual([]);
  });

  test('of a cluster that is not there: 404', async () => {
    expect(await call('POST', '/clusters/nope/verify', {})).toMatchObject({
      status: 404,
      body: { code: 'CLUSTER_UNKNOWN' },
    });
    expect(await call('GET', '/clusters/nope/verify')).toMatchObject({ status: 404 });
  });
});
