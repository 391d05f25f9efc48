/** One cluster under light traffic whose worker can be stopped anywhere, for many operations. */
import { type TestCluster, withCluster } from '../e2e/cluster.ts';
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

/** Asks the cluster's API; `what` is the path below the cluster. Throws what it refuses with. */
export async function ask<T>({ stack }: TestCluster, method: 'GET' | 'POST', what: string, body?: object): Promise<T> {
  const answer = await fetch(`${stack.api.url}/v1/clusters/${stack.clusterId}/${what}`, {
    method,
    headers: {
      authorization: `Bearer ${stack.api.token}`,
      ...(body ? { 'content-type': 'application/json' } : {}),
    },
    body: body ? JSON.stringify(body) : null,
  });
  const said = await answer.text();
  if (!answer.ok) throw new Error(`${method} ${what} answered ${answer.status}: ${said}`);
  return JSON.parse(said) as T;
}
