/**
 * Goal: nodes come and go in the safe order on a real API server with the real StatefulSet controller, whatever people and the weather do meanwhile, and what
 * stands in the way is named.
 * Method: a real control plane; pods' statuses are written by hand; an HTTP server of the test answers as the nodes' control API.
 */
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { CodedError } from '../../kit/errors.ts';
import { createKubernetesPlatform } from '../../platform/kubernetes/index.ts';
import type { Platform, Removal } from '../../platform/platform.ts';
import { kubeMissing } from '../kube/available.ts';
import { type ControlPlane, startControlPlane } from '../kube/control-plane.ts';
import { until } from '../support/wait.ts';
import { type Hand, running, SETS, startHand, unschedulable, waiting } from './kubernetes-hand.ts';

const missing = kubeMissing();
if (missing) console.warn(`skipped: ${missing}`);

const TOKEN = 'control-token';
const left = { cluster: 'demo', epoch: 7, at: '2026-01-31T12:00:05.123Z' };
const leaving = (more: Partial<Removal> = {}): Removal => ({ deleteData: false, left, ...more });
const WITHIN = { deadlineMs: 20_000 };

type Opened = Platform & { close(): Promise<void> };

/** As an API server of 1.34 says it in its first seconds. */
const POLICY_NOT_YET =
  "policy 'shrink' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'ringmaster.dev/v1alpha1, Kind=RingCluster'";

describe.skipIf(missing)('the Kubernetes platform', () => {
  let plane: ControlPlane;
  let hand: Hand;
  let control: http.Server;
  let controlPort: number;
  let opened: Opened[];
  let lines: string[];

  beforeAll(async () => {
    plane = await startControlPlane();
    control = http.createServer((request, response) => {
      const known = request.url === '/control/v1/status' && request.headers.authorization === `Bearer ${TOKEN}`;
      response.writeHead(known ? 200 : 401).end('{}');
    });
    control.listen(0, '0.0.0.0');
    await once(control, 'listening');
    controlPort = (control.address() as { port: number }).port;
  });

  afterAll(async () => {
    control?.closeAllConnections();
    control?.close();
    await plane?.stop();
  });

  beforeEach(async () => {
    opened = [];
    lines = [];
    hand = await startHand(plane);
  });

  afterEach(async () => {
    for (const each of opened) await each.close();
    await hand.stop();
  });

  async function open(env: Record<string, string | undefined> = {}): Promise<Opened> {
    const log = pino({ base: null }, { write: (line: string) => void lines.push(line) });
    const platform = await createKubernetesPlatform(
      {
        KUBECONFIG: plane.kubeconfig,
        RINGMASTER_CLUSTER: 'demo',
        RINGMASTER_KUBE_NAMESPACE: hand.namespace,
        RINGMASTER_KUBE_HOST: '127.83.1.{ordinal}',
        RINGMASTER_KUBE_CONTROL_PORT: String(controlPort),
        RINGMASTER_KUBE_CONTROL_TOKEN: TOKEN,
        RINGMASTER_KUBE_DATABASE_PASSWORD: 'secret',
        RINGMASTER_KUBE_READY_WITHIN_MS: '20000',
        RINGMASTER_KUBE_TROUBLE_MS: '1500',
        ...env,
      },
      log,
    );
    opened.push(platform);
    return platform;
  }

  const refusal = async (promise: Promise<unknown>): Promise<CodedError> => {
    const error = await promise.then(
      () => new Error('it was not refused'),
      (thrown: unknown) => thrown,
    );
    if (!(error instanceof CodedError)) throw error;
    return error;
  };
  const labelsOf = async (claim: string) =>
    (await hand.core.readNamespacedPersistentVolumeClaim({ name: claim, namespace: hand.namespace })).metadata
      ?.labels ?? {};
  const hangs = (pattern: RegExp) => {
    hand.fate = (pod) => (pattern.test(pod) ? 'hang' : 'ready');
  };
  const log = () => lines.join('');

  describe('up', () => {
    test('a node comes up with its database first, by way of the nodes below it', async () => {
      await hand.makeSets();
      hangs(/postgresql-[12]/);
      const platform = await open();
      const coming = platform.ensureNode('node-2');
      await until(async () => (await hand.replicas()).postgres === 3, { ...WITHIN, what: 'databases are raised' });
      hangs(/postgresql-1/);
      await until(() => hand.seen.includes(`${SETS.postgres}-2`), { ...WITHIN, what: 'the highest database is up' });
      expect(await hand.replicas()).toEqual({ backend: 1, postgres: 3 }); // database 1 is still missing
      hand.fate = () => 'ready';
      expect(await coming).toEqual({
        node: 'node-2',
        url: 'http://127.83.1.2:8080',
        controlUrl: `http://127.83.1.2:${controlPort}`,
        controlToken: TOKEN,
        database: { host: '127.83.1.2', port: 5432, user: 'rudder', password: 'secret', database: 'jobsdb' },
      });
      expect(await hand.replicas()).toEqual({ backend: 3, postgres: 3 });
      expect(log()).not.toContain('secret');
      expect(log()).not.toContain(TOKEN);
      expect(await platform.listNodes()).toEqual(
        ['node-0', 'node-1', 'node-2'].map((node) => ({ node, condition: 'running' })),
      );
    });

    test('several at once, from two workers, while the StatefulSets change all the time: conflicts are decided again', async () => {
      await hand.makeSets();
      const patient = { RINGMASTER_KUBE_READY_WITHIN_MS: '50000' }; // the controllers are kept busy, too
      const [one, two] = [await open(patient), await open(patient)];
      let busy = true;
      const changing = (async () => {
        for (let n = 0; busy; n += 1) {
          await hand.patchSet('postgres', { metadata: { annotations: { n: String(n) } } });
          await hand.patchSet('backend', { metadata: { annotations: { n: String(n) } } });
          await sleep(10); // far more than any cluster's controllers do
        }
      })();
      try {
        await Promise.all([one.ensureNode('node-1'), two.ensureNode('node-3'), one.ensureNode('node-2')]);
      } finally {
        busy = false;
        await changing;
      }
      expect(await hand.replicas()).toEqual({ backend: 4, postgres: 4 });
    });

    test('a node that is there already changes nothing, and lower nodes never lower replicas', async () => {
      await hand.makeSets({ replicas: 3 });
      const platform = await open();
      await platform.ensureNode('node-0');
      expect(await hand.replicas()).toEqual({ backend: 3, postgres: 3 });
      expect(log()).not.toContain('→');
    });

    test('names and addresses come from the cluster by default', async () => {
      await hand.makeSets();
      const platform = await open({ RINGMASTER_KUBE_HOST: undefined });
      expect(await platform.describeNode('node-0')).toMatchObject({
        url: `http://rm-backend-0.rm-backend-headless.${hand.namespace}.svc:8080`,
        database: { host: `rm-postgresql-0.rm-postgresql-headless.${hand.namespace}.svc` },
      });
      expect(await platform.describeNode('node-1')).toBeNull();
      const byIp = await open({ RINGMASTER_KUBE_HOST: '{ip}' });
      await platform.listNodes();
      await until(() => byIp.describeNode('node-0'), { ...WITHIN, what: 'the pod has an address' });
      expect(await byIp.describeNode('node-0')).toMatchObject({ url: 'http://127.83.0.9:8080' });
    });

    test('the size of its volume is that of its database’s claim, once that is bound; what is free it does not know', async () => {
      await hand.makeSets();
      const platform = await open();
      await platform.ensureNode('node-0');
      expect(await platform.roomOf('node-0')).toBeNull();
      const volume = `volume-of-${hand.namespace}`;
      await hand.core.createPersistentVolume({
        body: {
          metadata: { name: volume },
          spec: {
            capacity: { storage: '10Gi' },
            accessModes: ['ReadWriteOnce'],
            hostPath: { path: '/nowhere' },
            claimRef: { namespace: hand.namespace, name: `data-${SETS.postgres}-0` },
          },
        },
      });
      try {
        const room = await until(() => platform.roomOf('node-0'), { ...WITHIN, what: 'the claim is bound' });
        expect(room).toEqual({ totalBytes: 10 * 2 ** 30, freeBytes: null });
        expect(await platform.roomOf('node-1')).toBeNull();
      } finally {
        await hand.core.deletePersistentVolume({ name: volume });
      }
    });

    test('aborting ends the waiting only', async () => {
      await hand.makeSets();
      hangs(/-1$/);
      const platform = await open();
      const abort = new AbortController();
      const coming = platform.ensureNode('node-1', abort.signal);
      coming.catch(() => {}); // expected below
      await until(async () => (await hand.replicas()).postgres === 2, { ...WITHIN, what: 'it waits' });
      abort.abort(new Error('enough'));
      await expect(coming).rejects.toThrow('enough');
      expect((await hand.replicas()).postgres).toBe(2);
    });

    test('a pod that is deleted by hand in the middle is waited for again', async () => {
      await hand.makeSets();
      hangs(/backend-1/);
      const platform = await open();
      const coming = platform.ensureNode('node-1');
      await until(async () => (await hand.pods()).includes('rm-backend-1'), { ...WITHIN, what: 'the pod is there' });
      await hand.core.deleteNamespacedPod({ name: 'rm-backend-1', namespace: hand.namespace });
      hand.fate = () => 'ready';
      await coming;
    });

    test('an API server that is killed and restarted in the middle is weather', async () => {
      await hand.makeSets();
      hangs(/postgresql-1/);
      const platform = await open({ RINGMASTER_KUBE_READY_WITHIN_MS: '60000' });
      const coming = platform.ensureNode('node-1');
      await until(async () => (await hand.replicas()).postgres === 2, { ...WITHIN, what: 'it waits' });
      expect(await platform.describeNode('node-0')).not.toBeNull();
      const back = plane.restartApiServer(1500);
      await until(() => log().includes('the API server'), { ...WITHIN, what: 'it is said' });
      await sleep(0);
      await back;
      hand.fate = () => 'ready';
      await coming;
      expect(await hand.replicas()).toEqual({ backend: 2, postgres: 2 });
    });

    test('replicas lowered by hand in the middle are told, with who did it, and not put back', async () => {
      await hand.makeSets();
      hangs(/postgresql-1/);
      const platform = await open();
      const coming = refusal(platform.ensureNode('node-1'));
      await until(async () => (await hand.replicas()).postgres === 2, { ...WITHIN, what: 'it waits' });
      await hand.setReplicas('postgres', 1, 'a-person');
      const error = await coming;
      expect(error.code).toBe('REPLICAS_LOWERED');
      expect(error.message).toContain("'a-person'");
      expect((await hand.replicas()).postgres).toBe(1);
    });

    test('a rolling update is waited for, and told where it does not end', async () => {
      await hand.makeSets();
      const platform = await open();
      await platform.ensureNode('node-0');
      hangs(/./);
      await hand.patchSet('backend', { spec: { template: { metadata: { annotations: { v: '2' } } } } });
      const impatient = await open({ RINGMASTER_KUBE_READY_WITHIN_MS: '1500' });
      const error = await refusal(impatient.ensureNode('node-1'));
      expect(error.code).toBe('STATEFULSET_ROLLING');
      expect(error.message).toContain('of the new revision');
      expect(await hand.replicas()).toEqual({ backend: 1, postgres: 1 });
      const coming = platform.ensureNode('node-1');
      await until(() => log().includes('waits for rm-backend: RollingUpdate'), { ...WITHIN, what: 'it is said' });
      hand.fate = () => 'ready';
      await coming;
    });
  });

  describe('a pod that does not get ready', () => {
    const cases: [string, Record<string, unknown>, string, RegExp][] = [
      [
        'its image cannot be pulled',
        waiting('ImagePullBackOff', 'Back-off pulling image "nowhere:1"'),
        'ImagePullBackOff',
        /nowhere:1/,
      ],
      [
        'its secret is missing',
        waiting('CreateContainerConfigError', 'secret "jobs" not found'),
        'CreateContainerConfigError',
        /"jobs"/,
      ],
      [
        'it is out of memory again and again',
        waiting('CrashLoopBackOff', 'back-off 5m0s restarting', {
          restartCount: 4,
          lastState: { terminated: { exitCode: 137, reason: 'OOMKilled' } },
        }),
        'OOMKilled',
        /exit code 137 \(OOMKilled\), restarted 4 times/,
      ],
    ];
    test.each(cases)(
      '%s: told after a while, and found ready once that is mended',
      async (_name, status, reason, message) => {
        await hand.makeSets();
        hand.fate = (pod) => (pod === 'rm-backend-1' ? status : 'ready');
        const platform = await open();
        const error = await refusal(platform.ensureNode('node-1'));
        expect(error).toMatchObject({ code: 'POD_NOT_READY', details: { pod: 'rm-backend-1', reason } });
        expect(error.message).toMatch(message);
        expect(error.message).toContain('pod rm-backend-1 is not ready');
        hand.fate = () => 'ready';
        await platform.ensureNode('node-1');
      },
    );

    test('nothing fits it: waited for until the deadline, with the scheduler’s words', async () => {
      await hand.makeSets();
      hand.fate = (pod) => (pod === 'rm-backend-1' ? unschedulable('0/3 nodes are available') : 'ready');
      const platform = await open({ RINGMASTER_KUBE_READY_WITHIN_MS: '3500' });
      const error = await refusal(platform.ensureNode('node-1'));
      expect(error.message).toBe('pod rm-backend-1 is not ready: Unschedulable: 0/3 nodes are available');
      expect(await hand.replicas()).toEqual({ backend: 2, postgres: 2 });
    });

    test('its volume cannot be made: the real binder’s event about the claim is the reason', async () => {
      await hand.makeSets();
      hand.fate = (pod) => (pod === 'rm-postgresql-1' ? unschedulable('pod has unbound immediate claims') : 'ready');
      const platform = await open({ RINGMASTER_KUBE_READY_WITHIN_MS: '4000' });
      const error = await refusal(platform.ensureNode('node-1'));
      expect(error.message).toContain('rm-postgresql-1 is not ready: FailedBinding: claim data-rm-postgresql-1: ');
      expect(await hand.replicas()).toEqual({ backend: 1, postgres: 2 });
    });

    test('its probe fails: the probe’s words', async () => {
      await hand.makeSets();
      hand.fate = (pod) => (pod === 'rm-backend-1' ? running() : 'ready');
      const platform = await open({ RINGMASTER_KUBE_READY_WITHIN_MS: '4000' });
      const coming = refusal(platform.ensureNode('node-1'));
      await until(async () => (await hand.pods()).includes('rm-backend-1'), { ...WITHIN, what: 'the pod is there' });
      await hand.event({ kind: 'Pod', name: 'rm-backend-1' }, 'Unhealthy', 'Readiness probe failed: 503');
      expect((await coming).message).toContain('Unhealthy: Readiness probe failed: 503');
    });

    test('admission refuses it: the real controller’s event is the reason', async () => {
      await hand.makeSets();
      const platform = await open();
      await platform.ensureNode('node-0');
      await hand.restrict();
      const error = await refusal(platform.ensureNode('node-1'));
      expect(error.details).toMatchObject({ pod: 'rm-postgresql-1', reason: 'FailedCreate' });
      expect(error.message).toMatch(/violates PodSecurity/);
    });

    test('it is ready, but its control API does not know our token', async () => {
      await hand.makeSets();
      const platform = await open({ RINGMASTER_KUBE_CONTROL_TOKEN: 'another' });
      const error = await refusal(platform.ensureNode('node-0'));
      expect(error.code).toBe('NODE_NOT_SERVING');
      expect(error.message).toContain('answers 401 (RINGMASTER_KUBE_CONTROL_TOKEN)');
    });
  });

  describe('down', () => {
    test('backend, last look, database; its claim says so, and a later node takes it over', async () => {
      await hand.makeSets({ replicas: 2 });
      const platform = await open();
      await platform.ensureNode('node-1');
      hand.letsGo = () => false;
      let looked: unknown;
      const lastLook = async (database: unknown) => {
        looked = { database, pods: await hand.pods(), replicas: await hand.replicas() };
      };
      const going = platform.removeNode('node-1', leaving({ lastLook }));
      await until(async () => (await hand.replicas()).backend === 1, { ...WITHIN, what: 'the backend is lowered' });
      await until(() => log().includes('rm-backend-1: Terminating'), { ...WITHIN, what: 'it waits for the pod' });
      expect((await hand.replicas()).postgres).toBe(2);
      expect(looked).toBeUndefined();
      hand.letsGo = () => true;
      await going;
      expect(looked).toEqual({
        database: { host: '127.83.1.1', port: 5432, user: 'rudder', password: 'secret', database: 'jobsdb' },
        pods: ['rm-backend-0', 'rm-postgresql-0', 'rm-postgresql-1'],
        replicas: { backend: 1, postgres: 2 },
      });
      expect(await hand.pods()).toEqual(['rm-backend-0', 'rm-postgresql-0']);
      const labelled = {
        'ringmaster.dev/cluster': 'demo',
        'ringmaster.dev/left-epoch': '7',
        'ringmaster.dev/left-at': '20260131T120005Z',
      };
      expect(await labelsOf('data-rm-postgresql-1')).toMatchObject(labelled);
      expect(await platform.describeNode('node-1')).toBeNull();
      await platform.removeNode('node-1', leaving({ left: { ...left, at: '2027-01-01T00:00:00Z' } })); // absent is success, and the first time counts
      expect(await labelsOf('data-rm-postgresql-1')).toMatchObject(labelled);
      await platform.ensureNode('node-1');
      const adopted = await labelsOf('data-rm-postgresql-1');
      expect(adopted['ringmaster.dev/cluster']).toBe('demo');
      expect(Object.keys(adopted).filter((key) => key.includes('left'))).toEqual([]);
      expect(log()).toContain('adopts data-rm-postgresql-1');
    });

    test('what the last look finds is what it is refused with, and the database stays', async () => {
      await hand.makeSets({ replicas: 2 });
      const platform = await open();
      await platform.ensureNode('node-1');
      const lastLook = async () => {
        throw new CodedError('NODE_NOT_EMPTY', '3 jobs');
      };
      expect((await refusal(platform.removeNode('node-1', leaving({ lastLook, deleteData: true })))).code).toBe(
        'NODE_NOT_EMPTY',
      );
      expect(await hand.replicas()).toEqual({ backend: 1, postgres: 2 });
      expect(Object.keys(await labelsOf('data-rm-postgresql-1')).filter((key) => key.includes('left'))).toEqual([]);
    });

    test('the last look waits for the database to be ready', async () => {
      await hand.makeSets({ replicas: 2 });
      const platform = await open();
      await platform.ensureNode('node-1');
      hand.fate = (pod) => (pod === 'rm-postgresql-1' ? running() : 'ready');
      await until(async () => (await platform.listNodes())[1]?.condition === 'starting', {
        ...WITHIN,
        what: 'the database is not ready',
      });
      let looked = false;
      const lastLook = async () => {
        looked = true;
      };
      const going = platform.removeNode('node-1', leaving({ lastLook }));
      await until(() => log().includes('waits for rm-postgresql-1'), { ...WITHIN, what: 'it waits' });
      expect(looked).toBe(false);
      hand.fate = () => 'ready';
      await going;
      expect(looked).toBe(true);
    });

    test('with its data: the claim is deleted', async () => {
      await hand.makeSets({ replicas: 2 });
      const platform = await open();
      await platform.ensureNode('node-1');
      await platform.removeNode('node-1', leaving({ deleteData: true, lastLook: async () => {} }));
      await expect(labelsOf('data-rm-postgresql-1')).rejects.toThrow('404');
      await labelsOf('data-rm-postgresql-0');
    });

    test('with its data, but the database went before anybody looked: the claim is kept', async () => {
      await hand.makeSets({ replicas: 2 });
      const platform = await open();
      await platform.ensureNode('node-1');
      await hand.setReplicas('backend', 1);
      await hand.setReplicas('postgres', 1);
      const lastLook = () => Promise.reject(new Error('nothing there to look at'));
      await platform.removeNode('node-1', leaving({ deleteData: true, lastLook }));
      expect(await labelsOf('data-rm-postgresql-1')).toHaveProperty(['ringmaster.dev/left-at']);
      expect(log()).toContain('keeps data-rm-postgresql-1: its database was gone');
    });

    test('only the highest goes', async () => {
      await hand.makeSets({ replicas: 4 });
      const platform = await open();
      const error = await refusal(platform.removeNode('node-1', leaving()));
      expect(error).toMatchObject({ code: 'REPLICAS_CHANGED', details: { above: ['node-3', 'node-2'] } });
      expect(await hand.replicas()).toEqual({ backend: 4, postgres: 4 });
    });

    test('replicas raised by hand in the middle are told and not fought; the next try goes on', async () => {
      await hand.makeSets({ replicas: 2 });
      const platform = await open();
      await platform.ensureNode('node-1');
      hand.letsGo = () => false;
      const going = refusal(platform.removeNode('node-1', leaving()));
      await until(async () => (await hand.replicas()).backend === 1, { ...WITHIN, what: 'the backend is lowered' });
      await hand.setReplicas('backend', 2, 'a-person');
      const error = await going;
      expect(error).toMatchObject({ code: 'REPLICAS_RAISED', details: { replicas: 2, above: [] } });
      expect(error.message).toContain("'a-person'");
      expect(await hand.replicas()).toEqual({ backend: 2, postgres: 2 });
      hand.letsGo = () => true;
      await platform.removeNode('node-1', leaving());
      expect(await hand.replicas()).toEqual({ backend: 1, postgres: 1 });
    });

    test('a pod that does not go is named', async () => {
      await hand.makeSets({ replicas: 2 });
      const platform = await open();
      await platform.ensureNode('node-1');
      hand.letsGo = () => false;
      const impatient = await open({ RINGMASTER_KUBE_READY_WITHIN_MS: '1500' });
      const error = await refusal(impatient.removeNode('node-1', leaving()));
      expect(error.code).toBe('POD_NOT_GONE');
      expect(error.message).toContain('rm-backend-1');
      expect((await hand.replicas()).postgres).toBe(2);
    });
  });

  describe('what it refuses before it changes anything', () => {
    test('names that are no ordinal', async () => {
      const platform = await open();
      for (const node of ['a', 'node-01', 'node--1', 'node-1x', 'node-12345'])
        expect((await refusal(platform.ensureNode(node))).code).toBe('NODE_NAME');
    });

    test('StatefulSets that are not there, or not the only ones', async () => {
      const none = await refusal((await open()).ensureNode('node-0'));
      expect(none.code).toBe('STATEFULSET_UNKNOWN');
      expect(none.message).toContain(`in the namespace ${hand.namespace}; there are none`);
      await hand.makeSets();
      const named = await refusal((await open({ RINGMASTER_KUBE_BACKEND: 'web' })).describeNode('node-0'));
      expect(named.message).toContain("no StatefulSet 'web' (RINGMASTER_KUBE_BACKEND)");
      expect(named.message).toContain('rm-backend, rm-postgresql');
      const both = { RINGMASTER_KUBE_BACKEND_SELECTOR: 'ringmaster.dev/cluster=demo' };
      expect((await refusal((await open(both)).listNodes())).message).toContain(
        'several StatefulSets (rm-backend, rm-postgresql)',
      );
    });

    test('more backends than databases', async () => {
      await hand.makeSets();
      await hand.setReplicas('backend', 2);
      const error = await refusal((await open()).ensureNode('node-1'));
      expect(error.code).toBe('STATEFULSET_UNEQUAL');
      expect(error.message).toContain('kubectl scale statefulset rm-postgresql --replicas=2');
      expect((await hand.replicas()).postgres).toBe(1);
    });

    test.each([
      ['spec.updateStrategy.type', { updateStrategy: { type: 'OnDelete', rollingUpdate: null } }],
      [
        'spec.updateStrategy.rollingUpdate.partition',
        { updateStrategy: { type: 'RollingUpdate', rollingUpdate: { partition: 1 } } },
      ],
      [
        'spec.persistentVolumeClaimRetentionPolicy.whenScaled',
        { persistentVolumeClaimRetentionPolicy: { whenScaled: 'Delete', whenDeleted: 'Retain' } },
      ],
    ])('%s', async (field, postgres) => {
      await hand.makeSets({ postgres, replicas: 2 });
      const platform = await open();
      const wanted = { code: 'STATEFULSET_STRATEGY', details: { field } };
      expect(await refusal(platform.ensureNode('node-2'))).toMatchObject(wanted);
      expect(await refusal(platform.removeNode('node-1', leaving()))).toMatchObject(wanted);
      expect(await hand.replicas()).toEqual({ backend: 2, postgres: 2 });
    });

    test('a StatefulSet that is being deleted', async () => {
      await hand.makeSets();
      await hand.patchSet('backend', { metadata: { finalizers: ['ringmaster.dev/test'] } });
      await hand.apps.deleteNamespacedStatefulSet({ name: SETS.backend, namespace: hand.namespace });
      expect((await refusal((await open()).ensureNode('node-1'))).code).toBe('STATEFULSET_DELETING');
      await hand.patchSet('backend', { metadata: { finalizers: null } });
    });

    test('contexts and kubeconfigs that are not there', async () => {
      const context = await refusal(open({ RINGMASTER_KUBE_CONTEXT: 'elsewhere' }));
      expect(context.code).toBe('KUBE_CONTEXT_UNKNOWN');
      expect(context.message).toMatch(/no context 'elsewhere' .*; it has \S+/);
      const file = await refusal(open({ KUBECONFIG: path.join(plane.folder, 'none') }));
      expect(file).toMatchObject({ code: 'KUBE_CONFIG_INVALID' });
      expect(file.message).toContain('ENOENT');
    });
  });

  describe('rights', () => {
    const rights = [
      { apiGroups: ['apps'], resources: ['statefulsets'], verbs: ['get', 'list', 'watch'] },
      { apiGroups: ['apps'], resources: ['statefulsets/scale'], verbs: ['get', 'update'] },
      { apiGroups: [''], resources: ['pods'], verbs: ['get', 'list', 'watch'] },
      { apiGroups: [''], resources: ['persistentvolumeclaims'], verbs: ['get', 'list', 'watch', 'patch', 'delete'] },
      { apiGroups: [''], resources: ['events'], verbs: ['list'] },
    ];

    async function openWith(rules: typeof rights): Promise<Opened> {
      const { namespace } = hand;
      const objects = [
        { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'worker', namespace } },
        { apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'Role', metadata: { name: 'worker', namespace }, rules },
        {
          apiVersion: 'rbac.authorization.k8s.io/v1',
          kind: 'RoleBinding',
          metadata: { name: 'worker', namespace },
          roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: 'worker' },
          subjects: [{ kind: 'ServiceAccount', name: 'worker', namespace }],
        },
      ];
      const applied = await plane.kubectl(
        ['apply', '-f', '-'],
        JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects }),
      );
      expect(applied.stderr).toBe('');
      const KUBECONFIG = await plane.kubeconfigFor(namespace, 'worker');
      return open({ KUBECONFIG });
    }

    test('those that are listed are enough for all', async () => {
      await hand.makeSets();
      const platform = await openWith(rights);
      await platform.ensureNode('node-1');
      await platform.removeNode('node-1', leaving({ deleteData: true, lastLook: async () => {} }));
      expect(await platform.listNodes()).toHaveLength(1);
    });

    test.each([
      ['update', 'statefulsets/scale'],
      ['watch', 'pods'],
    ])('missing: %s %s is named with the service account', async (verb, resource) => {
      await hand.makeSets();
      const platform = await openWith(
        rights.map((rule) => ({
          ...rule,
          verbs: rule.verbs.filter((each) => !(each === verb && rule.resources.includes(resource))),
        })),
      );
      const error = await refusal(platform.ensureNode('node-1'));
      expect(error.code).toBe('KUBE_FORBIDDEN');
      expect(error.message).toContain(`the service account worker may not ${verb} ${resource}`);
      expect(error.message).toContain(hand.namespace);
    });

    test('without events reasons are poorer, nothing more', async () => {
      await hand.makeSets();
      const platform = await openWith(rights.filter((rule) => !rule.resources.includes('events')));
      await platform.ensureNode('node-1');
      expect(log()).toContain('reasons of pods will be poorer');
    });
  });

  describe('weather', () => {
    /** Forwards to the API server, but for what `answer` says instead. */
    async function proxy(answer: (request: http.IncomingMessage, response: http.ServerResponse) => number | null) {
      const ca = readFileSync(plane.caFile);
      const server = http.createServer((request, response) => {
        const status = answer(request, response);
        if (status !== null) {
          response.writeHead(status, { 'content-type': 'application/json' });
          const message = status === 422 ? POLICY_NOT_YET : 'by the test';
          response.end(JSON.stringify({ kind: 'Status', code: status, message }));
          return;
        }
        const { method, headers } = request;
        const onward = https.request(`${plane.url}${request.url}`, { method, headers, ca }, (answered) => {
          response.writeHead(answered.statusCode ?? 502, answered.headers);
          response.flushHeaders(); // a watch is answered before anything happens
          answered.pipe(response);
        });
        onward.on('error', () => response.destroy());
        response.on('close', () => onward.destroy());
        request.pipe(onward);
      });
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      const url = `http://127.0.0.1:${(server.address() as { port: number }).port}`;
      const file = path.join(plane.folder, `proxy-${hand.namespace}.kubeconfig`);
      const text = readFileSync(plane.kubeconfig, 'utf8');
      const token = /token["']?: *["']?([^\s"',}]+)/.exec(text)?.[1];
      writeFileSync(file, JSON.stringify(kubeconfig(url, { token })), { mode: 0o600 });
      const close = async () => {
        server.closeAllConnections();
        server.close();
        await once(server, 'close');
      };
      const connections = () =>
        new Promise<number>((resolve, reject) => server.getConnections((err, n) => (err ? reject(err) : resolve(n))));
      return { file, url, close, connections, token };
    }

    const kubeconfig = (server: string, user: object) => ({
      apiVersion: 'v1',
      kind: 'Config',
      'current-context': 'test',
      contexts: [{ name: 'test', context: { cluster: 'test', user: 'test' } }],
      clusters: [{ name: 'test', cluster: { server, 'insecure-skip-tls-verify': true } }],
      users: [{ name: 'test', user }],
    });

    test('429 and 503 inside a wait do not end it', async () => {
      await hand.makeSets();
      hangs(/-1$/);
      let refuse = false;
      let refused = 0;
      const { file, close } = await proxy(() => {
        if (!refuse) return null;
        refused += 1;
        return refused % 2 ? 429 : 503;
      });
      try {
        const platform = await open({ KUBECONFIG: file });
        const coming = platform.ensureNode('node-1');
        await until(() => log().includes('waits for rm-postgresql-1'), { ...WITHIN, what: 'it waits' });
        refuse = true;
        hand.fate = () => 'ready';
        await until(() => refused >= 4, { ...WITHIN, what: 'it was refused some times' });
        refuse = false;
        await coming;
      } finally {
        await close();
      }
    });

    test.each([
      [429, 'too many requests'],
      [422, 'a policy whose parameters an API server that has just started does not know yet'],
    ])('outside of a wait %i, %s, is thrown as weather, without a code', async (refusal) => {
      await hand.makeSets();
      const { file, close } = await proxy(() => refusal);
      try {
        const platform = await open({ KUBECONFIG: file });
        await expect(platform.ensureNode('node-1')).rejects.toMatchObject({ name: 'KubeWeather', status: refusal });
      } finally {
        await close();
      }
    });

    test('while the API server is away, nodes are described as they were', async () => {
      await hand.makeSets();
      let away = false;
      const { file, close } = await proxy(() => (away ? 503 : null));
      try {
        const platform = await open({ KUBECONFIG: file });
        const described = await platform.describeNode('node-0');
        away = true;
        await sleep(5200); // longer than it is taken from memory anyway
        expect(await platform.describeNode('node-0')).toEqual(described);
        await expect(platform.describeNode('node-1')).rejects.toMatchObject({ name: 'KubeWeather' });
      } finally {
        await close();
      }
    });

    test('a token that has expired is read again', async () => {
      await hand.makeSets();
      let valid = 'first';
      const { file, url, close, token } = await proxy((request) => {
        if (request.headers.authorization !== `Bearer ${valid}`) return 401;
        request.headers.authorization = `Bearer ${token}`;
        return null;
      });
      try {
        const tokenFile = path.join(plane.folder, `token-${hand.namespace}`);
        writeFileSync(tokenFile, 'first', { mode: 0o600 });
        const user = { 'auth-provider': { name: 'tokenFile', config: { tokenFile } } };
        writeFileSync(file, JSON.stringify(kubeconfig(url, user)), { mode: 0o600 });
        const platform = await open({ KUBECONFIG: file });
        expect(await platform.listNodes()).toHaveLength(1);
        valid = 'second';
        await expect(platform.listNodes()).rejects.toMatchObject({ name: 'KubeWeather', status: 401 });
        writeFileSync(tokenFile, 'second', { mode: 0o600 });
        await until(() => platform.listNodes(), { ...WITHIN, what: 'the new token is used' });
        expect(log()).toContain('the API server refused the credentials');
      } finally {
        await close();
      }
    });

    test('it watches only while it waits, and leaves no connection behind', async () => {
      await hand.makeSets();
      let watches = 0;
      const { file, close, connections } = await proxy((request, response) => {
        if (request.url?.includes('watch=true')) {
          watches += 1;
          response.on('close', () => {
            watches -= 1;
          });
        }
        return null;
      });
      try {
        const platform = await open({ KUBECONFIG: file });
        hangs(/-1$/);
        const abort = new AbortController();
        const waits = platform.ensureNode('node-1', abort.signal);
        waits.catch(() => {}); // aborted below
        await until(() => watches > 0, { ...WITHIN, what: 'it watches' });
        abort.abort();
        await until(() => watches === 0, { ...WITHIN, what: 'no watch is left' });
        await platform.close();
        await until(async () => (await connections()) === 0, { ...WITHIN, what: 'no connection is left' });
      } finally {
        await close();
      }
    });
  });
});
