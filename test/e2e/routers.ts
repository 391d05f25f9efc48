/** What the tests of several routers do to them. */

import { expect } from 'vitest';
import type { Supervised } from '../../dev/supervise.ts';
import { until } from '../support/wait.ts';
import type { TestCluster } from './cluster.ts';

/** As behind a load balancer that looks every 100 ms, on a machine that is busy. */
export const ROUTER_ENV = { RINGMASTER_ROUTER_DRAIN_MS: '1500' };

/** Ends it, and waits until it is back. */
export async function restart(router: Supervised, url: string, signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
  const { pid, restarts } = router;
  router.kill(signal);
  const isBack = async (): Promise<boolean> =>
    router.restarts > restarts && router.pid !== pid && (await fetch(`${url}/ready`)).ok;
  await until(isBack, { deadlineMs: 60_000, what: `${router.name} is back`, everyMs: 50 });
}

/** 2 → 4 → 3 nodes under traffic; each of three routers is ended and started again once, in the middle of it. */
export async function scaleWhileRoutersEnd(cluster: TestCluster, signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
  const { routers, routerUrls } = cluster.stack;
  for (const { from, to, ended } of [
    { from: 2, to: 4, ended: [0, 1] },
    { from: 4, to: 3, ended: [2] },
  ]) {
    const { epoch } = await cluster.ring();
    const scaling = cluster.scale(to);
    scaling.catch(() => undefined); // told below
    await until(async () => (await cluster.ring()).epoch > epoch, { deadlineMs: 120_000, what: 'partitions move' });
    for (const nth of ended) await restart(routers[nth]!, routerUrls[nth]!, signal);
    expect(await scaling).toMatchObject({ state: 'completed', from, to });
  }
}

/** The ring store is away for so long at least, under traffic; meanwhile a router is started that has never spoken to it in its life. */
export async function withoutRingStore(cluster: TestCluster, forMs: number): Promise<void> {
  const { stack, traffic } = cluster;
  const server = stack.ringStoreServer;
  const downSince = performance.now();
  server.signal('SIGQUIT');
  await server.exited;
  const before = traffic.acknowledged;
  await restart(stack.routers[0]!, stack.routerUrls[0]!, 'SIGTERM');
  const look = async (): Promise<object> => (await (await fetch(`${stack.routerUrls[0]}/ready`)).json()) as object;
  expect(await look()).toMatchObject({ ready: true, confirmedMsAgo: null });
  await until(() => cluster.balancer!.ready === stack.routers.length, {
    deadlineMs: 10_000,
    what: 'it is given clients',
  });
  const since = traffic.acknowledged;
  await until(() => performance.now() - downSince >= forMs && traffic.acknowledged > since + 100, {
    deadlineMs: forMs + 60_000,
    what: `${forMs} ms without the ring store`,
  });
  await server.restart();
  expect(since).toBeGreaterThan(before);
  await until(async () => (await stack.ringStore.leases(stack.clusterId)).length === stack.routers.length, {
    deadlineMs: 60_000,
    what: 'every router has its lease again',
    everyMs: 200,
  });
  expect(await look()).toMatchObject({ ready: true, trouble: null });
}
