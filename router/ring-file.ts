/**
 * The last ring, on disk: a router that starts while the ring store is down serves from it (P6).
 * Holds: the file is a whole ring or not there. It is a copy: one that can't be read or written is no reason not to serve.
 */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { describeError } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import { assertRing } from '../ring/ring.ts';
import type { RingSnapshot, RingView } from '../ringstore/view.ts';

/** The ring that was kept, or null. */
export async function readRingFile(file: string, clusterId: string, log: Logger): Promise<RingSnapshot | null> {
  try {
    const snapshot = JSON.parse(await readFile(file, 'utf8')) as RingSnapshot;
    if (snapshot.ring.clusterId !== clusterId) throw new Error(`it is of cluster ${snapshot.ring.clusterId}`);
    assertRing(snapshot.ring);
    return { ring: snapshot.ring, lastHash: snapshot.lastHash ?? null };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT')
      log.warn({ error: describeError(error) }, 'the ring file cannot be used');
    return null;
  }
}

/** Writes each ring that `view` comes to; several in a row once. Returns what stops it, after the last is written. */
export function keepRingFile(
  file: string,
  view: Pick<RingView, 'ring' | 'lastHash' | 'onChange'>,
  log: Logger,
): () => Promise<void> {
  let writing: Promise<void> | null = null;
  let written = 0;
  const write = async (): Promise<void> => {
    while (written < view.ring.version) {
      const snapshot: RingSnapshot = { ring: view.ring, lastHash: view.lastHash };
      written = snapshot.ring.version; // also where writing fails: the next version tries again
      try {
        await mkdir(path.dirname(file), { recursive: true });
        await writeFile(`${file}.tmp`, JSON.stringify(snapshot), { mode: 0o600 });
        await rename(`${file}.tmp`, file);
      } catch (error) {
        log.warn({ error: describeError(error) }, 'the ring file cannot be written');
      }
    }
    writing = null;
  };
  const start = (): void => {
    writing ??= write();
  };
  const unsubscribe = view.onChange(start);
  start();
  return async () => {
    unsubscribe();
    await writing;
  };
}
