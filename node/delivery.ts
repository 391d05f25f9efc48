/**
 * Delivers `rt` jobs to their destinations: in order for each user, many users at once.
 *
 * One committer, round after round, each round one transaction: it writes the results of the deliveries that have ended, and marks the next ones `executing`.
 * Only after its commit these start. A loader for each destination keeps the lanes (lanes.ts) filled.
 *
 * What holds:
 *   D1 nothing starts that is not durably marked, under this instance, while the partition's row says `open`;
 *   D2 a user's next event starts after the former's result is durable with it: a crash repeats only what was in flight;
 *   D3 what `forget` names starts nothing more from the moment of the call, marked or not.
 */
import type { PoolClient, QueryConfig } from 'pg';
import type { Dataset } from '../jobsdb/sql/datasets.ts';
import {
  selectUndelivered,
  selectUndeliveredOfOthers,
  selectUndeliveredOfUsers,
  writeRound,
} from '../jobsdb/sql/delivery.ts';
import { describeError } from '../kit/errors.ts';
import { type Logger, now } from '../kit/log.ts';
import type { PartitionIndex } from '../ring/partition.ts';
import type { DestinationConfig, NodeConfig, NodeLimits } from './config.ts';
import { withDatasets } from './dataset-list.ts';
import type { Health } from './health.ts';
import { Kick, LoopBackoff } from './kick.ts';
import { type Job, type Lane, Lanes, type LoadedRow } from './lanes.ts';
import { earliest, RecentTimes } from './load.ts';
import type { NodeMetrics } from './metrics.ts';
import { prepared } from './prepared.ts';
import { type Outcome, Sender } from './sender.ts';
import { type EnteredPartitions, isDataError, isSuperseded, PartitionTransactions } from './transaction.ts';
import type { NodeSession, NodeTopology } from './work.ts';
import type { Workspaces } from './workspaces.ts';

export interface DeliveryDeps {
  readonly session: NodeSession;
  readonly topology: NodeTopology;
  readonly config: Pick<NodeConfig, 'sources' | 'limits'>;
  readonly workspaces: Workspaces;
  readonly log: Logger;
  readonly metrics: NodeMetrics;
  readonly health: Health;
  /** Something that was in flight is no longer: see `busy`. */
  readonly onIdle: () => void;
  readonly onSuperseded: (error: unknown) => void;
}

interface Destination {
  readonly config: DestinationConfig;
  readonly lanes: Lanes;
  readonly sender: Sender;
  readonly load: Kick;
  /** Taken and not ended: marked, or on the way to be. */
  inFlight: number;
  /** Since when jobs are being read for it. */
  readingSince: number | null;
}

interface Head {
  readonly destination: Destination;
  readonly lane: Lane;
  readonly job: Job;
}

interface Result extends Head {
  readonly outcome: Outcome;
  /** Of a failed one. */
  readonly retryMs: number;
}

interface Payload {
  readonly payload: string;
  readonly messageId: string | null;
}

const PARTITIONS_PER_LOAD = 64;
const ROWS_PER_LOAD = 4_000;
/** Past a long queue: users that are passed over, and rows that one read looks at. The other partitions wait for it. */
const PASSED_USERS_MAX = 2_000;
const ROWS_PER_PASSING = 40_000;

export class Delivery {
  readonly #deps: DeliveryDeps;
  readonly #limits: NodeLimits;
  readonly #transactions: PartitionTransactions;
  readonly #destinations: readonly Destination[];
  readonly #rounds = new Kick();
  /** Jobs between `take` and their written result. */
  readonly #active = new Map<PartitionIndex, Map<Destination, number>>();
  readonly lastStarts = new Map<PartitionIndex, number>();
  #results: Result[] = [];
  /** Since when there is something for a round to do, and for the one that is under way. */
  #wantedSince: number | null = null;
  #roundSince: number | null = null;
  readonly #rounding = new RecentTimes();
  readonly #reading = new RecentTimes();
  #draining = false;
  #stopped = false;
  #loops: Promise<unknown> = Promise.resolve();

  constructor(deps: DeliveryDeps) {
    this.#deps = deps;
    this.#limits = deps.config.limits;
    this.#transactions = new PartitionTransactions(deps.session);
    const configs = new Map(
      deps.config.sources.flatMap(({ destinations }) => destinations.map((config) => [config.id, config] as const)),
    );
    const {
      bufferJobsMax: jobsMax,
      bufferPartitionJobsMax: partitionJobsMax,
      bufferUserJobsMax: userJobsMax,
    } = this.#limits;
    this.#destinations = [...configs.values()].map((config) => ({
      config,
      lanes: new Lanes({ jobsMax, partitionJobsMax, userJobsMax }, () => this.#wantRound()),
      sender: new Sender(config, this.#limits),
      load: new Kick(),
      inFlight: 0,
      readingSince: null,
    }));
  }

  start(): void {
    this.#loops = Promise.all([
      this.#commitRounds(),
      ...this.#destinations.map((destination) => this.#keepLoaded(destination)),
    ]);
  }

  opened(partitions: readonly PartitionIndex[]): void {
    for (const { lanes, load } of this.#destinations) {
      for (const partition of partitions) lanes.opened(partition);
      load.kick();
    }
  }

  readAfresh(): void {
    for (const { lanes, load } of this.#destinations) {
      lanes.openedAgain();
      load.kick();
    }
  }

  /** Starts nothing more of these. */
  forget(partitions: readonly PartitionIndex[]): void {
    for (const { lanes } of this.#destinations) for (const partition of partitions) lanes.forget(partition);
  }

  wake(partitions: readonly PartitionIndex[]): void {
    for (const { lanes, load } of this.#destinations) {
      for (const partition of partitions) lanes.wake(partition);
      load.kick();
    }
  }

  /** Destinations of this partition with a delivery in flight, or a result that is not written. */
  busyWith(partition: PartitionIndex): string[] {
    return [...(this.#active.get(partition)?.keys() ?? [])].map(({ config }) => config.id);
  }

  get inFlight(): number {
    return this.#destinations.reduce((sum, { inFlight }) => sum + inFlight, 0);
  }

  /**
   * How long rt jobs wait here that could be delivered: to be read, where there is room for them, and then for the round that marks them, where their
   * destination has a slot. What waits for a destination is in neither: no reading and no round does. Null: none waited lately.
   */
  get delayMs(): number | null {
    const reading = this.#reading.quantiles(earliest(this.#destinations.map(({ readingSince }) => readingSince)));
    const rounding = this.#rounding.quantiles(earliest([this.#roundSince, this.#wantedSince]));
    return reading || rounding ? (reading?.p90 ?? 0) + (rounding?.p90 ?? 0) : null;
  }

  #wantRound(): void {
    this.#wantedSince ??= performance.now();
    this.#rounds.kick();
  }

  /** Starts nothing more, waits for what is in flight at most `withinMs`, writes the results. What is cut off stays `executing` and is picked up again. */
  async stop(withinMs: number): Promise<void> {
    const deadline = performance.now() + withinMs;
    this.#draining = true;
    this.#rounds.kick();
    while (this.#active.size > 0 && performance.now() < deadline)
      await new Promise((resolve) => setTimeout(resolve, 10));
    this.#stopped = true;
    this.#rounds.kick();
    for (const { lanes, load } of this.#destinations) {
      lanes.stop();
      load.kick();
    }
    await this.#loops;
    await Promise.all(this.#destinations.map(({ sender }) => sender.close()));
  }

  // ---- rounds

  async #commitRounds(): Promise<void> {
    const backoff = new LoopBackoff();
    while (!this.#stopped) {
      await this.#rounds.wait();
      if (this.#limits.resultLingerMs > 0)
        await new Promise((resolve) => setTimeout(resolve, this.#limits.resultLingerMs));
      try {
        // Reset at each round: under load this loop hardly ever comes to its end, and one loss now and then must not add up to long waits.
        for (; await this.#round(); backoff.reset()) this.#deps.health.succeeded('delivery');
        backoff.reset();
      } catch (error) {
        if (isSuperseded(error)) return this.#deps.onSuperseded(error);
        this.#deps.health.failed('delivery', describeError(error));
        this.#deps.log.warn(
          { error: describeError(error), results: this.#results.length },
          'delivery round failed, will try again',
        );
        await new Promise((resolve) => setTimeout(resolve, backoff.next()));
        this.#rounds.kick();
      }
    }
  }

  /** False: there was nothing to do. */
  async #round(): Promise<boolean> {
    const results = this.#results;
    this.#results = [];
    const heads = this.#takeHeads();
    const since = this.#wantedSince;
    this.#wantedSince = null;
    if (results.length === 0 && heads.length === 0) return false;
    this.#roundSince = since;
    const partitions = [...new Set([...results, ...heads].map(({ lane }) => lane.place.partition))];
    let done: { entered: EnteredPartitions; payloads: Map<number, Payload> };
    try {
      done = await withDatasets(this.#deps.topology, (datasets) =>
        this.#transactions.run(partitions, async (client, entered) => {
          const writable = results.filter(({ lane }) => isWritable(entered, lane));
          const startable = heads.filter(({ lane }) => isOpen(entered, lane) && !lane.place.closed);
          return { entered, payloads: await this.#write(client, new Set(rtDatasets(datasets)), writable, startable) };
        }),
      );
    } catch (error) {
      // Written or not: writing a result or a mark again changes nothing.
      this.#results.unshift(...(isDataError(error) ? results.map(withoutResponse) : results));
      for (const head of heads.reverse()) this.#putBack(head);
      this.#wantedSince = earliest([since, this.#wantedSince]);
      throw error;
    } finally {
      this.#roundSince = null;
    }
    if (since !== null) this.#rounding.ended(since);
    const taken = new Set(heads.map(({ lane }) => lane));
    for (const result of results)
      this.#settleResult(result, taken.has(result.lane), isWritable(done.entered, result.lane));
    for (const head of heads) this.#startOrNot(head, done);
    for (const { load } of this.#destinations) load.kick();
    this.#deps.onIdle();
    return true;
  }

  #takeHeads(): Head[] {
    if (this.#draining) return [];
    const heads: Head[] = [];
    for (const destination of this.#destinations) {
      while (destination.inFlight < destination.config.maxInFlight) {
        const taken = destination.lanes.take();
        if (!taken) break;
        destination.inFlight += 1;
        this.#countActive(taken.lane.place.partition, destination, 1);
        heads.push({ destination, ...taken });
      }
    }
    return heads;
  }

  #putBack({ destination, lane }: Head): void {
    destination.inFlight -= 1;
    this.#countActive(lane.place.partition, destination, -1);
    destination.lanes.putBack(lane);
  }

  /** Gives the payloads of `heads`. */
  async #write(
    client: PoolClient,
    datasets: ReadonlySet<number>,
    results: readonly Result[],
    heads: readonly Head[],
  ): Promise<Map<number, Payload>> {
    const payloads = new Map<number, Payload>();
    for (const dataset of new Set([...results, ...heads].map(({ job }) => job.dataset))) {
      // Nothing is pending in a dataset that has gone: a result of it is there already, its commit's answer was lost.
      if (!datasets.has(dataset)) continue;
      const written = results.filter(({ job }) => job.dataset === dataset);
      const marked = heads.filter(({ job }) => job.dataset === dataset);
      const rows = await client.query<Payload & { job_id: string }>(
        prepared(writeRound(dataset), [
          marked.map(({ job }) => job.id),
          marked.map(({ job }) => attemptOf(job)),
          written.map(({ job }) => job.id),
          written.map(({ outcome }) => outcome.state),
          written.map(({ job }) => attemptOf(job)),
          written.map(({ outcome, retryMs }) => (outcome.state === 'failed' ? retryMs : null)),
          written.map(({ outcome }) => outcome.code),
          written.map(({ outcome }) => JSON.stringify(outcome.response === '' ? {} : { response: outcome.response })),
        ]),
      );
      for (const { job_id, payload, messageId } of rows.rows) payloads.set(Number(job_id), { payload, messageId });
    }
    return payloads;
  }

  #settleResult({ destination, lane, job, outcome, retryMs }: Result, taken: boolean, written: boolean): void {
    const { metrics, log } = this.#deps;
    this.#countActive(lane.place.partition, destination, -1);
    if (!written) {
      log.warn(
        { job: job.id, partition: lane.place.partition },
        'result dropped: the partition is not ours any longer',
      );
      destination.lanes.drop(lane);
      return;
    }
    destination.lanes.written(lane, taken, retryMs);
    const counter = { succeeded: metrics.delivered, failed: metrics.failed, aborted: metrics.aborted }[outcome.state];
    counter.inc({ destination: destination.config.id });
    if (outcome.state === 'aborted')
      log.warn({ job: job.id, destination: destination.config.id, code: outcome.code }, 'job aborted');
  }

  #startOrNot(
    head: Head,
    { entered, payloads }: { entered: EnteredPartitions; payloads: ReadonlyMap<number, Payload> },
  ): void {
    const { destination, lane, job } = head;
    const { partition } = lane.place;
    // Nobody told us to stop, and yet not open: it will be opened again, and then read afresh.
    if (!isOpen(entered, lane) && !lane.place.closed) this.forget([partition]);
    const payload = payloads.get(job.id);
    if (payload && !lane.gone && !lane.place.closed) {
      this.#send(head, payload);
      return;
    }
    destination.inFlight -= 1;
    this.#countActive(partition, destination, -1);
    if (!lane.gone && !lane.place.closed) {
      // Opened again since it was taken, and not marked; or its row is gone. Either way what the tables say counts.
      destination.lanes.opened(partition);
    }
    destination.lanes.notStarted(lane, job);
  }

  #send(head: Head, { payload, messageId }: Payload): void {
    const { destination, lane, job } = head;
    const { health } = this.#deps;
    this.lastStarts.set(lane.place.partition, now());
    void destination.sender.send(payload, messageId ?? '', attemptOf(job)).then((sent) => {
      destination.inFlight -= 1;
      if (this.#stopped) return; // cut off by the end of this process: it stays executing
      const part = `destination ${destination.config.id}` as const;
      if (sent.state === 'failed') health.failed(part, sent.code);
      else health.succeeded(part);
      const outcome =
        this.#limits.attemptsMax > 0 && sent.state === 'failed' && attemptOf(job) >= this.#limits.attemptsMax
          ? { ...sent, state: 'aborted' as const }
          : sent;
      destination.lanes.finish(lane, outcome);
      this.#results.push({ ...head, outcome, retryMs: this.#retryMs(job, outcome) });
      this.#wantRound();
    });
  }

  /** Doubling, with jitter (half of it to one and a half), so that users who failed together do not come back together. */
  #retryMs(job: Job, outcome: Outcome): number {
    const { retryMinMs, retryMaxMs } = this.#limits;
    const backoff = Math.min(retryMinMs * 2 ** Math.min(job.attempts, 30), retryMaxMs) * (0.5 + Math.random());
    return Math.max(backoff, outcome.retryAfterMs);
  }

  #countActive(partition: PartitionIndex, destination: Destination, change: 1 | -1): void {
    const counts = this.#active.get(partition) ?? new Map<Destination, number>();
    const count = (counts.get(destination) ?? 0) + change;
    if (count > 0) counts.set(destination, count);
    else counts.delete(destination);
    if (counts.size > 0) this.#active.set(partition, counts);
    else this.#active.delete(partition);
  }

  // ---- loading

  async #keepLoaded(destination: Destination): Promise<void> {
    const backoff = new LoopBackoff();
    while (!this.#stopped) {
      try {
        const loaded = await this.#loadNext(destination);
        const refilled = await this.#refillNext(destination);
        if (loaded || refilled) this.#deps.health.succeeded('loading');
        else await destination.load.wait();
        backoff.reset();
      } catch (error) {
        this.#deps.health.failed('loading', describeError(error));
        this.#deps.log.warn(
          { error: describeError(error), destination: destination.config.id },
          'loading failed, will try again',
        );
        await new Promise((resolve) => setTimeout(resolve, backoff.next()));
      }
    }
  }

  async #loadNext(destination: Destination): Promise<boolean> {
    const { config, lanes } = destination;
    const places = lanes.wanting().slice(0, PARTITIONS_PER_LOAD);
    if (places.length === 0) return false;
    const limit = Math.min(Math.ceil(ROWS_PER_LOAD / places.length), ...places.map(({ room }) => room));
    for (const { place } of places) place.dirty = false; // first: what comes while this reads makes it dirty again
    const since = performance.now();
    destination.readingSince = since;
    try {
      const { partitions, partitionIds, after } = await this.#deps.workspaces.expand(places);
      const passed = lanes.spilledUsers(places, PASSED_USERS_MAX);
      const looked = Math.ceil(ROWS_PER_PASSING / places.length);
      const values = [partitions, partitionIds, after, limit, config.id];
      await this.#read(
        lanes,
        // What is passed over changes with each read: planned afresh, the planner knows it and builds a hash of it.
        (datasets) =>
          passed.length === 0
            ? prepared(selectUndelivered(datasets), values)
            : { text: selectUndeliveredOfOthers(datasets), values: [...values, passed, looked] },
        (rows, ends) => {
          for (const { place, partition, after: from } of places) {
            const { upTo, more } = endOf(ends.get(partition) ?? []);
            const found = rows.get(partition) ?? [];
            const mine = (more ? found.filter(({ id }) => id <= upTo) : found).slice(0, limit);
            const isCut = mine.length === limit;
            lanes.load(place, mine, isCut ? mine.at(-1)!.id : Math.max(upTo, mine.at(-1)?.id ?? from));
            if (isCut || more) place.dirty = true;
          }
        },
      );
    } catch (error) {
      for (const { place } of places) place.dirty = true;
      throw error;
    } finally {
      destination.readingSince = null;
    }
    this.#reading.ended(since);
    return true;
  }

  async #refillNext({ config, lanes }: Destination): Promise<boolean> {
    const refillable = lanes.refillable();
    if (!refillable) return false;
    const { place, lanes: wanted } = refillable;
    const from = { partition: place.partition, after: Math.min(...wanted.map(({ after }) => after)) };
    const upTo = place.after;
    const { partitions, partitionIds, after } = await this.#deps.workspaces.expand([from]);
    const users = wanted.map(({ lane }) => lane.userKey);
    const values = [partitions, partitionIds, after, ROWS_PER_LOAD, config.id, users, upTo];
    await this.#read(
      lanes,
      (datasets) => prepared(selectUndeliveredOfUsers(datasets), values),
      (rows) => {
        const mine = (rows.get(place.partition) ?? []).slice(0, ROWS_PER_LOAD);
        lanes.refill(place, wanted, mine, mine.length < ROWS_PER_LOAD);
      },
    );
    return true;
  }

  async #read(
    lanes: Lanes,
    statement: (datasets: readonly number[]) => QueryConfig,
    apply: (rows: Map<PartitionIndex, LoadedRow[]>, ends: Map<PartitionIndex, End[]>) => void,
  ): Promise<void> {
    lanes.reading = true;
    try {
      const read = await withDatasets(this.#deps.topology, (datasets) =>
        this.#deps.session.pool.query<{
          partition: number;
          job_id: string;
          dataset: number;
          user_id: string | null;
          attempts: number;
          retryInMs: number;
          more?: boolean;
        }>(statement(rtDatasets(datasets))),
      );
      const rows = new Map<PartitionIndex, LoadedRow[]>();
      const ends = new Map<PartitionIndex, End[]>();
      for (const { partition, job_id, dataset, user_id, attempts, retryInMs, more } of read.rows) {
        if (user_id === null) {
          ends.set(partition, [...(ends.get(partition) ?? []), { id: Number(job_id), more: more === true }]);
          continue;
        }
        const row = {
          partition,
          id: Number(job_id),
          dataset,
          userKey: user_id,
          attempts,
          retryInMs: Math.min(retryInMs ?? 0, this.#limits.retryAfterMaxMs),
        };
        const known = rows.get(partition);
        if (known) known.push(row);
        else rows.set(partition, [row]);
      }
      apply(rows, ends);
    } finally {
      lanes.reading = false;
    }
  }
}

/** How far a read has looked in one dataset of a partition. */
interface End {
  readonly id: number;
  readonly more: boolean;
}

/** Up to which id everything was looked at. */
function endOf(ends: readonly End[]): { upTo: number; more: boolean } {
  const cut = ends.filter(({ more }) => more);
  return cut.length > 0
    ? { upTo: Math.min(...cut.map(({ id }) => id)), more: true }
    : { upTo: Math.max(0, ...ends.map(({ id }) => id)), more: false };
}

const rtDatasets = (datasets: readonly Dataset[]): number[] =>
  datasets.filter(({ prefix }) => prefix === 'rt').map(({ dataset }) => dataset);
const isOpen = (entered: EnteredPartitions, { place }: Lane): boolean => entered.get(place.partition)?.state === 'open';
const isWritable = (entered: EnteredPartitions, lane: Lane): boolean =>
  isOpen(entered, lane) || entered.get(lane.place.partition)?.state === 'paused';
/** The status column is a smallint. */
const attemptOf = (job: Job): number => Math.min(job.attempts + 1, 32_767);
const withoutResponse = (result: Result): Result => ({ ...result, outcome: { ...result.outcome, response: '' } });
