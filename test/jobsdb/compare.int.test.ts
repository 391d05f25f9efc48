/**
 * Goal: row by row, whatever differs of what a move took along is found and named; what is no longer on both sides is told and not called verified.
 * Method: real moves between two real databases, damaged at the target, compared range by range.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { certify } from '../../jobsdb/certificate.ts';
import {
  type CompareCursor,
  type CompareStep,
  compareStep,
  type Difference,
  noDifferences,
} from '../../jobsdb/compare.ts';
import type { CertifiedTable, MoveProof } from '../../ring/events.ts';
import { addJobs, addStatus, createFixture, type Fixture } from './move-fixture.ts';
import { damage, handOverMove, importedTable } from './moved.ts';

const MOVE = 'op/move-1.1';
let f: Fixture;
beforeEach(async () => {
  f = await createFixture();
});
afterEach(() => f.close());

const jobs = (partition: number, from: number, to: number, more = {}) =>
  Array.from({ length: to - from }, (_, i) => ({
    partition,
    user: `user-${partition}-${(from + i) % 2}`,
    payload: { n: from + i, text: 'hello' },
    ...more,
  }));

async function moveSome(): Promise<{ proof: MoveProof; certified: CertifiedTable[] }> {
  const ids = await addJobs(f.a.pool, jobs(0, 0, 12));
  await addStatus(f.a.pool, ids[3]!, 'failed');
  await addJobs(f.a.pool, jobs(1, 20, 23));
  await addJobs(f.a.pool, jobs(1, 0, 2, { prefix: 'rt' }));
  const proof = await handOverMove(f, MOVE, f.a, f.b, [0, 1], async () => {
    await addJobs(f.a.pool, jobs(0, 12, 14));
    await addStatus(f.a.pool, ids[0]!, 'succeeded');
  });
  const sides = { source: f.a.pool, target: f.b.pool, move: MOVE, partitions: [0, 1] };
  return { proof, certified: await certify({ ...sides, proof }) };
}

async function compare(certified: CertifiedTable[] | null, samplesMax = 10) {
  const total = {
    compared: 0,
    gone: 0,
    counts: noDifferences,
    samples: [] as Difference[],
    goneBecause: null as string | null,
  };
  let cursor: CompareCursor | null = null;
  do {
    const job = { source: f.a.pool, target: f.b.pool, move: MOVE, partitions: [0, 1], certified, samplesMax };
    const step: CompareStep = await compareStep(job, JSON.parse(JSON.stringify(cursor)) as CompareCursor | null);
    total.compared += step.compared;
    total.gone += step.gone;
    total.goneBecause ??= step.goneBecause;
    total.samples.push(...step.samples);
    total.counts = Object.fromEntries(
      Object.entries(total.counts).map(([kind, n]) => [kind, n + step.counts[kind as keyof typeof step.counts]]),
    ) as typeof noDifferences;
    cursor = step.cursor;
  } while (cursor);
  return total;
}
const only = (some: Partial<typeof noDifferences>) => ({ ...noDifferences, ...some });
/** The nth job of the move's first pass has this id at the source, and another at the target. */
const idsOf = async (n: number): Promise<{ idAtSource: number; idAtTarget: number }> => {
  const idIn = async (pool: typeof f.a.pool, table: string) =>
    Number(
      (await pool.query(`SELECT job_id FROM ${table} WHERE event_payload ->> 'n' = $1`, [String(n)])).rows[0].job_id,
    );
  return {
    idAtSource: await idIn(f.a.pool, 'public.gw_jobs_1'),
    idAtTarget: await idIn(f.b.pool, await importedTable(f.b, MOVE)),
  };
};

describe('what a move took along, row by row', () => {
  test('is the same on both sides, also after the target has worked on it and took in more', async () => {
    const { certified } = await moveSome();
    await f.b.pool.query(
      `INSERT INTO ${await importedTable(f.b, MOVE, 'job_status')} (job_id, job_state, attempt) SELECT job_id, 'succeeded', 1 FROM ${await importedTable(f.b, MOVE)}`,
    );
    await addJobs(f.b.pool, jobs(0, 90, 95));
    expect(await compare(certified)).toEqual({
      compared: 18,
      gone: 0,
      goneBecause: null,
      counts: noDifferences,
      samples: [],
    });
  });

  test('one payload byte: the job is named, with the column', async () => {
    const { certified } = await moveSome();
    const ids = await idsOf(3);
    await damage(f.b, MOVE, 'one payload byte');
    const { counts, samples } = await compare(certified);
    expect(counts).toEqual(only({ differs: 1 }));
    const where = { move: MOVE, prefix: 'gw', tableAtSource: 'gw_jobs_1', tableAtTarget: 'gw_jobs_2', partition: 0 };
    expect(samples).toEqual([{ ...where, ...ids, kind: 'differs', columns: ['event_payload'] }]);
    expect(JSON.stringify(samples)).not.toContain('hell'); // no payload
  });

  test('a dropped row', async () => {
    const { certified } = await moveSome();
    const { idAtSource } = await idsOf(4);
    await damage(f.b, MOVE, 'a dropped row');
    const { counts, samples } = await compare(certified);
    expect(counts).toEqual(only({ missing: 1 }));
    expect(samples).toMatchObject([{ kind: 'missing', idAtSource, idAtTarget: null, partition: 0 }]);
  });

  test('two swapped ids', async () => {
    const { certified } = await moveSome();
    const [five, seven] = [await idsOf(5), await idsOf(7)];
    await damage(f.b, MOVE, 'two swapped ids');
    const { counts, samples } = await compare(certified);
    expect(counts).toEqual(only({ 'changed places': 2 }));
    expect(samples).toMatchObject([
      { kind: 'changed places', ...five },
      { kind: 'changed places', ...seven },
    ]);
  });

  test('an added row, inside of what the copy has mapped or outside', async () => {
    const { certified } = await moveSome();
    await damage(f.b, MOVE, 'an added row');
    const table = await importedTable(f.b, MOVE);
    await f.b.pool.query(
      `INSERT INTO ${table} (job_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
       SELECT job_id - 100000, gen_random_uuid(), user_id, partition_id, parameters, custom_val, event_payload FROM ${table} WHERE event_payload ->> 'n' = '6' LIMIT 1`,
    );
    const { counts, samples } = await compare(certified);
    expect(counts).toEqual(only({ added: 2 }));
    expect(samples.map(({ kind, partition, tableAtTarget }) => [kind, partition, tableAtTarget])).toEqual([
      ['added', 0, 'gw_jobs_2'],
      ['added', 0, 'gw_jobs_2'],
    ]);
    expect(samples.map(({ idAtSource }) => idAtSource)).toContain(null);
  });

  test('many at once: all are counted, a few are named', async () => {
    const { certified } = await moveSome();
    await f.b.pool.query(`UPDATE ${await importedTable(f.b, MOVE)} SET custom_val = 'other', user_id = user_id || '!'`);
    const { counts, samples } = await compare(certified, 4);
    expect(counts).toEqual(only({ differs: 16 }));
    expect(samples.map(({ columns }) => columns)).toEqual(Array(4).fill(['user_id', 'custom_val']));
  });

  test('rows that the source has deleted since are told, and are no difference while the target is as it was certified', async () => {
    const { certified } = await moveSome();
    await f.a.pool.query("DELETE FROM public.gw_jobs_1 WHERE event_payload ->> 'n' IN ('2', '3', '4')");
    expect(await compare(certified)).toMatchObject({
      counts: noDifferences,
      gone: 3,
      goneBecause: expect.stringContaining('deleted'),
    });
    await f.b.pool.query(
      `UPDATE ${await importedTable(f.b, MOVE)} SET custom_val = 'other' WHERE event_payload ->> 'n' = '3'`,
    );
    expect(await compare(certified)).toMatchObject({ counts: only({ added: 3 }), gone: 0 });
    expect(await compare(null)).toMatchObject({ counts: only({ added: 3 }), gone: 0 });
  });

  test('a dataset that is gone at the target is told as well', async () => {
    const { certified } = await moveSome();
    await f.b.pool.query("DELETE FROM ringmaster.datasets WHERE move = $1 AND prefix = 'gw'", [MOVE]);
    expect(await compare(certified)).toMatchObject({
      compared: 2,
      counts: noDifferences,
      gone: 16,
      goneBecause: expect.stringContaining('gone'),
    });
  });

  test('so is a ledger that is gone before its datasets: nothing is called added or missing for that', async () => {
    const { certified } = await moveSome();
    await f.b.pool.query('DELETE FROM ringmaster.imports WHERE move = $1', [MOVE]);
    expect(await compare(certified)).toEqual({
      compared: 0,
      counts: noDifferences,
      samples: [],
      gone: 18,
      goneBecause: expect.stringContaining('ledger'),
    });
  });

  test('goes on by ranges, also over long gaps between ids', async () => {
    await addJobs(f.a.pool, jobs(0, 0, 3));
    await f.a.pool.query("SELECT setval('ringmaster.gw_job_id', 5000000)");
    await addJobs(f.a.pool, jobs(0, 3, 6));
    const proof = await handOverMove(f, MOVE, f.a, f.b, [0, 1]);
    const certified = await certify({ source: f.a.pool, target: f.b.pool, move: MOVE, partitions: [0, 1], proof });
    await damage(f.b, MOVE, 'a dropped row');
    expect(await compare(certified)).toMatchObject({ compared: 6, counts: only({ missing: 1 }) });
  });
});
