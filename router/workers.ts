/**
 * A router of several processes with one port, one for each core. Each worker is a whole router: it follows the ring, holds and counts for itself, has its own
 * lease. The first process (*primary*) has the port and gives each connection to the next worker; it starts a worker that ended again, and asks all of them
 * what one of them is asked: `/ready`, `/metrics`.
 *
 * Connections are given out in turn (node:cluster's SCHED_RR) and not taken by whoever wakes first: of 64 that came at once one of four workers got 54. The port
 * is the primary's alone, so a worker that ends takes no queue of waiting connections with it, as it would with a socket of its own (SO_REUSEPORT).
 * Holds: workers end with the primary, however it ends.
 */
import cluster, { type Worker } from 'node:cluster';
import { setTimeout as sleep } from 'node:timers/promises';
import { AggregatorRegistry } from 'prom-client';
import type { Logger } from '../kit/log.ts';
import type { ReadyAnswer, Router } from './server.ts';

type Question = 'ready' | 'metrics';
type ToPrimary =
  | { readonly joined: true }
  | { readonly ask: Question; readonly id: number }
  | { readonly told: number; readonly value: unknown };
type ToWorker =
  | { readonly tell: Question; readonly id: number }
  | { readonly answer: number; readonly values: readonly unknown[] }
  | { readonly stop: string };

const NUMBER_VARIABLE = 'RINGMASTER_ROUTER_WORKER';
/** A worker that does not say anything within this is left out: it hangs, and liveness probes are told by the others. */
const TELL_WITHIN_MS = 1_000;
/** Until the primary has gathered what workers tell. */
const ANSWER_WITHIN_MS = 2_000;
/** A worker that ends by itself is started again at once, then after longer each time; from the start after a minute up. */
const RESTART_MS = [0, 1_000, 2_000, 5_000, 10_000];
const STEADY_MS = 60_000;

/** Which of the workers this process is, from 1; null: none. */
export function workerNumber(): number | null {
  const number = Number(process.env[NUMBER_VARIABLE]);
  return cluster.isWorker && number > 0 ? number : null;
}

export interface Workers {
  /** Asks all to end, waits, ends those that have not after `withinMs`. */
  stop(because: string, withinMs: number): Promise<void>;
}

/** Starts `count` workers, each from this program's own entry. `onFailed`: one ended before any listened, so starting it again would not help. */
export function startWorkers(count: number, log: Logger, onFailed: () => void): Workers {
  cluster.schedulingPolicy = cluster.SCHED_RR;
  const workers = new Set<Worker>();
  const gathering = new Map<number, { readonly values: unknown[]; readonly onValue: () => void }>();
  const restarts = new Map<number, number>();
  let ids = 0;
  let hasListened = false;
  let stopping: string | null = null;

  const send = (worker: Worker, message: ToWorker): void => {
    if (worker.isConnected()) worker.send(message, () => undefined); // one that is just ending hears nothing
  };

  async function gather(question: Question): Promise<unknown[]> {
    ids += 1;
    const id = ids;
    const asked = [...workers].filter((worker) => worker.isConnected());
    const { promise, resolve } = Promise.withResolvers<void>();
    const values: unknown[] = [];
    gathering.set(id, { values, onValue: () => (values.length === asked.length ? resolve() : undefined) });
    for (const worker of asked) send(worker, { tell: question, id });
    const timer = setTimeout(resolve, TELL_WITHIN_MS);
    await promise;
    clearTimeout(timer);
    gathering.delete(id);
    return values;
  }

  async function heard(worker: Worker, message: ToPrimary): Promise<void> {
    if ('joined' in message) {
      // What it was told before it listened it has not heard.
      if (stopping !== null) send(worker, { stop: stopping });
    } else if ('ask' in message) {
      send(worker, { answer: message.id, values: await gather(message.ask) });
    } else {
      const gathered = gathering.get(message.told);
      gathered?.values.push(message.value);
      gathered?.onValue();
    }
  }

  function start(number: number): void {
    const startedAt = performance.now();
    const worker = cluster.fork({ [NUMBER_VARIABLE]: String(number) });
    workers.add(worker);
    worker.on('listening', () => {
      hasListened = true;
    });
    worker.on('message', (message: ToPrimary) => void heard(worker, message));
    worker.on('error', (error) => log.warn({ worker: number, error: error.message }, 'a worker cannot be reached'));
    worker.on('exit', (code, signal) => {
      workers.delete(worker);
      if (stopping !== null) return;
      if (!hasListened) return onFailed();
      const upMs = performance.now() - startedAt;
      const nth = upMs >= STEADY_MS ? 0 : (restarts.get(number) ?? 0);
      restarts.set(number, nth + 1);
      const inMs = RESTART_MS[Math.min(nth, RESTART_MS.length - 1)]!;
      log.warn({ worker: number, code, signal, inMs }, 'a worker ended: started again');
      setTimeout(() => {
        if (stopping === null) start(number);
      }, inMs).unref();
    });
  }

  for (let number = 1; number <= count; number += 1) start(number);
  return {
    async stop(because, withinMs) {
      stopping = because;
      const ending = [...workers].map((worker) => new Promise<void>((resolve) => worker.once('exit', () => resolve())));
      for (const worker of workers) send(worker, { stop: because });
      const patience = new AbortController();
      const impatient = sleep(withinMs, null, { signal: patience.signal }).then(
        () => {
          for (const worker of workers) worker.process.kill('SIGKILL');
        },
        () => undefined,
      );
      await Promise.all(ending);
      patience.abort();
      await impatient;
    },
  };
}

/** What this worker's router answers for all of them, and how it hears that it is to end. */
export function joinWorkers(router: () => Router | null, onStop: (because: string) => void) {
  const waiting = new Map<number, (values: readonly unknown[]) => void>();
  let ids = 0;
  const send = (message: ToPrimary): void => {
    process.send?.(message, undefined, undefined, () => undefined); // the primary is gone: this process ends with it
  };

  process.on('message', (message: ToWorker) => {
    if ('stop' in message) onStop(message.stop);
    else if ('answer' in message) waiting.get(message.answer)?.(message.values);
    else void tell(message.tell, message.id);
  });
  send({ joined: true });

  async function tell(question: Question, id: number): Promise<void> {
    const own = router();
    if (!own) return; // it is just starting: as good as not there
    send({ told: id, value: question === 'ready' ? own.ready() : await own.metrics.registry.getMetricsAsJSON() });
  }

  /** Of all workers that answer, this one too; empty where the primary does not. */
  async function ask(question: Question): Promise<readonly unknown[]> {
    ids += 1;
    const id = ids;
    const { promise, resolve } = Promise.withResolvers<readonly unknown[]>();
    waiting.set(id, resolve);
    const timer = setTimeout(resolve, ANSWER_WITHIN_MS, []);
    send({ ask: question, id });
    const values = await promise;
    clearTimeout(timer);
    waiting.delete(id);
    return values;
  }

  return {
    async ready(own: ReadyAnswer): Promise<ReadyAnswer> {
      const all = (await ask('ready')) as ReadyAnswer[];
      return all.length > 0 ? combineReady(all) : own;
    },
    async metrics(): Promise<string> {
      const all = (await ask('metrics')) as Parameters<typeof AggregatorRegistry.aggregate>[0];
      return await AggregatorRegistry.aggregate(all).metrics();
    },
  };
}

/** The router is as ready, and as far, as the last of its workers: a connection may be given to any. */
export function combineReady(all: readonly ReadyAnswer[]): ReadyAnswer {
  const notUnderstood = [...new Set(all.flatMap((one) => one.notUnderstood ?? []))];
  const confirmed = all.map(({ confirmedMsAgo }) => confirmedMsAgo);
  return {
    ready: all.every(({ ready }) => ready),
    version: Math.min(...all.map(({ version }) => version)),
    epoch: Math.min(...all.map(({ epoch }) => epoch)),
    ringAgeMs: Math.max(...all.map(({ ringAgeMs }) => ringAgeMs)),
    confirmedMsAgo: confirmed.includes(null) ? null : Math.max(...confirmed.map(Number)),
    held: all.reduce((sum, { held }) => sum + held, 0),
    down: [...new Set(all.flatMap(({ down }) => down))],
    trouble: all.find(({ trouble }) => trouble !== null)?.trouble ?? null,
    ...(notUnderstood.length > 0 ? { notUnderstood } : {}),
  };
}
