/** The log of a process: JSON lines on standard output, one line per state change, no secrets and no payloads. */
import { type Logger, pino } from 'pino';

export type { Logger } from 'pino';

/** Of lines that wait for the log's reader; more are dropped and counted, so that a reader that stalls costs no more memory. */
const WAITING_BYTES_MAX = 8 * 1_024 * 1_024;

/**
 * `component` names the process or the part, such as `router` or `node-0`. Level from RINGMASTER_LOG_LEVEL, default `info`.
 * Holds: no process waits for its log's reader while it works, and none lives on because its reader is gone.
 */
export function createLog(component: string, bindings: Record<string, unknown> = {}): Logger {
  const out = pino.destination({ dest: 1, sync: false, maxLength: WAITING_BYTES_MAX });
  const log = pino(
    {
      level: process.env['RINGMASTER_LOG_LEVEL'] ?? 'info',
      base: { component, ...bindings },
      timestamp: () => `,"time":${now()}`,
      formatters: { level: (label) => ({ level: label }) },
      redact: {
        paths: ['password', 'token', 'authorization', '*.password', '*.token', '*.authorization'],
        censor: '[secret]',
      },
    },
    out,
  );
  let dropped = 0;
  out.on('drop', () => {
    dropped += 1;
  });
  out.on('drain', () => {
    if (dropped === 0) return;
    const lines = dropped;
    dropped = 0;
    log.warn({ lines }, 'log lines dropped: nobody read them in time');
  });
  // At the end of the process: whose log nobody reads any more ends without a word about it.
  const flushSync = out.flushSync.bind(out);
  out.flushSync = () => {
    try {
      flushSync();
    } catch {
      // Nobody reads what is left.
    }
  };
  return log;
}

const { timeOrigin } = performance;

/** Milliseconds since the epoch with a fraction; monotonic within a process. */
export const now = (): number => timeOrigin + performance.now();
