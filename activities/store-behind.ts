/** Whether the ring store lacks what nodes have seen. A worker that has just started has seen nothing itself: on a store from an older backup it would fork the log. */
import type { NodeControl } from '../dataplane/contract.ts';
import { CodedError } from '../kit/errors.ts';
import type { NodeId } from '../ring/events.ts';
import { type RingStore, readRing } from '../ringstore/ringstore.ts';

/**
 * Throws RING_STORE_BEHIND, naming the node that has seen most. Nodes that do not answer are left out: they notice it themselves, and obey nobody then.
 * The store is read after the nodes have spoken, so what is appended meanwhile is no trouble.
 */
export async function assertNobodyHasSeenMore(
  ringStore: RingStore,
  clusterId: string,
  controlOf: (node: NodeId) => Promise<Pick<NodeControl, 'status'>>,
): Promise<void> {
  const { nodes } = await readRing(ringStore, clusterId);
  const answers = await Promise.all(
    nodes.map(async ({ node }) => {
      const status = await controlOf(node)
        .then((control) => control.status())
        .catch(() => null);
      return status ? [{ node, version: status.foldedVersion, trouble: status.ringTrouble }] : [];
    }),
  );
  const { version } = await readRing(ringStore, clusterId);
  const ahead = answers.flat().filter((seen) => seen.version > version || seen.trouble !== undefined);
  const most = ahead.sort((a, b) => b.version - a.version)[0];
  if (!most) return;
  const message = `the log of ${clusterId} ends at version ${version}, ${most.node} has seen version ${most.version}${most.trouble ? ` and does not follow it (${most.trouble})` : ''}: ringmaster ring repair`;
  throw new CodedError('RING_STORE_BEHIND', message, {
    clusterId,
    version,
    node: most.node,
    seenVersion: most.version,
  });
}
