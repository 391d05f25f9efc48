/** A whole ScaleCluster operation on the embedded stack with empty queues: what the orchestration itself costs. */
import { readFile } from 'node:fs/promises';
import { Client, Connection } from '@temporalio/client';
import type { OperationProgress } from '../workflows/messages.ts';
import { moveWorkflowId, scaleWorkflowId } from '../workflows/messages.ts';
import { type BenchStack, withStack } from './stack.ts';

export interface ScaleReport {
  readonly partitions: number;
  readonly from: number;
  readonly to: number;
  /** Workflow start to end, node starts included. */
  readonly durationMs: number;
  readonly phasesMs: Readonly<Record<string, number>>;
  readonly moves: number;
  readonly partitionsMoved: number;
  /** Of all its workflows. */
  readonly historyEvents: number;
  readonly historyBytes: number;
  readonly workerRssMb: number;
}

export function benchScale(options: {
  readonly partitions: number;
  readonly from: number;
  readonly to: number;
}): Promise<ScaleReport> {
  const { partitions, from } = options;
  return withStack({ bench: 'scale', nodes: from, partitions, destinationMs: 1 }, (bench) => measure(bench, options));
}

async function measure(
  { stack }: BenchStack,
  { partitions, from, to }: Pick<ScaleReport, 'partitions' | 'from' | 'to'>,
): Promise<ScaleReport> {
  const connection = await Connection.connect({ address: stack.temporal.address });
  try {
    const client = new Client({ connection });
    process.stderr.write(`scaling from ${from} to ${to} nodes …\n`);
    const handle = await client.workflow.start('ScaleCluster', {
      taskQueue: 'ringmaster',
      workflowId: scaleWorkflowId(stack.clusterId),
      args: [{ clusterId: stack.clusterId, targetNodes: to, reason: 'bench' }],
    });
    const outcome = (await handle.result()) as OperationProgress;
    if (outcome.state !== 'completed')
      throw new Error(`the operation ended ${outcome.state}: ${JSON.stringify(outcome.blockedOn)}`);
    let durationMs = 0;
    let historyEvents = 0;
    let historyBytes = 0;
    for (const workflowId of [
      handle.workflowId,
      ...outcome.moves.map((move) => moveWorkflowId(stack.clusterId, outcome.operationId, move.n)),
    ]) {
      const run = await client.workflow.getHandle(workflowId).describe();
      historyEvents += run.historyLength;
      historyBytes += run.historySize ?? 0;
      if (workflowId === handle.workflowId) durationMs = run.closeTime!.getTime() - run.startTime.getTime();
    }
    return {
      partitions,
      from,
      to,
      durationMs,
      phasesMs: outcome.phasesMs,
      moves: outcome.moves.length,
      partitionsMoved: outcome.partitionsMoved,
      historyEvents,
      historyBytes,
      workerRssMb: await rssMb(stack.worker.pid),
    };
  } finally {
    await connection.close();
  }
}

async function rssMb(pid: number | undefined): Promise<number> {
  const status = pid === undefined ? '' : await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  return Math.round(Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) / 1024);
}
