/**
 * What the steward (who keeps the partitions' states) asks of the node's working parts (who process and deliver), and the other way round.
 */

import type { Pool } from 'pg';
import type { Dataset } from '../jobsdb/sql/datasets.ts';
import type { PartitionIndex } from '../ring/partition.ts';
import type { Ring } from '../ring/ring.ts';

/** One process of the node: its right to write is its instance number, checked in every transaction. */
export interface NodeSession {
  readonly node: string;
  readonly clusterId: string;
  readonly databaseId: string;
  readonly instance: number;
  readonly pool: Pool;
  /** A pool of one connection, which stays open: for what clients in a hold wait for. Who asks for it ends it. */
  reserve(): Pool;
}

/** The processor and the deliverer, as the steward sees them. All that is remembered here is a hint: the partition's row in PostgreSQL decides. */
export interface NodeWork {
  /** These may be processed and delivered from now on: read afresh from their lowest id. The list of datasets may have changed. */
  opened(partitions: readonly PartitionIndex[]): void;
  /** Start nothing more of these; what is in flight finishes and its results are written. What is remembered of them is forgotten. */
  stop(partitions: readonly PartitionIndex[]): void;
  /** Resolves when nothing of these is in flight: no delivery runs, no result is unwritten. Call after `stop`. */
  idle(partitions: readonly PartitionIndex[], signal: AbortSignal): Promise<void>;
  /** Destinations (names, without secrets) that these partitions' deliveries in flight wait for. */
  waitingFor(partitions: readonly PartitionIndex[]): string[];
  /** When processing or delivery last started, in `now()` milliseconds; partitions that never did are left out. */
  lastStarts(partitions: readonly PartitionIndex[]): { partition: PartitionIndex; at: number }[];
}

/** What the working parts ask of the steward. */
export interface NodeTopology {
  /** The ring as this node has folded it and made durable. */
  ring(): Ring;
  /** Datasets to read jobs from, of all prefixes, in ascending order; the last one without a move is where new jobs go. */
  datasets(): readonly Dataset[];
}
