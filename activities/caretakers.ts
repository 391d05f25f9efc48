/**
 * Reaching a node, also one that is half dead. Whose backend does not answer, and who is drained, is stood in for by a caretaker on its own database; where
 * that does not answer either the operation is blocked by NODE_LOST, which names what is at stake.
 */
import { cancellationSignal, sleep } from '@temporalio/activity';
import type { NodeControl } from '../dataplane/contract.ts';
import { createPool } from '../jobsdb/pool.ts';
import { CodedError, codeOf, describeError } from '../kit/errors.ts';
import { type Caretaker, openCaretaker } from '../node/caretaker.ts';
import { databaseUrl } from '../platform/platform.ts';
import type { NodeId } from '../ring/events.ts';
import { formatPartitions } from '../ring/partition.ts';
import { isDrained, partitionsOf, type Ring } from '../ring/ring.ts';
import { readRing } from '../ringstore/ringstore.ts';
import type { ActivityDeps } from './deps.ts';

/** Between two looks at a backend that does not answer. */
const LOOK_EVERY_MS = 500;

export type CaretakerDeps = Pick<ActivityDeps, 'ringStore' | 'endpointsOf' | 'controlOf' | 'log' | 'limits'>;

/**
 * The control of a node as `controlOf` gives it, while its backend answers. Only a node that is drained is stood in for: another's backend may be a moment away, and
 * whoever drained a node has said that it is out of service. Throws NODE_LOST, NODE_NOT_ADOPTED, and what is weather.
 */
export function createCaretakers(deps: CaretakerDeps): NonNullable<ActivityDeps['reach']> {
  const open = new Map<NodeId, { readonly caretaker: Caretaker; idle: NodeJS.Timeout | undefined }>();
  /** One at a time for each node: a second caretaker would end the first. */
  const turns = new Map<NodeId, Promise<unknown>>();

  function inTurn<T>(node: NodeId, run: () => Promise<T>): Promise<T> {
    const mine = (turns.get(node) ?? Promise.resolve()).then(run);
    turns.set(
      node,
      mine.catch(() => undefined),
    );
    return mine;
  }

  async function end(node: NodeId): Promise<void> {
    const found = open.get(node);
    open.delete(node);
    clearTimeout(found?.idle);
    await found?.caretaker.close().catch((error: unknown) => {
      deps.log.warn({ node, error: describeError(error) }, 'a caretaker did not end in order');
    });
  }

  /** Null where there is none, or a backend has become the node since: then it is asked, with patience, as it may be starting. */
  async function current(node: NodeId): Promise<NodeControl | null> {
    const found = open.get(node);
    if (!found) return null;
    const isCurrent = await found.caretaker.isCurrent().catch(() => false);
    if (!isCurrent) {
      await end(node);
      return null;
    }
    clearTimeout(found.idle);
    found.idle = setTimeout(() => void inTurn(node, () => end(node)), deps.limits.caretakerIdleMs).unref();
    return found.caretaker.steward;
  }

  async function standIn(clusterId: string, node: NodeId): Promise<NodeControl> {
    const { database } = await deps.endpointsOf(node);
    const { ringStore, log } = deps;
    await end(node);
    const caretaker = await openCaretaker({ node, clusterId, databaseUrl: databaseUrl(database), ringStore, log });
    open.set(node, { caretaker, idle: undefined });
    return (await current(node)) ?? caretaker.steward;
  }

  return async (clusterId, node) => {
    const signal = cancellationSignal();
    const since = performance.now();
    for (;;) {
      signal.throwIfAborted();
      // While ours is the latest instance no backend has started since: one that does not answer need not be asked, which takes seconds each time.
      const standingIn = open.has(node) ? await inTurn(node, () => current(node)) : null;
      if (standingIn) return standingIn;
      const silence = await silenceOf(deps, node);
      if (silence === null) return await deps.controlOf(node);
      const silentMs = performance.now() - since;
      const ring = await readRing(deps.ringStore, clusterId);
      const trouble = await databaseTrouble(deps, node);
      if (trouble === null) {
        if (!isDrained(ring, node)) throw silence; // weather: it is being started again
        if (silentMs >= deps.limits.standInAfterMs)
          return await inTurn(node, async () => (await current(node)) ?? (await standIn(clusterId, node)));
      } else if (silentMs >= deps.limits.lostAfterMs) throw lost(ring, node, silence, trouble);
      await sleep(LOOK_EVERY_MS);
    }
  };
}

/** Looks for as long as a node may be silent before it counts as lost. A node that the platform does not run answers nothing. */
export function createSignOfLife(deps: CaretakerDeps): NonNullable<ActivityDeps['signOfLife']> {
  return async (node) => {
    const since = performance.now();
    for (;;) {
      cancellationSignal().throwIfAborted();
      const isAbsent = (error: unknown): true => {
        if (codeOf(error) === 'NODE_ABSENT') return true;
        throw error;
      };
      if ((await silenceOf(deps, node).catch(isAbsent)) === null) return 'backend';
      if ((await databaseTrouble(deps, node).catch(isAbsent)) === null) return 'database';
      if (performance.now() - since >= deps.limits.lostAfterMs) return null;
      await sleep(LOOK_EVERY_MS);
    }
  };
}

/** Null where the node's backend answers. */
async function silenceOf(deps: CaretakerDeps, node: NodeId): Promise<Error | null> {
  try {
    await (await deps.controlOf(node)).status(cancellationSignal());
    return null;
  } catch (error) {
    if (error instanceof CodedError) throw error; // it answers, and refuses; or the platform does not run it
    return error instanceof Error ? error : new Error(String(error));
  }
}

/** Null where the node's PostgreSQL answers. */
async function databaseTrouble({ endpointsOf }: CaretakerDeps, node: NodeId): Promise<Error | null> {
  const { database } = await endpointsOf(node);
  const pool = createPool({ ...database, application_name: 'ringmaster look', max: 1, query_timeout: 5_000 });
  try {
    await pool.query('SELECT 1');
    return null;
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  } finally {
    await pool.end();
  }
}

function lost(ring: Ring, node: NodeId, backend: Error, database: Error): CodedError {
  const partitions = partitionsOf(ring, node);
  const open = ring.moves.flatMap(({ move, from, to, state }) =>
    state === 'handed over' && (from === node || to === node) ? [move] : [],
  );
  const atRisk =
    partitions.length > 0
      ? `partitions ${formatPartitions(partitions)} (${partitions.length}) are at risk`
      : 'it owns no partition';
  const moves = open.length > 0 ? `, and what is not put away yet of ${open.join(', ')}` : '';
  return new CodedError(
    'NODE_LOST',
    `neither the backend of ${node} nor its PostgreSQL answers: ${atRisk}${moves}. Nothing of it is given away or skipped; it goes on once the database is back (backend: ${backend.message}; database: ${database.message})`,
    { node, partitions, moves: open },
  );
}
