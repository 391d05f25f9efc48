/**
 * The copy of one move against the bare pipe: two embedded PostgreSQL servers with a node's schema, rows of about 0.5 kB. In each round, in turn:
 *   ours       the whole move of the rows: import, first pass, fenced pass, comparison of the pending sets; with ledger and content verification
 *   copy only  the same COPY statements streamed by us, in the same chunks and lanes, without ledger and digests
 *   pipe       psql COPY (…) TO STDOUT | psql COPY … FROM STDIN, one after the other for each table
 * All write into tables that `ringmaster.add_import` has just made, so all have the same columns and end with the same indexes: ours and copy only make the one by partition
 * once the rows are there, as a move does; the pipe has all from the start. Medians over the rounds.
 */
import { spawn } from 'node:child_process';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import type pg from 'pg';
import { to as copyTo } from 'pg-copy-streams';
import { type CopyJob, withCopy } from '../jobsdb/copy.ts';
import { CHUNK_ROWS_MAX, COPY_LANES } from '../jobsdb/copy-first.ts';
import { stream } from '../jobsdb/copy-stream.ts';
import { ensureImport } from '../jobsdb/imports.ts';
import { migrateJobsDb } from '../jobsdb/migrate.ts';
import { createPool } from '../jobsdb/pool.ts';
import * as sql from '../jobsdb/sql/copy.ts';
import { jobsTable, quoteTextArray } from '../jobsdb/sql/datasets.ts';
import { jobColumns, type Prefix, prefixes } from '../jobsdb/sql/schema.ts';
import { dropImport } from '../jobsdb/stale.ts';
import { onStopSignal } from '../kit/parent.ts';
import { dataRoot } from '../platform/local/places.ts';
import { DEFAULT_SETTINGS, type PostgresServer, startPostgres } from '../platform/local/postgres-server.ts';

/** Over the embedded server's defaults: no checkpoint and no autovacuum may fall into one side's turn only. fsync and synchronous_commit stay on. */
const SETTINGS = {
  shared_buffers: '256MB',
  max_wal_size: '16GB',
  checkpoint_timeout: '1h',
  autovacuum: 'off',
  fsync: 'on',
  synchronous_commit: 'on',
} as const;
const WORKSPACE = 'ws-1';
/** The node has eight partitions, six of which move: what stays lies between the rows that go. */
const PARTITIONS = 8;
const MOVED = [0, 1, 2, 3, 4, 5];
const PARTITION_IDS = MOVED.map((partition) => `${WORKSPACE}-${partition}`);
/** Of the rows, so many are of `rt`, and of these so many wait for a retry. */
const RT_SHARE = 0.25;
const RETRYING_SHARE = 0.05;
const BIG = 10;
const SAMPLE_MS = 20;

export interface CopyOptions {
  readonly rows: number;
  readonly rounds: number;
  readonly big: boolean;
}

export interface CopyReport {
  readonly rows: number;
  /** Of the COPY streams of these rows, as the pipe's psql would see them. */
  readonly bytes: number;
  readonly rounds: number;
  readonly ourRowsPerSecond: number;
  readonly copyOnlyRowsPerSecond: number;
  readonly pipeRowsPerSecond?: number;
  readonly ratio?: number;
  readonly copyOnlyRatio?: number;
  /** Of this process, while it copies. */
  readonly rssPeakMb: number;
  /** Medians of the parts of ours. */
  readonly phasesMs: Readonly<Record<string, number>>;
  readonly roundsMs: readonly Readonly<Record<string, number>>[];
  readonly rowBytes: number;
  readonly settings: Readonly<Record<string, string | number>>;
  readonly indexes: Readonly<Record<'source' | 'target', readonly string[]>>;
  readonly missing?: string;
  readonly big?: { readonly rows: number; readonly ourRowsPerSecond: number; readonly rssPeakMb: number };
}

interface Bench {
  readonly source: Side;
  readonly target: Side;
  readonly signal: AbortSignal;
}
interface Side {
  readonly server: PostgresServer;
  readonly pool: pg.Pool;
}

export async function benchCopy(options: CopyOptions): Promise<CopyReport> {
  const missing = await psqlMissing();
  if (missing && process.env['CI']) throw new Error(missing);
  if (missing) say(missing);
  const folder = path.join(dataRoot(), `bench-copy-${process.pid}`);
  const stopping = new AbortController();
  let starting: Promise<Side[]> = Promise.resolve([]);
  const stop = once(async () => {
    stopping.abort(new Error('stopped'));
    const sides = await starting.catch(() => []); // what could not be started has ended itself
    // Not waited for: where a COPY is under way its connection comes back only when the server is gone.
    for (const { pool } of sides) void pool.end().catch(() => undefined);
    await Promise.all(sides.map(({ server }) => server.stop('immediate')));
    await rm(folder, { recursive: true, force: true });
  });
  const unlisten = onStopSignal(() => void stop().finally(() => process.exit(130)));
  try {
    say('starting two PostgreSQL servers …');
    starting = startSides(folder, stopping.signal);
    const [source, target] = (await starting) as [Side, Side];
    return await measure({ source, target, signal: stopping.signal }, options, missing);
  } catch (error) {
    // Whatever fails because we stop is no failure of its own: the signal's handler ends the process.
    if (stopping.signal.aborted) return await new Promise(() => undefined);
    throw error;
  } finally {
    if (!stopping.signal.aborted) {
      await stop();
      unlisten();
    }
  }
}

/** Both or none. */
async function startSides(folder: string, signal: AbortSignal): Promise<Side[]> {
  const sides: Side[] = [];
  try {
    for (const name of ['source', 'target']) sides.push(await startSide(path.join(folder, name), name, signal));
    return sides;
  } catch (error) {
    for (const { pool, server } of sides) {
      await pool.end();
      await server.stop('immediate');
    }
    throw error;
  }
}

async function startSide(folder: string, name: string, signal: AbortSignal): Promise<Side> {
  const server = await startPostgres({ folder, database: 'jobsdb', settings: SETTINGS, signal });
  const pool = createPool({ connectionString: server.url, application_name: `ringmaster bench ${name} side`, max: 8 });
  try {
    await migrateJobsDb(server.url);
  } catch (error) {
    await pool.end();
    await server.stop('immediate');
    throw error;
  }
  return { server, pool };
}

async function measure(bench: Bench, { rows, rounds, big }: CopyOptions, missing: string | null): Promise<CopyReport> {
  say(
    `filling the source with ${rows} rows that move, and ${rows / (MOVED.length / (PARTITIONS - MOVED.length))} that stay …`,
  );
  const rowBytes = await fill(bench.source.pool, rows);
  const bytes = await bytesOf(bench.source.pool);
  const settings = { ...DEFAULT_SETTINGS, ...SETTINGS };
  const indexes = {
    source: await indexesOf(bench.source.pool, 1),
    target: await withDatasets(bench, 'bench/look', async (datasets) => {
      await makeIndexes(bench.target.pool, 'bench/look');
      return indexesOf(bench.target.pool, datasets[0]!.dataset);
    }),
  };
  say(
    `pinned: ${Object.entries(SETTINGS)
      .map(([name, value]) => `${name}=${value}`)
      .join(' ')}; ${rowBytes} bytes a row`,
  );
  say(`indexes at the source: ${indexes.source.join(', ')}`);
  say(`indexes at the target: ${indexes.target.join(', ')}`);

  const done: Round[] = [];
  let rssPeakMb = 0;
  // On nobody's account: at a new server who comes first pays for the first files of its write-ahead log.
  await copyOnlyOnce(bench, 'bench/warm-up', rows);
  for (let round = 1; round <= rounds; round += 1) {
    const ours = await moveOurs(bench, `bench/ours-${round}`, rows);
    const copyOnlyMs = await copyOnlyOnce(bench, `bench/copy-${round}`, rows);
    const pipeMs = missing ? null : await pipeOnce(bench, `bench/pipe-${round}`, rows);
    rssPeakMb = Math.max(rssPeakMb, ours.rssPeakMb);
    done.push({ ours, copyOnlyMs, pipeMs });
    const parts = Object.entries(ours.phasesMs).map(([name, ms]) => `${name} ${ms}`);
    say(
      `round ${round}: ours ${ours.ms} ms (${parts.join(', ')}), copy only ${copyOnlyMs} ms, pipe ${pipeMs ?? '-'} ms`,
    );
  }
  const perSecond = (ms: readonly number[]): number => Math.round(rows / (median(ms) / 1000));
  const ourRowsPerSecond = perSecond(done.map(({ ours }) => ours.ms));
  const copyOnlyRowsPerSecond = perSecond(done.map(({ copyOnlyMs }) => copyOnlyMs));
  const peer = missing ? null : perSecond(done.map(({ pipeMs }) => pipeMs!));
  return {
    rows,
    bytes,
    rounds,
    ourRowsPerSecond,
    copyOnlyRowsPerSecond,
    ...(peer === null
      ? {}
      : {
          pipeRowsPerSecond: peer,
          ratio: round2(ourRowsPerSecond / peer),
          copyOnlyRatio: round2(copyOnlyRowsPerSecond / peer),
        }),
    rssPeakMb,
    phasesMs: Object.fromEntries(
      Object.keys(done[0]!.ours.phasesMs).map((name) => [name, median(done.map(({ ours }) => ours.phasesMs[name]!))]),
    ),
    roundsMs: done.map(({ ours, copyOnlyMs, pipeMs }) => ({
      ours: ours.ms,
      copyOnly: copyOnlyMs,
      ...(pipeMs === null ? {} : { pipe: pipeMs }),
    })),
    rowBytes,
    settings,
    indexes,
    ...(missing ? { missing } : {}),
    ...(big ? { big: await bigRound(bench, rows * BIG) } : {}),
  };
}

interface Round {
  readonly ours: Ours;
  readonly copyOnlyMs: number;
  readonly pipeMs: number | null;
}

async function bigRound(bench: Bench, rows: number): Promise<NonNullable<CopyReport['big']>> {
  say(`filling the source with ${rows} rows …`);
  await fill(bench.source.pool, rows);
  const ours = await moveOurs(bench, 'bench/big', rows);
  return { rows, ourRowsPerSecond: Math.round(rows / (ours.ms / 1000)), rssPeakMb: ours.rssPeakMb };
}

// ---- the three

interface Ours {
  readonly ms: number;
  readonly phasesMs: Readonly<Record<string, number>>;
  readonly rssPeakMb: number;
}

/** From the import to the proof, as the activities do it: what quiesce and fence would add is no copying. */
async function moveOurs(bench: Bench, move: string, rows: number): Promise<Ours> {
  await settle(bench);
  const sampler = sampleRss();
  const phasesMs: Record<string, number> = {};
  const startedAt = performance.now();
  let since = startedAt;
  const lap = (name: string): void => {
    const at = performance.now();
    phasesMs[name] = Math.round(at - since);
    since = at;
  };
  try {
    const job: CopyJob = {
      source: bench.source.pool,
      target: bench.target.pool,
      move,
      token: 1,
      partitions: MOVED,
      datasets: (
        await inTransaction(bench.target.pool, (client) =>
          ensureImport(client, { pool: bench.target.pool }, move, 1, MOVED),
        )
      ).datasets,
      signal: bench.signal,
    };
    lap('prepare');
    await withCopy(job, async (copy) => {
      await copy.pass();
      lap('pass');
      await copy.reserve();
      await copy.pass({ fenced: true });
      lap('fenced');
      const proof = await copy.verify();
      lap('verify');
      if (proof.jobsPending !== rows) throw new Error(`${proof.jobsPending} jobs were moved, not ${rows}`);
    });
    const ms = Math.round(performance.now() - startedAt);
    return { ms, phasesMs, rssPeakMb: sampler.stop() };
  } finally {
    sampler.stop();
    await inTransaction(bench.target.pool, (client) => dropImport(client, { pool: bench.target.pool }, move));
  }
}

/** The first pass without its proof: the same statements in chunks of the same size, each in a transaction, in as many lanes. */
async function copyOnlyOnce(bench: Bench, move: string, rows: number): Promise<number> {
  await settle(bench);
  return withDatasets(bench, move, async (datasets) => {
    const pools = Array.from({ length: COPY_LANES }, () => [bench.source.pool, bench.target.pool]).flat();
    const clients = await Promise.all(pools.map((pool) => pool.connect()));
    let failed = true;
    try {
      const startedAt = performance.now();
      let copied = 0;
      for (const { prefix, dataset } of datasets) {
        const sources = [sourceOf(prefix)];
        const { first, last } = await idsOf(clients[0]!, jobsTable(prefix, 1));
        // As many ids as have a full chunk's rows.
        const width = Math.floor((CHUNK_ROWS_MAX * PARTITIONS) / MOVED.length);
        let next = first - 1;
        const lane = async (source: pg.ClientBase, target: pg.ClientBase): Promise<void> => {
          while (next < last) {
            const after = next;
            next += width;
            const chunk = { range: { after, upTo: Math.min(after + width, last), constant: 0 }, dense: true };
            await target.query('BEGIN; SET LOCAL synchronous_commit = off');
            const out = sql.copyChunkJobsOut(sources, chunk);
            const rowsOfChunk = await stream(source, out, target, sql.copyJobsIn(prefix, dataset), {
              signal: bench.signal,
            });
            copied += rowsOfChunk;
            await target.query('COMMIT');
          }
        };
        await Promise.all(Array.from({ length: COPY_LANES }, (_, n) => lane(clients[2 * n]!, clients[2 * n + 1]!)));
      }
      await makeIndexes(clients[1]!, move);
      await clients[1]!.query('CREATE TEMP TABLE last_commit (); DROP TABLE last_commit'); // waited for: it makes the lazy ones before it durable
      const ms = Math.round(performance.now() - startedAt);
      if (copied !== rows) throw new Error(`${copied} rows were copied, not ${rows}`);
      failed = false;
      return ms;
    } finally {
      for (const client of clients) client.release(failed);
    }
  });
}

const sourceOf = (prefix: Prefix): sql.ChunkSource => ({
  prefix,
  dataset: 1,
  partitionIds: PARTITION_IDS,
  isMostlyMoved: true,
  statusUpTo: null,
});

async function pipeOnce(bench: Bench, move: string, rows: number): Promise<number> {
  await settle(bench);
  return withDatasets(bench, move, async (datasets) => {
    await makeIndexes(bench.target.pool, move);
    const startedAt = performance.now();
    for (const { prefix, dataset } of datasets) {
      const columns = jobColumns.join(', ');
      const ids = quoteTextArray(PARTITION_IDS);
      await psqlPipe(
        bench,
        `COPY (SELECT ${columns} FROM ${jobsTable(prefix, 1)} WHERE partition_id = ANY (${ids})) TO STDOUT (FORMAT binary)`,
        `COPY ${jobsTable(prefix, dataset)} (${columns}) FROM STDIN (FORMAT binary)`,
      );
    }
    const ms = Math.round(performance.now() - startedAt);
    let copied = 0;
    for (const { prefix, dataset } of datasets) copied += await countOf(bench.target.pool, jobsTable(prefix, dataset));
    if (copied !== rows) throw new Error(`${copied} rows went through the pipe, not ${rows}`);
    return ms;
  });
}

/** One shell, so that no process of ours stands between the two. Passwords and statements go by the environment. */
function psqlPipe(bench: Bench, out: string, into: string): Promise<void> {
  const side = (name: 'SOURCE' | 'TARGET', statement: string): string =>
    `PGPASSWORD="$${name}_PASSWORD" psql -X -q -v ON_ERROR_STOP=1 -h "$${name}_HOST" -p "$${name}_PORT" -U "$${name}_USER" -d "$${name}_DATABASE" -c "$${statement}"`;
  const addressOf = (name: string, { server: { address } }: Side): Record<string, string> => ({
    [`${name}_HOST`]: address.host,
    [`${name}_PORT`]: String(address.port),
    [`${name}_USER`]: address.user,
    [`${name}_DATABASE`]: address.database,
    [`${name}_PASSWORD`]: address.password,
  });
  return new Promise((resolve, reject) => {
    // A group of its own: it ends as a whole when we are stopped.
    const shell = spawn('sh', ['-c', `${side('SOURCE', 'STATEMENT_OUT')} | ${side('TARGET', 'STATEMENT_IN')}`], {
      stdio: ['ignore', 'ignore', 'pipe'],
      detached: true,
      env: {
        PATH: process.env['PATH'],
        ...addressOf('SOURCE', bench.source),
        ...addressOf('TARGET', bench.target),
        STATEMENT_OUT: out,
        STATEMENT_IN: into,
      },
    });
    let said = '';
    shell.stderr.on('data', (text: Buffer) => {
      said += text.toString();
    });
    const end = (): void => {
      try {
        if (shell.pid !== undefined) process.kill(-shell.pid, 'SIGTERM');
      } catch {
        // it has just ended
      }
    };
    bench.signal.addEventListener('abort', end);
    shell.on('error', reject);
    shell.on('close', (code) => {
      bench.signal.removeEventListener('abort', end);
      // The first psql's exit is lost in a pipe, but not what it says; the rows are counted afterwards.
      if (code === 0 && said === '') resolve();
      else reject(new Error(`psql | psql failed: ${said.trim() || `exit ${code}`}`));
    });
  });
}

function psqlMissing(): Promise<string | null> {
  return new Promise((resolve) => {
    const asked = spawn('psql', ['--version'], { stdio: 'ignore' });
    asked.on('error', () => resolve('psql is not on PATH: there is nothing to compare with, so no ratio'));
    asked.on('exit', (code) => resolve(code === 0 ? null : `psql --version ends with ${code}: no ratio`));
  });
}

// ---- the databases

/** Rows as a gateway and a processor would leave them, all pending. Returns the size of a row in bytes. */
async function fill(pool: pg.Pool, rows: number): Promise<number> {
  const rt = Math.round(rows * RT_SHARE);
  for (const [prefix, count] of [
    ['gw', rows - rt],
    ['rt', rt],
  ] as const) {
    await pool.query(`TRUNCATE ${jobsTable(prefix, 1)}, public.${prefix}_job_status_1`);
    // Every PARTITIONS rows, MOVED.length of them move; the last block is cut where enough of those that move are there.
    const blocks = Math.floor(count / MOVED.length);
    const total = blocks * PARTITIONS + (count - blocks * MOVED.length);
    await pool.query(
      `INSERT INTO ${jobsTable(prefix, 1)} (workspace_id, uuid, user_id, partition_id, parameters, custom_val, event_payload)
       SELECT $1::text, gen_random_uuid(), 'user-' || md5((n % 10007)::text), $1::text || '-' || (n % $3::bigint),
         jsonb_build_object('source_id', 'source-1', 'message_id', gen_random_uuid(), 'received_at', '2026-01-01T00:00:00.000Z'), 'GW',
         jsonb_build_object('type', 'track', 'event', 'Order Completed', 'userId', 'user-' || (n % 10007), 'messageId', gen_random_uuid(),
           'properties', jsonb_build_object('total', n % 997 + 0.25, 'currency', 'EUR', 'coupon', NULL, 'products', jsonb_build_array(n % 89, n % 83)),
           'sentAt', '2026-01-01T00:00:00.000Z', 'context', jsonb_build_object('ip', '192.0.2.1', 'note', 'ä "quoted" ' || md5(n::text)))
       FROM generate_series(0, $2::bigint - 1) AS n`,
      [WORKSPACE, total, PARTITIONS],
    );
  }
  await pool.query(
    `INSERT INTO public.rt_job_status_1 (job_id, job_state, attempt, exec_time, retry_time, error_code)
     SELECT job_id, 'failed', 3, now(), now() + interval '1 minute', '503' FROM ${jobsTable('rt', 1)} WHERE job_id % $1 = 0`,
    [Math.round(1 / RETRYING_SHARE)],
  );
  for (const prefix of prefixes)
    await pool.query(`VACUUM (ANALYZE) ${jobsTable(prefix, 1)}, public.${prefix}_job_status_1`);
  const size = await pool.query<{ bytes: string }>(
    `SELECT round(avg(pg_column_size(j.*)))::text AS bytes FROM (SELECT * FROM ${jobsTable('gw', 1)} LIMIT 10000) AS j`,
  );
  return Number(size.rows[0]!.bytes);
}

/** The same start for each turn: nothing left to write, and nothing that another turn has to clean up. */
async function settle({ source, target, signal }: Bench): Promise<void> {
  signal.throwIfAborted();
  await Promise.all([source.pool.query('CHECKPOINT'), target.pool.query('CHECKPOINT')]);
}

async function withDatasets<T>(
  { target }: Bench,
  move: string,
  use: (datasets: { prefix: Prefix; dataset: number }[]) => Promise<T>,
): Promise<T> {
  const { datasets } = await inTransaction(target.pool, (client) =>
    ensureImport(client, { pool: target.pool }, move, 1, MOVED),
  );
  try {
    return await use([...datasets]);
  } finally {
    await inTransaction(target.pool, (client) => dropImport(client, { pool: target.pool }, move));
  }
}

/** The index by partition, which a dataset of an import gets with its first pass. */
async function makeIndexes(target: pg.Pool | pg.ClientBase, move: string): Promise<void> {
  await target.query('SELECT ringmaster.index_import($1)', [move]);
}

async function indexesOf(pool: pg.Pool, dataset: number): Promise<string[]> {
  const found = await pool.query<{ indexdef: string }>(
    'SELECT indexdef FROM pg_indexes WHERE tablename = ANY ($1::text[]) ORDER BY indexname',
    [prefixes.map((prefix) => `${prefix}_jobs_${dataset}`)],
  );
  return found.rows.map(({ indexdef }) => indexdef.replace(/^CREATE (UNIQUE )?INDEX (\S+) ON \S+ USING /, '$1$2 '));
}

/** What the pipe carries. */
async function bytesOf(pool: pg.Pool): Promise<number> {
  const client = await pool.connect();
  try {
    let bytes = 0;
    for (const prefix of prefixes) {
      const { last } = await idsOf(client, jobsTable(prefix, 1));
      const all = { range: { after: 0, upTo: last, constant: 0 }, dense: true };
      for await (const chunk of client.query(copyTo(sql.copyChunkJobsOut([sourceOf(prefix)], all))))
        bytes += (chunk as Buffer).length;
    }
    return bytes;
  } finally {
    client.release();
  }
}

async function idsOf(client: pg.ClientBase, table: string): Promise<{ first: number; last: number }> {
  const found = await client.query<{ first: string; last: string }>(
    `SELECT min(job_id)::text AS first, max(job_id)::text AS last FROM ${table}`,
  );
  return { first: Number(found.rows[0]!.first), last: Number(found.rows[0]!.last) };
}

async function countOf(pool: pg.Pool, table: string): Promise<number> {
  return Number((await pool.query<{ count: string }>(`SELECT count(*)::text AS count FROM ${table}`)).rows[0]!.count);
}

async function inTransaction<T>(pool: pg.Pool, use: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  let failed = true;
  try {
    await client.query('BEGIN');
    const result = await use(client);
    await client.query('COMMIT');
    failed = false;
    return result;
  } finally {
    client.release(failed); // closes it, which rolls back
  }
}

// ---- small things

function sampleRss(): { stop(): number } {
  let peak = process.memoryUsage.rss();
  const timer = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage.rss());
  }, SAMPLE_MS);
  return {
    stop() {
      clearInterval(timer);
      return Math.round(peak / 1024 / 1024);
    },
  };
}

function once(act: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined;
  return () => {
    done ??= act();
    return done;
  };
}

function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)]!;
}

const round2 = (value: number): number => Math.round(value * 100) / 100;
const say = (line: string): void => void process.stderr.write(`${line}\n`);
