/** `status`, `operations`, `cluster show`, `ring`, `log`: looking, changing nothing. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CodedError, codeOf, describeError } from '../../../kit/errors.ts';
import type { RecordedEvent } from '../../../ring/events.ts';
import type { ClusterAnswer, LogAnswer, OperationsAnswer, ProgressAnswer, RingAnswer } from '../../api-types.ts';
import type { Context } from '../context.ts';
import { type ExitCode, exitCodes } from '../exit-codes.ts';
import { clusterLines, operationsLines, progressLines, ringLines } from '../show.ts';
import { ago, describeEvent, plain } from '../text.ts';

const WATCH_EVERY_MS = 1_000;
/** The server's limit; the call's own patience lies above it. */
const LOG_WAIT_MS = 20_000;
const LOG_PAGE = 500;

interface Status {
  readonly cluster: ClusterAnswer;
  /** Of the operation that runs, or of the last one. */
  readonly operation: ProgressAnswer | null;
  /** Why the operation's progress is not known. */
  readonly trouble: string | null;
}

export async function status(context: Context, options: { readonly watch?: boolean }): Promise<ExitCode> {
  if (options.watch) return await watchStatus(context);
  const now = await lookAtStatus(context);
  context.terminal.result(now, statusLines(now, context));
  return exitCodes.done;
}

async function lookAtStatus(context: Context, signal?: AbortSignal): Promise<Status> {
  const cluster = await context.api.get<ClusterAnswer>(context.path(), { signal });
  if (cluster.temporal === 'unreachable') return { cluster, operation: null, trouble: null };
  try {
    const latest = await latestOperation(context, cluster, signal);
    if (latest === null) return { cluster, operation: null, trouble: null };
    const operation = await context.api.get<ProgressAnswer>(context.path('operations', latest), { signal });
    return { cluster, operation, trouble: null };
  } catch (error) {
    signal?.throwIfAborted();
    // The cluster is worth showing without it: no worker answers, for now.
    if (error instanceof CodedError) return { cluster, operation: null, trouble: describeError(error) };
    throw error;
  }
}

async function latestOperation(context: Context, cluster: ClusterAnswer, signal?: AbortSignal): Promise<string | null> {
  if (cluster.operation) return cluster.operation.operationId;
  const { operations } = await context.api.get<OperationsAnswer>(`${context.path('operations')}?limit=1`, { signal });
  return operations[0]?.operationId ?? null;
}

function statusLines({ cluster, operation, trouble }: Status, { terminal }: Context): string[] {
  const running =
    cluster.operation && !operation ? [`operation ${cluster.operation.operationId}: ${cluster.operation.state}`] : [];
  return [
    ...clusterLines(cluster, terminal),
    ...(operation ? progressLines(operation, terminal, Date.now()) : running),
    ...(trouble ? [`its progress is not known: ${plain(trouble)}`] : []),
  ];
}

/** On a terminal the same lines are drawn again; elsewhere they are written when something has changed. */
async function watchStatus(context: Context): Promise<ExitCode> {
  const { terminal } = context;
  let told = '';
  let drawn = 0;
  await untilInterrupted(context, async (signal) => {
    for (;;) {
      const now = await lookAtStatus(context, signal).catch((error: unknown) => {
        signal.throwIfAborted();
        if (told === '' || codeOf(error) !== 'API_UNREACHABLE') throw error;
        return null; // it was there before: perhaps it restarts
      });
      const lines = now ? statusLines(now, context) : ['no contact to the API …'];
      if (terminal.rich && !terminal.json) {
        terminal.say(`${drawn > 0 ? `\u001b[${drawn}A` : ''}\u001b[0J${lines.join('\n')}`);
        drawn = lines.join('\n').split('\n').length;
        told = 'drawn';
      } else if (withoutAges(now) !== told) {
        terminal.item(now, lines.join('\n'));
        told = withoutAges(now);
      }
      await sleep(WATCH_EVERY_MS, null, { signal });
    }
  });
  return exitCodes.done;
}

/** What is new about a status: a second more of a router's life is not. */
function withoutAges(status: Status | null): string {
  const routers = status?.cluster.routers?.map(({ router, version, url }) => ({ router, version, url }));
  return JSON.stringify(status && { ...status, cluster: { ...status.cluster, routers } });
}

export async function operations(context: Context, options: { readonly limit: number }): Promise<ExitCode> {
  const answer = await context.api.get<OperationsAnswer>(`${context.path('operations')}?limit=${options.limit}`);
  context.terminal.result(answer, operationsLines(answer.operations, Date.now()));
  return exitCodes.done;
}

export async function showCluster(context: Context): Promise<ExitCode> {
  const cluster = await context.api.get<ClusterAnswer>(context.path());
  context.terminal.result(cluster, clusterLines(cluster, context.terminal));
  return exitCodes.done;
}

export async function showRing(context: Context, options: { readonly at?: number }): Promise<ExitCode> {
  const at = options.at === undefined ? '' : `?at=${options.at}`;
  const ring = await context.api.get<RingAnswer>(`${context.path('ring')}${at}`);
  context.terminal.result(ring, ringLines(ring, context.terminal, Date.now()));
  return exitCodes.done;
}

/** The last `last` events; with `follow` then each one as it comes, one a line, until Ctrl-C. */
export async function log(
  context: Context,
  options: { readonly last: number; readonly follow?: boolean },
): Promise<ExitCode> {
  const { version } = await context.api.get<ClusterAnswer>(context.path());
  let after = Math.max(0, version - options.last);
  const read = async (waitMs: number, signal?: AbortSignal): Promise<readonly RecordedEvent[]> => {
    const query = `?after=${after}&limit=${LOG_PAGE}&waitMs=${waitMs}`;
    const timeoutMs = waitMs + 10_000;
    const page = await context.api.get<LogAnswer>(`${context.path('log')}${query}`, { signal, timeoutMs });
    after = page.next;
    return page.events;
  };
  if (!options.follow) {
    const events: RecordedEvent[] = [];
    for (let page = await read(0); page.length > 0; page = after < version ? await read(0) : []) events.push(...page);
    context.terminal.result({ events }, events.map(eventLine));
    return exitCodes.done;
  }
  await untilInterrupted(context, async (signal) => {
    for (;;) for (const event of await read(LOG_WAIT_MS, signal)) context.terminal.item(event, eventLine(event));
  });
  return exitCodes.done;
}

function eventLine(recorded: RecordedEvent): string {
  const { version, at, event, actor, reason } = recorded;
  const why = reason ? `: ${reason}` : '';
  return plain(
    `${String(version).padStart(5)}  ${ago(at, Date.now()).padEnd(14)}  ${describeEvent(event)}  [${actor}${why}]`,
  );
}

/** Ctrl-C is the way to end a watch: no failure. */
async function untilInterrupted({ terminal }: Context, run: (signal: AbortSignal) => Promise<never>): Promise<void> {
  const stop = new AbortController();
  const unhook = terminal.surroundings.onInterrupt(() => stop.abort());
  try {
    await run(stop.signal);
  } catch (error) {
    if (!stop.signal.aborted) throw error;
  } finally {
    unhook();
  }
}
