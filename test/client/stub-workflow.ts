/** Stands in for the real ScaleCluster where a test is about its client: holds the same conversation, moves nothing. Steered by its reason. */
import {
  ApplicationFailure,
  condition,
  continueAsNew,
  ParentClosePolicy,
  proxyActivities,
  setHandler,
  startChild,
  workflowInfo,
} from '@temporalio/workflow';
import {
  cancelUpdate,
  moveWorkflowId,
  type OperationProgress,
  pauseUpdate,
  progressQuery,
  resumeUpdate,
  retryUpdate,
  type ScaleInput,
} from '../../workflows/messages.ts';

const { preCopy } = proxyActivities<{ preCopy(): Promise<void> }>({
  startToCloseTimeout: '1m',
  heartbeatTimeout: '10s',
});

export async function MovePartitions(): Promise<void> {
  await preCopy();
}

export async function ScaleCluster(input: ScaleInput): Promise<OperationProgress> {
  const info = workflowInfo();
  let state: OperationProgress['state'] = 'running';
  const progress = (): OperationProgress => ({
    operationId: info.firstExecutionRunId,
    clusterId: input.clusterId,
    workflowId: info.workflowId,
    reason: input.reason ?? '',
    state,
    phase: 'plan',
    from: 2,
    to: input.targetNodes ?? 0,
    nodesAdded: [],
    nodesRemoved: [],
    planHash: null,
    partitionsToMove: 0,
    partitionsMoved: 0,
    jobsMoved: 0,
    jobsCopied: 0,
    moves: [],
    blockedOn: null,
    nextAction: null,
    notes: [],
    phasesMs: {},
    startedAt: info.startTime.toISOString(),
    endedAt: ['completed', 'cancelled'].includes(state) ? new Date().toISOString() : null,
  });
  const moves =
    input.reason === 'a copy that is throttled'
      ? [
          {
            n: 1,
            from: 'node-0',
            to: 'node-2',
            partitions: [3],
            because: 'node-2 joins',
            state: 'copying' as const,
            tries: 1,
            jobsMoved: 0,
            jobsCopied: 0,
          },
        ]
      : [];
  if (moves.length > 0) {
    await startChild('MovePartitions', {
      workflowId: moveWorkflowId(input.clusterId, info.firstExecutionRunId, 1),
      parentClosePolicy: ParentClosePolicy.TERMINATE,
    });
  }
  setHandler(progressQuery, () => ({ ...progress(), moves }));
  setHandler(pauseUpdate, () => {
    state = 'paused';
    return progress();
  });
  setHandler(resumeUpdate, () => {
    state = 'completed';
    return progress();
  });
  setHandler(retryUpdate, (_request) => progress(), {
    validator: (_request) => {
      throw ApplicationFailure.nonRetryable('it is not blocked', 'OPERATION_NOT_BLOCKED');
    },
  });
  setHandler(cancelUpdate, () => {
    state = 'cancelled';
    return progress();
  });
  if (input.reason === 'continue as new' && !info.continuedFromExecutionRunId) {
    await condition(() => state === 'paused');
    await continueAsNew<typeof ScaleCluster>(input);
  }
  await condition(() => state === 'completed' || state === 'cancelled');
  return progress();
}
