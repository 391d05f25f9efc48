/** Starting an operation by the HTTP API and watching it to its end. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ApiError, OperationAnswer } from '../../client/api-types.ts';
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
const ended = new Set<OperationProgress['state']>(['completed', 'cancelled', 'failed', 'nothing to do']);

/** Scales to `targetNodes` and returns the last progress; null where there was nothing to do. Throws what the API refuses with, and OPERATION_BLOCKED. */
export async function runOperation(
  api: Api,
  clusterId: string,
  targetNodes: number,
  options: {
    readonly reason: string;
    readonly signal: AbortSignal;
    readonly onProgress: (progress: OperationProgress) => void;
  },
): Promise<OperationProgress | null> {
  const path = `/v1/clusters/${clusterId}/operations`;
  const started = await ask<OperationAnswer>(api, path, options.signal, { targetNodes, reason: options.reason });
  if (started.result !== 'started') return null;
  let heardAt = performance.now();
  let blockedSince: number | null = null;
  for (;;) {
    await sleep(LOOK_EVERY_MS, null, { signal: options.signal });
    const at = performance.now();
    let progress: OperationProgress;
    try {
      progress = await ask<OperationProgress>(api, `${path}/${started.operationId}`, options.signal);
      heardAt = at;
    } catch (error) {
      if (options.signal.aborted || at - heardAt > SILENCE_MAX_MS) throw error;
      continue;
    }
    options.onProgress(progress);
    if (ended.has(progress.state)) return progress;
    blockedSince = progress.state === 'blocked' ? (blockedSince ?? at) : null;
    if (blockedSince !== null && at - blockedSince > BLOCKED_MAX_MS) {
      const { code, message } = progress.blockedOn ?? { code: 'unknown', message: '' };
      throw new CodedError('OPERATION_BLOCKED', `operation ${progress.operationId} is blocked on ${code}: ${message}`);
    }
  }
}

async function ask<T>(api: Api, path: string, signal: AbortSignal, body?: unknown): Promise<T> {
  const answer = await fetch(api.url + path, {
    method: body === undefined ? 'GET' : 'POST',
    headers: {
      authorization: `Bearer ${api.token}`,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    body: body === undefined ? null : JSON.stringify(body),
    signal: AbortSignal.any([signal, AbortSignal.timeout(30_000)]),
  });
  const answered = (await answer.json()) as T & Partial<ApiError>;
  if (!answer.ok) throw new CodedError(answered.code ?? 'API', answered.message ?? `${path} answered ${answer.status}`);
  return answered;
}
