/** The processor and the deliverer together, as the steward sees them. */
import type { PartitionIndex } from '../ring/partition.ts';
import { Delivery, type DeliveryDeps } from './delivery.ts';
import { Processor } from './processor.ts';
import type { NodeWork } from './work.ts';
import { Workspaces } from './workspaces.ts';

export interface WorkingPartsDeps extends Omit<DeliveryDeps, 'workspaces' | 'onIdle' | 'config'> {
  readonly config: DeliveryDeps['config'] & { readonly workspaceId: string };
}

export class WorkingParts implements NodeWork {
  readonly #processor: Processor;
  readonly #delivery: Delivery;
  readonly #workspaces: Workspaces;
  readonly #idleWaiters = new Set<() => void>();

  constructor(deps: WorkingPartsDeps) {
    this.#workspaces = new Workspaces(deps.session.pool, deps.config.workspaceId, deps.topology);
    const onIdle = (): void => {
      for (const look of this.#idleWaiters) look();
    };
    const shared = { ...deps, workspaces: this.#workspaces, onIdle };
    this.#delivery = new Delivery(shared);
    this.#processor = new Processor({ ...shared, onProcessed: (partitions) => this.#delivery.wake(partitions) });
  }

  start(): void {
    this.#processor.start();
    this.#delivery.start();
  }

  /** New gw jobs are there. */
  stored(partitions: readonly PartitionIndex[]): void {
    this.#processor.wake(partitions);
  }

  get inFlight(): number {
    return this.#delivery.inFlight;
  }

  /** How long a job waits here that could be worked on at once (dataplane/contract.ts, `NodeLoad`). */
  get queueDelayMs(): number {
    return (this.#processor.delayMs ?? 0) + (this.#delivery.delayMs ?? 0);
  }

  opened(partitions: readonly PartitionIndex[]): void {
    this.#workspaces.forget();
    this.#processor.opened(partitions);
    this.#delivery.opened(partitions);
  }

  /** What is open is read from its lowest id again. */
  readAfresh(): void {
    this.#processor.readAfresh();
    this.#delivery.readAfresh();
  }

  stop(partitions: readonly PartitionIndex[]): void {
    this.#processor.forget(partitions);
    this.#delivery.forget(partitions);
  }

  async idle(partitions: readonly PartitionIndex[], signal: AbortSignal): Promise<void> {
    const isIdle = (): boolean =>
      partitions.every(
        (partition) => !this.#processor.busy(partition) && this.#delivery.busyWith(partition).length === 0,
      );
    signal.throwIfAborted();
    if (isIdle()) return;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const look = (): void => {
      if (isIdle()) resolve();
    };
    const onAbort = (): void => reject(signal.reason);
    this.#idleWaiters.add(look);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      await promise;
    } finally {
      this.#idleWaiters.delete(look);
      signal.removeEventListener('abort', onAbort);
    }
  }

  waitingFor(partitions: readonly PartitionIndex[]): string[] {
    return [...new Set(partitions.flatMap((partition) => this.#delivery.busyWith(partition)))];
  }

  lastStarts(partitions: readonly PartitionIndex[]): { partition: PartitionIndex; at: number }[] {
    return partitions.flatMap((partition) => {
      const at = Math.max(
        this.#processor.lastStarts.get(partition) ?? 0,
        this.#delivery.lastStarts.get(partition) ?? 0,
      );
      return at > 0 ? [{ partition, at }] : [];
    });
  }

  /** The end of the process: nothing more starts, what is in flight has `withinMs` to end. */
  async end(withinMs: number): Promise<void> {
    await this.#processor.stop();
    await this.#delivery.stop(withinMs);
  }
}
