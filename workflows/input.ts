/** Checks what was typed, before anything has changed. */
import { isPartitionCount, PARTITION_COUNT_MAX } from '../ring/partition.ts';
import { refuse } from './failures.ts';
import { type Goal, type ScaleInput, scaleWorkflowId, TARGET_NODES_MAX } from './messages.ts';

const CLUSTER_ID = /^[a-z0-9-]{1,40}$/;
const NODE_ID = /^[\w.-]{1,100}$/;
/** Run ids of Temporal, which are UUIDs; ids that others have written into a log may be any word. */
const OPERATION_ID = /^[\w-]{1,100}$/;

/** What is wanted. Refuses: INPUT_INVALID, WORKFLOW_ID, TARGET_NODES_INVALID. */
export function checkInput(input: ScaleInput | undefined, workflowId: string): Goal {
  if (typeof input !== 'object' || input === null)
    return refuse('INPUT_INVALID', 'the input must be an object with clusterId, targetNodes and reason');
  const { clusterId, targetNodes, goal, reason, partitionsPerMoveMax, planHash, create, deleteVolumes } = input;
  if (typeof clusterId !== 'string' || !CLUSTER_ID.test(clusterId))
    refuse('INPUT_INVALID', 'clusterId must match [a-z0-9-]{1,40}');
  if (workflowId !== scaleWorkflowId(clusterId)) {
    // Only one id can run at a time: that is what makes the operations of a cluster take turns.
    refuse(
      'WORKFLOW_ID',
      `operations of ${clusterId} run under the workflow id ${scaleWorkflowId(clusterId)}, not ${workflowId}`,
    );
  }
  if (reason !== undefined && typeof reason !== 'string') refuse('INPUT_INVALID', 'reason must be text');
  if (planHash !== undefined && typeof planHash !== 'string') refuse('INPUT_INVALID', 'planHash must be text');
  if (partitionsPerMoveMax !== undefined && !(Number.isInteger(partitionsPerMoveMax) && partitionsPerMoveMax >= 1)) {
    refuse('INPUT_INVALID', 'partitionsPerMoveMax must be a whole number from 1');
  }
  if (deleteVolumes !== undefined && typeof deleteVolumes !== 'boolean')
    refuse('INPUT_INVALID', 'deleteVolumes must be true or false');
  if (create !== undefined && !isPartitionCount(create?.partitionCount))
    refuse('INPUT_INVALID', `create.partitionCount must be a power of two from 1 to ${PARTITION_COUNT_MAX}`);
  if (goal !== undefined && targetNodes !== undefined) refuse('INPUT_INVALID', 'give targetNodes or goal, not both');
  if (goal !== undefined && goal?.kind !== 'scale') {
    if (create !== undefined) refuse('INPUT_INVALID', 'create goes with a number of nodes');
    return checkOtherGoal(goal, reason);
  }
  const wanted: unknown = goal ? goal.nodes : targetNodes;
  if (typeof wanted !== 'number' || !Number.isInteger(wanted) || wanted < 1 || wanted > TARGET_NODES_MAX) {
    return refuse(
      'TARGET_NODES_INVALID',
      `targetNodes must be a whole number from 1 to ${TARGET_NODES_MAX}, not ${JSON.stringify(wanted) ?? 'absent'}`,
    );
  }
  if (create !== undefined && wanted > create.partitionCount)
    refuse(
      'TARGET_NODES_INVALID',
      `${wanted} nodes cannot share the ${create.partitionCount} partitions of a new ring`,
    );
  return { kind: 'scale', nodes: wanted };
}

function checkOtherGoal(goal: Exclude<Goal, { kind: 'scale' }>, reason: string | undefined): Goal {
  if (goal?.kind === 'drain' || goal?.kind === 'forget') {
    const { node } = goal;
    if (typeof node !== 'string' || !NODE_ID.test(node))
      refuse('INPUT_INVALID', 'goal.node must be the name of a node');
    if (goal.kind === 'drain') return { kind: 'drain', node };
    if (goal.acceptLoss !== true) refuse('INPUT_INVALID', 'goal.acceptLoss must be true: what the node holds is lost');
    if (!reason?.trim()) refuse('REASON_NEEDED', `${node} is forgotten with a reason only`);
    return { kind: 'forget', node, acceptLoss: true };
  }
  if (goal?.kind !== 'undo') return refuse('INPUT_INVALID', `unknown goal ${JSON.stringify(goal)}`);
  const { operation } = goal;
  if (typeof operation !== 'string' || !OPERATION_ID.test(operation))
    refuse('INPUT_INVALID', 'goal.operation must be the whole id of an operation');
  return { kind: 'undo', operation };
}

/** The goal as it was typed, before it is checked; undefined where there is none. */
export function goalOf(input: ScaleInput | undefined): Goal | undefined {
  if (input?.goal) return input.goal;
  return input?.targetNodes === undefined ? undefined : { kind: 'scale', nodes: input.targetNodes };
}

/** What is wanted, in words: stands as the reason where none is given. */
export function describeGoal(goal: Goal | undefined): string {
  if (goal?.kind === 'undo') return `undo of operation ${goal.operation}`;
  if (goal?.kind === 'forget') return `${goal.node} is forgotten`;
  return goal?.kind === 'drain' ? `drain of ${goal.node}` : `scale to ${goal?.nodes} nodes`;
}
