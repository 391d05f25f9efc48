/** Runs whose histories are kept: `record.ts` writes them down, the ordinary test run replays them with the code as it is. */
import type { CompareMovesInput, CompareSlice } from '../../activities/types.ts';
import type { Operation, Trial } from '../workflows/harness.ts';
import {
  cancelUpdate,
  pauseUpdate,
  resumeUpdate,
  retryUpdate,
  stopVerificationUpdate,
  undoUpdate,
  type VerifyInput,
  verifyWorkflowId,
} from '../../workflows/messages.ts';
import { refusal } from '../workflows/world.ts';

export interface Story {
  readonly name: string;
  readonly nodes: number;
  tell(trial: Trial): Promise<Operation>;
}

export const stories: readonly Story[] = [
  { name: 'scale-up', nodes: 2, tell: (trial) => ended(trial.start({ targetNodes: 4 })) },
  { name: 'scale-down', nodes: 3, tell: (trial) => ended(trial.start({ targetNodes: 2 })) },
  { name: 'nothing-to-do', nodes: 2, tell: (trial) => ended(trial.start({ targetNodes: 2 })) },
  {
    name: 'aborted-try-then-blocked-then-resumed',
    nodes: 1,
    async tell({ world, start, shows }) {
      world.cutOver = () => ({ result: 'aborted', code: 'QUIESCE_TIMEOUT', because: 'a slow destination' });
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 8 });
      await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      world.cutOver = () => 'hand over';
      await operation.executeUpdate(resumeUpdate, { args: [{}] });
      return ended(Promise.resolve(operation));
    },
  },
  {
    name: 'cancelled-before-hand-over',
    nodes: 2,
    async tell({ world, start }) {
      const gate = world.gate('preCopy');
      const operation = await start({ targetNodes: 4 });
      await gate.arrived;
      await operation.executeUpdate(cancelUpdate, { args: [{ actor: 'ada' }] });
      return ended(Promise.resolve(operation));
    },
  },
  {
    name: 'paused-and-node-not-empty',
    nodes: 3,
    async tell({ world, start, shows }) {
      world.pendingJobs.set('node-2', 7);
      const gate = world.gate('preCopy');
      const operation = await start({ targetNodes: 2 });
      await gate.arrived;
      await operation.executeUpdate(pauseUpdate, { args: [{}] });
      gate.open();
      await operation.executeUpdate(resumeUpdate, { args: [{}] });
      await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      world.pendingJobs.clear();
      await operation.executeUpdate(resumeUpdate, { args: [{}] });
      return ended(Promise.resolve(operation));
    },
  },
  {
    name: 'taken-over',
    nodes: 3,
    async tell({ world, start }) {
      await world.append({ type: 'freeze', by: { operationId: 'gone', workflowId: 'scale/gone', runId: '11111111-1111-4111-8111-111111111111' } });
      await world.append({ type: 'start move', holder: 1, move: 'gone/move-1.1', from: 'node-0', to: 'node-1', partitions: [0] });
      return ended(start({ targetNodes: 2 }));
    },
  },
  {
    name: 'continued-as-new',
    nodes: 1,
    tell: (trial) => ended(trial.start({ targetNodes: 2, partitionsPerMoveMax: 1, continueAsNewAfterEvents: 60 })),
  },
  {
    name: 'refused-input',
    nodes: 2,
    tell: (trial) => ended(trial.start({ targetNodes: 0 })),
  },
  {
    name: 'cancelled-by-temporal-while-blocked',
    nodes: 2,
    async tell({ world, start, shows }) {
      world.before.set('waitServing', () => Promise.reject(refusal('NODE_OTHER_DATABASE')));
      const operation = await start({ targetNodes: 3 });
      await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      await operation.cancel();
      return ended(Promise.resolve(operation));
    },
  },
  {
    name: 'undone-under-way',
    nodes: 1,
    async tell({ world, start, shows }) {
      const certificate = refusal('CERTIFICATE_MISMATCH');
      // The second move is handed over and not completed when the operation is undone.
      world.before.set('cleanUp', ({ move }) => (move?.includes('/move-2.') ? Promise.reject(certificate) : undefined));
      const operation = await start({ targetNodes: 2, partitionsPerMoveMax: 2 });
      await shows(operation, 'blocked', ({ state }) => state === 'blocked');
      await operation.executeUpdate(undoUpdate, { args: [{ actor: 'ada' }] });
      await shows(operation, 'blocked on the way back', ({ state }) => state === 'blocked');
      world.before.clear();
      await operation.executeUpdate(retryUpdate, { args: [{}] });
      return ended(Promise.resolve(operation));
    },
  },
  {
    name: 'undo-of-an-ended-one',
    nodes: 2,
    async tell({ start, scale }) {
      const { operationId } = await scale(3);
      return ended(start({ goal: { kind: 'undo', operation: operationId } }));
    },
  },
  { name: 'drain', nodes: 3, tell: (trial) => ended(trial.start({ goal: { kind: 'drain', node: 'node-1' } })) },
  {
    name: 'undo-of-a-drain',
    nodes: 3,
    async tell({ start }) {
      const drained = await ended(start({ goal: { kind: 'drain', node: 'node-1' } }));
      return ended(start({ goal: { kind: 'undo', operation: drained.firstExecutionRunId } }));
    },
  },
  {
    name: 'forget',
    nodes: 3,
    tell: (trial) => ended(trial.start({ actor: 'ada', goal: { kind: 'forget', node: 'node-1', acceptLoss: true } })),
  },
];

/** Of VerifyMoves: the run that is kept is the first. */
export interface VerifyStory {
  readonly name: string;
  tell(trial: Trial, verify: (input: Omit<VerifyInput, 'clusterId'>) => Promise<Verification>): Promise<Verification>;
}
export type Verification = { readonly workflowId: string; readonly firstExecutionRunId: string } & Pick<Operation, 'executeUpdate'> & {
    result(): Promise<unknown>;
  };

export const verifyStories: readonly VerifyStory[] = [
  { name: 'a-look', tell: (_trial, verify) => compared(verify({})) },
  {
    name: 'full',
    tell({ world }, verify) {
      world.compare = slices(4);
      return compared(verify({ full: true }));
    },
  },
  {
    name: 'continued-as-new',
    tell({ world }, verify) {
      world.compare = slices(12);
      return compared(verify({ full: true, continueAsNewAfterEvents: 20 }));
    },
  },
  {
    name: 'stopped',
    async tell({ world }, verify) {
      const gate = world.gate('compareMoves');
      const verification = await verify({ full: true });
      await gate.arrived;
      await verification.executeUpdate(stopVerificationUpdate, { args: [{}] });
      return compared(Promise.resolve(verification));
    },
  },
  {
    name: 'refused-in-the-middle',
    tell({ world }, verify) {
      const play = slices(3);
      world.compare = (input) => {
        if (input.cursor?.handedOverAt === 1) throw refusal('RING_STORE_TOO_NEW');
        return play(input);
      };
      return compared(verify({ full: true }));
    },
  },
];

/** Starts the verification of a trial's cluster. */
export const verifierOf =
  ({ clusterId }: Trial, start: (workflowId: string, input: VerifyInput) => Promise<Verification>) =>
  (input: Omit<VerifyInput, 'clusterId'>): Promise<Verification> =>
    start(verifyWorkflowId(clusterId, input.full ?? false), { clusterId, ...input });

/** A move of ten jobs a slice. */
const slices =
  (moves: number) =>
  ({ cursor }: CompareMovesInput): CompareSlice => {
    const n = (cursor?.handedOverAt ?? 0) + 1;
    return {
      cursor: n < moves ? { handedOverAt: n, within: null } : null,
      movesTotal: moves,
      jobsTotal: 10 * moves,
      movesDone: 1,
      jobsCompared: 10,
      counts: { missing: 0, added: 0, differs: 0, 'changed places': 0 },
      samples: [],
      notCompared: [],
    };
  };

async function compared(starting: Promise<Verification>): Promise<Verification> {
  const verification = await starting;
  await verification.result().catch(() => undefined);
  return verification;
}

async function ended(starting: Promise<Operation>): Promise<Operation> {
  const operation = await starting;
  await operation.result().catch(() => undefined);
  return operation;
}
