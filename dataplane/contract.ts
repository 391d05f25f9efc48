/**
 * What the orchestrator asks of a node, whatever kind it is, and what nodes and routers say to each other in HTTP headers.
 * **Boundary:** nodes of version N−1 answer orchestrators of version N: fields are added, never renamed.
 */
import type { MoveId, NodeId } from '../ring/events.ts';
import type { PartitionIndex } from '../ring/partition.ts';

/** A partition's state at a node, durable in the node's PostgreSQL (ARCHITECTURE.md, "States of a partition"). */
export type PartitionState = 'closed' | 'open' | 'paused' | 'fenced';

/**
 * With `421 Misdirected Request` a node has stored nothing of the request. The body is
 * `{ "error": "not-owner" | "fenced", "partitions": [the ones that it does not take in] }`.
 */
export const headers = {
  /** `not-owner` or `fenced`. */
  state: 'ringmaster-state',
  /** The ring's version that the node has folded. */
  version: 'ringmaster-version',
  /** With `fenced`: the move whose hand-over or abort ends it. With several moves: the first. */
  move: 'ringmaster-move',
} as const;

/** What live traffic feels at a node just now, over its last two seconds. Milliseconds. */
export interface NodeLoad {
  /** From a request's arrival to the commit of its events. Null: nothing came in lately. */
  readonly commitMs: { readonly p50: number; readonly p90: number } | null;
  /**
   * How long a job waits here that could be worked on at once: for being processed (gw), read, and marked as started (rt); the p90 of each, together. What
   * waits for its destination (its slots are taken, or it asked to be tried later), behind another job of its user, or for the end of a cut-over is not in it.
   * 0 where nothing waits.
   */
  readonly queueDelayMs: number;
}

export interface NodeStatus {
  readonly node: NodeId;
  readonly databaseId: string;
  /** Raised by each process of the node at its start; only the latest may write. */
  readonly instance: number;
  /** The ring's version and epoch that the node has folded and made durable. */
  readonly foldedVersion: number;
  readonly epoch: number;
  /** Up to this version nothing stale is left here: pending rows of partitions that the node does not own are marked or dropped. */
  readonly settledVersion: number;
  /** Batches of stale rows that this process has put away: while it grows, what has not settled yet is on its way. Nodes of N−1 do not tell. */
  readonly batchesPutAway?: number;
  /** True once the node takes in and delivers for the partitions that it owns. */
  readonly serving: boolean;
  /** Why it doesn't, where it refuses to: such as NODE_OTHER_DATABASE. */
  readonly blocked: { readonly code: string; readonly message: string } | null;
  readonly partitions: Readonly<Record<PartitionState, number>>;
  /** Pending jobs without a partition, written before the ring existed, as the node found or left them at its start. Absent where there are none. */
  readonly unadopted?: number;
  /** RING_STORE_BEHIND, in words: the ring store lacks what this node has seen; it serves on and refuses every command. Absent where it is well. */
  readonly ringTrouble?: string;
  /** Types of events in the log that this node does not know: it serves on as it is and refuses every command (RING_TOO_NEW). Absent where there are none. */
  readonly notUnderstood?: readonly string[];
  /** Absent where a node does not measure it (version N−1, other kinds of nodes). */
  readonly load?: NodeLoad;
}

export interface MoveCommand {
  readonly move: MoveId;
  /** Log position of the claim under which this is asked; a node folds at least to it before it obeys, and refuses an older one (STALE_TOKEN). */
  readonly token: number;
  readonly partitions: readonly PartitionIndex[];
}

/** Where the copy goes, in the target's database: one dataset for each prefix. */
export interface ImportTarget {
  readonly datasets: readonly { readonly prefix: string; readonly dataset: number }[];
}

/** A node, as the orchestrator commands it. All commands can be repeated. Refusals are CodedErrors: STALE_TOKEN, MOVE_ABORTED, NODE_OWNS_PARTITION, QUIESCE_TIMEOUT, NODE_BLOCKED … */
export interface NodeControl {
  status(signal?: AbortSignal): Promise<NodeStatus>;
  /** Pending jobs of all prefixes, on partitions that it owns or not, or that no ring knows. Reads over all that is stored: not for every look. */
  countPending(signal?: AbortSignal): Promise<number>;
  /** Target: partitions are closed here, what an aborted move left is dropped, and the token is raised, which waits for an older attempt's open write. */
  prepare(command: MoveCommand, signal?: AbortSignal): Promise<ImportTarget>;
  /** Source: stops starting to process and deliver, durably, and waits for what is in flight, at most `limitMs`; then QUIESCE_TIMEOUT, with the destination in details. */
  quiesce(command: MoveCommand & { readonly limitMs: number }, signal?: AbortSignal): Promise<void>;
  /** Source: refuses intake, durably. If no end of the move is seen in the log within `holdDeadlineMs` the source itself appends `move aborted`. */
  fence(command: MoveCommand & { readonly holdDeadlineMs: number }, signal?: AbortSignal): Promise<void>;
}

/** Paths of the control API (bearer token), JSON bodies, refusals as 409 `{ code, message, details }`. */
export const controlPaths = {
  status: '/control/v1/status',
  /** GET: `{ "pendingJobs": n }`. */
  pending: '/control/v1/pending',
  prepare: '/control/v1/prepare',
  quiesce: '/control/v1/quiesce',
  fence: '/control/v1/fence',
} as const;
