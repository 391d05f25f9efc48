/**
 * The image `postgres`: what its entry point does, with the embedded binaries. The first start on an empty data folder makes the cluster (POSTGRES_USER,
 * POSTGRES_PASSWORD, POSTGRES_DB); then the server runs in the foreground at the pod's address.
 *
 *   settings   ours for small servers (platform/local/postgres-server.ts), under those of the arguments (-c name=value, -p port)
 *   data       PGDATA; else the image's own place (18 and later: /var/lib/postgresql/18/docker). What lies in no volume is lost at a restart.
 */
import { execFile, spawn } from 'node:child_process';
import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { appendFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import type { KeptSpec } from '../../../platform/local/keeper.ts';
import { postgresBinaries, postgresUser } from '../../../platform/local/places.ts';
import { DEFAULT_SETTINGS } from '../../../platform/local/postgres-server.ts';
import { relocate } from './environment.ts';
import type { Run } from './images.ts';
import { killAll } from './processes.ts';

const run = promisify(execFile);
const SERVER_ENVIRONMENT = { PATH: process.env['PATH'], LC_ALL: 'C' };
const END_WITHIN_MS = 5000;
const HBA = 'local all all trust\nhost all all all scram-sha-256\n';

export interface ServerPlace {
  data: string;
  port: number;
  user: string;
  password: string;
  database: string;
  settings: Record<string, string | number>;
}

/** Where a container's server is, from its environment and arguments. */
export function serverPlace({ container, command, args, env, mounts, scratch, address }: Run): ServerPlace {
  const settings: Record<string, string | number> = { ...DEFAULT_SETTINGS, listen_addresses: address };
  let port = Number(env['PGPORT'] ?? 5432);
  const words = [...command, ...args];
  for (const [at, word] of words.entries()) {
    const next = words[at + 1] ?? '';
    const setting = word === '-c' ? next : (/^(?:-c|--)([a-z_.-]+=.*)$/s.exec(word)?.[1] ?? '');
    const [, name, value] = /^([a-z_.-]+)=(.*)$/s.exec(setting) ?? [];
    if (name !== undefined) settings[name.replaceAll('-', '_')] = value ?? '';
    if (word === '-p') port = Number(next);
  }
  if (settings['port'] !== undefined) port = Number(settings['port']);
  delete settings['port'];
  // Everywhere is the pod's own network; sockets have no place of their own here.
  if (['*', '0.0.0.0', '::'].includes(String(settings['listen_addresses']))) settings['listen_addresses'] = address;
  settings['unix_socket_directories'] = '';
  const major = Number(/:(\d+)/.exec(container.image?.split('/').at(-1) ?? '')?.[1] ?? 18);
  const image = major >= 18 ? `/var/lib/postgresql/${major}/docker` : '/var/lib/postgresql/data';
  const placed = env['PGDATA'] || relocate(image, mounts);
  const user = env['POSTGRES_USER'] || 'postgres';
  return {
    data: placed === image ? path.join(scratch, 'pgdata') : placed,
    port,
    user,
    password: env['POSTGRES_PASSWORD'] ?? passwordIn(env['POSTGRES_PASSWORD_FILE']),
    database: env['POSTGRES_DB'] || user,
    settings,
  };
}

function passwordIn(file: string | undefined): string {
  return file && existsSync(file) ? readFileSync(file, 'utf8').trimEnd() : '';
}

export async function postgresSpec(container: Run): Promise<KeptSpec> {
  const place = serverPlace(container);
  const { data, port, settings } = place;
  // What a crash has left of the former server must be gone, as it would be with its container.
  await killAll({ mark: '', folder: data });
  if (!existsSync(path.join(data, 'PG_VERSION'))) await initialize(place, container.logFile);
  const pidFile = path.join(data, 'postmaster.pid');
  await rm(pidFile, { force: true }); // nobody runs on this folder, and its process number may be another's by now
  const { postgres } = await postgresBinaries();
  return {
    command: postgres,
    args: ['-D', data, ...flags({ ...settings, port })],
    env: SERVER_ENVIRONMENT,
    cwd: data,
    logFile: container.logFile,
    endSignal: 'SIGINT',
    killAfterMs: END_WITHIN_MS,
    ...(postgresUser() ?? {}),
  };
}

const flags = (settings: Readonly<Record<string, string | number>>) =>
  Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);

/** Whole or not at all (rename): a container killed in the middle begins anew. */
async function initialize(place: ServerPlace, logFile: string): Promise<void> {
  const { data, user, password, database } = place;
  if (password === '')
    throw new Error('Error: Database is uninitialized and superuser password is not specified (POSTGRES_PASSWORD)');
  if (existsSync(data) && readdirSync(data).length > 0)
    throw new Error(`initdb: error: directory "${data}" exists but is not empty`);
  const owner = postgresUser();
  const { initdb, postgres } = await postgresBinaries();
  const scratch = `${data}.new`;
  const passwordFile = `${data}.password`;
  await rm(scratch, { recursive: true, force: true });
  makeFolders(path.dirname(data));
  mkdirSync(scratch, { mode: 0o700 });
  await writeFile(passwordFile, password, { mode: 0o600 });
  if (owner) {
    chownSync(scratch, owner.uid, owner.gid);
    chownSync(passwordFile, owner.uid, owner.gid);
  }
  try {
    const args = [
      `--pgdata=${scratch}`,
      `--username=${user}`,
      `--pwfile=${passwordFile}`,
      '--auth=scram-sha-256',
      '--encoding=UTF8',
      // As on the local platform: rows are compared between servers.
      '--locale=C',
      '--locale-provider=builtin',
      '--builtin-locale=C.UTF-8',
      '--no-sync',
      '--no-instructions',
    ];
    const { stderr } = await run(initdb, args, { cwd: scratch, env: SERVER_ENVIRONMENT, ...(owner ?? {}) });
    await appendFile(logFile, stderr);
    await writeFile(path.join(scratch, 'pg_hba.conf'), HBA);
    if (database !== 'postgres') await makeDatabase(postgres, place, scratch, logFile);
  } finally {
    await rm(passwordFile, { force: true });
  }
  await rm(data, { recursive: true, force: true });
  await rename(scratch, data);
}

/** The server alone, without a network: reads a statement and ends. */
async function makeDatabase(postgres: string, place: ServerPlace, data: string, logFile: string): Promise<void> {
  const child = spawn(postgres, ['--single', '-D', data, ...flags(place.settings), 'postgres'], {
    cwd: data,
    env: SERVER_ENVIRONMENT,
    stdio: ['pipe', 'pipe', 'pipe'],
    ...(postgresUser() ?? {}),
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (said += chunk.toString()));
  child.stdin.on('error', () => {}); // it ended early: its code says so
  child.stdin.end(
    `CREATE DATABASE "${place.database.replaceAll('"', '""')}" OWNER "${place.user.replaceAll('"', '""')}"\n`,
  );
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  await appendFile(logFile, said);
  if (code !== 0 || /ERROR:|FATAL:/.test(said))
    throw new Error(`the database ${place.database} could not be made: ${said}`);
}

/** Whatever the umask: PostgreSQL's user must come through. */
function makeFolders(folder: string): void {
  if (existsSync(folder)) return;
  makeFolders(path.dirname(folder));
  mkdirSync(folder);
  chmodSync(folder, 0o755);
}
