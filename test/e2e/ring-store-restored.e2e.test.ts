/**
 * Goal: a ring store that is restored from an older backup rewrites no history: whoever has seen more serves on and follows nobody, nothing is changed on what it
 * holds, and `ringmaster ring repair` gives it back what it lost.
 * Method: the embedded stack under traffic; the ring store's folder is copied while it is stopped, and put back after an operation.
 */
import { execFile } from 'node:child_process';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { runCommand } from '../../client/cli/program.ts';
import { createNodeControl } from '../../dataplane/reference/control-client.ts';
import { createPostgresRingStore } from '../../ringstore/postgres.ts';
import { until } from '../support/wait.ts';
import { type TestCluster, withCluster } from './cluster.ts';

/** With owners and times, as a snapshot of a volume has them. */
const copy = (from: string, to: string) => promisify(execFile)('cp', ['-a', from, to]);

async function ringmaster({ stack }: TestCluster, ...args: string[]): Promise<{ code: number; said: string }> {
  let said = '';
  const code = await runCommand(args, {
    env: { RINGMASTER_URL: stack.api.url, RINGMASTER_TOKEN: stack.api.token },
    stdout: { isTTY: false, write: (text) => (said += text) },
    stderr: { isTTY: false, write: (text) => (said += text) },
    asksPeople: false,
    ask: async () => '',
    onInterrupt: () => () => {},
    user: 'ada',
  });
  return { code, said };
}

test('a ring store from before an operation: traffic goes on as after it, nothing is changed, and the repaired log is the one of before', async () => {
  await withCluster({ nodes: 2 }, async (cluster) => {
    const { stack, traffic } = cluster;
    const { ringStoreServer: server, clusterId } = stack;
    const data = path.join(server.folder, 'data');
    const backup = path.join(stack.dataFolder, 'backup');
    await server.stop();
    await copy(data, backup);
    await server.restart();

    expect((await cluster.scale(3)).state).toBe('completed');
    const before = await stack.ringStore.read(clusterId);
    const ring = await cluster.ring();

    await server.stop();
    await rm(data, { recursive: true });
    await copy(backup, data);
    await server.restart();
    // Who starts now goes on with what is kept on disk: the router with its ring file, the node with its own copy of the log.
    stack.worker.kill('SIGKILL');
    stack.routers[0]!.kill('SIGKILL');
    await stack.platform.kill('node-2', 'backend', 'SIGKILL');

    for (const { node } of ring.nodes) {
      const control = createNodeControl((await stack.platform.describeNode(node))!);
      const says = async () => {
        const { ringTrouble, serving, epoch } = await control.status();
        return ringTrouble?.includes('RING_STORE_BEHIND') && serving && epoch === ring.epoch;
      };
      await until(says, { deadlineMs: 60_000, what: `${node} says so and serves on` });
    }
    const shown = await ringmaster(cluster, 'status');
    expect(shown.said).toContain('the ring may be old');
    expect(await ringmaster(cluster, 'scale', '--to', '2')).toMatchObject({
      code: 1,
      said: expect.stringContaining('RING_STORE_BEHIND'),
    });
    const sofar = traffic.acknowledged;
    await until(() => traffic.acknowledged > sofar + 200, { deadlineMs: 60_000, what: 'traffic flows' });

    const repaired = await ringmaster(cluster, 'ring', 'repair');
    expect(repaired.said).toMatch(/the log was repaired: \d+ events given back, 0 set aside/);
    expect(repaired.code).toBe(0);
    const fresh = createPostgresRingStore({ connectionString: server.url });
    try {
      expect(await fresh.read(clusterId)).toEqual(before);
    } finally {
      await fresh.close();
    }
    for (const { node } of ring.nodes) {
      const control = createNodeControl((await stack.platform.describeNode(node))!);
      await until(async () => !(await control.status()).ringTrouble, { deadlineMs: 30_000, what: `${node} follows` });
    }
    expect((await cluster.scale(2)).state).toBe('completed');
    const judged = await cluster.judge();
    expect(judged.events).toMatchObject({ lost: 0, reordered: 0, unknown: 0 });
    expect(await cluster.leftovers()).toEqual([]);
  });
});
