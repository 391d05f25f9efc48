/** Calls to the HTTP API. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CodedError } from '../../kit/errors.ts';
import type { ApiError } from '../api-types.ts';
import { type ApiConnection, connectionFilePath, readConnectionFile } from '../connection-file.ts';

const ANSWER_TIMEOUT_MS = 15_000;
/** For requests that may be repeated: short, a restarted API is back within a second or two. */
const REPEAT_AFTER_MS = [200, 1_000, 2_000];
const NOT_CONNECTED = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
]);

/** RINGMASTER_URL and RINGMASTER_TOKEN, or what `npm start` has left. Throws API_UNKNOWN, CONNECTION_FILE_INVALID. */
export function findApi(env: Record<string, string | undefined>): ApiConnection {
  const url = env['RINGMASTER_URL'];
  const token = env['RINGMASTER_TOKEN'];
  if (url) {
    if (!/^https?:\/\//.test(url) || !URL.canParse(url)) {
      throw new CodedError('API_UNKNOWN', 'RINGMASTER_URL must be an http:// or https:// address');
    }
    if (!token) throw new CodedError('API_UNKNOWN', 'RINGMASTER_URL is set and RINGMASTER_TOKEN is not: set both');
    return { url, token };
  }
  const found = readConnectionFile(connectionFilePath(env));
  if (found) return { ...found, token: token ?? found.token };
  throw new CodedError(
    'API_UNKNOWN',
    'no API is known: start one with `npm start`, or set RINGMASTER_URL and RINGMASTER_TOKEN',
  );
}

export interface CallOptions {
  readonly body?: unknown;
  readonly headers?: Record<string, string>;
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** Throws CodedErrors: the API's own, API_UNREACHABLE (nothing was done), ANSWER_LOST (it may have been). */
export class ApiClient {
  readonly #connection: ApiConnection;

  constructor(connection: ApiConnection) {
    this.#connection = connection;
  }

  async get<T>(path: string, options: CallOptions = {}): Promise<T> {
    return await this.#call<T>('GET', path, options);
  }

  async post<T>(path: string, options: CallOptions = {}): Promise<T> {
    return await this.#call<T>('POST', path, options);
  }

  async patch<T>(path: string, options: CallOptions = {}): Promise<T> {
    return await this.#call<T>('PATCH', path, options);
  }

  /** For requests that have no further effect when they are repeated, such as those with an idempotency key: repeated where the answer was lost. */
  async postUntilAnswered<T>(path: string, options: CallOptions): Promise<T> {
    for (const pause of REPEAT_AFTER_MS) {
      try {
        return await this.post<T>(path, options);
      } catch (error) {
        if (!(error instanceof CodedError) || error.code !== 'ANSWER_LOST') throw error;
        await sleep(pause);
      }
    }
    return await this.post<T>(path, options).catch((error: unknown) => {
      // It was lost before, so that nothing is there now does not tell that nothing was done.
      if (error instanceof CodedError && error.code === 'API_UNREACHABLE') throw this.#lost(error);
      throw error;
    });
  }

  async #call<T>(method: 'GET' | 'POST' | 'PATCH', path: string, options: CallOptions): Promise<T> {
    const { status, text } = await this.#request(method, path, options);
    const answer = parseJson(text);
    if (status >= 200 && status < 300 && answer !== undefined) return answer as T;
    const { code, message, details } = (answer ?? {}) as Partial<ApiError>;
    if (!code)
      throw new CodedError('API_ANSWER_INVALID', `${this.#connection.url} answers ${status} and is no Ringmaster API`);
    const hint = code === 'UNAUTHORIZED' ? ': does RINGMASTER_TOKEN belong to this API?' : '';
    throw new CodedError(code, `${message ?? status}${hint}`, details);
  }

  async #request(method: string, path: string, options: CallOptions): Promise<{ status: number; text: string }> {
    const timeout = AbortSignal.timeout(options.timeoutMs ?? ANSWER_TIMEOUT_MS);
    try {
      const response = await fetch(new URL(path, withSlash(this.#connection.url)), {
        method,
        headers: {
          authorization: `Bearer ${this.#connection.token}`,
          ...(options.body === undefined ? {} : { 'content-type': 'application/json' }),
          ...options.headers,
        },
        ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
        signal: options.signal ? AbortSignal.any([options.signal, timeout]) : timeout,
      });
      return { status: response.status, text: await response.text() };
    } catch (error) {
      options.signal?.throwIfAborted();
      throw this.#failure(method, error);
    }
  }

  #failure(method: string, error: unknown): CodedError {
    const cause = error instanceof Error ? error.cause : undefined;
    const code = (cause as { code?: string } | undefined)?.code ?? '';
    if (method !== 'GET' && !NOT_CONNECTED.has(code)) return this.#lost(error);
    const { url } = this.#connection;
    return new CodedError(
      'API_UNREACHABLE',
      `nothing answers at ${url}: is \`npm start\` running?`,
      { url },
      { cause: error },
    );
  }

  #lost(error: unknown): CodedError {
    const { url } = this.#connection;
    const message = `no answer from ${url}: it is not known whether the request was carried out; look with \`ringmaster status\``;
    return new CodedError('ANSWER_LOST', message, { url }, { cause: error });
  }
}

const withSlash = (url: string): string => (url.endsWith('/') ? url : `${url}/`);

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
