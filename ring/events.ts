/**
 * What can happen to a ring, in the past tense. The stream of these events is the only truth; everything else is a fold of it.
 * **Boundary:** events are stored for ever. Fields are added, never renamed or removed; a new type is understood by no older process
 * (which then serves on and refuses changes, see `Ring.notUnderstood`).
 */
import type { LimitsChange } from './limits.ts';
import type { PartitionIndex } from './partition.ts';

/** A node's stable name, such as `node-0`: the ordinal is what a StatefulSet would give its pod. */
export type NodeId = string;
/** `<operationId>/move-<n>.<try>`: one try of one move. An aborted try is never taken up again; the next try has an id of its own. */
export type MoveId = string;

export interface NodeFacts {
  readonly node: NodeId;
  /** Identity of the node's database, made once with its schema: a node that comes back with another database opens nothing. */
  readonly databaseId: string;
  /** Where routers send events: base URL of the node's gateway. */
  readonly url: string;
}

/** Who holds a frozen ring: one run of one workflow. */
export interface HolderIdentity {
  readonly operationId: string;
  readonly workflowId: string;
  readonly runId: string;
}

/** What was proven equal at the hand-over: the pending set of the moved partitions at the source and what was imported at the target. */
export interface MoveProof {
  /** Pending jobs of all prefixes at the hand-over. */
  readonly jobsPending: number;
  /** Rows written to the target, with those that were finished meanwhile. */
  readonly jobsCopied: number;
  /** Per prefix: count and digest, equal on both sides. */
  readonly prefixes: readonly { readonly prefix: string; readonly pending: number; readonly digest: string }[];
}

/** One partition of a certificate; ids are job ids, in the tables of either side. */
export type CertifiedPartition = readonly [
  partition: PartitionIndex,
  jobs: number,
  digest: string,
  order: string,
  firstAtSource: number,
  lastAtSource: number,
  firstAtTarget: number,
  lastAtTarget: number,
];

/** Jobs of one prefix: everything here was found equal on both sides, and the target's ids are the source's, mapped. */
export interface CertifiedTable {
  readonly prefix: string;
  readonly jobs: number;
  /** Sum of the rows' content, each hashed with its id at the source: changed places do not cancel out. */
  readonly digest: string;
  /** Sum over jobs of a hash that chains each with the job before it of the same user. */
  readonly order: string;
  /** Those that had jobs. */
  readonly partitions: readonly CertifiedPartition[];
}

/** What a move took along, computed from the tables of both nodes before anything is deleted at the source. */
export interface MoveCertificate {
  /** How digest and order are made; another way gets another number. */
  readonly form: 1;
  /** Log position of the hand-over, and the epoch that began with it. */
  readonly handedOverAt: number;
  readonly epoch: number;
  /** ISO 8601, by the ring store's clock. */
  readonly times: { readonly started: string; readonly handedOver: string };
  readonly askedBy: { readonly actor: string; readonly reason: string; readonly operation: string | null };
  readonly jobs: number;
  readonly tables: readonly CertifiedTable[];
}

/** Somebody has taken it upon themselves that a move's source and target differ: it is over without a certificate. */
export interface AcceptedDifference {
  /** Who, and why. */
  readonly by: string;
  readonly reason: string;
  /** What differs, as it was found when it was accepted. */
  readonly difference: string;
}

export type RingEvent =
  | {
      readonly type: 'ring made';
      readonly clusterId: string;
      readonly partitionCount: number;
      readonly nodes: readonly NodeFacts[];
      readonly owners: readonly NodeId[];
    }
  | ({ readonly type: 'node joined' } & NodeFacts)
  | { readonly type: 'node left'; readonly node: NodeId }
  /** It stays a member and is given nothing more, until it is activated. What it has is moved away by ordinary moves. */
  | { readonly type: 'node drained'; readonly node: NodeId }
  | { readonly type: 'node activated'; readonly node: NodeId }
  /** It and its database are gone for ever: what it owned goes to others, and what it held of that is lost. */
  | {
      readonly type: 'node forgotten';
      readonly node: NodeId;
      readonly to: readonly { readonly node: NodeId; readonly partitions: readonly PartitionIndex[] }[];
      /** Who has accepted the loss, and why. */
      readonly by: string;
      readonly reason: string;
    }
  | ({ readonly type: 'ring frozen'; readonly holder: number } & HolderIdentity)
  | ({
      readonly type: 'freeze taken over';
      readonly holder: number;
      readonly from: number;
      readonly because: string;
    } & HolderIdentity)
  | { readonly type: 'ring unfrozen'; readonly holder: number }
  | {
      readonly type: 'move started';
      readonly move: MoveId;
      readonly from: NodeId;
      readonly to: NodeId;
      readonly partitions: readonly PartitionIndex[];
    }
  | { readonly type: 'move claimed'; readonly move: MoveId; readonly attempt: string }
  | {
      readonly type: 'partitions handed over';
      readonly move: MoveId;
      readonly token: number;
      readonly proof: MoveProof;
    }
  | { readonly type: 'move aborted'; readonly move: MoveId; readonly because: string }
  /** `certificate`: absent in logs of versions that made none, and where a difference was accepted. */
  | {
      readonly type: 'move completed';
      readonly move: MoveId;
      readonly certificate?: MoveCertificate;
      readonly accepted?: AcceptedDifference;
    }
  /** Changes no ownership: anybody may, also while an operation holds the ring. */
  | { readonly type: 'limits set'; readonly change: LimitsChange };

export type RingEventType = RingEvent['type'];

/** An event at its place in the log. `at` is for people: no rule compares the clocks of two machines. */
export interface RecordedEvent {
  readonly clusterId: string;
  /** Position in the log, from 1, without gaps. */
  readonly version: number;
  /** UUID, chosen by who appends: a lost answer is resolved by looking for it. */
  readonly id: string;
  readonly event: RingEvent;
  /** Who did it: `worker@host`, `node-0`, a person's name. */
  readonly actor: string;
  /** Why, in words. */
  readonly reason: string;
  /** The operation it belongs to, if any. */
  readonly operation: string | null;
  /** ISO 8601, the ring store's clock. */
  readonly at: string;
  /** SHA-256 (hex) over this event and `previousHash`. */
  readonly hash: string;
  readonly previousHash: string;
}
