/**
 * `npm run test:mutants`: takes each listed guard (guards.ts) out, one by one, and expects its test to fail.
 *
 * It works in a copy of the project in a temporary folder, node_modules linked, never in the project itself. First all tests that are named run once without
 * any mutant: one that fails anyway, or that is not there, would prove nothing. Then, for each guard: the mutant is written, its tests run, the file is put back.
 *
 *   killed    a test failed, by an assertion or by what it waited for
 *   survived  all its tests passed: the promise has no test, or the line is no guard
 *   error     it proves nothing: the mutant does not parse, no test ran, or all that failed is a SyntaxError, TypeError or ReferenceError
 *   skipped   its tests need what is not on this machine (Kubernetes binaries); with CI set that is a failure
 *
 * Exit: 0 all were killed, known survivors and skipped ones aside; 1 not so; 2 usage. Ctrl-C ends the test under way and takes the copy away.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { describeError } from '../../kit/errors.ts';
import { endWithParent, onStopSignal } from '../../kit/parent.ts';
import { kubeMissing } from '../kube/available.ts';
import { type Guard, guards } from './guards.ts';

type Outcome = 'killed' | 'survived' | 'known survivor' | 'error' | 'skipped';

interface Result {
  readonly name: string;
  readonly because: string;
  readonly file: string;
  readonly outcome: Outcome;
  readonly ms: number;
  /** The test that failed; or why nothing can be said. */
  readonly detail: string;
}

/** What is used of vitest's JSON report. */
interface Report {
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message: string;
    readonly assertionResults: readonly {
      readonly fullName: string;
      readonly status: string;
      readonly failureMessages: readonly string[] | null;
    }[];
  }[];
}

interface Ran {
  readonly report: Report | null;
  readonly exitCode: number | null;
  /** The end of what vitest wrote. */
  readonly output: string;
}

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
const VITEST = 'node_modules/vitest/vitest.mjs';
/** One mutant's tests take seconds, a minute where Kubernetes is started: one that takes longer hangs. */
const ENDS_WITHIN_MS = 240_000;
/** All tests together, once, without a mutant. */
const ALL_END_WITHIN_MS = 1_200_000;
const OUTPUT_CHARS = 4_000;
/** How a program fails that is no program any more: by it no promise is told to be kept or broken. */
const BROKEN = /^(Syntax|Type|Reference)Error\b|\bsyntax error at or near\b|\bTransform failed\b/;

const program = new Command('npm run test:mutants --')
  .description('Takes each listed guard out, one by one, and expects its test to fail.')
  .option('--only <part>', 'guards with this in their name, file or rule')
  .option('--list', 'list the guards and run nothing')
  .option('--json <file>', 'write the report there')
  .allowExcessArguments(false)
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));
program.parse();
const flags = program.opts<{ only?: string; list?: boolean; json?: string }>();

let folder: string | null = null;
let running: ChildProcess | null = null;
let stopping = false;

const say = (line: string): void => void process.stdout.write(`${line}\n`);
const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;

async function stop(): Promise<void> {
  stopping = true;
  const child = running;
  if (child && child.exitCode === null && child.signalCode === null) {
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGTERM');
    await ended;
  }
  removeCopy();
}

function removeCopy(): void {
  if (folder) rmSync(folder, { recursive: true, force: true });
  folder = null;
}

endWithParent(stop);
onStopSignal((signal) => void stop().then(() => process.exit(signal === 'SIGINT' ? 130 : 143)));

try {
  process.exitCode = await main();
} catch (error) {
  if (!stopping) process.stderr.write(`test:mutants: ${describeError(error)}\n`);
  process.exitCode = 1;
} finally {
  if (!stopping) removeCopy();
}

async function main(): Promise<number> {
  const { only } = flags;
  const chosen = guards.filter(
    ({ name, file, because }) => only === undefined || [name, file, because].some((text) => text.includes(only)),
  );
  if (chosen.length === 0) {
    process.stderr.write(`test:mutants: no guard has '${only}' in its name, file or rule\n`);
    return 2;
  }
  if (flags.list) {
    for (const { name, because, file, knownSurvivor } of chosen)
      say(`${file}: ${name} (${because})${knownSurvivor ? `; known survivor: ${knownSurvivor}` : ''}`);
    say(`${chosen.length} guards`);
    return 0;
  }
  const startedAt = performance.now();
  const needKube = chosen.filter(needsKubernetes);
  const missing = needKube.length > 0 ? kubeMissing() : null; // throws where CI is set
  if (missing) say(`skipped, ${needKube.length} of ${chosen.length}: ${missing}`);
  const wanted = missing ? chosen.filter((guard) => !needsKubernetes(guard)) : chosen;

  const copy = makeCopy();
  if (wanted.length > 0) await assertTestsPass(copy, wanted);
  const results: Result[] = [];
  for (const [index, guard] of chosen.entries()) {
    if (stopping) return 130;
    const result = wanted.includes(guard)
      ? await tryWithout(copy, guard)
      : resultOf(guard, 'skipped', 0, missing ?? '');
    results.push(result);
    const place = `${String(index + 1).padStart(String(chosen.length).length)}/${chosen.length}`;
    say(`${place}  ${result.outcome.padEnd(8)} ${seconds(result.ms).padStart(7)}  ${guard.file}: ${guard.name}`);
    if (result.outcome !== 'killed' && result.outcome !== 'skipped') say(`      ${result.detail}`);
  }
  return conclude(results, performance.now() - startedAt);
}

function conclude(results: readonly Result[], ms: number): number {
  const count = (outcome: Outcome): number => results.filter((result) => result.outcome === outcome).length;
  const [killed, survived, known, errors, skipped] = (
    ['killed', 'survived', 'known survivor', 'error', 'skipped'] as const
  ).map(count) as [number, number, number, number, number];
  if (flags.json) {
    const report = {
      guards: results.length,
      killed,
      survived,
      knownSurvivors: known,
      errors,
      skipped,
      durationMs: Math.round(ms),
      results,
    };
    writeFileSync(flags.json, `${JSON.stringify(report, null, 2)}\n`);
  }
  say(`in ${seconds(ms)}`);
  const more = [
    known > 0 ? `, ${known} known to survive` : '',
    errors > 0 ? `, ${errors} in error` : '',
    skipped > 0 ? `, ${skipped} skipped` : '',
  ];
  say(`${killed} killed, ${survived} survived${more.join('')}`);
  return survived + errors === 0 ? 0 : 1;
}

// ---- the copy

/** What git knows of, as it is in the working tree, with what is new there; node_modules by links, so that tools keep their caches in the copy. */
function makeCopy(): string {
  const files = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: PROJECT,
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  })
    .split('\0')
    .filter((file) => file !== '');
  folder = mkdtempSync(path.join(tmpdir(), 'ringmaster-mutants-'));
  chmodSync(folder, 0o755); // PostgreSQL runs as another user where we are root
  for (const file of files) {
    const target = path.join(folder, file);
    mkdirSync(path.dirname(target), { recursive: true });
    try {
      cpSync(path.join(PROJECT, file), target, { verbatimSymlinks: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error; // deleted in the working tree
    }
  }
  const modules = path.join(folder, 'node_modules');
  mkdirSync(modules);
  for (const entry of readdirSync(path.join(PROJECT, 'node_modules'))) {
    if (!entry.startsWith('.vite')) symlinkSync(path.join(PROJECT, 'node_modules', entry), path.join(modules, entry));
  }
  return folder;
}

// ---- tests

function needsKubernetes({ tests }: Guard): boolean {
  return tests.some((test) => readFileSync(path.join(PROJECT, test), 'utf8').includes('kubeMissing()'));
}

/** Without any mutant everything passes, and each guard's tests are there. */
async function assertTestsPass(copy: string, wanted: readonly Guard[]): Promise<void> {
  const startedAt = performance.now();
  const tests = [...new Set(wanted.flatMap((guard) => guard.tests))];
  say(`${tests.length} test files without a mutant …`);
  const patterns = [...new Set(wanted.map(({ only }) => literally(only)))];
  const { report, exitCode, output } = await runTests(copy, tests, patterns.join('|'), ALL_END_WITHIN_MS, false);
  if (!report) throw new Error(`vitest gave no report:\n${output}`);
  const failed = failuresOf(report);
  if (failed.length > 0)
    throw new Error(
      `fails without any mutant: ${failed.map(({ test, message }) => `${test}: ${firstLine(message)}`).join('; ')}`,
    );
  if (exitCode !== 0) throw new Error(`an error outside of any test, without any mutant:\n${output}`);
  const absent = wanted.filter(
    ({ tests: files, only }) =>
      !report.testResults
        .filter(({ name }) => files.some((file) => name.endsWith(`/${file}`)))
        .flatMap(({ assertionResults }) => assertionResults)
        .some(({ fullName, status }) => status === 'passed' && fullName.includes(only)),
  );
  if (absent.length > 0)
    throw new Error(
      `no test of that name ran: ${absent.map(({ name, only }) => `'${only}', for '${name}'`).join('; ')}`,
    );
  say(`all pass, in ${seconds(performance.now() - startedAt)}`);
}

async function tryWithout(copy: string, guard: Guard): Promise<Result> {
  const startedAt = performance.now();
  const file = path.join(copy, guard.file);
  const before = readFileSync(file, 'utf8');
  const result = (outcome: Outcome, detail: string): Result =>
    resultOf(guard, outcome, performance.now() - startedAt, detail);
  const parts = before.split(guard.find);
  if (parts.length !== 2) return result('error', `the text to be replaced occurs ${parts.length - 1} times`);
  const mutant = parts.join(guard.replace);
  try {
    if (guard.file.endsWith('.ts')) stripTypeScriptTypes(mutant);
  } catch (error) {
    return result('error', `the mutant does not parse: ${firstLine(describeError(error))}`);
  }
  writeFileSync(file, mutant);
  try {
    const ran = await runTests(copy, guard.tests, literally(guard.only), ENDS_WITHIN_MS, true);
    return judge(ran, guard, result);
  } finally {
    if (!stopping) writeFileSync(file, before);
  }
}

function judge(
  { report, exitCode, output }: Ran,
  guard: Guard,
  result: (outcome: Outcome, detail: string) => Result,
): Result {
  if (!report) return result('error', exitCode === null ? 'its tests did not end' : `vitest gave no report: ${output}`);
  const ran = report.testResults
    .flatMap(({ assertionResults }) => assertionResults)
    .filter(({ status }) => status === 'passed' || status === 'failed');
  const failures = failuresOf(report);
  if (ran.length === 0) return result('error', `no test ran: ${firstLine(failures[0]?.message ?? output)}`);
  const killer = failures.find(({ message }) => !BROKEN.test(message));
  if (killer) return result('killed', `${killer.test}: ${firstLine(killer.message)}`);
  if (failures[0]) return result('error', `not by what was promised: ${firstLine(failures[0].message)}`);
  if (exitCode !== 0) return result('error', `an error outside of any test: ${output}`);
  if (guard.knownSurvivor) return result('known survivor', guard.knownSurvivor);
  return result('survived', `${ran.length === 1 ? 'its test passes' : `all ${ran.length} tests pass`} without it`);
}

function failuresOf(report: Report): { test: string; message: string }[] {
  return report.testResults.flatMap(({ name, status, message, assertionResults }) => {
    const failed = assertionResults
      .filter((one) => one.status === 'failed')
      .map((one) => ({ test: one.fullName, message: one.failureMessages?.[0] ?? '' }));
    // A file that could not even be loaded has no tests.
    return failed.length === 0 && status === 'failed' ? [{ test: path.basename(name), message }] : failed;
  });
}

/** Runs vitest in the copy; a report is missing where it did not come so far. */
async function runTests(
  copy: string,
  tests: readonly string[],
  pattern: string,
  withinMs: number,
  stopAtFirst: boolean,
): Promise<Ran> {
  const reportFile = path.join(copy, 'node_modules', 'report.json');
  rmSync(reportFile, { force: true });
  const args = ['run', ...tests, '-t', pattern, '--reporter=json', `--outputFile.json=${reportFile}`];
  const child = spawn(process.execPath, [path.join(copy, VITEST), ...args, ...(stopAtFirst ? ['--bail=1'] : [])], {
    cwd: copy,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, NO_COLOR: '1' },
  });
  running = child;
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-OUTPUT_CHARS);
    });
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill('SIGKILL'); // what it has started notices: each ends with its parent
  }, withinMs);
  const exitCode = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  clearTimeout(timer);
  running = null;
  if (stopping) throw new Error('stopped');
  return { report: late ? null : readReport(reportFile), exitCode: late ? null : exitCode, output };
}

function readReport(file: string): Report | null {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Report;
  } catch {
    return null; // vitest ended before it could write it: its output says why
  }
}

// ---- small things

function resultOf({ name, because, file }: Guard, outcome: Outcome, ms: number, detail: string): Result {
  return { name, because, file, outcome, ms: Math.round(ms), detail };
}

function literally(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}

function firstLine(text: string): string {
  return text.trim().split('\n', 1)[0]!;
}
