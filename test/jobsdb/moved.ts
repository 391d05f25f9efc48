/** A real move between the fixture's two nodes, up to its hand-over and what both nodes then do by themselves; and damage done to it. */
import { withCopy } from '../../jobsdb/copy.ts';
import type { MoveProof } from '../../ring/events.ts';
import { until } from '../support/wait.ts';
import type { Fixture, TestNode } from './move-fixture.ts';

/** Runs it; `between` runs after the first pass, so that a second has something to bring. Not completed: that takes a certificate. */
export async function handOverMove(
  f: Fixture,
  move: string,
  from: TestNode,
  to: TestNode,
  partitions: number[],
  between: () => Promise<unknown> = async () => undefined,
  waitSettled = true,
): Promise<MoveProof> {
  const command = await f.begin(move, from, to, partitions);
  const job = await f.copyJob(command, from, to);
  const proof = await withCopy(job, async (copy) => {
    await copy.pass();
    await between();
    await from.steward.quiesce({ ...command, limitMs: 1_000 });
    await copy.pass();
    await copy.reserve();
    await from.steward.fence({ ...command, holdDeadlineMs: 5_000 });
    await copy.pass({ fenced: true });
    const proven = await copy.verify();
    await f.append({ type: 'hand over', move, token: command.token, proof: proven });
    return proven;
  });
  if (!waitSettled) return proof;
  const { version } = await f.ring();
  const settled = async (node: TestNode): Promise<boolean> => (await node.steward.status()).settledVersion >= version;
  await until(async () => (await settled(from)) && (await settled(to)), {
    deadlineMs: 5_000,
    what: 'both nodes have folded the hand-over and put away what is stale',
  });
  return proof;
}

/** Name of the table that the move brought to a node. */
export async function importedTable(node: TestNode, move: string, kind: 'jobs' | 'job_status' = 'jobs', prefix = 'gw') {
  const found = await node.pool.query<{ dataset: number }>(
    'SELECT dataset FROM ringmaster.datasets WHERE move = $1 AND prefix = $2',
    [move, prefix],
  );
  return `public.${prefix}_${kind}_${found.rows[0]!.dataset}`;
}

const statements = {
  'one payload byte': (table: string) =>
    `UPDATE ${table} SET event_payload = jsonb_set(event_payload, '{text}', '"hellp"') WHERE event_payload ->> 'n' = '3'`,
  'a dropped row': (table: string) => `DELETE FROM ${table} WHERE event_payload ->> 'n' = '4'`,
  'an added row': (table: string) => `
    INSERT INTO ${table} (job_id, workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
    SELECT (SELECT max(job_id) + 1 FROM ${table}), workspace_id, gen_random_uuid(), user_id, partition_id, parameters, custom_val, event_payload
    FROM ${table} WHERE event_payload ->> 'n' = '6'`,
} as const;
export const damages = [...(Object.keys(statements) as (keyof typeof statements)[]), 'two swapped ids'] as const;
export type Damage = (typeof damages)[number];

/** To jobs whose payload has the numbers 3 to 7, in what the move brought to `node`. */
export async function damage(node: TestNode, move: string, what: Damage): Promise<void> {
  const table = await importedTable(node, move);
  if (what !== 'two swapped ids') {
    const done = await node.pool.query(statements[what](table));
    if (done.rowCount !== 1) throw new Error(`${what}: ${done.rowCount} rows`);
    return;
  }
  const ids = await node.pool.query<{ id: string }>(
    `SELECT job_id::text AS id FROM ${table} WHERE event_payload ->> 'n' IN ('5', '7') ORDER BY job_id`,
  );
  const [a, b] = ids.rows.map(({ id }) => id);
  for (const [from, to] of [
    [a, '-1'],
    [b, a],
    ['-1', b],
  ])
    await node.pool.query(`UPDATE ${table} SET job_id = $2 WHERE job_id = $1`, [from, to]);
}
