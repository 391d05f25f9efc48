/**
 * Starts processes that end with this one, also when it is killed: through one keeper process (keeper-main.ts), made when first needed.
 * Use it for everything that is not ours (PostgreSQL, Temporal) and for our own long-lived processes too.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export interface KeptSpec {
  command: string;
  args: string[];
  /** The whole environment: nothing is inherited, so that no secret reaches a child by accident. */
  env: NodeJS.ProcessEnv;
  /** Standard output and error are appended to it. */
  logFile: string;
  cwd?: string;
  uid?: number;
  gid?: number;
  /** How it is asked to end when its parent is gone (SIGINT is PostgreSQL's fast shutdown) … */
  endSignal: 'SIGINT' | 'SIGTERM' | 'SIGQUIT';
  /** … and how long that may take before SIGKILL. */
  killAfterMs: number;
  /** Gives it the pipe that `endWithParent` looks at, so that it ends even when the keeper is killed as well. */
  parentPipe?: boolean;
}

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export interface KeptProcess {
  readonly pid: number;
  /** Never rejects. */
  readonly exited: Promise<Exit>;
  /** Undefined while it runs. */
  readonly exit: Exit | undefined;
  /** Goes through the keeper, which is its real parent: never hits another process that got its number. */
  signal(signal: NodeJS.Signals): void;
  /** Asks it to end, waits, and after `killAfterMs` kills it. */
  end(signal?: NodeJS.Signals, killAfterMs?: number): Promise<Exit>;
}

export type KeeperOrder = { id: number; start: KeptSpec } | { id: number; signal: NodeJS.Signals };
type KeeperAnswer = { id: number; pid?: number; exit?: Exit; failed?: string };

interface Waiting {
  onAnswer(answer: KeeperAnswer): void;
  onKeeperGone(): void;
}

class Keeper {
  readonly #process: ChildProcess;
  readonly #waiting = new Map<number, Waiting>();
  #ids = 0;
  #held = 0;
  gone = false;

  constructor() {
    // Detached: a Ctrl-C on the terminal reaches neither keeper nor children; this process decides about the order.
    this.#process = spawn(process.execPath, [fileURLToPath(new URL('./keeper-main.ts', import.meta.url))], {
      stdio: ['pipe', 'pipe', 'inherit'],
      detached: true,
      env: { PATH: process.env['PATH'] },
    });
    const { stdin, stdout } = this.#process;
    if (!stdin || !stdout) throw new Error('the keeper has no pipes');
    stdin.on('error', () => {}); // it is gone: 'exit' follows
    createInterface({ input: stdout }).on('line', (line) => {
      const answer = JSON.parse(line) as KeeperAnswer;
      this.#waiting.get(answer.id)?.onAnswer(answer);
    });
    const lost = () => {
      this.gone = true;
      for (const waiting of [...this.#waiting.values()]) waiting.onKeeperGone();
    };
    this.#process.once('exit', lost);
    this.#process.once('error', lost);
    this.#hold(0);
  }

  /** As with any child process, a running one keeps this process alive; an idle keeper does not. */
  #hold(change: 1 | -1 | 0): void {
    this.#held += change;
    const streams = [this.#process.stdin, this.#process.stdout] as unknown as { ref(): void; unref(): void }[];
    for (const handle of [this.#process, ...streams]) {
      if (this.#held > 0) handle.ref();
      else handle.unref();
    }
  }

  #send(order: KeeperOrder): void {
    this.#process.stdin?.write(`${JSON.stringify(order)}\n`);
  }

  start(spec: KeptSpec): Promise<KeptProcess> {
    this.#ids += 1;
    const id = this.#ids;
    const { promise: exited, resolve: resolveExit } = Promise.withResolvers<Exit>();
    let exit: Exit | undefined;
    let pid: number | undefined;
    const finish = (how: Exit) => {
      if (exit !== undefined) return;
      exit = how;
      this.#waiting.delete(id);
      this.#hold(-1);
      resolveExit(exit);
    };
    this.#hold(1);
    const started = new Promise<KeptProcess>((resolve, reject) => {
      const kept = (newPid: number): KeptProcess => ({
        pid: newPid,
        exited,
        get exit() {
          return exit;
        },
        signal: (signal) => {
          if (exit === undefined) this.#send({ id, signal });
        },
        end: (signal = spec.endSignal, killAfterMs = spec.killAfterMs) => {
          if (exit !== undefined) return Promise.resolve(exit);
          this.#send({ id, signal });
          const killing = setTimeout(() => this.#send({ id, signal: 'SIGKILL' }), killAfterMs);
          return exited.finally(() => clearTimeout(killing));
        },
      });
      this.#waiting.set(id, {
        onAnswer: (answer) => {
          if (answer.pid !== undefined) {
            pid = answer.pid;
            resolve(kept(pid));
          }
          if (answer.exit) finish(answer.exit);
          if (answer.failed !== undefined) {
            finish({ code: null, signal: null });
            reject(new Error(`cannot start ${spec.command}: ${answer.failed}`));
          }
        },
        onKeeperGone: () => {
          // Somebody killed the keeper. What it kept must not run on unkept.
          if (pid !== undefined) killQuietly(pid);
          finish({ code: null, signal: 'SIGKILL' });
          reject(new Error(`cannot start ${spec.command}: the keeper process ended`));
        },
      });
    });
    this.#send({ id, start: spec });
    return started;
  }
}

let keeper: Keeper | undefined;

/** Starts a process that ends with this one. Rejects when it cannot be started at all. */
export function keep(spec: KeptSpec): Promise<KeptProcess> {
  if (!keeper || keeper.gone) keeper = new Keeper();
  return keeper.start(spec);
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // gone already
  }
}
