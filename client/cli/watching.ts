/** Following an operation until it ends or is blocked, with a progress bar where there is a terminal. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CodedError, describeError } from '../../kit/errors.ts';
import type { ProgressAnswer } from '../api-types.ts';
import type { Context } from './context.ts';
import { type ExitCode, exitCodeOfState, exitCodes } from './exit-codes.ts';
import { createProgressDisplay, type ProgressDisplay } from './progress-display.ts';
import { endLines } from './show.ts';

const LOOK_EVERY_MS = 500;
/** An API, a worker or a Temporal that restarts is waited for this long; the operation does not depend on our looking. */
export const PATIENCE_MS = 60_000;
const WEATHER = new Set([
  'API_UNREACHABLE',
  'API_ANSWER_INVALID',
  'INTERNAL',
  'TEMPORAL_ERROR',
  'TEMPORAL_UNREACHABLE',
  'WORKER_UNREACHABLE',
  'RING_STORE_UNREACHABLE',
]);
/** What passes: the command looks again. */
export const isWeather = (error: unknown): boolean => error instanceof CodedError && WEATHER.has(error.code);
/** Started a moment ago, and not yet seen by everybody. */
const MAY_BE_YOUNG = 'OPERATION_UNKNOWN';

/** Ctrl-C only ends the watching, and tells how to look again and how to cancel. */
export async function waitForOperation(context: Context, operationId: string): Promise<ExitCode> {
  const { terminal } = context;
  const stop = new AbortController();
  const unhook = terminal.surroundings.onInterrupt(() => stop.abort());
  const display = createProgressDisplay(terminal);
  try {
    const progress = await follow(context, operationId, display, stop.signal);
    display.stop();
    if (progress === 'given up') {
      terminal.say(`no contact for ${PATIENCE_MS / 1_000} s: the outcome is not known`, ...howToGoOn(operationId));
      return exitCodes.unknown;
    }
    terminal.result(progress, endLines(progress, terminal));
    return exitCodeOfState(progress.state);
  } catch (error) {
    display.stop();
    if (!stop.signal.aborted) throw error;
    terminal.say('stopped watching; the operation goes on', ...howToGoOn(operationId));
    return exitCodes.unknown;
  } finally {
    unhook();
  }
}

async function follow(
  context: Context,
  operationId: string,
  display: ProgressDisplay,
  signal: AbortSignal,
): Promise<ProgressAnswer | 'given up'> {
  let lastContact = performance.now();
  for (;;) {
    try {
      const progress = await context.api.get<ProgressAnswer>(context.path('operations', operationId), { signal });
      lastContact = performance.now();
      display.show(progress);
      if (isOver(progress)) return progress;
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof CodedError && (WEATHER.has(error.code) || error.code === MAY_BE_YOUNG))) throw error;
      const silentMs = performance.now() - lastContact;
      if (error.code === MAY_BE_YOUNG && silentMs > 5_000) throw error;
      if (silentMs > PATIENCE_MS) return 'given up';
      display.trouble(describeError(error));
    }
    await sleep(LOOK_EVERY_MS, null, { signal });
  }
}

const isOver = ({ state, endedAt }: ProgressAnswer): boolean => endedAt !== null || state === 'blocked';

export function howToGoOn(operationId: string): string[] {
  return [`  look again:  ringmaster status --watch`, `  cancel:      ringmaster cancel ${operationId}`];
}
