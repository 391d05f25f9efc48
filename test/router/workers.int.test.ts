/** Goal: several processes are one router to whoever looks from outside. Method: the router's own process, a ring store on PostgreSQL, nodes in this process. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createPostgresRingStore, migrateRingStore } from '../../ringstore/postgres.ts';
import { decideAndAppend, type RingStore } from '../../ringstore/ringstore.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { until } from '../support/wait.ts';
import { FakeNode } from './harness.ts';

const MAIN = fileURLToPath(new URL('../../router/main.ts', import.meta.url));
const deadlineMs = 20_000;
let database: TestDatabase;
let store: RingStore;
let node: FakeNode;
let folder: string;
let router: ChildProcess;
let lines: Record<string, unknown>[];

beforeEach(async () => {
  database = await createTestDatabase();
  await migrateRingStore(database.url);
  store = createPostgresRingStore({ connectionString: database.url });
  node = new FakeNode('node-0');
  await node.start();
  const nodes = [{ node: 'node-0', databaseId: '00000000-0000-4000-8000-000000000000', url: node.url }];
  const by = { actor: 'test', reason: 'test', operation: null };
  const made = { type: 'make ring', clusterId: 'demo', partitionCount: 4, nodes } as const;
  const { ring } = await decideAndAppend(store, 'demo', made, by);
  node.seen = () => ring;
  folder = await mkdtemp(path.join(tmpdir(), 'ringmaster-workers-'));
});
afterEach(async () => {
  if (router.exitCode === null && router.signalCode === null) {
    router.kill('SIGKILL');
    await once(router, 'exit');
  }
  await node.stop();
  await store.close();
  await database.drop();
  await rm(folder, { recursive: true });
});

async function start(...args: string[]): Promise<string> {
  lines = [];
  router = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', MAIN, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: {
      PATH: process.env['PATH'],
      RINGMASTER_CLUSTER: 'demo',
      RINGMASTER_RINGSTORE_URL: database.url,
      RINGMASTER_ROUTER_RING_FILE: path.join(folder, 'ring.json'),
      RINGMASTER_ROUTER_LEAVE_MS: '100',
    },
  });
  createInterface({ input: router.stdout! }).on('line', (line) => lines.push(JSON.parse(line)));
  const listening = await until(() => lines.find(({ msg }) => msg === 'listening'), { deadlineMs, what: 'it listens' });
  return listening['url'] as string;
}

/** Each on a connection of its own, so that workers take turns. */
function call(url: string, body?: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const asking = request(url, { method: body ? 'POST' : 'GET', agent: false }, (answer) => {
      const chunks: Buffer[] = [];
      answer.on('data', (chunk: Buffer) => chunks.push(chunk));
      answer.on('end', () => resolve({ status: answer.statusCode!, body: Buffer.concat(chunks).toString() }));
      answer.on('error', reject);
    });
    asking.on('error', reject);
    asking.end(body);
  });
}
const track = (url: string, n: number) =>
  call(`${url}/v1/track`, JSON.stringify({ userId: `u-${n}`, messageId: `${n}` }));
const leases = () => store.leases('demo');
const pidsOf = async (): Promise<number[]> => (await leases()).map(({ router: name }) => Number(name.split('/')[1]));
const isAlive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

test('one port, one /metrics, one /ready; a worker that dies is started again; SIGTERM ends all', async () => {
  const url = await start('--workers', '3');
  await until(async () => (await leases()).length === 3, { deadlineMs, what: 'three leases' });
  expect((await leases()).map(({ worker }) => worker).sort()).toEqual([1, 2, 3]);
  expect(new Set((await leases()).map((lease) => lease.url))).toEqual(new Set([url]));
  for (let n = 0; n < 30; n += 1) expect((await track(url, n)).status).toBe(200);
  const metrics = async (): Promise<string> => (await call(`${url}/metrics`)).body;
  expect(await metrics()).toContain('ringmaster_router_requests_total{status="200"} 30');
  expect(await metrics()).toContain('ringmaster_router_ring_version 1');
  const ready = await call(`${url}/ready`);
  expect([ready.status, JSON.parse(ready.body)]).toMatchObject([200, { ready: true, version: 1, epoch: 1 }]);

  const before = await pidsOf();
  process.kill(before[0]!, 'SIGKILL');
  await until(async () => (await pidsOf()).some((pid) => !before.includes(pid)), { deadlineMs, what: 'a new worker' });
  for (let n = 30; n < 60; n += 1) expect((await track(url, n)).status).toBe(200);
  const all = new Set([...before, ...(await pidsOf())]);
  router.kill('SIGTERM');
  const [code] = await once(router, 'exit');
  expect(code).toBe(0);
  expect([...all].filter(isAlive)).toEqual([]);
  // Those that ended have said so; the one that was killed is listed until its lease is over.
  expect((await pidsOf()).filter((pid) => pid !== before[0])).toEqual([]);
  expect(node.stored).toHaveLength(60);
});

test('workers end with the primary, however it ends', async () => {
  await start('--workers', '2');
  await until(async () => (await leases()).length === 2, { deadlineMs, what: 'two leases' });
  const pids = await pidsOf();
  router.kill('SIGKILL');
  await until(() => !pids.some(isAlive), { deadlineMs, what: 'both are gone' });
});

test('where no worker can listen the router ends, and says why', async () => {
  const url = await start();
  const first = router;
  const env = { RINGMASTER_CLUSTER: 'demo', RINGMASTER_RINGSTORE_URL: database.url };
  const second = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', MAIN, '--workers', '2'], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { PATH: process.env['PATH'], ...env, RINGMASTER_ROUTER_PORT: new URL(url).port },
  });
  let said = '';
  second.stdout!.on('data', (bytes) => {
    said += String(bytes);
  });
  const [code] = await once(second, 'exit');
  expect(code).toBe(1);
  expect(said).toContain('EADDRINUSE');
  first.kill('SIGTERM');
  await once(first, 'exit');
});
