/**
 * Clients: every user is one, and sends its next request only after the answer to its last; what it does meanwhile waits in its queue.
 * Overall events arrive at a fixed rate whether answers are quick or not (an open loop: a slow router does not slow down the world).
 * A request that fails is sent again, same events, same messageIds, before any later one of its users, as an SDK does.
 * Holds: two requests that are on their way at once have no user in common.
 */
import { randomUUID } from 'node:crypto';
import { createWriteStream, type WriteStream } from 'node:fs';
import { type Dispatcher, Pool } from 'undici';
import { now } from '../../kit/log.ts';
import { userKeyOf } from '../../ring/partition.ts';
import type { SentEvent } from '../checker/checker.ts';
import { seededRandom } from './random.ts';
import type { EventSource, SourceEvent } from './source.ts';

export interface TrafficOptions {
  /** One, or several: requests take turns, and one that failed is sent again to the next, as behind a load balancer. */
  readonly routerUrl: string | readonly string[];
  readonly writeKey: string;
  readonly source: EventSource;
  /** Events a second, of all users together. */
  readonly rate: number;
  readonly seed?: number;
  /** Where each event is also written, one JSON line when its way ends. */
  readonly logFile?: string;
  /** Requests at once. */
  readonly connections?: number;
  /** Events that wait for their user's last answer, at most; more, and the world waits. Default: 20,000. */
  readonly queuedMax?: number;
  /** After stop(), requests that still fail are given up after this long. Default: 20 s. */
  readonly giveUpMs?: number;
  readonly requestTimeoutMs?: number;
  readonly onFailure?: (because: string) => void;
}

export interface Traffic {
  /** All events so far, those in hand too; in the order of their first attempt. */
  readonly sent: readonly SentEvent[];
  readonly acknowledged: number;
  /** Failed requests. */
  readonly clientErrors: number;
  readonly queued: number;
  /** Why the source failed, if it did: no more events come. */
  readonly failure: Error | null;
  /** Takes no more events from the source, finishes what is in hand. What still waited in a queue is not sent. */
  stop(): Promise<void>;
}

interface Call {
  readonly record: SentEvent;
  readonly body: string;
}

interface User {
  readonly key: string;
  readonly queue: SourceEvent[];
  busy: boolean;
  seq: number;
}

const tickMs = 10;
const oneUserBatchMax = 5;
const mixedBatchMax = 8;
/** Of the requests that could be so: how many are a batch of one user, and how many of several. */
const batchShare = 0.3;
const mixedShare = 0.1;
const retryMs = [50, 100, 200, 400, 800, 1_000];

export function startTraffic(options: TrafficOptions): Traffic {
  return new Clients(options);
}

class Clients implements Traffic {
  readonly sent: SentEvent[] = [];
  acknowledged = 0;
  clientErrors = 0;
  queued = 0;
  failure: Error | null = null;
  readonly #o: TrafficOptions;
  readonly #pools: readonly Pool[];
  readonly #headers: Record<string, string>;
  readonly #random: () => number;
  readonly #users = new Map<string, User>();
  readonly #file: WriteStream | null;
  readonly #inHand = new Set<Promise<void>>();
  readonly #arriving: Promise<void>;
  #stopping: number | null = null;
  #turn = 0;
  /** Free users with something to send, gathered into a batch of several users. */
  #mixing: User[] = [];

  constructor(options: TrafficOptions) {
    this.#o = options;
    const urls = typeof options.routerUrl === 'string' ? [options.routerUrl] : options.routerUrl;
    this.#pools = urls.map(
      (url) =>
        new Pool(url, {
          connections: Math.ceil((options.connections ?? 128) / urls.length),
          pipelining: 1,
          headersTimeout: options.requestTimeoutMs ?? 60_000,
          bodyTimeout: options.requestTimeoutMs ?? 60_000,
        }),
    );
    this.#headers = {
      'content-type': 'application/json',
      authorization: `Basic ${Buffer.from(`${options.writeKey}:`).toString('base64')}`,
    };
    this.#random = seededRandom((options.seed ?? 1) ^ 0x5eed);
    this.#file = options.logFile ? createWriteStream(options.logFile, { flags: 'a' }) : null;
    this.#arriving = this.#arrive().catch((error: unknown) => {
      this.failure = error instanceof Error ? error : new Error(String(error));
    });
  }

  async stop(): Promise<void> {
    this.#stopping ??= now();
    await this.#arriving;
    while (this.#inHand.size > 0) await Promise.all(this.#inHand);
    this.#o.source.close();
    await Promise.all(this.#pools.map((pool) => pool.destroy()));
    if (this.#file && !this.#file.writableEnded) await new Promise<void>((resolve) => this.#file!.end(() => resolve()));
  }

  /** Events at the given rate. After a pause of this process it catches up for a second at most: a burst is no traffic. */
  async #arrive(): Promise<void> {
    const { rate, source, queuedMax = 20_000 } = this.#o;
    let last = now();
    let due = 0;
    while (this.#stopping === null) {
      const at = now();
      due = Math.min(due + ((at - last) * rate) / 1_000, rate);
      last = at;
      for (; due >= 1 && this.queued < queuedMax && this.#stopping === null; due -= 1) this.#take(await source.next());
      this.#flushMixed();
      await new Promise((resolve) => setTimeout(resolve, tickMs));
    }
  }

  #take(event: SourceEvent): void {
    const key = userKeyOf(event);
    let user = this.#users.get(key);
    if (!user) {
      user = { key, queue: [], busy: false, seq: 0 };
      this.#users.set(key, user);
    }
    user.queue.push(event);
    this.queued += 1;
    if (!user.busy) this.#serve(user);
  }

  /** Sends what the user has waiting: alone, or together with others. */
  #serve(user: User): void {
    if (this.#stopping !== null || user.queue.length === 0) return;
    user.busy = true;
    if (this.#random() < mixedShare) {
      this.#mixing.push(user);
      if (this.#mixing.length >= mixedBatchMax) this.#flushMixed();
      return;
    }
    const many = this.#random() < batchShare;
    this.#start([user], many, many ? oneUserBatchMax : 1);
  }

  #flushMixed(): void {
    if (this.#mixing.length === 0) return;
    const users = this.#mixing;
    this.#mixing = [];
    this.#start(users, true, 2);
  }

  #start(users: readonly User[], batch: boolean, eventsPerUser: number): void {
    const calls = users.flatMap((user) => user.queue.splice(0, eventsPerUser).map((event) => this.#call(user, event)));
    this.queued -= calls.length;
    const inHand = this.#send(calls, batch).then(() => {
      this.#inHand.delete(inHand);
      for (const user of users) {
        user.busy = false;
        this.#serve(user);
      }
    });
    this.#inHand.add(inHand);
  }

  #call(user: User, event: SourceEvent): Call {
    const record: SentEvent = {
      messageId: randomUUID(),
      userKey: user.key,
      seq: user.seq,
      sentAt: now(),
      answeredAt: null,
      status: null,
      attempts: 0,
      failures: 0,
      inDoubt: false,
    };
    user.seq += 1;
    this.sent.push(record);
    return { record, body: JSON.stringify({ type: 'track', messageId: record.messageId, ...event }) };
  }

  /** Until it is answered for good, or the traffic has stopped and patience ends. */
  async #send(calls: readonly Call[], batch: boolean): Promise<void> {
    const body = batch
      ? `{"batch":[${calls.map((call) => call.body).join(',')}],"sentAt":"${new Date().toISOString()}"}`
      : calls[0]!.body;
    for (let tried = 0; ; tried += 1) {
      const status = await this.#attempt(batch ? '/v1/batch' : '/v1/track', body);
      const at = now();
      for (const { record } of calls) {
        record.attempts += 1;
        record.answeredAt = status === null ? null : at;
        record.status = status;
      }
      if (status !== null && status < 300) {
        this.acknowledged += calls.length;
        break;
      }
      this.clientErrors += 1;
      calls[0]!.record.failures! += 1;
      this.#o.onFailure?.(status === null ? 'no answer' : `status ${status}`);
      if (status !== null && status >= 400 && status < 500 && status !== 408 && status !== 429) break; // sending it again changes nothing
      for (const { record } of calls) record.inDoubt ||= status === null || status >= 500;
      if (this.#stopping !== null && at - this.#stopping > (this.#o.giveUpMs ?? 20_000)) break;
      await new Promise((resolve) => setTimeout(resolve, retryMs[Math.min(tried, retryMs.length - 1)]));
    }
    if (this.#file) for (const { record } of calls) this.#file.write(`${JSON.stringify(record)}\n`);
  }

  #nextPool(): Dispatcher {
    this.#turn = (this.#turn + 1) % this.#pools.length;
    return this.#pools[this.#turn]!;
  }

  async #attempt(path: string, body: string): Promise<number | null> {
    try {
      const answer = await this.#nextPool().request({ path, method: 'POST', headers: this.#headers, body });
      await answer.body.dump();
      return answer.statusCode;
    } catch {
      return null; // refused, reset, or silent for too long
    }
  }
}
