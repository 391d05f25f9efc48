/** The reference node's control API, as the orchestrator calls it. One try each: what is weather here is tried again by whoever calls. */
import { Agent, fetch } from 'undici';
import { CodedError } from '../../kit/errors.ts';
import { controlPaths, type ImportTarget, type NodeControl, type NodeStatus } from '../contract.ts';

export interface ControlAddress {
  readonly controlUrl: string;
  readonly controlToken: string;
}

const CONNECT_TIMEOUT_MS = 2_000; // the same network: a node that takes longer is not there
const STATUS_TIMEOUT_MS = 5_000;
const PENDING_TIMEOUT_MS = 300_000; // reads over what is stored, finished jobs too: some 4 s for a million
const PREPARE_TIMEOUT_MS = 60_000; // it waits for an older attempt's open write, and drops what that left
const FENCE_TIMEOUT_MS = 5_000; // waits for open intake transactions only; the hold's deadline runs meanwhile
const ANSWER_MARGIN_MS = 5_000; // a quiesce that reaches its limit still has to say so

/** Connections are kept for all nodes together: a control client is made for each use, and a cut-over should not begin with a handshake. */
const dispatcher = new Agent({ connect: { timeout: CONNECT_TIMEOUT_MS }, keepAliveTimeout: 30_000 });

export function createNodeControl({ controlUrl, controlToken }: ControlAddress): NodeControl {
  const base = controlUrl.replace(/\/$/, '');

  async function ask<T>(
    method: 'GET' | 'POST',
    path: string,
    body: object | null,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<T> {
    const timeout = AbortSignal.timeout(timeoutMs);
    const response = await fetch(`${base}${path}`, {
      method,
      dispatcher,
      headers: { authorization: `Bearer ${controlToken}`, ...(body ? { 'content-type': 'application/json' } : {}) },
      body: body ? JSON.stringify(body) : null,
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    });
    const text = await response.text();
    if (response.ok) return (text === '' ? undefined : JSON.parse(text)) as T;
    if (response.status === 409) throw refusal(text);
    throw new Error(`${method} ${base}${path} answered ${response.status}`); // never the body: it is not ours to log
  }

  return {
    status: (signal) => ask<NodeStatus>('GET', controlPaths.status, null, STATUS_TIMEOUT_MS, signal),
    countPending: async (signal) =>
      (await ask<{ pendingJobs: number }>('GET', controlPaths.pending, null, PENDING_TIMEOUT_MS, signal)).pendingJobs,
    prepare: (command, signal) => ask<ImportTarget>('POST', controlPaths.prepare, command, PREPARE_TIMEOUT_MS, signal),
    quiesce: (command, signal) =>
      ask<void>('POST', controlPaths.quiesce, command, command.limitMs + ANSWER_MARGIN_MS, signal),
    fence: (command, signal) => ask<void>('POST', controlPaths.fence, command, FENCE_TIMEOUT_MS, signal),
  };
}

/** A 409 is a refusal with a code; anything else in its place is not from a node of ours. */
function refusal(text: string): Error {
  try {
    const { code, message, details } = JSON.parse(text) as { code?: unknown; message?: unknown; details?: unknown };
    if (typeof code === 'string' && typeof message === 'string') {
      return new CodedError(code, message, (details ?? {}) as Record<string, unknown>);
    }
  } catch {
    // not JSON
  }
  return new Error('a node answered 409 without a code');
}
