/** Nodes come and go: the platform's pods, the ring's members, and the order between the two. */
import { cancellationSignal, sleep } from '@temporalio/activity';
import type { NodeStatus } from '../dataplane/contract.ts';
import { CodedError } from '../kit/errors.ts';
import { RingRefusal } from '../ring/decide.ts';
import type { NodeFacts, NodeId } from '../ring/events.ts';
import { isMember, partitionsOf, type Ring } from '../ring/ring.ts';
import { decideAndAppend, readRing } from '../ringstore/ringstore.ts';
import type { ActivityDeps } from './deps.ts';
import { beating, refusingByType } from './errors.ts';
import { refuseIfBlocked, waitSettled } from './node-status.ts';
import type { AskingAsHolder, PodActivities } from './types.ts';

export type PodDeps = Omit<ActivityDeps, 'holders'>;

export function createPodActivities(deps: PodDeps): PodActivities {
  const { ringStore, platform, limits, log } = deps;

  async function ensureNode({ node }: { node: NodeId }): Promise<NodeFacts> {
    const signal = cancellationSignal();
    const { url } = await platform.ensureNode(node, signal);
    const control = await deps.controlOf(node);
    const status = await control.status(signal);
    refuseIfBlocked(status);
    return { node, databaseId: status.databaseId, url };
  }

  async function waitServing({ node, version }: { node: NodeId; version: number }): Promise<void> {
    const signal = cancellationSignal();
    const control = await deps.controlOf(node);
    for (;;) {
      signal.throwIfAborted();
      const status = await control.status(signal);
      refuseIfBlocked(status);
      if (status.serving && status.foldedVersion >= version) return;
      await sleep(limits.pollEveryMs);
    }
  }

  /** P5: looks again right before the deletion, not only when the plan was made. */
  async function assertEmpty(ring: Ring, node: NodeId): Promise<void> {
    const owned = partitionsOf(ring, node).length;
    if (owned > 0)
      throw new RingRefusal('NODE_NOT_EMPTY', `${node} still owns ${owned} partitions (epoch ${ring.epoch})`);
    const status: NodeStatus = await waitSettled(deps, node, ring.version);
    if (status.pendingJobs > 0) {
      throw new CodedError('NODE_NOT_EMPTY', `${node} still holds ${status.pendingJobs} pending jobs`, {
        node,
        pendingJobs: status.pendingJobs,
      });
    }
  }

  async function removeNode(input: AskingAsHolder & { node: NodeId }): Promise<void> {
    const { clusterId, node, holder } = input;
    const ring = await readRing(ringStore, clusterId);
    if (isMember(ring, node)) {
      await assertEmpty(ring, node);
      // Out of the ring first: from here it can be given no partition. Refused while it owns one or an open move names it.
      const by = { actor: deps.actor, reason: input.reason, operation: input.operationId };
      await decideAndAppend(ringStore, clusterId, { type: 'leave node', holder, node }, by);
    }
    // What `node left` says was seen to be empty. A node that never joined was not looked into: its data stays where it is.
    const events = await ringStore.read(clusterId);
    const deleteData = events.some(({ event }) => event.type === 'node left' && event.node === node);
    await platform.removeNode(node, { deleteData });
    log.info({ clusterId, node, deleteData }, 'node removed');
  }

  return refusingByType<PodActivities>({
    /** Repeated: the node is there, and answers the same. */
    ensureNode: (input) => beating(() => ensureNode(input)),

    /** Repeated: looks again. */
    waitServing: (input) => beating(() => waitServing(input)),

    /** Repeated: goes on after the last thing that was done; absent is success. */
    removeNode: (input) => beating(() => removeNode(input)),

    /** Repeated: as removeNode. */
    removeUnused: (input) =>
      beating(async () => {
        const ring = await readRing(ringStore, input.clusterId);
        const isUsed =
          partitionsOf(ring, input.node).length > 0 ||
          ring.moves.some((open) => open.from === input.node || open.to === input.node);
        if (isUsed) return { removed: false };
        await removeNode(input);
        return { removed: true };
      }),
  });
}
