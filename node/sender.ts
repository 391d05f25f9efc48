/** One delivery: a POST of the event to a webhook, and what its answer means for the job. */
import { Pool } from 'undici';
import { codeOf } from '../kit/errors.ts';
import type { DestinationConfig, NodeLimits } from './config.ts';

export interface Outcome {
  /** `succeeded` and `aborted` end the job; `failed` is tried again. */
  readonly state: 'succeeded' | 'failed' | 'aborted';
  /** HTTP status, or the name of a network error: at most 32 characters. */
  readonly code: string;
  /** What the destination said, cut short; for people. */
  readonly response: string;
  /** The destination asked for this wait; 0 where it did not. */
  readonly retryAfterMs: number;
}

const RESPONSE_CHARS = 500;

export class Sender {
  readonly #pool: Pool;
  readonly #path: string;
  readonly #headers: Record<string, string>;
  readonly #timeoutMs: number;
  readonly #retryAfterMaxMs: number;
  readonly #ending = new AbortController();

  constructor(config: DestinationConfig, limits: NodeLimits) {
    const url = new URL(config.url);
    this.#pool = new Pool(url.origin, {
      connections: config.maxInFlight,
      pipelining: 1,
      connect: { timeout: config.timeoutMs },
    });
    this.#path = url.pathname + url.search;
    this.#timeoutMs = config.timeoutMs;
    this.#retryAfterMaxMs = limits.retryAfterMaxMs;
    this.#headers = { 'content-type': 'application/json', 'user-agent': 'ringmaster' };
    if (url.username || url.password) {
      const credentials = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
      this.#headers['authorization'] = `Basic ${Buffer.from(credentials).toString('base64')}`;
    }
  }

  /** Never rejects. `attempt` counts from 1. */
  async send(payload: string, messageId: string, attempt: number): Promise<Outcome> {
    const timeout = new AbortController();
    const timer = setTimeout(() => timeout.abort(), this.#timeoutMs);
    const onEnd = (): void => timeout.abort();
    this.#ending.signal.addEventListener('abort', onEnd, { once: true });
    try {
      const response = await this.#pool.request({
        method: 'POST',
        path: this.#path,
        headers: { ...this.#headers, 'x-message-id': messageId, 'x-attempt': String(attempt) },
        body: payload,
        signal: timeout.signal,
      });
      const { statusCode } = response;
      // The status line is the answer; a body that does not come changes nothing about it.
      if (statusCode >= 200 && statusCode < 300) {
        await response.body.dump({ limit: 65_536 }).catch(() => undefined);
        return { state: 'succeeded', code: String(statusCode), response: '', retryAfterMs: 0 };
      }
      const text = await readStart(response.body);
      return {
        ...judge(statusCode, response.headers, this.#retryAfterMaxMs),
        code: String(statusCode),
        response: text,
      };
    } catch (error) {
      const code = timeout.signal.aborted ? 'TIMEOUT' : (codeOf(error) ?? 'NETWORK').slice(0, 32);
      return { state: 'failed', code, response: '', retryAfterMs: 0 };
    } finally {
      clearTimeout(timer);
      this.#ending.signal.removeEventListener('abort', onEnd);
    }
  }

  /** What runs is cut off: whether it arrived is not known, so it will be sent again. */
  async close(): Promise<void> {
    this.#ending.abort();
    await this.#pool.destroy();
  }
}

/**
 * 4xx other than 408 and 429 is a refusal for good. Everything else is tried again: also a redirect, which nobody follows with an event in hand, and which
 * may be a destination's maintenance.
 */
function judge(
  status: number,
  headers: Record<string, string | string[] | undefined>,
  retryAfterMaxMs: number,
): Pick<Outcome, 'state' | 'retryAfterMs'> {
  if (status >= 400 && status < 500 && status !== 408 && status !== 429) return { state: 'aborted', retryAfterMs: 0 };
  return { state: 'failed', retryAfterMs: Math.min(retryAfterMs(headers), retryAfterMaxMs) };
}

/** Seconds, or a date, which is compared with the destination's own date: two machines' clocks are not. */
function retryAfterMs(headers: Record<string, string | string[] | undefined>): number {
  const asked = headers['retry-after'];
  if (typeof asked !== 'string') return 0;
  if (/^\d+$/.test(asked.trim())) return Number(asked) * 1_000;
  const ms = Date.parse(asked) - Date.parse(String(headers['date']));
  return Number.isFinite(ms) ? Math.max(ms, 0) : 0;
}

async function readStart(body: AsyncIterable<Buffer> & { destroy(): unknown }): Promise<string> {
  let text = '';
  try {
    for await (const chunk of body) {
      text += chunk.toString();
      if (text.length >= RESPONSE_CHARS) break;
    }
  } catch {
    // cut off: what came is enough
  }
  return text.slice(0, RESPONSE_CHARS).replaceAll('\0', '').toWellFormed();
}
