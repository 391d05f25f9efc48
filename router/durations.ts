/**
 * A histogram of durations by stage, in the form of prom-client's: for what is observed more than once with every request, which there costs more than reading the
 * request's head. What it says at a scrape is what prom-client's Histogram would say.
 */
import type { Metric, Registry } from 'prom-client';

export interface DurationsOptions<Stage extends string> {
  readonly name: string;
  readonly help: string;
  readonly stages: readonly Stage[];
  /** Upper bounds in seconds, ascending. */
  readonly buckets: readonly number[];
  readonly registry: Registry;
}

/** One stage. */
export class Durations {
  readonly #boundsMs: Float64Array;
  /** Of each bucket alone; the last: above all bounds. */
  readonly #counts: Float64Array;
  #sumMs = 0;

  constructor(buckets: readonly number[]) {
    this.#boundsMs = Float64Array.from(buckets, (seconds) => seconds * 1_000);
    this.#counts = new Float64Array(buckets.length + 1);
  }

  observe(ms: number): void {
    let nth = 0;
    while (ms > this.#boundsMs[nth]!) nth += 1; // past the end: not above undefined
    this.#counts[nth]! += 1;
    this.#sumMs += ms;
  }

  /** `counts`: up to each bound, then all. */
  get totals(): { readonly counts: readonly number[]; readonly sumSeconds: number } {
    let count = 0;
    return { counts: Array.from(this.#counts, (own) => (count += own)), sumSeconds: this.#sumMs / 1_000 };
  }
}

/** Registers it. A stage without a duration is not told. */
export function createDurations<Stage extends string>(
  options: DurationsOptions<Stage>,
): Readonly<Record<Stage, Durations>> {
  const { name, help, stages, buckets, registry } = options;
  const byStage = Object.fromEntries(stages.map((stage) => [stage, new Durations(buckets)])) as Record<
    Stage,
    Durations
  >;
  const valuesOf = (stage: Stage) => {
    const { counts, sumSeconds } = byStage[stage].totals;
    const count = counts.at(-1)!;
    if (count === 0) return [];
    return [
      ...counts.map((value, nth) => ({
        metricName: `${name}_bucket`,
        labels: { le: buckets[nth] ?? '+Inf', stage },
        value,
      })),
      { metricName: `${name}_sum`, labels: { stage }, value: sumSeconds },
      { metricName: `${name}_count`, labels: { stage }, value: count },
    ];
  };
  const metric = {
    name,
    get: () => Promise.resolve({ name, help, type: 'histogram', aggregator: 'sum', values: stages.flatMap(valuesOf) }),
  };
  registry.registerMetric(metric as unknown as Metric); // of a metric a registry uses these two
  return byStage;
}
