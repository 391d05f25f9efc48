/** `verify`: the cluster as it is now, the certificates of an operation, and what moves took along, row by row. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CodedError, codeOf, describeError } from '../../../kit/errors.ts';
import type { CertificatesAnswer, VerificationAnswer, VerifyStarted } from '../../api-types.ts';
import type { Context } from '../context.ts';
import { type ExitCode, exitCodes } from '../exit-codes.ts';
import { certificateLines, verificationLines } from '../show-verify.ts';
import { count, duration, plain, plural } from '../text.ts';
import { isWeather, PATIENCE_MS } from '../watching.ts';

const LOOK_EVERY_MS = 500;
/** A look at the cluster takes as long as a node may take to settle, and a worker to pick it up. */
const LOOK_NOW_EVERY_MS = 100;

export interface VerifyOptions {
  readonly operation?: string;
  readonly full?: boolean;
  readonly samples?: number;
  readonly resume?: boolean;
  readonly watch?: boolean;
  readonly stop?: boolean;
  readonly verbose?: boolean;
}

export async function verify(context: Context, options: VerifyOptions): Promise<ExitCode> {
  const chosen = (['watch', 'stop'] as const).filter((name) => options[name]);
  if (chosen.length + (options.full ? 1 : 0) > 1)
    throw new CodedError('USAGE', '--full, --watch and --stop exclude each other');
  if (options.resume && !options.full) throw new CodedError('USAGE', '--resume goes with --full');
  if (options.stop) return await stop(context);
  if (options.watch) return await watch(context, true);
  if (options.operation !== undefined && !options.full)
    return await showCertificates(context, options.operation, options);
  return await start(context, options);
}

async function showCertificates(
  context: Context,
  operation: string,
  { verbose = false }: VerifyOptions,
): Promise<ExitCode> {
  const partitions = verbose || context.terminal.json;
  const query = `?operation=${encodeURIComponent(operation)}&partitions=${partitions}`;
  const answer = await context.api.get<CertificatesAnswer>(`${context.path('certificates')}${query}`);
  context.terminal.result(answer, certificateLines(answer, context.terminal, verbose));
  const isCertified = answer.moves.every((move) => move.handedOver === null || move.certificate !== null);
  return isCertified ? exitCodes.done : exitCodes.failed;
}

async function start(context: Context, { full = false, operation, samples, resume }: VerifyOptions): Promise<ExitCode> {
  const { terminal } = context;
  const goOn = resume || (full && (await wouldGoOn(context)));
  const body = {
    actor: terminal.surroundings.user,
    reason: context.options.reason,
    ...(full ? { full } : {}),
    ...(operation === undefined ? {} : { operation }),
    ...(samples === undefined ? {} : { samples }),
    ...(goOn ? { resume: true } : {}),
  };
  await context.api.post<VerifyStarted>(context.path('verify'), { body });
  return await watch(context, full);
}

/** Where the last one was stopped: a person is asked, a program told. */
async function wouldGoOn({ api, path, terminal, options }: Context): Promise<boolean> {
  const last = await api.get<VerificationAnswer>(`${path('verify')}?full=true`).catch((error: unknown) => {
    if (codeOf(error) === 'VERIFY_UNKNOWN') return null;
    throw error;
  });
  if (!last || (last.state !== 'stopped' && last.state !== 'failed')) return false;
  const where = `${count(last.jobsCompared)} of ${plural(last.jobsTotal, 'job')}`;
  if (!terminal.surroundings.asksPeople || options.yes) {
    terminal.say(`the last verification was ${last.state} after ${where}; this one starts anew (--resume goes on)`);
    return false;
  }
  const answer = await terminal.surroundings.ask(`The last was ${last.state} after ${where}. Go on from there? [Y/n] `);
  return !/^no?$/i.test(answer.trim());
}

async function stop(context: Context): Promise<ExitCode> {
  const body = { actor: context.terminal.surroundings.user, reason: context.options.reason };
  await context.api.post<VerificationAnswer>(context.path('verify', 'stop'), { body });
  const ended = await follow(context, true, new AbortController().signal);
  if (ended === 'given up') return exitCodes.unknown;
  context.terminal.result(ended, verificationLines(ended, context.terminal));
  return exitCodes.done;
}

/** Until it ends. Ctrl-C only ends the watching. */
async function watch(context: Context, full: boolean): Promise<ExitCode> {
  const { terminal } = context;
  const abort = new AbortController();
  const unhook = terminal.surroundings.onInterrupt(() => abort.abort());
  try {
    const ended = await follow(context, full, abort.signal);
    if (ended === 'given up') {
      terminal.say(`no contact for ${PATIENCE_MS / 1_000} s: the outcome is not known`, ...(full ? howToGoOn : []));
      return exitCodes.unknown;
    }
    terminal.result(ended, verificationLines(ended, terminal));
    return exitCodeOf(ended);
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    terminal.say('stopped watching; the verification goes on', ...(full ? howToGoOn : []));
    return exitCodes.unknown;
  } finally {
    unhook();
  }
}

const howToGoOn = [
  '  look again:  ringmaster verify --watch',
  '  stop it:     ringmaster verify --stop',
  '  then go on:  ringmaster verify --full --resume',
];

async function follow(
  { api, path, terminal }: Context,
  full: boolean,
  signal: AbortSignal,
): Promise<VerificationAnswer | 'given up'> {
  const show = createDisplay(terminal.say.bind(terminal), terminal.rich && !terminal.json);
  let lastContact = performance.now();
  for (;;) {
    try {
      const progress = await api.get<VerificationAnswer>(`${path('verify')}?full=${full}`, { signal });
      lastContact = performance.now();
      if (progress.endedAt !== null) return progress;
      if (full && !terminal.json) show(progress);
    } catch (error) {
      signal.throwIfAborted();
      if (!isWeather(error)) throw error;
      if (performance.now() - lastContact > PATIENCE_MS) return 'given up';
      if (!terminal.json) terminal.say(plain(describeError(error)));
    }
    await sleep(full ? LOOK_EVERY_MS : LOOK_NOW_EVERY_MS, null, { signal });
  }
}

/** One line, drawn over on a terminal, written when it changes elsewhere. */
function createDisplay(say: (line: string) => void, overwrites: boolean): (progress: VerificationAnswer) => void {
  let told = '';
  let first: { at: number; jobs: number } | null = null;
  return (progress) => {
    const { jobsCompared, jobsTotal, movesDone, movesTotal, counts } = progress;
    const at = performance.now();
    first ??= { at, jobs: jobsCompared };
    const done = jobsCompared - first.jobs;
    const leftMs =
      done > 0 ? ((at - first.at) / done) * Math.max(0, jobsTotal - jobsCompared - progress.notComparedJobs) : null;
    const differing = Object.values(counts).reduce((sum, n) => sum + n, 0);
    const key = `${jobsCompared}/${movesDone}/${differing}`;
    if (key === told) return;
    const line =
      movesTotal === 0
        ? 'looking at the nodes …'
        : `${count(jobsCompared)} of ${plural(jobsTotal, 'job')} compared, ${movesDone} of ${plural(movesTotal, 'move')}` +
          `${differing > 0 ? `, ${plural(differing, 'difference')}` : ''}${leftMs === null ? '' : `, ${duration(leftMs)} left`}`;
    say(overwrites && told !== '' ? `\u001b[1A\u001b[0J${line}` : line);
    told = key;
  };
}

function exitCodeOf({ state, verdict }: VerificationAnswer): ExitCode {
  if (state === 'completed') return verdict === 'differs' ? exitCodes.failed : exitCodes.done;
  return state === 'stopped' ? exitCodes.unknown : exitCodes.failed;
}
