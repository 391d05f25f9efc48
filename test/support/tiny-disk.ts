/** Disks that are really full: small file systems in memory, mounted for a test. */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chownSync, mkdirSync, rmdirSync } from 'node:fs';
import path from 'node:path';
import { dataRoot, makeEnterable, postgresUser } from '../../platform/local/places.ts';
import { isCi } from '../../scripts/lib/kube-tools.mjs';

export interface TinyDisk {
  readonly folder: string;
  resize(megabytes: number): void;
  /** What used it must have ended. */
  close(): void;
}

/** Belongs to the user that PostgreSQL runs as. */
export function mountTinyDisk(megabytes: number): TinyDisk {
  const folder = path.join(dataRoot(), 'test', `disk-${process.pid}-${randomBytes(4).toString('hex')}`);
  makeEnterable(path.dirname(folder));
  mkdirSync(folder);
  const size = (mb: number): string => `size=${mb}m`;
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `${size(megabytes)},mode=700`, 'ringmaster-test', folder], {
      stdio: 'pipe',
    });
  } catch (error) {
    rmdirSync(folder);
    throw error;
  }
  const user = postgresUser();
  if (user) chownSync(folder, user.uid, user.gid);
  return {
    folder,
    resize: (mb) => void execFileSync('mount', ['-o', `remount,${size(mb)}`, folder], { stdio: 'pipe' }),
    close() {
      execFileSync('umount', [folder], { stdio: 'pipe' });
      rmdirSync(folder);
    },
  };
}

/** Null where there can be tiny disks; else the one line that says why not. With CI set it throws instead of returning a line. */
export function tinyDisksMissing(): string | null {
  try {
    mountTinyDisk(1).close();
    return null;
  } catch (error) {
    const why = `a file system cannot be mounted here, so tests of full disks do not run (${(error as Error).message.split('\n')[0]})`;
    if (isCi()) throw new Error(`${why} (CI is set: these tests must run)`, { cause: error });
    return why;
  }
}
