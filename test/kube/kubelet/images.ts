/**
 * What a container's image is here: `ringmaster:*` is the project's own source run by this Node; `postgres:*` is the embedded server. No other image exists.
 * Registry and repository prefixes do not matter, tags neither.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { V1Container } from '@kubernetes/client-node';
import pg from 'pg';
import type { KeptSpec } from '../../../platform/local/keeper.ts';
import type { Mount } from './environment.ts';
import { postgresSpec, serverPlace } from './postgres.ts';

const PROJECT = fileURLToPath(new URL('../../../', import.meta.url)).replace(/\/$/, '');
/** The working directory in the image. */
const APP = '/app';

export interface Run {
  container: V1Container;
  /** Expanded, with real paths; so is what `exec` gets. */
  command: readonly string[];
  args: readonly string[];
  env: Record<string, string>;
  mounts: readonly Mount[];
  address: string;
  logFile: string;
  /** The container's own files: those of no volume. Empty at each start. */
  scratch: string;
}

export interface Image {
  readonly stopSignal: 'SIGINT' | 'SIGTERM';
  /** Throws when it cannot be started: the container ends with code 1 and the message in its log. */
  prepare(run: Run): Promise<KeptSpec>;
  /** A process for an exec probe or hook … */
  exec(command: readonly string[], run: Run): KeptSpec | null;
  /** … or the answer itself, where `exec` gives null: the reason for a failure, or null. */
  answer(command: readonly string[], run: Run, timeoutMs: number): Promise<string | null>;
  /** Working directory that only this container's processes have. */
  folder(run: Run): string | undefined;
}

/** Null: there is no such image. */
export function imageOf(name: string): Image | null {
  const base = name.split('/').at(-1)?.split(/[:@]/)[0];
  return base === 'ringmaster' ? ringmaster : base === 'postgres' ? postgres : null;
}

const END_WITHIN_MS = 5000;

function processSpec(words: readonly string[], { env, logFile }: Run, parentPipe: boolean): KeptSpec {
  const [command = 'node', ...rest] = words;
  const args = rest.map(sourceOf);
  const isNode = command === 'node' || command.endsWith('/node');
  return {
    command: isNode ? process.execPath : command,
    args,
    env,
    cwd: PROJECT,
    logFile,
    endSignal: 'SIGTERM',
    killAfterMs: END_WITHIN_MS,
    parentPipe,
  };
}

/** dist/x.js, where the source x.ts is; anywhere in a word, for `sh -c`. */
function sourceOf(word: string): string {
  return word
    .replace(/(^|[\s'"=])(?:\/app\/|\.\/)?dist\/([\w./-]+)\.js(?=$|[\s'"])/g, (whole, before: string, file: string) =>
      existsSync(path.join(PROJECT, `${file}.ts`)) ? `${before}${file}.ts` : whole,
    )
    .replace(new RegExp(`(^|[\\s'"=])${APP}(?=$|[/\\s'"])`, 'g'), (_whole, before: string) => before + PROJECT);
}

/** Entry point and command of the image: `node`, and nothing. So arguments alone are Node's, and a command that is a script is as well. */
function words(command: readonly string[], args: readonly string[]): string[] {
  const all = [...command, ...args];
  return command.length === 0 && all[0] !== 'node' ? ['node', ...all] : all;
}

const ringmaster: Image = {
  stopSignal: 'SIGTERM',
  prepare: async (run) => processSpec(words(run.command, run.args), run, true),
  exec: (command, run) => processSpec(command, run, false),
  answer: async () => null,
  folder: () => undefined,
};

const postgres: Image = {
  stopSignal: 'SIGINT', // its fast shutdown
  prepare: postgresSpec,
  exec: (command, run) => (isReadyCheck(command) ? null : processSpec(command, run, false)),
  answer: async (_command, run, timeoutMs) => await postgresProblem(run, timeoutMs),
  folder: (run) => serverPlace(run).data,
};

function isReadyCheck(command: readonly string[]): boolean {
  return command.some((word) => /\bpg_isready\b/.test(word));
}

/** States of a server in which pg_isready says no. */
const NOT_YET = new Set(['57P03', '57P01', '57P02']);

async function postgresProblem(run: Run, timeoutMs: number): Promise<string | null> {
  const { port, user, password, database } = serverPlace(run);
  const client = new pg.Client({
    host: run.address,
    port,
    user,
    password,
    database,
    connectionTimeoutMillis: timeoutMs,
  });
  client.on('error', () => {}); // the server ends right after the answer: the next probe sees it
  try {
    await client.connect();
    return null;
  } catch (err) {
    const { code, message } = err as { code?: string; message: string };
    // Any other answer of the server (a wrong password, no such database) is an answer, as for pg_isready.
    const answered = code !== undefined && /^[0-9A-Z]{5}$/.test(code) && !NOT_YET.has(code);
    return answered
      ? null
      : `${run.address}:${port} - ${code === '57P03' ? 'rejecting connections' : 'no response'} (${message})`;
  } finally {
    await client.end().catch(() => {}); // was never connected
  }
}
