/**
 * Goal: the Kubernetes binaries are built once, whole or not at all; and where they cannot be built, a person reads one line that says why, while a build
 * server fails.
 * Method: scripts/lib/kube-tools.mjs in processes of its own, with a cache and a PATH of the test's. Where a build is needed, `go` is a small shell script
 * that writes down how it was called: a real build takes minutes, and npm test itself has just done one.
 */
import { spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { KUBE_TOOL_NAMES, kubeUnsupported } from '../../scripts/lib/kube-tools.mjs';
import { kubeMissing } from './available.ts';
import { kubeTools } from './control-plane.ts';

const PROJECT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const MODULE = path.join(PROJECT, 'scripts/lib/kube-tools.mjs');
const NO_GO = 'the Kubernetes binaries are built with Go, and there is no `go` on PATH';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'ringmaster-kube-tools-'));
  mkdirSync(at('bin'));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

describe.skipIf(kubeUnsupported() !== null)('ensureKubeTools', () => {
  test('without Go it gives null and one line that says so', async () => {
    expect(await ensure()).toEqual({
      code: 0,
      folder: null,
      said: [`ringmaster: tests on Kubernetes are skipped: ${NO_GO}`],
    });
    expect(leftInCache()).toEqual([]);
  });

  test.each([
    ['CI is set', { CI: 'true' }, '{}', `${NO_GO} (CI is set: these tests must run)`],
    ['they are needed', {}, '{ needed: true }', NO_GO],
  ])('without Go it throws where %s', async (_when, env, options, message) => {
    expect(await ensure({ env, options })).toEqual({ code: 1, folder: undefined, said: [message] });
  });

  test('a CI variable that says no is no build server', async () => {
    expect((await ensure({ env: { CI: 'false' } })).folder).toBeNull();
  });

  test('a Go that is too old is named with what is wanted', async () => {
    fakeGo({ version: 'go1.20.14' });
    const { folder: found, said } = await ensure();
    expect(found).toBeNull();
    expect(said).toEqual([
      expect.stringMatching(
        /: the Kubernetes binaries need Go 1\.\d+(\.\d+)? or newer, and the one on PATH is 1\.20\.14$/,
      ),
    ]);
  });

  test('a Go that refuses the module says why itself', async () => {
    fakeGo({
      version: 'go1.22.1',
      versionFails: 'go: go.mod requires go >= 1.26 (running go 1.22.1; GOTOOLCHAIN=local)',
    });
    expect((await ensure()).said.at(-1)).toMatch(/need Go 1\.26 or newer: go: go\.mod requires go >= 1\.26 \(running/);
  });

  test('a build that fails leaves nothing in the cache and tells the last line of the compiler', async () => {
    fakeGo({ buildFails: 'write: no space left on device' });
    const { folder: found, said } = await ensure();
    expect(found).toBeNull();
    expect(said.at(-1)).toMatch(/: building etcd v3\.\d+\.\d+ failed: write: no space left on device$/);
    expect(leftInCache()).toEqual([]);
  });

  test('all five are built, each from its module, with progress, and found by the next run without a word', async () => {
    fakeGo();
    const first = await ensure();
    expect(readdirSync(first.folder!).sort()).toEqual([...KUBE_TOOL_NAMES].sort());
    expect(first.said).toHaveLength(KUBE_TOOL_NAMES.length + 1);
    expect(first.said[1]).toMatch(/building kube-apiserver v1\.\d+\.\d+ from source with Go … \(about 6 minutes/);
    expect(builds()).toEqual(KUBE_TOOL_NAMES);
    expect(await ensure()).toEqual({ code: 0, folder: first.folder, said: [] });
    expect(leftInCache()).toEqual([path.basename(first.folder!)]);
  });

  test('two processes at once build once', async () => {
    fakeGo();
    const [one, other] = await Promise.all([ensure(), ensure()]);
    expect(one.folder).toBe(other.folder);
    expect(existsSync(path.join(one.folder!, 'helm'))).toBe(true);
    expect(builds()).toEqual(KUBE_TOOL_NAMES);
  });

  test('what a killed run left, and a folder in which a binary is missing, are replaced', async () => {
    fakeGo();
    const { folder: made } = await ensure();
    rmSync(path.join(made!, 'helm'));
    mkdirSync(`${made}.new-dead00`);
    expect((await ensure()).folder).toBe(made);
    expect(existsSync(path.join(made!, 'helm'))).toBe(true);
    expect(leftInCache()).toEqual([path.basename(made!)]);
  });

  test('KUBEBUILDER_ASSETS with all three: only kubectl and helm are built', async () => {
    fakeGo();
    const assets = makeTools('assets', ['etcd', 'kube-apiserver', 'kube-controller-manager']);
    const { folder: found } = await ensure({ env: { KUBEBUILDER_ASSETS: assets } });
    expect(builds()).toEqual(['kubectl', 'helm']);
    expect(lstatSync(path.join(found!, 'etcd')).isSymbolicLink()).toBe(true);
    expect((await ensure()).folder).not.toBe(found); // and without them it is another folder
  });

  test('KUBEBUILDER_ASSETS without one of the three is not used', async () => {
    fakeGo();
    const assets = makeTools('assets', ['etcd', 'kube-apiserver', 'kubectl']);
    await ensure({ env: { KUBEBUILDER_ASSETS: assets } });
    expect(builds()).toEqual(KUBE_TOOL_NAMES);
  });

  test('with assets that hold kubectl, and an earlier build, nothing is built again', async () => {
    fakeGo();
    await ensure();
    rmSync(at('built'));
    const assets = makeTools('assets', ['etcd', 'kube-apiserver', 'kube-controller-manager', 'kubectl']);
    expect((await ensure({ env: { KUBEBUILDER_ASSETS: assets } })).folder).toBeTypeOf('string');
    expect(builds()).toEqual([]);
  });

  test('RINGMASTER_KUBE_TOOLS is taken as it is, or refused with what it lacks', async () => {
    const complete = makeTools('mine', KUBE_TOOL_NAMES);
    expect((await ensure({ env: { RINGMASTER_KUBE_TOOLS: complete } })).folder).toBe(complete);
    const half = makeTools('half', ['etcd', 'kubectl', 'helm']);
    const refused = await ensure({ env: { RINGMASTER_KUBE_TOOLS: half } });
    expect(refused.code).toBe(1);
    expect(refused.said).toEqual([
      `RINGMASTER_KUBE_TOOLS names ${half}, where these are no executable files: kube-apiserver, kube-controller-manager`,
    ]);
  });
});

describe.skipIf(kubeUnsupported() !== null)('what the tests ask', () => {
  beforeEach(() => {
    for (const name of ['RINGMASTER_KUBE_TOOLS', 'RINGMASTER_KUBE_MISSING', 'KUBEBUILDER_ASSETS', 'CI'])
      vi.stubEnv(name, '');
    vi.stubEnv('XDG_CACHE_HOME', at('cache'));
  });

  test('with binaries nothing is missing, and kubeTools names each file', () => {
    const tools = makeTools('mine', KUBE_TOOL_NAMES);
    vi.stubEnv('RINGMASTER_KUBE_TOOLS', tools);
    vi.stubEnv('CI', 'true');
    expect(kubeMissing()).toBeNull();
    expect(kubeTools().apiserver).toBe(path.join(tools, 'kube-apiserver'));
  });

  test('without, the line says how to get them; with CI it is an error', () => {
    expect(kubeMissing()).toMatch(/not built yet: `npm test`/);
    expect(() => kubeTools()).toThrow(expect.objectContaining({ code: 'KUBE_TOOLS_MISSING' }));
    vi.stubEnv('CI', '1');
    expect(() => kubeMissing()).toThrow(/not built yet.*CI is set/);
  });
});

describe('elsewhere than on Linux', () => {
  test('nothing is built for tests that cannot run', () => {
    expect(kubeUnsupported('darwin')).toMatch(/need Linux/);
    expect(kubeUnsupported('linux')).toBeNull();
  });
});

describe.skipIf(kubeUnsupported() !== null)('npm run demo', () => {
  test('with --platform=kubernetes and no Go it says so and starts nothing', async () => {
    const ran = await run(
      [path.join(PROJECT, 'scripts/run.mjs'), 'demo', '--platform', 'local', '--platform=kubernetes'],
      {
        RINGMASTER_TEMPORAL_CLI: process.execPath, // looked at only for being there
      },
    );
    expect(ran).toEqual({ code: 1, stdout: '', said: [NO_GO] });
  });
});

function at(name: string): string {
  return path.join(folder, name);
}

/** An executable that does nothing, for each name. */
function makeTools(name: string, tools: readonly string[]): string {
  mkdirSync(at(name));
  for (const tool of tools) script(path.join(at(name), tool), 'exit 0');
  return at(name);
}

function fakeGo(does: { version?: string; versionFails?: string; buildFails?: string } = {}): void {
  const version = does.versionFails
    ? `echo '${does.versionFails}' >&2; exit 1`
    : `echo 'go version ${does.version ?? 'go99.1'} linux/amd64'`;
  const build = does.buildFails
    ? `echo '${does.buildFails}' >&2; exit 1`
    : `while [ "$1" != -o ]; do shift; done; echo "\${2##*/}" >> '${at('built')}'; echo '#!/bin/sh' > "$2"; chmod 755 "$2"`;
  script(path.join(at('bin'), 'go'), `if [ "$1" = version ]; then ${version}; else ${build}; fi`);
}

function script(file: string, body: string): void {
  writeFileSync(file, `#!/bin/sh\nPATH=/usr/bin:/bin\n${body}\n`);
  chmodSync(file, 0o755);
}

function builds(): string[] {
  return existsSync(at('built')) ? readFileSync(at('built'), 'utf8').trim().split('\n') : [];
}

function leftInCache(): string[] {
  return existsSync(at('cache/ringmaster')) ? readdirSync(at('cache/ringmaster')) : [];
}

async function ensure(how: { env?: Record<string, string>; options?: string } = {}) {
  const code = `import { ensureKubeTools } from ${JSON.stringify(MODULE)};
    try { process.stdout.write(JSON.stringify(await ensureKubeTools(${how.options ?? ''}))); }
    catch (err) { process.stderr.write(err.message + '\\n'); process.exitCode = 1; }`;
  const ran = await run(['--input-type=module', '--eval', code], how.env);
  return {
    code: ran.code,
    folder: ran.stdout === '' ? undefined : (JSON.parse(ran.stdout) as string | null),
    said: ran.said,
  };
}

function run(
  args: string[],
  env: Record<string, string> = {},
): Promise<{ code: number | null; stdout: string; said: string[] }> {
  const child = spawn(process.execPath, args, {
    env: { PATH: at('bin'), XDG_CACHE_HOME: at('cache'), HOME: at('home'), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const texts = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const)
    child[name].setEncoding('utf8').on('data', (text: string) => {
      texts[name] += text;
    });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) =>
      resolve({ code, stdout: texts.stdout, said: texts.stderr.split('\n').filter((line) => line !== '') }),
    );
  });
}
