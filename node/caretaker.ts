/**
 * Stands in for a node whose backend is gone while its PostgreSQL is there: the node's own steward, on the node's own database, with nobody who takes in,
 * processes or delivers. So a move can quiesce and fence by the same rows and functions as at a node that lives, and what was moved away is put away.
 * Holds: from its start on the process that was the node writes nothing more (its instance number is over, and its sessions are ended); one that wakes up finds that
 * out and ends itself, one that is started again takes over in turn, and then this one writes nothing more.
 */
import { countUnadoptedJobs } from '../jobsdb/adopt.ts';
import { createPool } from '../jobsdb/pool.ts';
import { endNodeSessions, selectNode } from '../jobsdb/sql/partitions.ts';
import { CodedError } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import type { RingStore } from '../ringstore/ringstore.ts';
import { openSession } from './session.ts';
import { Steward } from './steward.ts';
import type { NodeSession, NodeWork } from './work.ts';

/** The steward's turns, a count, and one to spare. */
const CONNECTIONS_MAX = 3;

export interface CaretakerOptions {
  readonly node: string;
  readonly clusterId: string;
  readonly databaseUrl: string;
  readonly ringStore: RingStore;
  readonly log: Logger;
}

export interface Caretaker {
  readonly steward: Steward;
  /** False once another process has become the node. */
  isCurrent(): Promise<boolean>;
  close(): Promise<void>;
}

/** Throws NODE_NOT_ADOPTED where the database has jobs without a partition, which only the node itself can tell; anything else is weather. */
export async function openCaretaker(options: CaretakerOptions): Promise<Caretaker> {
  const { node, clusterId, databaseUrl, ringStore, log } = options;
  await endSessions(databaseUrl);
  const session = await openSession({ node, clusterId, databaseUrl, connectionsMax: CONNECTIONS_MAX });
  try {
    await assertAdopted(session);
    const steward = new Steward({ session, ringStore, work: nobodyAtWork, log, workspaceId: '' });
    await steward.start();
    log.warn({ node, instance: session.instance }, 'the backend is gone: a caretaker keeps its partitions');
    return {
      steward,
      isCurrent: async () => (await instanceOf(session)) === session.instance,
      async close() {
        await steward.stop();
        await session.pool.end();
      },
    };
  } catch (error) {
    await session.pool.end();
    throw error;
  }
}

/** A backend that hangs may have left a transaction open, for which a new instance number would wait. What it had not committed was never answered. */
async function endSessions(databaseUrl: string): Promise<void> {
  const pool = createPool({ connectionString: databaseUrl, application_name: 'ringmaster caretaker', max: 1 });
  try {
    await pool.query(endNodeSessions);
  } finally {
    await pool.end();
  }
}

async function assertAdopted(session: NodeSession): Promise<void> {
  const client = await session.pool.connect();
  try {
    const unadopted = await countUnadoptedJobs(client);
    if (unadopted === 0) return;
    throw new CodedError(
      'NODE_NOT_ADOPTED',
      `${session.node} has ${unadopted} jobs without a partition, and its backend, which alone can adopt them, is gone: start it once`,
      { node: session.node, unadopted },
    );
  } finally {
    client.release();
  }
}

async function instanceOf({ pool }: NodeSession): Promise<number> {
  return Number((await pool.query<{ instance: string }>(selectNode)).rows[0]!.instance);
}

const nobodyAtWork: NodeWork = {
  opened() {},
  stop() {},
  idle: async () => undefined,
  waitingFor: () => [],
  lastStarts: () => [],
};
