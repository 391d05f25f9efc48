/**
 * Goal: while an upgrade rolls, an event of a type that this version does not know stops no traffic, and nobody changes a ring that he only half understands.
 * Method: the embedded stack under traffic; somebody of a newer version appends such an event, then nodes and routers are killed and start again.
 */
import { expect, test } from 'vitest';
import { createNodeControl } from '../../dataplane/reference/control-client.ts';
import { until } from '../support/wait.ts';
import { type TestCluster, withCluster } from './cluster.ts';

const ready = async ({ stack }: TestCluster): Promise<{ ready: boolean; notUnderstood?: string[] }> =>
  (await (await fetch(`${stack.routerUrls[0]}/ready`)).json()) as { ready: boolean; notUnderstood?: string[] };

test('with an event of an unknown type in the log, nodes and routers serve on, also when they start then; changes are refused, and status says why', async () => {
  await withCluster({ nodes: 2 }, async (cluster) => {
    const { stack, traffic } = cluster;
    const { version } = await cluster.ring();
    const by = { actor: 'newer', reason: 'test', operation: null };
    await stack.ringStore.append(stack.clusterId, version, [{ type: 'moon landed' }] as never, by);

    await expect(cluster.scale(3)).rejects.toMatchObject({ code: 'RING_TOO_NEW' });
    const answer = await fetch(`${stack.api.url}/v1/clusters/${stack.clusterId}`, {
      headers: { authorization: `Bearer ${stack.api.token}` },
    });
    expect(await answer.json()).toMatchObject({ notUnderstood: ['moon landed'], ringTrouble: null, freeze: null });
    await until(async () => (await ready(cluster)).notUnderstood?.includes('moon landed'), {
      deadlineMs: 10_000,
      what: 'the router says what it does not know',
    });

    stack.routers[0]!.kill('SIGKILL');
    await stack.platform.kill('node-0', 'backend', 'SIGKILL');
    const control = createNodeControl((await stack.platform.describeNode('node-0'))!);
    const before = await control.status().catch(() => null);
    await until(
      async () => {
        const status = await control.status();
        return status.serving && status.instance > (before?.instance ?? 0) && status.notUnderstood?.length === 1;
      },
      { deadlineMs: 30_000, what: 'node-0 serves again' },
    );
    await until(async () => (await ready(cluster)).ready, { deadlineMs: 30_000, what: 'the router is ready again' });
    const sofar = traffic.acknowledged;
    await until(() => traffic.acknowledged > sofar + 300, { deadlineMs: 30_000, what: 'traffic flows' });
    const judged = await cluster.judge();
    expect(judged.events).toMatchObject({ lost: 0, reordered: 0, unknown: 0 });
    expect(judged.events.delivered).toBeGreaterThan(500);
  });
});
