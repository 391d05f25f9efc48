// `npm test`: lint, types, then vitest; `npm run test:long`: vitest with the long suites only. Arguments go to vitest (and skip lint and types: someone looks at
// single files). The last line, alone, is "N passed, N failed[, N skipped]", computed from vitest's own JSON report.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { PROJECT, projectNode } from './lib/dependencies.mjs';
import { say } from './lib/say.mjs';
import { runTool, VITEST } from './lib/tool.mjs';

const [suite, ...args] = process.argv.slice(2);
/** @type {string[]} */
const failedChecks = [];
let exitCode = 0;
if (suite === 'ordinary' && args.length === 0) {
  for (const check of ['lint', 'typecheck']) {
    say(`ringmaster: ${check} …`);
    const code = await script(check);
    if (code !== 0) failedChecks.push(check);
    exitCode ||= code;
  }
}

const folder = mkdtempSync(path.join(tmpdir(), 'ringmaster-test-'));
const report = path.join(folder, 'report.json');
const projects = suite === 'long' ? ['long'] : ['unit', 'int', 'e2e'];
const code = await runTool(VITEST, [
  'run',
  ...projects.map((project) => `--project=${project}`),
  '--reporter=default',
  '--reporter=json',
  `--outputFile.json=${report}`,
  '--passWithNoTests',
  ...args,
]);
exitCode ||= code;
if (failedChecks.length > 0) process.stdout.write(`\nfailed before the tests: ${failedChecks.join(', ')}\n`);
process.stdout.write(`${summary(report, code)}\n`);
rmSync(folder, { recursive: true, force: true });
process.exitCode = exitCode;

/**
 * @param {string} file
 * @param {number} vitestCode
 */
function summary(file, vitestCode) {
  let passed = 0;
  let failed = 0;
  let skipped = 0;
  try {
    const result = JSON.parse(readFileSync(file, 'utf8'));
    passed = result.numPassedTests;
    failed = result.numFailedTests;
    skipped = result.numPendingTests + result.numTodoTests;
    // A file that could not even be loaded has no tests to count.
    for (const loaded of result.testResults)
      if (loaded.status === 'failed' && loaded.assertionResults.length === 0) failed += 1;
  } catch {
    // vitest ended before it could report
  }
  if (vitestCode !== 0 && failed === 0) failed = 1; // an error outside of any test
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;
}

/**
 * @param {string} name
 * @returns {Promise<number>}
 */
function script(name) {
  const child = spawn(projectNode(), [path.join(PROJECT, 'scripts', `${name}.mjs`)], {
    cwd: PROJECT,
    stdio: 'inherit',
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (status) => resolve(status ?? 1));
  });
}
