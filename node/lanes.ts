/**
 * What is to be delivered to one destination, remembered in order: a lane for each user, whose jobs go one after the other, many lanes at once.
 * Memory only, no I/O, no promises: `delivery.ts` drives it. Jobs are remembered without their payloads.
 *
 * A lane:  idle ──has a job──▶ ready ──take──▶ marking ──started──▶ in flight ──finish──▶ result ──written──▶ idle | backoff ──timer──▶ ready
 *                                                 └──not started──▶ idle or gone
 *
 * What holds:
 *   L1 of a lane at most one job is between `take` and `written`; the next one is not taken before the result of that one is being written with it;
 *   L2 a lane remembers a prefix of the user's pending jobs above those that are done, without gaps. What did not fit is `spilled` and read again
 *      when there is room, so neither a busy nor a blocked user takes the room of the others;
 *   L3 an opened partition is read from its lowest id; a lane whose job is still in flight from before takes only what lies behind it;
 *   L4 while rows are being read (`reading`) no lane is forgotten: rows read before a job's result was written must find the lane that knows it is done.
 */
import type { PartitionIndex } from '../ring/partition.ts';
import type { Outcome } from './sender.ts';

export interface Job {
  readonly id: number;
  readonly dataset: number;
  /** Attempts that are over. */
  attempts: number;
}

export interface LoadedRow extends Job {
  readonly partition: PartitionIndex;
  readonly userKey: string;
  readonly retryInMs: number;
}

export interface Lane {
  readonly key: string;
  readonly userKey: string;
  /** The partition as it was opened last, once anything was read of it since. */
  place: Place;
  jobs: Job[];
  /** Everything of this user up to it is remembered here or done. */
  lastId: number;
  spilled: boolean;
  /** Between `take` and `written`. */
  active: boolean;
  /** Of `jobs[0]`, not written yet. */
  outcome: Outcome | null;
  /** Stands in the queue of ready lanes. */
  queued: boolean;
  backoff: NodeJS.Timeout | null;
  gone: boolean;
}

/** A partition as this destination reads it. Opening it again makes a new one. */
export interface Place {
  readonly partition: PartitionIndex;
  /** All pending jobs up to it are remembered, spilled or done. */
  after: number;
  /** There may be more above `after`. */
  dirty: boolean;
  jobs: number;
  readonly lanes: Set<Lane>;
  closed: boolean;
}

export interface LaneLimits {
  readonly jobsMax: number;
  readonly partitionJobsMax: number;
  readonly userJobsMax: number;
}

/** In one reading of spilled users. */
const REFILLED_LANES_MAX = 200;

export class Lanes {
  readonly #limits: LaneLimits;
  readonly #onReady: () => void;
  readonly #places = new Map<PartitionIndex, Place>();
  readonly #lanes = new Map<string, Lane>();
  readonly #spilled = new Set<Lane>();
  #ready: Lane[] = [];
  #jobs = 0;
  #reading = false;
  /** Lanes that are kept for `reading` only. */
  #leftovers: Lane[] = [];

  constructor(limits: LaneLimits, onReady: () => void) {
    this.#limits = limits;
    this.#onReady = onReady;
  }

  get jobs(): number {
    return this.#jobs;
  }
  get users(): number {
    return this.#lanes.size;
  }

  // ---- partitions

  opened(partition: PartitionIndex): void {
    this.forget(partition);
    this.#places.set(partition, { partition, after: 0, dirty: true, jobs: 0, lanes: new Set(), closed: false });
  }

  /** All that are open are read from their lowest id again. */
  openedAgain(): void {
    for (const partition of [...this.#places.keys()]) this.opened(partition);
  }

  /** Only what is active stays, and of it only that one job. */
  forget(partition: PartitionIndex): void {
    const place = this.#places.get(partition);
    if (!place) return;
    this.#places.delete(partition);
    place.closed = true;
    for (const lane of place.lanes) {
      if (lane.active) {
        this.#cut(lane, 1);
        this.#setSpilled(lane, false);
      } else this.#remove(lane);
    }
  }

  wake(partition: PartitionIndex): void {
    const place = this.#places.get(partition);
    if (place) place.dirty = true;
  }

  /** Partitions with more to read and room for it: from `after`, at most `room` rows. */
  wanting(): { place: Place; partition: PartitionIndex; after: number; room: number }[] {
    if (this.#jobs > this.#limits.jobsMax / 2) return [];
    return [...this.#places.values()]
      .filter((place) => place.dirty && place.jobs <= this.#limits.partitionJobsMax / 2)
      .map((place) => ({
        place,
        partition: place.partition,
        after: place.after,
        room: this.#limits.partitionJobsMax - place.jobs,
      }));
  }

  /** Some lanes of one partition that were spilled and have room again. Each is to be read from above `after`, up to `place.after`. */
  refillable(): { place: Place; lanes: { lane: Lane; after: number }[] } | null {
    if (this.#jobs > this.#limits.jobsMax / 2) return null;
    let place: Place | null = null;
    const lanes: { lane: Lane; after: number }[] = [];
    for (const lane of this.#spilled) {
      const hasRoom =
        lane.backoff === null && lane.outcome?.state !== 'failed' && lane.jobs.length <= this.#limits.userJobsMax / 2;
      if (!hasRoom || (place !== null && lane.place !== place)) continue;
      place = lane.place;
      lanes.push({ lane, after: lane.lastId });
      if (lanes.length === REFILLED_LANES_MAX) break;
    }
    return place && { place, lanes };
  }

  // ---- loading

  /**
   * Users of whose rows `load` takes none in these places, as what came before did not fit: a read may pass over them. At most `max`; it holds until the next
   * `refill`.
   */
  spilledUsers(places: readonly { readonly place: Place }[], max: number): string[] {
    const users: string[] = [];
    if (this.#spilled.size === 0) return users;
    const wanted = new Set(places.map(({ place }) => place));
    for (const lane of this.#spilled) {
      if (users.length >= max) break;
      if (wanted.has(lane.place)) users.push(lane.userKey);
    }
    return users;
  }

  /** Between reading rows and loading them. */
  set reading(reading: boolean) {
    this.#reading = reading;
    if (reading) return;
    const leftovers = this.#leftovers;
    this.#leftovers = [];
    for (const lane of leftovers) this.#settle(lane);
  }

  /** Ascending rows of one partition. `after`: everything up to it was read. */
  load(place: Place, rows: readonly LoadedRow[], after: number): void {
    if (place.closed) return;
    for (const row of rows) {
      const lane = this.#laneFor(row.userKey, place);
      if (row.id <= lane.lastId) continue;
      // Of one that waits for a retry only that job is remembered, as of one that fails: many blocked users must not fill the memory.
      const isFull = lane.backoff !== null || lane.jobs.length >= this.#limits.userJobsMax;
      if (lane.spilled || isFull) this.#setSpilled(lane, true);
      else this.#push(lane, row);
    }
    place.after = Math.max(place.after, after);
  }

  /** Ascending rows between these lanes' last jobs and `place.after`; `complete`: all of them. */
  refill(
    place: Place,
    lanes: readonly { lane: Lane; after: number }[],
    rows: readonly LoadedRow[],
    complete: boolean,
  ): void {
    if (place.closed) return;
    // A lane that was cut meanwhile, as its job failed, has a gap before these rows: it is read again later.
    const wanted = new Map(
      lanes.filter(({ lane, after }) => !lane.gone && lane.lastId === after).map(({ lane }) => [lane.userKey, lane]),
    );
    for (const row of rows) {
      const lane = wanted.get(row.userKey);
      if (!lane || row.id <= lane.lastId) continue;
      if (lane.jobs.length < this.#limits.userJobsMax) this.#push(lane, row);
      else wanted.delete(row.userKey); // full: the rest stays spilled
    }
    if (!complete) return;
    for (const lane of wanted.values()) {
      this.#setSpilled(lane, false);
      this.#settle(lane);
    }
  }

  #laneFor(userKey: string, place: Place): Lane {
    const key = `${place.partition} ${userKey}`;
    let lane = this.#lanes.get(key);
    if (!lane) {
      lane = {
        key,
        userKey,
        place,
        jobs: [],
        lastId: 0,
        spilled: false,
        active: false,
        outcome: null,
        queued: false,
        backoff: null,
        gone: false,
      };
      this.#lanes.set(key, lane);
      place.lanes.add(lane);
    } else if (lane.place !== place) {
      // Active since before the partition was opened again.
      lane.place.lanes.delete(lane);
      lane.place.jobs -= lane.jobs.length;
      lane.place = place;
      place.lanes.add(lane);
      place.jobs += lane.jobs.length;
    }
    return lane;
  }

  #push(lane: Lane, row: LoadedRow): void {
    const job: Job = { id: row.id, dataset: row.dataset, attempts: row.attempts };
    lane.jobs.push(job);
    lane.lastId = row.id;
    lane.place.jobs += 1;
    this.#jobs += 1;
    if (lane.jobs.length > 1) return;
    if (row.retryInMs > 0) this.#waitFor(lane, row.retryInMs);
    else this.#enqueue(lane);
  }

  // ---- delivering

  /** The next lane whose next job may be marked, with that job; null where none waits. Counts as active from here on. */
  take(): { lane: Lane; job: Job } | null {
    for (let lane = this.#ready.shift(); lane; lane = this.#ready.shift()) {
      lane.queued = false;
      const job = lane.gone ? undefined : nextJob(lane);
      if (!job) continue;
      lane.active = true;
      return { lane, job };
    }
    return null;
  }

  /** Its transaction did not happen: first in the queue again. */
  putBack(lane: Lane): void {
    lane.active = lane.outcome !== null;
    if (lane.gone || (lane.active && lane.place.closed)) return;
    if (lane.place.closed) this.#giveBack(lane, lane.jobs[0]!.id);
    else {
      lane.queued = true;
      this.#ready.unshift(lane);
    }
  }

  /** Marked, and not started, as its partition was forgotten: it is pending in the database, and read again when the partition is opened. */
  notStarted(lane: Lane, job: Job): void {
    if (!lane.gone) this.#giveBack(lane, job.id);
  }

  /** The delivery of its first job is over. The next one may be marked in the transaction that writes this outcome. */
  finish(lane: Lane, outcome: Outcome): void {
    lane.outcome = outcome;
    if (outcome.state !== 'failed' && lane.jobs.length > 1 && !lane.place.closed) this.#enqueue(lane);
  }

  /** The outcome is durable. `taken`: its next job was marked in the same transaction. `retryMs`: of a failed one. */
  written(lane: Lane, taken: boolean, retryMs: number): void {
    if (lane.gone) return;
    const failed = lane.outcome?.state === 'failed';
    lane.outcome = null;
    lane.active = taken;
    if (failed) this.#failed(lane, retryMs);
    else this.#done(lane);
  }

  #done(lane: Lane): void {
    lane.jobs.shift();
    lane.place.jobs -= 1;
    this.#jobs -= 1;
    if (!lane.active && lane.jobs.length > 0) this.#enqueue(lane);
    this.#settle(lane);
  }

  #failed(lane: Lane, retryMs: number): void {
    const head = lane.jobs[0]!;
    if (lane.place.closed) {
      this.#giveBack(lane, head.id);
      return;
    }
    head.attempts += 1;
    // What waits behind it is read again later: many blocked users must not fill the memory.
    if (lane.jobs.length > 1) {
      this.#cut(lane, 1);
      this.#setSpilled(lane, true);
    }
    this.#waitFor(lane, retryMs);
  }

  /** The partition's row says that it is not ours to write: forget the lane. */
  drop(lane: Lane): void {
    this.#remove(lane);
  }

  stop(): void {
    for (const lane of this.#lanes.values()) if (lane.backoff) clearTimeout(lane.backoff);
    this.#ready = [];
  }

  /** Nothing of this lane is remembered but that everything below `firstPending` is done. */
  #giveBack(lane: Lane, firstPending: number): void {
    lane.active = false;
    this.#cut(lane, 0);
    lane.lastId = firstPending - 1;
    this.#settle(lane);
  }

  #settle(lane: Lane): void {
    if (lane.gone || lane.active || lane.spilled || lane.jobs.length > 0) return;
    if (this.#reading) this.#leftovers.push(lane);
    else this.#remove(lane);
  }

  #enqueue(lane: Lane): void {
    if (lane.queued) return;
    lane.queued = true;
    this.#ready.push(lane);
    this.#onReady();
  }

  #waitFor(lane: Lane, ms: number): void {
    lane.backoff = setTimeout(() => {
      lane.backoff = null;
      if (!lane.gone) this.#enqueue(lane);
    }, ms);
  }

  #setSpilled(lane: Lane, spilled: boolean): void {
    lane.spilled = spilled;
    if (spilled) this.#spilled.add(lane);
    else this.#spilled.delete(lane);
  }

  #cut(lane: Lane, length: number): void {
    const cut = lane.jobs.splice(length).length;
    lane.place.jobs -= cut;
    this.#jobs -= cut;
    lane.lastId = lane.jobs.at(-1)?.id ?? lane.lastId;
  }

  #remove(lane: Lane): void {
    if (lane.gone) return;
    lane.gone = true;
    lane.active = false;
    if (lane.backoff) clearTimeout(lane.backoff);
    this.#setSpilled(lane, false);
    this.#cut(lane, 0);
    lane.place.lanes.delete(lane);
    this.#lanes.delete(lane.key);
  }
}

/** Undefined where none may be taken: nothing is there, or what was in flight has not ended for good. */
function nextJob(lane: Lane): Job | undefined {
  if (lane.outcome) return lane.outcome.state === 'failed' ? undefined : lane.jobs[1];
  return lane.jobs[0];
}
