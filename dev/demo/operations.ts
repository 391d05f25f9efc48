/** Starting an operation by the HTTP API, finding one that something else has started, and watching it to its end. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ApiError, OperationAnswer, OperationsAnswer, UndoAnswer } from '../../client/api-types.ts';
import { CodedError } from '../../kit/errors.ts';
import type { OperationProgress } from '../../workflows/messages.ts';

export interface Api {
  readonly url: string;
  readonly token: string;
}

const LOOK_EVERY_MS = 250;
/** The API or Temporal may be away for a while; the operation goes on without them. */
const SILENCE_MAX_MS = 60_000;
/** Nobody is there to resolve it. */
const BLOCKED_MAX_MS = 60_000;
/** Without any change in its progress, and not blocked: it hangs, and the demo keeps what tells why. Longer than an activity's lost attempt (3 min) and its retry. */
const STILL_MAX_MS = 300_000;
const ended = new Set<OperationProgress['state']>(['completed', 'cancelled', 'undone', 'failed', 'nothing to do']);

interface Watching {
  readonly signal: AbortSignal;
  readonly onProgress: (progress: OperationProgress) => void;
}

/** Scales to `targetNodes` and returns the last progress; null where there was nothing to do. Throws what the API refuses with, and OPERATION_BLOCKED. */
export async function runOperation(
  api: Api,
  clusterId: string,
  targetNodes: number,
  options: Watching & { readonly reason: string },
): Promise<OperationProgress | null> {
  const operationId = await startOperation(api, clusterId, targetNodes, options);
  return operationId === null ? null : watchOperation(api, clusterId, operationId, options);
}

/** Its id; null where there was nothing to do. */
export async function startOperation(
  api: Api,
  clusterId: string,
  targetNodes: number,
  options: { readonly reason: string; readonly signal: AbortSignal; readonly idempotencyKey?: string },
): Promise<string | null> {
  const wanted = { targetNodes, reason: options.reason };
  const started = await ask<OperationAnswer>(api, pathOf(clusterId), options.signal, wanted, options.idempotencyKey);
  return started.result === 'started' ? started.operationId : null;
}

/** All that the cluster ever had, the newest first. */
export async function listOperations(
  api: Api,
  clusterId: string,
  signal: AbortSignal,
): Promise<OperationsAnswer['operations']> {
  return (await ask<OperationsAnswer>(api, `${pathOf(clusterId)}?limit=200`, signal)).operations;
}

export function readOperation(
  api: Api,
  clusterId: string,
  operationId: string,
  signal: AbortSignal,
): Promise<OperationProgress> {
  return ask(api, `${pathOf(clusterId)}/${operationId}`, signal);
}

/** Whether it is over, one way or the other. */
export const hasEnded = ({ state }: Pick<OperationProgress, 'state'>): boolean => ended.has(state);

/** Returns the last progress. Throws OPERATION_BLOCKED once it has been blocked for a while, as nobody is there to resolve it; OPERATION_STILL where nothing moves. */
export async function watchOperation(
  api: Api,
  clusterId: string,
  operationId: string,
  { signal, onProgress }: Watching,
): Promise<OperationProgress> {
  let heardAt = performance.now();
  let blockedSince: number | null = null;
  let still = { shown: '', since: heardAt };
  for (;;) {
    await sleep(LOOK_EVERY_MS, null, { signal });
    const at = performance.now();
    let progress: OperationProgress;
    try {
      progress = await readOperation(api, clusterId, operationId, signal);
      heardAt = at;
    } catch (error) {
      if (signal.aborted || at - heardAt > SILENCE_MAX_MS) throw error;
      continue;
    }
    onProgress(progress);
    if (hasEnded(progress)) return progress;
    const shown = JSON.stringify(progress);
    if (shown !== still.shown) still = { shown, since: at };
    if (at - still.since > STILL_MAX_MS && progress.state !== 'blocked') {
      const where = progress.phase ?? progress.state;
      throw new CodedError(
        'OPERATION_STILL',
        `operation ${operationId} has not moved for ${STILL_MAX_MS / 60_000} minutes (${where})`,
      );
    }
    blockedSince = progress.state === 'blocked' ? (blockedSince ?? at) : null;
    if (blockedSince !== null && at - blockedSince > BLOCKED_MAX_MS) {
      const { code, message } = progress.blockedOn ?? { code: 'unknown', message: '' };
      throw new CodedError('OPERATION_BLOCKED', `operation ${progress.operationId} is blocked on ${code}: ${message}`);
    }
  }
}

/** `resume`, as a person would; returns the progress. */
export function steerOperation(
  api: Api,
  clusterId: string,
  operationId: string,
  action: 'pause' | 'resume' | 'retry' | 'cancel',
  options: { readonly reason: string; readonly signal: AbortSignal },
): Promise<OperationProgress> {
  return ask(api, `${pathOf(clusterId)}/${operationId}/${action}`, options.signal, { reason: options.reason });
}

/** The id of the operation that takes it back; null where it takes itself back, or nothing is to be taken back. */
export async function undoOperation(
  api: Api,
  clusterId: string,
  operationId: string,
  options: { readonly reason: string; readonly signal: AbortSignal; readonly idempotencyKey: string },
): Promise<string | null> {
  const { reason, signal, idempotencyKey } = options;
  const undone = await ask<UndoAnswer>(
    api,
    `${pathOf(clusterId)}/${operationId}/undo`,
    signal,
    { reason },
    idempotencyKey,
  );
  return undone.result === 'started' ? undone.operationId : null;
}

const pathOf = (clusterId: string): string => `/v1/clusters/${clusterId}/operations`;

async function ask<T>(
  api: Api,
  path: string,
  signal: AbortSignal,
  body?: unknown,
  idempotencyKey?: string,
): Promise<T> {
  const answer = await fetch(api.url + path, {
    method: body === undefined ? 'GET' : 'POST',
    headers: {
      authorization: `Bearer ${api.token}`,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...(idempotencyKey === undefined ? {} : { 'idempotency-key': idempotencyKey }),
    },
    body: body === undefined ? null : JSON.stringify(body),
    signal: AbortSignal.any([signal, AbortSignal.timeout(30_000)]),
  });
  const answered = (await answer.json()) as T & Partial<ApiError>;
  if (!answer.ok) throw new CodedError(answered.code ?? 'API', answered.message ?? `${path} answered ${answer.status}`);
  return answered;
}
