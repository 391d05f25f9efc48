/**
 * Scales the cluster to `input.targetNodes` nodes; or, by `input.goal`, drains a node, gives one up, or takes back what an operation did.
 * Holds: no partition is ever without an owner; a run that was killed between any two steps can be started again with the same input, which takes its freeze
 * over, and ends the same.
 * With `input.create` a cluster that has no ring gets one, with all its nodes; that is then the whole operation.
 * `undo` during a run: what is not handed over is aborted; then, under the same freeze, what was handed over is moved back.
 * Refuses, before anything has changed: INPUT_INVALID, WORKFLOW_ID, TARGET_NODES_INVALID, CLUSTER_UNKNOWN, PLAN_CHANGED, NODE_UNKNOWN,
 * NODES_ALL_DRAINED, OPERATION_UNKNOWN, UNDO_OUT_OF_ORDER. Whatever else goes wrong blocks the
 * operation by its code (RING_BUSY, NODE_NOT_EMPTY, STALLED …) until somebody resumes or cancels it.
 */
import { CancelledFailure } from '@temporalio/common';
import {
  allHandlersFinished,
  CancellationScope,
  condition,
  continueAsNew,
  isCancellation,
  workflowInfo,
} from '@temporalio/workflow';
import type { Leftover, RingSummary } from '../activities/types.ts';
import type { NodeFacts, NodeId } from '../ring/events.ts';
import { type MovePlan, nodeNames, ordinalOf, planDrain, planForget, planMoves, takersOf } from '../ring/plan.ts';
import { isMember, type Ring } from '../ring/ring.ts';
import { call, cleanUp, pods, removeUnused, ring, verifyCluster } from './activities.ts';
import { isBug, refusalOf, refuse } from './failures.ts';
import { checkInput } from './input.ts';
import type { Goal, OperationProgress, ScaleInput } from './messages.ts';
import { type EndState, Operation } from './operation.ts';
import { expandRing } from './ring-summary.ts';
import { runMoves } from './run-moves.ts';

const NODES_AT_ONCE = 8; // pods that start at the same time compete for machines and images

type Ending = EndState | 'continue as new';

export async function ScaleCluster(input: ScaleInput): Promise<OperationProgress> {
  const op = new Operation(input);
  op.listen();
  let ended = op.isUndoing ? await attempt(op, takeBack) : await attempt(op, goForward);
  if (ended.ending === 'cancelled' && op.beginUndo()) ended = await attempt(op, takeBack);
  const { ending, failure } = ended;
  // Here, and not after the freeze: the freeze may have happened although its answer was lost. Nothing happens unless this run holds the ring.
  if (op.mayHoldRing && ending !== 'continue as new') {
    op.windUp();
    await CancellationScope.nonCancellable(async () => {
      if ((ending === 'cancelled' || ending === 'failed') && op.mayHaveAddedNodes) await removeUnusedNodes(op);
      await op.step('unfreeze ring', () => unfreezeRing(op));
    });
  }
  if (ending === 'continue as new') {
    await condition(allHandlersFinished);
    await continueAsNew<typeof ScaleCluster>({ ...input, carry: op.carry });
  } else {
    op.end(ending);
  }
  await CancellationScope.nonCancellable(() => condition(allHandlersFinished));
  if (ending === 'failed') throw failure;
  // Cancelled by Temporal's own request it is also for Temporal a cancelled run; the query still answers.
  if (ending === 'cancelled' && CancellationScope.current().consideredCancelled)
    throw new CancelledFailure('the operation was cancelled');
  return op.progress;
}

interface Attempt {
  readonly ending: Ending;
  readonly failure?: unknown;
}

/** Throws on a bug only: that fails the task, which is tried again once a fix is deployed; nothing may be unwound meanwhile. */
async function attempt(op: Operation, way: (op: Operation) => Promise<Ending>): Promise<Attempt> {
  try {
    return { ending: await op.cancellable(() => way(op)) };
  } catch (error) {
    if (isBug(error)) throw error;
    return { ending: isCancellation(error) ? 'cancelled' : 'failed', failure: error };
  }
}

async function goForward(op: Operation): Promise<Ending> {
  const { input } = op;
  const goal = checkInput(input, workflowInfo().workflowId);
  if (!input.carry) {
    if (
      input.create &&
      goal.kind === 'scale' &&
      (await makeRing(op, nodeNames(goal.nodes), input.create.partitionCount))
    )
      return 'completed';
    await op.step('plan', () => lookAhead(op, goal));
    if (hasNothingToDo(op)) return 'nothing to do';
    await op.step('freeze ring', () => freezeRing(op));
    await op.step('plan', () => makePlan(op, goal));
    if (hasNothingToDo(op)) return 'nothing to do';
    await op.step('add nodes', () => addNodes(op));
    await markNodes(op);
    await forgetNode(op);
  }
  return (await moveAndTidy(op)) ? 'completed' : 'continue as new';
}

/** Under the same freeze, what this operation has done; nothing where it never held the ring. A ring that was made is not taken back. */
async function takeBack(op: Operation): Promise<Ending> {
  if (op.holder === 0) return op.input.create ? 'cancelled' : 'undone';
  if (op.currentMoves.length === 0) {
    await op.step('move partitions', () => completeHandedOver(op));
    await op.step('plan', () => planBack(op));
    await op.step('add nodes', () => addNodes(op));
    await markNodes(op);
  }
  return (await moveAndTidy(op)) ? 'undone' : 'continue as new';
}

/** False where the history is long and moves are left. */
async function moveAndTidy(op: Operation): Promise<boolean> {
  await op.step('move partitions', () => runMoves(op));
  if (op.currentMoves.some((move) => move.state !== 'done')) return false;
  await op.step('verify cluster', () => verify(op));
  await op.step('remove nodes', () => removeNodes(op));
  return true;
}

/** Where there is no ring: starts all nodes, then makes it. Until then nothing is taken in, so nothing has to move. False where the ring is there. */
async function makeRing(op: Operation, wanted: readonly NodeId[], partitionCount: number): Promise<boolean> {
  const { clusterId } = op.progress;
  let isMade = false;
  await op.step('make ring', async () => {
    const seen = await call(ring.readRing, `whether ${clusterId} has a ring`, { clusterId }).catch((error: unknown) => {
      if (refusalOf(error)?.code === 'CLUSTER_UNKNOWN') return null;
      throw error;
    });
    if (seen) return;
    op.progress.nodesAdded = wanted;
    const facts = new Map<NodeId, NodeFacts>();
    await eachOf(wanted, NODES_AT_ONCE, async (node) => {
      const input = { ...op.asHolder, node, ...(wanted.length === 1 ? { ownsAll: true } : {}) };
      facts.set(node, await call(pods.ensureNode, `start ${node}`, input));
    });
    const nodes = wanted.map((node) => facts.get(node)!);
    const { version } = await call(ring.makeRing, `make the ring of ${clusterId}`, {
      ...op.asking,
      partitionCount,
      nodes,
    });
    await eachOf(wanted, NODES_AT_ONCE, (node) =>
      call(pods.waitServing, `${node} serves`, { ...op.asking, node, version }),
    );
    op.note(`the ring was made: ${partitionCount} partitions, ${wanted.length} nodes`);
    isMade = true;
  });
  return isMade;
}

/** Plans on the ring as it is, so that a bad input or an idle request ends before anything has changed. */
async function lookAhead(op: Operation, goal: Goal): Promise<void> {
  const { clusterId } = op.progress;
  const seen = await call(ring.readRing, `the ring of ${clusterId}`, { clusterId }).catch((error: unknown) => {
    const refusal = refusalOf(error);
    if (refusal?.code === 'CLUSTER_UNKNOWN') refuse(refusal.code, refusal.message);
    throw error;
  });
  op.adopt(await plan(op, seen, goal));
}

/** Holds the topology; and ends what an operation that is gone has left behind. */
async function freezeRing(op: Operation): Promise<void> {
  op.mayHoldRing = true;
  const { clusterId } = op.progress;
  const frozen = await call(ring.freeze, `freeze the ring of ${clusterId}`, { ...op.asking, by: op.identity });
  op.holder = frozen.holder;
  op.movesPerNode = frozen.movesPerNode ?? 1;
  if (frozen.takenOverFrom) {
    const { operationId, because } = frozen.takenOverFrom;
    op.note(`the freeze of operation ${operationId} was taken over: ${because}`);
  }
  for (const left of frozen.leftovers) {
    const abort = { ...op.asking, move: left.move, because: 'its operation is gone' };
    const answer =
      left.state === 'started'
        ? await call(ring.abortMove, `abort ${left.move}, which was left open`, abort)
        : { result: left.state };
    // What names a node that is forgotten ends with it: nobody is left to complete it with.
    const { goal } = op.progress;
    if (goal?.kind === 'forget' && [left.from, left.to].includes(goal.node)) continue;
    if (answer.result === 'handed over') await complete(op, left.move, left, 'which was left handed over');
    op.note(`move ${left.move}, left open, was ${answer.result === 'aborted' ? 'aborted' : 'completed'}`);
  }
  op.frozen = frozen.ring;
}

/** Plans again: only now nobody else can change the ring. */
async function makePlan(op: Operation, goal: Goal): Promise<void> {
  op.adopt(await plan(op, op.frozen!, goal));
}

async function plan(op: Operation, seen: RingSummary, goal: Goal): Promise<MovePlan> {
  const made = await planFor(op, seen, goal);
  const { planHash } = op.input;
  if (planHash !== undefined && planHash !== made.hash) {
    refuse('PLAN_CHANGED', `the plan is ${made.hash} by now, ${planHash} was approved (epoch ${made.epoch})`);
  }
  return made;
}

async function planFor(op: Operation, seen: RingSummary, goal: Goal): Promise<MovePlan> {
  switch (goal.kind) {
    case 'scale':
      return planOfScale(op, seen, goal.nodes);
    case 'drain':
      return planOfDrain(op, seen, goal.node);
    case 'forget':
      return planOfForget(seen, goal.node);
    case 'undo':
      return await planOfUndo(op, goal.operation);
  }
}

function planOfScale(op: Operation, seen: RingSummary, nodes: number): MovePlan {
  if (nodes > seen.partitionCount) {
    refuse(
      'TARGET_NODES_INVALID',
      `${nodes} nodes cannot share the ${seen.partitionCount} partitions of ${seen.clusterId}`,
    );
  }
  const ring = expandRing(seen);
  if (takersOf(ring, nodeNames(nodes)).length === 0)
    refuse('NODES_ALL_DRAINED', `all of ${nodeNames(nodes).join(', ')} are drained: activate one of them first`);
  return planMoves(ring, nodeNames(nodes), planOptions(op));
}

function planOfDrain(op: Operation, seen: RingSummary, node: NodeId): MovePlan {
  const ring = expandRing(seen);
  assertOthersTake(ring, node);
  return planDrain(ring, node, planOptions(op));
}

function assertOthersTake(ring: Ring, node: NodeId): void {
  if (!isMember(ring, node)) refuse('NODE_UNKNOWN', `${node} is no member of ${ring.clusterId}`);
  const others = ring.nodes.flatMap((facts) => (facts.node === node ? [] : [facts.node]));
  if (takersOf(ring, others).length === 0)
    refuse('NODES_ALL_DRAINED', `without ${node} no member of ${ring.clusterId} is left that takes partitions`);
}

function planOfForget(seen: RingSummary, node: NodeId): MovePlan {
  const ring = expandRing(seen);
  assertOthersTake(ring, node);
  return planForget(ring, node);
}

/** Nobody can put right by waiting that there is nothing of it, or that later operations come first. */
const NOT_UNDOABLE: ReadonlySet<string> = new Set(['OPERATION_UNKNOWN', 'UNDO_IMPOSSIBLE', 'UNDO_OUT_OF_ORDER']);

async function planOfUndo(op: Operation, operation: string): Promise<MovePlan> {
  const input = { clusterId: op.progress.clusterId, operation, ...planOptions(op) };
  return await call(ring.planUndo, `what takes operation ${operation} back`, input).catch((error: unknown) => {
    const refusal = refusalOf(error);
    if (refusal && NOT_UNDOABLE.has(refusal.code)) refuse(refusal.code, refusal.message);
    throw error;
  });
}

function planOptions({ input: { partitionsPerMoveMax } }: Operation): { partitionsPerMoveMax?: number } {
  return partitionsPerMoveMax === undefined ? {} : { partitionsPerMoveMax };
}

async function planBack(op: Operation): Promise<void> {
  const { clusterId, operationId } = op.progress;
  const input = { clusterId, operation: operationId, ...planOptions(op) };
  op.adoptUndo(await call(ring.planUndo, 'what takes this operation back', input));
}

/** Of what was cancelled: a partition leaves its new owner only once its former one has put away what it held. */
async function completeHandedOver(op: Operation): Promise<void> {
  for (const entry of op.progress.moves.filter(({ handedOver }) => handedOver)) {
    await complete(op, `move-${entry.n}`, { ...entry, move: entry.move! }, 'which is handed over');
    entry.state = 'done';
    delete entry.handedOver;
    op.changed();
  }
}

/** `name`: as the operation names the move that it is blocked on. */
async function complete(op: Operation, name: string, left: Omit<Leftover, 'state'>, why: string): Promise<void> {
  const { move, from, to, partitions } = left;
  const input = { ...op.asHolder, move, from, to, partitions, ...op.acceptanceOf(name) };
  await op.concerning(name, () => call(cleanUp, `complete ${move}, ${why}`, input));
}

const hasNothingToDo = ({ progress: { moves, nodesAdded, nodesRemoved }, marks, forgets }: Operation): boolean =>
  forgets === null &&
  [moves, nodesAdded, nodesRemoved, marks.drains, marks.activates].every((list) => list.length === 0);

/** What it owned goes to the others by one event, and what it held of that is lost. */
async function forgetNode(op: Operation): Promise<void> {
  const { forgets: node } = op;
  if (node === null) return;
  await op.step('mark nodes', async () => {
    await call(pods.forgetNode, `give ${node} up, if it is gone`, {
      ...op.asHolder,
      node,
      by: op.input.actor ?? 'unknown',
    });
    op.note(`${node} is forgotten: what it held is lost, which the ring's log says`);
  });
}

/** Before anything is moved: a node that is drained is given nothing, and one that gets something back has to be active. */
async function markNodes(op: Operation): Promise<void> {
  if (op.marks.drains.length + op.marks.activates.length === 0) return;
  await op.step('mark nodes', async () => {
    const what = `drained: ${op.marks.drains.join(', ') || 'none'}; activated: ${op.marks.activates.join(', ') || 'none'}`;
    await call(ring.markNodes, what, { ...op.asHolder, ...op.marks });
  });
}

/** Each new node: its pod, then member, then serving. Only then may a move go there. */
async function addNodes(op: Operation): Promise<void> {
  op.mayHaveAddedNodes = true;
  await eachOf(op.progress.nodesAdded, NODES_AT_ONCE, async (node) => {
    const facts = await call(pods.ensureNode, `start ${node}`, { ...op.asHolder, node });
    const { version } = await call(ring.joinNode, `${node} joins the ring`, { ...op.asHolder, facts });
    await call(pods.waitServing, `${node} serves`, { ...op.asking, node, version });
  });
}

async function verify(op: Operation): Promise<void> {
  const moves = op.progress.moves.flatMap(({ move }) => (move ? [move] : []));
  await call(verifyCluster, `${moves.length} proofs, and no job where it does not belong`, { ...op.asking, moves });
}

/** The highest ordinal first, one at a time: what a StatefulSet can do. */
async function removeNodes(op: Operation): Promise<void> {
  const { deleteVolumes } = op.input;
  for (const node of highestFirst(op.progress.nodesRemoved)) {
    const removed = await call(pods.removeNode, `remove ${node}, if it is empty`, {
      ...op.asHolder,
      node,
      ...(deleteVolumes ? { deleteVolumes } : {}),
    });
    for (const note of removed?.notes ?? []) op.note(note); // workers of an older version answer nothing
  }
}

/**
 * After a cancellation: nodes that were added and got no partition go again, so that the next operation finds the cluster as it was. Those that own something
 * stay members; undoing that is another operation. Trouble here must not keep the ring frozen.
 */
async function removeUnusedNodes(op: Operation): Promise<void> {
  for (const node of highestFirst(op.progress.nodesAdded)) {
    try {
      const { removed } = await call(removeUnused, `remove ${node}, if nothing was moved there`, {
        ...op.asHolder,
        node,
      });
      op.note(removed ? `${node} was removed again: it owned nothing` : `${node} stays: it owns partitions by now`);
    } catch (error) {
      const refusal = refusalOf(error);
      if (!refusal) throw error;
      op.note(`${node} was left as it is: ${refusal.code}: ${refusal.message}`);
    }
  }
}

async function unfreezeRing(op: Operation): Promise<void> {
  await call(ring.unfreeze, `unfreeze the ring of ${op.progress.clusterId}`, { ...op.asking, by: op.identity });
}

const highestFirst = (nodes: readonly NodeId[]): NodeId[] => [...nodes].sort((a, b) => ordinalOf(b) - ordinalOf(a));

/** Runs `each` for all items, `atOnce` at a time. Waits for those under way also when one fails: a step that runs again must not meet its former self. */
async function eachOf<T>(items: readonly T[], atOnce: number, each: (item: T) => Promise<void>): Promise<void> {
  const rest = [...items];
  const lane = async (): Promise<void> => {
    for (let item = rest.shift(); item !== undefined; item = rest.shift()) await each(item);
  };
  const ended = await Promise.allSettled(Array.from({ length: Math.min(atOnce, items.length) }, lane));
  for (const result of ended) if (result.status === 'rejected') throw result.reason;
}
