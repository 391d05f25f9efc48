/**
 * The activities as workflows call them: one profile for each kind. `startToCloseTimeout` is the longest honest attempt; `scheduleToCloseTimeout` is how long
 * trouble counts as weather: after it the operation is blocked by STALLED, which a person sees.
 */
import {
  ActivityCancellationType,
  type ActivityFunctionWithOptions,
  type ActivityOptions,
  proxyActivities,
} from '@temporalio/workflow';
import type {
  CompareActivities,
  MoveActivities,
  PodActivities,
  RingActivities,
  VerifyActivities,
} from '../activities/types.ts';

/** A worker that died is noticed within this; activities beat every 3 s. */
const HEARTBEAT_TIMEOUT = '15s';
const RETRY = {
  initialInterval: '200ms', // most trouble is a restart that is over in a second
  backoffCoefficient: 2,
  maximumInterval: '5s', // what came back is noticed soon; one small request in 5 s hurts nobody
};
/** Whether it happened must be known before the next step, also when the operation is being cancelled. */
const cancellationType = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED;

const ringOptions = {
  startToCloseTimeout: '15s', // a read and a few appends, each with a limit of 5 s of its own
  scheduleToCloseTimeout: '10m', // a failover of the ring store, or its pod on another machine
  retry: RETRY,
  cancellationType,
} satisfies ActivityOptions;

const podOptions = {
  startToCloseTimeout: '40m', // the platform's own limit for a pod to get ready (15 min by default) twice: it says why, this would not
  scheduleToCloseTimeout: '1h', // an attempt that was lost at its end, and another
  heartbeatTimeout: HEARTBEAT_TIMEOUT,
  retry: RETRY,
  cancellationType,
} satisfies ActivityOptions;

const unusedOptions = {
  ...podOptions,
  startToCloseTimeout: '5m',
  scheduleToCloseTimeout: '5m', // a courtesy at the end of a cancelled operation, and the ring is still frozen: what does not answer by then stays
} satisfies ActivityOptions;

const copyOptions = {
  startToCloseTimeout: '12h', // 500 GB at 12 MB/s; a copy that hangs is ended by its own statements' timeouts, not by this
  heartbeatTimeout: HEARTBEAT_TIMEOUT,
  retry: { ...RETRY, maximumAttempts: 60 }, // about five minutes of nothing but failures: each attempt goes on from the ledger
  cancellationType,
} satisfies ActivityOptions;

const cutOverOptions = {
  startToCloseTimeout: '3m', // quiesce (the delivery timeout + 1 s), the hold's deadline (10 s), and the delta, with room
  scheduleToCloseTimeout: '15m', // the dead-man has long undone the hold; the next try begins afresh
  heartbeatTimeout: HEARTBEAT_TIMEOUT,
  retry: RETRY,
  cancellationType,
} satisfies ActivityOptions;

const cleanUpOptions = {
  startToCloseTimeout: '6h', // marking what was moved and certifying it: a minute for a million jobs; a node that stands still is told sooner
  scheduleToCloseTimeout: '12h', // nothing waits for it but the end: a source that restarts meanwhile does it by itself
  heartbeatTimeout: HEARTBEAT_TIMEOUT,
  retry: RETRY,
  cancellationType,
} satisfies ActivityOptions;

const verifyOptions = {
  startToCloseTimeout: '2m', // it waits up to a minute for nodes to settle
  scheduleToCloseTimeout: '20m', // as long as a pod may take to come back
  heartbeatTimeout: HEARTBEAT_TIMEOUT,
  retry: RETRY,
  cancellationType,
} satisfies ActivityOptions;

const compareOptions = {
  startToCloseTimeout: '5m', // a slice is some seconds of comparing; its last statement may take as long as its own timeout
  scheduleToCloseTimeout: '20m', // as long as a pod may take to come back; then it has failed, and may be resumed
  heartbeatTimeout: HEARTBEAT_TIMEOUT,
  retry: RETRY,
  cancellationType,
} satisfies ActivityOptions;

export const ring = proxyActivities<RingActivities>(ringOptions);
export const pods = proxyActivities<PodActivities>(podOptions);
export const { removeUnused } = proxyActivities<PodActivities>(unusedOptions);
export const { preCopy } = proxyActivities<MoveActivities>(copyOptions);
export const { cutOver } = proxyActivities<MoveActivities>(cutOverOptions);
export const { cleanUp } = proxyActivities<MoveActivities>(cleanUpOptions);
export const { verifyCluster } = proxyActivities<VerifyActivities>(verifyOptions);
export const { checkCluster, compareMoves } = proxyActivities<CompareActivities>(compareOptions);

const PATIENCE: Readonly<Record<string, string>> = {
  ensureNode: podOptions.scheduleToCloseTimeout,
  waitServing: podOptions.scheduleToCloseTimeout,
  removeNode: podOptions.scheduleToCloseTimeout,
  forgetNode: podOptions.scheduleToCloseTimeout,
  removeUnused: unusedOptions.scheduleToCloseTimeout,
  preCopy: `${copyOptions.retry.maximumAttempts} attempts`,
  cutOver: cutOverOptions.scheduleToCloseTimeout,
  cleanUp: cleanUpOptions.scheduleToCloseTimeout,
  verifyCluster: verifyOptions.scheduleToCloseTimeout,
  checkCluster: compareOptions.scheduleToCloseTimeout,
  compareMoves: compareOptions.scheduleToCloseTimeout,
};
/** How long, or how often, an activity of this name is tried before its trouble is no weather any more. */
export const patienceOf = (activity: string): string => PATIENCE[activity] ?? ringOptions.scheduleToCloseTimeout;

/** Calls an activity with a sentence that Temporal's own page shows beside it. */
export function call<I, O>(
  activity: ActivityFunctionWithOptions<(input: I) => Promise<O>>,
  summary: string,
  input: I,
): Promise<O> {
  return activity.executeWithOptions({ summary }, [input]) as Promise<O>;
}
