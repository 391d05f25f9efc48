/**
 * What the HTTP API answers, as JSON. **Boundary:** public; fields are added, never renamed.
 */
import type { NodeId, RecordedEvent } from '../ring/events.ts';
import type { LimitName, LimitsChange, MoveLimits } from '../ring/limits.ts';
import type { MoveRecord } from '../ring/moves.ts';
import type { PartitionIndex } from '../ring/partition.ts';
import type { MovePlan } from '../ring/plan.ts';
import type { Loss, OpenMove } from '../ring/ring.ts';
import type { OperationProgress, VerifyProgress } from '../workflows/messages.ts';
import type { OperationSummary } from './operation-runs.ts';

export type { OperationSummary } from './operation-runs.ts';

/** Every answer that is no success. */
export interface ApiError {
  readonly code: string;
  readonly message: string;
  readonly details: Readonly<Record<string, unknown>>;
}

export interface HealthAnswer {
  readonly status: 'ok';
  /** With the one gone, rings are served as they were last known; with the other, operations cannot be started or steered. */
  readonly ringStore: 'ok' | 'unreachable';
  readonly temporal: 'ok' | 'unreachable';
}

export interface ClustersAnswer {
  readonly clusters: readonly { readonly clusterId: string }[];
}

export interface NodeAnswer {
  readonly node: NodeId;
  readonly url: string;
  /** How many partitions it owns. */
  readonly partitions: number;
  /** It is given nothing, until it is activated. */
  readonly drained: boolean;
}

/** A router process that lives, as it said when it last renewed its lease. Ages in milliseconds, until now. */
export interface RouterAnswer {
  /** `router@host/pid`. */
  readonly router: string;
  readonly url: string;
  /** Its number among the workers of its router; null where it is the only process. */
  readonly worker: number | null;
  readonly build: string | null;
  /** Of the ring that it routes by. */
  readonly version: number;
  readonly epoch: number;
  /** How many events the log has beyond that. */
  readonly behind: number;
  /** For how long it has had this ring. */
  readonly ringAgeMs: number;
  /** How long ago it last heard that its ring is the latest; null: not since it was started. */
  readonly confirmedMsAgo: number | null;
  readonly upMs: number;
  readonly renewedMsAgo: number;
}

export interface ClusterAnswer {
  readonly clusterId: string;
  readonly version: number;
  readonly epoch: number;
  readonly partitionCount: number;
  readonly nodes: readonly NodeAnswer[];
  /** The operation that holds the ring; null: unfrozen. */
  readonly freeze: { readonly operationId: string; readonly workflowId: string; readonly holder: number } | null;
  readonly openMoves: readonly OpenMove[];
  /** Null: the ring store, which has their leases, cannot be asked. */
  readonly routers: readonly RouterAnswer[] | null;
  /** What somebody has accepted to be lost or different. */
  readonly losses: readonly Loss[];
  /** The operation that is under way; null also where Temporal cannot be asked: see `temporal`. */
  readonly operation: OperationSummary | null;
  readonly temporal: 'ok' | 'unreachable';
  /** Why the ring may be old (the ring store is gone, RING_STORE_BEHIND); null when it is well. */
  readonly ringTrouble: string | null;
  /** Types of events in the log that this API does not know: nothing is changed before it is upgraded (RING_TOO_NEW). Absent where there are none. */
  readonly notUnderstood?: readonly string[];
}

/** A ring as it is, or as it was at a version. */
export interface RingAnswer {
  readonly clusterId: string;
  readonly version: number;
  readonly epoch: number;
  readonly partitionCount: number;
  readonly nodes: readonly (NodeAnswer & { readonly owns: readonly PartitionIndex[] })[];
  readonly freeze: ClusterAnswer['freeze'];
  readonly openMoves: readonly OpenMove[];
  /** When its last event was recorded, by the ring store's clock. */
  readonly at: string | null;
}

export interface PlanAnswer {
  readonly result: 'plan' | 'nothing to do';
  readonly plan: MovePlan;
}

export interface OperationRequest {
  readonly targetNodes: number;
  readonly reason?: string;
  readonly dryRun?: boolean;
  /** The plan that was approved: with another one by now the request is refused (PLAN_CHANGED). */
  readonly planHash?: string;
  readonly actor?: string;
  /** Deletes the volumes of nodes that leave; default: they are kept. */
  readonly deleteVolumes?: boolean;
}

/** 202 with `started`, 200 with the others. */
export type OperationAnswer =
  | { readonly result: 'started'; readonly operationId: string; readonly workflowId: string }
  | { readonly result: 'nothing to do'; readonly plan: MovePlan }
  | { readonly result: 'plan'; readonly plan: MovePlan };

/** What `undo` is asked of. `planHash` counts where the operation has ended. */
export interface UndoRequest {
  readonly reason?: string;
  readonly actor?: string;
  readonly dryRun?: boolean;
  readonly planHash?: string;
}

/**
 * 202 with `started`: the operation had ended, and another one takes it back. `undoing`: it is under way, and takes itself back. `underWay`: whether it was when
 * a plan was asked for.
 */
export type UndoAnswer =
  | { readonly result: 'started'; readonly operationId: string; readonly workflowId: string }
  | { readonly result: 'undoing'; readonly progress: OperationProgress }
  | { readonly result: 'plan' | 'nothing to do'; readonly plan: MovePlan | null; readonly underWay: boolean };

/** What `drain` of a node is asked with. The answer is as of an operation that is started. */
export interface DrainRequest {
  readonly reason?: string;
  readonly actor?: string;
  readonly dryRun?: boolean;
  readonly planHash?: string;
}

/** What `forget` is asked with. The answer is as of an operation that is started. */
export interface ForgetRequest {
  readonly acceptLoss: true;
  readonly reason: string;
  readonly actor?: string;
  readonly dryRun?: boolean;
  readonly planHash?: string;
}

export interface ActivateRequest {
  readonly reason?: string;
  readonly actor?: string;
}
export interface ActivateAnswer {
  readonly node: NodeId;
  /** The ring's version at which it is active. */
  readonly version: number;
}

export interface OperationsAnswer {
  readonly operations: readonly OperationSummary[];
}

export type ProgressAnswer = OperationProgress;

export interface LogAnswer {
  readonly events: readonly RecordedEvent[];
  /** Where to go on: the `after` of the next request. */
  readonly next: number;
}

/** One limit of a cluster's moves. */
export interface LimitAnswer<T = MoveLimits[LimitName]> {
  readonly value: T;
  /** The event that set it; null: it is the default. */
  readonly set: { readonly version: number; readonly by: string; readonly reason: string; readonly at: string } | null;
}

export interface LimitsAnswer {
  readonly clusterId: string;
  readonly version: number;
  readonly limits: { readonly [Name in LimitName]: LimitAnswer<MoveLimits[Name]> };
}

/** What is left out stays as it is. */
export interface LimitsRequest extends LimitsChange {
  readonly reason?: string;
  readonly actor?: string;
}

type ShownEvent = Pick<RecordedEvent, 'version' | 'event' | 'actor' | 'at'>;
/** What nodes and routers have seen of the log, and what a repair of the ring store would do, or has done. */
export interface RepairAnswer {
  readonly clusterId: string;
  /** Where the log in the ring store ends. */
  readonly store: { readonly version: number; readonly hash: string };
  readonly copies: readonly {
    /** A node, or `router@host/pid`. */
    readonly source: string;
    readonly version: number;
    readonly hash: string;
    /** The last version at which it and the store have the same event; null: it no longer knows so far back. */
    readonly agreesTo: number | null;
  }[];
  /** Members that have not answered. */
  readonly missing: readonly NodeId[];
  /** Routers that follow what would be set aside: they must be started again, without their ring file. */
  readonly astray: readonly string[];
  /** Null: the store has all that anybody has seen. */
  readonly repair: {
    readonly source: string;
    /** The last event of the store that stays. */
    readonly keepTo: number;
    readonly append: readonly ShownEvent[];
    readonly setAside: readonly ShownEvent[];
    /** Of the log's last event after it. */
    readonly hash: string;
  } | null;
  readonly repaired: boolean;
}
export interface RepairRequest {
  /** `repair.hash` of the answer that was approved: with another one by now nothing is done (RING_COPIES_CHANGED). */
  readonly hash: string;
  /** Events of the store that no copy has are taken out of the log and kept beside it. Else they refuse the repair (RING_STORE_FORKED). */
  readonly setAside?: boolean;
  /** Members that will never answer. Else they refuse the repair (RING_COPY_MISSING). */
  readonly without?: readonly NodeId[];
  readonly reason?: string;
  readonly actor?: string;
}

export interface VerifyStarted {
  readonly workflowId: string;
  readonly runId: string;
}
export type VerificationAnswer = VerifyProgress;

/** One move of an operation, with its certificate. */
export interface CertifiedMove extends Omit<MoveRecord, 'proof'> {
  /** Pending at its hand-over, as was proven then; null before it. */
  readonly jobsProven: number | null;
  /** Why there is no certificate; null where there is one, or where nothing was handed over. */
  readonly uncertifiedBecause: string | null;
}
export interface CertificatesAnswer {
  readonly clusterId: string;
  /** Whole id. */
  readonly operation: string;
  readonly moves: readonly CertifiedMove[];
}
