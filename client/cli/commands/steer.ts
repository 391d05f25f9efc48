/** `pause`, `resume`, `retry`, `cancel`. */
import type { ProgressAnswer } from '../../api-types.ts';
import type { Context } from '../context.ts';
import { type ExitCode, exitCodes } from '../exit-codes.ts';
import { progressLines } from '../show.ts';

export const steering = {
  pause: 'no further move starts; moves that run finish',
  resume: 'go on after a pause, or try again what a blocked operation waits for',
  retry: 'try again what a blocked operation waits for',
  cancel: 'abort moves before their hand-over, let the others finish, start no more, unfreeze the ring',
} as const;
export type Steering = keyof typeof steering;

export async function steer(context: Context, action: Steering, operation: string): Promise<ExitCode> {
  const { terminal, options } = context;
  const body = {
    actor: terminal.surroundings.user,
    ...(options.reason === undefined ? {} : { reason: options.reason }),
  };
  const progress = await context.api.post<ProgressAnswer>(context.path('operations', operation, action), { body });
  terminal.result(progress, progressLines(progress, terminal, Date.now()));
  return exitCodes.done;
}
