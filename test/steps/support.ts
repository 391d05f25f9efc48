/** One cluster under light traffic whose worker can be stopped anywhere, for many operations. */
import { withCluster } from '../e2e/cluster.ts';
import { StepRun } from './run.ts';
import { openStops } from './stops.ts';

/** Light: what is tested is the order of things, and two cores run all of it. */
const RATE = 60;

export async function withSteps(run: (steps: StepRun) => Promise<void>): Promise<void> {
  const stops = await openStops();
  try {
    await withCluster({ nodes: 2, faultPointsUrl: stops.url, rate: RATE }, (cluster) =>
      run(new StepRun(cluster, stops)),
    );
  } finally {
    await stops.close();
  }
}
