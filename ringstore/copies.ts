/**
 * How those who follow a log tell what they have seen of it, when `ring repair` asks: over the ring store itself, which all of them reach, so nobody has to know
 * where routers are. The question is a notification, repeated until all have answered; an answer is rows of `copies` and `copy_events`.
 */
import type pg from 'pg';
import type { RecordedEvent } from '../ring/events.ts';
import { GENESIS_HASH } from './chain.ts';
import type { LogCopy } from './ringstore.ts';

/** Payload: `<cluster> <ask>`. */
export const ASK_CHANNEL = 'ringmaster_copies';
/** Events in one insert of an answer. */
const PAGE = 200;

/** The ask in a notification's payload, if it is about this cluster. */
export function askOf(payload: string | undefined, clusterId: string): string | null {
  const [cluster, ask] = (payload ?? '').split(' ');
  return cluster === clusterId && ask ? ask : null;
}

/** Tells what `copy` holds, and gives all of it that the log in the store does not. Repeated: nothing, once it was answered. One transaction. */
export async function answerAsk(client: pg.ClientBase, clusterId: string, ask: string, copy: LogCopy): Promise<void> {
  const range = await copy.range();
  if (!range) return; // it has seen nothing yet
  await client.query('BEGIN');
  try {
    const [last] = await copy.read(range.last - 1, 1);
    if (!last) throw new Error(`the copy of ${copy.source} ends before version ${range.last}`);
    const agreesTo = await agreement(client, clusterId, copy, range);
    const { rowCount } = await client.query(
      `INSERT INTO ringmaster_ring.copies (ask, source, cluster_id, version, hash, agrees_to) VALUES ($1, $2, $3, $4, $5, $6)
       ON CONFLICT DO NOTHING`,
      [ask, copy.source, clusterId, range.last, last.hash, agreesTo],
    );
    if (rowCount === 1 && agreesTo !== null) await giveEvents(client, ask, copy, agreesTo);
    await client.query('COMMIT');
  } catch (error) {
    await client.query('ROLLBACK').catch(() => undefined); // a lost connection has rolled back by itself
    throw error;
  }
}

async function giveEvents(client: pg.ClientBase, ask: string, copy: LogCopy, after: number): Promise<void> {
  for (let from = after; ; ) {
    const events = await copy.read(from, PAGE);
    if (events.length === 0) return;
    await client.query(
      `INSERT INTO ringmaster_ring.copy_events (ask, source, version, event)
       SELECT $1, $2, v, e::json FROM unnest($3::bigint[], $4::text[]) AS t (v, e)`,
      [ask, copy.source, events.map(({ version }) => version), events.map((event) => JSON.stringify(event))],
    );
    from = events.at(-1)!.version;
  }
}

/**
 * The last version at which copy and store have the same event; null where that lies before the copy's beginning. Logs that agree somewhere agree on everything
 * before it (each event carries the hash of the one before), so it is found by halving.
 */
async function agreement(
  client: pg.ClientBase,
  clusterId: string,
  copy: LogCopy,
  range: { readonly first: number; readonly last: number },
): Promise<number | null> {
  const hashHere = async (version: number): Promise<string | undefined> => {
    if (version === 0) return GENESIS_HASH;
    if (version < range.first) return (await copy.read(version, 1))[0]?.previousHash;
    return (await copy.read(version - 1, 1))[0]?.hash;
  };
  const hashThere = async (version: number): Promise<string | undefined> => {
    if (version === 0) return GENESIS_HASH;
    const found = await client.query<{ hash: string }>(
      'SELECT hash FROM ringmaster_ring.events WHERE cluster_id = $1 AND version = $2',
      [clusterId, version],
    );
    return found.rows[0]?.hash;
  };
  const isSame = async (version: number): Promise<boolean> => (await hashHere(version)) === (await hashThere(version));
  if (await isSame(range.last)) return range.last;
  let same = range.first - 1;
  if (!(await isSame(same))) return null;
  for (let differs = range.last; differs - same > 1; ) {
    const middle = Math.floor((same + differs) / 2);
    if (await isSame(middle)) same = middle;
    else differs = middle;
  }
  return same;
}

/** A copy that is held in memory, oldest first. */
export function copyOf(source: string, events: () => readonly RecordedEvent[]): LogCopy {
  return {
    source,
    range: async () => {
      const [first, last] = [events()[0], events().at(-1)];
      return first && last ? { first: first.version, last: last.version } : null;
    },
    read: async (after, limit) =>
      events()
        .filter(({ version }) => version > after)
        .slice(0, limit),
  };
}
