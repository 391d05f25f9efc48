/**
 * Fault points: places in the code, each with a name, where a test stops a process to kill it right there, to cancel what it does, or to kill something else.
 * Where they are off, a point is a function that returns. Where they are on, the process asks the test at each point, and goes on when it answers.
 *
 * Off, unless somebody means it: they are on only where RINGMASTER_FAULT_POINTS names an HTTP server of this machine, in a process that runs from its TypeScript
 * source. Container images run JavaScript (`npm run build`), and there, or with an address of another machine, the process does not start (CONFIG_INVALID): so
 * a variable that was copied to where it does not belong is told at once. Neither chart nor `npm start` sets it.
 */
import { CodedError } from './errors.ts';

/** What a process is told at a point: go on at once, or once what it does is being cancelled. */
export type Go = 'on' | 'on when cancelled';

/** What a process says of the point that it is at. */
export interface AtPoint {
  readonly point: string;
  readonly pid: number;
}

const LOCAL = new Set(['127.0.0.1', '[::1]', 'localhost']);

let testUrl: URL | null = null;

/** `url`: the value of RINGMASTER_FAULT_POINTS. `source`: whose code it is, for tests. Throws CONFIG_INVALID where fault points have no place. */
export function switchOnFaultPoints(url: string, source: string = import.meta.url): void {
  const at = URL.parse(url);
  if (at?.protocol !== 'http:' || !LOCAL.has(at.hostname))
    throw new CodedError('CONFIG_INVALID', 'RINGMASTER_FAULT_POINTS: is for tests: an http:// address of this machine');
  if (!source.endsWith('.ts'))
    throw new CodedError('CONFIG_INVALID', 'RINGMASTER_FAULT_POINTS: is for tests: nothing that was built takes it');
  testUrl = at;
}

/** For tests of what has them. */
export function switchOffFaultPoints(): void {
  testUrl = null;
}

/** `cancelled`: tells when what is done here is being cancelled. Rejects where the test is gone: nobody knows what it wanted. */
export function atFaultPoint(point: string, cancelled: () => AbortSignal): Promise<void> | undefined {
  return testUrl === null ? undefined : ask(testUrl, point, cancelled());
}

async function ask(url: URL, point: string, cancelled: AbortSignal): Promise<void> {
  const said: AtPoint = { point, pid: process.pid };
  const answer = await fetch(url, { method: 'POST', body: JSON.stringify(said) });
  const go = (await answer.json()) as Go;
  if (go === 'on when cancelled' && !cancelled.aborted)
    await new Promise((resolve) => cancelled.addEventListener('abort', resolve, { once: true }));
}
