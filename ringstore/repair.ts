/**
 * Gives a ring store that came back from an older backup the events again that it has lost, from the newest copy among nodes and routers.
 * Holds: what is appended is one chain with what stays, event by event as it was; nobody who owns partitions has seen anything else; nothing is decided by a clock.
 * Refuses, with nothing changed: RING_COPIES_DISAGREE, RING_COPY_MISSING, RING_COPIES_CHANGED, RING_STORE_FORKED, RING_COPIES_TOO_SHORT.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { CodedError } from '../kit/errors.ts';
import type { NodeId, RecordedEvent } from '../ring/events.ts';
import { fold, noRing } from '../ring/ring.ts';
import { assertChain, canonicalJson, GENESIS_HASH } from './chain.ts';
import { ASK_CHANNEL } from './copies.ts';
import { migrateRingStore } from './migrate.ts';
import { type EventRow, eventOf, SELECT_EVENTS } from './rows.ts';

/** How long nodes and routers have to answer: their connection to the store may just be made anew, and is tried every 2 s at the latest. */
const ANSWER_WITHIN_MS = 12_000;
/** Routers are not known by name: so long is waited for one more answer. */
const QUIET_MS = 2_500;
const ASK_EVERY_MS = 500;
const STATEMENT_TIMEOUT_MS = 60_000;

/** What somebody has told of the log. */
export interface Copy {
  readonly source: string;
  readonly version: number;
  readonly hash: string;
  /** The last version at which it and the store have the same event; null: it no longer knows so far back. */
  readonly agreesTo: number | null;
  /** Behind `agreesTo`. */
  readonly events: readonly RecordedEvent[];
}

export interface RepairReport {
  readonly clusterId: string;
  /** Where the log in the store ends; version 0: it is empty. */
  readonly store: { readonly version: number; readonly hash: string };
  readonly copies: readonly Omit<Copy, 'events'>[];
  /** Members that have not answered: what they have seen is not known. */
  readonly missing: readonly NodeId[];
  /** Routers that follow what would be set aside: they must be started again, without their ring file. */
  readonly astray: readonly string[];
  /** What would be, or was, done; null: nothing is to be repaired. */
  readonly repair: {
    readonly source: string;
    /** The last event of the store that stays. */
    readonly keepTo: number;
    readonly append: readonly Pick<RecordedEvent, 'version' | 'event' | 'actor' | 'at'>[];
    readonly setAside: readonly Pick<RecordedEvent, 'version' | 'event' | 'actor' | 'at'>[];
    /** Hash of the log's last event after it. */
    readonly hash: string;
  } | null;
  readonly repaired: boolean;
}

export interface RepairRequest {
  /** `repair.hash` of a report that somebody has approved: with another one by now nothing is done. */
  readonly hash: string;
  /** Also where the store has events that the copies do not: they are taken out of the log and kept beside it. */
  readonly setAside?: boolean;
  /** Members that will never answer. */
  readonly without?: readonly NodeId[];
  readonly actor: string;
  readonly reason: string;
}

interface Plan {
  readonly newest: Copy;
  readonly keepTo: number;
  readonly setAside: readonly RecordedEvent[];
  readonly astray: readonly string[];
}

/** Which copy the log goes on with. Null: the store has all that anybody has seen. Throws RING_COPIES_DISAGREE, RING_COPIES_TOO_SHORT, RING_LOG_BROKEN. */
export function planRepair(clusterId: string, log: readonly RecordedEvent[], copies: readonly Copy[]): Plan | null {
  const hashAt = (version: number): string => (version === 0 ? GENESIS_HASH : log[version - 1]!.hash);
  for (const { events, agreesTo } of copies) if (agreesTo !== null) assertChain(events, hashAt(agreesTo));
  const ahead = copies.filter(({ events }) => events.length > 0);
  const short = copies.find(({ agreesTo }) => agreesTo === null);
  const newest = ahead.reduce<Copy | null>((best, copy) => (best && best.version >= copy.version ? best : copy), null);
  if (!newest) {
    if (!short) return null;
    const message = `${short.source} has seen version ${short.version} and no longer holds what lies between the store's log and that; a node's whole copy is needed`;
    throw new CodedError('RING_COPIES_TOO_SHORT', message, { clusterId, source: short.source });
  }
  const keepTo = newest.agreesTo!;
  const hashInNewest = (version: number): string | undefined =>
    version <= keepTo ? hashAt(version) : newest.events[version - keepTo - 1]?.hash;
  const others = copies.filter((copy) => hashInNewest(copy.version) !== copy.hash);
  // Who has just followed the store knows nothing that it does not; a router owns nothing, so it can do no harm with that.
  const astray = others.filter(
    ({ source, events, agreesTo }) => isRouter(source) && agreesTo !== null && events.length === 0,
  );
  const disagreeing = others.filter((copy) => !astray.includes(copy));
  if (disagreeing.length > 0) {
    const told = disagreeing.map(({ source, version, hash }) => `${source} (version ${version}, ${hash.slice(0, 8)})`);
    const message = `${newest.source} has seen version ${newest.version} (${newest.hash.slice(0, 8)}), which is not what ${told.join(', ')} has seen`;
    const sources = [newest.source, ...disagreeing.map(({ source }) => source)];
    throw new CodedError('RING_COPIES_DISAGREE', `log of ${clusterId}: ${message}`, { clusterId, sources });
  }
  return { newest, keepTo, setAside: log.slice(keepTo), astray: astray.map(({ source }) => source) };
}

export interface RingRepairs {
  /** Asks everybody who follows the log what he has seen, and tells what a repair would do. */
  look(clusterId: string): Promise<RepairReport>;
  /** Asks again, and repairs. */
  repair(clusterId: string, request: RepairRequest): Promise<RepairReport>;
}

export function createRingRepairs(
  connectionString: string,
  { answerWithinMs = ANSWER_WITHIN_MS, quietMs = QUIET_MS } = {},
): RingRepairs {
  const within = { answerWithinMs, quietMs };
  return {
    look: (clusterId) =>
      connected(connectionString, async (client) => (await lookAt(client, clusterId, within)).report),
    repair: (clusterId, request) =>
      connected(connectionString, async (client) => {
        const { report, plan, log } = await lookAt(client, clusterId, within);
        if (!plan || !report.repair) return report;
        assertApproved(report, request);
        await append(client, clusterId, log, plan, request);
        return { ...report, repaired: true };
      }),
  };
}

async function connected<T>(connectionString: string, run: (client: pg.Client) => Promise<T>): Promise<T> {
  await migrateRingStore(connectionString); // what came back from a backup may be of an older version
  const client = new pg.Client({
    connectionString,
    application_name: 'ringmaster repair',
    statement_timeout: STATEMENT_TIMEOUT_MS,
  });
  client.on('error', () => {}); // a lost connection also rejects the query that is under way
  await client.connect();
  try {
    return await run(client);
  } finally {
    await client.end();
  }
}

interface Looked {
  readonly report: RepairReport;
  readonly plan: Plan | null;
  readonly log: readonly RecordedEvent[];
}

async function lookAt(
  client: pg.Client,
  clusterId: string,
  within: { readonly answerWithinMs: number; readonly quietMs: number },
): Promise<Looked> {
  const { copies, log } = await ask(client, clusterId, within);
  const plan = planRepair(clusterId, log, copies);
  const last = log.at(-1);
  const heard = new Set(copies.map(({ source }) => source));
  const events = plan ? plan.newest.events : [];
  return {
    plan,
    log,
    report: {
      clusterId,
      store: { version: last?.version ?? 0, hash: last?.hash ?? GENESIS_HASH },
      copies: copies.map(({ events: _, ...copy }) => copy),
      missing: membersOf(clusterId, log, plan).filter((node) => !heard.has(node)),
      astray: plan?.astray ?? [],
      repair: plan && {
        source: plan.newest.source,
        keepTo: plan.keepTo,
        append: events.map(shown),
        setAside: plan.setAside.map(shown),
        hash: plan.newest.hash,
      },
      repaired: false,
    },
  };
}

const shown = ({ version, event, actor, at }: RecordedEvent) => ({ version, event, actor, at });
const isRouter = (source: string): boolean => source.startsWith('router@'); // nodes' names have no @

/** Members of the ring as it will be; where nothing is to be repaired, as it is. */
function membersOf(clusterId: string, log: readonly RecordedEvent[], plan: Plan | null): NodeId[] {
  const whole = plan ? [...log.slice(0, plan.keepTo), ...plan.newest.events] : log;
  return fold(noRing(clusterId), whole).nodes.map(({ node }) => node);
}

function assertApproved(report: RepairReport, { hash, setAside = false, without = [] }: RepairRequest): void {
  const { clusterId, missing } = report;
  const repair = report.repair!;
  if (repair.hash !== hash)
    throw new CodedError(
      'RING_COPIES_CHANGED',
      `log of ${clusterId}: by now it would end with ${repair.hash.slice(0, 8)}, not with ${hash.slice(0, 8)}: look again`,
      { clusterId },
    );
  const unheard = missing.filter((node) => !without.includes(node));
  if (unheard.length > 0)
    throw new CodedError(
      'RING_COPY_MISSING',
      `log of ${clusterId}: ${unheard.join(', ')} did not answer and may have seen more: start what is down, or leave it out by name`,
      { clusterId, missing: unheard },
    );
  if (repair.setAside.length > 0 && !setAside)
    throw new CodedError(
      'RING_STORE_FORKED',
      `log of ${clusterId}: the store has ${repair.setAside.length} events behind version ${repair.keepTo} that ${repair.source} has never seen; they would be set aside`,
      { clusterId, versions: repair.setAside.map(({ version }) => version) },
    );
}

/** Asks until every member has answered and nobody else has for a moment, or the time is over. */
async function ask(
  client: pg.Client,
  clusterId: string,
  { answerWithinMs, quietMs }: { readonly answerWithinMs: number; readonly quietMs: number },
): Promise<{ copies: Copy[]; log: RecordedEvent[] }> {
  const id = randomUUID();
  const deadline = performance.now() + answerWithinMs;
  try {
    for (let heard = -1, since = performance.now(); ; ) {
      await client.query('SELECT pg_notify($1, $2)', [ASK_CHANNEL, `${clusterId} ${id}`]);
      await sleep(ASK_EVERY_MS);
      const copies = await readCopies(client, id);
      const log = (await client.query<EventRow>(SELECT_EVENTS, [clusterId, 0, null])).rows.map(eventOf);
      if (copies.length !== heard) [heard, since] = [copies.length, performance.now()];
      const isQuiet = performance.now() - since >= quietMs;
      const isOver = performance.now() >= deadline;
      if (isOver || (isQuiet && isComplete(clusterId, log, copies))) return { copies, log };
    }
  } finally {
    await client.query('DELETE FROM ringmaster_ring.copies WHERE ask = $1', [id]);
  }
}

function isComplete(clusterId: string, log: readonly RecordedEvent[], copies: readonly Copy[]): boolean {
  try {
    const heard = new Set(copies.map(({ source }) => source));
    return membersOf(clusterId, log, planRepair(clusterId, log, copies)).every((node) => heard.has(node));
  } catch (error) {
    if (error instanceof CodedError) return false; // who has not answered yet may change it; if not it is told in the end
    throw error;
  }
}

async function readCopies(client: pg.Client, ask: string): Promise<Copy[]> {
  const { rows } = await client.query<{
    source: string;
    version: string;
    hash: string;
    agrees_to: string | null;
    events: RecordedEvent[];
  }>(
    `SELECT c.source, c.version, c.hash, c.agrees_to, coalesce(e.events, '[]') AS events
     FROM ringmaster_ring.copies AS c
     LEFT JOIN LATERAL (
       SELECT json_agg(event ORDER BY version) AS events FROM ringmaster_ring.copy_events WHERE ask = c.ask AND source = c.source
     ) AS e ON true
     WHERE c.ask = $1 ORDER BY c.source`,
    [ask],
  );
  return rows.map(({ source, version, hash, agrees_to, events }) => ({
    source,
    version: Number(version),
    hash,
    agreesTo: agrees_to === null ? null : Number(agrees_to),
    events,
  }));
}

const EVENT_COLUMNS = 'cluster_id, version, id, type, data, actor, reason, operation, at, previous_hash, hash';

/** One transaction, alone among those who append. Throws RING_COPIES_CHANGED where somebody has appended since the look. */
async function append(
  client: pg.Client,
  clusterId: string,
  log: readonly RecordedEvent[],
  { newest, keepTo }: Plan,
  { actor, reason }: RequestAuthor,
): Promise<void> {
  await client.query('BEGIN');
  try {
    await client.query('SET LOCAL synchronous_commit = on');
    await client.query('LOCK TABLE ringmaster_ring.events IN EXCLUSIVE MODE');
    const now = await client.query<{ version: string; hash: string }>(
      'SELECT version, hash FROM ringmaster_ring.events WHERE cluster_id = $1 ORDER BY version DESC LIMIT 1',
      [clusterId],
    );
    if ((now.rows[0]?.hash ?? GENESIS_HASH) !== (log.at(-1)?.hash ?? GENESIS_HASH))
      throw new CodedError('RING_COPIES_CHANGED', `log of ${clusterId}: somebody has appended meanwhile: look again`, {
        clusterId,
      });
    const made = await client.query<{ id: string }>(
      `INSERT INTO ringmaster_ring.repairs (cluster_id, actor, reason, source, kept_to, appended_to)
       VALUES ($1, $2, $3, $4, $5, $6) RETURNING id`,
      [clusterId, actor, reason, newest.source, keepTo, newest.version],
    );
    if (log.length > keepTo) {
      await client.query(
        `INSERT INTO ringmaster_ring.set_aside (${EVENT_COLUMNS}, repair)
         SELECT ${EVENT_COLUMNS}, $3 FROM ringmaster_ring.events WHERE cluster_id = $1 AND version > $2`,
        [clusterId, keepTo, made.rows[0]!.id],
      );
      await client.query("SET LOCAL ringmaster.repairing = 'on'");
      await client.query('DELETE FROM ringmaster_ring.events WHERE cluster_id = $1 AND version > $2', [
        clusterId,
        keepTo,
      ]);
      await client.query("SET LOCAL ringmaster.repairing = 'off'");
    }
    for (const recorded of newest.events) {
      const { type, ...data } = recorded.event;
      await client.query(
        `INSERT INTO ringmaster_ring.events (${EVENT_COLUMNS}) VALUES ($1, $2, $3, $4, $5::json, $6, $7, $8, $9, $10, $11)`,
        [
          ...[clusterId, recorded.version, recorded.id, type, canonicalJson(data), recorded.actor, recorded.reason],
          ...[recorded.operation, recorded.at, recorded.previousHash, recorded.hash],
        ],
      );
    }
    await client.query("SELECT pg_notify('ringmaster_ring', $1)", [clusterId]);
    await client.query('COMMIT');
  } catch (error) {
    await client.query('ROLLBACK').catch(() => undefined);
    throw error;
  }
}

type RequestAuthor = Pick<RepairRequest, 'actor' | 'reason'>;
