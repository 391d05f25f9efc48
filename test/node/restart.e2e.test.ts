/**
 * Goal: a node's process may be killed at any moment; another one on the same database goes on, and nothing is lost or out of order.
 * Method: the real process (node/main.ts) with a real ring store, under traffic, is killed again and again. Only what was in flight may be delivered twice.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Writable } from 'node:stream';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openSession } from '../../node/session.ts';
import { createPostgresRingStore, migrateRingStore } from '../../ringstore/postgres.ts';
import { decideAndAppend, type RingStore } from '../../ringstore/ringstore.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { until } from '../support/wait.ts';
import { CONTROL_TOKEN, Destination, post, seeded, WRITE_KEY } from './support.ts';

let jobs: TestDatabase;
let ring: TestDatabase;
let store: RingStore;
let destination: Destination;
let folder: string;
let child: ChildProcess | undefined;
let output: string;
let url: string;
let ports: [number, number];

beforeEach(async () => {
  [jobs, ring] = await Promise.all([createTestDatabase(), createTestDatabase()]);
  destination = new Destination();
  folder = mkdtempSync(path.join(tmpdir(), 'ringmaster-node-'));
  const destinations = [{ id: 'hook', url: await destination.listen() }];
  writeFileSync(
    path.join(folder, 'node.json'),
    JSON.stringify({ workspaceId: 'workspace', sources: [{ writeKey: WRITE_KEY, sourceId: 'source', destinations }] }),
  );
  await migrateRingStore(ring.url);
  store = createPostgresRingStore({ connectionString: ring.url });
  const session = await openSession({ node: 'node-0', clusterId: 'test', databaseUrl: jobs.url });
  await session.pool.end();
  ports = [await freePort(), await freePort()];
  url = `http://127.0.0.1:${ports[0]}`;
  await decideAndAppend(
    store,
    'test',
    {
      type: 'make ring',
      clusterId: 'test',
      partitionCount: 16,
      nodes: [{ node: 'node-0', databaseId: session.databaseId, url }],
    },
    { actor: 'test', reason: 'test', operation: null },
  );
});
afterEach(async () => {
  child?.kill('SIGKILL');
  await destination.close();
  await store.close();
  rmSync(folder, { recursive: true, force: true });
  await Promise.all([jobs.drop(), ring.drop()]);
});

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function startProcess(env: Record<string, string> = {}): Promise<ChildProcess> {
  const started = spawnProcess(env);
  await until(() => output.includes('node running'), { deadlineMs: 20_000, what: `a running node; it says ${output}` });
  return started;
}

function spawnProcess(env: Record<string, string>): ChildProcess {
  output = '';
  const started = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', path.resolve('node/main.ts')], {
    stdio: ['ignore', 'pipe', 'inherit', 'pipe'],
    env: {
      PATH: process.env['PATH'],
      RINGMASTER_NODE: 'node-0',
      RINGMASTER_CLUSTER: 'test',
      RINGMASTER_NODE_DATABASE_URL: jobs.url,
      RINGMASTER_RINGSTORE_URL: ring.url,
      RINGMASTER_CONTROL_TOKEN: CONTROL_TOKEN,
      RINGMASTER_GATEWAY_PORT: String(ports[0]),
      RINGMASTER_CONTROL_PORT: String(ports[1]),
      RINGMASTER_NODE_CONFIG: path.join(folder, 'node.json'),
      RINGMASTER_NODE_RETRY_MIN_MS: '20',
      ...env,
    },
  });
  child = started;
  started.stdout!.on('data', (data: Buffer) => {
    output += data.toString();
  });
  return started;
}

const ended = (one: ChildProcess): Promise<number | string | null> =>
  one.exitCode !== null || one.signalCode !== null
    ? Promise.resolve(one.exitCode ?? one.signalCode)
    : new Promise((resolve) => one.once('exit', (code, signal) => resolve(code ?? signal)));

/** First deliveries of a user's events must come in order; `n` counts the acknowledged ones. */
function firstDeliveries(): Map<string, number[]> {
  const users = new Map<string, number[]>();
  const seen = new Set<string>();
  for (const { event, messageId } of destination.received) {
    if (seen.has(messageId)) continue;
    seen.add(messageId);
    users.set(event.userId, [...(users.get(event.userId) ?? []), event.n]);
  }
  return users;
}

test('killed again and again under traffic: nothing acknowledged is lost, order is kept, only what was in flight is repeated', async () => {
  const random = seeded(42);
  destination.answer = () => new Promise((resolve) => setTimeout(() => resolve(200), random() * 5));
  await startProcess();
  const acknowledged = new Map<string, number>();
  let sending = true;
  const users = Array.from({ length: 30 }, async (_, index) => {
    const user = `user-${index}`;
    for (let n = 1; sending; ) {
      const answer = await post(url, '/v1/track', { userId: user, n, messageId: `${user}-${n}` }).catch(() => null);
      if (answer?.status === 200) {
        acknowledged.set(user, n);
        n += 1;
      } else await new Promise((resolve) => setTimeout(resolve, 20)); // the same event again: its messageId makes that harmless
    }
  });
  let kills = 0;
  for (; kills < 4; kills += 1) {
    const before = destination.received.length;
    await until(() => destination.received.length > before + 300, { deadlineMs: 20_000, what: 'traffic' });
    child!.kill('SIGKILL');
    await ended(child!);
    await startProcess();
  }
  sending = false;
  await Promise.all(users);
  const total = [...acknowledged.values()].reduce((sum, n) => sum + n, 0);
  const distinct = (): number => new Set(destination.received.map(({ messageId }) => messageId)).size;
  await until(() => distinct() >= total, { deadlineMs: 30_000, what: `all of ${total} (${distinct()})` });
  for (const [user, numbers] of firstDeliveries()) expect(numbers, user).toEqual(numbers.map((_, i) => i + 1));
  expect(destination.received.length - distinct()).toBeLessThanOrEqual(kills * 64);
});

test('SIGTERM: what is in flight is finished and written, code 0, and the next process repeats nothing', async () => {
  destination.answer = () => new Promise((resolve) => setTimeout(() => resolve(200), 100));
  const first = await startProcess();
  for (let n = 1; n <= 20; n += 1)
    expect((await post(url, '/v1/track', { userId: `user-${n % 5}`, n, messageId: `m-${n}` })).status).toBe(200);
  await until(() => destination.received.length > 3, { deadlineMs: 10_000, what: 'deliveries' });
  first.kill('SIGTERM');
  expect(await ended(first)).toBe(0);
  expect(destination.received.length).toBe(destination.accepted.length);
  await startProcess();
  await until(() => destination.accepted.length >= 20, { deadlineMs: 10_000, what: 'the rest' });
  expect(new Set(destination.received.map(({ messageId }) => messageId)).size).toBe(20);
  expect(destination.received).toHaveLength(20);
});

test('a second process of the same node takes over: the first ends by itself and says why', async () => {
  const first = await startProcess();
  const saidByFirst = (): string => output;
  const session = await openSession({ node: 'node-0', clusterId: 'test', databaseUrl: jobs.url });
  await session.pool.end();
  await post(url, '/v1/track', { userId: 'anna', n: 1, messageId: 'm' }).catch(() => null);
  expect(await ended(first)).toBe(3);
  expect(saidByFirst()).toContain('another process has become this node');
});

test('it ends when its parent is gone, if it is told to', async () => {
  const started = await startProcess({ RINGMASTER_PARENT_FD: '3' });
  (started.stdio[3] as Writable).end();
  expect(await ended(started)).toBe(0);
});

test('with a bad configuration it does not start, and names what is wrong without printing a value', async () => {
  const started = spawnProcess({ RINGMASTER_GATEWAY_PORT: 'secret-x', RINGMASTER_CONTROL_TOKEN: 'short-y' });
  expect(await ended(started)).toBe(1);
  expect(output).toContain('CONFIG_INVALID');
  expect(output).toContain('RINGMASTER_GATEWAY_PORT');
  expect(output).not.toMatch(/secret-x|short-y/);
});
