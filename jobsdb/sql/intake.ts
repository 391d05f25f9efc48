/** What the intake writes. Each of these runs inside a transaction that `beginEntered` has begun. */
import { jobsTable } from './datasets.ts';

const integers = (numbers: readonly number[]): string => {
  if (!numbers.every(Number.isSafeInteger)) throw new Error('not integers');
  return numbers.join(', ');
};

/** Begins, takes the shared locks of `partitions`, gives each one's state. RM001 in a process that is no longer the node. */
export const beginEntered = (instance: number, partitions: readonly number[]): string =>
  `BEGIN; SELECT partition, state, move FROM ringmaster.enter(${integers([instance])}, ARRAY[${integers(partitions)}]::integer[])`;

/** As `beginEntered`, but waits for every transaction that is inside these partitions: also for one whose connection was lost at its COMMIT. */
export const beginAlone = (instance: number, partitions: readonly number[]): string =>
  `BEGIN; SELECT partition, state, move FROM ringmaster.enter_alone(${integers([instance])}, ARRAY[${integers(partitions)}]::integer[])`;

/**
 * Stores the events whose messageIds are new to the window, as one job each; its row count is theirs.
 * `$1` partitions, `$2` messageIds, `$3` user ids, `$4` source ids, `$5` payloads, `$6` workspace, `$7` received at (ISO 8601).
 * (partition, messageId) must be distinct within the arrays. Ids follow the arrays' order: defaults are computed above the ORDER BY.
 */
export const insertEvents = (dataset: number): string => `
  WITH input AS MATERIALIZED (
    SELECT * FROM unnest($1::integer[], $2::text[], $3::text[], $4::text[], $5::text[])
      WITH ORDINALITY AS u (partition, message_id, user_id, source_id, payload, ord)
  ), fresh AS (
    INSERT INTO ringmaster.message_ids (partition, message_id)
    SELECT partition, message_id FROM input ORDER BY ord
    ON CONFLICT DO NOTHING RETURNING partition, message_id
  )
  INSERT INTO ${jobsTable('gw', dataset)} (workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
  SELECT $6::text, gen_random_uuid(), input.user_id, $6::text || '-' || input.partition,
    jsonb_build_object('source_id', input.source_id, 'message_id', input.message_id, 'received_at', $7::text), 'GW', input.payload::jsonb
  FROM input JOIN fresh USING (partition, message_id)
  ORDER BY input.ord`;

/** Forgets at most `$2` messageIds that are older than `$1` milliseconds. SKIP LOCKED: never in the way of a transaction that is at them. */
export const pruneMessageIds = `
  DELETE FROM ringmaster.message_ids AS m USING (
    SELECT partition, message_id FROM ringmaster.message_ids
    WHERE received_at < now() - $1::double precision * interval '1 millisecond'
    ORDER BY received_at LIMIT $2 FOR UPDATE SKIP LOCKED
  ) AS old
  WHERE m.partition = old.partition AND m.message_id = old.message_id`;

/** How many partitions this database knows: the ring's count, once the log was folded here. */
export const countPartitions = 'SELECT count(*)::integer AS count FROM ringmaster.partitions';
