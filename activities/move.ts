/**
 * The activities of a move (ARCHITECTURE.md, "A move, step by step"). `preCopy` copies while everything goes on; `cutOver` is the only pause, one activity
 * close to the databases, so that no scheduling delay sits inside it; `cleanUp` waits until source and target have done the rest by themselves.
 *
 * Every attempt claims the move in the log first. Its position is the token under which nodes obey, the target takes writes, and the hand-over is decided.
 */
import { activityInfo, cancellationSignal, heartbeat } from '@temporalio/activity';
import { ApplicationFailure } from '@temporalio/common';
import type pg from 'pg';
import type { ImportTarget, MoveCommand, NodeControl } from '../dataplane/contract.ts';
import { certify } from '../jobsdb/certificate.ts';
import { type CopyJob, openCopy, withCopy } from '../jobsdb/copy.ts';
import { createPool } from '../jobsdb/pool.ts';
import { preflight } from '../jobsdb/preflight.ts';
import type { Prefix } from '../jobsdb/sql/schema.ts';
import type { ThrottleState } from '../jobsdb/throttle.ts';
import { troubleOf } from '../jobsdb/trouble.ts';
import { CodedError, codeOf, describeError } from '../kit/errors.ts';
import type { NodeEndpoints, Room } from '../platform/platform.ts';
import type { RingCommand } from '../ring/decide.ts';
import type { MoveCertificate, MoveProof, NodeId } from '../ring/events.ts';
import { type MoveRecord, movesOf } from '../ring/moves.ts';
import { fold, moveOf, noRing, type Ring } from '../ring/ring.ts';
import { type Authorship, decideAndAppend } from '../ringstore/ringstore.ts';
import { afterPasses, arrivalsOutrunCopy, type PassSeen } from './arrivals.ts';
import { type ActivityDeps, reachingIn } from './deps.ts';
import { beating, refusingByType } from './errors.ts';
import { faultPoint } from './fault-points.ts';
import { moveHistory } from './log-views.ts';
import { waitFolded, waitSettled } from './node-status.ts';
import { createPace, type Pace } from './pace.ts';
import type { CopyProgress, CutOverResult, MoveActivities, MoveActivityInput } from './types.ts';

/** For what is in flight at the quiesce: the reference node's delivery timeout (10 s) and a second. */
const QUIESCE_LIMIT_MS = 11_000;
/** How long a source stays fenced before it lifts its fence itself. Clients of the held partitions wait for this long at worst. */
const HOLD_DEADLINE_MS = 10_000;
/** Of one statement of ours, whatever a role's own default is: as long as an attempt may take. The server ends it where nobody is there any more who would. */
const STATEMENT_MS_MAX = 43_200_000;
/** No byte of a statement came or went for so long: its peer is stopped. Longer than it takes to count what is pending of 100 million rows. */
const SILENCE_MS_MAX = 600_000;
/**
 * Of a session that does nothing in a transaction: the server ends it. A writer waits in one for two answers of the source, each within SILENCE_MS_MAX, and a minute. For
 * whom nobody overtakes: a worker that is stopped, or cut off without a word, would hold back what its node's PostgreSQL clears away.
 */
const IDLE_IN_TRANSACTION_MS_MAX = 1_260_000;
/** What the log keeps of an accepted difference. */
const DIFFERENCE_LENGTH_MAX = 2_000;
/** We stop before the source does: an append that races with its dead-man would be lost work. */
const HOLD_MARGIN_MS = 2_000;

const UNTHROTTLED: ThrottleState = { throttledBy: null, bytesPerSecond: null };

export function createMoveActivities(deps: ActivityDeps): MoveActivities {
  const pools = createPools();

  /** What an attempt works with. Throws RingRefusal MOVE_ABORTED or MOVE_HANDED_OVER where the move is past it. */
  async function claim(
    input: MoveActivityInput,
  ): Promise<{ command: MoveCommand; source: NodeControl; target: NodeControl; ring: Ring }> {
    const { workflowExecution, activityId, attempt } = activityInfo();
    // New token before anything else: an older attempt that wakes now is refused instead of writing behind us.
    const name = `${workflowExecution?.runId}/${activityId}/${attempt}`;
    const { ring } = await append(input, { type: 'claim move', holder: input.holder, move: input.move, attempt: name });
    const token = moveOf(ring, input.move)!.token;
    const { controlOf } = reachingIn(deps, input.clusterId);
    const [source, target] = await Promise.all([controlOf(input.from), controlOf(input.to)]);
    return { command: { move: input.move, token, partitions: input.partitions }, source, target, ring };
  }

  function append(input: MoveActivityInput, command: RingCommand, from?: Ring): ReturnType<typeof decideAndAppend> {
    const by: Authorship = { actor: deps.actor, reason: input.reason, operation: input.operationId };
    return decideAndAppend(deps.ringStore, input.clusterId, command, by, from ? { from } : {});
  }

  async function latestRing({ clusterId }: MoveActivityInput, known: Ring): Promise<Ring> {
    return fold(known, await deps.ringStore.read(clusterId, known.version));
  }

  /** Nodes whose room could not be told, which the log has named. */
  const roomUnknown = new Set<NodeId>();

  /** A platform that is away, or has no right to look, stops no move: those to nodes that run need none. */
  async function roomOf(node: NodeId): Promise<Room | null> {
    let why = 'its platform does not know';
    const room = await deps.platform.roomOf(node).catch((error: unknown) => {
      why = describeError(error);
      return null;
    });
    if (room) roomUnknown.delete(node);
    else if (!roomUnknown.has(node)) {
      roomUnknown.add(node);
      deps.log.warn({ node, why }, 'how much room its disk has cannot be told: moves to it are not refused for that');
    }
    return room;
  }

  /** Refuses, by name, what would fail in the middle of a copy. `volume`: the target's, where room is asked for. */
  async function check(input: MoveActivityInput, volume: Room | null): Promise<void> {
    const [from, to] = await Promise.all([deps.endpointsOf(input.from), deps.endpointsOf(input.to)]);
    await preflight({
      source: { node: input.from, pool: pools.of(from, input.from) },
      target: { node: input.to, pool: pools.of(to, input.to) },
      move: input.move,
      ...(volume ? { room: { partitions: input.partitions, volume } } : {}),
    });
  }

  async function copyJob(
    input: MoveActivityInput,
    command: MoveCommand,
    prepared: ImportTarget,
    more: Pick<CopyJob, 'onRows' | 'throttle'> = {},
  ): Promise<CopyJob> {
    const [from, to] = await Promise.all([deps.endpointsOf(input.from), deps.endpointsOf(input.to)]);
    return {
      source: pools.of(from, input.from),
      target: pools.of(to, input.to),
      move: input.move,
      token: command.token,
      partitions: input.partitions,
      datasets: prepared.datasets.map(({ prefix, dataset }) => ({ prefix: prefix as Prefix, dataset })),
      signal: cancellationSignal(),
      ...more,
    };
  }

  return refusingByType<MoveActivities>({
    /** Repeatable: rows and ledger commit together in the target, so a rerun goes on after the last commit. */
    async preCopy(input) {
      let pace: Pace | null = null;
      let jobsCopied = 0;
      const progress = (): CopyProgress => ({ move: input.move, jobsCopied, ...(pace?.state() ?? UNTHROTTLED) });
      const run = async (): Promise<{ jobsCopied: number; passes: number }> => {
        const { command, source, target, ring } = await claim(input);
        await faultPoint('preCopy: claimed');
        await check(input, await roomOf(input.to)); // before anything of it is at the target
        const prepared = await target.prepare(command, cancellationSignal());
        await faultPoint('preCopy: target prepared');
        await check(input, null); // and what was made for it
        const { ringStore, log } = deps;
        pace = createPace({ ringStore, ring, source, target, move: input.move, signal: cancellationSignal(), log });
        const job = await copyJob(input, command, prepared, {
          throttle: pace.throttle,
          onRows: (rows) => {
            jobsCopied += rows;
            heartbeat(progress()); // for people: where to go on from stands in the ledger
          },
        });
        return withCopy(job, async (copy) => {
          const passes: PassSeen[] = [];
          for (;;) {
            const startedAt = performance.now();
            const { jobs, statuses } = await copy.pass();
            passes.push({ rows: jobs + statuses, startedAt, endedAt: performance.now() });
            const next = afterPasses(passes);
            await faultPoint('preCopy: pass copied');
            if (next === 'cut over') return { jobsCopied, passes: passes.length };
            if (next !== 'next pass') throw arrivalsOutrunCopy(input.move, next, pace?.state() ?? UNTHROTTLED);
          }
        });
      };
      return beating(run, progress)
        .finally(() => pace?.stop())
        .catch(byName)
        .catch(staleIsWeather);
    },

    async cutOver(input) {
      return beating(() =>
        cutOver(input).catch(async (error: unknown) => {
          const ended = await endOf(input, error);
          if (ended === null) throw error;
          return ended;
        }),
      )
        .catch(byName)
        .catch(staleIsWeather);
    },

    /** Nothing is done here that the nodes do not do by themselves: it waits for them, certifies what they hold, and writes down that the move is over. */
    async cleanUp(input) {
      await beating(async () => {
        const events = await deps.ringStore.read(input.clusterId);
        const move = moveOf(fold(noRing(input.clusterId), events), input.move);
        if (!move) return; // completed by an earlier attempt
        const reaching = reachingIn(deps, input.clusterId);
        await waitFolded(reaching, input.to, move.handedOverAt);
        await waitSettled(reaching, input.from, move.handedOverAt);
        await faultPoint('cleanUp: nodes settled');
        // While the move is open neither node drops anything of it: both sides can be read as they were.
        try {
          const certificate = await certificateOf(input, movesOf(events).get(input.move)!);
          await faultPoint('cleanUp: certified');
          await append(input, { type: 'complete move', move: input.move, certificate });
        } catch (error) {
          if (!input.accept || codeOf(error) !== 'CERTIFICATE_MISMATCH') throw error;
          const accepted = { ...input.accept, difference: describeDifference(error) };
          deps.log.warn({ move: input.move, ...accepted }, 'a difference is accepted');
          await append(input, { type: 'accept difference', move: input.move, accepted });
        }
      });
    },
  });

  /** From the claim to the hand-over. Whatever goes wrong after the quiesce is undone at once by aborting the move, which lifts its fence. */
  async function cutOver(input: MoveActivityInput): Promise<CutOverResult> {
    const { command, source, target, ring } = await claim(input);
    await faultPoint('cutOver: claimed');
    const signal = cancellationSignal();
    const lap = stopwatch();
    const copy = await openCopy(await copyJob(input, command, await target.prepare(command, signal)));
    lap('prepare');
    let failed = true;
    try {
      await faultPoint('cutOver: target prepared');
      // Everything once while nobody waits: what came since the pre-copy, on connections that have planned their statements when the pause begins.
      await copy.pass();
      await copy.reserve();
      lap('before');
      await faultPoint('cutOver: caught up');
      await source.quiesce({ ...command, limitMs: QUIESCE_LIMIT_MS }, signal);
      lap('quiesce');
      await faultPoint('cutOver: quiesced');
      await copy.pass(); // the delta before the fence: what remains for the hold is what comes in during this pass
      await copy.reserve();
      // So that the hold has one append in it, on a connection that is open, and no reading of the log.
      const from = await latestRing(input, ring);
      lap('delta');
      await faultPoint('cutOver: delta copied');
      await source.fence({ ...command, holdDeadlineMs: HOLD_DEADLINE_MS }, signal);
      const fenceMs = lap('fence');
      await faultPoint('cutOver: fenced');
      await copy.pass({ fenced: true });
      const restMs = lap('rest');
      await faultPoint('cutOver: last rows copied');
      const proof = await copy.verify();
      await faultPoint('cutOver: verified');
      const heldMs = fenceMs + restMs + lap('verify');
      if (heldMs > HOLD_DEADLINE_MS - HOLD_MARGIN_MS)
        return await abort(input, 'HOLD_DEADLINE', `the last rows took ${Math.round(heldMs)} ms`);
      signal.throwIfAborted();
      await faultPoint('cutOver: about to hand over');
      await append(input, { type: 'hand over', move: input.move, token: command.token, proof }, from);
      await faultPoint('cutOver: handed over');
      lap('handOver');
      failed = false;
      deps.log.info({ move: input.move, claim: command.token, jobs: proof.jobsPending, ms: lap.laps }, 'cut over');
      return handedOver(proof);
    } catch (error) {
      if (signal.aborted || isPastAborting(error)) throw error; // a cancelled move is aborted by its workflow, which must know who won
      const trouble = troubleOf(error);
      deps.log.warn({ move: input.move, error: describeError(trouble) }, 'cut-over undone');
      return abort(
        input,
        trouble instanceof CodedError ? trouble.code : 'CUT_OVER_FAILED',
        trouble instanceof CodedError ? trouble.message : describeError(trouble),
      );
    } finally {
      copy.close(failed);
    }
  }

  /** Throws CERTIFICATE_MISMATCH: the operation is blocked with the numbers, and nothing is deleted. */
  async function certificateOf(input: MoveActivityInput, record: MoveRecord): Promise<MoveCertificate> {
    const since = performance.now();
    const { partitions, handedOver, proof, startedAt, reason, operation } = record;
    const [from, to] = await Promise.all([deps.endpointsOf(record.from), deps.endpointsOf(record.to)]);
    const [source, target] = [pools.of(from, record.from), pools.of(to, record.to)];
    const tables = await certify({ source, target, move: record.move, partitions, proof: proof! });
    const jobs = tables.reduce((sum, table) => sum + table.jobs, 0);
    deps.log.info({ move: record.move, jobs, ms: Math.round(performance.now() - since) }, 'move certified');
    return {
      form: 1,
      handedOverAt: handedOver!.version,
      epoch: handedOver!.epoch,
      times: { started: startedAt, handedOver: handedOver!.at },
      askedBy: { actor: input.askedBy ?? record.actor, reason, operation },
      jobs,
      tables,
    };
  }

  async function abort(input: MoveActivityInput, code: string, because: string): Promise<CutOverResult> {
    await append(input, { type: 'abort move', move: input.move, because: `${code}: ${because}` });
    return { result: 'aborted', code, because };
  }

  /** How a move ended that an attempt finds ended: by an earlier attempt whose answer was lost, or by the source's dead-man. Null: it has not. */
  async function endOf(input: MoveActivityInput, error: unknown): Promise<CutOverResult | null> {
    if (!isPastAborting(error) || codeOf(error) === 'STALE_TOKEN') return null;
    const history = moveHistory(await deps.ringStore.read(input.clusterId), input.move);
    if (history.proof) return handedOver(history.proof);
    if (history.state !== 'aborted') return null;
    return { result: 'aborted', code: 'MOVE_ABORTED', because: history.because ?? 'aborted' };
  }
}

const handedOver = (proof: MoveProof): CutOverResult => ({
  result: 'handed over',
  jobsMoved: proof.jobsPending,
  jobsCopied: proof.jobsCopied,
});

/** Counts and sums of both sides; no content, as a certificate has none. */
function describeDifference(error: unknown): string {
  const found: unknown = error instanceof CodedError ? error.details['differences'] : undefined;
  const text = Array.isArray(found) ? found.join('; ') : error instanceof Error ? error.message : String(error);
  return text.slice(0, DIFFERENCE_LENGTH_MAX);
}

/** The move is not this attempt's to abort: it has ended, or a newer attempt has claimed it. */
const isPastAborting = (error: unknown): boolean =>
  ['MOVE_ABORTED', 'MOVE_HANDED_OVER', 'STALE_TOKEN'].includes(codeOf(error) ?? '');

/** What a database says in the middle of a move, by its name where it has one. */
function byName(error: unknown): never {
  throw troubleOf(error, activityInfo().attempt);
}

/** A stale attempt has nothing to say; if it is the current one after all (a newer was lost), the retry claims anew. */
function staleIsWeather(error: unknown): never {
  const type = error instanceof ApplicationFailure ? error.type : codeOf(error);
  if (type === 'STALE_TOKEN') throw new Error(`${describeError(error)}: claimed again`, { cause: error });
  throw error;
}

/** How long each step took, in milliseconds: what a person looks for when a hold was long. */
function stopwatch(): { (step: string): number; readonly laps: Record<string, number> } {
  let since = performance.now();
  const laps: Record<string, number> = {};
  const lap = (step: string): number => {
    const at = performance.now();
    const took = at - since;
    laps[step] = Math.round(took * 10) / 10;
    since = at;
    return took;
  };
  return Object.assign(lap, { laps });
}

/** One small pool for each database, closed by idleness: a move must not wait for connections in its hold. */
function createPools(): { of(endpoints: Pick<NodeEndpoints, 'database'>, node: NodeId): pg.Pool } {
  const pools = new Map<string, pg.Pool>();
  return {
    of({ database }, node) {
      const key = JSON.stringify(database);
      let pool = pools.get(key);
      if (!pool) {
        pool = createPool({
          ...database,
          node,
          max: 8,
          application_name: 'ringmaster mover',
          statement_timeout: STATEMENT_MS_MAX,
          silenceMsMax: SILENCE_MS_MAX,
          idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_MS_MAX,
          idleTimeoutMillis: 30_000,
          allowExitOnIdle: true,
        });
        pools.set(key, pool);
      }
      return pool;
    },
  };
}
