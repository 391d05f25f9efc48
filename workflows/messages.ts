/**
 * What passes between `ScaleCluster` and the world: inputs, outcomes, queries, updates, search attributes.
 * **Boundary:** public. JSON only (no Map, Set, Date, bigint, class); fields are added, never renamed.
 */
import { defineSearchAttributeKey } from '@temporalio/common';
import { defineQuery, defineUpdate } from '@temporalio/workflow';
import type {
  Acceptance,
  ClusterCheck,
  CompareMovesCursor,
  Difference,
  DifferenceCounts,
  NotCompared,
} from '../activities/types.ts';
import type { NodeId } from '../ring/events.ts';
import type { PartitionIndex } from '../ring/partition.ts';

export const TASK_QUEUE_DEFAULT = 'ringmaster';
export const TARGET_NODES_MAX = 1_000;

/** The one workflow id of a cluster: it makes its operations run one at a time. */
export const scaleWorkflowId = (clusterId: string): string => `scale/${clusterId}`;
export const moveWorkflowId = (clusterId: string, operationId: string, n: number): string =>
  `scale/${clusterId}/${operationId}/move-${n}`;

/** What an operation is to bring about. `forget`: the node is given up, with what it holds; needs a reason. `drain`: the node gives away all it has, stays a member, and is given nothing until it is activated. `undo`: take back what an operation did, by its whole id. */
export type Goal =
  | { readonly kind: 'scale'; readonly nodes: number }
  | { readonly kind: 'drain'; readonly node: NodeId }
  | { readonly kind: 'forget'; readonly node: NodeId; readonly acceptLoss: true }
  | { readonly kind: 'undo'; readonly operation: string };

/** So plain that it can be typed in Temporal's UI. `targetNodes` is short for `goal: { kind: 'scale', nodes }`. */
export interface ScaleInput {
  readonly clusterId: string;
  readonly targetNodes?: number;
  readonly goal?: Goal;
  readonly reason?: string;
  /** The plan that was approved: another one is refused with PLAN_CHANGED. */
  readonly planHash?: string;
  /** Who asked, for the log. */
  readonly actor?: string;
  /** Makes the ring, with all its nodes, where there is none yet. Without it an unknown cluster is refused. Nothing where the ring is there. */
  readonly create?: { readonly partitionCount: number };
  /** Deletes the volumes of the nodes that leave. Default: they are kept, and adopted by a later node of the same name. */
  readonly deleteVolumes?: boolean;
  /** Partitions per move at most; default by the planner. */
  readonly partitionsPerMoveMax?: number;
  /** Continue as new once the history has this many events. Default: when the server suggests it. */
  readonly continueAsNewAfterEvents?: number;
  /** Set by continue-as-new only. */
  readonly carry?: ScaleCarry;
}

/** What a long operation takes along when its history continues as new. */
export interface ScaleCarry {
  readonly operationId: string;
  readonly progress: OperationProgress;
  /** Holder number of the freeze. */
  readonly holder: number;
  readonly paused: boolean;
  /** As it was at the freeze. Default 1. */
  readonly movesPerNode?: number;
  /** The operation takes itself back: these many of its moves were made on the way forward. */
  readonly undoneFrom?: number;
}

export type OperationState =
  | 'running'
  | 'paused'
  | 'blocked'
  | 'cancelling'
  | 'undoing'
  | 'completed'
  | 'cancelled'
  | 'undone'
  | 'nothing to do'
  | 'failed';
export type PhaseName =
  | 'make ring'
  | 'freeze ring'
  | 'plan'
  | 'add nodes'
  | 'mark nodes'
  | 'move partitions'
  | 'verify cluster'
  | 'remove nodes'
  | 'unfreeze ring';

/** What an operation waits for, as data. */
export interface BlockedOn {
  readonly code: string;
  readonly message: string;
  /** ISO 8601. */
  readonly since: string;
  /** What was passed before it counted as trouble: so long (`10m`), or so often (`3 tries`). Absent where the first time is enough. */
  readonly threshold?: string;
  readonly phase: PhaseName;
  /** `move-<n>` of this operation; or, whole, the id of a move that another one left behind. */
  readonly move?: string;
}

/** What the heartbeat of a copy that runs says: for people, some seconds old at most. A throttled copy is no stalled one. */
export interface MoveCopy {
  /** By the attempt that runs. */
  readonly jobsCopied: number;
  /** `bytesPerSecond`, or `brake: …`, which says which node feels what; null: as fast as it can. */
  readonly throttledBy: string | null;
  /** What it may stream in a second at present; null: no limit. */
  readonly bytesPerSecond: number | null;
}

export interface MoveProgress {
  readonly n: number;
  readonly from: NodeId;
  readonly to: NodeId;
  readonly partitions: readonly PartitionIndex[];
  readonly because: string;
  readonly state: 'waiting' | 'copying' | 'cutting over' | 'cleaning up' | 'done' | 'aborted';
  readonly tries: number;
  readonly jobsMoved: number;
  readonly jobsCopied: number;
  readonly lastAbort?: string;
  /** Id in the ring's log of the try that was handed over. */
  readonly move?: string;
  /** It is handed over, and what comes after that (clean-up, certificate) has met trouble. */
  readonly handedOver?: boolean;
  /** Of a copy that runs. Put there by who asks (client/move-copies.ts): the workflow does not know it. */
  readonly copy?: MoveCopy;
}

/** The answer of the query `progress`: the whole operation, for people and programs. */
export interface OperationProgress {
  readonly operationId: string;
  readonly clusterId: string;
  readonly workflowId: string;
  /** Absent in runs of a version that could only scale. */
  readonly goal?: Goal;
  readonly reason: string;
  readonly state: OperationState;
  readonly phase: PhaseName | null;
  readonly from: number;
  readonly to: number;
  readonly nodesAdded: readonly NodeId[];
  readonly nodesRemoved: readonly NodeId[];
  readonly planHash: string | null;
  readonly partitionsToMove: number;
  readonly partitionsMoved: number;
  readonly jobsMoved: number;
  readonly jobsCopied: number;
  readonly moves: readonly MoveProgress[];
  readonly blockedOn: BlockedOn | null;
  /** The exact command that goes on from here, where one is needed. */
  readonly nextAction: string | null;
  /** What was done beyond the plan, in sentences: a freeze taken over, a node removed again. */
  readonly notes: readonly string[];
  /** Phase → milliseconds, of those that have ended. */
  readonly phasesMs: Readonly<Record<string, number>>;
  /** ISO 8601. */
  readonly startedAt: string;
  readonly endedAt: string | null;
}

export const progressQuery = defineQuery<OperationProgress>('progress');

export interface OperatorRequest {
  readonly actor?: string;
  readonly reason?: string;
}
export interface RetryRequest extends OperatorRequest {
  /**
   * Of an operation that is blocked on CERTIFICATE_MISMATCH: the one move that it names is completed although its sides differ. Needs a reason; actor, reason
   * and difference stand in the ring's log, and are told by every later report.
   */
  readonly acceptDifference?: boolean;
}
/** No further move starts; moves that run finish. */
export const pauseUpdate = defineUpdate<OperationProgress, [OperatorRequest]>('pause');
/** Ends a pause, and tries again what a blocked operation waits for. */
export const resumeUpdate = defineUpdate<OperationProgress, [OperatorRequest]>('resume');
/** As resume, for an operation that is blocked. */
export const retryUpdate = defineUpdate<OperationProgress, [RetryRequest]>('retry');
/** Moves before their hand-over are aborted, those after it finish; no more start; the ring is valid and unfrozen. */
export const cancelUpdate = defineUpdate<OperationProgress, [OperatorRequest]>('cancel');
/** As cancel; then, under the same freeze, what was moved is moved back, nodes that were removed come back, and those that were added go. */
export const undoUpdate = defineUpdate<OperationProgress, [OperatorRequest]>('undo');

export const searchAttributes = {
  cluster: defineSearchAttributeKey('RingmasterCluster', 'KEYWORD'),
  state: defineSearchAttributeKey('RingmasterState', 'KEYWORD'),
  blockedOn: defineSearchAttributeKey('RingmasterBlockedOn', 'KEYWORD'),
} as const;

/** Input of the child workflow `MovePartitions`. */
export interface MoveInput {
  readonly clusterId: string;
  readonly operationId: string;
  readonly holder: number;
  readonly n: number;
  readonly from: NodeId;
  readonly to: NodeId;
  readonly partitions: readonly PartitionIndex[];
  readonly reason: string;
  readonly askedBy?: string;
  /** A difference that its clean-up may meet is accepted. */
  readonly accept?: Acceptance;
  /** The number of its first try: what an earlier child used up is not used again. Default 1. */
  readonly tryFrom?: number;
}

export interface MoveOutcome {
  readonly n: number;
  /** `aborted`: cancelled before its hand-over. `blocked`: given up after three tries for one reason, told in `because`; may be started again. */
  readonly result: 'completed' | 'aborted' | 'blocked';
  readonly tries: number;
  readonly jobsMoved: number;
  readonly jobsCopied: number;
  readonly code: string | null;
  readonly because: string | null;
  /** Id in the ring's log of the last try. */
  readonly move: string | null;
  /** With `blocked`: as `BlockedOn.threshold`. */
  readonly threshold?: string;
  /** With `blocked`: it is handed over, and only what comes after that is missing. */
  readonly handedOver?: boolean;
}

/** What the child `MovePartitions` is doing right now; its parent only knows that it runs, to keep histories small. */
export interface MoveStatus {
  readonly state: MoveProgress['state'];
  readonly move: string | null;
  readonly tries: number;
  readonly lastAbort: string | null;
}
export const moveStatusQuery = defineQuery<MoveStatus>('status');

// ---- VerifyMoves

/** `verify/<clusterId>` compares rows; `verify/<clusterId>/now` only looks at the cluster. One of each runs at a time. */
export const verifyWorkflowId = (clusterId: string, full: boolean): string =>
  full ? `verify/${clusterId}` : `verify/${clusterId}/now`;
export const VERIFY_SAMPLES_DEFAULT = 10;
export const VERIFY_SAMPLES_MAX = 200;

export interface VerifyInput {
  readonly clusterId: string;
  /** Compare what moves took along, row by row; else only the cluster is looked at. */
  readonly full?: boolean;
  /** Only moves of this operation: its whole id. */
  readonly operation?: string;
  /** Differences that are named; all are counted. */
  readonly samplesMax?: number;
  readonly actor?: string;
  readonly reason?: string;
  /** Goes on from there: what an earlier run that was stopped has told, or set by continue-as-new. */
  readonly carry?: VerifyProgress;
  /** As of ScaleCluster. */
  readonly continueAsNewAfterEvents?: number;
}

/** The answer of the query `verification`. */
export interface VerifyProgress {
  readonly clusterId: string;
  readonly full: boolean;
  readonly operation: string | null;
  readonly state: 'running' | 'stopping' | 'stopped' | 'completed' | 'failed';
  /**
   * Null until it is completed. `verified`: everything was compared and is the same. `incomplete`: so is what could be compared.
   * `differs`: something is not as it should be.
   */
  readonly verdict: 'verified' | 'incomplete' | 'differs' | null;
  /** Null until it was looked at. */
  readonly cluster: ClusterCheck | null;
  readonly movesTotal: number;
  readonly movesDone: number;
  readonly jobsTotal: number;
  readonly jobsCompared: number;
  readonly counts: DifferenceCounts;
  readonly samples: readonly Difference[];
  /** The first of them; their jobs in all. */
  readonly notCompared: readonly NotCompared[];
  readonly notComparedMoves: number;
  readonly notComparedJobs: number;
  /** From where a later run goes on; null before the first rows, and at the end. */
  readonly cursor: CompareMovesCursor | null;
  /** Why it failed. */
  readonly because: string | null;
  /** ISO 8601. */
  readonly startedAt: string;
  readonly endedAt: string | null;
}

export const verificationQuery = defineQuery<VerifyProgress>('verification');
/** Ends it where it is; its progress says from where a later run may go on. */
export const stopVerificationUpdate = defineUpdate<VerifyProgress, [OperatorRequest]>('stop');
