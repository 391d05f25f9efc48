/**
 * The keeper: a small process that runs others for its parent and ends them when its parent is gone (its standard input closes), also after a SIGKILL.
 * PostgreSQL and Temporal know nothing of a parent pipe, so somebody must stand in between; one keeper serves all children of one parent.
 *
 * Lines of JSON. In: {id, start: KeptSpec} · {id, signal}. Out: {id, pid} · {id, exit: {code, signal}} · {id, failed}.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { PARENT_FD_VARIABLE } from '../../kit/parent.ts';
import type { KeeperOrder, KeptSpec } from './keeper.ts';

const children = new Map<number, { child: ChildProcess; spec: KeptSpec; ended: Promise<void> }>();
let ending = false;

function answer(message: object): void {
  if (!ending) process.stdout.write(`${JSON.stringify(message)}\n`);
}

function start(id: number, spec: KeptSpec): void {
  let log: number | undefined;
  try {
    log = openSync(spec.logFile, 'a', 0o600);
    const child = spawn(spec.command, spec.args, {
      cwd: spec.cwd,
      env: { ...spec.env, ...(spec.parentPipe ? { [PARENT_FD_VARIABLE]: '3' } : {}) },
      stdio: ['ignore', log, log, ...(spec.parentPipe ? (['pipe'] as const) : [])],
      ...(spec.uid === undefined ? {} : { uid: spec.uid }),
      ...(spec.gid === undefined ? {} : { gid: spec.gid }),
    });
    child.once('error', (err) => {
      if (child.pid === undefined) answer({ id, failed: err.message });
    });
    if (child.pid === undefined) return;
    const { promise: ended, resolve } = Promise.withResolvers<void>();
    children.set(id, { child, spec, ended });
    answer({ id, pid: child.pid });
    child.once('exit', (code, signal) => {
      children.delete(id);
      answer({ id, exit: { code, signal } });
      resolve();
    });
  } catch (err) {
    answer({ id, failed: err instanceof Error ? err.message : String(err) });
  } finally {
    if (log !== undefined) closeSync(log);
  }
}

/** Our parent is gone, or we are asked to end: nobody is left to decide, so everything ends, within the bounds. */
async function endAll(): Promise<void> {
  if (ending) return;
  ending = true;
  await Promise.all(
    [...children.values()].map(({ child, spec, ended }) => {
      child.kill(spec.endSignal);
      const killing = setTimeout(() => child.kill('SIGKILL'), spec.killAfterMs);
      return ended.finally(() => clearTimeout(killing));
    }),
  );
  process.exit(0);
}

const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const order = JSON.parse(line) as KeeperOrder;
  if (ending) return;
  if ('start' in order) start(order.id, order.start);
  else children.get(order.id)?.child.kill(order.signal);
});
lines.on('close', () => void endAll());
process.on('SIGTERM', () => void endAll());
process.on('SIGINT', () => {}); // a Ctrl-C is our parent's to understand
process.stdout.on('error', () => {}); // the parent is gone: standard input says so too
