/**
 * The demo's report, from what the processes logged, what the operations said and what the checker found. Pure.
 * **Boundary:** its fields are public (docs/commands.md): added, never renamed.
 */
import type { OperationProgress } from '../../workflows/messages.ts';
import type { CheckResult, Delivery, Fault, SentEvent, Verdict } from '../checker/checker.ts';

export interface Quantiles {
  readonly p50: number | null;
  readonly p99: number | null;
  readonly max: number | null;
  readonly samples: number;
}

export interface OperationReport {
  readonly operationId: string;
  readonly state: string;
  readonly from: number;
  readonly to: number;
  readonly durationMs: number;
  readonly phasesMs: Readonly<Record<string, number>>;
  readonly partitionsMoved: number;
  readonly jobsMoved: number;
  readonly jobsCopied: number;
  readonly acknowledgedDuring: number;
  readonly holdMs: Quantiles;
  readonly holdRequestMs: Quantiles;
  readonly deliveryPauseMs: Quantiles;
}

export interface FaultReport {
  /** `pod` on Kubernetes; `node`, `postgres` or `worker` on this machine. */
  readonly kind: string;
  /** ISO 8601. */
  readonly at: string;
  readonly target: string;
  /** Whose deliveries may repeat because of it; null: no node's. */
  readonly node: string | null;
  /** ISO 8601; null: it was not seen to serve again. */
  readonly restartedAt: string | null;
}

export interface DemoReport {
  readonly verdict: Verdict;
  readonly events: CheckResult['events'];
  readonly operations: readonly OperationReport[];
  readonly throughput: { readonly beforePerSecond: number; readonly duringPerSecond: number };
  readonly faults: readonly FaultReport[];
  /** The first few offending messageIds. */
  readonly samples: CheckResult['samples'];
}

/** A line of a process's log, parsed. Lines of other kinds are ignored. */
export type LogLine = Readonly<Record<string, unknown>>;

export interface ReportInput {
  readonly operations: readonly OperationProgress[];
  /** One list for each router: the slowest counts. */
  readonly routers: readonly (readonly LogLine[])[];
  readonly nodes: readonly LogLine[];
  readonly sent: readonly SentEvent[];
  readonly received: readonly Delivery[];
  readonly check: CheckResult;
  readonly faults: readonly Fault[];
}

/** What `throughput.beforePerSecond` looks back at. */
export const BEFORE_MS = 10_000;

export function buildReport(input: ReportInput): DemoReport {
  const spans = input.operations.map(spanOf);
  const firsts = firstDeliveries(input.received);
  const cutOvers = cutOversOf(input.nodes, input.routers);
  return {
    verdict: input.check.verdict,
    events: input.check.events,
    operations: input.operations.map((operation, nth) => ({
      operationId: operation.operationId,
      state: operation.state,
      from: operation.from,
      to: operation.to,
      durationMs: round(lengthOf([spans[nth]!])),
      phasesMs: operation.phasesMs,
      partitionsMoved: operation.partitionsMoved,
      jobsMoved: operation.jobsMoved,
      jobsCopied: operation.jobsCopied,
      acknowledgedDuring: input.sent.filter(
        (event) => isAcknowledged(event) && isWithin([spans[nth]!], event.answeredAt!),
      ).length,
      ...measure(cutOvers.filter(({ move }) => move.startsWith(`${operation.operationId}/`))),
    })),
    throughput: {
      beforePerSecond: perSecond(firsts, spans[0] ? [{ from: spans[0].from - BEFORE_MS, to: spans[0].from }] : []),
      duringPerSecond: perSecond(firsts, spans),
    },
    faults: input.faults.map(({ kind, at, target, node, restartedAt }) => ({
      kind,
      at: new Date(at).toISOString(),
      target,
      node: node === undefined ? target : node,
      restartedAt: restartedAt ? new Date(restartedAt).toISOString() : null,
    })),
    samples: input.check.samples,
  };
}

export type Pauses = Pick<OperationReport, 'holdMs' | 'holdRequestMs' | 'deliveryPauseMs'>;

/** What the users of the moves that `counts` names felt: of one operation, or of several together. */
export function pausesOf(
  { nodes, routers }: Pick<ReportInput, 'nodes' | 'routers'>,
  counts: (move: string) => boolean,
): Pauses {
  return measure(cutOversOf(nodes, routers).filter(({ move }) => counts(move)));
}

/** By nearest rank: a value that was measured, never one in between. */
export function quantiles(values: readonly number[]): Quantiles {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (q: number): number | null =>
    sorted.length === 0 ? null : round(sorted[Math.ceil(q * sorted.length) - 1]!);
  return { p50: at(0.5), p99: at(0.99), max: at(1), samples: sorted.length };
}

/** One partition in one attempt of its move. */
interface CutOver {
  readonly move: string;
  readonly partition: number;
  /** When the fence was committed at the source. */
  fencedAt: number | null;
  /** When the slowest router that held something for it forwarded it again. */
  forwardedAt: number | null;
  readonly waitsMs: number[];
  /** The source's last start of processing or delivery before the pause. */
  lastStartAt: number | null;
  /** When the target, or after an abort the source, could start one. */
  openedAt: number | null;
}

function cutOversOf(nodes: readonly LogLine[], routers: readonly (readonly LogLine[])[]): CutOver[] {
  const found = new Map<string, CutOver>();
  const cutOver = (move: string, partition: number): CutOver => {
    const key = `${move} ${partition}`;
    let one = found.get(key);
    if (!one) {
      one = { move, partition, fencedAt: null, forwardedAt: null, waitsMs: [], lastStartAt: null, openedAt: null };
      found.set(key, one);
    }
    return one;
  };
  for (const line of nodes) {
    const { move, at } = line;
    if (typeof move !== 'string' || typeof at !== 'number') continue;
    for (const partition of numbersIn(line['partitions'])) {
      if (line['msg'] === 'partitions fenced') {
        const one = cutOver(move, partition);
        one.fencedAt = Math.min(at, one.fencedAt ?? at); // a command may be repeated: the first took effect
      } else if (line['msg'] === 'partitions opened') {
        const one = cutOver(move, partition);
        one.openedAt = Math.min(at, one.openedAt ?? at);
      } else if (line['msg'] === 'partitions quiesced') {
        const one = cutOver(move, partition);
        one.lastStartAt = Math.min(lastStartIn(line, partition) ?? at, one.lastStartAt ?? Number.POSITIVE_INFINITY);
      }
    }
  }
  for (const line of routers.flat()) {
    const { move, partition, firstForwardAt, held } = line;
    if (
      line['msg'] !== 'hold ended' ||
      typeof move !== 'string' ||
      typeof partition !== 'number' ||
      typeof firstForwardAt !== 'number'
    )
      continue;
    const waits = numbersIn(line['waitsMs']);
    if ((typeof held === 'number' ? held : waits.length) === 0) continue; // nobody waited there
    const one = cutOver(move, partition);
    one.forwardedAt = Math.max(firstForwardAt, one.forwardedAt ?? firstForwardAt);
    one.waitsMs.push(...waits);
  }
  return [...found.values()];
}

function lastStartIn(line: LogLine, partition: number): number | null {
  const { starts } = line as { starts?: readonly { partition?: number; lastStartAt?: number }[] };
  return (Array.isArray(starts) ? starts.find((start) => start.partition === partition)?.lastStartAt : null) ?? null;
}

function measure(cutOvers: readonly CutOver[]): Pauses {
  const holds: number[] = [];
  const pauses: number[] = [];
  for (const { fencedAt, forwardedAt, lastStartAt, openedAt } of cutOvers) {
    if (fencedAt !== null && forwardedAt !== null) holds.push(Math.max(0, forwardedAt - fencedAt));
    if (lastStartAt !== null && openedAt !== null) pauses.push(Math.max(0, openedAt - lastStartAt));
  }
  return {
    holdMs: quantiles(holds),
    holdRequestMs: quantiles(cutOvers.flatMap(({ waitsMs }) => waitsMs)),
    deliveryPauseMs: quantiles(pauses),
  };
}

interface Span {
  readonly from: number;
  readonly to: number;
}

function spanOf(operation: OperationProgress): Span {
  const from = Date.parse(operation.startedAt);
  return { from, to: operation.endedAt === null ? from : Date.parse(operation.endedAt) };
}

const lengthOf = (spans: readonly Span[]): number => spans.reduce((sum, { from, to }) => sum + (to - from), 0);
const isWithin = (spans: readonly Span[], at: number): boolean => spans.some(({ from, to }) => at >= from && at <= to);

function perSecond(times: readonly number[], spans: readonly Span[]): number {
  const ms = lengthOf(spans);
  return ms === 0 ? 0 : round((times.filter((at) => isWithin(spans, at)).length / ms) * 1_000);
}

/** When each event was first delivered. */
function firstDeliveries(received: readonly Delivery[]): number[] {
  const firsts = new Map<string, number>();
  for (const { messageId, answeredAt, status } of received) {
    if (answeredAt === null || status === null || status < 200 || status >= 300) continue;
    firsts.set(messageId, Math.min(answeredAt, firsts.get(messageId) ?? answeredAt));
  }
  return [...firsts.values()];
}

const isAcknowledged = (event: SentEvent): boolean =>
  event.answeredAt !== null && event.status !== null && event.status >= 200 && event.status < 300;
const numbersIn = (value: unknown): number[] =>
  Array.isArray(value) ? value.filter((n) => typeof n === 'number') : [];
const round = (ms: number): number => Math.round(ms * 10) / 10;
