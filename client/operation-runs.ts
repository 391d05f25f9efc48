/**
 * Operations among Temporal's workflow runs. All runs of a cluster's operations have one workflow id, so they follow each other and never overlap; an operation
 * is one run, or a chain of runs by continue-as-new, and its id is the first run's id.
 */
import type { WorkflowExecutionDescription, WorkflowExecutionInfo } from '@temporalio/client';
import { type OperationState, searchAttributes } from '../workflows/messages.ts';

/** One operation, as a list shows it. */
export interface OperationSummary {
  readonly operationId: string;
  readonly clusterId: string;
  readonly workflowId: string;
  readonly state: OperationState;
  /** Null where it was not started through the API: the workflow's input has it. */
  readonly targetNodes: number | null;
  readonly reason: string | null;
  readonly actor: string | null;
  /** Code of what a blocked operation waits for. */
  readonly blockedOn: string | null;
  /** ISO 8601. */
  readonly startedAt: string;
  readonly endedAt: string | null;
}

/** What we write into the memo at the start; continue-as-new takes it along. */
export interface OperationMemo {
  readonly actor: string;
  readonly reason: string;
  readonly targetNodes: number | null;
  readonly idempotencyKey?: string;
  /** Of what was asked: the same key with another digest is another request. */
  readonly requestDigest?: string;
}

export type Run = Omit<WorkflowExecutionInfo, 'raw'>;

/** An operation and its latest run. */
export interface Operation {
  readonly operationId: string;
  readonly run: Run;
  /** When its first run began. */
  readonly startedAt: Date;
}

/** A chain of runs, the newest first. */
export function chainsOf(runs: readonly Run[]): Run[][] {
  const newestFirst = [...runs].sort((a, b) => b.startTime.getTime() - a.startTime.getTime());
  const chains: Run[][] = [];
  for (const run of newestFirst) {
    // Runs of one workflow id follow each other, so one that continued as new did so into the run that is next in time.
    if (run.status.name === 'CONTINUED_AS_NEW' && chains.length > 0) chains.at(-1)!.push(run);
    else chains.push([run]);
  }
  return chains;
}

/** The first run's id, as the server knows it; null with a server that does not say. */
export const firstRunIdOf = (description: WorkflowExecutionDescription): string | null =>
  description.raw.workflowExecutionInfo?.firstRunId || null;

export const isClosed = (run: Run): boolean => !['RUNNING', 'PAUSED', 'CONTINUED_AS_NEW'].includes(run.status.name);

export const memoOf = (run: Run): Partial<OperationMemo> => (run.memo ?? {}) as Partial<OperationMemo>;

export function summaryOf({ operationId, run, startedAt }: Operation, clusterId: string): OperationSummary {
  const memo = memoOf(run);
  const blockedOn = run.typedSearchAttributes.get(searchAttributes.blockedOn) || null;
  return {
    operationId,
    clusterId,
    workflowId: run.workflowId,
    state: stateOf(run),
    targetNodes: memo.targetNodes ?? null,
    reason: memo.reason ?? null,
    actor: memo.actor ?? null,
    blockedOn: isClosed(run) ? null : blockedOn,
    startedAt: startedAt.toISOString(),
    endedAt: isClosed(run) ? (run.closeTime?.toISOString() ?? null) : null,
  };
}

const openStates: readonly OperationState[] = ['running', 'paused', 'blocked', 'cancelling', 'undoing'];
const endStates: readonly OperationState[] = ['completed', 'cancelled', 'undone', 'nothing to do', 'failed'];

/** What the workflow says of itself counts only as far as Temporal's own status allows it: a terminated run says no more that it has ended. */
export function stateOf(run: Run): OperationState {
  const said = run.typedSearchAttributes.get(searchAttributes.state) as OperationState | undefined;
  if (!isClosed(run)) return said && openStates.includes(said) ? said : 'running';
  if (run.status.name !== 'COMPLETED') return 'failed';
  return said && endStates.includes(said) ? said : 'completed';
}
