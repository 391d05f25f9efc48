/** A real Temporal dev server and one bundle for a test file; a worker for each test. */
import { randomUUID } from 'node:crypto';
import type { WorkflowHandleWithFirstExecutionRunId } from '@temporalio/client';
import { TestWorkflowEnvironment } from '@temporalio/testing';
import { DefaultLogger, Runtime, Worker, type WorkflowBundleWithSourceMap } from '@temporalio/worker';
import { createHolders } from '../../activities/holders.ts';
import { findTemporalCli } from '../../scripts/lib/temporal-cli.mjs';
import { bundleWorkflows } from '../../workers/bundle.ts';
import {
  type OperationProgress,
  progressQuery,
  type ScaleInput,
  scaleWorkflowId,
  searchAttributes,
} from '../../workflows/messages.ts';
import { until } from '../support/wait.ts';
import { World } from './world.ts';

export type Operation = WorkflowHandleWithFirstExecutionRunId<(input: ScaleInput) => Promise<OperationProgress>>;

export interface Trial {
  readonly world: World;
  readonly clusterId: string;
  start(input?: Partial<ScaleInput> | null, workflowId?: string): Promise<Operation>;
  /** Starts and waits for the result. */
  scale(targetNodes: number, input?: Partial<ScaleInput>): Promise<OperationProgress>;
  progress(operation: Operation): Promise<OperationProgress>;
  /** Waits until the query's answer satisfies `condition`. */
  shows(
    operation: Operation,
    what: string,
    condition: (progress: OperationProgress) => boolean,
  ): Promise<OperationProgress>;
}

export class Harness {
  readonly env: TestWorkflowEnvironment;
  readonly bundle: WorkflowBundleWithSourceMap;

  private constructor(env: TestWorkflowEnvironment, bundle: WorkflowBundleWithSourceMap) {
    this.env = env;
    this.bundle = bundle;
  }

  static async open(): Promise<Harness> {
    const path = findTemporalCli();
    if (!path)
      throw new Error('no Temporal CLI: set RINGMASTER_TEMPORAL_CLI, or run the tests through npm, which fetches it');
    Runtime.install({ logger: new DefaultLogger('ERROR') });
    const [env, bundle] = await Promise.all([
      TestWorkflowEnvironment.createLocal({
        server: { executable: { type: 'existing-path', path }, searchAttributes: Object.values(searchAttributes) },
      }),
      bundleWorkflows(),
    ]);
    return new Harness(env, bundle);
  }

  async close(): Promise<void> {
    await this.env.teardown();
  }

  /** Runs `test` with a cluster and a worker of its own. */
  async run<T>(nodes: number, test: (trial: Trial) => Promise<T>, partitionCount?: number): Promise<T> {
    const clusterId = `t-${randomUUID().slice(0, 8)}`;
    const world = new World(clusterId);
    world.holders = createHolders(this.env.client);
    if (nodes > 0) await world.make(nodes, partitionCount);
    const worker = await Worker.create({
      connection: this.env.nativeConnection,
      taskQueue: clusterId,
      workflowBundle: this.bundle,
      activities: world.activities(),
      // Also how soon an activity hears that it is cancelled.
      maxHeartbeatThrottleInterval: 50,
      defaultHeartbeatThrottleInterval: 50,
    });
    return await worker.runUntil(test(this.#trial(world)));
  }

  #trial(world: World): Trial {
    const { clusterId } = world;
    const start: Trial['start'] = (input, workflowId = scaleWorkflowId(clusterId)) =>
      this.env.client.workflow.start<(input: ScaleInput) => Promise<OperationProgress>>('ScaleCluster', {
        workflowId,
        taskQueue: clusterId,
        args: [(input === null ? null : { clusterId, reason: 'a test', ...input }) as ScaleInput],
      });
    const progress: Trial['progress'] = (operation) => operation.query(progressQuery);
    return {
      world,
      clusterId,
      start,
      scale: async (targetNodes, input) => (await start({ targetNodes, ...input })).result(),
      progress,
      shows: (operation, what, condition) =>
        until(
          async () => {
            const seen = await progress(operation);
            return condition(seen) ? seen : null;
          },
          { deadlineMs: 15_000, what },
        ),
    };
  }
}
