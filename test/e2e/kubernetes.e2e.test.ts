/**
 * Goal: on Kubernetes people scale as they always did (helm, kubectl), and it is safe: what would lose events is refused by the API server, all else is done in
 * the safe order, and what cannot go on says why.
 * Method: the chart in a real API server with its real controllers, pods run by the kubelet stand-in, seeded traffic all the time, an independent checker at the
 * end. One cluster for all stories, as a start is dear: they follow each other, and each begins with the size that the one before has left.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { listOperations, steerOperation, watchOperation } from '../../dev/demo/operations.ts';
import { kubeMissing } from '../kube/available.ts';
import { until } from '../support/wait.ts';
import { expectFlawless } from './cluster.ts';
import { type KubeCluster, startKubeCluster } from './kube-cluster.ts';

const missing = kubeMissing();
if (missing) process.stderr.write(`skipped, a cluster on Kubernetes: ${missing}\n`);

const STORY_MS = 300_000;
const { signal } = new AbortController();

describe.skipIf(missing !== null)('a cluster on Kubernetes', () => {
  let cluster: KubeCluster;
  const claimLabels = async (ordinal: number): Promise<Record<string, string>> => {
    const name = `data-${cluster.stack.fullName}-postgresql-${ordinal}`;
    const { stdout } = await cluster.stack.kubectl('get', 'pvc', name, '--output', 'jsonpath={.metadata.labels}');
    return JSON.parse(stdout) as Record<string, string>;
  };
  const sizes = async (nodes: number): Promise<void> => {
    expect((await cluster.ring()).nodes).toHaveLength(nodes);
    expect(await cluster.replicas()).toEqual({ backend: nodes, postgresql: nodes });
    expect(await cluster.leftovers()).toEqual([]);
  };

  beforeAll(async () => {
    cluster = await startKubeCluster({ nodes: 2 });
  }, STORY_MS);
  afterAll(() => cluster?.stop(), 60_000);

  test('helm install makes the ring, and kubectl shows it', async () => {
    await sizes(2);
    const { stdout } = await cluster.stack.kubectl('get', 'ringclusters');
    expect(stdout).toMatch(/NAME +NODES +DESIRED +STATE +EPOCH/);
    expect(stdout).toMatch(/demo +2 +2 +steady/);
  });

  test(
    'helm upgrade --set backendReplicaCount=3 adds a node, and only the worker touches the StatefulSets',
    async () => {
      await cluster.stack.upgrade('--set', 'backendReplicaCount=3');
      await cluster.steadyWith(3);
      await sizes(3);
    },
    STORY_MS,
  );

  test(
    'kubectl scale ringcluster --replicas=2 takes it away again; its volume is kept and labelled',
    async () => {
      const { code, stderr } = await cluster.stack.kubectl('scale', 'ringcluster', 'demo', '--replicas=2');
      expect({ code, stderr }).toMatchObject({ code: 0 });
      await cluster.steadyWith(2);
      await sizes(2);
      expect(await claimLabels(2)).toMatchObject({
        'ringmaster.dev/cluster': 'demo',
        'ringmaster.dev/left-epoch': expect.stringMatching(/^\d+$/),
        'ringmaster.dev/left-at': expect.stringMatching(/^\d{8}T\d{6}Z$/),
      });
    },
    STORY_MS,
  );

  test('kubectl scale statefulset downward, and deleting what holds data, is refused with what to run instead', async () => {
    const { fullName } = cluster.stack;
    for (const component of ['backend', 'postgresql']) {
      const name = `${fullName}-${component}`;
      const scaled = await cluster.stack.kubectl('scale', 'statefulset', name, '--replicas=1');
      expect(scaled.code).not.toBe(0);
      expect(scaled.stderr).toMatch(/kubectl scale ringcluster demo .*--replicas=1/);
      expect((await cluster.stack.kubectl('delete', 'statefulset', name, '--wait=false')).code).not.toBe(0);
    }
    const claim = `data-${fullName}-postgresql-0`;
    expect((await cluster.stack.kubectl('delete', 'pvc', claim, '--wait=false')).code).not.toBe(0);
    await sizes(2);
  });

  test(
    'a scale-up whose pod never gets ready is blocked with the reason of the pod; healed and resumed, it finishes, and has adopted the old volume',
    async () => {
      cluster.stack.kubelet.fail({ image: 'ringmaster:dev' });
      await cluster.stack.kubectl('scale', 'ringcluster', 'demo', '--replicas=3');
      const { status } = await until(
        async () => {
          const seen = await cluster.stack.ringCluster();
          return seen.status?.state === 'blocked' ? seen : null;
        },
        { deadlineMs: 120_000, what: 'the operation is blocked', everyMs: 200 },
      );
      expect(status?.blockedOn?.message).toMatch(/ImagePull/);
      expect(status?.blockedOn?.message).toContain(`${cluster.stack.fullName}-backend-2`);
      expect(status?.nextAction).toBeTruthy();
      expect(status?.conditions).toContainEqual(expect.objectContaining({ type: 'Blocked', status: 'True' }));

      cluster.stack.kubelet.fail({});
      const { api, clusterId } = cluster.stack;
      const operationId = status!.operation!.id;
      await steerOperation(api, clusterId, operationId, 'resume', { reason: 'the image is there', signal });
      const progress = await watchOperation(api, clusterId, operationId, { signal, onProgress: () => undefined });
      expect(progress.state).toBe('completed');
      await cluster.steadyWith(3);
      await sizes(3);
      const labels = await claimLabels(2);
      expect(labels['ringmaster.dev/cluster']).toBe('demo');
      expect(labels).not.toHaveProperty('ringmaster.dev/left-at'); // it is a member's again
    },
    STORY_MS,
  );

  test(
    'helm upgrade takes nodes away as well; where kubectl has changed the number meanwhile, it says so and wants to be told',
    async () => {
      await expect(cluster.stack.upgrade('--set', 'backendReplicaCount=2')).rejects.toThrow(
        /conflict with "kubectl".*\.spec\.nodes/,
      );
      await sizes(3); // nothing was touched
      await cluster.stack.upgrade('--set', 'backendReplicaCount=2', '--force-conflicts');
      await cluster.steadyWith(2);
      await sizes(2);
    },
    STORY_MS,
  );

  test(
    'a change of mind in the middle of an operation ends with the last number',
    async () => {
      const { api, clusterId } = cluster.stack;
      const before = (await listOperations(api, clusterId, signal)).length;
      await cluster.stack.upgrade('--set', 'backendReplicaCount=4');
      await until(async () => (await cluster.stack.ringCluster()).status?.state === 'running', {
        deadlineMs: 60_000,
        what: 'the scale-up to 4 runs',
      });
      await cluster.stack.kubectl('scale', 'ringcluster', 'demo', '--replicas=3');
      await cluster.steadyWith(3);
      await sizes(3);
      expect((await listOperations(api, clusterId, signal)).length).toBeGreaterThan(before);
    },
    STORY_MS,
  );

  test('helm test passes', async () => {
    const { release, namespace, controlPlane } = cluster.stack;
    const ran = await controlPlane.helm(['test', release, '--namespace', namespace, '--timeout', '60s']);
    expect(ran).toMatchObject({ code: 0 });
  }, 90_000);

  test(
    'and through all of it nothing was lost, delivered twice or out of order, and no client saw an error',
    async () => {
      expectFlawless(await cluster.judge());
    },
    STORY_MS,
  );
});
