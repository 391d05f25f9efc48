/** `limits get` and `limits set`: how fast a cluster's moves may go. */
import { InvalidArgumentError } from 'commander';
import { CodedError } from '../../../kit/errors.ts';
import type { LimitsAnswer, LimitsRequest } from '../../api-types.ts';
import type { Context } from '../context.ts';
import { type ExitCode, exitCodes } from '../exit-codes.ts';
import { limitsLines } from '../show.ts';

export interface LimitsOptions {
  readonly bytesPerSecond?: number | 'none' | 'default';
  readonly brake?: LimitsRequest['brake'];
  readonly commitMs?: LimitsRequest['commitMsMax'];
  readonly queueDelayMs?: LimitsRequest['queueDelayMsMax'];
  readonly movesPerNode?: LimitsRequest['movesPerNode'];
}

export async function getLimits(context: Context): Promise<ExitCode> {
  const answer = await context.api.get<LimitsAnswer>(context.path('limits'));
  context.terminal.result(answer, limitsLines(answer, context.terminal, Date.now()));
  return exitCodes.done;
}

/** Setting them again has no further effect, but for the name of who did: an answer that was lost is no reason to repeat it unasked. */
export async function setLimits(context: Context, options: LimitsOptions): Promise<ExitCode> {
  const { terminal } = context;
  const { bytesPerSecond, brake, commitMs, queueDelayMs, movesPerNode } = options;
  const change = {
    bytesPerSecond: bytesPerSecond === 'none' ? null : bytesPerSecond,
    brake,
    commitMsMax: commitMs,
    queueDelayMsMax: queueDelayMs,
    movesPerNode,
  };
  if (Object.values(change).every((value) => value === undefined))
    throw new CodedError('USAGE', 'name a limit to set (see ringmaster limits set --help)');
  const body: LimitsRequest = {
    ...change,
    ...(context.options.reason === undefined ? {} : { reason: context.options.reason }),
    ...(terminal.surroundings.user === undefined ? {} : { actor: terminal.surroundings.user }),
  };
  const answer = await context.api.patch<LimitsAnswer>(context.path('limits'), { body });
  terminal.result(answer, limitsLines(answer, terminal, Date.now()));
  return exitCodes.done;
}

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
};

/** `20MB`, `1.5 GB`, `4MiB`, `250000`, `none`, `default`. Whether the rate is one that may be set, the API says. */
export function bytesPerSecond(text: string): number | 'none' | 'default' {
  if (text === 'none' || text === 'default') return text;
  const [, number, unit] = /^(\d+(?:\.\d+)?) ?([a-z]*?)(?:\/s)?$/i.exec(text) ?? [];
  const size = unit === undefined ? undefined : UNITS[unit.toLowerCase()];
  if (number === undefined || size === undefined)
    throw new InvalidArgumentError('It must be a rate such as 20MB or 500kB, or none, or default.');
  return Math.round(Number(number) * size);
}

/** A whole number, or `default`. Its range the API says. */
export function numberOrDefault(text: string): number | 'default' {
  if (text === 'default') return text;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('It must be a whole number, or default.');
}
