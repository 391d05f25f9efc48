/**
 * Room on the target's disk, before a move fills it: a server that runs out of it ends, with all that its users wait for.
 *
 * The need is an estimate, from what the source knows without reading the rows:
 *   jobs       unfinished ones of the moved partitions, counted, times (the mean width of the newest ones of each partition, as stored, and ROW_BYTES)
 *   statuses   STATUS_BYTES for each of those jobs, as if each had been tried
 *   messageIds of the moved partitions, counted, times MESSAGE_ID_BYTES
 *   WAL        all of that once more, up to the target's `max_wal_size`: a checkpoint then takes it away
 */
import type pg from 'pg';
import { CodedError, codeOf } from '../kit/errors.ts';
import type { PartitionIndex } from '../ring/partition.ts';
import * as sql from './sql/room.ts';
import { attachedDatasets, partitionIdsByDataset } from './stale.ts';

/** What a job row takes beside its columns: its header, alignment, and its entries in two indexes. Measured: 100 to 140 bytes. */
const ROW_BYTES = 140;
/** A status row with its entries in two indexes. */
const STATUS_BYTES = 250;
/** One of the window, with its entries in three indexes. */
const MESSAGE_ID_BYTES = 250;
/** Rows that are looked at for the mean width. */
const SAMPLE_ROWS = 1_000;
/** What stays free of the target's volume: live traffic goes on while jobs arrive, and a full disk ends the server. */
const ROOM_RESERVE = 0.1;

/** The volume that a node's PostgreSQL keeps its data on, in bytes. `freeBytes`: null where only its size is known. */
export interface Volume {
  readonly totalBytes: number;
  readonly freeBytes: number | null;
}

export interface RoomQuestion {
  readonly source: pg.ClientBase;
  readonly target: pg.ClientBase;
  /** The target's name, for the message. */
  readonly node: string;
  readonly move: string;
  readonly partitions: readonly PartitionIndex[];
  readonly volume: Volume;
}

/**
 * Throws NODE_DISK_FULL, with the numbers, where the move would leave less than the reserve. A move that has rows at the target already has been asked: what
 * it still needs is less, and is not known.
 */
export async function assertRoom(question: RoomQuestion): Promise<void> {
  const { source, target, node, move, partitions, volume } = question;
  if ((await target.query<{ has: boolean }>(sql.selectHasChunks, [move])).rows[0]!.has) return;
  const free = volume.freeBytes ?? volume.totalBytes - (await usedBytes(target));
  const need = await needBytes(source, target, partitions);
  const reserve = volume.totalBytes * ROOM_RESERVE;
  if (need <= 0 || free - need >= reserve) return;
  throw new CodedError(
    'NODE_DISK_FULL',
    `${node} has ${inWords(free)} free of ${inWords(volume.totalBytes)}, the move needs about ${inWords(need)} and ${inWords(reserve)} stay free: add room or move fewer partitions`,
    { node, freeBytes: free, totalBytes: volume.totalBytes, needBytes: need, reserveBytes: reserve },
  );
}

/** The estimate above, in bytes; 0 where nothing is to be moved. */
export async function needBytes(
  source: pg.ClientBase,
  target: pg.ClientBase,
  partitions: readonly PartitionIndex[],
): Promise<number> {
  const datasets = await partitionIdsByDataset(source, await attachedDatasets(source), new Set(partitions));
  let bytes = 0;
  for (const { prefix, dataset, partitionIds } of datasets) {
    if (partitionIds.length === 0) continue;
    const jobs = await numberOf(source, sql.countUnfinished(prefix, dataset, partitionIds), 'count');
    if (jobs === 0) continue;
    const each = Math.ceil(SAMPLE_ROWS / partitionIds.length);
    const width = await numberOf(source, sql.sampleWidth(prefix, dataset, partitionIds, each), 'bytes');
    bytes += jobs * (width + ROW_BYTES + STATUS_BYTES);
  }
  const messageIds = await source.query<{ count: string }>(sql.countMessageIds, [partitions]);
  bytes += Number(messageIds.rows[0]!.count) * MESSAGE_ID_BYTES;
  if (bytes === 0) return 0;
  return bytes + Math.min(bytes, await numberOf(target, sql.selectMaxWalBytes, 'bytes'));
}

/** What the server has on its volume, as far as our role may see: without the right to look at its WAL, as much as that may grow to. */
async function usedBytes(target: pg.ClientBase): Promise<number> {
  const databases = await numberOf(target, sql.selectDatabaseBytes, 'bytes');
  const wal = await numberOf(target, sql.selectWalBytes, 'bytes').catch((error: unknown) => {
    if (codeOf(error) !== '42501') throw error;
    return numberOf(target, sql.selectMaxWalBytes, 'bytes');
  });
  return databases + wal;
}

async function numberOf<K extends string>(client: pg.ClientBase, statement: string, column: K): Promise<number> {
  return Number((await client.query<Record<K, string>>(statement)).rows[0]![column]);
}

/** As people write it: 1.2 GB, 340 MB. */
function inWords(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let value = Math.max(0, bytes);
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1_000;
    unit += 1;
  }
  return `${unit === 0 || value >= 99.5 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}
