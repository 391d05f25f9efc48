/** Events of pods and claims, as a kubelet writes them: best effort, one object for each reason and message, counted. */
import { randomBytes } from 'node:crypto';
import { type Api, isGone, type Stored } from './api.ts';

interface Kept {
  object: Stored;
  kind: string;
  type: 'Normal' | 'Warning';
  reason: string;
  message: string;
  component: string;
  first: string;
  count: number;
  /** Null: not written yet. */
  name: string | null;
  dirty: boolean;
}

const FLUSH_MS = 200;
const KEPT_MAX = 2000;

export class EventWriter {
  readonly #api: Api;
  readonly #node: string;
  readonly #kept = new Map<string, Kept>();
  #flushing: Promise<void> | null = null;
  #timer: NodeJS.Timeout | null = null;

  constructor(api: Api, node: string) {
    this.#api = api;
    this.#node = node;
  }

  tell(
    kind: 'Pod' | 'PersistentVolumeClaim',
    object: Stored,
    type: 'Normal' | 'Warning',
    reason: string,
    message: string,
    component = 'kubelet',
  ): void {
    const key = `${object.metadata?.uid} ${reason} ${message}`;
    const kept = this.#kept.get(key);
    if (kept) {
      kept.count += 1;
      kept.dirty = true;
    } else {
      if (this.#kept.size >= KEPT_MAX) this.#kept.delete(this.#kept.keys().next().value ?? '');
      const first = new Date().toISOString();
      this.#kept.set(key, { object, kind, type, reason, message, component, first, count: 1, name: null, dirty: true });
    }
    this.#timer ??= setTimeout(() => this.#flush(), FLUSH_MS);
  }

  async stop(): Promise<void> {
    if (this.#timer) clearTimeout(this.#timer);
    await this.#flushing;
  }

  #flush(): void {
    this.#timer = null;
    this.#flushing ??= this.#write().finally(() => {
      this.#flushing = null;
      if ([...this.#kept.values()].some(({ dirty }) => dirty))
        this.#timer ??= setTimeout(() => this.#flush(), FLUSH_MS);
    });
  }

  async #write(): Promise<void> {
    for (const [key, kept] of this.#kept) {
      if (!kept.dirty) continue;
      kept.dirty = false;
      try {
        await this.#writeOne(kept);
      } catch {
        // Its namespace ends, or the API server is away: events are best effort in a real cluster too. The next of this kind is written as a new one.
        this.#kept.delete(key);
      }
    }
  }

  async #writeOne(kept: Kept): Promise<void> {
    const { name = '', namespace = 'default', uid = '' } = kept.object.metadata ?? {};
    const path = `/api/v1/namespaces/${namespace}/events`;
    const last = new Date().toISOString();
    if (kept.name !== null) {
      try {
        await this.#api.merge(`${path}/${kept.name}`, { count: kept.count, lastTimestamp: last });
        return;
      } catch (err) {
        if (!isGone(err)) throw err; // it has been deleted: a new one
      }
    }
    kept.name = `${name}.${randomBytes(8).toString('hex')}`;
    await this.#api.create(path, {
      apiVersion: 'v1',
      kind: 'Event',
      metadata: { name: kept.name, namespace },
      involvedObject: { apiVersion: 'v1', kind: kept.kind, name, namespace, uid },
      type: kept.type,
      reason: kept.reason,
      message: kept.message.slice(0, 1000),
      source: { component: kept.component, host: this.#node },
      reportingComponent: kept.component,
      reportingInstance: this.#node,
      firstTimestamp: kept.first,
      lastTimestamp: last,
      count: kept.count,
    });
  }
}
