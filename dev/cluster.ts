/**
 * What the demo asks of a cluster, wherever it runs: processes of this machine (dev/stack.ts), or pods of a Kubernetes API server (dev/kube/kube-stack.ts).
 */
import { get } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { now } from '../kit/log.ts';
import type { RingStore } from '../ringstore/ringstore.ts';
import type { Fault } from './checker/checker.ts';
import type { Api } from './demo/operations.ts';
import type { Temporal } from './embedded/temporal.ts';

export interface LogFiles {
  readonly nodes: readonly string[];
  readonly routers: readonly string[];
}

/** The parts of a cluster that can be killed. */
export type VictimPart = 'backend' | 'postgresql' | 'worker';

export interface Victim {
  readonly part: VictimPart;
  /** What people see it as: a pod's name, or a node's. */
  readonly name: string;
  /** The node whose deliveries suffer; null: no node's. */
  readonly node: string | null;
}

/** `SIGKILL`: as the out-of-memory killer does. `delete`, `delete now`: as `kubectl delete pod` does, without and with --force; where there is no pod, all are SIGKILL. */
export type Blow = 'SIGKILL' | 'delete' | 'delete now';

export interface Hit {
  readonly kind: Fault['kind'];
  /** What a person would call it. */
  readonly did: string;
  /** When it serves again, or when it is clear that it was taken away for good; null: neither was seen in time. Never rejects. */
  readonly restarted: Promise<number | null>;
}

export interface Cluster {
  readonly clusterId: string;
  readonly writeKey: string;
  readonly routerUrls: readonly string[];
  readonly api: Api;
  readonly temporal: Temporal;
  readonly ringStore: RingStore;
  /**
   * Asks for so many nodes as people do it here, and finds the operation that comes of it; null: there was nothing to do. `onCommand` hears what a person
   * would have typed, before it is done.
   */
  scale(
    targetNodes: number,
    options: {
      readonly reason: string;
      readonly signal: AbortSignal;
      readonly onCommand?: (command: string) => void;
    },
  ): Promise<string | null>;
  victims(): Promise<Victim[]>;
  /** Null: it is not there any more. */
  hit(victim: Victim, blow: Blow, signal: AbortSignal): Promise<Hit | null>;
  /** Of every process that there is or was. */
  logFiles(): LogFiles;
  stop(): Promise<void>;
}

const LOOK_EVERY_MS = 50;
/** So long it must have been well before its restart is believed: one that comes up over a broken database goes down again. */
const WELL_FOR_MS = 1_500;
const RESTART_MAX_MS = 180_000;

/**
 * When something that was hit was well again: the first look at which it was, of those after the last at which it was not. `state`: `gone` ends the wait too, as
 * what was removed by an operation comes back no more.
 */
export async function wellAgain(
  state: () => Promise<'well' | 'unwell' | 'gone'>,
  signal: AbortSignal,
): Promise<number | null> {
  const deadline = now() + RESTART_MAX_MS;
  let since: number | null = null;
  while (!signal.aborted && now() < deadline) {
    const seen = await state().catch(() => 'unwell' as const); // nobody answers: it is not well
    const at = now();
    if (seen === 'gone') return at;
    since = seen === 'well' ? (since ?? at) : null;
    if (since !== null && at - since >= WELL_FOR_MS) return since;
    await sleep(LOOK_EVERY_MS);
  }
  return null;
}

/** Whether something answers 2xx there. */
export function answers(url: string, token?: string): Promise<boolean> {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  return new Promise((resolve) => {
    // A connection of its own: one that stayed open would be a client to whom a router that ends says goodbye.
    const asking = get(url, { headers, agent: false, signal: AbortSignal.timeout(2_000) }, (answer) => {
      answer.resume();
      resolve(answer.statusCode !== undefined && answer.statusCode >= 200 && answer.statusCode < 300);
    });
    asking.on('error', () => resolve(false)); // refused, reset or silent
  });
}
