/**
 * Later passes: new jobs and new statuses since the former marks, all in one transaction at the target. Small, and clients may be waiting for the last one: each
 * question is one round trip, and nothing is copied that the first answer says is not there.
 */
import type pg from 'pg';
import { CodedError } from '../kit/errors.ts';
import type { CopyJob, PassResult } from './copy.ts';
import { copyDiffers } from './copy-first.ts';
import { type Marks, type Pass, rangesOf, type Sums, type Taken } from './copy-marks.ts';
import { inImport, stream } from './copy-stream.ts';
import * as sql from './sql/copy.ts';

/** Of one prefix, between two marks. */
export interface Window {
  readonly prefix: string;
  readonly dataset: number;
  readonly sources: readonly sql.DeltaSource[];
  readonly delta: sql.Delta;
}

/**
 * What lies between the marks of `base` and `marks`, of the prefixes of which the source has given any id since. `taken`: how far it has, when `marks` were taken.
 * `attached`: its datasets, read when `marks` had settled; one that marks do not know is newer than they are. `everything`: statuses without a bound, as the
 * source writes none of these partitions any more.
 */
export function windowsBetween(
  job: CopyJob,
  base: readonly Pass[],
  marks: Marks,
  taken: Taken,
  attached: ReadonlyMap<string, number[]>,
  everything: boolean,
): Window[] {
  const from = base.at(-1)!.marks;
  return job.datasets.flatMap(({ prefix, dataset }) => {
    const { upTo, constant, statusUpTo } = marks.prefixes[prefix]!;
    const before = from.prefixes[prefix]!;
    const sources = attached.get(prefix)!.map((number) => ({
      prefix,
      dataset: number,
      statusAfter: before.statusUpTo[number] ?? 0,
      statusUpTo: everything ? null : (statusUpTo[number] ?? 0),
      hasJobs: taken.jobs[prefix]! > before.upTo && !taken.imports[prefix]?.includes(number),
      hasStatuses: (taken.statuses[prefix]?.[number] ?? Number.POSITIVE_INFINITY) > (before.statusUpTo[number] ?? 0),
    }));
    // Each dataset in a statement costs its planning, and a node may have many that nobody writes to any more.
    if (!sources.some(({ hasJobs, hasStatuses }) => hasJobs || hasStatuses)) return [];
    const window = {
      prefix,
      dataset,
      sources,
      delta: {
        partitions: job.partitions,
        range: { after: before.upTo, upTo, constant },
        earlier: rangesOf(base, prefix),
      },
    };
    return [window];
  });
}

/** How the pending set changes in these windows, from the source's tables. */
export async function digestWindows(source: pg.ClientBase, windows: readonly Window[]): Promise<sql.DeltaDigest[]> {
  if (windows.length === 0) return [];
  const selects = windows.map(({ prefix, sources, delta }) => sql.digestDeltaOut(prefix, sources, delta));
  return (await source.query<sql.DeltaDigest>(selects.join('\nUNION ALL '))).rows;
}

/** `sums` as they are after these changes. */
export function addChanges(sums: Sums, changes: readonly sql.DeltaDigest[]): Sums {
  return Object.fromEntries(
    Object.entries(sums).map(([prefix, { pending, digest }]) => {
      const change = changes.find((row) => row.prefix === prefix);
      return [
        prefix,
        {
          pending: pending + Number(change?.pending ?? 0),
          digest: (BigInt(digest) + BigInt(change?.state_digest ?? 0)).toString(),
        },
      ];
    }),
  );
}

/** Copies what lies in `windows`, behind the passes `earlier`, and writes down that `pass` is done. Throws COPY_DIFFERS, STALE_TOKEN. */
export async function copyLater(
  job: CopyJob,
  { source, target }: { source: pg.ClientBase; target: pg.ClientBase },
  pass: Pass,
  earlier: readonly Pass[],
  windows: readonly Window[],
): Promise<{ result: PassResult; sums: Sums }> {
  const idsAfter = earlier.at(-1)!.marks.messageIdsUpTo;
  // Asked while the target begins its transaction: in the hold every round trip counts.
  const asking = Promise.all([
    digestWindows(source, windows),
    source.query<{ count: string }>(sql.countMessageIds(job.partitions, idsAfter)),
  ]);
  asking.catch(() => undefined); // told below, unless the target fails first
  return inImport(job, target, async (client) => {
    const [changes, counted] = await asking;
    const sent = windows.map((window) => ({ window, of: changes.find(({ prefix }) => prefix === window.prefix)! }));
    const some = sent.filter(({ of }) => of.jobs !== '0' || of.changes !== '0');
    const messageIds = Number(counted.rows[0]!.count);
    const sums = addChanges(earlier.at(-1)!.sums!, changes);
    for (const { window, of } of some) {
      const { prefix, dataset, sources, delta } = window;
      if (of.jobs !== '0')
        await stream(source, sql.copyNewJobsOut(sources, delta), client, sql.copyJobsIn(prefix, dataset), job);
      if (of.new_statuses !== '0' || of.changes !== '0')
        await stream(source, sql.copyNewStatusesOut(sources, delta), client, sql.copyIncomingStatusesIn(prefix), job);
    }
    if (messageIds > 0)
      await stream(source, sql.copyMessageIdsOut(job.partitions, idsAfter), client, sql.copyMessageIdsIn, job);
    const came = await takeAll(
      client,
      some.map(({ window }) => window),
      messageIds > 0,
    );
    for (const [nth, { window, of }] of some.entries()) assertSame(job, window, of, came[nth]!);
    if (some.some(({ of }) => of.jobs !== '0'))
      await client.query(
        `INSERT INTO ringmaster.import_chunks (move, prefix, pass, after_id, up_to_id, row_count, digest, state_digest)
       SELECT $1, c.prefix, $2, c.after_id, c.up_to_id, c.row_count, c.digest, c.state_digest
       FROM jsonb_to_recordset($3::jsonb) AS c (prefix text, after_id bigint, up_to_id bigint, row_count bigint, digest numeric, state_digest numeric)`,
        [
          job.move,
          pass.pass,
          JSON.stringify(
            some
              .filter(({ of }) => of.jobs !== '0')
              .map(({ window: { prefix, delta }, of }) => ({
                prefix,
                after_id: delta.range.after,
                up_to_id: delta.range.upTo,
                row_count: of.jobs,
                digest: of.digest,
                state_digest: of.state_digest,
              })),
          ),
        ],
      );
    await finishPass(client, job, pass, sums);
    const total = (count: (of: sql.DeltaDigest) => number): number => sent.reduce((sum, { of }) => sum + count(of), 0);
    return {
      sums,
      result: {
        pass: pass.pass,
        jobs: total((of) => Number(of.jobs)),
        statuses: total((of) => Number(of.new_statuses) + Number(of.changes)),
        messageIds,
      },
    };
  });
}

/** Pipelined: each statement is sent without waiting for the one before. */
async function takeAll(
  client: pg.ClientBase,
  windows: readonly Window[],
  messageIds: boolean,
): Promise<sql.DeltaDigest[]> {
  const statements = [
    ...windows.map(({ prefix, dataset, delta }) => sql.takeDeltaIn(prefix, dataset, delta)),
    ...(messageIds ? [sql.takeMessageIds] : []),
  ];
  if (statements.length === 0) return [];
  const taken = (await client.query(statements.join(';\n'))) as unknown as pg.QueryResult<sql.DeltaDigest>;
  const results = statements.length === 1 ? [taken] : (taken as unknown as pg.QueryResult<sql.DeltaDigest>[]);
  return results.slice(0, windows.length).map(({ rows }) => rows[0]!);
}

/** The statement that marks a pass as done, with its marks as they were read: in the transaction that brings its last rows. */
export async function finishPass(
  client: pg.ClientBase,
  job: CopyJob,
  { pass, marks }: Pass,
  sums: Sums,
): Promise<void> {
  const done = await client.query(
    'UPDATE ringmaster.import_passes SET done = true, marks = $3, sums = $4 WHERE move = $1 AND pass = $2',
    [job.move, pass, JSON.stringify(marks), JSON.stringify(sums)],
  );
  if (done.rowCount !== 1)
    throw new CodedError('STALE_TOKEN', `the import of ${job.move} has no pass ${pass} any more`);
}

function assertSame(job: CopyJob, { prefix, delta }: Window, sent: sql.DeltaDigest, came: sql.DeltaDigest): void {
  for (const field of ['jobs', 'new_statuses', 'changes', 'digest', 'pending', 'state_digest'] as const) {
    if (sent[field] !== came[field]) throw copyDiffers(job, prefix, delta.range, field, sent[field], came[field]);
  }
}
