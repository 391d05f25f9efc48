/**
 * Goal: a run that began under an older version of the workflows goes on under this one.
 * Method: every saved history is replayed with the code as it is; other commands than those in the history fail. A change that must break this takes
 * `patched` and a new history beside the old.
 */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { DefaultLogger, Runtime, Worker, type WorkflowBundleWithSourceMap } from '@temporalio/worker';
import { beforeAll, describe, expect, test } from 'vitest';
import { bundleWorkflows } from '../../workers/bundle.ts';
import { type History, readHistory } from './files.ts';
import { bundleWith, type Planted } from './planted.ts';
import { stories, verifyStories } from './stories.ts';

const folder = fileURLToPath(new URL('.', import.meta.url));
const saved = ['scale-cluster', 'move-partitions', 'verify-moves'].flatMap((workflow) =>
  readdirSync(path.join(folder, workflow)).map((file) => `${workflow}/${file}`),
);

let workflowBundle: WorkflowBundleWithSourceMap;
beforeAll(async () => {
  Runtime.install({ logger: new DefaultLogger('ERROR') });
  workflowBundle = await bundleWorkflows();
});

const read = (file: string): History => readHistory(path.join(folder, file));

test.each(saved)('%s still replays', async (file) => {
  const history = read(file);
  await Worker.runReplayHistory({ workflowBundle }, history, idOf(history));
});

const VERIFY = `await op.step('verify cluster', () => verify(op));`;
const REMOVE = `await op.step('remove nodes', () => removeNodes(op));`;
const COMPLETE = `await op.step('move partitions', () => completeHandedOver(op));`;
const PLAN_BACK = `await op.step('plan', () => planBack(op));`;

/** Each is a change that somebody could make in good faith; `breaks`: a history that must not replay with it. */
const changes: readonly { readonly what: string; readonly planted: readonly Planted[]; readonly breaks: string }[] = [
  {
    what: 'a step less: the cluster is not verified',
    planted: [{ file: 'scale-cluster.ts', find: VERIFY, replace: '' }],
    breaks: 'scale-cluster/0.1.0-scale-up.json',
  },
  {
    what: 'two steps in another order: nodes are removed before the cluster is verified',
    planted: [
      { file: 'scale-cluster.ts', find: VERIFY, replace: '/* 1 */' },
      { file: 'scale-cluster.ts', find: REMOVE, replace: '/* 2 */' },
      { file: 'scale-cluster.ts', find: '/* 1 */', replace: REMOVE },
      { file: 'scale-cluster.ts', find: '/* 2 */', replace: VERIFY },
    ],
    breaks: 'scale-cluster/0.1.0-scale-down.json',
  },
  {
    what: 'a look at the ring before each copy',
    planted: [
      {
        file: 'move-partitions.ts',
        find: `status.state = 'copying';`,
        replace: `await call(ring.readRing, 'look', { clusterId: input.clusterId }); status.state = 'copying';`,
      },
    ],
    breaks: 'move-partitions/0.1.0-scale-up-1.json',
  },
  {
    what: 'no wait between two tries',
    planted: [{ file: 'move-partitions.ts', find: `if (!(await waited(FIRST_BACKOFF_MS * BACKOFF_FACTOR ** (times - 1))))`, replace: `if (times < 0)` }],
    breaks: 'move-partitions/0.1.0-aborted-try-then-blocked-then-resumed-1.json',
  },
  {
    what: 'a child workflow of another type',
    planted: [{ file: 'run-moves.ts', find: `executeChild('MovePartitions', {`, replace: `executeChild('MoveMany', {` }],
    breaks: 'scale-cluster/0.1.0-continued-as-new.json',
  },
  {
    what: 'nodes are marked once all has moved',
    planted: [
      { file: 'scale-cluster.ts', find: `await markNodes(op);\n    await forgetNode(op);`, replace: `await forgetNode(op);` },
      { file: 'scale-cluster.ts', find: VERIFY, replace: `await markNodes(op);\n  ${VERIFY}` },
    ],
    breaks: 'scale-cluster/0.1.0-drain.json',
  },
  {
    what: 'a node is forgotten without a word',
    planted: [{ file: 'scale-cluster.ts', find: `await forgetNode(op);`, replace: '' }],
    breaks: 'scale-cluster/0.1.0-forget.json',
  },
  {
    what: 'an undo is planned once, under its freeze',
    planted: [
      {
        file: 'scale-cluster.ts',
        find: `await op.step('plan', () => lookAhead(op, goal));\n    if (hasNothingToDo(op))`,
        replace: `if (goal.kind !== 'undo') await op.step('plan', () => lookAhead(op, goal));\n    if (goal.kind !== 'undo' && hasNothingToDo(op))`,
      },
    ],
    breaks: 'scale-cluster/0.1.0-undo-of-an-ended-one.json',
  },
  {
    what: 'the way back is planned before what is handed over is completed',
    planted: [
      { file: 'scale-cluster.ts', find: COMPLETE, replace: '/* 1 */' },
      { file: 'scale-cluster.ts', find: PLAN_BACK, replace: `${PLAN_BACK} ${COMPLETE}` },
    ],
    breaks: 'scale-cluster/0.1.0-undone-under-way.json',
  },
  {
    what: 'a second look at the nodes before a comparison',
    planted: [
      {
        file: 'verify-moves.ts',
        find: `if (!input.full) return;`,
        replace: `if (!input.full) return; await call(checkCluster, 'again', { clusterId });`,
      },
    ],
    breaks: 'verify-moves/0.1.0-full.json',
  },
];

describe('a change of what a workflow commands, without a patch, is found out', () => {
  test.each(changes)('$what', async ({ planted, breaks }) => {
    const history = read(breaks);
    const changed = await bundleWith(...planted);
    await expect(Worker.runReplayHistory({ workflowBundle: changed }, history, idOf(history))).rejects.toThrow(/[Nn]ondeterminism/);
  });
});

test('the same change behind a patch lets every run that began before it go on as it began', async () => {
  const patched = await bundleWith({
    file: 'scale-cluster.ts',
    find: VERIFY,
    replace: `if (!require('@temporalio/workflow').patched('no-verification')) { ${VERIFY} }`,
  });
  for (const name of saved) {
    const history = read(name);
    await Worker.runReplayHistory({ workflowBundle: patched }, history, idOf(history));
  }
});

test('every story has its history', () => {
  const has = (folderName: string, story: string): boolean => saved.some((file) => file.startsWith(`${folderName}/`) && file.endsWith(`-${story}.json`));
  expect(stories.filter(({ name }) => !has('scale-cluster', name))).toEqual([]);
  expect(verifyStories.filter(({ name }) => !has('verify-moves', name))).toEqual([]);
});

/** ScaleCluster looks at its own id. */
function idOf(history: History): string | undefined {
  return history.events?.[0]?.workflowExecutionStartedEventAttributes?.workflowId ?? undefined;
}
