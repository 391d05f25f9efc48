/** Goal and method: those of routers.e2e.test.ts, for as long as an outage of a database that fails over takes at worst. */
import { test } from 'vitest';
import { expectFlawless, withCluster } from './cluster.ts';
import { ROUTER_ENV, withoutRingStore } from './routers.ts';

test('the ring store is away for 60 s: no client sees an error, and a router that is started meanwhile serves', async () => {
  await withCluster({ nodes: 2, routers: 3, balanced: true, routerEnv: ROUTER_ENV }, async (cluster) => {
    await withoutRingStore(cluster, 60_000);
    expectFlawless(await cluster.judge());
  });
});
