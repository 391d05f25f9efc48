/**
 * The last ring, on disk: a router that starts while the ring store is down serves from it (P6).
 * Holds: the file is a whole ring or not there. It is a copy: one that can't be read or written is no reason not to serve.
 */
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { describeError } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import type { RecordedEvent } from '../ring/events.ts';
import { assertRing } from '../ring/ring.ts';
import { assertChain } from '../ringstore/chain.ts';
import type { RingSnapshot, RingView } from '../ringstore/view.ts';

/** The ring that was kept, or null. */
export async function readRingFile(file: string, clusterId: string, log: Logger): Promise<RingSnapshot | null> {
  try {
    const snapshot = JSON.parse(await readFile(file, 'utf8')) as RingSnapshot;
    if (snapshot.ring.clusterId !== clusterId) throw new Error(`it is of cluster ${snapshot.ring.clusterId}`);
    assertRing(snapshot.ring);
    if (snapshot.ring.notUnderstood.length > 0) throw new Error('it ends with events that were not understood');
    const ageMs = Math.max(0, Date.now() - (await stat(file)).mtimeMs);
    return { ring: snapshot.ring, lastHash: snapshot.lastHash ?? null, tail: tailOf(snapshot), ageMs };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT')
      log.warn({ error: describeError(error) }, 'the ring file cannot be used');
    return null;
  }
}

/** Its last events, if they are a chain that ends with the ring; a file of an older version has none. */
function tailOf({ ring, lastHash, tail = [] }: RingSnapshot): readonly RecordedEvent[] {
  if (tail.length === 0) return [];
  assertChain(tail, tail[0]!.previousHash);
  const { version, hash } = tail.at(-1)!;
  if (version !== ring.version || hash !== lastHash) throw new Error('its events do not lead to its ring');
  return tail;
}

/** Writes each ring that `view` comes to; several in a row once. Returns what stops it, after the last is written. */
export function keepRingFile(
  file: string,
  view: Pick<RingView, 'ring' | 'lastHash' | 'tail' | 'onChange'>,
  log: Logger,
): () => Promise<void> {
  let writing: Promise<void> = Promise.resolve();
  let isWriting = false;
  let written = 0;
  const write = async (): Promise<void> => {
    // One with events that this version does not understand stays out: an upgraded router must read those from the store, not behind them.
    while (written < view.ring.version && view.ring.notUnderstood.length === 0) {
      const snapshot: RingSnapshot = { ring: view.ring, lastHash: view.lastHash, tail: view.tail };
      written = snapshot.ring.version; // also where writing fails: the next version tries again
      try {
        await mkdir(path.dirname(file), { recursive: true });
        await writeFile(`${file}.tmp`, JSON.stringify(snapshot), { mode: 0o600 });
        await rename(`${file}.tmp`, file);
      } catch (error) {
        log.warn({ error: describeError(error) }, 'the ring file cannot be written');
      }
    }
    isWriting = false;
  };
  const start = (): void => {
    if (isWriting) return;
    isWriting = true; // before: where there is nothing to write yet it ends at once
    writing = write();
  };
  const unsubscribe = view.onChange(start);
  start();
  return async () => {
    unsubscribe();
    await writing;
  };
}
