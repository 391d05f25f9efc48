/** The limits of a cluster's moves, as people set them: an event of the ring's log, so it shows who changed them, when and why. Pure. */

export interface MoveLimits {
  /** Bytes of rows that one move may stream in a second; null: no limit. */
  readonly bytesPerSecond: number | null;
  /** `on`: a move slows down by itself where it hurts live traffic. */
  readonly brake: 'on' | 'off';
  /** Threshold of the brake: p90 of how long a node's intake takes to commit, in milliseconds. */
  readonly commitMsMax: number;
  /** Threshold of the brake: how long jobs wait at a node that could be worked on at once, in milliseconds. */
  readonly queueDelayMsMax: number;
  /** How many moves of one operation may go from or to one node at a time. */
  readonly movesPerNode: number;
}
export type LimitName = keyof MoveLimits;

/**
 * A commit of a node that has room takes 2 to 10 ms, one beside an unbraked copy on the same disk about twice that; clients see no trouble below a tenth of a
 * second. A job that could go is on its way within some tens of milliseconds; a second and more means that work comes in faster than it is done.
 */
export const DEFAULT_LIMITS: MoveLimits = {
  bytesPerSecond: null,
  brake: 'on',
  commitMsMax: 50,
  queueDelayMsMax: 1_000,
  movesPerNode: 1,
};

/** `default`: as if it had never been set. */
export type LimitsChange = { readonly [Name in LimitName]?: MoveLimits[Name] | 'default' };

/** The slowest move that may be asked for: below it a move of a few gigabytes would take longer than any attempt may. */
export const BYTES_PER_SECOND_MIN = 100_000;
export const BYTES_PER_SECOND_MAX = 1_000_000_000_000;
export const COMMIT_MS_MAX = 60_000;
export const QUEUE_DELAY_MS_MAX = 3_600_000;
export const MOVES_PER_NODE_MAX = 16;

/** What is wrong with `change`, naming field and range; null where nothing is. */
export function troubleOf(change: LimitsChange): string | null {
  for (const [name, value] of Object.entries(change)) {
    const check = CHECKS[name as LimitName];
    if (!check) return `there is no limit ${name}: ${Object.keys(CHECKS).join(', ')}`;
    if (value === 'default' || value === undefined || check.isGood(value)) continue;
    return `${name} must be ${check.range}, or default, not ${JSON.stringify(value)}`;
  }
  return null;
}

const whole = (from: number, to: number) => ({
  range: `a whole number from ${from} to ${to}`,
  isGood: (value: unknown): boolean => Number.isSafeInteger(value) && Number(value) >= from && Number(value) <= to,
});
const rate = whole(BYTES_PER_SECOND_MIN, BYTES_PER_SECOND_MAX);

const CHECKS: { readonly [Name in LimitName]: { readonly range: string; isGood(value: unknown): boolean } } = {
  bytesPerSecond: {
    range: `${rate.range}, or null for none`,
    isGood: (value) => value === null || rate.isGood(value),
  },
  brake: { range: 'on or off', isGood: (value) => value === 'on' || value === 'off' },
  commitMsMax: whole(1, COMMIT_MS_MAX),
  queueDelayMsMax: whole(10, QUEUE_DELAY_MS_MAX),
  movesPerNode: whole(1, MOVES_PER_NODE_MAX),
};
export const limitNames = Object.keys(CHECKS) as readonly LimitName[];

/** The limits of a ring, and which of them somebody has set: the version of the event that did. */
export interface LimitsSet {
  readonly values: MoveLimits;
  readonly setAt: { readonly [Name in LimitName]?: number };
}
export const noLimitsSet: LimitsSet = { values: DEFAULT_LIMITS, setAt: {} };

/** What of `change` would change anything. */
export function effectiveChange({ values, setAt }: LimitsSet, change: LimitsChange): LimitsChange {
  const changes = limitNames.flatMap((name) => {
    const value = change[name];
    const isDone =
      value === 'default' ? setAt[name] === undefined : setAt[name] !== undefined && values[name] === value;
    return value === undefined || isDone ? [] : [[name, value]];
  });
  return Object.fromEntries(changes) as LimitsChange;
}

/** After an event at `version`. Fields that this code does not know come from a newer one, and are left alone. */
export function withChange({ values, setAt }: LimitsSet, change: LimitsChange, version: number): LimitsSet {
  const next = { values: { ...values } as Record<LimitName, unknown>, setAt: { ...setAt } as Record<string, number> };
  for (const name of limitNames) {
    const value = change[name];
    if (value === undefined) continue;
    if (value === 'default') {
      next.values[name] = DEFAULT_LIMITS[name];
      delete next.setAt[name];
    } else {
      next.values[name] = value;
      next.setAt[name] = version;
    }
  }
  return next as unknown as LimitsSet;
}
