// Finds the Kubernetes binaries that the tests and the demo on Kubernetes need (etcd, kube-apiserver, kube-controller-manager, kubectl, helm), or builds them
// with Go from test/kube/tools/*/go.mod, which takes minutes once. In this order:
//   1. RINGMASTER_KUBE_TOOLS, a folder with all five   2. what an earlier run kept in the cache   3. a build, which ends in the cache
// Where KUBEBUILDER_ASSETS holds etcd, kube-apiserver and kube-controller-manager, these are linked to instead of built (kubectl too, if it is there).
// The cache's folder is named after the modules' contents, so other versions never mix, and it is there whole or not at all. Plain JavaScript, Node 20.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { copyFile, link, mkdtemp, rename, rm, symlink } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { PROJECT } from './dependencies.mjs';
import { withLock } from './lock.mjs';
import { isExecutable, lastLine } from './programs.mjs';
import { messageOf, Plain, say } from './say.mjs';

/**
 * `module`: the folder of its go.mod; `versionOf`: the requirement there whose version is the tool's; `stamp`: linker flags that tell the tool its version,
 * which Go itself records only for a program built from its own repository.
 * @typedef {{ name: string, module: string, versionOf: string, pkg: string, stamp: (version: string) => string[] }} Tool
 */
const KUBERNETES = {
  module: 'kubernetes',
  versionOf: 'k8s.io/kubernetes',
  stamp: (/** @type {string} */ version) => {
    const [major, minor] = version.slice(1).split('.');
    const at = 'k8s.io/component-base/version.git';
    return [`-X ${at}Version=${version}`, `-X ${at}Major=${major}`, `-X ${at}Minor=${minor}`];
  },
};
/** @type {Tool[]} */
const TOOLS = [
  {
    name: 'etcd',
    module: 'etcd',
    versionOf: 'go.etcd.io/etcd/server/v3',
    pkg: 'go.etcd.io/etcd/server/v3',
    stamp: () => [], // has it in its source
  },
  { name: 'kube-apiserver', pkg: 'k8s.io/kubernetes/cmd/kube-apiserver', ...KUBERNETES },
  { name: 'kube-controller-manager', pkg: 'k8s.io/kubernetes/cmd/kube-controller-manager', ...KUBERNETES },
  { name: 'kubectl', pkg: 'k8s.io/kubernetes/cmd/kubectl', ...KUBERNETES },
  {
    name: 'helm',
    module: 'helm',
    versionOf: 'helm.sh/helm/v4',
    pkg: 'helm.sh/helm/v4/cmd/helm',
    stamp: (version) => [`-X helm.sh/helm/v4/internal/version.version=${version}`],
  },
];
export const KUBE_TOOL_NAMES = TOOLS.map((tool) => tool.name);
const ASSETS_NEEDED = ['etcd', 'kube-apiserver', 'kube-controller-manager'];
const MODULES = path.join(PROJECT, 'test/kube/tools');
const RECIPE = '1'; // part of the cache's name: raise it where the way of building changes
const TELL_EVERY_MS = 30_000;
const ABOUT_ALL = 'about 6 minutes for all on 2 cores, once';

/** `missing`: one line, why there are none. @typedef {{ folder: string } | { missing: string }} Outcome */

/** The cache's folder for these modules, this system and these assets; it may not be there yet. @param {NodeJS.ProcessEnv} [env] */
export function kubeToolsCache(env = process.env) {
  return cacheFor(env, usableAssets(env));
}

/**
 * Looks only; null if there is nothing yet.
 * @param {NodeJS.ProcessEnv} [env]
 * @returns {string | null}
 */
export function findKubeTools(env = process.env) {
  const named = env['RINGMASTER_KUBE_TOOLS'];
  if (named) {
    const lacking = KUBE_TOOL_NAMES.filter((name) => !isExecutable(path.join(named, name)));
    if (lacking.length > 0)
      throw new Plain(
        `RINGMASTER_KUBE_TOOLS names ${named}, where these are no executable files: ${lacking.join(', ')}`,
      );
    return path.resolve(named);
  }
  const cached = kubeToolsCache(env);
  return isComplete(cached) ? cached : null;
}

/**
 * Why nothing can run here whatever is built; null where it can.
 * @param {NodeJS.Platform} [platform]
 */
export function kubeUnsupported(platform = process.platform) {
  return platform === 'linux'
    ? null
    : `Kubernetes tests need Linux: each pod gets its own loopback address, and ${platform} has only one`;
}

/** Whether this is a build server, where tests that cannot run must fail instead of being skipped. @param {NodeJS.ProcessEnv} [env] */
export function isCi(env = process.env) {
  return !['', '0', 'false'].includes((env['CI'] ?? '').toLowerCase());
}

/**
 * Finds them, or builds them. Safe when two processes call it at once. Without Go, or where the build fails: says why on one line and gives null; throws that
 * line instead where CI is set or the caller cannot go on without.
 * @param {{ needed?: boolean }} [options]
 * @returns {Promise<string | null>} the folder
 */
export async function ensureKubeTools(options = {}) {
  const outcome = await findOrBuild();
  if ('folder' in outcome) return outcome.folder;
  if (options.needed) throw new Plain(outcome.missing);
  if (isCi()) throw new Plain(`${outcome.missing} (CI is set: these tests must run)`);
  say(`ringmaster: tests on Kubernetes are skipped: ${outcome.missing}`);
  process.env['RINGMASTER_KUBE_MISSING'] = outcome.missing; // the tests tell the same reason
  return null;
}

/** @returns {Promise<Outcome>} */
async function findOrBuild() {
  const unsupported = kubeUnsupported();
  if (unsupported) return { missing: unsupported };
  const found = findKubeTools();
  if (found) return { folder: found };
  const assets = usableAssets(process.env);
  const cache = cacheFor(process.env, assets);
  return await withLock(
    `${cache}.lock`,
    async () => {
      if (isComplete(cache)) return { folder: cache };
      const parent = path.dirname(cache);
      const scratchName = `${path.basename(cache)}.new-`;
      for (const name of readdirSync(parent)) {
        if (name.startsWith(scratchName)) await rm(path.join(parent, name), { recursive: true, force: true }); // a killed run's: we hold the lock
      }
      const scratch = await mkdtemp(path.join(parent, scratchName));
      try {
        await fill(scratch, assets);
        await rm(cache, { recursive: true, force: true }); // incomplete: somebody took a file out
        await rename(scratch, cache); // beside it, so atomic: nobody ever sees half of it
        say(`ringmaster: Kubernetes binaries kept in ${cache}`);
        return { folder: cache };
      } catch (err) {
        return { missing: messageOf(err) };
      } finally {
        await rm(scratch, { recursive: true, force: true });
      }
    },
    { onWait: () => say('ringmaster: another process is building the Kubernetes binaries, waiting for it …') },
  );
}

/**
 * @param {string} scratch
 * @param {string | null} assets
 */
async function fill(scratch, assets) {
  const built = assets === null ? null : cacheFor(process.env, null); // a build without assets may be there already
  let goIsFit = false;
  for (const tool of TOOLS) {
    const target = path.join(scratch, tool.name);
    const asset = assets === null ? null : path.join(assets, tool.name);
    if (asset !== null && isExecutable(asset)) {
      await symlink(asset, target);
      continue;
    }
    if (built !== null && isExecutable(path.join(built, tool.name))) {
      await link(path.join(built, tool.name), target).catch(() => copyFile(path.join(built, tool.name), target)); // a file system without links
      continue;
    }
    if (!goIsFit) await checkGo();
    goIsFit = true;
    await build(tool, target);
  }
}

/** The newest Go that any of the modules asks for must be there, or be one that this Go fetches by itself (GOTOOLCHAIN). */
async function checkGo() {
  for (const module of new Set(TOOLS.map((tool) => tool.module))) {
    const folder = path.join(MODULES, module);
    const wanted = /^go (\S+)$/m.exec(readFileSync(path.join(folder, 'go.mod'), 'utf8'))?.[1] ?? '0';
    const { code, output } = await go(['version'], folder);
    const present = /\bgo(\d+(?:\.\d+)*)/.exec(output)?.[1];
    if (code === 0 && present !== undefined && isAtLeast(present, wanted)) continue;
    if (code === 0 && present !== undefined)
      throw new Error(`the Kubernetes binaries need Go ${wanted} or newer, and the one on PATH is ${present}`);
    throw new Error(
      `the Kubernetes binaries need Go ${wanted} or newer: ${lastLine(output) || `go version: exit ${code}`}`,
    );
  }
}

/**
 * @param {Tool} tool
 * @param {string} target
 */
async function build(tool, target) {
  const folder = path.join(MODULES, tool.module);
  const version = versionOf(tool);
  say(`ringmaster: building ${tool.name} ${version} from source with Go … (${ABOUT_ALL})`);
  const started = Date.now();
  const telling = setInterval(
    () => say(`ringmaster: still building ${tool.name}, ${Math.round((Date.now() - started) / 1000)} s …`),
    TELL_EVERY_MS,
  );
  try {
    const flags = ['-s', '-w', ...tool.stamp(version)].join(' ');
    const { code, output } = await go(['build', '-trimpath', '-ldflags', flags, '-o', target, tool.pkg], folder);
    if (code === 0 && isExecutable(target)) return;
    throw new Error(`building ${tool.name} ${version} failed: ${lastLine(output) || `go build: exit ${code}`}`);
  } finally {
    clearInterval(telling);
  }
}

/**
 * Proxies, GOFLAGS and the rest of the person's settings are theirs; only what would make binaries that do not run here is set.
 * @param {string[]} args
 * @param {string} cwd
 * @returns {Promise<{ code: number | null, output: string }>}
 */
function go(args, cwd) {
  const child = spawn('go', args, {
    cwd,
    env: { ...process.env, CGO_ENABLED: '0', GOOS: '', GOARCH: '', GOWORK: 'off' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output = (output + chunk).slice(-4000);
    });
  }
  const end = () => child.kill('SIGINT'); // go passes that on to the compilers that it runs
  process.once('exit', end);
  return new Promise((resolve, reject) => {
    child.on('error', (err) => {
      const missing = /** @type {NodeJS.ErrnoException} */ (err).code === 'ENOENT';
      reject(missing ? new Error('the Kubernetes binaries are built with Go, and there is no `go` on PATH') : err);
    });
    child.on('close', (code) => resolve({ code, output }));
  }).finally(() => process.removeListener('exit', end));
}

/** @param {Tool} tool */
function versionOf(tool) {
  for (const line of readFileSync(path.join(MODULES, tool.module, 'go.mod'), 'utf8').split('\n')) {
    const [name, version] = line
      .replace(/^require/, '')
      .trim()
      .split(/\s+/);
    if (name === tool.versionOf && version?.startsWith('v')) return version;
  }
  throw new Error(`test/kube/tools/${tool.module}/go.mod does not require ${tool.versionOf}`);
}

/**
 * @param {NodeJS.ProcessEnv} env
 * @returns {string | null} the folder KUBEBUILDER_ASSETS, where it holds all that we take from it
 */
function usableAssets(env) {
  const named = env['KUBEBUILDER_ASSETS'];
  if (!named) return null;
  const folder = path.resolve(named);
  return ASSETS_NEEDED.every((name) => isExecutable(path.join(folder, name))) ? folder : null;
}

/**
 * @param {NodeJS.ProcessEnv} env
 * @param {string | null} assets
 */
function cacheFor(env, assets) {
  const hash = createHash('sha256').update([RECIPE, process.platform, process.arch, assets ?? ''].join('\0'));
  for (const module of new Set(TOOLS.map((tool) => tool.module))) {
    for (const file of ['go.mod', 'go.sum']) hash.update('\0').update(readFileSync(path.join(MODULES, module, file)));
  }
  const root = env['XDG_CACHE_HOME'] || path.join(homedir(), '.cache');
  return path.join(root, 'ringmaster', `kube-tools-${hash.digest('hex').slice(0, 12)}`);
}

/** @param {string} folder */
function isComplete(folder) {
  return KUBE_TOOL_NAMES.every((name) => isExecutable(path.join(folder, name)));
}

/**
 * @param {string} present
 * @param {string} wanted
 */
function isAtLeast(present, wanted) {
  const [have, want] = [present, wanted].map((version) => version.split('.').map(Number));
  for (const [index, number] of (want ?? []).entries()) {
    const ours = have?.[index] ?? 0;
    if (ours !== number) return ours > number;
  }
  return true;
}
