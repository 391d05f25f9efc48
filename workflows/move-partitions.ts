/**
 * Moves a few partitions from one node to another: start, pre-copy, cut-over, clean up.
 * Holds: each try is over (aborted or handed over) before the next begins, and before this ends; after the hand-over it only goes forward.
 * Cancelled before the hand-over the try is aborted; which of the two came first is decided by the ring's log alone.
 */
import { CancellationScope, isCancellation, setHandler, sleep } from '@temporalio/workflow';
import type { AbortAnswer, AskingAsHolder, MoveActivityInput, StartedMove } from '../activities/types.ts';
import { formatPartitions } from '../ring/partition.ts';
import { call, cleanUp, cutOver, preCopy, ring } from './activities.ts';
import { type Refusal, refusalOf } from './failures.ts';
import { type MoveInput, type MoveOutcome, type MoveStatus, moveStatusQuery } from './messages.ts';

/** Tries that end for one reason before a person is asked: the third time a slow destination is no coincidence. */
const TRIES_FOR_ONE_REASON = 3;
const FIRST_BACKOFF_MS = 1_000; // a delivery in flight is mostly over by then
const BACKOFF_FACTOR = 4; // 1 s, 4 s: users of these partitions feel each try's pause

/** Refusals that another try may get past; others are the same the next time. A cut-over that undid itself may always be tried again. */
const TRY_AGAIN: ReadonlySet<string> = new Set([
  'QUIESCE_TIMEOUT',
  'HOLD_DEADLINE',
  'VERIFY_MISMATCH',
  'SOURCE_DATASET_GONE',
  'ARRIVALS_OUTRUN_COPY',
  'MOVE_ABORTED',
  'STALE_TOKEN',
]);

type Jobs = { readonly jobsMoved: number; readonly jobsCopied: number };
type TryResult =
  | ({ readonly end: 'handed over' | 'completed' } & Jobs)
  | { readonly end: 'cancelled' }
  | ({ readonly end: 'over'; readonly mayTryAgain: boolean } & Refusal);

export async function MovePartitions(input: MoveInput): Promise<MoveOutcome> {
  const status: Writable<MoveStatus> = {
    state: 'waiting',
    move: null,
    tries: (input.tryFrom ?? 1) - 1,
    lastAbort: null,
  };
  setHandler(moveStatusQuery, () => status);
  const endings = new Map<string, number>();
  const none = { n: input.n, jobsMoved: 0, jobsCopied: 0, code: null, because: null };
  for (;;) {
    const ended = await oneTry(input, status);
    const { tries, move } = status;
    if (ended.end === 'cancelled') return { ...none, result: 'aborted', tries, move };
    if (ended.end !== 'over') {
      const { jobsMoved, jobsCopied } = ended;
      const trouble = ended.end === 'handed over' ? await tidy(input, status) : null;
      status.state = 'done';
      // Handed over and not cleaned up: the next child finds that in the log and goes on there.
      if (trouble) {
        const { code, message: because, threshold } = trouble;
        return {
          ...none,
          result: 'blocked',
          tries,
          move,
          code,
          because,
          handedOver: true,
          ...(threshold ? { threshold } : {}),
        };
      }
      return { ...none, result: 'completed', tries, move, jobsMoved, jobsCopied };
    }
    const { code, message, mayTryAgain, threshold = mayTryAgain ? `${TRIES_FOR_ONE_REASON} tries` : undefined } = ended;
    status.state = 'waiting';
    status.lastAbort = `${code}: ${message}`;
    const times = (endings.get(code) ?? 0) + 1;
    endings.set(code, times);
    if (!mayTryAgain || times >= TRIES_FOR_ONE_REASON)
      return { ...none, result: 'blocked', tries, move, code, because: message, ...(threshold ? { threshold } : {}) };
    if (!(await waited(FIRST_BACKOFF_MS * BACKOFF_FACTOR ** (times - 1))))
      return { ...none, result: 'aborted', tries, move };
  }
}

async function oneTry(input: MoveInput, status: Writable<MoveStatus>): Promise<TryResult> {
  const { n, from, to, partitions } = input;
  const asking = askingOf(input);
  const what = `${formatPartitions(partitions).slice(0, 100)} from ${from} to ${to}`;
  let started: StartedMove | null = null;
  try {
    started = await call(ring.startMove, `start: ${what}, try ${status.tries + 1}`, {
      ...asking,
      n,
      tryFrom: status.tries + 1,
      from,
      to,
      partitions,
    });
    status.move = started.move;
    status.tries = started.try;
    if (started.state !== 'started')
      return { end: started.state, jobsMoved: started.jobsMoved, jobsCopied: started.jobsCopied };
    const move: MoveActivityInput = { ...asking, move: started.move, from, to, partitions };
    status.state = 'copying';
    await call(preCopy, `copy while ${from} serves on`, move);
    status.state = 'cutting over';
    const cut = await call(cutOver, `cut over to ${to}`, move);
    if (cut.result === 'aborted') return { end: 'over', code: cut.code, message: cut.because, mayTryAgain: true };
    return { end: 'handed over', jobsMoved: cut.jobsMoved, jobsCopied: cut.jobsCopied };
  } catch (error) {
    const isCancelled = isCancellation(error) || CancellationScope.current().consideredCancelled;
    const refusal = refusalOf(error);
    if (!isCancelled && !refusal) throw error;
    const because = isCancelled ? 'its operation was cancelled' : `${refusal?.code}: ${refusal?.message}`;
    // Without an answer of startMove there is nothing to name; whatever it started is aborted by the next start, or before the ring is unfrozen.
    const answer = started ? await abort({ ...asking, move: started.move, because }) : null;
    if (answer && answer.result !== 'aborted')
      return { end: answer.result, jobsMoved: answer.jobsMoved, jobsCopied: answer.jobsCopied };
    return isCancelled || !refusal
      ? { end: 'cancelled' }
      : { end: 'over', ...refusal, mayTryAgain: TRY_AGAIN.has(refusal.code) };
  }
}

function askingOf({ clusterId, operationId, holder, reason, askedBy }: MoveInput): AskingAsHolder {
  return { clusterId, operationId, holder, reason, ...(askedBy === undefined ? {} : { askedBy }) };
}

type AbortInput = Parameters<typeof ring.abortMove>[0];
const abort = (input: AbortInput): Promise<AbortAnswer> =>
  CancellationScope.nonCancellable(() => call(ring.abortMove, `abort: ${input.because}`.slice(0, 200), input));

/** Only forward from here: also where the operation is being cancelled. */
async function tidy(input: MoveInput, status: Writable<MoveStatus>): Promise<Refusal | null> {
  const { from, to, partitions } = input;
  status.state = 'cleaning up';
  try {
    const accept = input.accept ? { accept: input.accept } : {};
    const move = { ...askingOf(input), move: status.move!, from, to, partitions, ...accept };
    await CancellationScope.nonCancellable(() => call(cleanUp, `clean up at ${from}`, move));
    return null;
  } catch (error) {
    const refusal = refusalOf(error);
    if (!refusal) throw error;
    return refusal;
  }
}

/** False where the wait was cancelled. */
async function waited(ms: number): Promise<boolean> {
  try {
    await sleep(ms);
    return true;
  } catch (error) {
    if (!isCancellation(error)) throw error;
    return false;
  }
}

type Writable<T> = { -readonly [K in keyof T]: T[K] };
