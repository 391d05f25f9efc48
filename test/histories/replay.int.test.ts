/**
 * Goal: a run that began under an older version of the workflows goes on under this one.
 * Method: every saved history is replayed with the code as it is; other commands than those in the history fail. A change that must break this takes
 * `patched` and a new history beside the old.
 */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { DefaultLogger, Runtime, Worker, type WorkflowBundleWithSourceMap } from '@temporalio/worker';
import { beforeAll, expect, test } from 'vitest';
import { bundleWorkflows } from '../../workers/bundle.ts';
import { type History, readHistory } from './files.ts';
import { stories } from './stories.ts';

const folder = fileURLToPath(new URL('.', import.meta.url));
const saved = ['scale-cluster', 'move-partitions'].flatMap((workflow) =>
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

test('a history that this code would not have made is found out', async () => {
  const history = read(saved.find((file) => file.endsWith('-scale-up.json'))!);
  const freeze = history.events?.find((event) => event.activityTaskScheduledEventAttributes?.activityType?.name === 'freeze');
  freeze!.activityTaskScheduledEventAttributes!.activityType!.name = 'somethingElse';
  await expect(Worker.runReplayHistory({ workflowBundle }, history, idOf(history))).rejects.toThrow(/[Nn]ondeterminism/);
});

test('every story has its history', () => {
  for (const { name } of stories) expect(saved.some((file) => file.startsWith('scale-cluster/') && file.endsWith(`-${name}.json`))).toBe(true);
});

/** ScaleCluster looks at its own id. */
function idOf(history: History): string | undefined {
  return history.events?.[0]?.workflowExecutionStartedEventAttributes?.workflowId ?? undefined;
}
