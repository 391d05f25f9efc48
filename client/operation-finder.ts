/** Finds operations of a cluster in Temporal. */
import type { Client } from '@temporalio/client';
import { CodedError } from '../kit/errors.ts';
import { scaleWorkflowId } from '../workflows/messages.ts';
import { chainsOf, firstRunIdOf, type Operation, type Run } from './operation-runs.ts';
import { codedTemporalError } from './temporal-errors.ts';

const SERVER_DEADLINE_MS = 5_000;
const REACHABLE_DEADLINE_MS = 1_000;
/** How far back a prefix of an id is looked for. */
const FIND_RUNS_MAX = 1_000;
const FULL_ID_LENGTH = 36;

export interface OperationFinder {
  /** The operation that runs, or the last one; null where there was none. Knows what has happened this moment, as Temporal's lists do not. */
  latest(clusterId: string): Promise<Operation | null>;
  /** The newest first. */
  list(clusterId: string, limit: number): Promise<Operation[]>;
  /** By its id, or a unique prefix of it. Throws OPERATION_UNKNOWN, OPERATION_AMBIGUOUS. */
  find(clusterId: string, idOrPrefix: string): Promise<Operation>;
  reachable(): Promise<boolean>;
}

export function createOperationFinder(temporal: Client): OperationFinder {
  const within = async <T>(call: () => Promise<T>): Promise<T> => {
    try {
      return await temporal.withDeadline(Date.now() + SERVER_DEADLINE_MS, call);
    } catch (error) {
      throw codedTemporalError(error, 'server');
    }
  };

  /** `runId` absent: the latest run. Null where there is none. */
  async function describe(clusterId: string, runId?: string): Promise<Operation | null> {
    try {
      const handle = temporal.workflow.getHandle(scaleWorkflowId(clusterId), runId);
      const run = await within(() => handle.describe());
      const operationId = firstRunIdOf(run) ?? run.runId;
      return { operationId, run, startedAt: run.startTime };
    } catch (error) {
      if (error instanceof CodedError && error.code === 'OPERATION_UNKNOWN') return null;
      throw error;
    }
  }

  async function listRuns(clusterId: string, runsMax: number): Promise<Run[]> {
    // By the workflow's id, not by our search attribute: an operation that was typed in Temporal's UI has the attribute only once its first task has run.
    const query = `WorkflowType = 'ScaleCluster' AND WorkflowId = '${scaleWorkflowId(clusterId)}'`;
    const runs: Run[] = [];
    await within(async () => {
      for await (const run of temporal.workflow.list({ query, pageSize: Math.min(runsMax, 200) })) {
        runs.push(run);
        if (runs.length >= runsMax) break;
      }
    });
    return runs;
  }

  async function operationOf(clusterId: string, chain: readonly Run[], mayGoOn: boolean): Promise<Operation> {
    const [newest] = chain;
    const oldest = chain.at(-1)!;
    const listed = { operationId: oldest.runId, run: newest!, startedAt: oldest.startTime };
    // The list says no first run's id, and may end inside a chain: then the server is asked.
    if (!mayGoOn && chain.length === 1) return listed;
    const described = await describe(clusterId, newest!.runId);
    return described ? { ...listed, operationId: described.operationId } : listed;
  }

  async function list(clusterId: string, limit: number): Promise<Operation[]> {
    const latest = await describe(clusterId);
    if (!latest) return [];
    const runs = await listRuns(clusterId, limit + 1 + 50); // some room for chains
    const known = [latest.run, ...runs.filter((run) => run.runId !== latest.run.runId)];
    const chains = chainsOf(known);
    const wanted = chains.slice(0, limit);
    return await Promise.all(wanted.map((chain, i) => operationOf(clusterId, chain, i === chains.length - 1)));
  }

  async function find(clusterId: string, idOrPrefix: string): Promise<Operation> {
    const latest = await describe(clusterId);
    if (latest?.operationId === idOrPrefix) return latest;
    // A whole id needs no list, unless the operation went on in later runs.
    const exact = idOrPrefix.length === FULL_ID_LENGTH ? await describe(clusterId, idOrPrefix) : null;
    if (exact?.operationId === idOrPrefix && exact.run.status.name !== 'CONTINUED_AS_NEW') return exact;
    const matching = (await list(clusterId, FIND_RUNS_MAX)).filter((operation) =>
      operation.operationId.startsWith(idOrPrefix),
    );
    const [only, another] = matching;
    if (another) {
      const ids = matching.map((operation) => operation.operationId);
      throw new CodedError('OPERATION_AMBIGUOUS', `${idOrPrefix} begins the ids of ${ids.slice(0, 5).join(', ')}`, {
        ids,
      });
    }
    if (only) return only;
    if (exact) return exact;
    throw new CodedError('OPERATION_UNKNOWN', `cluster ${clusterId} has no operation ${idOrPrefix}`, { clusterId });
  }

  return {
    latest: (clusterId) => describe(clusterId),
    list,
    find,
    async reachable() {
      try {
        const deadline = Date.now() + REACHABLE_DEADLINE_MS;
        await temporal.withDeadline(deadline, () => temporal.workflowService.getSystemInfo({}));
        return true;
      } catch {
        return false;
      }
    },
  };
}
