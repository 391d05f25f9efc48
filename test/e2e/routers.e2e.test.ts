/**
 * Goal: routers come and go, and so does the ring store, and no client need know.
 * Method: the embedded stack with three routers, seeded traffic, an independent checker; a load balancer where clients have one.
 */
import { createRequire } from 'node:module';
import { expect, test } from 'vitest';
import type { SentEvent } from '../../dev/checker/checker.ts';
import { now } from '../../kit/log.ts';
import { userKeyOf } from '../../ring/partition.ts';
import { expectFlawless, withCluster } from './cluster.ts';
import { ROUTER_ENV, scaleWhileRoutersEnd, withoutRingStore } from './routers.ts';

test('each router is killed while 2 nodes become 4 and 3: clients that send again what had no answer lose nothing', async () => {
  await withCluster({ nodes: 2, routers: 3 }, async (cluster) => {
    await scaleWhileRoutersEnd(cluster, 'SIGKILL');
    const judged = await cluster.judge();
    expect(judged).toMatchObject({
      verdict: 'valid',
      events: { lost: 0, duplicated: 0, reordered: 0, unknown: 0 },
    });
    expect(judged.events.delivered).toBeGreaterThan(500);
    expect(await cluster.leftovers()).toEqual([]);
  });
});

test('each router is ended and started again while 2 nodes become 4 and 3: no client sees an error', async () => {
  await withCluster({ nodes: 2, routers: 3, balanced: true, routerEnv: ROUTER_ENV }, async (cluster) => {
    await scaleWhileRoutersEnd(cluster, 'SIGTERM');
    expectFlawless(await cluster.judge());
  });
});

test('the ring store is away for 15 s: no client sees an error, and a router that is started meanwhile serves', async () => {
  await withCluster({ nodes: 2, routers: 2, balanced: true, routerEnv: ROUTER_ENV }, async (cluster) => {
    await withoutRingStore(cluster, 15_000);
    expectFlawless(await cluster.judge());
  });
});

/** RudderStack's own, as applications have it. */
type Analytics = new (
  writeKey: string,
  options: { dataPlaneUrl: string; flushAt: number; flushInterval: number; logLevel: string },
) => {
  track(
    message: { userId: string; event: string; messageId: string; properties: object },
    callback: (error?: Error) => void,
  ): void;
};

test("RudderStack's own SDK sends through two routers while the cluster is scaled: everything arrives, in order", async () => {
  const Client = createRequire(import.meta.url)('@rudderstack/rudder-sdk-node') as Analytics;
  await withCluster({ nodes: 2, routers: 2, balanced: true }, async (cluster) => {
    const dataPlaneUrl = cluster.balancer!.url;
    const sdk = new Client(cluster.stack.writeKey, {
      dataPlaneUrl,
      flushAt: 20,
      flushInterval: 100,
      logLevel: 'error',
    });
    const sent: SentEvent[] = [];
    let scaled = false;
    const track = (userId: string, seq: number): Promise<void> =>
      new Promise((resolve, reject) => {
        const messageId = `sdk-${userId}-${seq}`;
        const facts = { messageId, userKey: userKeyOf({ userId }), seq, sentAt: now(), attempts: 1 };
        sdk.track({ userId, event: 'e', messageId, properties: { seq } }, (error) => {
          if (error) return reject(error);
          sent.push({ ...facts, answeredAt: now(), status: 200 });
          resolve();
        });
      });
    // Batches of several users each, which live on several nodes; the next round comes when the last has its answers.
    const sending = (async () => {
      for (let round = 0; !scaled || round < 10; round += 1)
        await Promise.all(Array.from({ length: 50 }, (_, n) => track(`sdk-user-${n}`, round)));
    })();
    sending.catch(() => undefined); // told below
    expect(await cluster.scale(3)).toMatchObject({ state: 'completed', to: 3 });
    scaled = true;
    await sending;
    expect(sent.length).toBeGreaterThanOrEqual(500);
    expectFlawless(await cluster.judge([], sent));
  });
});
