/**
 * Writes the histories of `stories.ts` to test/histories/<workflow>/<version>-<story>.json, for the version in package.json. Run it when a version is
 * released, or a new story is added; never over the files of an older version: those show that runs that began under it still go on.
 *   node test/histories/record.ts [story …]      (a story of a verification: verify-<name>)
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import packageJson from '../../package.json' with { type: 'json' };
import type { VerifyInput, VerifyProgress } from '../../workflows/messages.ts';
import { Harness } from '../workflows/harness.ts';
import { type History, historyText } from './files.ts';
import { stories, verifierOf, verifyStories } from './stories.ts';

const folder = fileURLToPath(new URL('.', import.meta.url));
const wanted = process.argv.slice(2);
const harness = await Harness.open();
try {
  for (const story of stories.filter(({ name }) => wanted.length === 0 || wanted.includes(name))) {
    await harness.run(story.nodes, async (trial) => {
      const operation = await story.tell(trial);
      const { workflowId, firstExecutionRunId } = operation;
      const events = (await keep('scale-cluster', story.name, workflowId, firstExecutionRunId)).events ?? [];
      // The first two runs of its children tell all that a story has to tell of moves.
      const children = events.flatMap((event) => event.childWorkflowExecutionStartedEventAttributes?.workflowExecution ?? []);
      for (const [index, child] of children.slice(0, 2).entries()) {
        await keep('move-partitions', `${story.name}-${index + 1}`, child.workflowId!, child.runId!);
      }
    });
  }
  for (const story of verifyStories.filter(({ name }) => wanted.length === 0 || wanted.includes(`verify-${name}`))) {
    await harness.run(2, async (trial) => {
      const start = (workflowId: string, input: VerifyInput) =>
        harness.env.client.workflow.start<(given: VerifyInput) => Promise<VerifyProgress>>('VerifyMoves', {
          args: [input],
          taskQueue: trial.clusterId,
          workflowId,
        });
      const { workflowId, firstExecutionRunId } = await story.tell(trial, verifierOf(trial, start));
      await keep('verify-moves', story.name, workflowId, firstExecutionRunId);
    });
  }
} finally {
  await harness.close();
}
process.exit(0);

async function keep(workflow: string, story: string, workflowId: string, runId: string): Promise<History> {
  const history = await harness.env.client.workflow.getHandle(workflowId, runId).fetchHistory();
  const file = path.join(folder, workflow, `${packageJson.version}-${story}.json`);
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, historyText(history));
  process.stdout.write(`${path.relative(process.cwd(), file)}: ${history.events?.length ?? 0} events\n`);
  return history;
}
