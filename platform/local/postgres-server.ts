/**
 * One PostgreSQL server as a process of this machine, its data in a folder of its own:
 *   <folder>/data      the data directory           <folder>/password   the superuser's, readable by its user only
 *   <folder>/postgres.log                           <folder>/port       the port of the last start, tried first at the next
 *
 * It listens on 127.0.0.1 only, wants the password (scram) and ends with this process (keeper.ts). A start clears what a crash left.
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chown, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import { type DatabaseAddress, databaseUrl } from '../platform.ts';
import { type Exit, type KeptProcess, keep } from './keeper.ts';
import { makeEnterable, postgresBinaries, postgresUser } from './places.ts';
import { freePort } from './ports.ts';
import { endLeftover } from './processes.ts';

const run = promisify(execFile);

export interface PostgresOptions {
  /** Made if absent. Everything of this server lies below it. */
  folder: string;
  /** Fixed port; without it the one of the last start if it is free, else any free one. */
  port?: number;
  /** Superuser. Only used when the data directory is made. */
  user?: string;
  /** Made if absent. */
  database?: string;
  /** Over `DEFAULT_SETTINGS`. */
  settings?: Record<string, string | number>;
  /** Which of the installed versions, by the package's name in our package.json. Default: the one that nodes run on. */
  binaries?: string;
  signal?: AbortSignal;
}

export interface PostgresServer {
  readonly folder: string;
  readonly address: DatabaseAddress;
  /** `postgres://…` of `address`; holds the password. */
  readonly url: string;
  readonly pid: number;
  /** Of the current process; a restart makes a new one. Never rejects. */
  readonly exited: Promise<Exit>;
  readonly running: boolean;
  /** `fast` ends sessions and writes a checkpoint; `immediate` is a crash with notice: recovery at the next start. */
  stop(mode?: 'fast' | 'immediate'): Promise<void>;
  /** The same port, the same data. Also after a crash. */
  restart(mode?: 'fast' | 'immediate'): Promise<void>;
  signal(signal: NodeJS.Signals): void;
}

/**
 * fsync and synchronous_commit stay on: nodes promise durability, and a test that kills a server shall see what production sees.
 * The rest makes a server small (many run on one machine) and its timing steady.
 */
export const DEFAULT_SETTINGS: Readonly<Record<string, string | number>> = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  max_connections: 100,
  shared_buffers: '64MB',
  huge_pages: 'off',
  jit: 'off',
  track_commit_timestamp: 'off',
  log_checkpoints: 'off',
  log_line_prefix: '%m [%p] %q%u@%d ',
};

export const DEFAULT_USER = 'ringmaster';
const STOP_WITHIN_MS = 20_000; // a fast shutdown writes a checkpoint
const STOP_ORPHAN_WITHIN_MS = 3000; // our process is gone: soon nothing may be left; recovery is PostgreSQL's business
const READY_WITHIN_MS = 120_000; // crash recovery of a large queue
const LOOK_AGAIN_MS = 8;
const START_ATTEMPTS = 5;
const BUILTIN_LOCALE_FROM = 17; // PostgreSQL's version
const SERVER_ENVIRONMENT = { PATH: process.env['PATH'], LC_ALL: 'C' };

/** Makes the data directory, if there is none: half of one is never seen (rename). Takes about half a second, most of it computing. */
export async function initializePostgres(folder: string, user = DEFAULT_USER, from?: string): Promise<void> {
  const data = path.join(folder, 'data');
  if (await exists(path.join(data, 'PG_VERSION'))) return;
  const owner = postgresUser();
  const { initdb, version } = await postgresBinaries(from);
  const scratch = path.join(folder, 'data.new');
  const passwordFile = path.join(folder, 'password');
  makeEnterable(folder);
  await rm(scratch, { recursive: true, force: true });
  await rm(data, { recursive: true, force: true });
  await writeFile(passwordFile, randomBytes(24).toString('base64url'), { mode: 0o600 });
  await mkdir(scratch, { mode: 0o700 });
  if (owner) {
    await chown(passwordFile, owner.uid, owner.gid);
    await chown(scratch, owner.uid, owner.gid);
  }
  const args = [
    `--pgdata=${scratch}`,
    `--username=${user}`,
    `--pwfile=${passwordFile}`,
    '--auth=scram-sha-256',
    '--encoding=UTF8',
    // One order of text everywhere, whatever the machine's locale or C library: rows are compared between servers.
    '--locale=C',
    ...(Number.parseInt(version, 10) >= BUILTIN_LOCALE_FROM
      ? ['--locale-provider=builtin', '--builtin-locale=C.UTF-8']
      : []), // libc's C: the same order
    '--no-sync',
    '--no-instructions',
  ];
  try {
    await run(initdb, args, { cwd: folder, env: SERVER_ENVIRONMENT, ...(owner ?? {}) });
  } catch (err) {
    const said = (err as { stderr?: string }).stderr?.trim();
    throw new Error(`initdb failed in ${folder}: ${said || (err as Error).message}`);
  }
  await rename(scratch, data);
}

/** Starts a server on `options.folder` and resolves when it accepts connections. */
export async function startPostgres(options: PostgresOptions): Promise<PostgresServer> {
  const { folder } = options;
  const user = options.user ?? DEFAULT_USER;
  const database = options.database ?? 'postgres';
  await initializePostgres(folder, user, options.binaries);
  const password = (await readFile(path.join(folder, 'password'), 'utf8')).trim();

  let current = await launch(options, options.port ?? null);
  const address: DatabaseAddress = { host: '127.0.0.1', port: current.port, user, password, database };
  try {
    await ensureDatabase(address);
  } catch (err) {
    await current.process.end('SIGQUIT');
    throw err;
  }
  const stop = async (mode: 'fast' | 'immediate' = 'fast') => {
    await current.process.end(mode === 'fast' ? 'SIGINT' : 'SIGQUIT', STOP_WITHIN_MS);
  };
  return {
    folder,
    address,
    url: databaseUrl(address),
    get pid() {
      return current.process.pid;
    },
    get exited() {
      return current.process.exited;
    },
    get running() {
      return current.process.exit === undefined;
    },
    stop,
    restart: async (mode) => {
      await stop(mode);
      current = await launch(options, address.port);
    },
    signal: (signal) => current.process.signal(signal),
  };
}

/** Ends a server that a crash left running on this folder. */
export async function endLeftoverPostgres(folder: string): Promise<boolean> {
  const data = path.join(folder, 'data');
  const pidFile = path.join(data, 'postmaster.pid');
  const pid = Number((await readOrNull(pidFile))?.split('\n')[0]);
  if (!Number.isInteger(pid) || pid <= 1) return false;
  const ended = await endLeftover(pid, data, 'SIGINT', STOP_ORPHAN_WITHIN_MS);
  // The number may belong to another process now, and PostgreSQL would then refuse to start; nobody runs on this folder, we have just looked.
  await rm(pidFile, { force: true });
  return ended;
}

async function launch(
  options: PostgresOptions,
  fixedPort: number | null,
): Promise<{ process: KeptProcess; port: number }> {
  const { folder } = options;
  const data = path.join(folder, 'data');
  const logFile = path.join(folder, 'postgres.log');
  const { postgres } = await postgresBinaries(options.binaries);
  await endLeftoverPostgres(folder);
  const lastPort = Number(await readOrNull(path.join(folder, 'port'))) || null;
  let failure = '';
  for (let attempt = 0; attempt < START_ATTEMPTS; attempt += 1) {
    options.signal?.throwIfAborted();
    const port = fixedPort ?? (attempt === 0 && lastPort ? lastPort : await freePort());
    const settings = { ...DEFAULT_SETTINGS, ...options.settings, port };
    const logFrom = await sizeOf(logFile);
    const process = await keep({
      command: postgres,
      args: ['-D', data, ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
      env: SERVER_ENVIRONMENT,
      cwd: folder,
      logFile,
      endSignal: 'SIGINT',
      killAfterMs: STOP_ORPHAN_WITHIN_MS,
      ...(postgresUser() ?? {}),
    });
    try {
      if (await becomesReady(process, data, options.signal)) {
        await writeFile(path.join(folder, 'port'), String(port));
        return { process, port };
      }
    } catch (err) {
      await process.end('SIGQUIT');
      throw err;
    }
    failure = (await readFile(logFile)).subarray(logFrom).toString('utf8');
    // A port that somebody took, or the memory of a server killed a moment ago, is a matter of trying again; anything else is not.
    if (!/could not bind|could not create any TCP|pre-existing shared memory|lock file .* already exists/.test(failure))
      break;
    await sleep(200 * (attempt + 1));
  }
  throw new Error(`PostgreSQL did not start in ${folder}: ${lastLines(failure) || 'it said nothing'}`);
}

/** False: it ended. The server writes its state into postmaster.pid; pg_ctl looks there too. */
async function becomesReady(process: KeptProcess, data: string, signal?: AbortSignal): Promise<boolean> {
  const deadline = performance.now() + READY_WITHIN_MS;
  while (process.exit === undefined) {
    signal?.throwIfAborted();
    const lines = (await readOrNull(path.join(data, 'postmaster.pid')))?.split('\n');
    if (lines?.[0] === String(process.pid) && lines[7]?.trim() === 'ready') return true;
    if (performance.now() > deadline)
      throw new Error(`PostgreSQL in ${data} is not ready after ${READY_WITHIN_MS / 1000} s`);
    await sleep(LOOK_AGAIN_MS);
  }
  return false;
}

async function ensureDatabase(address: DatabaseAddress): Promise<void> {
  if (address.database === 'postgres') return;
  const client = new pg.Client({ ...address, database: 'postgres', connectionTimeoutMillis: 10_000 });
  client.on('error', () => {});
  await client.connect();
  try {
    const { rowCount } = await client.query('SELECT 1 FROM pg_database WHERE datname = $1', [address.database]);
    if (rowCount === 0) await client.query(`CREATE DATABASE ${client.escapeIdentifier(address.database)}`);
  } finally {
    await client.end();
  }
}

function lastLines(log: string): string {
  return log.trim().split('\n').slice(-3).join(' | ');
}

async function exists(file: string): Promise<boolean> {
  return (await stat(file).catch(() => null)) !== null;
}

async function sizeOf(file: string): Promise<number> {
  return (await stat(file).catch(() => null))?.size ?? 0;
}

async function readOrNull(file: string): Promise<string | null> {
  return await readFile(file, 'utf8').catch(() => null);
}
