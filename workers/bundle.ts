/** The workflows as one file of code, which is what a worker runs. Takes 1.6 s of one core: not worth a cache that could be stale. */
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, type WorkflowBundleWithSourceMap } from '@temporalio/worker';

const nothing = (): void => {};
const quiet = { log: nothing, trace: nothing, debug: nothing, info: nothing, warn: nothing, error: nothing };

export async function bundleWorkflows(): Promise<WorkflowBundleWithSourceMap> {
  return bundleWorkflowCode({
    // As this file is: .ts here, .js in a container image.
    workflowsPath: fileURLToPath(new URL(`../workflows/index${path.extname(import.meta.url)}`, import.meta.url)),
    logger: quiet,
  });
}
