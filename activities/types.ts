/**
 * What the workflows may ask of the world. JSON only. Every activity can be repeated with no further effect; what it refuses for good is a non-retryable
 * ApplicationFailure whose `type` is the code (errors.ts); anything else that it throws is weather, and Temporal tries again.
 * **Boundary:** runs that are under way call these by name: fields are added, never renamed.
 */
import type { CompareCursor, Difference, DifferenceCounts } from '../jobsdb/compare.ts';
import type { HolderIdentity, MoveId, NodeFacts, NodeId } from '../ring/events.ts';
import type { PartitionIndex } from '../ring/partition.ts';
import type { MovePlan } from '../ring/plan.ts';
import type { Loss } from '../ring/ring.ts';

export type { Difference, DifferenceCounts, DifferenceKind } from '../jobsdb/compare.ts';

/** A ring, small enough for a history: 65,536 partitions in contiguous shares of 1,000 nodes are a few kB. */
export interface RingSummary {
  readonly clusterId: string;
  readonly version: number;
  readonly epoch: number;
  readonly partitionCount: number;
  readonly nodes: readonly NodeFacts[];
  /** Runs of partitions of one owner, in order: index into `nodes`, length, index, length, … */
  readonly owners: readonly number[];
  /** Members that are given nothing; absent where there are none. */
  readonly drained?: readonly NodeId[];
}

/** Says who asks and why: stands with every event that is appended. */
export interface Asking {
  readonly clusterId: string;
  readonly operationId: string;
  readonly reason: string;
  /** The person or program that asked for the operation; absent where it did not say. */
  readonly askedBy?: string;
}

/** As `Asking`, by the operation that holds the ring; appends of an older holder are refused. */
export interface AskingAsHolder extends Asking {
  readonly holder: number;
}

export interface FreezeInput extends Asking {
  readonly by: HolderIdentity;
}

export interface Leftover {
  readonly move: MoveId;
  readonly from: NodeId;
  readonly to: NodeId;
  readonly partitions: readonly PartitionIndex[];
  readonly state: 'started' | 'handed over';
}

export interface Frozen {
  readonly holder: number;
  /** Set where the ring was held by a run that has ended or is gone: whose freeze it was, and what is known of that run. */
  readonly takenOverFrom: { readonly operationId: string; readonly because: string } | null;
  /** Moves that another operation left open. */
  readonly leftovers: readonly Leftover[];
  readonly ring: RingSummary;
  /** The cluster's limit as it is now; absent in histories of a version that had none: 1. */
  readonly movesPerNode?: number;
}

export interface StartMoveInput extends AskingAsHolder {
  readonly n: number;
  /** The try that is wanted; a higher one is taken where this one is in the log and over. */
  readonly tryFrom: number;
  readonly from: NodeId;
  readonly to: NodeId;
  readonly partitions: readonly PartitionIndex[];
}

export interface StartedMove {
  readonly move: MoveId;
  readonly try: number;
  /** Not `started` where an earlier child workflow of the same move was lost after its hand-over: then only the rest is to be done. */
  readonly state: 'started' | 'handed over' | 'completed';
  /** Of the proof in the log, once handed over. */
  readonly jobsMoved: number;
  readonly jobsCopied: number;
}

/** How an attempt to abort ended: the hand-over may have won. */
export type AbortAnswer =
  | { readonly result: 'aborted' }
  | { readonly result: 'handed over' | 'completed'; readonly jobsMoved: number; readonly jobsCopied: number };

export interface RingActivities {
  /** The ring as it is. Refuses: CLUSTER_UNKNOWN. */
  readRing(input: { readonly clusterId: string }): Promise<RingSummary>;
  /**
   * Makes the ring of a new cluster. Refuses: CLUSTER_EXISTS, where another operation has made it, PARTITION_COUNT.
   */
  makeRing(
    input: Asking & { readonly partitionCount: number; readonly nodes: readonly NodeFacts[] },
  ): Promise<{ readonly version: number }>;
  /** Holds the topology for this run; takes over from a run that has ended. Refuses: CLUSTER_UNKNOWN, RING_BUSY, RING_TOO_NEW. */
  freeze(input: FreezeInput): Promise<Frozen>;
  /** Aborts what this run has started and not handed over, then lets go. Nothing happens where the run does not hold the ring. */
  unfreeze(input: FreezeInput): Promise<{ readonly unfrozen: boolean; readonly version: number }>;
  /** Refuses: RING_NOT_HELD, NODE_OTHER_DATABASE. Returns the version at which the node is a member. */
  joinNode(input: AskingAsHolder & { readonly facts: NodeFacts }): Promise<{ readonly version: number }>;
  /** Marks members: they are given nothing from then on, or something again. Refuses: RING_NOT_HELD, NODE_UNKNOWN, NODES_ALL_DRAINED. */
  markNodes(
    input: AskingAsHolder & { readonly drains: readonly NodeId[]; readonly activates: readonly NodeId[] },
  ): Promise<{ readonly version: number }>;
  /** Refuses: RING_NOT_HELD, NODE_UNKNOWN, NODE_DRAINED, MOVE_INVALID, MOVES_OPEN. */
  startMove(input: StartMoveInput): Promise<StartedMove>;
  /**
   * What takes an operation back, from the ring's log. Reads only. Refuses: OPERATION_UNKNOWN, where the log has nothing of it; UNDO_OUT_OF_ORDER, where later
   * operations are in the way.
   */
  planUndo(input: {
    readonly clusterId: string;
    /** Whole id of the operation that is taken back. */
    readonly operation: string;
    readonly partitionsPerMoveMax?: number;
  }): Promise<MovePlan>;
  /** Tells which of the two won. */
  abortMove(input: Asking & { readonly move: MoveId; readonly because: string }): Promise<AbortAnswer>;
}

export interface RemoveInput extends AskingAsHolder {
  readonly node: NodeId;
  /** Default: its volume is kept. */
  readonly deleteVolumes?: boolean;
}

export interface ForgetInput extends AskingAsHolder {
  readonly node: NodeId;
  /** Who accepts the loss. */
  readonly by: string;
}

export interface PodActivities {
  /**
   * Gives a node up, with what it holds: its partitions go to the others by one event. Looks first, as long as it takes to be sure: refuses NODE_ANSWERS where its
   * backend or its database does. Refuses: RING_NOT_HELD, REASON_NEEDED, NODES_ALL_DRAINED.
   */
  forgetNode(input: ForgetInput): Promise<{ readonly version: number }>;
  /**
   * Node and database are there and answer. Refuses: the code that the node itself names, if it is blocked; NODE_HAS_JOBS, where it is no member of the ring
   * (yet, or any more) and its database holds pending jobs, which nobody would deliver; why its pod cannot run (POD_NOT_READY and the like).
   * `ownsAll`: it will own every partition of a new ring, so jobs that have no partition yet are its own and do not count.
   */
  ensureNode(input: AskingAsHolder & { readonly node: NodeId; readonly ownsAll?: boolean }): Promise<NodeFacts>;
  /** Waits until the node has folded `version` and serves. Refuses: the code that the node names. */
  waitServing(input: Asking & { readonly node: NodeId; readonly version: number }): Promise<void>;
  /**
   * Takes the node out of the ring and then away, the backend first. Looks again right before: refuses NODE_NOT_EMPTY while it owns a partition, an open
   * move names it, or a job is pending there, and CERTIFICATE_MISSING while a hand-over away from it has no certificate.
   */
  removeNode(input: RemoveInput): Promise<{ readonly notes: readonly string[] }>;
  /** As removeNode, for a node that an operation added and then gave no partition: one that owns or holds something stays, and that is no error. */
  removeUnused(input: AskingAsHolder & { readonly node: NodeId }): Promise<{ readonly removed: boolean }>;
}

export interface MoveActivityInput extends AskingAsHolder {
  readonly move: MoveId;
  readonly from: NodeId;
  readonly to: NodeId;
  readonly partitions: readonly PartitionIndex[];
}

/** Somebody has said that a difference is to be taken as it is. */
export interface Acceptance {
  readonly by: string;
  readonly reason: string;
}

export interface CleanUpInput extends MoveActivityInput {
  /** Where the sides differ the move is completed all the same, without a certificate, and the log says who accepted what. */
  readonly accept?: Acceptance;
}

/** Details of the heartbeats of `preCopy`: for people, some seconds old at most. */
export interface CopyProgress {
  readonly move: MoveId;
  /** By this attempt. */
  readonly jobsCopied: number;
  /** `bytesPerSecond`, or `brake: …`; null: as fast as it can. A throttled copy is no stalled one. */
  readonly throttledBy: string | null;
  /** What it may stream in a second at present; null: no limit. */
  readonly bytesPerSecond: number | null;
}

export type CutOverResult =
  | { readonly result: 'handed over'; readonly jobsMoved: number; readonly jobsCopied: number }
  /** This try is over and undone; another may succeed: HOLD_DEADLINE, QUIESCE_TIMEOUT, VERIFY_MISMATCH, MOVE_ABORTED (by the source's dead-man) … */
  | { readonly result: 'aborted'; readonly code: string; readonly because: string };

export interface MoveActivities {
  /** Claims the move, prepares the target, copies in passes until the rest is small. A rerun goes on from the ledger. */
  preCopy(input: MoveActivityInput): Promise<{ readonly jobsCopied: number; readonly passes: number }>;
  /** Claims the move; quiesce, fence, last rows, verify, hand over. */
  cutOver(input: MoveActivityInput): Promise<CutOverResult>;
  /**
   * After the hand-over: waits until source and target have folded it and settled, certifies what they hold, then `move completed`.
   * Refuses: CERTIFICATE_MISMATCH, unless that was accepted; then nothing may be deleted.
   */
  cleanUp(input: CleanUpInput): Promise<void>;
}

export interface VerifyActivities {
  /**
   * Each move's proof is in the log; every member has folded the ring, serves exactly the partitions that it owns, and holds no live pending job of another.
   * Refuses: VERIFY_MISMATCH, which names what differs.
   */
  verifyCluster(
    input: Asking & { readonly moves: readonly MoveId[] },
  ): Promise<{ readonly version: number; readonly nodes: number }>;
}

/** Something that is not as it should be, for people; programs go by its place. */
export interface ClusterProblem {
  readonly node: NodeId | null;
  readonly move: MoveId | null;
  readonly what: string;
}

export interface ClusterCheck {
  readonly version: number;
  readonly epoch: number;
  readonly nodes: number;
  /** The first of them. */
  readonly problems: readonly ClusterProblem[];
  readonly problemCount: number;
  /** What somebody has accepted to be lost or different: no problem any more, and never silent. Absent from workers that knew of none. */
  readonly losses?: readonly Loss[];
}

/** Where a comparison of moves is: moves are compared in the order of their hand-overs. */
export interface CompareMovesCursor {
  /** Log position of the hand-over of the move that is next, or under way. */
  readonly handedOverAt: number;
  readonly within: CompareCursor | null;
}

export interface CompareMovesInput {
  readonly clusterId: string;
  /** Of this operation only. */
  readonly operation: string | null;
  readonly cursor: CompareMovesCursor | null;
  readonly samplesMax: number;
}

export interface NotCompared {
  readonly move: MoveId;
  readonly jobs: number;
  readonly because: string;
}

/** What some seconds of comparing brought. */
export interface CompareSlice {
  /** Null: done. */
  readonly cursor: CompareMovesCursor | null;
  /** In all, as the log has them now. */
  readonly movesTotal: number;
  readonly jobsTotal: number;
  /** Moves that ended in this slice, and rows that it compared. */
  readonly movesDone: number;
  readonly jobsCompared: number;
  readonly counts: DifferenceCounts;
  readonly samples: readonly Difference[];
  readonly notCompared: readonly NotCompared[];
}

/** What `VerifyMoves` asks. Reads only. */
export interface CompareActivities {
  /** The cluster as it is now against the ring: what is not as it should be is named, and is no refusal. Refuses: CLUSTER_UNKNOWN. */
  checkCluster(input: { readonly clusterId: string }): Promise<ClusterCheck>;
  /** Compares for some seconds, row by row, from `cursor` on. */
  compareMoves(input: CompareMovesInput): Promise<CompareSlice>;
}

export interface AllActivities
  extends RingActivities,
    PodActivities,
    MoveActivities,
    VerifyActivities,
    CompareActivities {}
