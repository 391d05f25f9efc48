/**
 * Goal: a certificate says what a move took along, and there is none where the two sides are not the same.
 * Method: real moves between two real databases; what came to the target is then damaged.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { certify } from '../../jobsdb/certificate.ts';
import type { CodedError } from '../../kit/errors.ts';
import type { CertifiedTable, MoveProof } from '../../ring/events.ts';
import { addJobs, addStatus, createFixture, type Fixture, type TestNode } from './move-fixture.ts';
import { damage, damages, handOverMove, importedTable } from './moved.ts';

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
const certifyMove = (proof: MoveProof, move = MOVE, from = f.a, to = f.b): Promise<CertifiedTable[]> =>
  certify({ source: from.pool, target: to.pool, move, partitions: [0, 1], proof });
const mismatch = async (certifying: Promise<unknown>): Promise<CodedError> => {
  const error = (await certifying.then(
    () => null,
    (reason: unknown) => reason,
  )) as CodedError | null;
  expect(error).toMatchObject({ code: 'CERTIFICATE_MISMATCH' });
  return error!;
};
const tableOf = (tables: readonly CertifiedTable[], prefix: string) => tables.find((table) => table.prefix === prefix)!;
/** 12 jobs of two users in partition 0, one of them in retry, and one in partition 1; two more come during the copy, one is finished meanwhile. */
async function moveSome(): Promise<MoveProof> {
  const ids = await addJobs(f.a.pool, jobs(0, 0, 12));
  await addStatus(f.a.pool, ids[3]!, 'failed');
  await addJobs(f.a.pool, jobs(1, 20, 21));
  await addJobs(f.a.pool, jobs(0, 0, 3, { prefix: 'batch_rt' }));
  return await handOverMove(f, MOVE, f.a, f.b, [0, 1], async () => {
    await addJobs(f.a.pool, jobs(0, 12, 14));
    await addStatus(f.a.pool, ids[0]!, 'succeeded');
  });
}

describe('the certificate of a move', () => {
  test('has counts, checksums and ids of each partition and table, and what the target did since changes nothing', async () => {
    const proof = await moveSome();
    const tables = await certifyMove(proof);
    expect(tables.map(({ prefix, jobs: count }) => [prefix, count])).toEqual([
      ['gw', 14],
      ['rt', 0],
      ['batch_rt', 3],
    ]);
    const [first, second] = tableOf(tables, 'gw').partitions;
    expect(first!.slice(0, 2)).toEqual([0, 13]);
    expect(second!.slice(0, 2)).toEqual([1, 1]);
    expect(first!.slice(4, 6)).toEqual([2, 15]); // job 1 was finished before the hand-over
    expect(first![6]).toBeLessThan(first![7]);

    const statuses = await importedTable(f.b, MOVE, 'job_status');
    await f.b.pool.query(
      `INSERT INTO ${statuses} (job_id, job_state, attempt) SELECT job_id, 'succeeded', 1 FROM ${await importedTable(f.b, MOVE)}`,
    );
    await addJobs(f.b.pool, jobs(0, 90, 95));
    expect(await certifyMove(proof)).toEqual(tables);
  });

  test('covers there and back and there again, each move for itself', async () => {
    await addJobs(f.a.pool, jobs(0, 0, 4));
    const path: [string, TestNode, TestNode][] = [
      ['op/move-1.1', f.a, f.b],
      ['op/move-2.1', f.b, f.a],
      ['op/move-3.1', f.a, f.b],
    ];
    for (const [i, [move, from, to]] of path.entries()) {
      const proof = await handOverMove(f, move, from, to, [0]);
      const tables = await certifyMove(proof, move, from, to);
      expect(tableOf(tables, 'gw').jobs).toBe(4 + 2 * i);
      const { version } = await f.ring();
      const jobsMoved = 4 + 2 * i;
      await f.append({
        type: 'complete move',
        move,
        certificate: {
          form: 1,
          handedOverAt: version,
          epoch: 2,
          times: { started: '', handedOver: '' },
          askedBy: { actor: 'test', reason: '', operation: null },
          jobs: jobsMoved,
          tables,
        },
      });
      await addJobs(to.pool, jobs(0, 10 + 2 * i, 12 + 2 * i));
    }
  });

  test('an empty move is certified as empty', async () => {
    const proof = await handOverMove(f, MOVE, f.a, f.b, [0, 1]);
    expect((await certifyMove(proof)).map(({ jobs: count, digest }) => [count, digest])).toEqual([
      [0, '0'],
      [0, '0'],
      [0, '0'],
    ]);
  });

  test.each(damages)('%s at the target: there is none, and the numbers are told', async (what) => {
    const proof = await moveSome();
    await damage(f.b, MOVE, what);
    const { message, details } = await mismatch(certifyMove(proof));
    expect(message).toMatch(/gw, partition 0: .*\d/);
    expect(details).toMatchObject({ move: MOVE, count: 1 });
  });

  test('two jobs of a user in changed places: also without their ids the order check would tell', async () => {
    const proof = await moveSome();
    const before = tableOf(await certifyMove(proof), 'gw').order;
    // The same change of places on both sides: content and ids agree, and the order is another than it was.
    for (const [node, table] of [
      [f.a, 'public.gw_jobs_1'],
      [f.b, await importedTable(f.b, MOVE)],
    ] as const)
      await node.pool.query(
        `UPDATE ${table} AS x SET uuid = y.uuid FROM ${table} AS y WHERE (x.event_payload ->> 'n', y.event_payload ->> 'n') IN (('5', '7'), ('7', '5'))`,
      );
    expect(tableOf(await certifyMove(proof), 'gw').order).not.toBe(before);
  });

  test('a job that the source never put away: there is none', async () => {
    const proof = await moveSome();
    await f.a.pool.query(
      `DELETE FROM public.gw_job_status_1 WHERE job_state = 'migrated' AND job_id = (SELECT max(job_id) FROM public.gw_jobs_1 WHERE partition_id LIKE '%-0')`,
    );
    expect((await mismatch(certifyMove(proof))).message).toContain(
      '12 jobs put away at the source, 13 pending at the target',
    );
  });

  test('other counts than were proven at the hand-over: there is none', async () => {
    const proof = await moveSome();
    const wrong = { ...proof, prefixes: proof.prefixes.map((some) => ({ ...some, pending: some.pending + 1 })) };
    expect((await mismatch(certifyMove(wrong))).message).toContain('14 jobs on both sides, 15 were proven');
  });
});
