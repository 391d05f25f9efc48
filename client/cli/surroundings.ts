/** What the command line has around it, as a value: tests put their own in its place. */
import { userInfo } from 'node:os';
import { createInterface } from 'node:readline/promises';

export interface Output {
  write(text: string): unknown;
  readonly isTTY?: boolean;
}

export interface Surroundings {
  readonly env: Record<string, string | undefined>;
  readonly stdout: Output;
  readonly stderr: Output;
  /** Whether a person sits at the other end of the standard input. */
  readonly asksPeople: boolean;
  /** Asks a person; the answer as typed. */
  ask(question: string): Promise<string>;
  /** Calls `handler` at Ctrl-C instead of ending the process. Returns what ends that. */
  onInterrupt(handler: () => void): () => void;
  /** Who sits there, for the log of the ring. */
  readonly user: string;
}

export function processSurroundings(): Surroundings {
  return {
    env: process.env,
    stdout: process.stdout,
    stderr: process.stderr,
    asksPeople: Boolean(process.stdin.isTTY && process.stdout.isTTY),
    async ask(question) {
      const lines = createInterface({ input: process.stdin, output: process.stderr });
      try {
        return await lines.question(question);
      } finally {
        lines.close();
      }
    },
    onInterrupt(handler) {
      process.on('SIGINT', handler);
      return () => process.off('SIGINT', handler);
    },
    user: userName(),
  };
}

function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return process.env['USER'] ?? 'unknown'; // a user id without a name, as in containers
  }
}
