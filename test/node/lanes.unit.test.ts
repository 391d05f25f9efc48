/**
 * Goal: whatever the order of loads, results, retries, stops and openings, each user's jobs start in order, none starts after it is done, none is forgotten.
 * Method: a table of jobs, as simple as can be, is delivered through `Lanes` by a driver that takes random steps; reads see the table as it was when they began.
 */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type Job, type Lane, Lanes, type LoadedRow, type Place } from '../../node/lanes.ts';
import { seeded } from './support.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

interface TableRow {
  readonly id: number;
  readonly partition: number;
  readonly userKey: string;
  attempts: number;
  done: boolean;
  /** Before its first attempt here: it waits for a retry from an earlier life. */
  readonly waitMs: number;
}
const outcome = (state: 'succeeded' | 'failed' | 'aborted') => ({ state, code: '', response: '', retryAfterMs: 0 });

function run(seed: number): void {
  const random = seeded(seed);
  const chance = (p: number): boolean => random() < p;
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)]!;
  const table: TableRow[] = [];
  const lanes = new Lanes({ jobsMax: 30, partitionJobsMax: 12, userJobsMax: 4 }, () => {});
  const open = new Map<number, boolean>();
  const inFlight: { lane: Lane; job: Job }[] = [];
  const started = new Map<string, number>();
  let reading: (() => void) | null = null;
  const users = Array.from({ length: 7 }, (_, n) => ({ userKey: `u${n}`, partition: n % 3 }));
  let results: { lane: Lane; job: Job; state: 'succeeded' | 'failed' | 'aborted' }[] = [];

  const rowsOf = (partition: number, above: number, holds: (row: TableRow) => boolean): LoadedRow[] =>
    table
      .filter((row) => row.partition === partition && row.id > above && !row.done && holds(row))
      .map((row) => ({ ...row, dataset: 1, retryInMs: row.attempts === 0 ? row.waitMs : 0 }));
  const steps: Record<string, () => void> = {
    insert: () => {
      if (table.length >= 150) return;
      const user = chance(0.4) ? users[0]! : pick(users);
      table.push({ id: table.length + 1, ...user, attempts: 0, done: false, waitMs: chance(0.2) ? 6 : 0 });
      lanes.wake(user.partition);
    },
    open: () => {
      const partition = Math.floor(random() * 3);
      open.set(partition, true);
      lanes.opened(partition);
    },
    forget: () => {
      if (!chance(0.3)) return;
      const partition = Math.floor(random() * 3);
      open.set(partition, false);
      lanes.forget(partition);
    },
    read: () => {
      if (reading) return;
      const wanting = lanes.wanting();
      const refillable = lanes.refillable();
      if (wanting.length > 0 && chance(0.6)) {
        const limit = Math.min(3, ...wanting.map(({ room }) => room));
        for (const { place } of wanting) place.dirty = false;
        // As `delivery.ts` does: users that are spilled are passed over, and only so many rows looked at.
        const passed = new Set(lanes.spilledUsers(wanting, chance(0.5) ? 100 : 1));
        const read = wanting.map(({ place, partition, after }): [Place, LoadedRow[], number, boolean] => {
          const ids = table.filter((row) => row.partition === partition && row.id > after).map(({ id }) => id);
          const upTo = passed.size > 0 ? (ids.slice(0, 5).at(-1) ?? after) : Number.POSITIVE_INFINITY;
          const rows = rowsOf(partition, after, (row) => row.id <= upTo && !passed.has(row.userKey)).slice(0, limit);
          const isCut = rows.length === limit;
          const end = isCut || passed.size === 0 ? (rows.at(-1)?.id ?? after) : upTo;
          return [place, rows, end, isCut || (passed.size > 0 && ids.length > 5)];
        });
        lanes.reading = true;
        reading = () => {
          for (const [place, rows, end, more] of read) {
            lanes.load(place, rows, end);
            if (more) place.dirty = true;
          }
        };
      } else if (refillable) {
        const { place, lanes: wanted } = refillable;
        const names = new Set(wanted.map(({ lane }) => lane.userKey));
        const upTo = place.after;
        const from = Math.min(...wanted.map(({ after }) => after));
        const rows = rowsOf(place.partition, from, (row) => names.has(row.userKey) && row.id <= upTo).slice(0, 3);
        lanes.reading = true;
        reading = () => lanes.refill(place, wanted, rows, rows.length < 3);
      }
    },
    endRead: () => {
      reading?.();
      reading = null;
      lanes.reading = false;
    },
    end: () => {
      if (inFlight.length === 0) return;
      const [ended] = inFlight.splice(Math.floor(random() * inFlight.length), 1);
      const state = chance(0.25) ? 'failed' : chance(0.1) ? 'aborted' : 'succeeded';
      lanes.finish(ended!.lane, outcome(state));
      results.push({ ...ended!, state });
    },
    round: () => {
      const mine = results;
      results = [];
      const heads: { lane: Lane; job: Job }[] = [];
      while (heads.length + inFlight.length < 4 && chance(0.9)) {
        const head = lanes.take();
        if (head) heads.push(head);
      }
      if (chance(0.15)) {
        results.unshift(...mine);
        for (const { lane } of heads.reverse()) lanes.putBack(lane);
        return;
      }
      while (chance(0.4)) steps[pick(['forget', 'open', 'read', 'endRead'])]!(); // while the transaction runs
      const taken = new Set(heads.map(({ lane }) => lane));
      for (const { lane, job, state } of mine) {
        const row = table[job.id - 1]!;
        row.done = state !== 'failed';
        row.attempts += 1;
        lanes.written(lane, taken.has(lane), 1 + Math.floor(random() * 5));
      }
      for (const { lane, job } of heads) {
        if (lane.gone || lane.place.closed) {
          lanes.notStarted(lane, job);
          continue;
        }
        const row = table[job.id - 1]!;
        const what = `seed ${seed}: job ${job.id} of ${row.userKey}`;
        expect(row.done, `${what} starts after it was done`).toBe(false);
        expect(
          inFlight.some((other) => other.lane.userKey === row.userKey),
          `${what} starts beside another`,
        ).toBe(false);
        const before = table.find((other) => other.userKey === row.userKey && other.id < row.id && !other.done);
        expect(before?.id, `${what} starts before its turn`).toBeUndefined();
        expect(open.get(row.partition), `${what} starts in a stopped partition`).toBe(true);
        started.set(row.userKey, job.id);
        inFlight.push({ lane, job });
      }
    },
    time: () => void vi.advanceTimersByTime(2),
  };
  const names = Object.keys(steps);
  for (let step = 0; step < 1_500; step += 1) steps[pick(names)]!();
  for (let partition = 0; partition < 3; partition += 1) {
    if (open.get(partition)) continue;
    open.set(partition, true);
    lanes.opened(partition);
  }
  for (let step = 0; step < 20_000 && table.some((row) => !row.done); step += 1)
    steps[pick(['read', 'endRead', 'end', 'round', 'time'])]!();
  expect(
    table.filter((row) => !row.done).map((row) => row.id),
    `seed ${seed}: never delivered`,
  ).toEqual([]);
  steps['endRead']!();
  for (let i = 0; i < 3; i += 1) steps['round']!();
  expect(lanes.jobs, `seed ${seed}: remembered without need`).toBe(0);
  lanes.stop();
}

test('random steps keep order, repeat nothing and forget nothing', () => {
  for (let seed = 1; seed <= 200; seed += 1) run(seed);
});
