/**
 * Goal: what a person does to a RingCluster becomes exactly one operation, through restarts and outages of everything that the operator talks to.
 * Method: a real API server (with the operator's own rights, no more), a real Temporal with a stand-in for the workflow, a ring store in memory whose ring
 * the test changes as the workflow would. Each test has a namespace and a cluster of its own.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { createOperationsClient, type OperationsClient } from '../../client/operations.ts';
import { lazyTemporalClient, parseTemporalConfig } from '../../client/temporal-connection.ts';
import { startTemporal, type Temporal } from '../../dev/embedded/temporal.ts';
import { CodedError } from '../../kit/errors.ts';
import { createLog } from '../../kit/log.ts';
import { type Controller, startController } from '../../operator/controller.ts';
import { OperatorKube } from '../../operator/kube.ts';
import type { RingCluster, RingClusterSpec } from '../../operator/resource.ts';
import { createRingSource, type RingSource } from '../../operator/rings.ts';
import { createMemoryRingStore } from '../../ringstore/memory.ts';
import { decideAndAppend } from '../../ringstore/ringstore.ts';
import { kubeMissing } from '../kube/available.ts';
import { type ControlPlane, startControlPlane } from '../kube/control-plane.ts';
import { createTestDatabase } from '../support/database.ts';
import { until } from '../support/wait.ts';

const PROJECT = path.resolve(import.meta.dirname, '../..');
const TASK_QUEUE = 'operator';
const deadlineMs = 30_000;
const by = { actor: 'test', reason: 'as the workflow would', operation: null };

/** All that the operator may do, as the chart gives it. */
const RIGHTS = [
  { apiGroups: ['ringmaster.dev'], resources: ['ringclusters'], verbs: ['get', 'list', 'watch', 'patch'] },
  { apiGroups: ['ringmaster.dev'], resources: ['ringclusters/status'], verbs: ['patch'] },
  { apiGroups: ['apps'], resources: ['statefulsets'], verbs: ['list'] },
  { apiGroups: [''], resources: ['events'], verbs: ['create'] },
  { apiGroups: [''], resources: ['pods'], verbs: ['list'] },
  { apiGroups: [''], resources: ['persistentvolumeclaims'], verbs: ['list', 'delete'] },
];

describe.skipIf(kubeMissing() !== null)('the operator', () => {
  let folder: string;
  let plane: ControlPlane;
  let temporal: Temporal;
  let connection: NativeConnection;
  let worker: Worker;
  let working: Promise<void>;
  let client: ReturnType<typeof lazyTemporalClient>;
  let operations: OperationsClient;
  const ends: (() => Promise<unknown>)[] = [];
  const log = createLog('operator-test');

  beforeAll(async () => {
    folder = mkdtempSync(path.join(tmpdir(), 'ringmaster-operator-'));
    [plane, temporal] = await Promise.all([
      startControlPlane(),
      startTemporal({ dataFolder: path.join(folder, 'temporal'), headless: true }),
    ]);
    Runtime.install({ logger: new DefaultLogger('ERROR') });
    connection = await NativeConnection.connect({ address: temporal.address });
    const workflowsPath = path.resolve(import.meta.dirname, 'stub-workflow.ts');
    worker = await Worker.create({ connection, taskQueue: TASK_QUEUE, workflowsPath });
    working = worker.run();
    client = lazyTemporalClient(parseTemporalConfig({ TEMPORAL_ADDRESS: temporal.address }));
    operations = createOperationsClient({ temporal: client.client, taskQueue: TASK_QUEUE });
    await kubectl('apply', '-f', path.join(PROJECT, 'deploy/helm/ringmaster/crds/ringclusters.yaml'));
    await kubectl('wait', '--for=condition=Established', 'crd/ringclusters.ringmaster.dev', '--timeout=30s');
    const role = { kind: 'ClusterRole', apiVersion: 'rbac.authorization.k8s.io/v1', metadata: { name: 'operator' } };
    await apply({ ...role, rules: RIGHTS });
  }, 180_000);

  afterEach(async () => {
    for (const end of ends.splice(0).reverse()) await end();
  });

  afterAll(async () => {
    worker?.shutdown();
    await working?.catch(() => {}); // a poll that was lost with the server
    await connection?.close();
    await client?.close();
    await temporal?.stop();
    await plane?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  async function kubectl(...args: string[]): Promise<string> {
    const ran = await plane.kubectl(args);
    if (ran.code !== 0) throw new Error(`kubectl ${args.join(' ')}: ${ran.stderr}`);
    return ran.stdout.trim();
  }

  async function apply(...objects: object[]): Promise<void> {
    const list = { apiVersion: 'v1', kind: 'List', items: objects };
    const ran = await plane.kubectl(['apply', '--server-side', '-f', '-'], JSON.stringify(list));
    if (ran.code !== 0) throw new Error(ran.stderr);
  }

  let clusters = 0;

  /** A namespace with a RingCluster and the operator's account; and a ring, unless `ringNodes` is 0. */
  async function newCluster({ spec, ringNodes }: { spec: RingClusterSpec; ringNodes: number }) {
    clusters += 1;
    const id = `c-${clusters}`;
    const metadata = { namespace: id };
    const rbac = 'rbac.authorization.k8s.io';
    await apply({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: id } });
    await apply(
      { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { ...metadata, name: 'operator' } },
      {
        apiVersion: `${rbac}/v1`,
        kind: 'RoleBinding',
        metadata: { ...metadata, name: 'operator' },
        roleRef: { apiGroup: rbac, kind: 'ClusterRole', name: 'operator' },
        subjects: [{ kind: 'ServiceAccount', name: 'operator', namespace: id }],
      },
      { apiVersion: 'ringmaster.dev/v1alpha1', kind: 'RingCluster', metadata: { ...metadata, name: id }, spec },
    );
    const kubeconfig = await plane.kubeconfigFor(id, 'operator');
    const store = createMemoryRingStore();
    ends.push(() => store.close());
    const facts = (i: number) => ({ node: `node-${i}`, databaseId: `d-${i}`, url: `http://node-${i}` });
    const make = (nodes: number) =>
      decideAndAppend(
        store,
        id,
        {
          type: 'make ring',
          clusterId: id,
          partitionCount: 64,
          nodes: Array.from({ length: nodes }, (_, i) => facts(i)),
        },
        by,
      );
    if (ringNodes > 0) await make(ringNodes);

    const resource = async (): Promise<RingCluster> =>
      JSON.parse(await kubectl('get', 'ringcluster', id, '-n', id, '--show-managed-fields', '-o', 'json'));
    const cluster = {
      id,
      store,
      make,
      resource,
      kubeconfig,
      scale: (nodes: number) => kubectl('scale', 'ringcluster', id, '-n', id, `--replicas=${nodes}`),
      annotate: (text: string) => kubectl('annotate', 'ringcluster', id, '-n', id, '--overwrite', text),
      /** Nodes join as they do in an operation. */
      async grow(to: number): Promise<void> {
        const identity = { operationId: 'o', workflowId: `scale/${id}`, runId: 'o' };
        const { ring } = await decideAndAppend(store, id, { type: 'freeze', by: identity }, by);
        const holder = ring.freeze!.holder;
        for (let i = ring.nodes.length; i < to; i += 1)
          await decideAndAppend(store, id, { type: 'join node', holder, facts: facts(i) }, by);
        await decideAndAppend(store, id, { type: 'unfreeze', holder }, by);
      },
      async becomes(what: string, condition: (resource: RingCluster) => boolean): Promise<RingCluster> {
        let last: RingCluster | null = null;
        const look = async () => {
          last = await resource();
          return condition(last) ? last : null;
        };
        return await until(look, { deadlineMs, what, everyMs: 100 }).catch((error: unknown) => {
          throw new Error(`${what}; it is ${JSON.stringify(last, null, 1)}`, { cause: error });
        });
      },
      synced: (nodes: number) =>
        cluster.becomes(`in sync with ${nodes} nodes`, ({ status, metadata }) => {
          const isSynced = conditionIn(status, 'Synced')?.status === 'True';
          return isSynced && status?.nodes === nodes && status.observedGeneration === metadata.generation;
        }),
      under: (to: number) =>
        cluster.becomes(
          `an operation to ${to} is under way`,
          ({ status }) => status?.operation?.to === to && status.operation.state === 'running',
        ),
      async events(): Promise<string[]> {
        const { items } = JSON.parse(await kubectl('get', 'events', '-n', id, '-o', 'json')) as {
          items: { reason: string; involvedObject: { kind: string } }[];
        };
        return items
          .filter((each) => each.involvedObject.kind === 'RingCluster')
          .map((each) => each.reason)
          .sort();
      },
      async started(): Promise<string[]> {
        const listed = await operations.list(id, 20);
        return listed.map(({ targetNodes, state, actor }) => `${actor?.split('/')[0]} → ${targetNodes}: ${state}`);
      },
    };
    return cluster;
  }
  type Cluster = Awaited<ReturnType<typeof newCluster>>;

  interface Operator {
    readonly controller: Controller;
    readonly rings: RingSource;
    stop(): Promise<void>;
  }

  function operate(
    cluster: Cluster,
    options: { operations?: OperationsClient; cleanUpEveryMs?: number } = {},
  ): Operator {
    const target = { clusterId: cluster.id, namespace: cluster.id, context: undefined, kubeconfig: cluster.kubeconfig };
    const kube = new OperatorKube(target, log);
    const rings = createRingSource({ store: cluster.store, clusterId: cluster.id, log });
    const controller = startController({
      clusterId: cluster.id,
      kube,
      operations: options.operations ?? operations,
      rings,
      log,
      timing: {
        movingMs: 250,
        steadyMs: 1_000,
        backoffFirstMs: 100,
        backoffMaxMs: 1_000,
        cleanUpEveryMs: options.cleanUpEveryMs ?? 600_000,
      },
    });
    let stopped: Promise<void> | null = null;
    const end = async () => {
      await controller.stop();
      await rings.close();
      await kube.close();
    };
    const stop = () => {
      stopped ??= end();
      return stopped;
    };
    ends.push(stop);
    return { controller, rings, stop };
  }

  test('absent nodes are filled in; kubectl scale becomes one operation, told from its start to its end', async () => {
    const cluster = await newCluster({ spec: {}, ringNodes: 2 });
    const { controller } = operate(cluster);
    expect((await cluster.synced(2)).spec.nodes).toBe(2);
    // Nobody owns what was filled in: whoever applies the resource may name a number without a conflict.
    const { metadata, spec } = await cluster.resource();
    const named = {
      apiVersion: 'ringmaster.dev/v1alpha1',
      kind: 'RingCluster',
      metadata: { name: cluster.id, namespace: cluster.id },
      spec,
    };
    await until(
      async () =>
        (await cluster.resource()).metadata.managedFields?.every(
          (each) => each.manager !== 'ringmaster-operator' || each.subresource,
        ),
      {
        deadlineMs,
        what: 'it is let go',
      },
    );
    const applied = await plane.kubectl(
      ['apply', '--server-side', '--dry-run=server', '--field-manager=helm', '-f', '-'],
      JSON.stringify({ ...named, spec: { ...spec, nodes: 7 } }),
    );
    expect(applied).toMatchObject({ code: 0 });
    expect(metadata.generation).toBe(2);
    expect(await cluster.started()).toEqual([]);
    expect(controller.health).toMatchObject({ isReady: true, troubles: {} });
    await cluster.annotate('ringmaster.dev/reason=the sale');
    await cluster.scale(3);
    const { status } = await cluster.under(3);
    expect(status).toMatchObject({ state: 'running', nodes: 2, epoch: 1, partitionCount: 64, observedGeneration: 3 });
    expect(status?.operation).toMatchObject({ generation: 3, startedBy: `ringcluster/${cluster.id}/${cluster.id}` });
    const operationId = status!.operation!.id;
    expect(await operations.progress(cluster.id, operationId)).toMatchObject({ reason: 'the sale', to: 3 });

    await operations.pause(cluster.id, operationId, { reason: 'block' });
    const blocked = await cluster.becomes('blocked', (resource) => resource.status?.state === 'blocked');
    expect(blocked.status?.blockedOn).toMatchObject({ code: 'POD_NOT_READY', message: 'no such image' });
    expect(blocked.status?.nextAction).toBe(`ringmaster resume ${operationId}`);
    expect(conditionIn(blocked.status, 'Ready')).toMatchObject({ status: 'False', reason: 'OperationBlocked' });
    expect(await kubectl('get', 'ringcluster', cluster.id, '-n', cluster.id)).toMatch(/POD_NOT_READY/);

    await cluster.grow(3);
    await operations.resume(cluster.id, operationId, {});
    const done = await cluster.synced(3);
    expect(done.status).not.toHaveProperty('blockedOn');
    expect(done.status).toMatchObject({ state: 'steady', operation: { id: operationId, state: 'completed' } });
    expect(await cluster.started()).toEqual(['ringcluster → 3: completed']);
    const told = ['Blocked', 'Completed', 'NodesFilledIn', 'ScaleStarted'];
    await until(async () => (await cluster.events()).join() === told.join(), { deadlineMs, what: 'each event once' });
    // What an autoscaler reads.
    const at = `/apis/ringmaster.dev/v1alpha1/namespaces/${cluster.id}/ringclusters/${cluster.id}/scale`;
    expect(JSON.parse(await kubectl('get', '--raw', at))).toMatchObject({
      spec: { replicas: 3 },
      status: { replicas: 3, selector: `ringmaster.dev/cluster=${cluster.id},app.kubernetes.io/component=backend` },
    });
  });

  test('a change of mind, 3 → 5 → 4: the first is cancelled, numbers in between are skipped, the newest is reached', async () => {
    const cluster = await newCluster({ spec: { nodes: 3 }, ringNodes: 3 });
    operate(cluster);
    await cluster.synced(3);
    await cluster.scale(5);
    await cluster.under(5);
    await cluster.scale(4);
    const { status } = await cluster.under(4);
    expect(await cluster.started()).toEqual(['ringcluster → 4: running', 'ringcluster → 5: cancelled']);
    expect(status?.observedGeneration).toBe(3);
    await cluster.grow(4);
    await operations.resume(cluster.id, status!.operation!.id, {});
    await cluster.synced(4);
    expect(await cluster.events()).toEqual(['Cancelled', 'ChangeOfMind', 'Completed', 'ScaleStarted', 'ScaleStarted']);
  });

  test('where there is no ring the operation makes it, and one that a person cancels is not started again until asked', async () => {
    const cluster = await newCluster({ spec: { nodes: 2, partitionCount: 8 }, ringNodes: 0 });
    operate(cluster);
    const { status } = await cluster.under(2);
    expect(status).toMatchObject({ state: 'creating', nodes: 0 });
    await operations.cancel(cluster.id, status!.operation!.id, { actor: 'anna' });
    const left = await cluster.becomes(
      'cancelled',
      (resource) => conditionIn(resource.status, 'Synced')?.reason === 'OperationCancelled',
    );
    expect(left.status?.nextAction).toMatch(/kubectl annotate ringcluster/);
    await cluster.annotate('ringmaster.dev/retry=1');
    const again = await cluster.under(2);
    expect(again.status?.operation?.id).not.toBe(status!.operation!.id);
    await cluster.make(2);
    await operations.resume(cluster.id, again.status!.operation!.id, {});
    expect((await cluster.synced(2)).status?.observedRetry).toBe('1');
    expect(await cluster.started()).toHaveLength(2);
  });

  test('an answer that is lost, and a restart before the status is written, start nothing twice; nor do two operators', async () => {
    const cluster = await newCluster({ spec: { nodes: 2 }, ringNodes: 1 });
    const { promise: isStarted, resolve } = Promise.withResolvers<void>();
    const losing: OperationsClient = Object.assign(Object.create(operations), {
      reachable: () => operations.reachable(),
      running: (id: string) => operations.running(id),
      list: (id: string, limit: number) => operations.list(id, limit),
      startedBefore: (...of: Parameters<OperationsClient['startedBefore']>) => operations.startedBefore(...of),
      async start(...of: Parameters<OperationsClient['start']>) {
        await operations.start(...of);
        resolve();
        throw new CodedError('TEMPORAL_UNREACHABLE', 'the answer was lost');
      },
    });
    const first = operate(cluster, { operations: losing });
    await isStarted;
    const stopped = first.stop();
    const others = [operate(cluster), operate(cluster)];
    await stopped;
    const { status } = await cluster.under(2);
    expect(status).toMatchObject({ observedGeneration: 1, operation: { generation: 1 } });
    // The status is lost while nobody looks: Temporal still knows what was done for this generation.
    await Promise.all(others.map((other) => other.stop()));
    await operations.cancel(cluster.id, status!.operation!.id, { actor: 'anna' });
    await kubectl(
      ...['patch', 'ringcluster', cluster.id, '-n', cluster.id],
      ...['--subresource=status', '--type=merge', '--patch={"status":null}'],
    );
    expect((await cluster.resource()).status).toBeUndefined();
    operate(cluster);
    operate(cluster);
    await cluster.becomes(
      'cancelled',
      (resource) => conditionIn(resource.status, 'Synced')?.reason === 'OperationCancelled',
    );
    expect(await cluster.started()).toEqual(['ringcluster → 2: cancelled']);
    await cluster.scale(3);
    await cluster.under(3);
    expect(await cluster.started()).toHaveLength(2);
  });

  test("somebody else's operation is waited for, and a ring scaled by hand is told, not fought", async () => {
    const cluster = await newCluster({ spec: { nodes: 2 }, ringNodes: 2 });
    operate(cluster);
    await cluster.synced(2);
    const other = await operations.start({ clusterId: cluster.id, targetNodes: 6, actor: 'anna' });
    await cluster.becomes('seen', ({ status }) => conditionIn(status, 'Progressing')?.reason === 'OtherOperation');
    await cluster.grow(6);
    await operations.resume(cluster.id, other.operationId, {});
    await cluster.becomes('told', ({ status }) => conditionIn(status, 'Synced')?.reason === 'RingDiffers');
    const second = await operations.start({ clusterId: cluster.id, targetNodes: 7, actor: 'anna' });
    await cluster.scale(8);
    const waiting = await cluster.becomes('waiting', ({ status, metadata }) => {
      const progressing = conditionIn(status, 'Progressing');
      return progressing?.reason === 'OtherOperation' && progressing.observedGeneration === metadata.generation;
    });
    expect(waiting.status?.observedGeneration).toBe(1);
    expect(await cluster.started()).toEqual(['anna → 7: running', 'anna → 6: completed']);
    await operations.resume(cluster.id, second.operationId, {});
    await cluster.under(8);
  });

  test('the API server dies and comes back: what was changed next is heard of', async () => {
    const cluster = await newCluster({ spec: { nodes: 1 }, ringNodes: 1 });
    const { controller } = operate(cluster);
    await cluster.synced(1);
    const back = plane.restartApiServer(3_000);
    await until(() => controller.health.troubles.kubernetes, { deadlineMs, what: 'the trouble is known' });
    await back;
    await cluster.scale(2);
    await cluster.under(2);
    await until(() => controller.health.isReady, { deadlineMs, what: 'ready again' });
    expect(await cluster.started()).toHaveLength(1);
  });

  test('the ring store away and back: nothing is started meanwhile, the last number of nodes stays', async () => {
    const cluster = await newCluster({ spec: { nodes: 2 }, ringNodes: 2 });
    operate(cluster);
    await cluster.synced(2);
    cluster.store.fail(new Error('no connection'));
    await cluster.scale(3);
    const blind = await cluster.becomes('unknown', ({ status, metadata }) => {
      const progressing = conditionIn(status, 'Progressing');
      return status?.state === 'unknown' && progressing?.observedGeneration === metadata.generation;
    });
    expect(blind.status).toMatchObject({ nodes: 2, observedGeneration: 1 });
    expect(conditionIn(blind.status, 'Progressing')?.reason).toBe('RingStoreUnreachable');
    expect(await cluster.started()).toEqual([]);
    cluster.store.fail(null);
    await cluster.under(3);
  });

  test('missing rights are named, in the health and not only in the log', async () => {
    const cluster = await newCluster({ spec: { nodes: 1 }, ringNodes: 1 });
    await kubectl('delete', 'rolebinding', 'operator', '-n', cluster.id);
    const { controller } = operate(cluster);
    const trouble = await until(() => controller.health.troubles.kubernetes, {
      deadlineMs,
      what: 'the trouble is known',
    });
    expect(trouble.code).toBe('KUBE_FORBIDDEN');
    expect(trouble.message).toMatch(new RegExp(`ringclusters.*${cluster.id}`));
    expect(controller.health.isReady).toBe(false);
  });

  test('old volumes of nodes that left are deleted; not young ones, those in use, or those of members', async () => {
    const cluster = await newCluster({ spec: { nodes: 1, deleteVolumesAfter: '168h' }, ringNodes: 1 });
    const accounts = async () => await kubectl('get', 'serviceaccounts', '-n', cluster.id, '-o', 'name');
    await until(async () => (await accounts()).includes('/default'), { deadlineMs, what: 'pods may be made there' });
    const claim = (ordinal: number, leftAt: string | null) => ({
      apiVersion: 'v1',
      kind: 'PersistentVolumeClaim',
      metadata: {
        namespace: cluster.id,
        name: `data-f-postgresql-${ordinal}`,
        labels: { 'ringmaster.dev/cluster': cluster.id, ...(leftAt ? { 'ringmaster.dev/left-at': leftAt } : {}) },
      },
      spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Mi' } } },
    });
    const now = `${new Date().toISOString().replace(/[-:]/g, '').slice(0, 15)}Z`;
    const long = '20200101T000000Z';
    await apply(claim(0, long), claim(1, long), claim(2, now), claim(3, long), claim(4, null), {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { namespace: cluster.id, name: 'user' },
      spec: {
        containers: [{ name: 'c', image: 'none' }],
        volumes: [{ name: 'v', persistentVolumeClaim: { claimName: 'data-f-postgresql-3' } }],
      },
    });
    operate(cluster, { cleanUpEveryMs: 500 });
    const claims = async () => await kubectl('get', 'pvc', '-n', cluster.id, '-o', 'name');
    await until(async () => !(await claims()).includes('postgresql-1'), { deadlineMs, what: 'the old one is gone' });
    // One that goes in a later round says that the others had their turn.
    await apply(claim(5, long));
    await until(async () => !(await claims()).includes('postgresql-5'), { deadlineMs, what: 'another is gone' });
    expect((await claims()).match(/\d+$/gm)).toEqual(['0', '2', '3', '4']);
    expect(await cluster.events()).toEqual(['VolumeDeleted', 'VolumeDeleted']);
  });

  test('replicas that somebody sets are told once, and a guard taken away is told', async () => {
    const cluster = await newCluster({ spec: { nodes: 1 }, ringNodes: 1 });
    const set = (component: string) => {
      const labels = { 'ringmaster.dev/cluster': cluster.id, 'app.kubernetes.io/component': component };
      return {
        apiVersion: 'apps/v1',
        kind: 'StatefulSet',
        metadata: { namespace: cluster.id, name: component, labels },
        spec: {
          selector: { matchLabels: labels },
          serviceName: component,
          template: { metadata: { labels }, spec: { containers: [{ name: 'c', image: 'none' }] } },
        },
      };
    };
    await apply(set('backend'), set('postgresql'));
    operate(cluster);
    const matches = (status: string) =>
      cluster.becomes(
        `ReplicasMatch=${status}`,
        (resource) => conditionIn(resource.status, 'ReplicasMatch')?.status === status,
      );
    await matches('True');
    await kubectl('scale', 'statefulset', 'backend', '-n', cluster.id, '--replicas=3');
    const told = await matches('False');
    expect(conditionIn(told.status, 'ReplicasMatch')?.message).toMatch(/backend to 3 replicas: 2 pods/);
    await cluster.annotate('ringmaster.dev/unsafe-override=disk on fire');
    const overridden = await cluster.becomes(
      'overridden',
      ({ status }) => conditionIn(status, 'GuardOverridden')?.status === 'True',
    );
    expect(conditionIn(overridden.status, 'GuardOverridden')?.message).toMatch(/disk on fire/);
    await until(async () => (await cluster.events()).join() === 'GuardOverridden,ReplicasDiffer', {
      deadlineMs,
      what: 'events',
    });
    expect(await cluster.started()).toEqual([]);
    expect(await kubectl('get', 'statefulset', 'backend', '-n', cluster.id, '-o', 'jsonpath={.spec.replicas}')).toBe(
      '3',
    );
  });

  test('the process: starts without Temporal, is ready, tells what is away, and ends on SIGTERM', async () => {
    const cluster = await newCluster({ spec: { nodes: 1 }, ringNodes: 0 });
    const database = await createTestDatabase();
    ends.push(() => database.drop());
    const child = spawn(
      process.execPath,
      ['--disable-warning=ExperimentalWarning', path.join(PROJECT, 'operator/main.ts')],
      {
        env: {
          ...process.env,
          RINGMASTER_CLUSTER: cluster.id,
          RINGMASTER_RINGSTORE_URL: database.url,
          RINGMASTER_KUBE_NAMESPACE: cluster.id,
          RINGMASTER_KUBE_CONTEXT: '',
          RINGMASTER_OPERATOR_PORT: '0',
          KUBECONFIG: cluster.kubeconfig,
          TEMPORAL_ADDRESS: '127.0.0.1:1', // nothing is there
          RINGMASTER_LOG_LEVEL: 'info', // the line that it prints once it listens
          RINGMASTER_PARENT_FD: '3',
        },
        stdio: ['ignore', 'pipe', 'inherit', 'pipe'],
      },
    );
    ends.push(async () => child.kill('SIGKILL'));
    const exited = once(child, 'exit');
    const lines: Record<string, unknown>[] = [];
    createInterface({ input: child.stdout! }).on('line', (line) => lines.push(JSON.parse(line)));
    const { url } = await until(() => lines.find((line) => line['msg'] === 'operator listens'), {
      deadlineMs,
      what: 'it listens',
    });
    const get = async (at: string) => {
      const response = await fetch(`${url}${at}`);
      return {
        status: response.status,
        body: (await response.json()) as { troubles: Record<string, { code: string }> },
      };
    };
    await until(async () => (await get('/ready')).status === 200, { deadlineMs, what: 'ready' });
    await cluster.becomes('unknown', ({ status }) => status?.state === 'unknown');
    const { status, body } = await get('/health');
    expect(status).toBe(200);
    expect(body.troubles['temporal']?.code).toBe('TEMPORAL_UNREACHABLE');
    expect(body.troubles['kubernetes']).toBeUndefined();
    child.kill('SIGTERM');
    expect(await exited).toEqual([0, null]);
  });

  // Last: it ends what the others need.
  test('Temporal away and back: the status says so, nothing is lost, the wish is carried out', async () => {
    const cluster = await newCluster({ spec: { nodes: 1 }, ringNodes: 1 });
    operate(cluster);
    await cluster.synced(1);
    await temporal.stop();
    await cluster.scale(2);
    const blind = await cluster.becomes('unknown', ({ status }) => status?.state === 'unknown');
    expect(blind.status).toMatchObject({ nodes: 1, observedGeneration: 1 });
    expect(conditionIn(blind.status, 'Progressing')).toMatchObject({
      status: 'Unknown',
      reason: 'TemporalUnreachable',
    });
    expect(conditionIn(blind.status, 'Ready')?.status).toBe('True');
    await temporal.restart();
    await cluster.under(2);
    expect(await cluster.started()).toEqual(['ringcluster → 2: running']);
  });
});

const conditionIn = (status: RingCluster['status'], type: string) =>
  status?.conditions?.find((condition) => condition.type === type);
