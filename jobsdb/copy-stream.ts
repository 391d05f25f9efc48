/** Rows on their way from server to server, and the transactions at the target that take them. */
import { pipeline } from 'node:stream/promises';
import type pg from 'pg';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';
import type { CopyJob } from './copy.ts';
import { beginHolding } from './imports.ts';
import { throttled } from './throttle.ts';

/** Streams from server to server, no faster than the slower of them and `throttle`; returns the rows written. No row is parsed or kept here. */
export async function stream(
  source: pg.ClientBase,
  out: string,
  target: pg.ClientBase,
  into: string,
  { signal, throttle }: Pick<CopyJob, 'signal' | 'throttle'> = {},
): Promise<number> {
  const reading = source.query(copyTo(out));
  const writing = target.query(copyFrom(into));
  const between = throttle ? [throttled(throttle)] : [];
  await pipeline([reading, ...between, writing], signal ? { signal } : {});
  return writing.rowCount;
}

/**
 * A transaction at the target that begins with the token, and holds it to its end. `lazily`: its commit need not be on disk: a crash of the target then takes
 * it back together with all that was committed after it, ledger and rows alike, and the next commit that is not lazy makes all of them durable.
 */
export async function inImport<T>(
  job: CopyJob,
  target: pg.ClientBase,
  write: (client: pg.ClientBase) => Promise<T>,
  { lazily = false } = {},
): Promise<T> {
  try {
    await beginHolding(target, job.move, job.token, lazily);
    const result = await write(target);
    await target.query('COMMIT');
    return result;
  } catch (error) {
    await target.query('ROLLBACK').catch(() => undefined);
    throw error;
  }
}
