/** The platform of this machine, by way of its agent. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, fetch } from 'undici';
import type { DatabaseAddress, NodeEndpoints, NodeSummary, Platform, Room } from '../platform.ts';

export interface LocalPlatformOptions {
  url: string;
  token: string;
  /** How long `ensureNode` waits in all; the node stays wanted. */
  ensureTimeoutMs?: number;
}

export class PlatformError extends Error {
  readonly code: string;
  readonly status: number;
  constructor(status: number, code: string, message: string) {
    super(`${code}: ${message}`);
    this.name = 'PlatformError';
    this.status = status;
    this.code = code;
  }
}

const ENSURE_TIMEOUT_MS = 120_000;
const REQUEST_TIMEOUT_MS = 10_000;
const LONG_POLL_TIMEOUT_MS = 40_000; // the agent answers after 20 s
const REMOVE_TIMEOUT_MS = 120_000; // 30 s grace for the backend, then a checkpoint, then deleting files
const ASK_AGAIN_MS = 250;

export function createLocalPlatform(options: LocalPlatformOptions): Platform & {
  /** Faults for tests and chaos; the agent must allow it. */
  kill(node: string, what: 'backend' | 'postgres', signal?: NodeJS.Signals): Promise<void>;
  close(): Promise<void>;
} {
  const dispatcher = new Agent({ connect: { timeout: 5000 } });
  const base = options.url.replace(/\/$/, '');

  async function ask(
    method: string,
    path: string,
    more: { timeoutMs?: number; signal?: AbortSignal; body?: object } = {},
  ) {
    const timeout = AbortSignal.timeout(more.timeoutMs ?? REQUEST_TIMEOUT_MS);
    const response = await fetch(`${base}${path}`, {
      method,
      dispatcher,
      headers: {
        authorization: `Bearer ${options.token}`,
        ...(more.body ? { 'content-type': 'application/json' } : {}),
      },
      body: more.body ? JSON.stringify(more.body) : undefined,
      signal: more.signal ? AbortSignal.any([more.signal, timeout]) : timeout,
    });
    const text = await response.text();
    return { status: response.status, body: text === '' ? null : (JSON.parse(text) as unknown) };
  }

  function refused(status: number, body: unknown): PlatformError {
    const error = (body as { error?: { code?: string; message?: string } } | null)?.error;
    return new PlatformError(status, error?.code ?? 'PLATFORM_ERROR', error?.message ?? `the agent answers ${status}`);
  }

  const pathOf = (node: string) => `/v1/nodes/${encodeURIComponent(node)}`;

  return {
    async ensureNode(node, signal) {
      const patience = AbortSignal.timeout(options.ensureTimeoutMs ?? ENSURE_TIMEOUT_MS);
      const either = signal ? AbortSignal.any([signal, patience]) : patience;
      let last = 'no answer';
      for (;;) {
        if (patience.aborted) throw new PlatformError(504, 'NODE_NOT_READY', `${node} does not run yet (${last})`);
        signal?.throwIfAborted();
        try {
          const { status, body } = await ask('PUT', pathOf(node), { timeoutMs: LONG_POLL_TIMEOUT_MS, signal: either });
          if (status === 200) return body as NodeEndpoints;
          if (status !== 202) throw refused(status, body);
          const { condition, trouble } = body as { condition: string; trouble: string | null };
          last = trouble ? `${condition}, ${trouble}` : condition;
        } catch (err) {
          if (!patience.aborted) throw err;
        }
        await sleep(ASK_AGAIN_MS);
      }
    },

    async describeNode(node) {
      const { status, body } = await ask('GET', pathOf(node));
      if (status === 404) return null;
      if (status === 202) throw new PlatformError(503, 'NODE_NOT_READY', `${node} is being started`);
      if (status !== 200) throw refused(status, body);
      return body as NodeEndpoints;
    },

    async listNodes() {
      const { status, body } = await ask('GET', '/v1/nodes');
      if (status !== 200) throw refused(status, body);
      return body as NodeSummary[];
    },

    async roomOf(node) {
      const { status, body } = await ask('GET', `${pathOf(node)}/room`);
      if (status === 404) return null; // an agent that is older than this question
      if (status !== 200) throw refused(status, body);
      return (body as { room: Room | null }).room;
    },

    async removeNode(node, { deleteData, lastLook }) {
      if (lastLook) {
        const ended = await ask('DELETE', `${pathOf(node)}/backend`, { timeoutMs: REMOVE_TIMEOUT_MS });
        if (ended.status !== 200) throw refused(ended.status, ended.body);
        const { database } = ended.body as { database: DatabaseAddress | null };
        if (database) await lastLook(database);
      }
      const { status, body } = await ask('DELETE', `${pathOf(node)}?deleteData=${deleteData}`, {
        timeoutMs: REMOVE_TIMEOUT_MS,
      });
      if (status !== 204) throw refused(status, body);
    },

    async kill(node, what, signal = 'SIGKILL') {
      const { status, body } = await ask('POST', `${pathOf(node)}/kill`, { body: { what, signal } });
      if (status !== 204) throw refused(status, body);
    },

    close: () => dispatcher.close(),
  };
}
