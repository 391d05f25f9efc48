/** Workflows as somebody might change them: the real ones, bundled with one change of their text. */
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, type WorkflowBundleWithSourceMap } from '@temporalio/worker';

export interface Planted {
  /** In `workflows/`. */
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

const here = (relative: string): string => fileURLToPath(new URL(relative, import.meta.url));
const nothing = (): void => {};
const quiet = { log: nothing, trace: nothing, debug: nothing, info: nothing, warn: nothing, error: nothing };

/** The changes are made in the order in which they are given. */
export function bundleWith(...planted: readonly Planted[]): Promise<WorkflowBundleWithSourceMap> {
  const workflows = here('../../workflows/');
  return bundleWorkflowCode({
    workflowsPath: path.join(workflows, 'index.ts'),
    logger: quiet,
    webpackConfigHook: (config) => {
      const rules = planted.map(({ file, find, replace }) => ({
        resource: path.join(workflows, file),
        enforce: 'pre' as const,
        use: [{ loader: here('plant.cjs'), options: { find, replace } }],
      }));
      return { ...config, module: { ...config.module, rules: [...(config.module?.rules ?? []), ...rules.reverse()] } };
    },
  });
}
