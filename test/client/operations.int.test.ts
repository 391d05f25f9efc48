import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { cancelled, heartbeat } from '@temporalio/activity';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createOperationsClient, type OperationsClient } from '../../client/operations.ts';
import { lazyTemporalClient, parseTemporalConfig } from '../../client/temporal-connection.ts';
import { startTemporal, type Temporal } from '../../dev/embedded/temporal.ts';
import { until } from '../support/wait.ts';

const copy = { jobsCopied: 5_000, throttledBy: 'bytesPerSecond', bytesPerSecond: 2_000_000 };

let folder: string;
let temporal: Temporal;
let connection: NativeConnection;
let worker: Worker;
let working: Promise<void>;
let client: ReturnType<typeof lazyTemporalClient>;
let operations: OperationsClient;

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'ringmaster-operations-'));
  temporal = await startTemporal({ dataFolder: folder, headless: true });
  Runtime.install({ logger: new DefaultLogger('ERROR') });
  connection = await NativeConnection.connect({ address: temporal.address });
  worker = await Worker.create({
    connection,
    taskQueue: 'operations',
    workflowsPath: path.resolve(import.meta.dirname, 'stub-workflow.ts'),
    activities: {
      preCopy: async () => {
        heartbeat({ move: 'x', ...copy });
        await cancelled();
      },
    },
  });
  working = worker.run();
  client = lazyTemporalClient(parseTemporalConfig({ TEMPORAL_ADDRESS: temporal.address }));
  operations = createOperationsClient({ temporal: client.client, taskQueue: 'operations' });
});

afterAll(async () => {
  worker?.shutdown();
  await working?.catch(() => {});
  await connection?.close();
  await client?.close();
  await temporal?.stop();
  rmSync(folder, { recursive: true, force: true });
});

let clusters = 0;
function newCluster(): string {
  clusters += 1;
  return `c-${clusters}`;
}

describe('an operation in Temporal', () => {
  test('starts, tells its progress, is steered, ends, and is in the list', async () => {
    const clusterId = newCluster();
    expect(await operations.running(clusterId)).toBeNull();
    expect(await operations.list(clusterId, 10)).toEqual([]);
    const { operationId, workflowId, repeated } = await operations.start({
      clusterId,
      targetNodes: 3,
      reason: 'more',
      actor: 'anna',
    });
    expect({ workflowId, repeated }).toEqual({ workflowId: `scale/${clusterId}`, repeated: false });
    expect(await operations.running(clusterId)).toMatchObject({
      operationId,
      state: 'running',
      targetNodes: 3,
      actor: 'anna',
    });
    expect(await operations.progress(clusterId)).toMatchObject({ operationId, state: 'running', to: 3 });
    const request = { actor: 'anna', reason: 'lunch' };
    expect(await operations.pause(clusterId, operationId.slice(0, 13), request)).toMatchObject({ state: 'paused' });
    await expect(operations.retry(clusterId, operationId, request)).rejects.toMatchObject({
      code: 'OPERATION_NOT_BLOCKED',
      message: 'it is not blocked',
    });
    await operations.resume(clusterId, operationId, request);
    await until(async () => (await operations.running(clusterId)) === null, { deadlineMs: 10_000, what: 'the end' });
    // Closed: the query is answered all the same.
    expect(await operations.progress(clusterId, operationId)).toMatchObject({ operationId, state: 'completed' });
    expect(await operations.list(clusterId, 10)).toMatchObject([{ operationId, state: 'completed', reason: 'more' }]);
    await expect(operations.pause(clusterId, operationId, {})).rejects.toMatchObject({ code: 'OPERATION_ENDED' });
    const description = await client.client.workflow.getHandle(workflowId).describe();
    expect(await description.staticSummary()).toBe(`scale ${clusterId} to 3 nodes: more`);
  });

  test('its progress says what a copy that runs says of itself', async () => {
    const clusterId = newCluster();
    const { operationId } = await operations.start({ clusterId, targetNodes: 3, reason: 'a copy that is throttled' });
    const look = async () => (await operations.progress(clusterId, operationId)).moves[0];
    await until(async () => (await look())?.copy !== undefined, { deadlineMs: 10_000, what: 'a heartbeat' });
    expect(await look()).toMatchObject({ n: 1, state: 'copying', copy });
    await operations.cancel(clusterId, operationId, {});
  });

  test('a second one is refused, naming the first; after its end another starts', async () => {
    const clusterId = newCluster();
    const first = await operations.start({ clusterId, targetNodes: 3 });
    await expect(operations.start({ clusterId, targetNodes: 4 })).rejects.toMatchObject({
      code: 'OPERATION_RUNNING',
      details: { operationId: first.operationId },
    });
    await operations.cancel(clusterId, first.operationId, {});
    await until(async () => (await operations.running(clusterId)) === null, { deadlineMs: 10_000, what: 'the end' });
    const second = await operations.start({ clusterId, targetNodes: 4 });
    await until(
      async () => {
        const ids = (await operations.list(clusterId, 10)).map((operation) => operation.operationId);
        expect(ids).toEqual([second.operationId, first.operationId]);
        return true;
      },
      { deadlineMs: 10_000, what: 'both in the list' },
    );
    expect(await operations.progress(clusterId, first.operationId.slice(0, 20))).toMatchObject({ to: 3 });
    await operations.cancel(clusterId, second.operationId, {});
  });

  test('one key starts one operation, though it is asked for many times at once', async () => {
    const clusterId = newCluster();
    const input = { clusterId, targetNodes: 3, reason: 'x' };
    const tries = Array.from({ length: 5 }, () => operations.start(input, { idempotencyKey: 'k' }));
    const answers = await Promise.all(tries);
    expect(new Set(answers.map((answer) => answer.operationId)).size).toBe(1);
    expect(answers.filter((answer) => !answer.repeated)).toHaveLength(1);
    await expect(operations.start({ ...input, targetNodes: 4 }, { idempotencyKey: 'k' })).rejects.toMatchObject({
      code: 'IDEMPOTENCY_KEY_REUSED',
    });
    await operations.cancel(clusterId, answers[0]!.operationId, {});
    await until(async () => (await operations.running(clusterId)) === null, { deadlineMs: 10_000, what: 'the end' });
    expect(await operations.startedBefore(input, 'k')).toMatchObject({
      operationId: answers[0]!.operationId,
      repeated: true,
    });
    expect(await operations.startedBefore(input, 'other')).toBeNull();
  });

  test("several runs by continue-as-new are one operation with the first run's id", async () => {
    const clusterId = newCluster();
    const { operationId } = await operations.start({ clusterId, targetNodes: 3, reason: 'continue as new' });
    await operations.pause(clusterId, operationId, {});
    const handle = client.client.workflow.getHandle(`scale/${clusterId}`);
    await until(async () => (await handle.describe()).runId !== operationId, {
      deadlineMs: 10_000,
      what: 'the second run',
    });
    expect(await operations.running(clusterId)).toMatchObject({ operationId, reason: 'continue as new' });
    expect(await operations.progress(clusterId, operationId)).toMatchObject({ operationId, state: 'running' });
    await until(
      async () => {
        const listed = await operations.list(clusterId, 10);
        expect(listed.map((operation) => operation.operationId)).toEqual([operationId]);
        return true;
      },
      { deadlineMs: 10_000, what: 'one operation in the list' },
    );
    await operations.cancel(clusterId, operationId, {});
  });

  test('a terminated one is shown as failed, and says what to do', async () => {
    const clusterId = newCluster();
    const { operationId, workflowId } = await operations.start({ clusterId, targetNodes: 3 });
    await operations.progress(clusterId);
    await client.client.workflow.getHandle(workflowId).terminate('by hand');
    const progress = await operations.progress(clusterId, operationId);
    expect(progress).toMatchObject({ state: 'failed', nextAction: expect.stringMatching(/start an operation/) });
    expect(progress.endedAt).not.toBeNull();
    expect(await operations.list(clusterId, 1)).toMatchObject([{ operationId, state: 'failed' }]);
  });

  test('what is unknown is refused by name', async () => {
    const clusterId = newCluster();
    await expect(operations.progress(clusterId)).rejects.toMatchObject({ code: 'OPERATION_UNKNOWN' });
    await expect(operations.progress(clusterId, 'abc')).rejects.toMatchObject({ code: 'OPERATION_UNKNOWN' });
    const someId = '01234567-89ab-cdef-0123-456789abcdef';
    await expect(operations.cancel(clusterId, someId, {})).rejects.toMatchObject({ code: 'OPERATION_UNKNOWN' });
  });

  test('without a worker it can be started and listed; what only a worker answers is WORKER_UNREACHABLE', async () => {
    const clusterId = newCluster();
    const nobody = createOperationsClient({ temporal: client.client, taskQueue: 'nobody' });
    const { operationId } = await nobody.start({ clusterId, targetNodes: 3 });
    expect(await nobody.running(clusterId)).toMatchObject({ operationId, state: 'running' });
    await expect(nobody.progress(clusterId)).rejects.toMatchObject({ code: 'WORKER_UNREACHABLE' });
    await expect(nobody.pause(clusterId, operationId, {})).rejects.toMatchObject({ code: 'WORKER_UNREACHABLE' });
    await client.client.workflow.getHandle(`scale/${clusterId}`).terminate();
    expect(await nobody.progress(clusterId)).toMatchObject({ operationId, state: 'failed', to: 3 });
  });
});

test('a Temporal that is not there is TEMPORAL_UNREACHABLE, soon', async () => {
  const gone = lazyTemporalClient(parseTemporalConfig({ TEMPORAL_ADDRESS: '127.0.0.1:1' }));
  const unreachable = createOperationsClient({ temporal: gone.client, taskQueue: 'operations' });
  expect(await unreachable.reachable()).toBe(false);
  expect(await operations.reachable()).toBe(true);
  await expect(unreachable.running('demo')).rejects.toMatchObject({ code: 'TEMPORAL_UNREACHABLE' });
  await gone.close();
});
