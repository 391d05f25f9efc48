/** One cluster under light traffic whose worker can be stopped anywhere, for many operations. */
import { withCluster } from '../e2e/cluster.ts';
import { StepRun } from './run.ts';
import { openStops } from './stops.ts';

/** Light: what is tested is the order of things, and two cores run all of it. */
const RATE = 60;

/** Of so few partitions each operation makes two or three moves of one partition: enough for a move to come after the one that was hit. */
const PARTITIONS = 8;

export async function withSteps(
  run: (steps: StepRun) => Promise<void>,
  { partitions = PARTITIONS, ...more }: { readonly partitions?: number; readonly destinationMs?: number } = {},
): Promise<void> {
  const stops = await openStops();
  try {
    await withCluster({ nodes: 2, partitions, faultPointsUrl: stops.url, rate: RATE, ...more }, (cluster) =>
      run(new StepRun(cluster, stops)),
    );
  } finally {
    await stops.close();
  }
}
