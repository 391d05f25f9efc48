/**
 * Goal: nobody but the orchestrator takes a node, or its volume, away, and whoever tries is told what to run instead. Method: the chart is installed by Helm into a
 * real API server with the real StatefulSet controller; then everything that people and tools would do is done. Nothing runs in the pods: no kubelet is needed.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { kubeMissing } from '../kube/available.ts';
import { type ControlPlane, type Ran, startControlPlane } from '../kube/control-plane.ts';
import { CHART } from './chart-values.ts';

const missing = kubeMissing();
if (missing) console.log(`test/deploy/guard: skipped: ${missing}`);

const WITHIN_MS = 30_000;
// Each test installs a release of its own, and some wait for a namespace's end.
vi.setConfig({ testTimeout: 180_000 });
const BACKEND = 'rm-ringmaster-backend';
const POSTGRES = 'rm-ringmaster-postgresql';
const CLAIM = `data-${POSTGRES}-0`;
const OVERRIDE = 'ringmaster.dev/unsafe-override';

describe.skipIf(missing !== null)('the guard', () => {
  let controlPlane: ControlPlane;

  beforeAll(async () => {
    controlPlane = await startControlPlane();
  });
  afterAll(() => controlPlane?.stop());

  const kubectl = (...args: string[]): Promise<Ran> => controlPlane.kubectl(args);
  const well = async (ran: Promise<Ran>): Promise<string> => {
    const { code, stdout, stderr } = await ran;
    expect(code, stderr).toBe(0);
    return stdout;
  };
  const refusedWith = async (ran: Promise<Ran>, ...says: (string | RegExp)[]): Promise<void> => {
    const { code, stderr } = await ran;
    expect(code, 'it was let through').not.toBe(0);
    for (const words of says) expect(stderr).toMatch(words);
  };
  const until = async (what: string, holds: () => Promise<boolean>): Promise<void> => {
    for (const deadline = performance.now() + WITHIN_MS; !(await holds()); await sleep(50))
      if (performance.now() > deadline) throw new Error(`not within ${WITHIN_MS} ms: ${what}`);
  };

  /** One namespace for each test: what one has overridden or scaled is nothing to another. */
  async function install(namespace: string, ...args: string[]) {
    const inside = (...more: string[]): Promise<Ran> => kubectl('--namespace', namespace, ...more);
    const as = (account: string, ...more: string[]): Promise<Ran> =>
      inside('--as', `system:serviceaccount:${namespace}:${account}`, ...more);
    const helm = (command: string, ...more: string[]): Promise<Ran> =>
      controlPlane.helm([command, 'rm', '--namespace', namespace, ...more]);
    const upgrade = (...more: string[]): Promise<Ran> => helm('upgrade', CHART, '--set', 'clusterId=demo', ...more);
    await well(helm('install', CHART, '--create-namespace', '--set', 'clusterId=demo', ...args));
    // A policy holds a moment after it was written: until a harmless question is refused.
    await until(
      'the guard holds',
      async () => (await inside('delete', 'ringcluster', 'demo', '--dry-run=server')).code !== 0,
    );
    await until(
      'the guard of StatefulSets holds',
      async () => (await inside('delete', 'statefulset', BACKEND, '--dry-run=server')).code !== 0,
    );
    await until('uninstalling is guarded', async () => {
      const asked = {
        apiVersion: 'v1',
        kind: 'ConfigMap',
        metadata: { name: 'asked', namespace, labels: uninstallLabels },
      };
      return (
        (await controlPlane.kubectl(['create', '--dry-run=server', '--filename', '-'], JSON.stringify(asked))).code !==
        0
      );
    });
    await until('claims are there', async () => (await inside('get', 'pvc', CLAIM)).code === 0);
    const scaleTo = async (replicas: number): Promise<void> => {
      for (const set of [POSTGRES, BACKEND])
        await well(as('rm-ringmaster-worker', 'scale', 'statefulset', set, `--replicas=${replicas}`));
    };
    const replicas = (set: string): Promise<string> =>
      well(inside('get', 'statefulset', set, '--output=jsonpath={.spec.replicas}'));
    const nodes = (): Promise<string> => well(inside('get', 'ringcluster', 'demo', '--output=jsonpath={.spec.nodes}'));
    const override = async (why: string): Promise<void> => {
      await well(inside('annotate', 'ringcluster', 'demo', `${OVERRIDE}=${why}`));
      await until(
        'the override holds',
        async () => (await inside('delete', 'statefulset', BACKEND, '--dry-run=server')).code === 0,
      );
    };
    return { inside, as, helm, upgrade, scaleTo, replicas, nodes, override };
  }
  const uninstallLabels = {
    'app.kubernetes.io/name': 'ringmaster',
    'app.kubernetes.io/instance': 'rm',
    'app.kubernetes.io/component': 'uninstall',
  };

  test('fewer replicas are refused to everyone but the worker, with what to run instead; more are not', async () => {
    const { inside, as, scaleTo, replicas } = await install('shrink');
    await scaleTo(3);
    const instead = [
      /shrink\/rm-ringmaster-\w+ has 3 replicas, 2 are asked for/,
      /kubectl scale ringcluster demo --namespace shrink --replicas=2/,
      /helm upgrade with --set backendReplicaCount=2/,
      /ringmaster scale --to 2/,
    ];
    for (const set of [BACKEND, POSTGRES]) {
      await refusedWith(inside('scale', 'statefulset', set, '--replicas=2'), ...instead);
      await refusedWith(
        inside('patch', 'statefulset', set, '--type=merge', '--patch={"spec":{"replicas":2}}'),
        ...instead,
      );
    }
    await refusedWith(inside('scale', 'statefulset', BACKEND, '--replicas=0'), /0 are asked for/, /--replicas=1,/);
    await refusedWith(
      inside('patch', 'statefulset', BACKEND, '--type=merge', '--patch={"spec":{"replicas":null}}'),
      /1 are asked for/,
    );
    await refusedWith(
      inside(
        'patch',
        'statefulset',
        POSTGRES,
        '--type=merge',
        '--patch={"spec":{"persistentVolumeClaimRetentionPolicy":{"whenScaled":"Delete"}}}',
      ),
      /keeps its volumes/,
    );
    // An account with every right in the namespace is no exception, nor is the operator.
    await refusedWith(as('default', 'scale', 'statefulset', BACKEND, '--replicas=2'), /forbidden/);
    await refusedWith(as('rm-ringmaster-operator', 'scale', 'statefulset', BACKEND, '--replicas=2'), /forbidden/);
    expect(await replicas(BACKEND)).toBe('3');

    await well(inside('scale', 'statefulset', BACKEND, '--replicas=4'));
    await well(as('rm-ringmaster-worker', 'scale', 'statefulset', BACKEND, '--replicas=2'));
    expect(await replicas(BACKEND)).toBe('2');
    await well(inside('rollout', 'restart', 'statefulset', BACKEND));
    await well(inside('annotate', 'statefulset', BACKEND, 'a=b'));
  });

  test('StatefulSets, claims, the RingCluster, its namespace and its definition are not deleted, and stay known', async () => {
    const { inside, as } = await install('keep');
    for (const set of [BACKEND, POSTGRES, 'rm-ringmaster-ringstore']) {
      await refusedWith(
        inside('delete', 'statefulset', set, '--wait=false'),
        /is not deleted by hand/,
        /unsafe-override/,
      );
      await refusedWith(inside('delete', 'statefulset', set, '--cascade=orphan'), /is not deleted by hand/);
      await refusedWith(inside('label', 'statefulset', set, 'app.kubernetes.io/component-'), /keeps the labels/);
    }
    // All at once, in one request.
    await refusedWith(
      kubectl('delete', '--raw', '/apis/apps/v1/namespaces/keep/statefulsets'),
      /is not deleted by hand/,
    );
    for (const claim of [CLAIM, 'data-rm-ringmaster-ringstore-0']) {
      await refusedWith(inside('delete', 'pvc', claim, '--wait=false'), /volume claim keep\/.* is not deleted by hand/);
      await refusedWith(inside('label', 'pvc', claim, 'app.kubernetes.io/instance-'), /keeps the labels/);
    }
    await refusedWith(inside('label', 'pvc', CLAIM, 'ringmaster.dev/cluster-'), /keeps the labels/);
    await refusedWith(
      inside('label', 'pvc', CLAIM, 'ringmaster.dev/left-at=20200101T000000Z'),
      /only the orchestrator says/,
    );
    await well(inside('label', 'pvc', CLAIM, 'anything=else'));
    await refusedWith(
      inside('delete', 'ringcluster', 'demo'),
      /RingCluster keep\/demo .* kubectl scale ringcluster demo/,
    );
    await refusedWith(
      kubectl('delete', '--raw', '/apis/ringmaster.dev/v1alpha1/namespaces/keep/ringclusters'),
      /not deleted by hand/,
    );
    await refusedWith(
      kubectl('delete', 'namespace', 'keep', '--wait=false'),
      /namespace keep is not deleted while cluster keep\/demo/,
    );
    await refusedWith(
      kubectl('delete', 'crd', 'ringclusters.ringmaster.dev', '--wait=false'),
      /the definition of RingClusters/,
    );

    // The operator cleans up only what has left, the worker also what it is told to.
    const dry = ['--dry-run=server'];
    await refusedWith(as('rm-ringmaster-operator', 'delete', 'pvc', CLAIM, ...dry), /is not deleted by hand/);
    await well(as('rm-ringmaster-worker', 'delete', 'pvc', CLAIM, ...dry));
    const left =
      '{"metadata":{"labels":{"ringmaster.dev/left-at":"20260101T000000Z","ringmaster.dev/left-epoch":"4"}}}';
    await well(as('rm-ringmaster-worker', 'patch', 'pvc', CLAIM, '--type=merge', `--patch=${left}`));
    await refusedWith(inside('delete', 'pvc', CLAIM, ...dry), /is not deleted by hand/);
    await well(as('rm-ringmaster-operator', 'delete', 'pvc', CLAIM, '--wait=false'));
  });

  test('others in the namespace are nothing to it, nor are the cluster’s other pods and parts', async () => {
    const { inside } = await install('others');
    const set = {
      apiVersion: 'apps/v1',
      kind: 'StatefulSet',
      metadata: { name: 'web', namespace: 'others' },
      spec: {
        serviceName: 'web',
        replicas: 3,
        selector: { matchLabels: { app: 'web' } },
        template: { metadata: { labels: { app: 'web' } }, spec: { containers: [{ name: 'web', image: 'web' }] } },
      },
    };
    await well(controlPlane.kubectl(['apply', '--filename', '-'], JSON.stringify(set)));
    await well(inside('scale', 'statefulset', 'web', '--replicas=1'));
    await well(inside('delete', 'statefulset', 'web'));
    await well(inside('delete', 'pod', `${BACKEND}-0`, '--wait=false'));
    await well(inside('scale', 'deployment', 'rm-ringmaster-router', '--replicas=1'));
    await well(inside('create', 'configmap', 'mine'));
  });

  test('helm uninstall is refused before anything is gone, and a rollback makes the release usable again', async () => {
    const { inside, helm, upgrade } = await install('uninstall');
    const before = await well(inside('get', 'statefulsets,deployments,services,secrets,ringclusters', '--output=name'));
    await refusedWith(
      helm('uninstall'),
      /release rm keeps cluster uninstall\/demo/,
      /nothing was uninstalled/,
      /helm rollback rm 1/,
    );
    expect(await well(inside('get', 'statefulsets,deployments,services,secrets,ringclusters', '--output=name'))).toBe(
      before,
    );
    await well(helm('rollback', '1'));
    await well(upgrade('--set', 'backendReplicaCount=2'));
  });

  test('helm upgrade never touches replicas: it changes RingCluster.spec.nodes', async () => {
    const { scaleTo, replicas, nodes, upgrade, helm } = await install('upgrade', '--set', 'backendReplicaCount=2');
    expect(await nodes()).toBe('2');
    expect(await replicas(BACKEND)).toBe('1'); // Kubernetes' own beginning
    await scaleTo(3);
    await well(upgrade('--set', 'backendReplicaCount=5'));
    expect([await replicas(BACKEND), await replicas(POSTGRES), await nodes()]).toEqual(['3', '3', '5']);
    await well(upgrade('--set', 'backendReplicaCount=5', '--set', 'logLevel=debug'));
    await well(upgrade('--set', 'global.backendReplicaCount=4'));
    expect([await replicas(BACKEND), await replicas(POSTGRES), await nodes()]).toEqual(['3', '3', '4']);
    await refusedWith(
      upgrade('--set', 'global.backendReplicaCount=4', '--set', 'backendReplicaCount=3'),
      /backendReplicaCount is 3 and global.backendReplicaCount is 4/,
    );
    await well(helm('rollback', '1'));
    expect([await replicas(BACKEND), await replicas(POSTGRES), await nodes()]).toEqual(['3', '3', '2']);
  });

  test('passwords and tokens stay what they are over an upgrade', async () => {
    const { inside, upgrade } = await install('secrets');
    const secret = (): Promise<string> => well(inside('get', 'secret', 'rm-ringmaster', '--output=jsonpath={.data}'));
    const before = await secret();
    await well(upgrade('--set', 'logLevel=debug'));
    expect(await secret()).toBe(before);
    expect(Object.keys(JSON.parse(before)).sort()).toEqual([
      'api-token',
      'control-token',
      'database-password',
      'ringstore-password',
    ]);
  });

  test('a number that kubectl scale has set is Helm’s again with --force-conflicts', async () => {
    const { inside, nodes, upgrade } = await install('conflict', '--set', 'backendReplicaCount=2');
    await well(inside('scale', 'ringcluster', 'demo', '--replicas=3'));
    await refusedWith(upgrade('--set', 'backendReplicaCount=5'), /conflict with "kubectl".*\.spec\.nodes/);
    expect(await nodes()).toBe('3');
    await well(upgrade('--set', 'backendReplicaCount=5', '--force-conflicts'));
    expect(await nodes()).toBe('5');
  });

  test('the override lets it through, warns and is audited; then the release and the namespace can go', async () => {
    const { inside, helm, scaleTo, override } = await install('override');
    await scaleTo(3);
    await override('disk of node 2 is lost');
    const warned = async (ran: Promise<Ran>): Promise<void> => {
      const { code, stderr } = await ran;
      expect(code, stderr).toBe(0);
      expect(stderr).toMatch(/Warning: .*the guard is overridden \("disk of node 2 is lost"\), this was let through: /);
    };
    await warned(inside('scale', 'statefulset', BACKEND, '--replicas=2'));
    await warned(inside('delete', 'pvc', CLAIM, '--wait=false'));
    const audited = readFileSync(controlPlane.auditLog, 'utf8')
      .split('\n')
      .filter((line) => line.includes('guard-overridden'));
    expect(audited.some((line) => line.includes(`${BACKEND}/scale`) && line.includes('"disk of node 2 is lost"'))).toBe(
      true,
    );

    await well(inside('annotate', 'ringcluster', 'demo', `${OVERRIDE}-`));
    await until(
      'the guard holds again',
      async () => (await inside('delete', 'statefulset', BACKEND, '--dry-run=server')).code !== 0,
    );
    await refusedWith(inside('scale', 'statefulset', BACKEND, '--replicas=1'), /2 replicas, 1 are asked for/);

    await override('disk of node 2 is lost');
    await well(helm('uninstall'));
    expect(await well(inside('get', 'statefulsets,deployments,ringclusters', '--output=name'))).toBe('');
    expect(await well(inside('get', 'pvc', `data-${POSTGRES}-1`, '--output=name'))).not.toBe(''); // its data outlives the release
    expect(await well(inside('get', 'secret', 'rm-ringmaster', '--output=name'))).not.toBe(''); // and so does the key to it
    expect(await well(kubectl('get', 'validatingadmissionpolicies', '--output=name'))).not.toContain('.override.');
  });

  test('a namespace that is deleted under the override ends, whatever is deleted first', async () => {
    const { override } = await install('ending');
    await override('retired');
    await well(kubectl('delete', 'namespace', 'ending', '--wait=false'));
    // Pods end with their kubelet, which is not here.
    await well(kubectl('delete', 'pods', '--all', '--namespace', 'ending', '--force', '--grace-period=0'));
    await until('the namespace is gone', async () => (await kubectl('get', 'namespace', 'ending')).code !== 0);
  });

  test('without a RingCluster nothing is scaled, and an upgrade makes it again', async () => {
    const { inside, override, scaleTo, upgrade, nodes, replicas } = await install('orphan');
    await scaleTo(2);
    await override('by mistake');
    await well(inside('delete', 'ringcluster', 'demo'));
    await until(
      'shrinking is refused',
      async () => (await inside('scale', 'statefulset', BACKEND, '--replicas=1', '--dry-run=server')).code !== 0,
    );
    await refusedWith(inside('scale', 'statefulset', BACKEND, '--replicas=1'), /no params found/);
    await well(upgrade('--set', 'backendReplicaCount=2', '--set', 'logLevel=debug'));
    expect([await nodes(), await replicas(BACKEND)]).toEqual(['2', '2']);
    await until('the guard asks it again', async () =>
      /are asked for/.test((await inside('scale', 'statefulset', BACKEND, '--replicas=1')).stderr),
    );
  });

  test('a trusted user passes', async () => {
    const { as, scaleTo, replicas } = await install(
      'trusted',
      '--set',
      'guard.trustedUsers={system:serviceaccount:trusted:repair}',
    );
    await scaleTo(2);
    await well(
      kubectl(
        'create',
        'rolebinding',
        'repair',
        '--clusterrole=admin',
        '--serviceaccount=trusted:repair',
        '--namespace=trusted',
      ),
    );
    await well(as('repair', 'scale', 'statefulset', BACKEND, '--replicas=1'));
    expect(await replicas(BACKEND)).toBe('1');
  });

  test('the RingCluster itself refuses what cannot be', async () => {
    const { inside } = await install('resource', '--set', 'partitionCount=4');
    const set = (spec: object): Promise<Ran> =>
      inside('patch', 'ringcluster', 'demo', '--type=merge', `--patch=${JSON.stringify({ spec })}`);
    await refusedWith(set({ nodes: 0 }), /spec.nodes/);
    await refusedWith(set({ nodes: 5 }), /no more nodes than partitions/);
    await refusedWith(inside('scale', 'ringcluster', 'demo', '--replicas=5'), /no more nodes than partitions/);
    await refusedWith(set({ partitionCount: 8 }), /cannot change after the ring is made/);
    await refusedWith(set({ deleteVolumesAfter: 'a week' }), /deleteVolumesAfter/);
    await well(set({ nodes: 4 }));
  });

  test('Kubernetes finds no mistake in the policies’ expressions', async () => {
    await install('checked');
    type Policies = {
      items: { metadata: { name: string }; status?: { typeChecking?: { expressionWarnings?: object[] } } }[];
    };
    const policies = async () =>
      (JSON.parse(await well(kubectl('get', 'validatingadmissionpolicies', '--output=json'))) as Policies).items;
    await until('all are checked', async () => (await policies()).every(({ status }) => status?.typeChecking));
    for (const { metadata, status } of await policies()) expect(status?.typeChecking, metadata.name).toEqual({});
  });
});
