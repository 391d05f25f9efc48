// Every npm script goes through here: `node scripts/run.mjs NAME [ARGS]`. Makes sure of what NAME needs (dependencies, the Temporal CLI), then runs its
// entry with the project's own Node 24. What runs before installation is plain JavaScript that Node 20 understands.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { ensureDependencies, PROJECT, projectNode } from './lib/dependencies.mjs';
import { ensureKubeTools } from './lib/kube-tools.mjs';
import { messageOf, Plain, say } from './lib/say.mjs';
import { ensureTemporalCli } from './lib/temporal-cli.mjs';

/** `kube`: whether it needs the Kubernetes binaries, or only does more with them. @typedef {{ entry: string, args?: string[], temporal?: boolean, kube?: 'optional' | ((args: string[]) => boolean) }} Command */
/** @type {Record<string, Command>} */
const COMMANDS = {
  demo: { entry: 'dev/demo/main.ts', temporal: true, kube: asksKubernetes },
  start: { entry: 'dev/start.ts', temporal: true },
  bench: { entry: 'bench/main.ts', temporal: true },
  chaos: { entry: 'dev/chaos/main.ts', temporal: true },
  ringmaster: { entry: 'client/cli/main.ts' },
  test: { entry: 'scripts/test.mjs', args: ['ordinary'], temporal: true, kube: 'optional' },
  'test:long': { entry: 'scripts/test.mjs', args: ['long'], temporal: true, kube: 'optional' },
  'test:mutants': { entry: 'test/mutants/main.ts', temporal: true, kube: 'optional' },
  lint: { entry: 'scripts/lint.mjs' },
  typecheck: { entry: 'scripts/typecheck.mjs' },
  format: { entry: 'scripts/format.mjs' },
  build: { entry: 'scripts/build.mjs' },
};
const PARENT_WATCH_MS = 1000;
const EXIT_USAGE = 2;

const [name = '', ...args] = process.argv.slice(2);
/** @type {import('node:child_process').ChildProcess | undefined} */
let child;
for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
  process.on(signal, () => {
    if (!child) process.exit(signal === 'SIGINT' ? 130 : 143);
    // On a terminal Ctrl-C has already reached the child: a second one would mean "at once".
    if (signal === 'SIGINT' && process.stdin.isTTY) return;
    child.kill(signal);
  });
}

try {
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (!command) throw new Plain(`unknown script '${name}'; known: ${Object.keys(COMMANDS).join(', ')}`, EXIT_USAGE);
  if (!existsSync(path.join(PROJECT, command.entry))) throw new Plain(`${name}: not built yet`, EXIT_USAGE);
  await ensureDependencies();
  const asksHelp = args.includes('--help') || args.includes('-h');
  if (command.temporal && !asksHelp) process.env['RINGMASTER_TEMPORAL_CLI'] = await ensureTemporalCli();
  if (command.kube && !asksHelp && (command.kube === 'optional' || command.kube(args))) {
    const folder = await ensureKubeTools({ needed: command.kube !== 'optional' });
    if (folder) process.env['RINGMASTER_KUBE_TOOLS'] = folder;
  }
  process.exitCode = await run(path.join(PROJECT, command.entry), [...(command.args ?? []), ...args]);
} catch (err) {
  say(
    err instanceof Plain
      ? err.message
      : `ringmaster: ${err instanceof Error && err.stack ? err.stack : messageOf(err)}`,
  );
  process.exitCode = err instanceof Plain ? err.exitCode : 1;
}

/**
 * The last one counts, as for the program itself.
 * @param {string[]} args
 */
function asksKubernetes(args) {
  const values = args.flatMap((arg, index) => {
    if (arg === '--platform') return [args[index + 1]];
    return arg.startsWith('--platform=') ? [arg.slice('--platform='.length)] : [];
  });
  return values.at(-1) === 'kubernetes';
}

/**
 * The child gets the read end of a pipe as file descriptor 3: it closes when we die, however we die (kit/parent.ts looks at it). Standard input
 * stays the person's.
 * @param {string} entry
 * @param {string[]} entryArgs
 * @returns {Promise<number>}
 */
function run(entry, entryArgs) {
  const started = spawn(projectNode(), ['--disable-warning=ExperimentalWarning', entry, ...entryArgs], {
    stdio: ['inherit', 'inherit', 'inherit', 'pipe'],
    env: { ...process.env, RINGMASTER_PARENT_FD: '3' },
  });
  child = started;
  // npm killed outright leaves us without a parent; nobody would end us then.
  const parent = process.ppid;
  const watching = setInterval(() => {
    if (process.env['npm_lifecycle_event'] && process.ppid !== parent) started.kill('SIGTERM');
  }, PARENT_WATCH_MS);
  return new Promise((resolve, reject) => {
    started.on('error', reject);
    started.on('exit', (code, signal) => {
      clearInterval(watching);
      resolve(code ?? 128 + (signal === 'SIGINT' ? 2 : signal === 'SIGTERM' ? 15 : 9));
    });
  });
}
