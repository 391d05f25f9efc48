/** Nodes come and go: the platform's pods, the ring's members, and the order between the two. */
import { cancellationSignal, sleep } from '@temporalio/activity';
import { CodedError } from '../kit/errors.ts';
import type { DatabaseAddress, Removal } from '../platform/platform.ts';
import { RingRefusal } from '../ring/decide.ts';
import type { NodeFacts, NodeId, RecordedEvent } from '../ring/events.ts';
import { uncertifiedFrom } from '../ring/moves.ts';
import { isMember, partitionsOf, type Ring } from '../ring/ring.ts';
import { decideAndAppend, readRing } from '../ringstore/ringstore.ts';
import { type ActivityDeps, reachingIn } from './deps.ts';
import { beating, refusingByType } from './errors.ts';
import { faultPoint } from './fault-points.ts';
import { refuseIfBlocked, waitSettled } from './node-status.ts';
import type { PodActivities, RemoveInput } from './types.ts';

/** Moves that a refusal names. */
const NAMED_MAX = 10;

/** Who forgets a node always looks first. */
export type PodDeps = Omit<ActivityDeps, 'holders' | 'signOfLife'> & Required<Pick<ActivityDeps, 'signOfLife'>>;

export function createPodActivities(deps: PodDeps): PodActivities {
  const { ringStore, platform, limits, log } = deps;

  async function ensureNode(input: { clusterId: string; node: NodeId; ownsAll?: boolean }): Promise<NodeFacts> {
    const { clusterId, node, ownsAll = false } = input;
    const signal = cancellationSignal();
    const { url } = await platform.ensureNode(node, signal);
    const control = await deps.controlOf(node);
    const status = await control.status(signal);
    refuseIfBlocked(status);
    if (isMember(await readRing(ringStore, clusterId), node)) return { node, databaseId: status.databaseId, url };
    const pendingJobs = await control.countPending(signal);
    const unadopted = status.unadopted ?? 0;
    // Jobs that no ring has ever divided, at a node that will own every partition: they are its own, and it adopts them.
    if (pendingJobs > 0 && ownsAll && pendingJobs === unadopted) {
      log.info({ clusterId, node, unadopted }, 'the node keeps its jobs: it will own all partitions');
      return { node, databaseId: status.databaseId, url };
    }
    if (pendingJobs > 0) {
      // As a member it would put them away as stale: what a ring's node holds of partitions that it does not own was moved. Here nobody knows that.
      throw new CodedError(
        'NODE_HAS_JOBS',
        `${node} is no member of ${clusterId}, and its database ${status.databaseId} holds ${pendingJobs} pending jobs from an earlier life${unadopted > 0 ? `, ${unadopted} of them without a partition` : ''}: ` +
          'nothing is delivered of them. Give it an empty volume, or save them and empty its queue, then resume',
        { node, databaseId: status.databaseId, pendingJobs, unadopted },
      );
    }
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
    const control = await reachingIn(deps, ring.clusterId).controlOf(node);
    await waitSettled({ ...deps, controlOf: async () => control }, node, ring.version);
    const pendingJobs = await control.countPending(cancellationSignal());
    if (pendingJobs > 0)
      throw new CodedError('NODE_NOT_EMPTY', `${node} still holds ${pendingJobs} pending jobs`, { node, pendingJobs });
  }

  /** What a node gave away stays until it is proven to have arrived: also where the node holds nothing pending any more. */
  function assertCertified(events: readonly RecordedEvent[], node: NodeId): void {
    const uncertified = uncertifiedFrom(events, node).map(({ move }) => move);
    if (uncertified.length === 0) return;
    const named = uncertified.slice(0, NAMED_MAX).join(', ');
    throw new CodedError(
      'CERTIFICATE_MISSING',
      `${node} stays: ${uncertified.length} of its moves have no certificate (${named}), so it is not proven that all of their jobs arrived`,
      { node, moves: uncertified.slice(0, NAMED_MAX), count: uncertified.length },
    );
  }

  async function removeNode(input: RemoveInput): Promise<{ notes: string[] }> {
    const { clusterId, node, holder } = input;
    const ring = await readRing(ringStore, clusterId);
    assertCertified(await ringStore.read(clusterId), node);
    if (isMember(ring, node)) {
      await assertEmpty(ring, node);
      await faultPoint('removeNode: seen empty');
      // Out of the ring first: from here it can be given no partition. Refused while it owns one or an open move names it.
      const by = { actor: deps.actor, reason: input.reason, operation: input.operationId };
      await decideAndAppend(ringStore, clusterId, { type: 'leave node', holder, node }, by);
      await faultPoint('removeNode: left the ring');
    }
    const events = await ringStore.read(clusterId);
    const left = events.findLast(({ event }) => event.type === 'node left' && event.node === node);
    const lastLook = async (database: DatabaseAddress): Promise<void> => {
      await faultPoint('removeNode: backend gone');
      await deps.assertNothingPending(node, database);
    };
    const removal: Removal = {
      // What `node left` says was seen to be empty. A node that never joined was not looked into: its data stays where it is.
      deleteData: left !== undefined && input.deleteVolumes === true,
      left: { cluster: clusterId, epoch: ring.epoch, at: left?.at ?? new Date().toISOString() },
      ...(left ? { lastLook } : {}),
    };
    const notes: string[] = [];
    // Out of the ring it serves nothing any more, and no later operation would look for it: it goes, also where this one is cancelled now.
    const remove = (): Promise<void> => platform.removeNode(node, removal);
    try {
      await remove();
    } catch (error) {
      if (!(error instanceof CodedError && error.code === 'REPLICAS_CHANGED')) throw error;
      notes.push(...(await removeStrangersAbove(input, error)));
      await remove();
    }
    log.info({ clusterId, node, deleteData: removal.deleteData }, 'node removed');
    return { notes };
  }

  /**
   * Somebody has raised the replicas by hand: nodes lie above the one that is to go, and the platform takes away the highest first. Those that are no members
   * own nothing and were given nothing: they go, and their data is kept. A member among them is not ours to remove.
   */
  async function removeStrangersAbove(input: RemoveInput, changed: CodedError): Promise<string[]> {
    const ring = await readRing(ringStore, input.clusterId);
    const above = changed.details['above'] as readonly NodeId[];
    if (above.some((node) => isMember(ring, node))) throw changed;
    for (const node of above) {
      await platform.removeNode(node, {
        deleteData: false,
        left: { cluster: input.clusterId, epoch: ring.epoch, at: new Date().toISOString() },
      });
    }
    return [`${above.join(', ')} had been added by hand and were no members: removed, their volumes kept`];
  }

  return refusingByType<PodActivities>({
    /** Repeated: the node is there, and answers the same. */
    ensureNode: (input) => beating(() => ensureNode(input)),

    /** Repeated: looks again. */
    waitServing: (input) => beating(() => waitServing(input)),

    /** Repeated: goes on after the last thing that was done; absent is success. */
    removeNode: (input) => beating(() => removeNode(input)),

    /** Repeated: it is forgotten already. */
    forgetNode: (input) =>
      beating(async () => {
        const { clusterId, node, holder, by, reason } = input;
        const ring = await readRing(ringStore, clusterId);
        if (!isMember(ring, node)) return { version: ring.version };
        const alive = await deps.signOfLife(node);
        if (alive) {
          const what = alive === 'backend' ? 'its backend answers' : 'its PostgreSQL answers: drain it instead';
          throw new CodedError('NODE_ANSWERS', `${node} is not forgotten: ${what}`, { node, alive });
        }
        const authorship = { actor: deps.actor, reason, operation: input.operationId };
        const done = await decideAndAppend(
          ringStore,
          clusterId,
          { type: 'forget node', holder, node, by, reason },
          authorship,
        );
        log.warn({ clusterId, node, by, reason }, 'node forgotten, with what it held');
        return { version: done.ring.version };
      }),

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
