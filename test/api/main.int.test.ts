import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createPostgresRingStore } from '../../ringstore/postgres.ts';
import { decideAndAppend } from '../../ringstore/ringstore.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

const token = 'a-token-of-some-length';
const main = path.resolve(import.meta.dirname, '../../api/main.ts');

let database: TestDatabase;
let running: ChildProcess | null = null;

beforeEach(async () => {
  database = await createTestDatabase();
});
afterEach(async () => {
  running?.kill('SIGKILL');
  await database.drop();
});

interface Started {
  readonly lines: Record<string, unknown>[];
  readonly line: (has: string) => Promise<Record<string, unknown>>;
  readonly exited: Promise<number | null>;
  readonly child: ChildProcess;
}

function startApi(env: Record<string, string>): Started {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', main], {
    env: {
      ...process.env,
      RINGMASTER_API_PORT: '0',
      RINGMASTER_API_TOKEN: token,
      RINGMASTER_RINGSTORE_URL: database.url,
      TEMPORAL_ADDRESS: '127.0.0.1:1', // nothing is there
      RINGMASTER_PARENT_FD: '3',
      ...env,
    },
    stdio: ['ignore', 'pipe', 'inherit', 'pipe'],
  });
  running = child;
  const lines: Record<string, unknown>[] = [];
  let wake = (): void => {};
  createInterface({ input: child.stdout! }).on('line', (text) => {
    lines.push(JSON.parse(text));
    wake();
  });
  const line = async (has: string): Promise<Record<string, unknown>> => {
    for (;;) {
      const found = lines.find((each) => String(each['msg']).includes(has));
      if (found) return found;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
  const exited = new Promise<number | null>((resolve) => child.on('exit', resolve));
  return { lines, line, exited, child };
}

const get = (url: unknown, at: string) => fetch(`${url}${at}`, { headers: { authorization: `Bearer ${token}` } });

test('starts on an empty ring store and without Temporal, serves rings, and ends cleanly on SIGTERM', async () => {
  const api = startApi({});
  const { url } = await api.line('api listens');
  const store = createPostgresRingStore({ connectionString: database.url });
  const nodes = [{ node: 'node-0', databaseId: 'd', url: 'http://n' }];
  const by = { actor: 'test', reason: 'to see', operation: null };
  await decideAndAppend(store, 'demo', { type: 'make ring', clusterId: 'demo', partitionCount: 8, nodes }, by);
  await store.close();
  expect(await (await get(url, '/v1/health')).json()).toEqual({
    status: 'ok',
    ringStore: 'ok',
    temporal: 'unreachable',
  });
  expect(await (await get(url, '/v1/clusters/demo')).json()).toMatchObject({ version: 1, temporal: 'unreachable' });
  const following = get(url, '/v1/clusters/demo/log?after=1&waitMs=20000');
  const scale = await fetch(`${url}/v1/clusters/demo/operations`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ targetNodes: 2 }),
  });
  expect(scale.status).toBe(503);
  expect(await scale.json()).toMatchObject({ code: 'TEMPORAL_UNREACHABLE' });
  api.child.kill('SIGTERM');
  expect(await (await following).json()).toEqual({ events: [], next: 1 });
  expect(await api.exited).toBe(0);
  expect(JSON.stringify(api.lines)).not.toContain(token);
});

test('ends when its parent is gone', async () => {
  const api = startApi({});
  await api.line('api listens');
  (api.child.stdio[3] as { destroy(): void }).destroy();
  await api.exited;
});

test('a bad configuration is one line that names each bad variable, and no value', async () => {
  const api = startApi({ RINGMASTER_API_TOKEN: 'short-secret', RINGMASTER_API_PORT: '99999' });
  expect(await api.exited).toBe(1);
  expect(api.lines).toHaveLength(1);
  expect(api.lines[0]).toMatchObject({
    error: expect.stringMatching(
      /^CONFIG_INVALID: RINGMASTER_API_PORT: must be a port.*RINGMASTER_API_TOKEN: must have at least 16/,
    ),
  });
  expect(JSON.stringify(api.lines)).not.toContain('short-secret');
});
