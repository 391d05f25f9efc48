/** Two nodes' databases with a steward each and a ring in memory, for tests of moves: what processes and delivers is a stand-in, everything else is real. */
import type pg from 'pg';
import { pino } from 'pino';
import type { MoveCommand, NodeControl } from '../../dataplane/contract.ts';
import type { CopyJob } from '../../jobsdb/copy.ts';
import { createPool } from '../../jobsdb/pool.ts';
import type { Prefix } from '../../jobsdb/sql/schema.ts';
import { openSession } from '../../node/session.ts';
import { Steward, type StewardDeps } from '../../node/steward.ts';
import type { NodeSession, NodeWork } from '../../node/work.ts';
import type { RingCommand } from '../../ring/decide.ts';
import { moveOf, type Ring } from '../../ring/ring.ts';
import { createMemoryRingStore } from '../../ringstore/memory.ts';
import { decideAndAppend, type RingStore, readRing } from '../../ringstore/ringstore.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { until } from '../support/wait.ts';

export const CLUSTER = 'test';
export const WORKSPACE = 'ws-1';

export interface TestNode {
  readonly name: string;
  readonly database: TestDatabase;
  readonly session: NodeSession;
  readonly steward: Steward;
  readonly work: RecordingWork;
  readonly pool: pg.Pool;
}

/** Remembers what the steward asked; `busy` keeps `idle` waiting. */
export class RecordingWork implements NodeWork {
  readonly calls: string[] = [];
  busy: Promise<void> = Promise.resolve();
  opened(partitions: readonly number[]): void {
    this.calls.push(`opened ${partitions.join(',')}`);
  }
  stop(partitions: readonly number[]): void {
    if (partitions.length > 0) this.calls.push(`stop ${partitions.join(',')}`);
  }
  async idle(_partitions: readonly number[], signal: AbortSignal): Promise<void> {
    await Promise.race([
      this.busy,
      new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
    ]);
  }
  waitingFor(): string[] {
    return ['slow-destination'];
  }
  lastStarts(): { partition: number; at: number }[] {
    return [];
  }
}

export interface Fixture {
  readonly store: RingStore;
  readonly a: TestNode;
  readonly b: TestNode;
  ring(): Promise<Ring>;
  append(command: RingCommand, clusterId?: string): Promise<Ring>;
  /** Starts and claims a move; the command carries its token. */
  begin(move: string, from: TestNode, to: TestNode, partitions: number[]): Promise<MoveCommand>;
  claim(move: string, attempt: string): Promise<MoveCommand>;
  copyJob(command: MoveCommand, from: TestNode, to: TestNode, chunkRowsMax?: number): Promise<CopyJob>;
  /** A second process of the node on the same database. */
  restart(node: TestNode): Promise<TestNode>;
  /** The same database as a node of another cluster. */
  elsewhere(node: TestNode, clusterId: string): Promise<TestNode>;
  close(): Promise<void>;
}

const log = pino({ level: process.env['TEST_LOG'] ?? 'silent' });
let attempts = 0;

export interface FixtureOptions extends Pick<StewardDeps, 'putAwayRows' | 'adoptRows'> {
  /** Names of the two nodes. Default: a and b. */
  readonly names?: readonly [a: string, b: string];
  /** Default: on the run's server. */
  readonly makeDatabase?: (node: 'a' | 'b') => Promise<TestDatabase>;
}

export async function createFixture(
  partitionCount = 4,
  { names = ['a', 'b'], makeDatabase = createTestDatabase, ...options }: FixtureOptions = {},
): Promise<Fixture> {
  const store = createMemoryRingStore();
  const nodes: TestNode[] = [];
  async function startNode(name: string, database: TestDatabase, clusterId = CLUSTER): Promise<TestNode> {
    const session = await openSession({ node: name, clusterId, databaseUrl: database.url });
    const work = new RecordingWork();
    const steward = new Steward({ session, ringStore: store, work, log, workspaceId: WORKSPACE, ...options });
    const node = {
      name,
      database,
      session,
      steward,
      work,
      pool: createPool({ connectionString: database.url, application_name: 'test' }),
    };
    nodes.push(node);
    void steward.start();
    return node;
  }
  const [a, b] = await Promise.all([
    makeDatabase('a').then((db) => startNode(names[0], db)),
    makeDatabase('b').then((db) => startNode(names[1], db)),
  ]);
  const by = { actor: 'test', reason: 'test', operation: 'op' };
  const append = async (command: RingCommand, clusterId = CLUSTER): Promise<Ring> =>
    (await decideAndAppend(store, clusterId, command, by)).ring;
  const facts = (node: TestNode) => ({
    node: node.name,
    databaseId: node.session.databaseId,
    url: `http://${node.name}`,
  });
  await append({ type: 'make ring', clusterId: CLUSTER, partitionCount, nodes: [facts(a), facts(b)] });
  await append({ type: 'freeze', by: { operationId: 'op', workflowId: 'w', runId: 'r' } });
  await until(
    async () => (await a.steward.status()).partitions.open > 0 && (await b.steward.status()).partitions.open > 0,
    { deadlineMs: 10_000, what: 'both nodes serve' },
  );

  const claim = async (move: string, attempt: string): Promise<MoveCommand> => {
    const open = moveOf(await append({ type: 'claim move', holder: 1, move, attempt }), move)!;
    return { move, token: open.token, partitions: open.partitions };
  };
  return {
    store,
    a,
    b,
    ring: () => readRing(store, CLUSTER),
    append,
    claim,
    async begin(move, from, to, partitions) {
      await append({ type: 'start move', holder: 1, move, from: from.name, to: to.name, partitions });
      attempts += 1;
      return claim(move, `attempt-${attempts}`);
    },
    async copyJob(command, from, to, chunkRowsMax) {
      const prepared = await (to.steward as NodeControl).prepare(command);
      return {
        source: from.pool,
        target: to.pool,
        move: command.move,
        token: command.token,
        partitions: command.partitions,
        datasets: prepared.datasets.map(({ prefix, dataset }) => ({ prefix: prefix as Prefix, dataset })),
        ...(chunkRowsMax ? { chunkRowsMax } : {}),
      };
    },
    async restart(node) {
      await node.steward.stop();
      return startNode(node.name, node.database);
    },
    async elsewhere(node, clusterId) {
      await node.steward.stop();
      return startNode(node.name, node.database, clusterId);
    },
    async close() {
      await Promise.all(nodes.map((node) => node.steward.stop()));
      await Promise.all(nodes.flatMap((node) => [node.session.pool.end(), node.pool.end()]));
      await Promise.all([a.database.drop(), b.database.drop()]);
      await store.close();
    },
  };
}

export interface JobSpec {
  readonly partition: number;
  readonly user?: string;
  readonly prefix?: Prefix;
  readonly payload?: unknown;
  /** Status rows, in order. */
  readonly states?: readonly string[];
}

/** Writes jobs as a node would, in the newest dataset of its own; returns their ids. */
export async function addJobs(client: pg.ClientBase | pg.Pool, jobs: readonly JobSpec[]): Promise<number[]> {
  const ids: number[] = [];
  for (const {
    partition,
    user = `user-${partition}`,
    prefix = 'gw',
    payload = { n: ids.length },
    states = [],
  } of jobs) {
    const added = await client.query<{ job_id: string }>(
      `INSERT INTO public.${prefix}_jobs_1 (workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
       VALUES ($1, gen_random_uuid(), $2, $3, '{}', 'GW', $4) RETURNING job_id`,
      [WORKSPACE, user, `${WORKSPACE}-${partition}`, JSON.stringify(payload)],
    );
    const id = Number(added.rows[0]!.job_id);
    ids.push(id);
    for (const state of states) await addStatus(client, id, state, prefix);
  }
  return ids;
}

export async function addStatus(
  client: pg.ClientBase | pg.Pool,
  jobId: number,
  state: string,
  prefix: Prefix = 'gw',
  attempt = 1,
): Promise<void> {
  await client.query(
    `INSERT INTO public.${prefix}_job_status_1 (job_id, job_state, attempt, exec_time) VALUES ($1, $2, $3, now())`,
    [jobId, state, attempt],
  );
}

/** What a node would process or deliver: payload numbers of the pending jobs in attached datasets, in the order of ids. */
export async function pendingAt(
  node: TestNode,
  partition: number,
  prefix: Prefix = 'gw',
): Promise<{ n: number; user: string; state: string | null; attempt: number | null }[]> {
  const datasets = await node.pool.query<{ dataset: number }>(
    'SELECT dataset FROM ringmaster.datasets WHERE attached AND prefix = $1',
    [prefix],
  );
  const rows: { id: number; n: number; user: string; state: string | null; attempt: number | null }[] = [];
  for (const { dataset } of datasets.rows) {
    const found = await node.pool.query(
      `SELECT j.job_id::int AS id, (j.event_payload->>'n')::int AS n, j.user_id AS user, s.job_state AS state, s.attempt
       FROM public.${prefix}_jobs_${dataset} j
       LEFT JOIN LATERAL (SELECT * FROM public.${prefix}_job_status_${dataset} t WHERE t.job_id = j.job_id ORDER BY t.id DESC LIMIT 1) s ON true
       WHERE j.partition_id = $1 AND (s.job_state IS NULL OR s.job_state NOT IN ('succeeded', 'aborted', 'filtered', 'migrated'))`,
      [`${WORKSPACE}-${partition}`],
    );
    rows.push(...found.rows);
  }
  return rows.sort((x, y) => x.id - y.id).map(({ id: _, ...rest }) => rest);
}
