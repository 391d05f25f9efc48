/** The activities of one move over a fixture's two databases: everything is real but Temporal and the pods. */
import { MockActivityEnvironment } from '@temporalio/testing';
import { pino } from 'pino';
import type { ActivityDeps } from '../../activities/deps.ts';
import { createMoveActivities } from '../../activities/move.ts';
import type { CutOverResult, MoveActivityInput } from '../../activities/types.ts';
import type { NodeControl } from '../../dataplane/contract.ts';
import { CLUSTER, type Fixture } from '../jobsdb/move-fixture.ts';

export interface MoveUnderTest {
  preCopy(): Promise<{ jobsCopied: number; passes: number }>;
  cutOver(): Promise<CutOverResult>;
}

/** Starts a move of partition 0 from node a to node b. `source`: in place of what a's steward does. */
export async function startMove(f: Fixture, source: Partial<NodeControl> = {}): Promise<MoveUnderTest> {
  const { a, b } = f;
  const input: MoveActivityInput = {
    ...{ clusterId: CLUSTER, operationId: 'op', reason: 'a test', holder: 1 },
    ...{ move: 'op/move-1.1', from: 'a', to: 'b', partitions: [0] },
  };
  await f.append({ type: 'start move', holder: 1, move: input.move, from: 'a', to: 'b', partitions: [0] });
  const { steward } = a;
  const controlOfA: NodeControl = {
    status: () => steward.status(),
    countPending: () => steward.countPending(),
    prepare: (command) => steward.prepare(command),
    quiesce: (command, signal) => steward.quiesce(command, signal),
    fence: (command) => steward.fence(command),
    ...source,
  };
  const activities = createMoveActivities({
    ringStore: f.store,
    platform: { roomOf: async () => null },
    controlOf: async (node: string) => (node === 'a' ? controlOfA : b.steward),
    endpointsOf: async (node: string) => ({ database: (node === 'a' ? a : b).database.address }),
    actor: 'worker',
    log: pino({ level: 'silent' }),
  } as unknown as ActivityDeps);
  return {
    preCopy: () => new MockActivityEnvironment().run(activities.preCopy, input),
    cutOver: () => new MockActivityEnvironment().run(activities.cutOver, input),
  };
}
