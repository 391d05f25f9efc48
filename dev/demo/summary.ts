/** The report as people read it on a terminal. */
import type { DemoReport, Quantiles } from './report.ts';

export function summarize(report: DemoReport): string {
  const { events, throughput } = report;
  const lines = [
    '',
    `verdict: ${report.verdict.toUpperCase()}`,
    '',
    `  events sent           ${n(events.sent)}`,
    `  acknowledged          ${n(events.acknowledged)}`,
    `  delivered             ${n(events.delivered)}`,
    `  lost                  ${n(events.lost)}`,
    `  delivered twice       ${n(events.duplicated)}${events.duplicated > 0 ? ` (${n(events.duplicatedExplained)} explained by a fault)` : ''}`,
    `  out of order          ${n(events.reordered)}`,
    `  refused by receiver   ${n(events.aborted)}`,
    `  unknown               ${n(events.unknown)}`,
    `  errors that clients saw  ${n(events.clientErrors)}`,
    ...(report.faults.length > 0
      ? [`  killed meanwhile      ${report.faults.map((fault) => fault.target).join(', ')}`]
      : []),
    ...(events.unsent > 0 ? [`  delivered, sent by nobody  ${n(events.unsent)}`] : []),
    '',
    ...table(report),
    '',
    `  first deliveries a second: ${throughput.beforePerSecond} before, ${throughput.duringPerSecond} during the operations`,
  ];
  for (const [what, ids] of Object.entries(report.samples)) {
    if (ids.length > 0)
      lines.push(
        `  ${what}, the first: ${ids
          .slice(0, 3)
          .map((id: unknown) => (typeof id === 'string' ? id : JSON.stringify(id)))
          .join(', ')}`,
      );
  }
  return `${lines.join('\n')}\n`;
}

function table(report: DemoReport): string[] {
  const rows = report.operations.map((operation) => [
    `${operation.from} → ${operation.to}`,
    operation.state,
    `${(operation.durationMs / 1_000).toFixed(1)} s`,
    n(operation.partitionsMoved),
    n(operation.jobsMoved),
    n(operation.acknowledgedDuring),
    p(operation.holdMs),
    p(operation.holdRequestMs),
    p(operation.deliveryPauseMs),
  ]);
  const head = [
    'nodes',
    'state',
    'took',
    'partitions',
    'jobs moved',
    'acknowledged',
    'hold ms*',
    'request ms*',
    'delivery pause ms*',
  ];
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]!.length)));
  const print = (row: readonly string[]): string =>
    `  ${row.map((cell, column) => cell.padEnd(widths[column]!)).join('  ')}`.trimEnd();
  return [print(head), ...rows.map(print), '  * median / 99th percentile / largest'];
}

const n = (count: number): string => count.toLocaleString('en-US');
const p = (q: Quantiles): string => (q.samples === 0 ? '–' : `${q.p50} / ${q.p99} / ${q.max}`);
