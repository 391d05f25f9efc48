/**
 * Stores events: requests are gathered into groups, and each group is one transaction.
 *
 * What holds:
 *   I1 a request is acknowledged only after the commit of everything in it, and refused whole where any of its partitions is not taken in here;
 *   I2 one committer at a time, so ids are committed in their order: whoever reads on from an id misses nothing (the processor's cursors rely on it);
 *   I3 within a group and between groups, ids follow the arrival of requests, and within a request the order of its events;
 *   I4 a messageId that the window knows is acknowledged and not stored again.
 */
import type { PoolClient } from 'pg';
import { headers } from '../dataplane/contract.ts';
import { countPartitions, insertEvents } from '../jobsdb/sql/intake.ts';
import { describeError } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import { type PartitionIndex, partitionOf } from '../ring/partition.ts';
import type { NodeConfig, SourceConfig } from './config.ts';
import { liveDataset, withDatasets } from './dataset-list.ts';
import type { IncomingEvent } from './event.ts';
import type { Health } from './health.ts';
import { earliest, RecentTimes } from './load.ts';
import type { NodeMetrics } from './metrics.ts';
import { prepared } from './prepared.ts';
import { HttpRefusal, unavailable } from './refusal.ts';
import {
  type EnteredPartitions,
  isDataError,
  isSuperseded,
  OutcomeUnknown,
  PartitionTransactions,
} from './transaction.ts';
import type { NodeSession, NodeTopology } from './work.ts';

export interface IntakeDeps {
  readonly session: NodeSession;
  readonly topology: NodeTopology;
  readonly config: Pick<NodeConfig, 'workspaceId' | 'limits'>;
  readonly log: Logger;
  readonly metrics: NodeMetrics;
  readonly health: Health;
  /** Partitions that have new jobs. */
  readonly onStored: (partitions: readonly PartitionIndex[]) => void;
  /** This process is no longer the node. */
  readonly onSuperseded: (error: unknown) => void;
}

interface WaitingRequest {
  readonly source: SourceConfig;
  readonly events: readonly IncomingEvent[];
  readonly partitions: readonly PartitionIndex[];
  /** Of each event. */
  readonly partitionOf: readonly PartitionIndex[];
  readonly isGone: () => boolean;
  readonly since: number;
  readonly resolve: () => void;
  readonly reject: (why: HttpRefusal) => void;
}

const EXPIRE_EVERY_MS = 250;

export class Intake {
  readonly #deps: IntakeDeps;
  readonly #transactions: PartitionTransactions;
  #queue: WaitingRequest[] = [];
  #committing: Promise<void> | null = null;
  readonly #commitTimes = new RecentTimes();
  /** Arrival of the oldest request of the group that is being committed. */
  #groupSince: number | null = null;
  #ownPartitionCount = 0;
  #stopped = false;
  readonly #expiry: NodeJS.Timeout;

  constructor(deps: IntakeDeps) {
    this.#deps = deps;
    this.#transactions = new PartitionTransactions(deps.session);
    this.#expiry = setInterval(() => this.#expire(), EXPIRE_EVERY_MS).unref();
  }

  get waiting(): number {
    return this.#queue.length;
  }

  /** From a request's arrival to its commit, over the last seconds; of each group its oldest. Null: nothing came in. */
  get commitMs(): { p50: number; p90: number } | null {
    return this.#commitTimes.quantiles(earliest([this.#groupSince, this.#queue[0]?.since ?? null]));
  }

  /** Resolves when all of `events` are stored; rejects with HttpRefusal. `isGone`: nobody waits for the answer any longer. */
  async store(source: SourceConfig, events: readonly IncomingEvent[], isGone: () => boolean): Promise<void> {
    const { limits } = this.#deps.config;
    if (this.#stopped) throw unavailable('node is stopping');
    if (this.#queue.length >= limits.intakeRequestsMax) throw unavailable('too many requests wait');
    const count =
      this.#deps.topology.ring().partitionCount || this.#ownPartitionCount || (await this.#readPartitionCount());
    const indexes = events.map((event) => partitionOf(event.userKey, count));
    const partitions = [...new Set(indexes)];
    this.#refuseForeign(partitions);
    await new Promise<void>((resolve, reject) => {
      this.#queue.push({
        source,
        events,
        partitions,
        partitionOf: indexes,
        isGone,
        since: performance.now(),
        resolve,
        reject,
      });
      this.#committing ??= this.#commitAll();
    });
  }

  /** No more is taken; resolves when what waits is answered. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#expiry);
    await this.#committing;
  }

  /**
   * What the folded log gives to others is refused without a transaction: a refusal is always safe, and the steward may hold the locks of partitions that it
   * is putting away for longer than the other requests of a group should wait. Acceptance is decided by the rows alone.
   */
  #refuseForeign(partitions: readonly PartitionIndex[]): void {
    const ring = this.#deps.topology.ring();
    if (ring.partitionCount === 0) return;
    const foreign = partitions.filter((partition) => ring.owners[partition] !== this.#deps.session.node);
    if (foreign.length > 0) throw misdirected('not-owner', foreign, ring.version, null);
  }

  /** The ring store does not answer and this process has folded nothing yet: its database has a row for each partition of the ring. */
  async #readPartitionCount(): Promise<number> {
    let count: number;
    try {
      count = (await this.#deps.session.pool.query<{ count: number }>(countPartitions)).rows[0]!.count;
    } catch {
      throw unavailable('database unavailable');
    }
    if (count === 0) throw unavailable('the ring is not known here yet');
    this.#ownPartitionCount = count;
    return count;
  }

  async #commitAll(): Promise<void> {
    const { groupMs } = this.#deps.config.limits;
    // Yields first: `#committing` must be set when the queue is empty again.
    await (groupMs > 0 ? new Promise((resolve) => setTimeout(resolve, groupMs)) : Promise.resolve());
    while (this.#queue.length > 0) {
      const group = this.#nextGroup();
      if (group.length === 0) continue;
      this.#groupSince = group[0]!.since;
      await this.#commitGroup(group);
      this.#commitTimes.ended(this.#groupSince);
      this.#groupSince = null;
    }
    this.#committing = null;
  }

  #nextGroup(): WaitingRequest[] {
    const group: WaitingRequest[] = [];
    let events = 0;
    let taken = 0;
    for (const request of this.#queue) {
      if (events > 0 && events + request.events.length > this.#deps.config.limits.groupEventsMax) break;
      taken += 1;
      if (request.isGone()) {
        request.reject(unavailable('client has gone')); // it will send again: stored now it would only be late
        continue;
      }
      group.push(request);
      events += request.events.length;
    }
    this.#queue = this.#queue.slice(taken);
    return group;
  }

  /** Never rejects: every request of the group gets its answer. */
  async #commitGroup(group: readonly WaitingRequest[]): Promise<void> {
    try {
      await this.#commitTogether(group);
      this.#deps.health.succeeded('database');
    } catch (error) {
      if (isSuperseded(error)) this.#deps.onSuperseded(error);
      if (isDataError(error)) {
        // One request must not spoil the others.
        if (group.length === 1) return group[0]!.reject(new HttpRefusal(400, 'Invalid JSON'));
        for (const request of group) await this.#commitGroup([request]);
        return;
      }
      this.#deps.health.failed('database', describeError(error));
      this.#deps.log.warn({ error: describeError(error), requests: group.length }, 'events not acknowledged');
      const answer =
        error instanceof OutcomeUnknown ? new HttpRefusal(500, 'outcome unknown') : unavailable('database unavailable');
      for (const request of group) request.reject(answer);
      if (error instanceof OutcomeUnknown)
        this.#deps.onStored([...new Set(group.flatMap((request) => request.partitions))]);
    }
  }

  async #commitTogether(group: readonly WaitingRequest[]): Promise<void> {
    const { topology, onStored, metrics } = this.#deps;
    const version = topology.ring().version; // before the states are read: what they say is at least as new
    const all = [...new Set(group.flatMap((request) => request.partitions))];
    const done = await withDatasets(topology, () =>
      this.#transactions.run(all, async (client, entered) => {
        const accepted: WaitingRequest[] = [];
        const refused: [WaitingRequest, HttpRefusal][] = [];
        for (const request of group) {
          const why = refusalOf(request.partitions, entered, version);
          if (why) refused.push([request, why]);
          else accepted.push(request);
        }
        // The live dataset as it is now: while this waited for the locks it may have been followed by another.
        const { dataset } = liveDataset(topology.datasets(), 'gw');
        const stored = accepted.length > 0 ? await this.#insert(client, dataset, accepted) : 0;
        return { accepted, refused, stored };
      }),
    );
    for (const [request, why] of done.refused) request.reject(why);
    for (const request of done.accepted) request.resolve();
    const taken = done.accepted.reduce((sum, request) => sum + request.events.length, 0);
    metrics.accepted.inc(done.stored);
    metrics.resent.inc(taken - done.stored);
    if (done.stored > 0) onStored([...new Set(done.accepted.flatMap((request) => request.partitions))]);
  }

  async #insert(client: PoolClient, dataset: number, requests: readonly WaitingRequest[]): Promise<number> {
    const [partitions, messageIds, userKeys, sourceIds, payloads]: [number[], string[], string[], string[], string[]] =
      [[], [], [], [], []];
    const seen = new Set<string>(); // a resend may be in the same group, or the same request
    for (const { source, events, partitionOf: indexes } of requests) {
      events.forEach((event, i) => {
        const key = `${indexes[i]} ${event.messageId}`;
        if (seen.has(key)) return;
        seen.add(key);
        partitions.push(indexes[i]!);
        messageIds.push(event.messageId);
        userKeys.push(event.userKey);
        sourceIds.push(source.sourceId);
        payloads.push(event.payload);
      });
    }
    const inserted = await client.query(
      prepared(insertEvents(dataset), [
        partitions,
        messageIds,
        userKeys,
        sourceIds,
        payloads,
        this.#deps.config.workspaceId,
        new Date().toISOString(),
      ]),
    );
    return inserted.rowCount ?? 0;
  }

  /** Nothing of these was sent to the database: the answer does not depend on it. */
  #expire(): void {
    const oldest = performance.now() - this.#deps.config.limits.intakeWaitMaxMs;
    if ((this.#queue[0]?.since ?? oldest) >= oldest) return;
    const expired = this.#queue.filter((request) => request.since < oldest);
    this.#queue = this.#queue.filter((request) => request.since >= oldest);
    for (const request of expired) request.reject(unavailable('waited too long for its commit'));
  }
}

function refusalOf(
  partitions: readonly PartitionIndex[],
  entered: EnteredPartitions,
  version: number,
): HttpRefusal | null {
  const foreign = partitions.filter((partition) => {
    const state = entered.get(partition)?.state ?? 'closed';
    return state !== 'open' && state !== 'paused';
  });
  if (foreign.length === 0) return null;
  // Of both kinds the router must first ask the right nodes; what is fenced then meets its fence again.
  const closed = foreign.some((partition) => entered.get(partition)?.state !== 'fenced');
  const move = foreign.map((partition) => entered.get(partition)?.move).find((name) => name != null) ?? null;
  return misdirected(closed ? 'not-owner' : 'fenced', foreign, version, closed ? null : move);
}

function misdirected(
  state: 'not-owner' | 'fenced',
  partitions: readonly PartitionIndex[],
  version: number,
  move: string | null,
): HttpRefusal {
  return new HttpRefusal(421, JSON.stringify({ error: state, partitions }), {
    [headers.state]: state,
    [headers.version]: String(version),
    ...(move === null ? {} : { [headers.move]: move }),
  });
}
