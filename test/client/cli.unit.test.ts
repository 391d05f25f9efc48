import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createApi } from '../../api/server.ts';
import type { LimitsAnswer } from '../../client/api-types.ts';
import { runCommand } from '../../client/cli/program.ts';
import {
  connectionFilePath,
  readConnectionFile,
  removeConnectionFile,
  writeConnectionFile,
} from '../../client/connection-file.ts';
import { CodedError } from '../../kit/errors.ts';
import type { RingCommand } from '../../ring/decide.ts';
import type { LimitName } from '../../ring/limits.ts';
import { createMemoryRingStore, type MemoryRingStore } from '../../ringstore/memory.ts';
import { decideAndAppend } from '../../ringstore/ringstore.ts';
import type { MoveCopy } from '../../workflows/messages.ts';
import { FakeOperations, FakeVerifications, verificationOf } from '../api/fakes.ts';
import { certificateFor } from '../support/certificate.ts';

const token = 'a-token-of-some-length';
const by = { actor: 'test', reason: 'to see', operation: null };
const node = (n: number) => ({ node: `node-${n}`, databaseId: `db-${n}`, url: `http://node-${n}` });

let store: MemoryRingStore;
let operations: FakeOperations;
let verifications: FakeVerifications;
let api: ReturnType<typeof createApi>;
let env: Record<string, string | undefined>;

beforeEach(async () => {
  store = createMemoryRingStore();
  await makeCluster('demo');
  operations = new FakeOperations();
  verifications = new FakeVerifications();
  api = createApi({ store, operations, verifications, token, log: pino({ level: 'silent' }) });
  env = { RINGMASTER_URL: await api.listen({ port: 0, host: '127.0.0.1' }), RINGMASTER_TOKEN: token };
});
afterEach(async () => {
  await api.close();
  await store.close();
});

const makeCluster = (clusterId: string) =>
  decideAndAppend(store, clusterId, { type: 'make ring', clusterId, partitionCount: 8, nodes: [node(0), node(1)] }, by);

interface Person {
  /** What a person at a terminal answers; without it there is no terminal. */
  readonly answers?: string[];
  /** Called with what Ctrl-C does. */
  readonly interrupt?: (press: () => void) => void;
}

async function ringmaster(line: string, person: Person = {}) {
  let out = '';
  let err = '';
  const asked: string[] = [];
  const isTTY = person.answers !== undefined;
  const code = await runCommand(line.match(/"[^"]*"|\S+/g)?.map((arg) => arg.replaceAll('"', '')) ?? [], {
    env,
    stdout: { isTTY, write: (text) => (out += text) },
    stderr: { isTTY, write: (text) => (err += text) },
    asksPeople: isTTY,
    ask: async (question) => {
      asked.push(question);
      return person.answers?.shift() ?? '';
    },
    onInterrupt: (handler) => {
      person.interrupt?.(handler);
      return () => {};
    },
    user: 'anna',
  });
  return { code, out, err, asked, json: () => JSON.parse(out) };
}

describe('limits', () => {
  test('are shown with what is the default, and what somebody set, when and why', async () => {
    expect((await ringmaster('limits get')).out).toContain('bytes-per-second  none     default');
    const { code, out } = await ringmaster(
      'limits set --bytes-per-second 20MB --moves-per-node 2 --reason "shared net"',
    );
    expect(code).toBe(0);
    expect(out).toContain('limits of the moves of demo');
    expect(out).toMatch(/bytes-per-second +20 MB\/s +set by anna just now: shared net/);
    expect(out).toMatch(/moves-per-node +2 +set by anna just now/);
    expect(out).toMatch(/commit-ms +50 ms +default/);
    expect((await ringmaster('log')).out).toContain(
      'limits set: bytesPerSecond 20000000, movesPerNode 2  [anna: shared net]',
    );
  });

  test.each([
    ['--bytes-per-second 500kB', { bytesPerSecond: 500_000 }],
    ['--bytes-per-second 1.5GB', { bytesPerSecond: 1_500_000_000 }],
    ['--bytes-per-second 4MiB', { bytesPerSecond: 4_194_304 }],
    ['--bytes-per-second 250000', { bytesPerSecond: 250_000 }],
    ['--bytes-per-second none', { bytesPerSecond: null }],
    ['--brake off', { brake: 'off' }],
    ['--commit-ms 80 --queue-delay-ms 2000', { commitMsMax: 80, queueDelayMsMax: 2_000 }],
  ])('limits set %s', async (flags, wanted) => {
    const { code, json } = await ringmaster(`limits set ${flags} --json`);
    expect(code).toBe(0);
    const { limits } = json() as LimitsAnswer;
    for (const [name, value] of Object.entries(wanted)) {
      expect(limits[name as LimitName]).toMatchObject({ value, set: { by: 'anna' } });
    }
  });

  test('default takes one back', async () => {
    await ringmaster('limits set --brake off --commit-ms 80');
    const { json } = await ringmaster('limits set --brake default --json');
    expect(json().limits).toMatchObject({ brake: { value: 'on', set: null }, commitMsMax: { value: 80 } });
  });

  test.each([
    ['limits set', /USAGE: name a limit/],
    ['limits set --bytes-per-second fast', /It must be a rate such as 20MB/],
    ['limits set --bytes-per-second 1kB', /LIMITS_INVALID: bytesPerSecond must be a whole number from 100000/],
    ['limits set --brake maybe', /USAGE: .*on, off, default/],
    ['limits set --commit-ms none', /It must be a whole number, or default/],
    ['limits set --moves-per-node 99', /LIMITS_INVALID: movesPerNode must be a whole number from 1 to 16/],
  ])('%s: one clear line, exit 2, nothing set', async (line, said) => {
    const { code, err } = await ringmaster(line);
    expect(code).toBe(2);
    expect(err).toMatch(said);
    expect(err.trim().split('\n')).toHaveLength(1);
    expect(await store.read('demo')).toHaveLength(1);
  });
});

describe('usage', () => {
  test('--help is a success and lists every command', async () => {
    const { code, out } = await ringmaster('--help');
    expect(code).toBe(0);
    for (const name of [
      'plan',
      'scale',
      'status',
      'operations',
      'pause',
      'resume',
      'retry',
      'cancel',
      'verify',
      'log',
      'ring',
      'cluster',
    ]) {
      expect(out).toMatch(new RegExp(`^  ${name}`, 'm'));
      expect((await ringmaster(`${name} --help`)).code).toBe(0);
    }
    expect(out).toContain('--cluster');
  });

  test.each([
    ['no command', ''],
    ['an unknown command', 'skale --to 3'],
    ['an unknown flag', 'scale --to 3 --fast'],
    ['no number of nodes', 'scale'],
    ['a number of nodes that is none', 'scale --to three'],
    ['half a node', 'plan --to 2.5'],
    ['no node', 'scale --to 0'],
    ['no operation', 'pause'],
    ['an argument too many', 'pause a b'],
    ['a version that is none', 'ring --at x'],
  ])('%s: exit 2, and one clear line', async (_name, line) => {
    const { code, out, err } = await ringmaster(line);
    expect(code).toBe(2);
    expect(out).toBe('');
    if (line !== '') expect(err).toMatch(/^USAGE: [^\n]+\n$/);
    expect(operations.operations).toHaveLength(0);
  });

  test('a number of nodes that this cluster cannot have: exit 2, with the limit', async () => {
    const { code, err } = await ringmaster('scale --to 9');
    expect(code).toBe(2);
    expect(err).toMatch(/^TARGET_NODES_INVALID: targetNodes must be a whole number from 1 to 8[^\n]*\n$/);
  });

  test('the program itself runs and knows its exit code', async () => {
    const main = path.resolve(import.meta.dirname, '../../client/cli/main.ts');
    const run = (...args: string[]) =>
      new Promise<number | null>((resolve) => {
        spawn(process.execPath, ['--disable-warning=ExperimentalWarning', main, ...args], {
          stdio: 'ignore',
          env: { ...process.env, ...env },
        }).on('exit', resolve);
      });
    expect(await run('--help')).toBe(0);
    expect(await run('scale')).toBe(2);
    expect(await run('status', '--json')).toBe(0);
    expect(await run('pause', 'abc')).toBe(1);
  });
});

describe('finding the API', () => {
  let home: string;
  beforeEach(() => {
    home = mkdtempSync(path.join(tmpdir(), 'ringmaster-cli-'));
  });
  afterEach(() => {
    rmSync(home, { recursive: true, force: true });
  });

  test('by the file that was left for it, which only its user can read', async () => {
    const file = connectionFilePath({ XDG_STATE_HOME: home });
    expect(file).toBe(path.join(home, 'ringmaster', 'api.json'));
    expect(connectionFilePath({ HOME: '/home/anna', XDG_STATE_HOME: 'relative' })).toBe(
      '/home/anna/.local/state/ringmaster/api.json',
    );
    const url = env['RINGMASTER_URL']!;
    writeConnectionFile({ url: 'http://127.0.0.1:1', token: 'old' }, file);
    writeConnectionFile({ url, token }, file);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    env = { XDG_STATE_HOME: home };
    expect((await ringmaster('cluster show')).code).toBe(0);
    removeConnectionFile('http://another', file);
    expect(readConnectionFile(file)).toEqual({ url, token });
    removeConnectionFile(url, file);
    expect(readConnectionFile(file)).toBeNull();
  });

  test('without any it says what to do', async () => {
    env = { XDG_STATE_HOME: home };
    const { code, err } = await ringmaster('status');
    expect(code).toBe(1);
    expect(err).toMatch(/^API_UNKNOWN: .*npm start[^\n]*\n$/);
  });

  test('with nothing behind the address it says what to do', async () => {
    await api.close();
    for (const line of ['status', 'scale --to 3 --cluster demo']) {
      const { code, err } = await ringmaster(line);
      expect(code).toBe(1);
      expect(err).toMatch(/^API_UNREACHABLE: nothing answers at http:\/\/127.0.0.1:\d+: is `npm start` running\?\n$/);
    }
  });

  test('with a wrong token it says what to do', async () => {
    env = { ...env, RINGMASTER_TOKEN: 'wrong' };
    const { code, err } = await ringmaster('status');
    expect(code).toBe(1);
    expect(err).toMatch(/^UNAUTHORIZED: .*RINGMASTER_TOKEN/);
  });

  test('an answer that was lost on the way is unknown: exit 3', { timeout: 20_000 }, async () => {
    const deaf = createServer((socket) => void socket.once('data', () => socket.destroy()));
    await new Promise<void>((resolve) => deaf.listen(0, '127.0.0.1', resolve));
    const { port } = deaf.address() as { port: number };
    env = { ...env, RINGMASTER_URL: `http://127.0.0.1:${port}` };
    const { code, err } = await ringmaster('scale --to 3 --cluster demo');
    expect(code).toBe(3);
    expect(err).toMatch(/^ANSWER_LOST: /);
    deaf.close();
  });
});

describe('which cluster', () => {
  test('need not be said where there is one; where there are several it must', async () => {
    expect((await ringmaster('cluster show --json')).json()).toMatchObject({ clusterId: 'demo' });
    await makeCluster('other');
    const { code, err } = await ringmaster('status');
    expect(code).toBe(2);
    expect(err).toMatch(/^CLUSTER_NOT_NAMED: .*demo, other/);
    expect((await ringmaster('cluster show --cluster other --json')).json()).toMatchObject({ clusterId: 'other' });
    const unknown = await ringmaster('plan --to 3 --cluster nope');
    expect(unknown).toMatchObject({ code: 1, err: 'CLUSTER_UNKNOWN: there is no cluster "nope"\n' });
  });
});

describe('plan and scale', () => {
  test('plan shows moves with their reasons, and the hash', async () => {
    const { code, out } = await ringmaster('plan --to 3');
    expect(code).toBe(0);
    expect(out).toMatch(/from 2 to 3 nodes/);
    expect(out).toMatch(/node-2 joins/);
    expect(out).toMatch(/plan hash: [0-9a-f]{16}/);
    expect((await ringmaster('plan --to 3 --json')).json()).toMatchObject({
      result: 'plan',
      plan: { added: ['node-2'] },
    });
    expect(operations.operations).toHaveLength(0);
  });

  test('scale without a terminal asks nothing and starts', async () => {
    const { code, out, asked } = await ringmaster('scale --to 3 --reason "more load"');
    expect(code).toBe(0);
    expect(asked).toEqual([]);
    const { input, progress } = operations.operations[0]!;
    expect(input).toMatchObject({ targetNodes: 3, reason: 'more load', actor: 'anna' });
    expect(out).toContain(`operation ${progress.operationId} started`);
    expect(out).toContain(`ringmaster cancel ${progress.operationId}`);
  });

  test('scale on a terminal shows the plan and asks; no is no', async () => {
    const { code, out, asked } = await ringmaster('scale --to 3', { answers: ['n'] });
    expect(code).toBe(1);
    expect(asked).toEqual(['Scale demo to 3 nodes? [y/N] ']);
    expect(out).toMatch(/node-2 joins/);
    expect(operations.operations).toHaveLength(0);
  });

  test('what was shown and approved is what is started', async () => {
    const { code, out } = await ringmaster('scale --to 3', { answers: ['y'] });
    expect(code).toBe(0);
    expect(out).toContain(`plan hash: ${operations.operations[0]!.input.planHash}`);
  });

  test('--yes asks nothing on a terminal either', async () => {
    const { asked } = await ringmaster('scale --to 3 --yes', { answers: [] });
    expect(asked).toEqual([]);
    expect(operations.operations).toHaveLength(1);
  });

  test('--dry-run starts nothing; another plan than --plan-hash is refused', async () => {
    expect((await ringmaster('scale --to 3 --dry-run')).out).toMatch(/plan hash/);
    const { code, err } = await ringmaster(`scale --to 3 --plan-hash ${'0'.repeat(16)}`);
    expect(code).toBe(1);
    expect(err).toMatch(/^PLAN_CHANGED: /);
    expect(operations.operations).toHaveLength(0);
  });

  test('nothing to do is a success', async () => {
    const { code, out } = await ringmaster('scale --to 2 --wait');
    expect(code).toBe(0);
    expect(out).toMatch(/^nothing to do/);
  });

  test('a second operation is refused and the first is named', async () => {
    await ringmaster('scale --to 3');
    const { code, err } = await ringmaster('scale --to 4');
    expect(code).toBe(1);
    expect(err).toMatch(/^OPERATION_RUNNING: /);
    expect(err).toContain(operations.operations[0]!.progress.operationId);
  });
});

describe('status of a move that copies', () => {
  const move = { n: 2, from: 'node-0', to: 'node-2', partitions: [3], because: 'node-2 joins', tries: 1 };
  const look = async (copy: MoveCopy) => {
    await ringmaster('scale --to 3');
    operations.script = [{ moves: [{ ...move, state: 'copying', jobsMoved: 0, jobsCopied: 0, copy }] }];
    return (await ringmaster('status')).out;
  };

  test('says what throttles it, and by how much', async () => {
    const throttledBy = 'brake: commit latency of node-0 is 83 ms, limit 50 ms';
    expect(await look({ jobsCopied: 120_000, throttledBy, bytesPerSecond: 12_345_678 })).toContain(
      `  move 2 from node-0 to node-2: copying, 120,000 jobs so far, throttled by ${throttledBy}, 12.3 MB/s at most\n`,
    );
  });

  test('says nothing of the kind where nothing does', async () => {
    expect(await look({ jobsCopied: 1, throttledBy: null, bytesPerSecond: null })).toContain(
      '  move 2 from node-0 to node-2: copying, 1 job so far\n',
    );
  });
});

describe('scale --wait', () => {
  const moving = { phase: 'move partitions' as const, partitionsToMove: 2, jobsMoved: 1_234 };

  test('says each change and ends with the operation: exit 0', async () => {
    operations.script = [
      { phase: 'add nodes' },
      { ...moving, partitionsMoved: 1 },
      {
        ...moving,
        state: 'completed',
        partitionsMoved: 2,
        endedAt: new Date().toISOString(),
        phasesMs: { 'add nodes': 1_200 },
      },
    ];
    const { code, out } = await ringmaster('scale --to 3 --wait');
    expect(code).toBe(0);
    expect(out).toMatch(/add nodes\n.*1 of 2 partitions, 1,234 jobs\n/);
    expect(out).toMatch(/completed after .*2 partitions and 1,234 jobs moved\n {2}add nodes 1\.2 s\n$/);
    expect(out).not.toContain('\u001b');
  });

  test('a blocked operation: exit 4, with what it waits for and what to do', async () => {
    const blockedOn = {
      code: 'NODE_BLOCKED',
      message: 'node-2 has another database',
      since: '2026-01-01T00:00:00Z',
      phase: 'add nodes' as const,
    };
    operations.script = [{ state: 'blocked', blockedOn, nextAction: 'ringmaster retry abc' }];
    const { code, out } = await ringmaster('scale --to 3 --wait');
    expect(code).toBe(4);
    expect(out).toMatch(/blocked on NODE_BLOCKED: node-2 has another database/);
    expect(out).toMatch(/next: ringmaster retry abc/);
  });

  test.each(['cancelled', 'failed'] as const)('an operation that ends %s: exit 1', async (state) => {
    operations.script = [{ state, endedAt: new Date().toISOString() }];
    expect((await ringmaster('scale --to 3 --wait')).code).toBe(1);
  });

  test('with --json the standard output is the progress at the end, and nothing else', async () => {
    operations.script = [{}, { state: 'completed', endedAt: new Date().toISOString() }];
    expect((await ringmaster('scale --to 3 --wait --json')).json()).toMatchObject({ state: 'completed' });
  });

  test('a worker that is away for a moment is waited for', async () => {
    const running = ringmaster('scale --to 3 --wait');
    await expect.poll(() => operations.operations.length).toBe(1);
    operations.down = new CodedError('WORKER_UNREACHABLE', 'no worker answers');
    await new Promise((resolve) => setTimeout(resolve, 700));
    operations.script = [{ state: 'completed', endedAt: new Date().toISOString() }];
    operations.down = null;
    const { code, out } = await running;
    expect(code).toBe(0);
    expect(out).toMatch(/WORKER_UNREACHABLE/);
  });

  test('Ctrl-C only stops watching, and says how to look again and how to cancel', async () => {
    const { code, out } = await ringmaster('scale --to 3 --wait', { interrupt: (press) => setTimeout(press, 100) });
    expect(code).toBe(3);
    const { operationId, state } = operations.operations[0]!.progress;
    expect(out).toMatch(/stopped watching; the operation goes on/);
    expect(out).toContain('ringmaster status --watch');
    expect(out).toContain(`ringmaster cancel ${operationId}`);
    expect(state).toBe('running');
    expect(operations.requests).toEqual([]);
  });

  test('on a terminal there is a bar; with NO_COLOR there is not', async () => {
    const ended = { ...moving, state: 'completed' as const, partitionsMoved: 2, endedAt: new Date().toISOString() };
    operations.script = [{ ...moving, partitionsMoved: 1 }, ended];
    const withBar = await ringmaster('scale --to 3 --wait --yes', { answers: [] });
    expect(withBar.code).toBe(0);
    env = { ...env, NO_COLOR: '1' };
    operations.script = [{ ...moving, partitionsMoved: 1 }, ended];
    operations.operations.length = 0;
    const { out } = await ringmaster('scale --to 3 --wait --yes', { answers: [] });
    expect(out).toMatch(/1 of 2 partitions/);
    expect(out).not.toContain('\u001b');
  });
});

describe('looking and steering', () => {
  test('status shows the cluster and its operation', async () => {
    expect((await ringmaster('status')).out).toMatch(
      /demo: 2 nodes, 8 partitions, epoch 1, version 1, not frozen\nNODE {4}PARTITIONS/,
    );
    await ringmaster('scale --to 3 --reason "x\u001b[31my"');
    const { out } = await ringmaster('status');
    expect(out).toMatch(/operation [0-9a-f-]{13}: 2 → 3 nodes, running, plan, started just now \(x\?\[31my\)/);
    expect((await ringmaster('status --json')).json()).toMatchObject({
      cluster: { clusterId: 'demo' },
      operation: { state: 'running' },
    });
  });

  test('status says so when Temporal or the worker is away', async () => {
    await ringmaster('scale --to 3');
    operations.down = new CodedError('TEMPORAL_UNREACHABLE', 'away');
    const { code, out } = await ringmaster('status');
    expect(code).toBe(0);
    expect(out).toMatch(/Temporal cannot be reached/);
  });

  test('status --watch goes on until Ctrl-C, which is no failure', async () => {
    const { code, out } = await ringmaster('status --watch', { interrupt: (press) => setTimeout(press, 200) });
    expect(code).toBe(0);
    expect(out.match(/demo: 2 nodes/g)).toHaveLength(1); // without a terminal only changes are written
  });

  test('operations are listed', async () => {
    expect((await ringmaster('operations')).out).toBe('no operations yet\n');
    await ringmaster('scale --to 3 --reason why');
    expect((await ringmaster('operations')).out).toMatch(
      /OPERATION.*\n[0-9a-f-]{13} {2}running +3 +just now +anna +why\n/,
    );
  });

  test.each([
    ['pause', 'paused'],
    ['resume', 'running'],
    ['retry', 'running'],
    ['cancel', 'cancelling'],
  ])('%s steers an operation by a prefix of its id', async (action, state) => {
    await ringmaster('scale --to 3');
    const { operationId } = operations.operations[0]!.progress;
    const { code, out } = await ringmaster(`${action} ${operationId.slice(0, 5)} --reason lunch`);
    expect(code).toBe(0);
    expect(out).toContain(state);
    expect(operations.requests).toEqual([{ action, operationId, request: { actor: 'anna', reason: 'lunch' } }]);
    expect(await ringmaster(`${action} zz`)).toMatchObject({
      code: 1,
      err: expect.stringMatching(/^OPERATION_UNKNOWN: /),
    });
  });

  test('retry --accept-difference needs a reason, and passes it on', async () => {
    await ringmaster('scale --to 3');
    const { operationId } = operations.operations[0]!.progress;
    expect(await ringmaster(`retry ${operationId} --accept-difference`)).toMatchObject({
      code: 2,
      err: expect.stringMatching(/^USAGE: --accept-difference needs --reason/),
    });
    expect((await ringmaster(`cancel ${operationId} --accept-difference`)).code).toBe(2);
    expect((await ringmaster(`retry ${operationId} --accept-difference --reason "a test event"`)).code).toBe(0);
    expect(operations.requests).toEqual([
      { action: 'retry', operationId, request: { actor: 'anna', reason: 'a test event', acceptDifference: true } },
    ]);
  });

  test('undo of an operation that runs asks a person first, and stops it', async () => {
    await ringmaster('scale --to 3');
    const { operationId } = operations.operations[0]!.progress;
    const { code, out } = await ringmaster(`undo ${operationId.slice(0, 5)} --reason "a mistake"`);
    expect(code).toBe(0);
    expect(out).toMatch(/^operation [0-9a-f-]{13} is being undone\n {2}look again: {2}ringmaster status --watch\n/);
    expect(operations.requests).toEqual([
      { action: 'undo', operationId, request: { actor: 'anna', reason: 'a mistake' } },
    ]);
    expect(await ringmaster('undo zz')).toMatchObject({ code: 1, err: expect.stringMatching(/^OPERATION_UNKNOWN: /) });
  });

  test('what somebody has accepted to be different is told by status and log', async () => {
    const append = (command: RingCommand) => decideAndAppend(store, 'demo', command, by);
    await append({ type: 'freeze', by: { operationId: 'op', workflowId: 'w', runId: 'r' } });
    await append({ type: 'start move', holder: 1, move: 'op/move-1.1', from: 'node-0', to: 'node-1', partitions: [0] });
    const { ring } = await append({ type: 'claim move', holder: 1, move: 'op/move-1.1', attempt: 'x' });
    const proof = { jobsPending: 1, jobsCopied: 1, prefixes: [{ prefix: 'gw', pending: 1, digest: '7' }] };
    await append({ type: 'hand over', move: 'op/move-1.1', token: ring.version, proof });
    const accepted = { by: 'ada', reason: 'one test event', difference: 'gw: 1 against 0' };
    await append({ type: 'accept difference', move: 'op/move-1.1', accepted });
    expect((await ringmaster('status')).out).toContain(
      'accepted by ada at version 6 (one test event): gw: 1 against 0',
    );
    expect((await ringmaster('log')).out).toContain(
      'move-1.1 completed without certificate: ada has accepted that its sides differ (one test event): gw: 1 against 0',
    );
  });

  test('node drain starts an operation, node activate is an event of the log; status and log show both', async () => {
    expect((await ringmaster('node drain node-1 --dry-run')).out).toMatch(
      /drained: {2}node-1\n[\s\S]*node-1 is drained/,
    );
    expect(operations.operations).toHaveLength(0);
    const { code, out } = await ringmaster('node drain node-1 --reason "a slow disk"');
    expect(code).toBe(0);
    expect(out).toMatch(/^operation [0-9a-f-]{36} started, which drains node-1\n/);
    expect(operations.operations[0]?.input).toMatchObject({
      goal: { kind: 'drain', node: 'node-1' },
      reason: 'a slow disk',
    });
    expect(await ringmaster('node drain node-9 --dry-run')).toMatchObject({
      code: 1,
      err: expect.stringMatching(/^NODE_UNKNOWN/),
    });
    await decideAndAppend(
      store,
      'demo',
      { type: 'freeze', by: { operationId: 'op', workflowId: 'w', runId: 'r' } },
      by,
    );
    await decideAndAppend(store, 'demo', { type: 'drain node', holder: 1, node: 'node-1' }, by);
    expect((await ringmaster('status')).out).toMatch(/node-1 .*\(drained\)/);
    expect((await ringmaster('node activate node-1')).out).toBe(
      'node-1 is active: the next operation gives it its share\n',
    );
    expect((await ringmaster('log')).out).toMatch(
      /node drained: node-1 is given nothing[\s\S]*node activated: node-1 {2}\[anna\]/,
    );
  });

  test('node forget needs the acceptance and a reason, and asks a person for the name', async () => {
    for (const line of ['node forget node-1', 'node forget node-1 --accept-loss', 'node forget node-1 --reason x'])
      expect(await ringmaster(line)).toMatchObject({
        code: 2,
        err: expect.stringMatching(/^USAGE: what node-1 holds would be lost/),
      });
    const asked = await ringmaster('node forget node-1 --accept-loss --reason x', { answers: ['yes'] });
    expect(asked).toMatchObject({
      code: 1,
      asked: [expect.stringContaining('All that node-1 holds is lost for ever')],
    });
    expect(operations.operations).toHaveLength(0);
    expect(
      (await ringmaster('node forget node-1 --accept-loss --reason "its disk burnt"', { answers: ['node-1'] })).code,
    ).toBe(0);
    expect(operations.operations[0]?.input).toMatchObject({
      goal: { kind: 'forget', node: 'node-1', acceptLoss: true },
      reason: 'its disk burnt',
      actor: 'anna',
    });
  });

  test('the log is shown, and followed until Ctrl-C', async () => {
    expect((await ringmaster('log')).out).toMatch(
      /^ {4}1 {2}.*ring made: 8 partitions on node-0, node-1 {2}\[test: to see\]\n$/,
    );
    expect((await ringmaster('log --json')).json().events).toHaveLength(1);
    let press = (): void => {};
    const following = ringmaster('log --follow --json', { interrupt: (handler) => (press = handler) });
    await new Promise((resolve) => setTimeout(resolve, 150));
    const identity = { operationId: 'op', workflowId: 'w', runId: 'r' };
    await decideAndAppend(store, 'demo', { type: 'freeze', by: identity }, by);
    await new Promise((resolve) => setTimeout(resolve, 150));
    press();
    const { code, out } = await following;
    expect(code).toBe(0);
    const types = out
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).event.type);
    expect(types).toEqual(['ring made', 'ring frozen']);
  });

  test('the ring is shown, also as it was', async () => {
    expect((await ringmaster('ring')).out).toMatch(/node-1 +4 +4-7/);
    expect((await ringmaster('ring --at 1 --json')).json()).toMatchObject({ version: 1 });
    expect(await ringmaster('ring --at 7')).toMatchObject({
      code: 1,
      err: 'RING_VERSION_UNKNOWN: the log of demo ends at version 1\n',
    });
  });
});

describe('verify', () => {
  const cluster = { version: 9, epoch: 3, nodes: 2, problems: [], problemCount: 0 };
  const at = new Date().toISOString();

  test('looks at the cluster: exit 0 where it is as it should be, 1 where not, naming what', async () => {
    verifications.script = [{ cluster }, { state: 'completed', verdict: 'verified', endedAt: at }];
    const good = await ringmaster('verify');
    expect(good).toMatchObject({ code: 0, err: '' });
    expect(good.out).toContain('as it should be');
    expect(verifications.requests).toMatchObject([{ clusterId: 'demo', actor: 'anna' }]);

    const problems = [{ node: 'node-1', move: null, what: 'has folded version 8 of 9' }];
    verifications.script = [
      { cluster: { ...cluster, problems, problemCount: 1 }, state: 'completed', verdict: 'differs', endedAt: at },
    ];
    const bad = await ringmaster('verify');
    expect(bad.code).toBe(1);
    expect(bad.out).toContain('node-1 has folded version 8 of 9');
  });

  test('--full names what differs: where, in which columns, how many in all', async () => {
    const where = {
      move: 'op/move-1.1',
      prefix: 'gw',
      tableAtSource: 'gw_jobs_1',
      idAtSource: 7,
      tableAtTarget: 'gw_jobs_2',
      idAtTarget: 107,
    };
    const samples = [{ ...where, kind: 'differs', partition: 3, columns: ['event_payload'] }] as const;
    verifications.script = [
      { movesTotal: 1, jobsTotal: 100, jobsCompared: 50 },
      {
        state: 'completed',
        verdict: 'differs',
        cluster,
        movesDone: 1,
        jobsCompared: 100,
        samples,
        endedAt: at,
        counts: { missing: 0, added: 0, differs: 12, 'changed places': 0 },
      },
    ];
    const { code, out } = await ringmaster('verify --full --samples 1');
    expect(code).toBe(1);
    expect(out).toContain('50 of 100 jobs compared');
    expect(out).toContain('12 differs');
    expect(out).toMatch(/op\/move-1.1 +differs +gw_jobs_1 7 +gw_jobs_2 107 +3 +event_payload/);
    expect(verifications.requests).toMatchObject([{ full: true, samplesMax: 1 }]);
  });

  test('what could not be compared is told: no failure, and not called as it should be', async () => {
    const notCompared = [{ move: 'op/move-1.1', jobs: 40, because: 'its source has deleted them since' }];
    verifications.script = [
      {
        state: 'completed',
        verdict: 'incomplete',
        cluster,
        notCompared,
        notComparedMoves: 1,
        notComparedJobs: 40,
        endedAt: at,
      },
    ];
    const { code, out } = await ringmaster('verify --full');
    expect(code).toBe(0);
    expect(out).toContain('nothing differs of what could be compared; not all could be');
    expect(out).toContain('op/move-1.1, 40 jobs: its source has deleted them since');
  });

  test('Ctrl-C stops the watching only, and tells how to look again, to stop and to go on', async () => {
    const { code, out } = await ringmaster('verify --full', { interrupt: (press) => setTimeout(press, 100) });
    expect(code).toBe(3);
    for (const line of ['ringmaster verify --watch', 'ringmaster verify --stop', 'ringmaster verify --full --resume'])
      expect(out).toContain(line);
    expect(verifications.last).toMatchObject({ state: 'running' });
  });

  test('--stop stops it; started again a person is asked whether it goes on from there', async () => {
    verifications.last = verificationOf({ jobsTotal: 100, jobsCompared: 30 });
    expect(await ringmaster('verify --stop')).toMatchObject({ code: 0 });
    verifications.script = [{}, { state: 'completed', verdict: 'verified', cluster, endedAt: at }];
    const again = await ringmaster('verify --full', { answers: [''] });
    expect(again.asked).toEqual(['The last was stopped after 30 of 100 jobs. Go on from there? [Y/n] ']);
    expect(again.code).toBe(0);
    expect(verifications.requests.at(-1)).toMatchObject({ full: true, resume: true });
  });

  test('without a terminal it starts anew unless --resume says otherwise, and says so', async () => {
    const stopped = verificationOf({ state: 'stopped', endedAt: at, jobsTotal: 100, jobsCompared: 30 });
    const done = { state: 'completed', verdict: 'verified', cluster, endedAt: at } as const;
    verifications.last = stopped;
    verifications.script = [{}, done];
    expect((await ringmaster('verify --full')).out).toContain('--resume goes on');
    expect(verifications.requests.at(-1)).not.toHaveProperty('resume');
    verifications.last = stopped;
    verifications.script = [done];
    await ringmaster('verify --full --resume --json');
    expect(verifications.requests.at(-1)).toMatchObject({ resume: true });
  });

  test('--operation shows its certificates: a table, each partition with --verbose, all with --json; exit 1 while one is missing', async () => {
    const operation = '5d0ec5b2-9376-4228-82ac-7516b6afe922';
    const move = `${operation}/move-1.1`;
    const append = async (command: RingCommand) =>
      (await decideAndAppend(store, 'demo', command, { ...by, operation })).ring;
    await append({ type: 'freeze', by: { operationId: operation, workflowId: 'w', runId: 'r' } });
    await append({ type: 'start move', holder: 1, move, from: 'node-0', to: 'node-1', partitions: [0] });
    const { moves } = await append({ type: 'claim move', holder: 1, move, attempt: 'x' });
    const proof = { jobsPending: 5, jobsCopied: 6, prefixes: [{ prefix: 'gw', pending: 5, digest: '7' }] };
    const ring = await append({ type: 'hand over', move, token: moves[0]!.token, proof });
    const open = await ringmaster('verify --operation 5d0ec5b2');
    expect(open.code).toBe(1);
    expect(open.out).toContain('move-1.1 has no certificate: its source and target have not been found equal yet');

    await append({ type: 'complete move', move, certificate: certificateFor(ring, move) });
    const { code, out } = await ringmaster('verify --operation 5d0ec5b2 --verbose');
    expect(code).toBe(0);
    expect(out).toContain('1 of 1 move that were handed over certified, 5 jobs');
    expect(out).toMatch(/move-1.1 +node-0 +node-1 +0 +2 +5 +0 +0 /);
    expect(out).toMatch(/gw +0 +5 +7 +9 +1–5 +101–105/);
    expect((await ringmaster('verify --operation 5d0ec5b2 --json')).json()).toMatchObject({
      operation,
      moves: [{ certificate: { jobs: 5 } }],
    });
  });

  test.each(['verify --full --stop', 'verify --watch --stop', 'verify --resume', 'verify --full --samples 0'])(
    '%s: exit 2',
    async (line) => {
      const { code, err } = await ringmaster(line);
      expect(code).toBe(2);
      expect(err).toMatch(/^USAGE: [^\n]+\n$/);
      expect(verifications.requests).toEqual([]);
    },
  );
});
