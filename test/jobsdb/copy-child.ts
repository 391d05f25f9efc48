/**
 * A process that copies, to be killed: it gets one `ChildJob` as JSON by its environment, runs the passes that it names, and says on its output what it
 * has done, a JSON value a line. It ends with 0, or with 1 after a line with the error's code.
 */
import { existsSync, readFileSync } from 'node:fs';
import pg from 'pg';
import { type CopyJob, openCopy, type PassResult } from '../../jobsdb/copy.ts';
import { createPool } from '../../jobsdb/pool.ts';
import { codeOf, describeError } from '../../kit/errors.ts';

export interface ChildJob extends Omit<CopyJob, 'source' | 'target' | 'signal' | 'throttle' | 'onRows'> {
  readonly sourceUrl: string;
  readonly targetUrl: string;
  readonly passes: readonly ('pass' | 'fenced')[];
  /** From the answer of so many COMMITs on nothing comes back: they are done, and this process does not know. */
  readonly deafAfterCommits?: number;
}
export type Said =
  | { readonly done: PassResult }
  | { readonly deaf: true }
  | { readonly ended: true; readonly rssPeakMb: number }
  | { readonly failed: string | null; readonly because: string };

const say = (said: Said): void => void process.stdout.write(`${JSON.stringify(said)}\n`);

const given = process.env['COPY_CHILD_JOB'];
if (given !== undefined) {
  const { sourceUrl, targetUrl, passes, deafAfterCommits, ...job } = JSON.parse(given) as ChildJob;
  if (deafAfterCommits !== undefined) becomeDeaf(deafAfterCommits);
  const pool = (connectionString: string) => createPool({ connectionString, application_name: 'copy child' });
  const [source, target] = [pool(sourceUrl), pool(targetUrl)];
  try {
    const copy = await openCopy({ ...job, source, target });
    for (const pass of passes) say({ done: await copy.pass({ fenced: pass === 'fenced' }) });
    copy.close();
    say({ ended: true, rssPeakMb: rssPeakMb() });
    process.exit(0);
  } catch (error) {
    say({ failed: codeOf(error) ?? null, because: describeError(error) });
    process.exit(1);
  }
}

/** On Linux from the kernel's mark for this program: `maxRSS` begins with what the process that started this one had. */
function rssPeakMb(): number {
  const file = '/proc/self/status';
  const mark = existsSync(file) ? /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(file, 'utf8'))![1]! : null;
  return Math.round(Number(mark ?? process.resourceUsage().maxRSS) / 1024);
}

function becomeDeaf(afterCommits: number): void {
  let left = afterCommits;
  const query = pg.Client.prototype.query as (...args: unknown[]) => unknown;
  pg.Client.prototype.query = function (this: pg.Client, ...args: unknown[]) {
    const answer = query.apply(this, args);
    if (args[0] !== 'COMMIT') return answer;
    left -= 1;
    if (left > 0) return answer;
    return (answer as Promise<unknown>).then(() => {
      say({ deaf: true });
      return new Promise(() => undefined);
    });
  } as never;
}
