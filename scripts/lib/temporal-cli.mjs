// Finds the Temporal CLI, whose dev server the embedded stack runs, or gets it. In this order:
//   1. RINGMASTER_TEMPORAL_CLI   2. `temporal` on PATH   3. what an earlier run kept in the cache
//   4. the SDK's own download    5. `go install` from its public source, which takes minutes once
// 4 and 5 end in the cache. Plain JavaScript, Node 20.
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { PROJECT, projectNode } from './dependencies.mjs';
import { withLock } from './lock.mjs';
import { isExecutable, lastLine } from './programs.mjs';
import { Plain, say } from './say.mjs';

export const TEMPORAL_CLI_VERSION = '1.5.1';
const NO_DOWNLOAD_PROGRESS_MS = 15_000; // a firewall that drops packets must not hold us longer; a slow but moving download may go on
const SCRATCH = 'temporal-cli-new-';
const EXE = process.platform === 'win32' ? 'temporal.exe' : 'temporal';

/** @returns {string} the folder in which an earlier run left the binary */
export function cacheFolder() {
  const root = process.env['XDG_CACHE_HOME'] || path.join(homedir(), '.cache');
  return path.join(root, 'ringmaster', `temporal-cli-${TEMPORAL_CLI_VERSION}`);
}

/** Looks only; null if there is none yet. @returns {string | null} */
export function findTemporalCli() {
  const named = process.env['RINGMASTER_TEMPORAL_CLI'];
  if (named) {
    if (!isExecutable(named))
      throw new Plain(`RINGMASTER_TEMPORAL_CLI names ${named}, which is not an executable file`);
    return path.resolve(named);
  }
  for (const folder of (process.env['PATH'] ?? '').split(path.delimiter)) {
    if (folder && isExecutable(path.join(folder, EXE))) return path.resolve(folder, EXE);
  }
  const cached = path.join(cacheFolder(), EXE);
  return isExecutable(cached) ? cached : null;
}

/** Finds it, or gets it. Safe when two processes call it at once. @returns {Promise<string>} */
export async function ensureTemporalCli() {
  const found = findTemporalCli();
  if (found) return found;
  const cache = cacheFolder();
  return await withLock(
    `${cache}.lock`,
    async () => {
      const meanwhile = findTemporalCli();
      if (meanwhile) return meanwhile;
      await mkdir(cache, { recursive: true });
      for (const name of readdirSync(path.dirname(cache))) {
        if (name.startsWith(SCRATCH)) await rm(path.join(path.dirname(cache), name), { recursive: true, force: true }); // a killed run's: we hold the lock
      }
      const failures = [];
      for (const way of [download, goInstall]) {
        const scratch = await mkdtemp(path.join(path.dirname(cache), SCRATCH));
        try {
          const binary = await way(scratch);
          const kept = path.join(cache, EXE);
          await chmod(binary, 0o755);
          await rename(binary, kept); // beside the cache, so atomic: nobody ever sees half of it
          say(`ringmaster: Temporal CLI kept in ${kept}`);
          return kept;
        } catch (err) {
          failures.push(`  ${err instanceof Error ? err.message : String(err)}`);
        } finally {
          await rm(scratch, { recursive: true, force: true });
        }
      }
      throw new Plain(
        [
          'No Temporal CLI was found, and none could be fetched:',
          ...failures,
          'Ways to go on:',
          '  - set RINGMASTER_TEMPORAL_CLI to the path of a `temporal` binary',
          '  - put `temporal` on PATH (https://docs.temporal.io/cli)',
          `  - install Go, so that it can be built: go install github.com/temporalio/cli/cmd/temporal@v${TEMPORAL_CLI_VERSION}`,
        ].join('\n'),
      );
    },
    { onWait: () => say('ringmaster: another process is fetching the Temporal CLI, waiting for it …') },
  );
}

/**
 * The SDK downloads its dev server by itself when it is asked for a test environment; so we ask for one, in a process of its own that we can end.
 * @param {string} scratch
 * @returns {Promise<string>}
 */
async function download(scratch) {
  say('ringmaster: fetching the Temporal CLI with the SDK’s downloader …');
  const script = path.join(PROJECT, 'scripts/lib/download-temporal.mjs');
  const child = spawn(projectNode(), [script, scratch, `v${TEMPORAL_CLI_VERSION}`], {
    cwd: PROJECT,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let progressAt = Date.now();
  let size = 0;
  let stalled = false;
  let said = '';
  child.stderr.on('data', (chunk) => {
    said = (said + chunk).slice(-2000);
  });
  const watching = setInterval(() => {
    const now = sizeOf(scratch);
    if (now !== size) {
      size = now;
      progressAt = Date.now();
    } else if (Date.now() - progressAt > NO_DOWNLOAD_PROGRESS_MS) {
      stalled = true;
      child.kill('SIGKILL');
    }
  }, 250);
  try {
    const code = await exitOf(child);
    const name = readdirSync(scratch).find((file) => !file.endsWith('.downloading'));
    if (code === 0 && name) return path.join(scratch, name);
    throw new Error(
      stalled
        ? `download: nothing arrived for ${NO_DOWNLOAD_PROGRESS_MS / 1000} s`
        : `download: ${lastLine(said) || `exit ${code}`}`,
    );
  } finally {
    clearInterval(watching);
  }
}

/**
 * @param {string} scratch
 * @returns {Promise<string>}
 */
async function goInstall(scratch) {
  const started = Date.now();
  say(`ringmaster: building the Temporal CLI ${TEMPORAL_CLI_VERSION} from source with Go (some minutes, once) …`);
  const child = spawn('go', ['install', `github.com/temporalio/cli/cmd/temporal@v${TEMPORAL_CLI_VERSION}`], {
    cwd: scratch,
    env: { ...process.env, GOBIN: scratch, GOFLAGS: '' },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  child.stderr.on('data', (chunk) => {
    said = (said + chunk).slice(-2000);
  });
  const telling = setInterval(
    () => say(`ringmaster: still building the Temporal CLI, ${Math.round((Date.now() - started) / 1000)} s …`),
    10_000,
  );
  try {
    const code = await exitOf(child);
    const binary = path.join(scratch, EXE);
    if (code === 0 && isExecutable(binary)) return binary;
    throw new Error(`go install: ${lastLine(said) || `exit ${code}`}`);
  } catch (err) {
    if (/** @type {NodeJS.ErrnoException} */ (err).code === 'ENOENT')
      throw new Error('go install: there is no `go` on PATH');
    throw err;
  } finally {
    clearInterval(telling);
  }
}

/**
 * Also ends the child when we are ended, so that a Ctrl-C leaves no compiler running.
 * @param {import('node:child_process').ChildProcess} child
 * @returns {Promise<number | null>}
 */
function exitOf(child) {
  const end = () => child.kill('SIGTERM');
  process.once('exit', end);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  }).finally(() => process.removeListener('exit', end));
}

/** @param {string} folder */
function sizeOf(folder) {
  try {
    return readdirSync(folder).reduce(
      (sum, name) => sum + 1 + (existsSync(path.join(folder, name)) ? statSync(path.join(folder, name)).size : 0),
      0,
    );
  } catch {
    return 0;
  }
}
