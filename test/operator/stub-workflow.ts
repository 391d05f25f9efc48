/**
 * Stands in for the real ScaleCluster where a test is about the operator: the same messages, search attributes and ends, and nothing is moved.
 * Steered by the test: `resume` ends it as completed, `pause` with the reason `block` blocks it, `cancel` ends it as cancelled.
 */
import { condition, setHandler, upsertSearchAttributes, workflowInfo } from '@temporalio/workflow';
import {
  type BlockedOn,
  cancelUpdate,
  type OperationProgress,
  pauseUpdate,
  progressQuery,
  resumeUpdate,
  type ScaleInput,
  searchAttributes,
} from '../../workflows/messages.ts';

export async function ScaleCluster(input: ScaleInput): Promise<OperationProgress> {
  const info = workflowInfo();
  let state: OperationProgress['state'] = 'running';
  let blockedOn: BlockedOn | null = null;
  const notes: string[] = [];
  const become = (next: OperationProgress['state']): OperationProgress => {
    state = next;
    upsertSearchAttributes([
      { key: searchAttributes.state, value: state },
      { key: searchAttributes.blockedOn, value: blockedOn?.code ?? null },
    ]);
    return progress();
  };
  const progress = (): OperationProgress => ({
    operationId: info.firstExecutionRunId,
    clusterId: input.clusterId,
    workflowId: info.workflowId,
    reason: input.reason ?? '',
    state,
    phase: 'add nodes',
    from: 0,
    to: input.targetNodes ?? 0,
    nodesAdded: [],
    nodesRemoved: [],
    planHash: null,
    partitionsToMove: 0,
    partitionsMoved: 0,
    jobsMoved: 0,
    jobsCopied: 0,
    moves: [],
    blockedOn,
    nextAction: blockedOn ? `ringmaster resume ${info.firstExecutionRunId}` : null,
    notes,
    phasesMs: {},
    startedAt: info.startTime.toISOString(),
    endedAt: null,
  });
  setHandler(progressQuery, progress);
  setHandler(pauseUpdate, ({ reason }) => {
    if (reason !== 'block') return become('paused');
    blockedOn = {
      code: 'POD_NOT_READY',
      message: 'no such image',
      since: new Date().toISOString(),
      phase: 'add nodes',
    };
    return become('blocked');
  });
  setHandler(resumeUpdate, () => {
    blockedOn = null;
    return become('completed');
  });
  setHandler(cancelUpdate, ({ actor, reason }) => {
    notes.push(`cancel was asked for by ${actor}: ${reason}`);
    blockedOn = null;
    return become('cancelled');
  });
  await condition(() => state === 'completed' || state === 'cancelled');
  return progress();
}
