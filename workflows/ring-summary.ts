/** A ring out of a history: what the planner needs of it. */
import type { RingSummary } from '../activities/types.ts';
import { noRing, type Ring } from '../ring/ring.ts';

/** The inverse of `summarizeRing` in activities/log-views.ts; freeze and moves are not in a summary. */
export function expandRing(summary: RingSummary): Ring {
  const { clusterId, version, epoch, partitionCount, nodes } = summary;
  const owners: string[] = [];
  for (let i = 0; i < summary.owners.length; i += 2) {
    const owner = nodes[summary.owners[i]!]!.node;
    for (let length = summary.owners[i + 1]!; length > 0; length -= 1) owners.push(owner);
  }
  return { ...noRing(clusterId), version, epoch, partitionCount, nodes, owners, drained: summary.drained ?? [] };
}
