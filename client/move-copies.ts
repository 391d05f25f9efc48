/** What copies that run say of themselves: the heartbeats of their activities, which Temporal shows for as long as these run. */
import type { Client } from '@temporalio/client';
import { type MoveCopy, type MoveProgress, moveWorkflowId, type OperationProgress } from '../workflows/messages.ts';

/** It is an extra: who looks at a progress waits no longer for it. */
const PATIENCE_MS = 1_500;
/** At once; more moves than this run only in a cluster of more than twice as many nodes. */
const COPIES_MAX = 16;
/** activities/types.ts, `MoveActivities`. */
const ACTIVITY = 'preCopy';

/** `progress`, with what is known of the copies that run. Never throws: where it cannot be told the progress stays as it is. */
export async function withCopies(temporal: Client, progress: OperationProgress): Promise<OperationProgress> {
  const copying = progress.moves.filter(({ state }) => state === 'copying').slice(0, COPIES_MAX);
  if (copying.length === 0) return progress;
  const { clusterId, operationId } = progress;
  const found = new Map<MoveProgress, MoveCopy>();
  await Promise.all(
    copying.map(async (move) => {
      const workflowId = moveWorkflowId(clusterId, operationId, move.n);
      const copy = await copyOf(temporal, workflowId).catch(() => null); // it has just ended, or Temporal is slow
      if (copy) found.set(move, copy);
    }),
  );
  return { ...progress, moves: progress.moves.map((move) => withCopy(move, found.get(move))) };
}

const withCopy = (move: MoveProgress, copy: MoveCopy | undefined): MoveProgress => (copy ? { ...move, copy } : move);

async function copyOf(temporal: Client, workflowId: string): Promise<MoveCopy | null> {
  const described = await temporal.withDeadline(Date.now() + PATIENCE_MS, () =>
    temporal.workflow.getHandle(workflowId).describe(),
  );
  const activity = described.raw.pendingActivities?.find(({ activityType }) => activityType?.name === ACTIVITY);
  const payload = activity?.heartbeatDetails?.payloads?.[0];
  if (!payload) return null;
  const details: unknown = temporal.options.loadedDataConverter.payloadConverter.fromPayload(payload);
  return isCopy(details) ? details : null;
}

const isCopy = (details: unknown): details is MoveCopy =>
  typeof details === 'object' && details !== null && 'jobsCopied' in details && 'throttledBy' in details;
