/**
 * Goal: what a container image holds can run there. Method: dist/ is built into a folder that has, as the image, only package.json and node_modules beside it, and each
 * process is started from it. What the code imports is held against package.json: an image has no development dependencies.
 */
import { execFile, spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { importsOf } from '../../scripts/lib/folders.mjs';
import { chartFile, PROJECT } from './chart-values.ts';

const PROCESSES = ['node', 'router', 'workers', 'api', 'operator'];

describe('dist/', () => {
  let folder: string;

  beforeAll(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'ringmaster-build-'));
    const dist = path.join(folder, 'dist');
    const built = spawnSync(process.execPath, [path.join(PROJECT, 'scripts/build.mjs'), '--out', dist], {
      encoding: 'utf8',
    });
    expect(built.status, built.stdout + built.stderr).toBe(0);
    cpSync(path.join(PROJECT, 'package.json'), path.join(folder, 'package.json'));
    symlinkSync(path.join(PROJECT, 'node_modules'), path.join(folder, 'node_modules'));
  }, 180_000);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const files = (): string[] =>
    readdirSync(path.join(folder, 'dist'), { recursive: true, encoding: 'utf8' }).filter((file) =>
      file.endsWith('.js'),
    );
  const run = (args: string[]): Promise<{ code: number; stdout: string; stderr: string }> =>
    new Promise((resolve) => {
      execFile(process.execPath, args, { cwd: folder, env: {}, timeout: 60_000 }, (error, stdout, stderr) =>
        resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr }),
      );
    });

  test.each(PROCESSES)('%s without any environment ends with one clear line and code 1', async (name) => {
    const { code, stdout, stderr } = await run([path.join('dist', name, 'main.js')]);
    expect(code, stdout + stderr).toBe(1);
    expect(stderr).toBe('');
    const lines = stdout.trim().split('\n');
    expect(lines).toHaveLength(1);
    expect(JSON.parse(lines[0]!)).toMatchObject({ level: 'fatal' });
    expect(lines[0]).toMatch(/CONFIG_INVALID: .*RINGMASTER_/);
  });

  test('the worker finds the workflows and can bundle them', async () => {
    const bundle = pathToFileURL(path.join(folder, 'dist/workers/bundle.js')).href;
    const code = `const { bundleWorkflows } = await import('${bundle}'); console.log((await bundleWorkflows()).code.includes('ScaleCluster'))`;
    const { stdout, stderr } = await run(['--input-type=module', '--eval', code]);
    expect(stdout.trim(), stderr).toBe('true');
  });

  test('nothing that an image runs is a development dependency', () => {
    const { dependencies } = JSON.parse(readFileSync(path.join(PROJECT, 'package.json'), 'utf8')) as {
      dependencies: Record<string, string>;
    };
    const packages = new Set<string>();
    for (const file of files())
      for (const { specifier } of importsOf(readFileSync(path.join(folder, 'dist', file), 'utf8')))
        if (/^@?[\w-]/.test(specifier) && !specifier.startsWith('node:'))
          packages.add(specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/'));
    const missing = [...packages].filter((name) => !(name in dependencies) && !builtinModules.includes(name));
    expect(missing).toEqual([]);
    expect(packages.size).toBeGreaterThan(5);
  });

  test('no import is left that ends with .ts, and none leads nowhere', () => {
    const present = new Set(files());
    const wrong = files().flatMap((file) =>
      importsOf(readFileSync(path.join(folder, 'dist', file), 'utf8'))
        .filter(({ specifier }) => specifier.startsWith('.'))
        .map(({ specifier }) => path.join(path.dirname(file), specifier))
        .filter((target) => !present.has(target)),
    );
    expect(wrong).toEqual([]);
  });
});

describe('the container file', () => {
  const text = readFileSync(path.join(PROJECT, 'deploy/container/Containerfile'), 'utf8');

  test('runs as the numeric user of the chart, and installs from the lock file only', () => {
    expect(text).toMatch(/^USER 10001:10001$/m);
    expect(chartFile('templates/_helpers.tpl')).toContain('runAsUser: 10001');
    expect(text.match(/npm (?:install|ci)/g)).toEqual(['npm ci', 'npm ci']);
  });

  test('names every process that the chart starts', () => {
    const templates = readdirSync(path.join(PROJECT, 'deploy/helm/ringmaster/templates')).filter((name) =>
      name.endsWith('.yaml'),
    );
    const entries = templates.flatMap((name) =>
      [...chartFile(`templates/${name}`).matchAll(/"entry" "(\w+)"/g)].map(([, entry]) => entry!),
    );
    expect(entries.sort()).toEqual([...PROCESSES].sort());
    for (const entry of entries) expect(text).toContain(`dist/${entry}/main.js`);
  });

  test('leaves out what an image does not need', () => {
    const ignored = readFileSync(path.join(PROJECT, '.dockerignore'), 'utf8').split('\n');
    for (const name of ['**/node_modules', '.git', '.ringmaster', 'dist', 'test']) expect(ignored).toContain(name);
  });
});
