/** What all commands that start an operation do: ask the API once for all its answers, and say what goes on from there. */
import { randomUUID } from 'node:crypto';
import type { Context } from '../context.ts';
import { type ExitCode, exitCodes } from '../exit-codes.ts';
import { howToGoOn, waitForOperation } from '../watching.ts';

/** Asked again until it is answered, which starts nothing twice. */
export function postOnce<Answer>(context: Context, path: string, body: object): Promise<Answer> {
  return context.api.postUntilAnswered<Answer>(path, { body, headers: { 'idempotency-key': randomUUID() } });
}

/** Of an operation that goes on: `said` in words; with `wait` its progress, until it ends or is blocked. */
export async function showStarted(
  context: Context,
  answer: object,
  operationId: string,
  said: string,
  wait = false,
): Promise<ExitCode> {
  const { terminal } = context;
  if (wait) {
    if (!terminal.json) terminal.say(said);
    return await waitForOperation(context, operationId);
  }
  terminal.result(answer, [said, ...howToGoOn(operationId)]);
  return exitCodes.done;
}
