/**
 * A list of objects that the API server keeps up to date, while somebody uses it.
 *
 *   idle ── use() ──▶ listing ── list ──▶ watching ── stream ends, times out, breaks ──▶ watching from the last version seen
 *                        ▲                    └── 410: that version is too old ──▶ listing
 *                        └── any error: again after a back-off; the objects stay as they were, `trouble` says what is wrong
 *   idle ◀── the last user has left: the stream is closed, the objects are forgotten
 *
 * What is in here may be old: it says when to look, and the API server says what is. The client's own ListWatch is not used: it stops at the first error, and
 * one that is stopped while it lists goes on watching.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { KubernetesObject } from '@kubernetes/client-node';
import { CodedError } from '../../kit/errors.ts';
import { asKubeError, type Doing, forbidden, type Kube, KubeWeather } from './kube.ts';

const BACKOFF_MS_FIRST = 100;
const BACKOFF_MS_MAX = 3000; // an API server that restarts is back within seconds, and somebody waits
const SHORT_STREAM_MS = 1000; // streams that end faster than this, one after the other, are trouble

export interface Source<T> {
  readonly doing: Omit<Doing, 'verb'>;
  /** Without the server: /api/v1/namespaces/… */
  readonly path: string;
  readonly labelSelector?: string;
  readonly fieldSelector?: string;
  readonly list: () => Promise<{ items: T[]; version: string }>;
}

export class Watched<T extends KubernetesObject> {
  readonly #kube: Kube;
  readonly #source: Source<T>;
  readonly #objects = new Map<string, T>();
  readonly #listeners = new Set<() => void>();
  #users = 0;
  #running: AbortController | null = null;
  #synced = false;
  #trouble: Error | null = null;

  constructor(kube: Kube, source: Source<T>) {
    this.#kube = kube;
    this.#source = source;
  }

  /** Listed at least once since it is in use. */
  get synced(): boolean {
    return this.#synced;
  }
  /** Why it is not up to date; null: it is, as far as is known. */
  get trouble(): Error | null {
    return this.#trouble;
  }
  get(name: string): T | undefined {
    return this.#objects.get(name);
  }
  all(): T[] {
    return [...this.#objects.values()];
  }

  /** Keeps it up to date, and calls `changed` at each change, until the returned function is called. */
  use(changed: () => void): () => void {
    this.#listeners.add(changed);
    this.#users += 1;
    if (this.#users === 1) {
      const running = new AbortController();
      this.#running = running;
      void this.#run(running.signal);
    }
    let left = false;
    return () => {
      if (left) return;
      left = true;
      this.#listeners.delete(changed);
      this.#users -= 1;
      if (this.#users === 0) this.stop();
    };
  }

  stop(): void {
    this.#running?.abort();
    this.#running = null;
    this.#synced = false;
    this.#trouble = null;
    this.#objects.clear();
  }

  /** Never rejects. After an abort it changes nothing any more: another run may be under way. */
  async #run(signal: AbortSignal): Promise<void> {
    let version: string | null = null;
    let failures = 0;
    while (!signal.aborted) {
      const began = performance.now();
      let seen = 0;
      try {
        if (version === null) {
          const listed = await this.#source.list();
          if (signal.aborted) return;
          version = listed.version;
          this.#objects.clear();
          for (const item of listed.items) this.#objects.set(item.metadata?.name ?? '', item);
          this.#synced = true;
          this.#settled();
        }
        await this.#stream(version, signal, (next) => {
          version = next;
          seen += 1;
          if (this.#trouble) this.#settled();
        });
        failures = seen > 0 || performance.now() - began > SHORT_STREAM_MS ? 0 : failures + 1;
      } catch (error) {
        if (signal.aborted) return;
        if (isGone(error)) version = null;
        else {
          failures += 1;
          this.#trouble = await this.#named(error);
          if (signal.aborted) return;
          this.#changed();
        }
      }
      // The wait ends early, by an error that only says so, when nobody uses this any more: the loop's condition sees that.
      if (failures > 0) await sleep(backoff(failures), undefined, { signal }).catch(() => {});
    }
  }

  /** Ends when the stream does; throws what broke it. */
  async #stream(version: string, signal: AbortSignal, seen: (version: string) => void): Promise<void> {
    const { path, labelSelector, fieldSelector } = this.#source;
    const watch = this.#kube.watch;
    const query = { resourceVersion: version, allowWatchBookmarks: true, labelSelector, fieldSelector };
    const ended = Promise.withResolvers<void>();
    ended.promise.catch(() => {}); // a watch may be refused before it is awaited below, which throws it
    let broken: unknown;
    const request = await watch.watch(
      path,
      query,
      (type: string, object: T & { code?: number; message?: string }) => {
        if (signal.aborted) return;
        if (type === 'ERROR') {
          broken = Object.assign(new Error(object.message ?? 'the watch has ended'), {
            statusCode: object.code ?? 500,
          });
          return;
        }
        if (type === 'DELETED') this.#objects.delete(object.metadata?.name ?? '');
        else if (type !== 'BOOKMARK') this.#objects.set(object.metadata?.name ?? '', object);
        seen(object.metadata?.resourceVersion ?? version);
        if (type !== 'BOOKMARK') this.#changed();
      },
      (error: unknown) => {
        if (broken) ended.reject(broken);
        // Nothing came for a while, not even a bookmark: perhaps all is quiet, perhaps the connection is dead. A new one tells.
        else if (error && (error as Error).name !== 'TimeoutError') ended.reject(error);
        else ended.resolve();
      },
    );
    const stop = () => request.abort();
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    try {
      await ended.promise;
    } catch (error) {
      if ((error as { statusCode?: number }).statusCode === 401) this.#kube.unauthorized(watch);
      throw error;
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }

  async #named(error: unknown): Promise<Error> {
    const { doing } = this.#source;
    const ours = asKubeError(error, { ...doing, verb: 'watch' }, this.#kube.namespace);
    if (ours instanceof CodedError && ours.code === 'KUBE_FORBIDDEN' && ours.details['user'] === null) {
      const group = doing.resource.startsWith('statefulsets') ? 'apps' : '';
      const namespace = this.#kube.namespace;
      return forbidden({ user: await this.#kube.user(), verb: 'watch', resource: doing.resource, group, namespace });
    }
    return ours instanceof CodedError || ours instanceof KubeWeather ? ours : (ours as Error);
  }

  #settled(): void {
    this.#trouble = null;
    this.#changed();
  }

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }
}

const isGone = (error: unknown) =>
  (error as { statusCode?: unknown }).statusCode === 410 || (error as { status?: unknown }).status === 410;

const backoff = (failures: number) =>
  Math.min(BACKOFF_MS_FIRST * 2 ** (failures - 1), BACKOFF_MS_MAX) * (0.5 + Math.random() / 2);
