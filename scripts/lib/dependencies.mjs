// Makes sure that node_modules is what package-lock.json says. Runs before anything is installed: plain JavaScript, Node 20, no packages.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { withLock } from './lock.mjs';
import { messageOf, Plain, say } from './say.mjs';

export const PROJECT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const MODULES = path.join(PROJECT, 'node_modules');
const LOCK_FILE = path.join(PROJECT, 'package-lock.json');
/** What npm installed, as npm itself writes it down when it has finished. */
const INSTALLED_FILE = path.join(MODULES, '.package-lock.json');

/** The Node that runs the project (it strips types by itself): the pinned package, or this one if that could not be installed and this is new enough. */
export function projectNode() {
  const pinned = path.join(MODULES, '.bin', 'node');
  if (existsSync(pinned)) return pinned;
  if (Number(process.versions.node.split('.')[0]) >= 24) return process.execPath;
  throw new Plain(
    'Node 24 is missing: the package "node" was installed without its install script. Run: npm ci --ignore-scripts=false',
  );
}

/** Installs what is missing. Quick if nothing is; safe when two processes call it at once. */
export async function ensureDependencies() {
  if (isInstalled()) return;
  await withLock(
    path.join(PROJECT, '.ringmaster-install.lock'),
    async () => {
      if (isInstalled()) return; // the one that we waited for did it
      say('ringmaster: installing dependencies (npm ci) …');
      const started = Date.now();
      await npmCi();
      writeFileSync(stamp(), '');
      say(`ringmaster: dependencies installed in ${Math.round((Date.now() - started) / 1000)} s`);
    },
    { onWait: () => say('ringmaster: another process is installing dependencies, waiting for it …') },
  );
}

function isInstalled() {
  try {
    // What npm did after our stamp nobody has compared yet.
    if (statSync(stamp()).mtimeMs >= statSync(INSTALLED_FILE).mtimeMs) return true;
  } catch {
    // no stamp, or no modules
  }
  if (!installedByHand()) return false;
  writeFileSync(stamp(), '');
  return true;
}

/** One for each package-lock.json: worktrees of several commits may share one node_modules, and must not take turns at installing it. */
function stamp() {
  const hash = createHash('sha256').update(readFileSync(LOCK_FILE)).digest('hex');
  return path.join(MODULES, `.ringmaster-installed-${hash.slice(0, 16)}`);
}

/**
 * Somebody ran `npm install` himself, or for a later package-lock.json: where all that ours names is there, in its version, there is nothing to do, and
 * nothing is pulled away from under processes that run now. A package more does no harm.
 */
function installedByHand() {
  try {
    const wanted = JSON.parse(readFileSync(LOCK_FILE, 'utf8')).packages;
    const present = JSON.parse(readFileSync(INSTALLED_FILE, 'utf8')).packages;
    for (const [name, entry] of Object.entries(wanted)) {
      if (name === '') continue;
      const found = present[name];
      if (!found && entry.optional) continue; // another platform's
      if (found?.version !== entry.version || found?.integrity !== entry.integrity) return false;
    }
    return true;
  } catch {
    return false;
  }
}

function npmCi() {
  return new Promise((resolve, reject) => {
    const windows = process.platform === 'win32';
    const child = spawn(windows ? 'npm.cmd' : 'npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], {
      cwd: PROJECT,
      stdio: ['ignore', 'pipe', 'pipe'],
      shell: windows,
    });
    let output = '';
    /** @param {Buffer} chunk */
    const keep = (chunk) => {
      output = (output + chunk.toString('utf8')).slice(-8000);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    child.on('error', (err) => reject(new Plain(`npm could not be started: ${messageOf(err)}`)));
    child.on('close', (code) =>
      code === 0 ? resolve(undefined) : reject(new Plain(`npm ci failed (exit ${code}):\n${output.trim()}`)),
    );
  });
}
