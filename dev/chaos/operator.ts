/**
 * The person at the keyboard of a chaos run: starts one operation after the other, whatever is down meanwhile, changes his mind now and then, and does what a
 * blocked operation asks for. Speaks to the API only.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { CodedError, codeOf, describeError } from '../../kit/errors.ts';
import type { OperationProgress } from '../../workflows/messages.ts';
import {
  type Api,
  hasEnded,
  listOperations,
  readOperation,
  startOperation,
  steerOperation,
  undoOperation,
} from '../demo/operations.ts';
import type { PlannedOperation } from './plan.ts';

export interface OperationsSeen {
  /** Reached their size. */
  completed: number;
  /** Stopped: what was not handed over went back, what was stayed. */
  cancelled: number;
  /** Taken back, by themselves or by another operation once they had ended. */
  undone: number;
  /** Were blocked at least once, however they ended. */
  blocked: number;
}

export interface OperatorOptions {
  readonly api: Api;
  readonly clusterId: string;
  readonly operations: readonly PlannedOperation[];
  /** Counts. */
  readonly seen: OperationsSeen;
  /** No more are started. */
  readonly enough: AbortSignal;
  /** Everything ends. */
  readonly signal: AbortSignal;
  readonly say: (line: string) => void;
  readonly onProgress: (progress: OperationProgress) => void;
}

const LOOK_EVERY_MS = 250;
const START_AGAIN_MS = 500;
/** Between two tries of a person to get a blocked operation going. */
const RETRY_EVERY_MS = 3_000;
/** After the last fault has healed. An attempt that was lost is noticed after minutes (docs/limits.md), and tried again. */
export const OPERATION_ENDS_WITHIN_MS = 420_000;

/** Returns when the last operation is over, and no more are to be started. Throws OPERATION_STILL where one does not end, and what the API refuses for good. */
export async function operate(options: OperatorOptions): Promise<void> {
  const { seen } = options;
  for (const [nth, planned] of options.operations.entries()) {
    if (options.enough.aborted) break;
    const operationId = await start(options, planned, nth);
    if (operationId === null) continue;
    const { last, isUndo } = await seeThrough(options, planned, operationId);
    options.say(`· ${last.from} → ${last.to} nodes: ${last.state}, ${last.partitionsMoved} partitions moved`);
    if (last.state === 'undone' || (isUndo && last.state === 'completed')) seen.undone += 1;
    else if (last.state === 'completed') seen.completed += 1;
    else if (last.state === 'cancelled') seen.cancelled += 1;
    else if (last.state !== 'nothing to do') throw new Error(`operation ${operationId} ended as ${last.state}`);
  }
}

/** Asks until somebody answers; the key makes that harmless. Null: there was nothing to do, or no more are to be started and this one was not. */
async function start(options: OperatorOptions, { to }: PlannedOperation, nth: number): Promise<string | null> {
  const { api, clusterId, signal, enough } = options;
  const how = { reason: `chaos: scale to ${to}`, signal, idempotencyKey: `chaos-${nth}` };
  for (;;) {
    try {
      return await startOperation(api, clusterId, to, how);
    } catch (error) {
      if (signal.aborted) throw error;
      if (codeOf(error) === 'TARGET_NODES_INVALID') throw error;
      // It may have been started, and only the answer was lost.
      if (enough.aborted && (await isNobodyRunning(options))) return null;
    }
    await sleep(START_AGAIN_MS, null, { signal });
  }
}

async function isNobodyRunning({ api, clusterId, signal }: OperatorOptions): Promise<boolean> {
  try {
    return (await listOperations(api, clusterId, signal)).every(hasEnded);
  } catch {
    return false; // not known: ask again
  }
}

/** To the end of it, or of the operation that takes it back. */
async function seeThrough(
  options: OperatorOptions,
  { change }: PlannedOperation,
  started: string,
): Promise<{ readonly last: OperationProgress; readonly isUndo: boolean }> {
  const { api, clusterId, signal, enough, say, seen } = options;
  const startedAt = performance.now();
  let operationId = started;
  let wasBlocked = false;
  let hasChanged = change === null;
  let actedAt = 0;
  let enoughSince: number | null = null;
  let last: OperationProgress | null = null;

  const act = async (action: 'retry' | 'cancel' | 'undo'): Promise<boolean> => {
    actedAt = performance.now();
    try {
      const how = { reason: 'chaos', signal };
      if (action !== 'undo') await steerOperation(api, clusterId, operationId, action, how);
      else {
        const idempotencyKey = `chaos-undo-${started}`;
        operationId = (await undoOperation(api, clusterId, started, { ...how, idempotencyKey })) ?? started;
      }
      return true;
    } catch (error) {
      if (!signal.aborted) say(`· ${action} is refused for now: ${describeError(error)}`);
      return false;
    }
  };

  for (;;) {
    await sleep(LOOK_EVERY_MS, null, { signal });
    const at = performance.now();
    if (enough.aborted) enoughSince ??= at;
    if (enoughSince !== null && at - enoughSince > OPERATION_ENDS_WITHIN_MS)
      throw new CodedError('OPERATION_STILL', `operation ${operationId} does not end: ${where(last)}`);
    const progress = await readOperation(api, clusterId, operationId, signal).catch((error: unknown) => {
      if (signal.aborted) throw error;
      return null; // the API, Temporal or the worker is down: that is what this is about
    });
    if (!progress) continue;
    last = progress;
    options.onProgress(progress);
    const isUndone = change?.action === 'undo' && !hasChanged && progress.state === 'completed' && !enough.aborted;
    if (hasEnded(progress) && !isUndone) return { last: progress, isUndo: operationId !== started };
    if (progress.state === 'blocked' && !wasBlocked) {
      wasBlocked = true;
      seen.blocked += 1;
      say(`· blocked on ${progress.blockedOn?.code}: ${progress.blockedOn?.message}`);
    }
    if (at - actedAt < RETRY_EVERY_MS) continue;
    if (change && !hasChanged && at - startedAt > change.afterMs) hasChanged = await act(change.action);
    else if (progress.state === 'blocked') await act('retry');
  }
}

function where(progress: OperationProgress | null): string {
  if (!progress) return 'nothing was ever heard of it';
  const { state, phase, blockedOn } = progress;
  return `${state}${phase ? `, ${phase}` : ''}${blockedOn ? `, ${blockedOn.code}: ${blockedOn.message}` : ''}`;
}
