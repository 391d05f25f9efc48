/** Asks Temporal whether the run that holds a ring goes on. */
import type { Client } from '@temporalio/client';
import { WorkflowNotFoundError } from '@temporalio/common';
import type { Holders } from './deps.ts';

/** Anything else (paused, or a status of a newer server) may go on. */
const ENDED: ReadonlySet<string> = new Set(['COMPLETED', 'FAILED', 'CANCELLED', 'TERMINATED', 'TIMED_OUT']);

/**
 * An operation is a chain of runs under one workflow id: continued as new, or reset by hand, it keeps the id of its first run, which the freeze names.
 * Only the latest run of a workflow id can be running, so one look is enough.
 */
export function createHolders(client: Pick<Client, 'workflow'>): Holders {
  return {
    async endOf({ workflowId, runId }) {
      try {
        const latest = await client.workflow.getHandle(workflowId).describe();
        const firstRunId = latest.raw.workflowExecutionInfo?.firstRunId ?? '';
        if (latest.runId !== runId && firstRunId !== runId)
          return `its run is gone: ${workflowId} is another run by now`;
        return ENDED.has(latest.status.name) ? `its run has ended (${latest.status.name.toLowerCase()})` : null;
      } catch (error) {
        // Temporal answered that there is no such workflow: its database was lost, or its retention is over. Any other error tells nothing.
        if (error instanceof WorkflowNotFoundError) return 'its run is unknown to Temporal';
        throw error;
      }
    },
  };
}
