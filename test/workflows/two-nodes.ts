/** The real workflows and all real activities over two real databases with their stewards (jobsdb/move-fixture.ts); only the pods are played. */
import { randomUUID } from 'node:crypto';
import { Worker } from '@temporalio/worker';
import { pino } from 'pino';
import type { ActivityDeps } from '../../activities/deps.ts';
import { createActivities } from '../../activities/index.ts';
import type { NodeEndpoints } from '../../platform/platform.ts';
import { type OperationProgress, progressQuery, type ScaleInput, scaleWorkflowId } from '../../workflows/messages.ts';
import { CLUSTER, type Fixture, type TestNode } from '../jobsdb/move-fixture.ts';
import { until } from '../support/wait.ts';
import type { Harness, Operation } from './harness.ts';

export interface TwoNodes {
  start(input: Partial<ScaleInput>): Promise<Operation>;
  /** Waits until the query's answer satisfies `condition`. */
  shows(
    operation: Operation,
    what: string,
    condition: (seen: OperationProgress) => boolean,
    deadlineMs?: number,
  ): Promise<OperationProgress>;
}

export interface TwoNodesOptions extends Partial<Pick<ActivityDeps, 'controlOf'>> {
  /** Default: where the fixture's database is. */
  readonly databaseOf?: (name: string, node: TestNode) => NodeEndpoints['database'];
  readonly roomOf?: ActivityDeps['platform']['roomOf'];
}

export const nodeOf = (f: Fixture, name: string): TestNode => (name === 'node-0' ? f.a : f.b);

/** A worker of its own, for as long as `run` takes; what was started last is ended with it. */
export async function withTwoNodes(
  harness: Harness,
  f: Fixture,
  options: TwoNodesOptions,
  run: (nodes: TwoNodes) => Promise<void>,
): Promise<void> {
  const {
    databaseOf = (_name, node) => node.database.address,
    controlOf = async (name) => nodeOf(f, name).steward,
    roomOf = async () => null,
  } = options;
  const endpointsOf = async (name: string) =>
    ({ node: name, database: databaseOf(name, nodeOf(f, name)) }) as NodeEndpoints;
  const activities = createActivities({
    ringStore: f.store,
    platform: { ensureNode: endpointsOf, removeNode: async () => undefined, roomOf },
    endpointsOf,
    assertNothingPending: async () => undefined,
    controlOf,
    holders: { endOf: async ({ operationId }) => (operationId === 'op' ? 'it was the fixture' : null) },
    actor: 'worker@test',
    log: pino({ level: 'silent' }),
    limits: {
      settleWithinMs: 10_000,
      pollEveryMs: 10,
      standInAfterMs: 500,
      lostAfterMs: 1_000,
      caretakerIdleMs: 1_000,
    },
  });
  const taskQueue = `two-nodes-${randomUUID().slice(0, 8)}`;
  const worker = await Worker.create({
    connection: harness.env.nativeConnection,
    taskQueue,
    workflowBundle: harness.bundle,
    activities,
    maxHeartbeatThrottleInterval: 50,
    defaultHeartbeatThrottleInterval: 50,
  });
  let started: Operation | undefined;
  const nodes: TwoNodes = {
    async start(input) {
      started = await harness.env.client.workflow.start<(input: ScaleInput) => Promise<OperationProgress>>(
        'ScaleCluster',
        { workflowId: scaleWorkflowId(CLUSTER), taskQueue, args: [{ clusterId: CLUSTER, reason: 'a test', ...input }] },
      );
      return started;
    },
    shows: (operation, what, condition, deadlineMs = 40_000) =>
      until(
        async () => {
          const seen = await operation.query(progressQuery);
          return condition(seen) ? seen : null;
        },
        { deadlineMs, what },
      ),
  };
  await worker.runUntil(async () => {
    try {
      await run(nodes);
    } finally {
      await started?.terminate('the test has ended').catch(() => undefined); // it has ended, where all went well
    }
  });
}
