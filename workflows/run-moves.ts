/** Carries out the planned moves: several at once, for each node as many as the cluster's limit says (by default one), each a child workflow. */

import { TypedSearchAttributes } from '@temporalio/common';
import {
  CancellationScope,
  ChildWorkflowCancellationType,
  condition,
  executeChild,
  ParentClosePolicy,
  workflowInfo,
} from '@temporalio/workflow';
import { formatPartitions } from '../ring/partition.ts';
import { refusalOf } from './failures.ts';
import { type MoveInput, type MoveOutcome, moveWorkflowId, searchAttributes } from './messages.ts';
import type { MoveEntry, Operation } from './operation.ts';

/** Ends when all moves are done; earlier, with none under way, when the history should continue as new. */
export async function runMoves(op: Operation): Promise<void> {
  const running = new Map<MoveEntry, Promise<void>>();
  const bugs: unknown[] = [];
  const moves = op.currentMoves;
  for (const move of moves) if (move.state !== 'done') move.state = 'waiting'; // the step runs again, or goes on in a new run
  try {
    for (;;) {
      if (op.mayStart && !isHistoryLong(op)) {
        for (const move of startable(moves, running, op.movesPerNode)) {
          const run = runMove(op, move)
            .catch((error: unknown) => void bugs.push(error))
            .finally(() => running.delete(move));
          running.set(move, run);
        }
      }
      if (bugs.length > 0) throw bugs[0];
      if (moves.every((move) => move.state === 'done')) return;
      if (running.size === 0 && op.mayStart && isHistoryLong(op)) return;
      const wasRunning = running.size;
      const wasStarting = op.mayStart;
      await condition(() => running.size !== wasRunning || op.mayStart !== wasStarting);
    }
  } finally {
    // Cancelled or not: nothing goes on before every child has told how it ended.
    await CancellationScope.nonCancellable(async () => void (await Promise.all(running.values())));
  }
}

function isHistoryLong({ input }: Operation): boolean {
  const { continueAsNewSuggested, historyLength } = workflowInfo();
  return continueAsNewSuggested || historyLength >= (input.continueAsNewAfterEvents ?? Number.POSITIVE_INFINITY);
}

/** In the plan's order, those whose two nodes are free: a node's disk and its users feel as many moves at a time as the cluster's limit says. */
function startable(
  moves: readonly MoveEntry[],
  running: ReadonlyMap<MoveEntry, unknown>,
  movesPerNode: number,
): MoveEntry[] {
  const busy: Record<string, number> = {};
  const take = ({ from, to }: MoveEntry): void => {
    for (const node of [from, to]) busy[node] = (busy[node] ?? 0) + 1;
  };
  const isFree = (node: string): boolean => (busy[node] ?? 0) < movesPerNode;
  for (const move of running.keys()) take(move);
  return moves.filter((move) => {
    if (move.state !== 'waiting' || running.has(move) || !isFree(move.from) || !isFree(move.to)) return false;
    take(move);
    return true;
  });
}

async function runMove(op: Operation, move: MoveEntry): Promise<void> {
  move.state = 'copying'; // what it does in detail its own query tells: a signal for each change would triple the history
  op.changed();
  const outcome = await executeMove(op, move);
  move.tries = Math.max(move.tries, outcome.tries);
  if (outcome.handedOver && outcome.move) {
    move.handedOver = true;
    move.move = outcome.move;
  }
  if (outcome.because) move.lastAbort = `${outcome.code}: ${outcome.because}`;
  if (outcome.result === 'completed') {
    move.state = 'done';
    delete move.handedOver;
    if (outcome.move) move.move = outcome.move;
    move.jobsMoved = outcome.jobsMoved;
    move.jobsCopied = outcome.jobsCopied;
    op.progress.partitionsMoved += move.partitions.length;
    op.progress.jobsMoved += outcome.jobsMoved;
    op.progress.jobsCopied += outcome.jobsCopied;
  } else if (CancellationScope.current().consideredCancelled) {
    move.state = 'aborted';
    if (outcome.handedOver) op.note(`move ${move.n} is handed over and not completed: ${move.lastAbort}`);
  } else {
    // Blocked; or aborted although nobody cancelled the operation: its child was cancelled by hand. Resume starts it again, with the next try.
    move.state = 'waiting';
    op.block(
      {
        code: outcome.code ?? 'MOVE_CANCELLED',
        message: outcome.because ?? 'its workflow was cancelled by hand',
        ...(outcome.threshold ? { threshold: outcome.threshold } : {}),
      },
      `move-${move.n}`,
    );
  }
  op.changed();
}

async function executeMove(op: Operation, move: MoveEntry): Promise<MoveOutcome> {
  const { clusterId, operationId } = op.progress;
  const { n, from, to, partitions } = move;
  const accept = op.acceptanceOf(`move-${n}`);
  const input: MoveInput = { ...op.asHolder, n, from, to, partitions, tryFrom: move.tries + 1, ...accept };
  try {
    return await executeChild('MovePartitions', {
      // The same id again when a blocked move is resumed: never two at once.
      workflowId: moveWorkflowId(clusterId, operationId, n),
      args: [input],
      // Should we be terminated, it undoes what is not handed over and finishes what is, instead of leaving that to the next operation.
      parentClosePolicy: ParentClosePolicy.REQUEST_CANCEL,
      cancellationType: ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
      typedSearchAttributes: new TypedSearchAttributes([{ key: searchAttributes.cluster, value: clusterId }]),
      staticSummary: `partitions ${formatPartitions(partitions)} from ${from} to ${to}: ${move.because}`.slice(0, 400),
    });
  } catch (error) {
    const refusal = refusalOf(error);
    const lost = { n, tries: move.tries, jobsMoved: 0, jobsCopied: 0, move: null };
    if (refusal) return { ...lost, result: 'blocked', code: refusal.code, because: refusal.message };
    if (CancellationScope.current().consideredCancelled)
      return { ...lost, result: 'aborted', code: null, because: null };
    throw error;
  }
}
