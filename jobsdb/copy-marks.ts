/**
 * Marks: up to which ids a pass reads. Taken, and then waited for: once all transactions that were writing at that moment have ended, nothing at or below a mark
 * changes any more, so what a pass reads is the same for every connection, at any later time.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { CodedError, codeOf } from '../kit/errors.ts';
import type { CopyJob } from './copy.ts';
import * as sql from './sql/copy.ts';
import { jobsTable, statusTable } from './sql/datasets.ts';
import { refusalOfState } from './sql/partitions.ts';
import { attachedDatasets } from './stale.ts';

/** How long a pass waits for transactions that were writing when it took its mark. */
const WRITERS_WAIT_MS_MAX = 60_000;
const WRITERS_POLL_MS = 2;

export interface PrefixMarks {
  readonly after: number;
  readonly upTo: number;
  readonly constant: number;
  /** Source dataset → the highest status id given when the mark was taken. */
  readonly statusUpTo: Readonly<Record<string, number>>;
}
export interface Marks {
  readonly prefixes: Readonly<Record<string, PrefixMarks>>;
  readonly messageIdsUpTo: number;
}
/** The pending set at a pass's marks, of each prefix: how many, and the sum of their states. Equal on both sides, or the pass has not been done. */
export type Sums = Readonly<Record<string, { readonly pending: number; readonly digest: string }>>;

/** As the ledger at the target has it. */
export interface Pass {
  readonly pass: number;
  readonly marks: Marks;
  readonly done: boolean;
  /** Of one that is done. */
  readonly sums: Sums | null;
}

/** How far ids have been given at the source. */
export interface Taken {
  readonly jobs: Readonly<Record<string, number>>;
  readonly statuses: Readonly<Record<string, Readonly<Record<string, number>>>>;
  /** Datasets that came by a move: no new job is ever written to them. */
  readonly imports: Readonly<Record<string, readonly number[]>>;
  readonly messageIds: number;
}

export async function readPasses(target: pg.ClientBase, move: string): Promise<Pass[]> {
  const passes = await target.query<Pass>(
    'SELECT pass, marks, done, sums FROM ringmaster.import_passes WHERE move = $1 ORDER BY pass',
    [move],
  );
  return passes.rows;
}

export async function takeMarks(source: pg.ClientBase, job: CopyJob): Promise<Taken> {
  const taken = await source.query<{ marks: Taken }>(sql.selectMarks, [job.datasets.map(({ prefix }) => prefix)]);
  return taken.rows[0]!.marks;
}

/** As CREATE INDEX CONCURRENTLY does: waits for the transactions that hold a writer's lock now, not for those that come later. */
export async function waitForWriters(source: pg.ClientBase, taken: Taken, signal?: AbortSignal): Promise<void> {
  const datasets = Object.entries(taken.statuses).flatMap(([prefix, of]) =>
    Object.keys(of).map((dataset) => ({ prefix, dataset: Number(dataset) })),
  );
  const relations = [
    'ringmaster.message_ids',
    'ringmaster.message_ids_seq_seq',
    ...Object.keys(taken.jobs).map((prefix) => `ringmaster.${prefix}_job_id`),
    ...datasets.flatMap(({ prefix, dataset }) => [
      jobsTable(prefix, dataset),
      statusTable(prefix, dataset),
      `${statusTable(prefix, dataset).slice(0, -1)}_id_seq"`,
    ]),
  ];
  const writers = async (): Promise<Set<string>> =>
    new Set((await source.query<{ id: string }>(sql.selectWriters(relations))).rows.map((row) => row.id));
  const deadline = performance.now() + WRITERS_WAIT_MS_MAX;
  let left = await writers();
  while (left.size > 0) {
    signal?.throwIfAborted();
    if (performance.now() > deadline)
      throw new Error(`${left.size} transactions at the source have been writing for over ${WRITERS_WAIT_MS_MAX} ms`);
    await delay(WRITERS_POLL_MS);
    const still = await writers();
    left = new Set([...left].filter((id) => still.has(id)));
  }
}

/**
 * Reserves blocks of ids at the target and writes down the pass: a transaction of its own, as it stops the target's intake for as long as it is open.
 * `afterFirst`: of the first pass, the ids at the source that it begins behind. Throws STALE_TOKEN.
 */
export async function beginPass(
  target: pg.ClientBase,
  job: CopyJob,
  earlier: readonly Pass[],
  taken: Taken,
  afterFirst: Readonly<Record<string, number>> = {},
): Promise<Pass> {
  const last = earlier.at(-1)?.marks;
  const spans: Record<string, Omit<PrefixMarks, 'constant'>> = {};
  for (const { prefix } of job.datasets) {
    const upTo = taken.jobs[prefix]!;
    const after = last ? last.prefixes[prefix]!.upTo : Math.min(afterFirst[prefix] ?? upTo, upTo);
    spans[prefix] = { after, upTo, statusUpTo: taken.statuses[prefix] ?? {} };
  }
  const pass = (earlier.at(-1)?.pass ?? 0) + 1;
  const begun = await target
    .query<{ marks: Marks }>('SELECT ringmaster.begin_pass($1, $2, $3, $4, $5) AS marks', [
      job.move,
      job.token,
      pass,
      JSON.stringify(spans),
      taken.messageIds,
    ])
    .catch(refuseByState);
  return { pass, marks: begun.rows[0]!.marks, done: false, sums: null };
}

function refuseByState(error: unknown): never {
  const code = refusalOfState[codeOf(error) ?? ''];
  if (code === undefined) throw error;
  throw new CodedError(code, (error as Error).message, {}, { cause: error });
}

/**
 * The marks of a pass that was begun before, as they are now: its block of ids was reserved ahead, and ids in it that the source has not given yet are the next
 * pass's. `everything`: the source is fenced, and gives none of these any more.
 */
export function marksNow({ marks }: Pass, taken: Taken, everything: boolean): Marks {
  const prefixes = Object.entries(marks.prefixes).map(([prefix, begun]) => {
    const upTo = everything ? begun.upTo : Math.max(begun.after, Math.min(begun.upTo, taken.jobs[prefix]!));
    return [prefix, { ...begun, upTo, statusUpTo: taken.statuses[prefix] ?? {} }];
  });
  return { prefixes: Object.fromEntries(prefixes), messageIdsUpTo: taken.messageIds };
}

/** Where the jobs of these passes lie, by ids. */
export function rangesOf(passes: readonly Pass[], prefix: string): sql.IdRange[] {
  return passes.map(({ marks }) => {
    const { after, upTo, constant } = marks.prefixes[prefix]!;
    return { after, upTo, constant };
  });
}

/**
 * The source's datasets of each prefix as they are now. Throws SOURCE_DATASET_GONE where one that `known` marks name is there no more: what became of its jobs
 * could not be told.
 */
export async function sourceDatasets(
  source: pg.ClientBase,
  job: CopyJob,
  known: Marks | undefined,
): Promise<ReadonlyMap<string, number[]>> {
  const attached = await attachedDatasets(source);
  return checked(job, known, (prefix) => attached.filter((one) => one.prefix === prefix).map(({ dataset }) => dataset));
}

/** As `sourceDatasets`, but as they were when these marks were taken. */
export const datasetsOf = (job: CopyJob, taken: Taken, known: Marks): ReadonlyMap<string, number[]> =>
  checked(job, known, (prefix) => Object.keys(taken.statuses[prefix] ?? {}).map(Number));

function checked(
  job: CopyJob,
  known: Marks | undefined,
  attached: (prefix: string) => number[],
): ReadonlyMap<string, number[]> {
  const datasets = new Map<string, number[]>(job.datasets.map(({ prefix }) => [prefix, attached(prefix)]));
  for (const [prefix, { statusUpTo }] of Object.entries(known?.prefixes ?? {})) {
    for (const dataset of Object.keys(statusUpTo).map(Number)) {
      if (datasets.get(prefix)?.includes(dataset)) continue;
      const message = `${job.move}: ${prefix}_jobs_${dataset} was dropped at the source while it was being copied`;
      throw new CodedError('SOURCE_DATASET_GONE', message, { prefix, dataset });
    }
  }
  return datasets;
}
