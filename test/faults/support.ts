/** Faults in the middle of a cut-over of a cluster under traffic. */
import { expect } from 'vitest';
import { type CutOver, watchCutOvers } from '../../dev/chaos/cut-overs.ts';
import { findLeftovers } from '../../dev/chaos/leftovers.ts';
import type { Fault } from '../../dev/checker/checker.ts';
import type { ProxyMode } from '../../dev/faults/tcp-proxy.ts';
import type { OperationProgress } from '../../workflows/messages.ts';
import type { TestCluster } from '../e2e/cluster.ts';

const never = new AbortController().signal;
const CUT_OVER_WITHIN_MS = 60_000;

/** Scales, does `strike` in the first cut-over that is seen, and gives the operation's last progress. */
export async function scaleAndStrike(
  cluster: TestCluster,
  targetNodes: number,
  strike: (cutOver: CutOver) => Promise<void>,
): Promise<{ progress: OperationProgress; cutOver: CutOver }> {
  const watch = watchCutOvers(cluster.stack);
  try {
    const scaling = cluster.scale(targetNodes);
    scaling.catch(() => undefined); // awaited below
    const cutOver = await Promise.race([watch.next(CUT_OVER_WITHIN_MS, never), scaling.then(() => null)]);
    if (!cutOver) throw new Error('no cut-over was seen');
    await strike(cutOver);
    return { progress: await scaling, cutOver };
  } finally {
    await watch.stop();
  }
}

export async function setArrow(cluster: TestCluster, name: string, mode: ProxyMode): Promise<void> {
  const arrow = cluster.stack.network!.arrows().find((one) => one.name === name);
  if (!arrow) throw new Error(`there is no arrow ${name}`);
  await arrow.set(mode);
}

/** Whatever clients had to send again: nothing lost, out of order, unknown, or repeated without one of `faults` that explains it; and nothing left over. */
export async function expectKept(cluster: TestCluster, faults: readonly Fault[] = []): Promise<void> {
  const judged = await cluster.judge(faults);
  expect(judged).toMatchObject({ verdict: 'valid', events: { lost: 0, reordered: 0, unknown: 0, unsent: 0 } });
  expect(judged.events.duplicated).toBe(judged.events.duplicatedExplained);
  expect(judged.events.delivered).toBeGreaterThan(500);
  expect(await findLeftovers(cluster.stack, never)).toEqual([]);
}
