/**
 * What users feel of a cut-over, by how much is pending in the partitions that move. The embedded stack; half of the ring goes from node-0 to node-1 and back,
 * under traffic through the router, to a destination that answers in 5 ms. The backlog is written straight into the source's tables: jobs of other users that
 * wait for a retry, so they are pending, go along with every move, and stay. Backlogs are measured in ascending order, each on top of the last.
 * Every event of the traffic is checked as in the demo; the pauses are computed as in its report.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, Connection } from '@temporalio/client';
import pg from 'pg';
import { checkDelivery } from '../dev/checker/checker.ts';
import { drain } from '../dev/demo/drain.ts';
import { readLog } from '../dev/demo/logs.ts';
import { watchOperation } from '../dev/demo/operations.ts';
import { type LogLine, type Pauses, pausesOf } from '../dev/demo/report.ts';
import type { Stack } from '../dev/stack.ts';
import { seededRandom } from '../dev/traffic/random.ts';
import type { EventSource } from '../dev/traffic/source.ts';
import type { Traffic } from '../dev/traffic/traffic.ts';
import { jobsTable, statusTable } from '../jobsdb/sql/datasets.ts';
import { DEFAULT_SETTINGS } from '../platform/local/postgres-server.ts';
import { databaseUrl } from '../platform/platform.ts';
import { type PartitionIndex, partitionOf, userKeyOf } from '../ring/partition.ts';
import { scaleWorkflowId } from '../workflows/messages.ts';
import { type BenchStack, withStack } from './stack.ts';

/**
 * From one node to two and back the same half moves: the planner takes the highest partitions, and a removed node gives all that it has. Few, so that there
 * is always work in each: a delivery pause begins with a partition's last start, and where none was due it would seem longer than it is.
 */
export const PARTITIONS = 8;
export const MOVED = Array.from({ length: PARTITIONS / 2 }, (_, n) => PARTITIONS / 2 + n);
const SOURCE = 'node-0';
/** The stack's own (dev/stack.ts). */
const WORKSPACE = 'demo';
const DESTINATION = 'demo';
const DESTINATION_MS = 5;
const USERS_PER_PARTITION = 40;
/** Of the events, so many are of users whose partitions move: a hold without a request in it is no sample. */
const MOVED_SHARE = 0.75;
/** The backlog's users in each partition. Those with more than one job have them one behind the other, as a destination that is down makes them. */
const WAITING_USERS_PER_PARTITION = 100;
const FILL_ROWS = 100_000;
const SEED = 1;
/** Traffic before the first operation at each backlog: connections are open then, statements prepared, the fill's pages written. */
const WARM_UP_MS = 5_000;
const BETWEEN_MOVES_MS = 1_000;
/** Fewer holds with a request in them say little of a p99. */
const SAMPLES_MIN = 20;

export interface PauseOptions {
  /** Ascending. */
  readonly backlogs: readonly number[];
  /** Even: there and back. */
  readonly moves: number;
  readonly rate: number;
}

export interface PauseRun extends Pauses {
  readonly pending: number;
  /** What the moves took along on average, traffic's own jobs included. */
  readonly jobsMoved: number;
  /** Medians of the parts of the cut-overs. */
  readonly lapsMs: Readonly<Record<string, number>>;
}

export interface PauseReport {
  readonly runs: readonly PauseRun[];
  /** p99 at the largest backlog to p99 at the smallest. */
  readonly deliveryPauseRatio?: number;
  readonly verdict: string;
  readonly events: object;
  readonly partitions: number;
  readonly partitionsMoved: number;
  readonly rate: number;
  readonly moves: number;
  readonly destinationMs: number;
  readonly settings: Readonly<Record<string, string | number>>;
  readonly rowBytes: number;
  readonly missing?: string;
}

export function benchPause(options: PauseOptions): Promise<PauseReport> {
  const wanted = { bench: 'pause', nodes: 1, partitions: PARTITIONS, destinationMs: DESTINATION_MS };
  return withStack(wanted, (bench) => {
    const traffic = bench.startTraffic({ source: spreadSource(), rate: options.rate, seed: SEED });
    return measure({ ...bench, traffic }, options);
  });
}

interface Bench extends BenchStack {
  readonly traffic: Traffic;
}

async function measure(bench: Bench, { backlogs, moves, rate }: PauseOptions): Promise<PauseReport> {
  const { stack, sink, traffic, signal } = bench;
  const settings: PauseReport['settings'] = { ...DEFAULT_SETTINGS, fsync: 'on', synchronous_commit: 'on' };
  say(
    `pinned: ${PARTITIONS} partitions of which ${MOVED.length} move at once, ${rate} events a second, a destination of ${DESTINATION_MS} ms, shared_buffers=${settings['shared_buffers']} fsync=on synchronous_commit=on`,
  );
  const connection = await Connection.connect({ address: stack.temporal.address });
  const client = new Client({ connection });
  const done: { pending: number; operations: Set<string>; jobsMoved: number[] }[] = [];
  let rowBytes = 0;
  const slow: string[] = [];
  try {
    let filled = 0;
    for (const pending of backlogs) {
      say(`${pending} pending: filling …`);
      rowBytes = await fill(stack, pending - filled, signal);
      filled = pending;
      await sleep(WARM_UP_MS, null, { signal });
      const run = { pending, operations: new Set<string>(), jobsMoved: [] as number[] };
      done.push(run);
      for (let n = 0; n < moves; n += 1) {
        const { operationId, jobsMoved } = await scale(client, stack, n % 2 === 0 ? 2 : 1, signal);
        run.operations.add(operationId);
        run.jobsMoved.push(jobsMoved);
        if (jobsMoved < pending) throw new Error(`${jobsMoved} jobs were moved, ${pending} are pending at least`);
        const { nodes, routers } = await logsOf(stack);
        const { holdMs, deliveryPauseMs } = pausesOf({ nodes, routers }, (move) => move.startsWith(`${operationId}/`));
        say(
          `  move ${n + 1} of ${moves}: ${jobsMoved} jobs, hold ${holdMs.max ?? '-'} ms at most (${holdMs.samples} partitions), delivery pause ${deliveryPauseMs.max ?? '-'} ms`,
        );
        if (traffic.queued > rate)
          slow.push(`${traffic.queued} events were waiting for the router at ${pending} pending`);
        await sleep(BETWEEN_MOVES_MS, null, { signal });
      }
    }
  } finally {
    await connection.close();
  }
  say('traffic stops; waiting for what is still to be delivered …');
  await traffic.stop();
  await drain(traffic, sink, signal, () => undefined);
  const check = checkDelivery({ sent: traffic.sent, received: await sink.deliveries(), faults: [], waitEnded: true });
  if (check.verdict !== 'valid')
    throw new Error(`the events are ${check.verdict}: ${JSON.stringify({ ...check.events, ...check.samples })}`);
  const logs = await logsOf(stack);
  const runs = done.map(({ pending, operations, jobsMoved }): PauseRun => {
    const counts = (move: string): boolean => operations.has(move.split('/')[0]!);
    return {
      pending,
      ...pausesOf(logs, counts),
      jobsMoved: Math.round(jobsMoved.reduce((sum, jobs) => sum + jobs, 0) / jobsMoved.length),
      lapsMs: lapsOf(logs, counts),
    };
  });
  const missing = [
    ...runs
      .filter(({ holdMs }) => holdMs.samples < SAMPLES_MIN)
      .map(({ pending, holdMs }) => `only ${holdMs.samples} holds had a request in them at ${pending} pending`),
    ...slow.slice(-1),
  ].join('; ');
  if (missing) say(missing);
  for (const run of runs) say(lineOf(run));
  const [first, last] = [runs[0]!.deliveryPauseMs.p99, runs.at(-1)!.deliveryPauseMs.p99];
  return {
    runs,
    ...(first && last ? { deliveryPauseRatio: Math.round((last / first) * 100) / 100 } : {}),
    verdict: check.verdict,
    events: check.events,
    partitions: PARTITIONS,
    partitionsMoved: MOVED.length,
    rate,
    moves,
    destinationMs: DESTINATION_MS,
    settings,
    rowBytes,
    ...(missing ? { missing } : {}),
  };
}

/** One move of half the ring. The node that leaves takes its volume along: each time there is a new one, with nothing in its tables. */
export async function scale(
  client: Client,
  stack: Stack,
  targetNodes: number,
  signal: AbortSignal,
): Promise<{ operationId: string; jobsMoved: number }> {
  const handle = await client.workflow.start('ScaleCluster', {
    taskQueue: 'ringmaster',
    workflowId: scaleWorkflowId(stack.clusterId),
    args: [
      {
        clusterId: stack.clusterId,
        targetNodes,
        reason: 'bench',
        partitionsPerMoveMax: MOVED.length,
        deleteVolumes: true,
      },
    ],
  });
  const operationId = handle.firstExecutionRunId;
  const outcome = await watchOperation(stack.api, stack.clusterId, operationId, {
    signal,
    onProgress: () => undefined,
  });
  if (outcome.state !== 'completed' || outcome.partitionsMoved !== MOVED.length)
    throw new Error(`operation ${operationId} ended as ${outcome.state}, ${outcome.partitionsMoved} partitions moved`);
  return { operationId, jobsMoved: outcome.jobsMoved };
}

// ---- the backlog

/** `rt` jobs that wait for a retry, the partitions' in turn, each of about 0.5 kB. Returns the bytes of a row. */
export async function fill(stack: Stack, rows: number, signal: AbortSignal, node = SOURCE): Promise<number> {
  const endpoints = await stack.platform.describeNode(node);
  const client = new pg.Client({ connectionString: databaseUrl(endpoints!.database), application_name: 'bench' });
  await client.connect();
  const abort = (): void => void client.end().catch(() => undefined);
  signal.addEventListener('abort', abort, { once: true });
  try {
    const { rows: found } = await client.query<{ dataset: number }>(
      `SELECT max(dataset) AS dataset FROM ringmaster.datasets WHERE prefix = 'rt' AND move IS NULL`,
    );
    const { dataset } = found[0]!;
    for (let at = 0; at < rows; at += FILL_ROWS) {
      signal.throwIfAborted();
      await client.query(insertWaiting(dataset), [at, Math.min(at + FILL_ROWS, rows) - 1]);
    }
    await client.query('VACUUM (ANALYZE)');
    await client.query('CHECKPOINT');
    const size = await client.query<{ bytes: number }>(
      `SELECT avg(pg_column_size(j.*))::integer AS bytes FROM (SELECT * FROM ${jobsTable('rt', dataset)} WHERE user_id LIKE '%waiting-%' LIMIT 1000) AS j`,
    );
    return size.rows[0]!.bytes;
  } finally {
    signal.removeEventListener('abort', abort);
    await client.end();
  }
}

/** `$1` to `$2`: numbers of the rows, which say whose they are. */
const insertWaiting = (dataset: number): string => `
  WITH made AS (
    INSERT INTO ${jobsTable('rt', dataset)} (workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
    SELECT '${WORKSPACE}', gen_random_uuid(), '<<>><<>>waiting-' || (i / ${MOVED.length}) % ${WAITING_USERS_PER_PARTITION} || '-' || i % ${MOVED.length},
      '${WORKSPACE}-' || (${MOVED[0]} + i % ${MOVED.length}),
      jsonb_build_object('source_id', '${WORKSPACE}', 'destination_id', '${DESTINATION}', 'message_id', gen_random_uuid()), 'WEBHOOK',
      jsonb_build_object('type', 'track', 'event', 'Waiting', 'n', i, 'note', repeat(md5(i::text), 7))
    FROM generate_series($1::bigint, $2::bigint) AS i
    RETURNING job_id
  )
  INSERT INTO ${statusTable('rt', dataset)} (job_id, job_state, attempt, exec_time, retry_time, error_code, error_response)
  SELECT job_id, 'failed', 1, now(), now() + interval '1 day', '503', '{"response":"busy"}' FROM made ORDER BY job_id`;

// ---- the traffic

/** The same number of users in every partition, each as busy as the others. */
export function spreadSource(): EventSource {
  const random = seededRandom(SEED);
  const users = new Map<PartitionIndex, string[]>();
  for (
    let n = 0;
    [...users.values()].reduce((sum, of) => sum + of.length, 0) < PARTITIONS * USERS_PER_PARTITION;
    n += 1
  ) {
    const userId = `user-${n}`;
    const partition = partitionOf(userKeyOf({ userId }), PARTITIONS);
    const known = users.get(partition) ?? [];
    users.set(partition, known);
    if (known.length < USERS_PER_PARTITION) known.push(userId);
  }
  const pick = (from: number): number => Math.floor(random() * from);
  const half = PARTITIONS / 2;
  return {
    rounds: 0,
    close: () => undefined,
    next: async () => {
      const partition = random() < MOVED_SHARE ? MOVED[pick(half)]! : pick(half);
      return {
        userId: users.get(partition)![pick(USERS_PER_PARTITION)]!,
        event: 'Product Viewed',
        originalTimestamp: new Date().toISOString(),
        properties: { product: `sku-${pick(10_000)}`, referrer: `https://example.com/?campaign=${pick(50)}` },
      };
    },
  };
}

// ---- the logs

async function logsOf(stack: Stack): Promise<{ nodes: LogLine[]; routers: LogLine[][]; worker: LogLine[] }> {
  const files = stack.logFiles();
  return {
    nodes: (await Promise.all(files.nodes.map(readLog))).flat(),
    routers: await Promise.all(files.routers.map(readLog)),
    worker: await readLog(files.worker),
  };
}

/** Medians over the moves. `toOpen`: from the fence to the opening at the target, both as the nodes logged them. */
function lapsOf(
  { worker, nodes }: { readonly worker: readonly LogLine[]; readonly nodes: readonly LogLine[] },
  counts: (move: string) => boolean,
): Record<string, number> {
  const laps = worker.flatMap(({ msg, move, ms }) => {
    if (msg !== 'cut over' || typeof move !== 'string' || !counts(move)) return [];
    const at = (what: string): number =>
      Number(nodes.find((line) => line['move'] === move && line['msg'] === what)?.['at']);
    const toOpen = at('partitions opened') - at('partitions fenced');
    return [{ ...(ms as Record<string, number>), toOpen: Math.round(toOpen * 10) / 10 }];
  });
  return Object.fromEntries(
    Object.keys(laps[0] ?? {}).map((name) => {
      const sorted = laps.map((lap: Record<string, number>) => lap[name] ?? 0).sort((a, b) => a - b);
      return [name, sorted[Math.floor(sorted.length / 2)]!];
    }),
  );
}

function lineOf({ pending, holdMs, deliveryPauseMs, holdRequestMs, lapsMs }: PauseRun): string {
  const told = (name: string, { p50, p99, samples }: Pauses['holdMs']): string =>
    `${name} p50 ${p50 ?? '-'} p99 ${p99 ?? '-'} ms (${samples})`;
  const laps = Object.entries(lapsMs).map(([name, ms]) => `${name} ${ms}`);
  return `${pending} pending: ${told('hold', holdMs)}, ${told('request held', holdRequestMs)}, ${told('delivery pause', deliveryPauseMs)}; ${laps.join(', ')}`;
}

const say = (line: string): void => void process.stderr.write(`${line}\n`);
