/** The ring store on PostgreSQL: one table, append-only (migrations.ts), LISTEN/NOTIFY as a hint and polling behind it. */
import pg from 'pg';
import { codeOf } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import { surviveLostConnections } from '../kit/pool.ts';
import type { RecordedEvent, RingEvent } from '../ring/events.ts';
import { canonicalJson, chainEvents, GENESIS_HASH } from './chain.ts';
import { LogCursor, storeBehind } from './cursor.ts';
import { openListener } from './listener.ts';
import { assertUsable } from './migrate.ts';
import {
  type Authorship,
  type DatabaseMarks,
  type RingStore,
  type RingWatcher,
  type RouterFacts,
  type RouterLease,
  VersionConflict,
} from './ringstore.ts';
import { type EventRow, eventOf, SELECT_EVENTS } from './rows.ts';
import { watchLog } from './watch.ts';

export { migrateRingStore } from './migrate.ts';

/** Appends are rare and short: a handful of connections is plenty, and there are many processes. */
const POOL_MAX = 4;
const CONNECT_TIMEOUT_MS = 5_000;
/** Ours, on this side of the wire: only it notices a connection whose other end is silently gone. */
const QUERY_TIMEOUT_MS = 5_000;
/** The server's, a little sooner, so that what we gave up on does not go on there. */
const STATEMENT_TIMEOUT_MS = 4_500;
const UNIQUE_VIOLATION = '23505';
/** A store that the API of version N has not migrated yet: nodes of N do without what it lacks. */
const MISSING_TABLE = '42P01';

/**
 * The event at the expected version, which the new ones are chained to, and the store's clock. Not in the transaction of the append: the row never changes,
 * and the append looks again whether it is there.
 */
const READ_PLACE = `
  SELECT (SELECT hash FROM ringmaster_ring.events WHERE cluster_id = $1 AND version = $2) AS hash,
         (SELECT hash FROM ringmaster_ring.events WHERE cluster_id = $1 AND version = $3) AS seen,
         date_trunc('milliseconds', clock_timestamp()) AS at`;
const IS_SET_ASIDE = `
  SELECT EXISTS (SELECT FROM ringmaster_ring.set_aside WHERE cluster_id = $1 AND version = $2 AND hash = $3) AS aside`;
const TESTIFY = `
  INSERT INTO ringmaster_ring.node_marks AS m (cluster_id, database_id, node, instance, marks) VALUES ($1, $2, $3, $4, $5)
  ON CONFLICT (cluster_id, database_id) DO UPDATE
  SET node = excluded.node, instance = excluded.instance, marks = excluded.marks, at = now() WHERE m.instance <= excluded.instance`;
/** Leases that are over go with it, but for those that another router is just deleting. */
const RENEW_LEASE = `
  WITH over AS (
    DELETE FROM ringmaster_ring.routers WHERE (cluster_id, router) IN (
      SELECT cluster_id, router FROM ringmaster_ring.routers
      WHERE expires_at < now() AND (cluster_id, router) <> ($1, $2) FOR UPDATE SKIP LOCKED)
  )
  INSERT INTO ringmaster_ring.routers (cluster_id, router, facts, renewed_at, expires_at)
  VALUES ($1, $2, $3, now(), now() + $4 * interval '1 millisecond')
  ON CONFLICT (cluster_id, router) DO UPDATE
  SET facts = excluded.facts, renewed_at = excluded.renewed_at, expires_at = excluded.expires_at`;
const END_LEASE = 'DELETE FROM ringmaster_ring.routers WHERE cluster_id = $1 AND router = $2';
const LEASES = `
  SELECT facts, (extract(epoch FROM now() - renewed_at) * 1000)::int AS renewed_ms_ago
  FROM ringmaster_ring.routers WHERE cluster_id = $1 AND expires_at >= now() ORDER BY router`;
const HASH_AT = 'SELECT hash FROM ringmaster_ring.events WHERE cluster_id = $1 AND version = $2';

/**
 * One statement, so all of it or nothing, and its own transaction. The primary key refuses a version that is taken; the EXISTS refuses a gap.
 * The notification is sent by the same commit.
 */
const APPEND = `
  WITH written AS (
    INSERT INTO ringmaster_ring.events (cluster_id, version, id, type, data, actor, reason, operation, at, previous_hash, hash)
    SELECT $1, e.version, e.id, e.type, e.data::json, $2, $3, $4, $5, e.previous_hash, e.hash
    FROM unnest($6::bigint[], $7::uuid[], $8::text[], $9::text[], $10::text[], $11::text[])
      AS e (version, id, type, data, previous_hash, hash)
    WHERE $12::bigint = 0
       OR EXISTS (SELECT FROM ringmaster_ring.events p WHERE p.cluster_id = $1 AND p.version = $12 AND p.hash = $13)
    RETURNING version
  )
  SELECT count(*)::int AS written, CASE WHEN count(*) > 0 THEN pg_notify('ringmaster_ring', $1) END FROM written`;

export interface PostgresRingStoreOptions {
  readonly connectionString: string;
  /** Shown in pg_stat_activity. Default `ringmaster`. */
  readonly applicationName?: string;
  readonly log?: Logger;
}

/**
 * A ring store on a database that `migrateRingStore` has prepared. Nothing is connected before it is used. Every first use of a connection checks the
 * store's version: RING_STORE_TOO_NEW, RING_STORE_NOT_MIGRATED.
 */
export function createPostgresRingStore(options: PostgresRingStoreOptions): RingStore {
  const config: pg.ClientConfig = {
    connectionString: options.connectionString,
    application_name: options.applicationName ?? 'ringmaster',
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    query_timeout: QUERY_TIMEOUT_MS,
    statement_timeout: STATEMENT_TIMEOUT_MS,
    keepAlive: true,
  };
  const pool = new pg.Pool({ ...config, max: POOL_MAX, allowExitOnIdle: true });
  surviveLostConnections(pool, (error) =>
    options.log?.warn({ error: error.message }, 'ring store: an idle connection was lost'),
  );
  return new PostgresRingStore(config, pool);
}

/**
 * The newest event of each log that this process has seen. A store that has come back from an older backup is neither read nor written by who knows better: a
 * decision on what it holds would fork the log. Memory only: a new process learns it from nodes and routers, which keep what they have seen (`ring repair`).
 */
class SeenLogs {
  readonly #seen = new Map<string, Pick<RecordedEvent, 'version' | 'hash'>>();

  of(clusterId: string): Pick<RecordedEvent, 'version' | 'hash'> | undefined {
    return this.#seen.get(clusterId);
  }

  add(event: RecordedEvent | undefined): void {
    if (!event || event.version <= (this.#seen.get(event.clusterId)?.version ?? 0)) return;
    this.#seen.set(event.clusterId, { version: event.version, hash: event.hash });
  }

  /** `hash`: of the event that the store has at the version of `seen`. Throws RING_STORE_BEHIND. What a repair has set aside was never part of the log. */
  async assertThere(
    client: pg.ClientBase,
    clusterId: string,
    seen: Pick<RecordedEvent, 'version' | 'hash'>,
    hash: string | null | undefined,
  ): Promise<void> {
    if (hash === seen.hash) return;
    const values = [clusterId, seen.version, seen.hash];
    const found = await client.query<{ aside: boolean }>(IS_SET_ASIDE, values).catch(nullIfMissing);
    if (found?.rows[0]?.aside) this.#seen.delete(clusterId);
    else throw storeBehind(clusterId, seen.version, hash == null ? 'nothing' : 'another event');
  }
}

class PostgresRingStore implements RingStore {
  readonly #config: pg.ClientConfig;
  readonly #pool: pg.Pool;
  readonly #prepared = new WeakSet<pg.ClientBase>();
  readonly #closing = new AbortController();
  readonly #watches = new Set<Promise<void>>();
  readonly #seen = new SeenLogs();
  #closed: Promise<void> | null = null;

  constructor(config: pg.ClientConfig, pool: pg.Pool) {
    this.#config = config;
    this.#pool = pool;
  }

  async clusters(): Promise<string[]> {
    return await this.#withClient(async (client) => {
      const { rows } = await client.query<{ cluster_id: string }>(
        'SELECT cluster_id FROM ringmaster_ring.events WHERE version = 1 ORDER BY cluster_id',
      );
      return rows.map((row) => row.cluster_id);
    });
  }

  async read(clusterId: string, afterVersion = 0, limit?: number): Promise<RecordedEvent[]> {
    return await this.#withClient(async (client) => {
      const { rows } = await client.query<EventRow>(SELECT_EVENTS, [clusterId, afterVersion, limit ?? null]);
      const events = rows.map(eventOf);
      const seen = this.#seen.of(clusterId);
      if (seen) {
        const there = events.find(({ version }) => version === seen.version)?.hash;
        const hash = there ?? (await client.query<{ hash: string }>(HASH_AT, [clusterId, seen.version])).rows[0]?.hash;
        await this.#seen.assertThere(client, clusterId, seen, hash);
      }
      this.#seen.add(events.at(-1));
      return events;
    });
  }

  async append(
    clusterId: string,
    expectedVersion: number,
    events: readonly RingEvent[],
    by: Authorship,
  ): Promise<RecordedEvent[]> {
    if (events.length === 0) return [];
    return await this.#withClient(async (client) => {
      const known = this.#seen.of(clusterId);
      const { rows } = await client.query<{ hash: string | null; seen: string | null; at: Date }>(READ_PLACE, [
        clusterId,
        expectedVersion,
        known?.version ?? 0,
      ]);
      const { hash, seen, at } = rows[0]!;
      if (known) await this.#seen.assertThere(client, clusterId, known, seen);
      const previousHash = expectedVersion === 0 ? GENESIS_HASH : hash;
      if (previousHash === null) throw new VersionConflict(clusterId, expectedVersion); // the log is shorter than that
      const place = { clusterId, afterVersion: expectedVersion, previousHash, at: at.toISOString() };
      const recorded = chainEvents(place, events, by);
      if (!(await insert(client, place, recorded, by))) throw new VersionConflict(clusterId, expectedVersion);
      this.#seen.add(recorded.at(-1));
      return recorded;
    });
  }

  async watch(
    clusterId: string,
    afterVersion: number,
    watcher: RingWatcher,
    signal: AbortSignal,
    lastHash?: string | null,
  ): Promise<void> {
    const either = AbortSignal.any([signal, this.#closing.signal]);
    const open = (stop: AbortSignal) => openListener(this.#config, clusterId, stop);
    const seen = {
      ...watcher,
      onEvents: async (events: RecordedEvent[]): Promise<void> => {
        this.#seen.add(events.at(-1));
        await watcher.onEvents(events);
      },
    };
    const watching = watchLog(open, new LogCursor(clusterId, afterVersion, lastHash ?? null), seen, either);
    const settled = watching.catch(() => {});
    this.#watches.add(settled);
    try {
      await watching;
    } finally {
      this.#watches.delete(settled);
    }
  }

  async marksOf(clusterId: string, databaseId: string): Promise<DatabaseMarks | null> {
    return await this.#withClient(async (client) => {
      const statement = 'SELECT marks FROM ringmaster_ring.node_marks WHERE cluster_id = $1 AND database_id = $2';
      const found = await client
        .query<{ marks: DatabaseMarks }>(statement, [clusterId, databaseId])
        .catch(nullIfMissing);
      return found?.rows[0]?.marks ?? null;
    });
  }

  async testify(clusterId: string, databaseId: string, node: string, marks: DatabaseMarks): Promise<void> {
    await this.#withClient((client) =>
      client.query(TESTIFY, [clusterId, databaseId, node, marks.instance, JSON.stringify(marks)]).catch(nullIfMissing),
    );
  }

  async renewLease(clusterId: string, facts: RouterFacts, leaseMs: number): Promise<void> {
    const values = [clusterId, facts.router, JSON.stringify(facts), leaseMs];
    await this.#withClient((client) => client.query(RENEW_LEASE, values).catch(nullIfMissing));
  }

  async endLease(clusterId: string, router: string): Promise<void> {
    await this.#withClient((client) => client.query(END_LEASE, [clusterId, router]).catch(nullIfMissing));
  }

  async leases(clusterId: string): Promise<RouterLease[]> {
    return await this.#withClient(async (client) => {
      const found = await client
        .query<{ facts: RouterFacts; renewed_ms_ago: number }>(LEASES, [clusterId])
        .catch(nullIfMissing);
      return (found?.rows ?? []).map(({ facts, renewed_ms_ago }) => ({ ...facts, renewedMsAgo: renewed_ms_ago }));
    });
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#closed ??= Promise.all([this.#pool.end(), ...this.#watches]).then(() => {});
    await this.#closed;
  }

  async #withClient<T>(run: (client: pg.PoolClient) => Promise<T>): Promise<T> {
    const client = await this.#pool.connect();
    let broken: boolean | Error = true;
    try {
      await this.#prepare(client);
      const result = await run(client);
      broken = false;
      return result;
    } catch (error) {
      // What the server answered leaves the connection well (conflicts are everyday); anything else may have left an answer in it that nobody read.
      broken = !(error instanceof VersionConflict) && !isServerAnswer(error);
      throw error;
    } finally {
      client.release(broken);
    }
  }

  async #prepare(client: pg.PoolClient): Promise<void> {
    if (this.#prepared.has(client)) return;
    await assertUsable(client);
    // Whatever the database's default is: an append that was answered must survive a crash.
    await client.query('SET synchronous_commit = on');
    this.#prepared.add(client);
  }
}

/** False where the version is taken, or the event before it is not there. */
async function insert(
  client: pg.ClientBase,
  place: { clusterId: string; afterVersion: number; previousHash: string; at: string },
  recorded: readonly RecordedEvent[],
  by: Authorship,
): Promise<boolean> {
  try {
    const { rows } = await client.query<{ written: number }>(APPEND, [
      place.clusterId,
      by.actor,
      by.reason,
      by.operation,
      place.at,
      recorded.map((event) => event.version),
      recorded.map((event) => event.id),
      recorded.map((event) => event.event.type),
      recorded.map(({ event: { type: _, ...data } }) => canonicalJson(data)),
      recorded.map((event) => event.previousHash),
      recorded.map((event) => event.hash),
      place.afterVersion,
      place.previousHash,
    ]);
    return rows[0]?.written === recorded.length;
  } catch (error) {
    if (codeOf(error) === UNIQUE_VIOLATION) return false;
    throw error;
  }
}

function nullIfMissing(error: unknown): null {
  if (codeOf(error) === MISSING_TABLE) return null;
  throw error;
}

const isServerAnswer = (error: unknown): boolean =>
  error instanceof pg.DatabaseError && error.severity === 'ERROR' && error.code !== '57014';
