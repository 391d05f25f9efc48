/**
 * Looks whether the cluster is as its ring says and, with `full`, compares what moves took along, row by row. Changes nothing.
 * Holds: where it is stands in its progress after each slice; stopped, failed or continued as new, the next run goes on from there.
 * Refuses: INPUT_INVALID, WORKFLOW_ID, CLUSTER_UNKNOWN.
 */
import { CancelledFailure } from '@temporalio/common';
import {
  allHandlersFinished,
  CancellationScope,
  condition,
  continueAsNew,
  isCancellation,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import type { CompareSlice } from '../activities/types.ts';
import { call, checkCluster, compareMoves } from './activities.ts';
import { refusalOf, refuse } from './failures.ts';
import {
  stopVerificationUpdate,
  VERIFY_SAMPLES_DEFAULT,
  VERIFY_SAMPLES_MAX,
  type VerifyInput,
  type VerifyProgress,
  verificationQuery,
  verifyWorkflowId,
} from './messages.ts';

/** Moves that could not be compared and are named; all are counted. */
const NOT_COMPARED_MAX = 50;

export async function VerifyMoves(input: VerifyInput): Promise<VerifyProgress> {
  let progress = input?.carry ? goingOn(input.carry) : newProgress(input);
  const work = new CancellationScope();
  setHandler(verificationQuery, () => progress);
  setHandler(stopVerificationUpdate, () => {
    if (progress.state === 'running') {
      progress = { ...progress, state: 'stopping' };
      work.cancel();
    }
    return progress;
  });
  checkInput(input);
  const { clusterId, operation = null, samplesMax = VERIFY_SAMPLES_DEFAULT } = input;
  let isLong = false;
  try {
    await work.run(async () => {
      if (!progress.cluster)
        progress = { ...progress, cluster: await call(checkCluster, `the nodes of ${clusterId}`, { clusterId }) };
      if (!input.full) return;
      do {
        const asked = { clusterId, operation, cursor: progress.cursor, samplesMax };
        progress = after(progress, await call(compareMoves, whereItIs(progress), asked), samplesMax);
        isLong = isHistoryLong(input);
      } while (progress.cursor !== null && !isLong);
    });
    if (progress.cursor === null) progress = ended(progress, 'completed');
  } catch (error) {
    const refusal = refusalOf(error);
    if (isCancellation(error)) progress = ended(progress, 'stopped');
    else if (refusal?.code === 'CLUSTER_UNKNOWN') refuse(refusal.code, refusal.message);
    else if (refusal) progress = { ...ended(progress, 'failed'), because: `${refusal.code}: ${refusal.message}` };
    else throw error;
  }
  // Asked to stop when there was nothing left to interrupt.
  if (progress.state === 'stopping') progress = ended(progress, 'stopped');
  await CancellationScope.nonCancellable(() => condition(allHandlersFinished));
  if (progress.state === 'running') await continueAsNew<typeof VerifyMoves>({ ...input, carry: progress });
  // Cancelled by Temporal's own request it is also for Temporal a cancelled run; the query still answers.
  if (CancellationScope.current().consideredCancelled) throw new CancelledFailure('the verification was cancelled');
  return progress;
}

function checkInput(input: VerifyInput): void {
  if (typeof input !== 'object' || input === null || typeof input.clusterId !== 'string')
    refuse('INPUT_INVALID', 'the input must be an object with clusterId');
  const { clusterId, full = false, samplesMax } = input;
  const workflowId = verifyWorkflowId(clusterId, full);
  if (workflowInfo().workflowId !== workflowId)
    refuse('WORKFLOW_ID', `this runs under the workflow id ${workflowId}, not ${workflowInfo().workflowId}`);
  if (
    samplesMax !== undefined &&
    !(Number.isInteger(samplesMax) && samplesMax >= 1 && samplesMax <= VERIFY_SAMPLES_MAX)
  )
    refuse('INPUT_INVALID', `samplesMax must be a whole number from 1 to ${VERIFY_SAMPLES_MAX}`);
}

function isHistoryLong({ continueAsNewAfterEvents }: VerifyInput): boolean {
  const { continueAsNewSuggested, historyLength } = workflowInfo();
  return continueAsNewSuggested || historyLength >= (continueAsNewAfterEvents ?? Number.POSITIVE_INFINITY);
}

const whereItIs = ({ movesDone, movesTotal, jobsCompared }: VerifyProgress): string =>
  `compare: ${movesDone} of ${movesTotal} moves, ${jobsCompared} jobs so far`;

function after(progress: VerifyProgress, slice: CompareSlice, samplesMax: number): VerifyProgress {
  const counts = { ...progress.counts };
  for (const kind of Object.keys(counts) as (keyof typeof counts)[]) counts[kind] += slice.counts[kind];
  return {
    ...progress,
    movesTotal: slice.movesTotal,
    jobsTotal: slice.jobsTotal,
    movesDone: progress.movesDone + slice.movesDone,
    jobsCompared: progress.jobsCompared + slice.jobsCompared,
    counts,
    samples: [...progress.samples, ...slice.samples].slice(0, samplesMax),
    notCompared: [...progress.notCompared, ...slice.notCompared].slice(0, NOT_COMPARED_MAX),
    notComparedMoves: progress.notComparedMoves + new Set(slice.notCompared.map(({ move }) => move)).size,
    notComparedJobs: progress.notComparedJobs + slice.notCompared.reduce((sum, { jobs }) => sum + jobs, 0),
    cursor: slice.cursor,
  };
}

function ended(progress: VerifyProgress, state: 'completed' | 'stopped' | 'failed'): VerifyProgress {
  const differs = (progress.cluster?.problemCount ?? 0) > 0 || Object.values(progress.counts).some((n) => n > 0);
  const verdict = differs ? 'differs' : progress.notComparedMoves > 0 ? 'incomplete' : 'verified';
  return {
    ...progress,
    state,
    verdict: state === 'completed' ? verdict : null,
    endedAt: new Date(Date.now()).toISOString(),
  };
}

const goingOn = (carry: VerifyProgress): VerifyProgress => ({
  ...carry,
  state: 'running',
  verdict: null,
  because: null,
  endedAt: null,
});

function newProgress(input: VerifyInput | undefined): VerifyProgress {
  return {
    clusterId: input?.clusterId ?? '',
    full: input?.full ?? false,
    operation: input?.operation ?? null,
    state: 'running',
    verdict: null,
    cluster: null,
    movesTotal: 0,
    movesDone: 0,
    jobsTotal: 0,
    jobsCompared: 0,
    counts: { missing: 0, added: 0, differs: 0, 'changed places': 0 },
    samples: [],
    notCompared: [],
    notComparedMoves: 0,
    notComparedJobs: 0,
    cursor: null,
    because: null,
    startedAt: new Date(Date.now()).toISOString(),
    endedAt: null,
  };
}
