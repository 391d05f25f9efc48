/** Goal: our histogram says at a scrape what prom-client's own would. Method: both are told the same durations, random ones and bounds themselves; their texts and sums are compared. */
import { AggregatorRegistry, Histogram, Registry } from 'prom-client';
import { expect, test } from 'vitest';
import { seededRandom } from '../../dev/traffic/random.ts';
import { createDurations } from '../../router/durations.ts';

const about = { name: 'took_seconds', help: 'How long.', buckets: [0.001, 0.0025, 0.01, 1] };

function both() {
  const [own, theirs] = [new Registry(), new Registry()];
  const durations = createDurations({ ...about, stages: ['body', 'node', 'unused'], registry: own });
  const histogram = new Histogram({ ...about, labelNames: ['stage'], registers: [theirs] });
  const observe = (stage: 'body' | 'node', ms: number): void => {
    durations[stage].observe(ms);
    histogram.labels(stage).observe(ms / 1_000);
  };
  return { own, theirs, observe };
}

/** Lines without the sums, whose last digits depend on the order of adding; and the sums. */
function parts(text: string): { lines: string[]; sums: number[] } {
  const lines = text.split('\n');
  const isSum = (line: string): boolean => line.startsWith('took_seconds_sum');
  return {
    lines: lines.filter((line) => !isSum(line)),
    sums: lines.filter(isSum).map((line) => Number(line.split(' ')[1])),
  };
}

const seed = Number(process.env['RINGMASTER_TEST_SEED'] ?? Date.now() % 1e6);
test(`says what prom-client's histogram says, also on the bounds and beyond the last (seed ${seed})`, async () => {
  const { own, theirs, observe } = both();
  for (const seconds of about.buckets) observe('body', seconds * 1_000);
  const next = seededRandom(seed);
  for (let n = 0; n < 2_000; n += 1) observe(next() < 0.5 ? 'node' : 'body', 10 ** (next() * 6 - 2));
  const [ours, expected] = [parts(await own.metrics()), parts(await theirs.metrics())];
  expect(ours.lines).toEqual(expected.lines);
  expect(ours.sums).toHaveLength(2);
  for (const [nth, sum] of ours.sums.entries()) expect(sum).toBeCloseTo(expected.sums[nth]!, 6);
});

test('is added up over workers as any other metric', async () => {
  const workers = [both(), both()] as const;
  workers[0].observe('node', 2);
  workers[1].observe('node', 5_000);
  const sum = async (registries: Registry[]): Promise<string> =>
    await AggregatorRegistry.aggregate(await Promise.all(registries.map((one) => one.getMetricsAsJSON()))).metrics();
  const text = await sum(workers.map(({ own }) => own));
  expect(text).toBe(await sum(workers.map(({ theirs }) => theirs)));
  expect(text).toContain('took_seconds_count{stage="node"} 2');
});
