/**
 * What a chaos run found, as one object and in words.
 * **Boundary:** the object's fields are public (docs/commands.md): added, never renamed.
 */
import type { CheckResult, Verdict } from '../checker/checker.ts';
import type { CutOverWatch } from './cut-overs.ts';
import type { Struck } from './injector.ts';
import type { OperationsSeen } from './operator.ts';
import { type ChaosOptions, repeatCommand } from './options.ts';
import type { ChaosKind } from './plan.ts';

export interface ChaosFault {
  readonly kind: ChaosKind;
  readonly blow: string;
  /** ISO 8601. */
  readonly at: string;
  readonly target: string;
  /** Whose deliveries may repeat because of it; null: no node's. */
  readonly node: string | null;
  /** ISO 8601. */
  readonly restartedAt: string | null;
  /** The move in whose cut-over it struck; null: in none that was seen. */
  readonly cutOver: string | null;
  /** Events that were delivered more than once because of it, or of another fault beside it. */
  readonly explains: number;
  /** How long before the fault the oldest of the deliveries that it explains had been answered: what nobody had written down yet. Null without any. */
  readonly explainsOldestMs: number | null;
}

export interface ChaosReport {
  readonly seed: number;
  readonly verdict: Verdict;
  readonly faults: Readonly<Partial<Record<ChaosKind, number>>>;
  readonly faultsInsideCutOver: number;
  readonly operations: OperationsSeen;
  readonly events: CheckResult['events'];
  readonly leftovers: readonly string[];
  readonly seconds: number;
  readonly kinds: readonly ChaosKind[];
  /** The command that does it again. */
  readonly repeat: string;
  readonly cutOvers: number;
  readonly struck: readonly ChaosFault[];
  readonly samples: CheckResult['samples'];
  /** What kept the run from its end, if anything did. */
  readonly trouble: string | null;
}

export interface ChaosFindings {
  readonly options: ChaosOptions;
  readonly check: CheckResult;
  /** In the order in which the checker got them. */
  readonly faults: readonly Struck[];
  readonly cutOvers: Pick<CutOverWatch, 'all' | 'at'>;
  readonly operations: OperationsSeen;
  readonly leftovers: readonly string[];
  readonly trouble: string | null;
}

export function reportChaos(found: ChaosFindings): ChaosReport {
  const { options, check, cutOvers } = found;
  const struck = found.faults.map(({ kind, blow, at, landedAt, target, node, restartedAt }, n): ChaosFault => {
    // Inside only where it had begun before the blow was aimed, and had not ended when the blow had landed.
    const before = cutOvers.at(at);
    const after = cutOvers.at(landedAt);
    const { events, oldestMs } = check.explainedByFault[n]!;
    return {
      kind,
      blow,
      at: new Date(at).toISOString(),
      target,
      node: node ?? null,
      restartedAt: restartedAt ? new Date(restartedAt).toISOString() : null,
      cutOver: before !== null && before === after ? before.move : null,
      explains: events,
      explainsOldestMs: oldestMs === null ? null : Math.round(oldestMs),
    };
  });
  const counts: Partial<Record<ChaosKind, number>> = {};
  for (const kind of options.kinds) counts[kind] = struck.filter((fault) => fault.kind === kind).length;
  return {
    seed: options.seed,
    verdict: check.verdict,
    faults: counts,
    faultsInsideCutOver: struck.filter(({ cutOver }) => cutOver !== null).length,
    operations: found.operations,
    events: check.events,
    leftovers: found.leftovers,
    seconds: options.seconds,
    kinds: options.kinds,
    repeat: repeatCommand(options),
    cutOvers: cutOvers.all.length,
    struck,
    samples: check.samples,
    trouble: found.trouble,
  };
}

/** 0 all is well · 1 invalid, something is left, or the run did not do what it is for · 3 unknown · 4 an operation stays blocked. */
export function exitCodeOf({ verdict, leftovers, trouble }: ChaosReport): number {
  if (verdict === 'invalid') return 1;
  if (leftovers.some((left) => /^operation \S+ is blocked/.test(left))) return 4;
  if (leftovers.length > 0 || trouble !== null) return 1;
  return verdict === 'unknown' ? 3 : 0;
}

export function summarizeChaos(report: ChaosReport): string {
  const { events, operations, faults } = report;
  const n = (count: number): string => count.toLocaleString('en-US');
  const lines = [
    '',
    `verdict: ${report.verdict.toUpperCase()}   seed ${report.seed}`,
    '',
    `  faults                ${Object.entries(faults)
      .map(([kind, count]) => `${kind} ${count}`)
      .join(', ')}`,
    `  inside a cut-over     ${report.faultsInsideCutOver} (of ${report.cutOvers} that were seen)`,
    `  operations            ${operations.completed} completed, ${operations.cancelled} cancelled, ${operations.undone} undone, ${operations.blocked} blocked meanwhile`,
    `  events sent           ${n(events.sent)}, acknowledged ${n(events.acknowledged)}, delivered ${n(events.delivered)}`,
    `  lost                  ${n(events.lost)}`,
    `  delivered twice       ${n(events.duplicated)} (${n(events.duplicatedExplained)} explained by a fault)`,
    `  out of order          ${n(events.reordered)}`,
    `  unknown               ${n(events.unknown)}`,
    ...(events.unsent > 0 ? [`  delivered, sent by nobody  ${n(events.unsent)}`] : []),
    `  errors that clients saw  ${n(events.clientErrors)}`,
    `  left over             ${report.leftovers.length === 0 ? 'nothing' : ''}`,
    ...report.leftovers.map((left) => `    ${left}`),
  ];
  for (const [what, ids] of Object.entries(report.samples)) {
    if (ids.length > 0) lines.push(`  ${what}, the first: ${JSON.stringify(ids.slice(0, 3))}`);
  }
  if (report.trouble) lines.push('', `trouble: ${report.trouble}`);
  if (exitCodeOf(report) !== 0) lines.push('', `again: ${report.repeat}`);
  return `${lines.join('\n')}\n`;
}
