/**
 * The API server as the kubelet stand-in sees it: plain JSON over one pool of connections (credentials by KubeConfig), list + watch, and what is weather.
 *
 *   weather   no connection, a cut answer, 429, 5xx: tried again until it works. The API server may be killed at any time.
 *   word      404, 409, 422, 403: an ApiError for the caller
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { KubeConfig } from '@kubernetes/client-node';
import { Agent, request } from 'undici';
import { describeError } from '../../../kit/errors.ts';

/** What every object has. Times are strings here: nothing converts the JSON. */
export interface Stored {
  apiVersion?: string;
  kind?: string;
  metadata?: {
    name?: string;
    namespace?: string;
    uid?: string;
    resourceVersion?: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
  };
}

export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly status: number;
  readonly reason: string;
  constructor(status: number, reason: string, message: string) {
    super(message);
    this.status = status;
    this.reason = reason;
  }
}

type WatchEvent = { type: string; object: Stored & { code?: number; message?: string } };

const REQUEST_WITHIN_MS = 20_000;
const WATCH_SECONDS = 300;
/** Bookmarks come about once a minute: a longer silence is a dead connection. */
const WATCH_SILENCE_MS = 120_000;
const TRY_AGAIN_MS = 50;
const TRY_AGAIN_MAX_MS = 1000;

export class Api {
  readonly #agent: Agent;
  readonly #server: string;
  readonly #headers: Record<string, string>;

  private constructor(server: string, agent: Agent, headers: Record<string, string>) {
    this.#server = server;
    this.#agent = agent;
    this.#headers = headers;
  }

  static async open(kubeconfig: string): Promise<Api> {
    const config = new KubeConfig();
    config.loadFromFile(kubeconfig);
    const cluster = config.getCurrentCluster();
    if (!cluster) throw new Error(`${kubeconfig} names no cluster`);
    const options: Parameters<KubeConfig['applyToHTTPSOptions']>[0] = {};
    await config.applyToHTTPSOptions(options);
    const { ca, cert, key } = options as { ca?: Buffer; cert?: Buffer; key?: Buffer };
    const headers = (options.headers ?? {}) as Record<string, string>;
    return new Api(cluster.server.replace(/\/$/, ''), new Agent({ connect: { ca, cert, key } }), headers);
  }

  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  get<T>(path: string, signal?: AbortSignal): Promise<T> {
    return this.#call<T>('GET', path, undefined, undefined, signal);
  }

  create<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
    return this.#call<T>('POST', path, body, 'application/json', signal);
  }

  /** JSON merge patch: lists are replaced as a whole. */
  merge<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
    return this.#call<T>('PATCH', path, body, 'application/merge-patch+json', signal);
  }

  delete(path: string, body: unknown, signal?: AbortSignal): Promise<unknown> {
    return this.#call('DELETE', path, body, 'application/json', signal);
  }

  async #call<T>(
    method: 'GET' | 'POST' | 'PATCH' | 'DELETE',
    path: string,
    body: unknown,
    contentType: string | undefined,
    signal?: AbortSignal,
  ): Promise<T> {
    const answer = await request(this.#server + path, {
      method,
      dispatcher: this.#agent,
      headers: {
        ...this.#headers,
        accept: 'application/json',
        ...(contentType ? { 'content-type': contentType } : {}),
      },
      body: body === undefined ? null : JSON.stringify(body),
      signal: signal ?? null,
      headersTimeout: REQUEST_WITHIN_MS,
      bodyTimeout: REQUEST_WITHIN_MS,
    });
    const text = await answer.body.text();
    if (answer.statusCode >= 300) throw apiError(answer.statusCode, text);
    return JSON.parse(text) as T;
  }

  /** Resolves with the last version seen when the server ends the watch. Throws ApiError 410 when `from` is too old. */
  async watch(
    path: string,
    from: string,
    onEvent: (type: 'ADDED' | 'MODIFIED' | 'DELETED', object: Stored) => void,
    signal: AbortSignal,
  ): Promise<string> {
    const query = `?watch=1&allowWatchBookmarks=true&timeoutSeconds=${WATCH_SECONDS}&resourceVersion=${from}`;
    const answer = await request(this.#server + path + query, {
      dispatcher: this.#agent,
      headers: { ...this.#headers, accept: 'application/json' },
      signal,
      headersTimeout: REQUEST_WITHIN_MS,
      bodyTimeout: WATCH_SILENCE_MS,
    });
    if (answer.statusCode >= 300) throw apiError(answer.statusCode, await answer.body.text());
    const decoder = new TextDecoder();
    let version = from;
    let rest = '';
    for await (const chunk of answer.body) {
      rest += decoder.decode(chunk as Buffer, { stream: true });
      for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n')) {
        const event = JSON.parse(rest.slice(0, end)) as WatchEvent;
        rest = rest.slice(end + 1);
        if (event.type === 'ERROR')
          throw new ApiError(event.object.code ?? 500, 'Watch', event.object.message ?? 'the watch failed');
        version = event.object.metadata?.resourceVersion ?? version;
        if (event.type === 'ADDED' || event.type === 'MODIFIED' || event.type === 'DELETED')
          onEvent(event.type, event.object);
      }
    }
    return version;
  }
}

function apiError(status: number, text: string): ApiError {
  let said: { reason?: string; message?: string } = {};
  try {
    said = JSON.parse(text) as typeof said;
  } catch {
    // Not the API server's own words (it is starting, or a panic): the text itself.
  }
  return new ApiError(status, said.reason ?? '', said.message ?? (text.slice(0, 300) || `HTTP ${status}`));
}

/** Whether trying again is all there is to do. */
export function isWeather(error: unknown): boolean {
  return !(error instanceof ApiError) || error.status === 429 || error.status >= 500;
}

export function isGone(error: unknown): boolean {
  return error instanceof ApiError && error.status === 404;
}

/** Tries until the API server has an answer; its refusals are thrown. */
export async function persist<T>(act: () => Promise<T>, signal: AbortSignal): Promise<T> {
  for (let pause = TRY_AGAIN_MS; ; pause = Math.min(pause * 2, TRY_AGAIN_MAX_MS)) {
    signal.throwIfAborted();
    try {
      return await act();
    } catch (err) {
      if (!isWeather(err)) throw err;
      signal.throwIfAborted();
      await sleep(pause, undefined, { signal });
    }
  }
}

export interface Followed<T> {
  /** `namespace/name` → object, as last heard. */
  readonly objects: ReadonlyMap<string, T>;
  /** The first list has come in. */
  readonly synced: Promise<void>;
  /** The following has ended: nothing is called any more. */
  readonly ended: Promise<void>;
}

/** Lists, then watches, for as long as `signal` lets it; lists anew when the watch breaks in a way that may have lost something. */
export function follow<T extends Stored>(
  api: Api,
  path: string,
  signal: AbortSignal,
  log: (line: string) => void,
  onChange: (what: 'set' | 'gone', object: T) => void,
): Followed<T> {
  const objects = new Map<string, T>();
  const synced = Promise.withResolvers<void>();
  const tell = (what: 'set' | 'gone', object: T) => {
    try {
      onChange(what, object);
    } catch (err) {
      log(`bug: ${path}: ${(err as Error).stack}`); // must not end the watch; tests look at the outcome
    }
  };
  const set = (object: T) => {
    const before = objects.get(keyOf(object));
    if (before && before.metadata?.uid !== object.metadata?.uid) tell('gone', before);
    if (before?.metadata?.resourceVersion === object.metadata?.resourceVersion) return;
    objects.set(keyOf(object), object);
    tell('set', object);
  };
  const remove = (object: T) => {
    if (objects.get(keyOf(object))?.metadata?.uid === object.metadata?.uid) objects.delete(keyOf(object));
    tell('gone', object);
  };
  const run = async () => {
    let version: string | null = null;
    let pause = TRY_AGAIN_MS;
    while (!signal.aborted) {
      try {
        if (version === null) {
          const list: { items?: T[]; metadata: { resourceVersion: string } } = await api.get(path, signal);
          const items = list.items ?? [];
          const names = new Set(items.map(keyOf));
          for (const item of items) set(item);
          for (const old of [...objects.values()]) if (!names.has(keyOf(old))) remove(old);
          version = list.metadata.resourceVersion;
          synced.resolve();
        }
        version = await api.watch(
          path,
          version,
          (type, object) => (type === 'DELETED' ? remove(object as T) : set(object as T)),
          signal,
        );
        pause = TRY_AGAIN_MS;
      } catch (err) {
        if (signal.aborted) break;
        version = null;
        if (!isWeather(err) && (err as ApiError).status !== 410) log(`watch of ${path}: ${describeError(err)}`);
        // Aborted during the pause: the loop's condition sees it.
        await sleep(pause, undefined, { signal }).catch(() => {});
        pause = Math.min(pause * 2, TRY_AGAIN_MAX_MS);
      }
    }
    synced.resolve();
  };
  return { objects, synced: synced.promise, ended: run() };
}

export function keyOf(object: Stored): string {
  return `${object.metadata?.namespace ?? ''}/${object.metadata?.name ?? ''}`;
}
