/** The arrows of a cut-over, and how one is broken for a while. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { CutOver } from '../../dev/chaos/cut-overs.ts';
import type { ProxyMode } from '../../dev/faults/tcp-proxy.ts';
import type { TestCluster } from '../e2e/cluster.ts';
import { setArrow } from './support.ts';

/** `often`: in the ordinary run; the others are much like them. */
export const arrowsOf: readonly { readonly what: string; readonly often?: true; nameIn(cutOver: CutOver): string }[] = [
  { what: 'worker → source', often: true, nameIn: ({ from }) => `worker → ${from}` },
  { what: 'worker → target', nameIn: ({ to }) => `worker → ${to}` },
  { what: "worker → source's database", nameIn: ({ from }) => `worker → ${from}'s PostgreSQL` },
  { what: "worker → target's database", often: true, nameIn: ({ to }) => `worker → ${to}'s PostgreSQL` },
  { what: 'worker → ring store', often: true, nameIn: () => 'worker → ring store' },
  { what: 'nodes → ring store', often: true, nameIn: () => 'nodes → ring store' },
  { what: 'routers → ring store', nameIn: () => 'routers → ring store' },
  { what: 'routers → source', often: true, nameIn: ({ from }) => `routers → ${from}` },
  { what: 'routers → target', nameIn: ({ to }) => `routers → ${to}` },
  { what: 'worker → Temporal', nameIn: () => 'worker → Temporal' },
];

export async function breakArrow(cluster: TestCluster, name: string, mode: ProxyMode, forMs: number): Promise<void> {
  await setArrow(cluster, name, mode);
  try {
    await sleep(forMs);
  } finally {
    await setArrow(cluster, name, 'pass');
  }
}
