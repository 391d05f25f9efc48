/**
 * The ring's activities: each is one decision on the latest ring and one conditional append, and can be repeated.
 */
import { RingRefusal } from '../ring/decide.ts';
import type { HolderIdentity, MoveId, RecordedEvent } from '../ring/events.ts';
import { fold, limitsOf, noRing, type OpenMove, type Ring } from '../ring/ring.ts';
import { planUndo } from '../ring/undo.ts';
import { type Authorship, decideAndAppend, readRing } from '../ringstore/ringstore.ts';
import type { ActivityDeps } from './deps.ts';
import { refusingByType } from './errors.ts';
import { faultPoint } from './fault-points.ts';
import { moveHistory, moveIdOf, movePrefix, summarizeRing } from './log-views.ts';
import { assertNobodyHasSeenMore } from './store-behind.ts';
import type { AbortAnswer, Asking, FreezeInput, Frozen, RingActivities, StartedMove, StartMoveInput } from './types.ts';

export type RingDeps = Pick<ActivityDeps, 'ringStore' | 'holders' | 'actor' | 'log'> &
  Partial<Pick<ActivityDeps, 'controlOf'>>;

export function createRingActivities(deps: RingDeps): RingActivities {
  const { ringStore, log } = deps;
  const authorship = (asking: Asking): Authorship => ({
    actor: deps.actor,
    reason: asking.reason,
    operation: asking.operationId,
  });

  /** Aborts `move` unless its hand-over won, and tells which. */
  async function abort(asking: Asking, move: MoveId, because: string): Promise<AbortAnswer> {
    try {
      const { events } = await decideAndAppend(
        ringStore,
        asking.clusterId,
        { type: 'abort move', move, because },
        authorship(asking),
      );
      if (events.length > 0) return { result: 'aborted' };
    } catch (error) {
      if (!(error instanceof RingRefusal && error.code === 'MOVE_HANDED_OVER')) throw error;
    }
    const { state, proof } = moveHistory(await ringStore.read(asking.clusterId), move);
    if (state !== 'handed over' && state !== 'completed') return { result: 'aborted' };
    return { result: state, jobsMoved: proof?.jobsPending ?? 0, jobsCopied: proof?.jobsCopied ?? 0 };
  }

  async function freeze({ clusterId, operationId, reason, by }: FreezeInput): Promise<Frozen> {
    const asking = { clusterId, operationId, reason };
    if (deps.controlOf) await assertNobodyHasSeenMore(ringStore, clusterId, deps.controlOf);
    const before = (await readRing(ringStore, clusterId)).freeze;
    const ended = before && !isSame(before, by) ? await deps.holders.endOf(before) : null;
    // Conditional on the very freeze whose run was looked at: one that is newer by now is left alone (RING_BUSY).
    const takeOver = before && ended !== null ? { takeOverFrom: before.holder, because: ended } : {};
    const { ring } = await decideAndAppend(
      ringStore,
      clusterId,
      { type: 'freeze', by, ...takeOver },
      authorship(asking),
    );
    const events = await ringStore.read(clusterId);
    const taken = events.find(({ event }) => event.type === 'freeze taken over' && event.runId === by.runId)?.event;
    // Read from the log rather than from `before`: a repetition of this activity tells the same.
    const takenOverFrom =
      taken?.type === 'freeze taken over'
        ? { operationId: operationOfHolder(events, taken.from), because: taken.because }
        : null;
    if (takenOverFrom)
      log.warn(
        { clusterId, operationId, from: takenOverFrom.operationId, because: takenOverFrom.because },
        'freeze taken over',
      );
    return {
      holder: ring.freeze!.holder,
      takenOverFrom,
      leftovers: ring.moves
        .filter((open) => !open.move.startsWith(`${operationId}/`))
        .map(({ move, from, to, partitions, state }) => ({ move, from, to, partitions, state })),
      ring: summarizeRing(ring),
      movesPerNode: limitsOf(ring).movesPerNode,
    };
  }

  async function startMove(input: StartMoveInput): Promise<StartedMove> {
    const { clusterId, operationId, n, holder, from, to, partitions } = input;
    const prefix = movePrefix(operationId, n);
    const events = await ringStore.read(clusterId);
    const ring = fold(noRing(clusterId), events);
    const wanted = moveIdOf(operationId, n, input.tryFrom);
    const earlier = ring.moves.find((open) => open.move.startsWith(prefix));
    if (earlier?.state === 'started' && earlier.move === wanted) return started(earlier.move, input.tryFrom);
    if (earlier) {
      // A child workflow of this move was lost (terminated by hand, say) and left it open.
      const answer = await abort(input, earlier.move, 'its workflow was lost');
      if (answer.result !== 'aborted') return finished(answer, earlier.move);
      return startMove(input);
    }
    const lastTry = highestTry(events, prefix);
    const last = lastTry > 0 ? moveHistory(events, moveIdOf(operationId, n, lastTry)) : null;
    if (last?.state === 'completed') {
      const { jobsPending = 0, jobsCopied = 0 } = last.proof ?? {};
      return finished({ result: 'completed', jobsMoved: jobsPending, jobsCopied }, moveIdOf(operationId, n, lastTry));
    }
    // An aborted try is never taken up again: its copy is being forgotten.
    const nextTry = Math.max(input.tryFrom, lastTry + 1);
    const move = moveIdOf(operationId, n, nextTry);
    await decideAndAppend(
      ringStore,
      clusterId,
      { type: 'start move', holder, move, from, to, partitions },
      authorship(input),
    );
    return started(move, nextTry);
  }

  return refusingByType<RingActivities>({
    /** Reads only. */
    async readRing({ clusterId }) {
      const ring = await readRing(ringStore, clusterId);
      if (ring.version === 0) throw new RingRefusal('CLUSTER_UNKNOWN', `there is no cluster ${clusterId}`);
      return summarizeRing(ring);
    },

    /** Repeated: the ring was made by this very call, before its answer was lost. */
    async makeRing(input) {
      const { clusterId, partitionCount, nodes } = input;
      try {
        const made = await decideAndAppend(
          ringStore,
          clusterId,
          { type: 'make ring', clusterId, partitionCount, nodes },
          authorship(input),
        );
        return { version: made.ring.version };
      } catch (error) {
        if (!(error instanceof RingRefusal && error.code === 'CLUSTER_EXISTS')) throw error;
        const first = (await ringStore.read(clusterId))[0];
        if (first?.operation !== input.operationId) throw error;
        return { version: first.version };
      }
    },

    /** Repeated: the same run holds the ring already, and gets the same answer. */
    freeze,

    /** Repeated: nothing is held by this run any more. */
    async unfreeze({ clusterId, operationId, reason, by }) {
      const asking = { clusterId, operationId, reason };
      const ring = await readRing(ringStore, clusterId);
      if (!ring.freeze || !isSame(ring.freeze, by)) return { unfrozen: false, version: ring.version };
      for (const open of startedMoves(ring)) await abort(asking, open.move, 'its operation ends');
      await faultPoint('unfreeze: moves aborted');
      const { holder } = ring.freeze;
      const done = await decideAndAppend(ringStore, clusterId, { type: 'unfreeze', holder }, authorship(asking));
      return { unfrozen: true, version: done.ring.version };
    },

    /** Repeated: a member with the same database and address stays as it is. */
    async joinNode(input) {
      const { clusterId, holder, facts } = input;
      const { ring } = await decideAndAppend(
        ringStore,
        clusterId,
        { type: 'join node', holder, facts },
        authorship(input),
      );
      return { version: ring.version };
    },

    /** Repeated: who is marked already stays so. */
    async markNodes(input) {
      const { clusterId, holder, drains, activates } = input;
      let { version } = await readRing(ringStore, clusterId);
      const commands = [
        ...activates.map((node) => ({ type: 'activate node', node }) as const),
        ...drains.map((node) => ({ type: 'drain node', holder, node }) as const),
      ];
      for (const command of commands)
        version = (await decideAndAppend(ringStore, clusterId, command, authorship(input))).ring.version;
      return { version };
    },

    /** Repeated: the try that this call has started is found and returned, not started twice. */
    startMove,

    /** Reads only. */
    async planUndo({ clusterId, operation, partitionsPerMoveMax }) {
      const events = await ringStore.read(clusterId);
      return planUndo(events, operation, partitionsPerMoveMax === undefined ? {} : { partitionsPerMoveMax });
    },

    /** Repeated: tells again how the move ended. */
    async abortMove(input) {
      return abort(input, input.move, input.because);
    },
  });
}

const startedMoves = (ring: Ring): OpenMove[] => ring.moves.filter((open) => open.state === 'started');
const isSame = (a: HolderIdentity, b: HolderIdentity): boolean => a.runId === b.runId && a.workflowId === b.workflowId;
const started = (move: MoveId, tryNumber: number): StartedMove => ({
  move,
  try: tryNumber,
  state: 'started',
  jobsMoved: 0,
  jobsCopied: 0,
});

function finished(answer: Exclude<AbortAnswer, { result: 'aborted' }>, move: MoveId): StartedMove {
  return { move, try: tryOf(move), state: answer.result, jobsMoved: answer.jobsMoved, jobsCopied: answer.jobsCopied };
}

const tryOf = (move: MoveId): number => Number(move.slice(move.lastIndexOf('.') + 1));

function highestTry(events: readonly RecordedEvent[], prefix: string): number {
  let highest = 0;
  for (const { event } of events) {
    if (event.type === 'move started' && event.move.startsWith(prefix)) highest = Math.max(highest, tryOf(event.move));
  }
  return highest;
}

function operationOfHolder(events: readonly RecordedEvent[], holder: number): string {
  for (const { event } of events) {
    if ((event.type === 'ring frozen' || event.type === 'freeze taken over') && event.holder === holder)
      return event.operationId;
  }
  return 'unknown';
}
