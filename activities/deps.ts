/** What activities are given. One worker's activities share one of these. */

import type { NodeControl } from '../dataplane/contract.ts';
import type { Logger } from '../kit/log.ts';
import type { DatabaseAddress, NodeEndpoints, Platform } from '../platform/platform.ts';
import type { HolderIdentity, NodeId } from '../ring/events.ts';
import type { RingStore } from '../ringstore/ringstore.ts';

/** Whether the run that holds a ring goes on. */
export interface Holders {
  /** Null while it runs; else what is known of its end. Throws where that cannot be told: then nobody takes over. */
  endOf(holder: HolderIdentity): Promise<string | null>;
}

/** How long activities wait for others before they give up by name; each is less than the attempt's timeout in workflows/activities.ts. */
export interface ActivityLimits {
  /** For a member to fold the ring and to settle, when the cluster is verified and before a node is removed. */
  readonly settleWithinMs: number;
  readonly pollEveryMs: number;
  /** A drained node whose backend does not answer for so long is stood in for. */
  readonly standInAfterMs: number;
  /** A node of which neither backend nor database answers for so long blocks the operation by NODE_LOST. */
  readonly lostAfterMs: number;
  /** A caretaker that nobody has asked for so long ends; the next one to be asked for begins anew. */
  readonly caretakerIdleMs: number;
}

export const activityLimits: ActivityLimits = {
  settleWithinMs: 60_000, // without another batch put away: a node that stands still for so long is in trouble
  pollEveryMs: 50, // a status is one small request, and a person waits for the sum of these
  standInAfterMs: 15_000, // longer than a process takes to start again: taking its place ends it, if it lives after all
  caretakerIdleMs: 300_000, // longer than a batch of jobs takes to be put away, which it goes on with between two looks
  lostAfterMs: 60_000, // a machine that starts again takes longer; being blocked by name costs nothing, and ends by itself
};

export interface ActivityDeps {
  /** Set where the platform below is one cluster's only: what is asked for another is refused (WORKER_OTHER_CLUSTER) before anything is looked at. */
  readonly onlyCluster?: string;
  readonly ringStore: RingStore;
  readonly platform: Pick<Platform, 'ensureNode' | 'removeNode' | 'roomOf'>;
  /** Throws where the node is not wanted by the platform. */
  readonly endpointsOf: (node: NodeId) => Promise<NodeEndpoints>;
  /** Asks the database itself, once its node is gone. Throws NODE_NOT_EMPTY. */
  readonly assertNothingPending: (node: NodeId, database: DatabaseAddress) => Promise<void>;
  readonly controlOf: (node: NodeId) => Promise<NodeControl>;
  /** Null: neither backend nor database of the node answers, for `lostAfterMs`. Else which does (caretakers.ts). */
  readonly signOfLife?: (node: NodeId) => Promise<'backend' | 'database' | null>;
  /** As `controlOf`, also where the node is half dead (caretakers.ts). Default: `controlOf`. */
  readonly reach?: (clusterId: string, node: NodeId) => Promise<NodeControl>;
  readonly holders: Holders;
  /** `worker@host`: stands with every event that is appended here. */
  readonly actor: string;
  readonly log: Logger;
  readonly limits: ActivityLimits;
}

/** The same, with nodes that are half dead reached as well, where that is provided for. */
export function reachingIn<Deps extends Pick<ActivityDeps, 'controlOf' | 'reach'>>(
  deps: Deps,
  clusterId: string,
): Deps {
  const { reach } = deps;
  return reach ? { ...deps, controlOf: (node: NodeId) => reach(clusterId, node) } : deps;
}
