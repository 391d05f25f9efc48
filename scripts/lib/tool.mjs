// Runs one of the development tools in node_modules, its output being ours.
import { spawn } from 'node:child_process';
import path from 'node:path';
import { PROJECT, projectNode } from './dependencies.mjs';

/**
 * @param {string} script path below node_modules
 * @param {string[]} args
 * @param {NodeJS.ProcessEnv} [env]
 * @returns {Promise<number>} its exit code
 */
export function runTool(script, args, env = {}) {
  const child = spawn(projectNode(), [path.join(PROJECT, 'node_modules', script), ...args], {
    cwd: PROJECT,
    stdio: 'inherit',
    env: { ...process.env, ...env },
  });
  /** @param {NodeJS.Signals} signal */
  const forward = (signal) => {
    if (!(signal === 'SIGINT' && process.stdin.isTTY)) child.kill(signal);
  };
  process.on('SIGINT', forward).on('SIGTERM', forward);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code) => resolve(code ?? 1));
  }).finally(() => process.off('SIGINT', forward).off('SIGTERM', forward));
}

export const BIOME = '@biomejs/biome/bin/biome';
export const TSC = 'typescript/bin/tsc';
export const VITEST = 'vitest/vitest.mjs';
