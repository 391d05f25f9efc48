/** Goal: a worker whose platform is one cluster's never touches it for another. Method: the activities as a worker has them, over nothing that answers. */
import { ApplicationFailure } from '@temporalio/common';
import { expect, test } from 'vitest';
import type { ActivityDeps } from '../../activities/deps.ts';
import { createActivities } from '../../activities/index.ts';

test('a worker of one cluster refuses what its task queue brings for another, and does what is its own', async () => {
  const read: string[] = [];
  const ringStore = {
    read: async (clusterId: string) => {
      read.push(clusterId);
      return [];
    },
  };
  const activities = createActivities({ onlyCluster: 'ours', ringStore } as unknown as ActivityDeps);
  const refused = activities.readRing({ clusterId: 'theirs' });
  await expect(refused).rejects.toMatchObject({ type: 'WORKER_OTHER_CLUSTER', nonRetryable: true });
  await expect(refused).rejects.toBeInstanceOf(ApplicationFailure);
  expect(read).toEqual([]);
  await expect(activities.readRing({ clusterId: 'ours' })).rejects.toMatchObject({ type: 'CLUSTER_UNKNOWN' });
  expect(read).toEqual(['ours']);
});
