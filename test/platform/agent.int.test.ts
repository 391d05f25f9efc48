import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createLocalPlatform } from '../../platform/local/client.ts';
import { dataRoot, makeEnterable } from '../../platform/local/places.ts';
import { isAlive } from '../../platform/local/processes.ts';
import type { NodeEndpoints } from '../../platform/platform.ts';
import { until } from '../support/wait.ts';

const file = (relative: string) => fileURLToPath(new URL(relative, import.meta.url));
const token = randomBytes(16).toString('hex');

/** Goal: nodes live and die as the platform's contract says, whatever happens to the agent. Method: a real agent process, real PostgreSQL servers,
 * a stand-in for the node's backend. */
const left = { cluster: 'demo', epoch: 1, at: '2026-01-01T00:00:00.000Z' };

describe('the local platform agent', () => {
  let folder: string;
  let agents: ChildProcess[];
  let platform: ReturnType<typeof createLocalPlatform>;

  beforeEach(async () => {
    folder = path.join(dataRoot(), 'test', `agent-${randomBytes(6).toString('hex')}`);
    makeEnterable(folder); // not mkdtemp: its 0700 would keep PostgreSQL's user out
    agents = [];
    platform = await startAgent();
  });

  afterEach(async () => {
    await platform.close();
    for (const agent of agents) await endProcess(agent, 'SIGTERM');
    rmSync(folder, { recursive: true, force: true });
  });

  async function startAgent() {
    const configFile = path.join(folder, 'config.json');
    const addressFile = path.join(folder, 'address.json');
    rmSync(addressFile, { force: true });
    const config = {
      cluster: 'test',
      token,
      dataFolder: path.join(folder, 'data'),
      ringStoreUrl: 'postgres://nobody@127.0.0.1:1/none',
      nodeEntry: file('../support/stand-in-node.ts'),
      faults: true,
    };
    writeFileSync(configFile, JSON.stringify(config), { mode: 0o600 });
    const agent = spawn(process.execPath, [file('../../platform/local/agent-main.ts')], {
      stdio: ['ignore', 'ignore', 'inherit'],
      env: { ...process.env, RINGMASTER_AGENT_CONFIG: configFile, RINGMASTER_AGENT_ADDRESS_FILE: addressFile },
    });
    agents.push(agent);
    await until(() => existsSync(addressFile), { deadlineMs: 10_000, what: 'the agent listens' });
    const { url } = JSON.parse(readFileSync(addressFile, 'utf8')) as { url: string };
    return createLocalPlatform({ url, token });
  }

  const postgresPid = (node: string) =>
    Number(readFileSync(path.join(folder, `data/nodes/${node}/data/postmaster.pid`), 'utf8').split('\n')[0]);
  const backendPid = (node: string) =>
    Number(readFileSync(path.join(folder, `data/nodes/${node}/backend.pid`), 'utf8'));

  test('a wanted node runs with its own PostgreSQL; wanting it again gives the same; removing it leaves nothing', async () => {
    const first = await platform.ensureNode('node-0');
    expect(await platform.ensureNode('node-0')).toEqual(first);
    expect(await platform.describeNode('node-0')).toEqual(first);
    const disk = statfsSync(folder);
    const room = (await platform.roomOf('node-0'))!;
    expect(room.totalBytes).toBe(disk.blocks * disk.bsize);
    expect(room.freeBytes).toBeGreaterThan(0);
    expect(room.freeBytes).toBeLessThanOrEqual(room.totalBytes);
    expect(await platform.roomOf('node-7')).toBeNull();
    const second = await platform.ensureNode('node-1');
    expect(second.database.port).not.toBe(first.database.port);
    expect(await systemIdentifier(first.database)).not.toBe(await systemIdentifier(second.database));
    expect((await platform.listNodes()).map(({ node, condition }) => `${node} ${condition}`)).toEqual([
      'node-0 running',
      'node-1 running',
    ]);

    const pids = [postgresPid('node-0'), backendPid('node-0')];
    await platform.removeNode('node-0', { deleteData: true, left });
    await platform.removeNode('node-0', { deleteData: true, left });
    expect(pids.filter(isAlive)).toEqual([]);
    expect(existsSync(path.join(folder, 'data/nodes/node-0'))).toBe(false);
    expect(await platform.describeNode('node-0')).toBeNull();
    expect((await platform.listNodes()).map(({ node }) => node)).toEqual(['node-1']);
  });

  test('a node removed without its data finds it again, at the same addresses', async () => {
    const before = await platform.ensureNode('node-0');
    await query(before.database, 'CREATE TABLE kept AS SELECT 7 AS seven');
    await platform.removeNode('node-0', { deleteData: false, left });
    expect(await platform.listNodes()).toEqual([{ node: 'node-0', condition: 'absent' }]);
    expect(await platform.ensureNode('node-0')).toEqual(before);
    expect(await query(before.database, 'SELECT seven FROM kept')).toEqual([{ seven: 7 }]);
  });

  test('the last look comes between backend and database: what it finds keeps the database, and the node can come back', async () => {
    const before = await platform.ensureNode('node-0');
    const backend = backendPid('node-0');
    const lastLook = async (database: NodeEndpoints['database']): Promise<void> => {
      expect(isAlive(backend)).toBe(false);
      expect(await query(database, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
      throw new Error('a job is left');
    };
    await expect(platform.removeNode('node-0', { deleteData: true, left, lastLook })).rejects.toThrow('a job is left');
    expect(await query(before.database, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
    expect(await platform.ensureNode('node-0')).toEqual(before);
    expect(backendPid('node-0')).not.toBe(backend);
    await platform.removeNode('node-0', { deleteData: true, left, lastLook: async () => undefined });
    expect(await platform.describeNode('node-0')).toBeNull();
  });

  test.each(['backend', 'postgres'] as const)(
    'a killed %s comes back at the same address, the other is left alone',
    async (what) => {
      const node = await platform.ensureNode('node-0');
      const before = { backend: backendPid('node-0'), postgres: postgresPid('node-0') };
      await platform.kill('node-0', what);
      const pidOf = { backend: backendPid, postgres: postgresPid };
      await until(() => pidOf[what]('node-0') !== before[what], {
        deadlineMs: 10_000,
        what: `${what} is a new process`,
      });
      await until(() => query(node.database, 'SELECT 1'), { deadlineMs: 10_000, what: 'the database answers' });
      expect(await platform.ensureNode('node-0')).toEqual(node);
      const other = what === 'backend' ? 'postgres' : 'backend';
      expect(pidOf[other]('node-0')).toBe(before[other]);
    },
  );

  test('an agent killed outright takes its nodes along within 5 s, and the next one starts them at the same addresses', async () => {
    const before = await platform.ensureNode('node-0');
    await query(before.database, 'CREATE TABLE kept AS SELECT 7 AS seven');
    const pids = [postgresPid('node-0'), backendPid('node-0')];
    const [agent] = agents;
    if (agent) await endProcess(agent, 'SIGKILL');
    await until(() => pids.filter(isAlive).length === 0, {
      deadlineMs: 5000,
      what: 'PostgreSQL and backend have ended',
    });
    await platform.close();

    platform = await startAgent();
    await until(async () => (await platform.listNodes())[0]?.condition === 'running', {
      deadlineMs: 20_000,
      what: 'node-0 runs by itself',
    });
    expect(await platform.describeNode('node-0')).toEqual(before);
    expect(await query(before.database, 'SELECT seven FROM kept')).toEqual([{ seven: 7 }]);
  });

  test('refuses a wrong token, a bad name and an unknown field', async () => {
    const stranger = createLocalPlatform({ url: String(agentUrl()), token: 'not-the-token-at-all' });
    await expect(stranger.listNodes()).rejects.toThrow('UNAUTHORIZED');
    await stranger.close();
    await expect(platform.ensureNode('Node_0')).rejects.toThrow('BAD_REQUEST');
    await expect(platform.kill('node-9', 'backend')).rejects.toThrow('NODE_UNKNOWN');
  });

  const agentUrl = () => (JSON.parse(readFileSync(path.join(folder, 'address.json'), 'utf8')) as { url: string }).url;
});

async function endProcess(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill(signal);
  await ended;
}

async function query(config: pg.ClientConfig, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ ...config, connectionTimeoutMillis: 2000 });
  client.on('error', () => {});
  await client.connect();
  try {
    return (await client.query(sql)).rows as unknown[];
  } finally {
    await client.end();
  }
}

async function systemIdentifier(config: pg.ClientConfig): Promise<unknown> {
  return (await query(config, 'SELECT system_identifier::text FROM pg_control_system()'))[0];
}
