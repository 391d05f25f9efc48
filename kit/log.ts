/** The log of a process: JSON lines on standard output, one line per state change, no secrets and no payloads. */
import { type Logger, pino } from 'pino';

export type { Logger } from 'pino';

/** `component` names the process or the part, such as `router` or `node-0`. Level from RINGMASTER_LOG_LEVEL, default `info`. */
export function createLog(component: string, bindings: Record<string, unknown> = {}): Logger {
  return pino({
    level: process.env['RINGMASTER_LOG_LEVEL'] ?? 'info',
    base: { component, ...bindings },
    timestamp: () => `,"time":${now()}`,
    formatters: { level: (label) => ({ level: label }) },
    redact: {
      paths: ['password', 'token', 'authorization', '*.password', '*.token', '*.authorization'],
      censor: '[secret]',
    },
  });
}

const { timeOrigin } = performance;

/** Milliseconds since the epoch with a fraction; monotonic within a process. */
export const now = (): number => timeOrigin + performance.now();
