/** Our own processes under the embedded stack's supervisor: started, watched, started again when they end by themselves, ended in order. */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Backoff } from '../platform/local/backoff.ts';
import { type KeptProcess, keep } from '../platform/local/keeper.ts';

const PROJECT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const READY_WITHIN_MS = 60_000;
const LOOK_EVERY_MS = 25;

export interface SupervisedSpec {
  /** For people: `router`. Also the name of its log. */
  readonly name: string;
  /** Entry file, from the project's folder. */
  readonly entry: string;
  readonly nodeFlags?: readonly string[];
  /** A function is asked at each start. */
  readonly env: Readonly<Record<string, string>> | (() => Readonly<Record<string, string>>);
  readonly logFile: string;
  /** How long it may take to end after SIGTERM. */
  readonly killAfterMs?: number;
  /** True once it does its work. */
  readonly isReady: () => Promise<boolean>;
}

export interface Supervised {
  readonly name: string;
  readonly logFile: string;
  readonly pid: number | undefined;
  /** How often it ended without being asked to. */
  readonly restarts: number;
  /** Resolves when it is ready; throws with the end of its log where it doesn't get there. */
  ready(): Promise<void>;
  /** For tests and chaos: it is started again as after any crash, after `downMs` at the earliest. */
  kill(signal: NodeJS.Signals, downMs?: number): void;
  stop(): Promise<void>;
}

export function supervise(spec: SupervisedSpec): Supervised {
  let current: KeptProcess | undefined;
  let stopping = false;
  let restarts = 0;
  let downUntil = 0;
  const backoff = new Backoff();

  async function run(): Promise<void> {
    while (!stopping) {
      const startedAt = performance.now();
      current = await keep({
        command: process.execPath,
        args: ['--disable-warning=ExperimentalWarning', ...(spec.nodeFlags ?? []), path.join(PROJECT, spec.entry)],
        // Nothing is inherited but what finds programs and the home: no secret reaches a child by accident.
        env: {
          PATH: process.env['PATH'],
          HOME: process.env['HOME'],
          ...(typeof spec.env === 'function' ? spec.env() : spec.env),
        },
        cwd: PROJECT,
        logFile: spec.logFile,
        endSignal: 'SIGTERM',
        killAfterMs: spec.killAfterMs ?? 10_000,
        parentPipe: true,
      });
      if (stopping) await current.end();
      await current.exited;
      if (stopping) return;
      restarts += 1;
      await sleep(Math.max(backoff.next(performance.now() - startedAt), downUntil - performance.now(), 0));
    }
  }
  const running = run();
  running.catch(() => undefined); // told by ready() and stop()

  return {
    name: spec.name,
    logFile: spec.logFile,
    get pid() {
      return current?.exit === undefined ? current?.pid : undefined;
    },
    get restarts() {
      return restarts;
    },
    async ready() {
      const deadline = performance.now() + READY_WITHIN_MS;
      while (!(await spec.isReady())) {
        if (performance.now() > deadline) {
          throw new Error(
            `${spec.name} is not ready after ${READY_WITHIN_MS / 1000} s; the end of its log:\n${await tail(spec.logFile)}`,
          );
        }
        await Promise.race([sleep(LOOK_EVERY_MS), running]);
      }
    },
    kill(signal, downMs = 0) {
      downUntil = performance.now() + downMs;
      current?.signal(signal);
    },
    async stop() {
      stopping = true;
      await current?.end();
      await running;
    },
  };
}

/** The last lines of a log, for an error message. */
export async function tail(file: string, lines = 15): Promise<string> {
  const size = await stat(file).then(
    (found) => found.size,
    () => 0,
  );
  if (size === 0) return '(nothing logged)';
  const kept: string[] = [];
  for await (const line of createInterface({ input: createReadStream(file, { start: Math.max(0, size - 32_768) }) }))
    kept.push(line);
  return kept.slice(-lines).join('\n');
}
