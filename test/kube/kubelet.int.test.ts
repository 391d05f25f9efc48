/**
 * Goal: what our chart and the platform code rely on in the kubelet stand-in is so, with the real API server and controllers.
 * Method: one control plane and one stand-in for the file, a namespace for each test; pods are made by kubectl, what is seen is asked of the API.
 */
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import type { CoreV1Event, V1Pod } from '@kubernetes/client-node';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { freePort } from '../../platform/local/ports.ts';
import { until } from '../support/wait.ts';
import { kubeMissing } from './available.ts';
import { type ControlPlane, startControlPlane } from './control-plane.ts';
import { expand, relocate } from './kubelet/environment.ts';
import { hostsOf } from './kubelet/names.ts';
import { type Kubelet, startKubelet } from './kubelet.ts';

const run = promisify(execFile);
const missing = kubeMissing();
if (missing) console.warn(missing);

/** Each of these takes a second or two; a machine with much else to do is no failure. */
const WITHIN_MS = 45_000;

/** A pod has an address of its own; but what listens at all addresses of this machine listens at that one too. */
const [HTTP, NOBODY, OTHER, POSTGRES] = [await freePort(), await freePort(), await freePort(), await freePort()];

let controlPlane: ControlPlane;
let kubelet: Kubelet;
let folder: string;
const lines: string[] = [];
let namespaces = 0;

async function kubectl(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await controlPlane.kubectl(args);
  if (code !== 0) throw new Error(`kubectl ${args.join(' ')}: ${stderr}`);
  return stdout;
}

async function apply(namespace: string, ...objects: object[]): Promise<void> {
  const list = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
  const { code, stderr } = await controlPlane.kubectl(['apply', '-n', namespace, '-f', '-'], list);
  if (code !== 0) throw new Error(stderr);
}

async function newNamespace(): Promise<string> {
  namespaces += 1;
  const name = `t${namespaces}`;
  await kubectl('create', 'namespace', name);
  await until(async () => await kubectl('get', 'serviceaccount', 'default', '-n', name), {
    deadlineMs: WITHIN_MS,
    what: 'the service account of the namespace',
  });
  return name;
}

async function podsOf(namespace: string): Promise<V1Pod[]> {
  return (JSON.parse(await kubectl('get', 'pods', '-n', namespace, '-o', 'json')) as { items: V1Pod[] }).items;
}

async function podOf(namespace: string, name: string): Promise<V1Pod> {
  return JSON.parse(await kubectl('get', 'pod', name, '-n', namespace, '-o', 'json')) as V1Pod;
}

async function eventsOf(namespace: string): Promise<CoreV1Event[]> {
  return (JSON.parse(await kubectl('get', 'events', '-n', namespace, '-o', 'json')) as { items: CoreV1Event[] }).items;
}

const isReady = (pod: V1Pod | undefined) =>
  pod?.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ?? false;

async function readyPod(namespace: string, name: string): Promise<V1Pod> {
  return await until(
    async () => {
      const pod = await podOf(namespace, name);
      return isReady(pod) && !pod.metadata?.deletionTimestamp ? pod : null;
    },
    { deadlineMs: WITHIN_MS, what: `pod ${name} is ready`, everyMs: 100 },
  );
}

/** The waiting reason of the first container. */
const waitingReason = (pod: V1Pod) => pod.status?.containerStatuses?.[0]?.state?.waiting?.reason;

const container = (script: string, more: object = {}) => ({
  name: 'main',
  image: 'ringmaster:0.1.0',
  command: ['node', '-e', script],
  ...more,
});

const podObject = (name: string, spec: object) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, labels: { app: name } },
  spec: { terminationGracePeriodSeconds: 5, ...spec },
});

/** A server that answers each request with its environment. */
const SERVER = `require('node:http').createServer((_, res) => res.end(JSON.stringify(process.env))).listen(${HTTP}, process.env.HOST)`;
const HOST = { name: 'HOST', value: '0.0.0.0' };
const READINESS = { httpGet: { path: '/', port: HTTP }, periodSeconds: 1 };

describe.skipIf(missing !== null)('the kubelet stand-in', { timeout: 150_000 }, () => {
  beforeAll(async () => {
    folder = mkdtempSync(path.join(tmpdir(), 'ringmaster-kubelet-'));
    controlPlane = await startControlPlane();
    kubelet = await startKubelet({ controlPlane, folder, log: (line) => lines.push(line) });
  });

  afterEach(() => {
    kubelet.fail({});
    expect(lines.filter((line) => line.startsWith('bug'))).toEqual([]);
  });

  afterAll(async () => {
    await kubelet?.stop();
    await controlPlane?.stop();
    if (folder) rmSync(folder, { recursive: true, force: true });
  });

  test('a Deployment becomes ready and is reached by the DNS name of its service', async () => {
    const namespace = await newNamespace();
    const labels = { app: 'web' };
    await apply(
      namespace,
      {
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: 'web' },
        spec: { selector: labels, ports: [{ port: HTTP }] },
      },
      {
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: 'other-port' },
        spec: { selector: labels, ports: [{ port: OTHER, targetPort: HTTP }] },
      },
      {
        apiVersion: 'apps/v1',
        kind: 'Deployment',
        metadata: { name: 'web' },
        spec: {
          replicas: 2,
          selector: { matchLabels: labels },
          template: {
            metadata: { labels },
            spec: { containers: [container(SERVER, { env: [HOST], readinessProbe: READINESS })] },
          },
        },
      },
    );
    await until(async () => (await podsOf(namespace)).filter(isReady).length === 2, {
      deadlineMs: WITHIN_MS,
      what: 'two ready pods',
      everyMs: 100,
    });
    const ask = async (host: string, port = HTTP) => {
      const script = `fetch('http://${host}:${port}/').then(async (r) => console.log((await r.json()).HOSTNAME), (e) => console.log(e.cause.code))`;
      const { stdout } = await run(process.execPath, ['-e', script], { env: { ...kubelet.environment } });
      return stdout.trim();
    };
    const names = (await podsOf(namespace)).map(({ metadata }) => metadata?.name);
    for (const host of [`web.${namespace}.svc`, `web.${namespace}.svc.cluster.local`])
      expect(names).toContain(await until(() => ask(host), { deadlineMs: WITHIN_MS, what: host }));
    expect(names).toContain(await ask(`other-port.${namespace}.svc`, OTHER));
    expect(await ask(`nobody.${namespace}.svc`)).toBe('ENOTFOUND');
    await kubectl('scale', 'deployment', 'web', '--replicas=0', '-n', namespace);
    await until(async () => (await podsOf(namespace)).length === 0, { deadlineMs: WITHIN_MS, what: 'no pods' });
    expect(await until(() => ask(`web.${namespace}.svc`), { deadlineMs: WITHIN_MS, what: 'refused' })).toBe(
      'ECONNREFUSED',
    );
  });

  test('environment, expansion and volumes are as in the manifest', async () => {
    const namespace = await newNamespace();
    const data = { password: Buffer.from('p$1').toString('base64') };
    await apply(
      namespace,
      { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'keys' }, data },
      { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'settings' }, data: { 'a.json': '{"a":1}' } },
      podObject('reader', {
        restartPolicy: 'Never',
        initContainers: [
          {
            ...container(`require('fs').writeFileSync('/scratch/made', 'by init')`),
            name: 'init',
            volumeMounts: [{ name: 'work', mountPath: '/scratch' }],
          },
        ],
        containers: [
          container(
            `const { readFileSync: read } = require('fs');
             console.log(JSON.stringify({ env: process.env, file: read(process.env.FILE, 'utf8'), made: read('/scratch/made', 'utf8'),
               labels: read('/podinfo/labels', 'utf8'), token: read('/var/run/secrets/kubernetes.io/serviceaccount/token', 'utf8').length > 100 }))`,
            {
              env: [
                { name: 'PASSWORD', valueFrom: { secretKeyRef: { name: 'keys', key: 'password' } } },
                { name: 'NONE', valueFrom: { secretKeyRef: { name: 'nobody', key: 'x', optional: true } } },
                { name: 'POD', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
                { name: 'APP', valueFrom: { fieldRef: { fieldPath: "metadata.labels['app']" } } },
                { name: 'IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } },
                { name: 'URL', value: 'postgres://u:$(PASSWORD)@$(POD):5432/etc $$(POD) $(UNKNOWN)' },
                { name: 'FILE', value: '/etc/app/a.json' },
                HOST,
              ],
              envFrom: [{ prefix: 'S_', secretRef: { name: 'keys' } }],
              volumeMounts: [
                { name: 'settings', mountPath: '/etc/app' },
                { name: 'work', mountPath: '/scratch' },
                { name: 'podinfo', mountPath: '/podinfo' },
              ],
            },
          ),
        ],
        volumes: [
          { name: 'settings', configMap: { name: 'settings' } },
          { name: 'work', emptyDir: {} },
          {
            name: 'podinfo',
            downwardAPI: { items: [{ path: 'labels', fieldRef: { fieldPath: 'metadata.labels' } }] },
          },
        ],
      }),
    );
    const pod = await until(
      async () => {
        const found = await podOf(namespace, 'reader');
        return ['Succeeded', 'Failed'].includes(found.status?.phase ?? '') ? found : null;
      },
      { deadlineMs: WITHIN_MS, what: 'the pod has ended', everyMs: 100 },
    );
    const log = readFileSync(kubelet.logFile(namespace, 'reader', 'main'), 'utf8');
    expect(pod.status?.phase, log).toBe('Succeeded');
    const said = JSON.parse(log) as { env: Record<string, string> };
    const ip = pod.status?.podIP ?? '';
    expect(said).toMatchObject({ file: '{"a":1}', made: 'by init', labels: 'app="reader"', token: true });
    expect(said.env).toMatchObject({
      PASSWORD: 'p$1',
      S_password: 'p$1',
      POD: 'reader',
      APP: 'reader',
      IP: ip,
      HOST: ip,
      URL: 'postgres://u:p$1@reader:5432/etc $(POD) $(UNKNOWN)',
    });
    expect(said.env).not.toHaveProperty('NONE');
    expect(said.env).not.toHaveProperty('VITEST');
    expect(ip).toMatch(/^127\.(?!0)/);
  });

  test('a pod with a token can ask the API server, and a config map that changes changes its file', async () => {
    const namespace = await newNamespace();
    await kubectl('create', 'configmap', 'settings', '--from-literal=key=old', '-n', namespace);
    await kubectl(
      'create',
      'rolebinding',
      'see',
      '--clusterrole=view',
      `--serviceaccount=${namespace}:default`,
      '-n',
      namespace,
    );
    await apply(
      namespace,
      podObject('asker', {
        containers: [
          container(
            `const { KubeConfig, CoreV1Api } = require('@kubernetes/client-node'); const { readFileSync } = require('fs');
             const config = new KubeConfig(); config.loadFromDefault(); const api = config.makeApiClient(CoreV1Api);
             require('http').createServer(async (_, res) => {
               const { namespace } = config.getContextObject(config.getCurrentContext());
               const { items } = await api.listNamespacedPod({ namespace });
               res.end(items[0].metadata.name + ' ' + readFileSync('/etc/settings/key'));
             }).listen(${HTTP}, process.env.HOST)`,
            {
              env: [HOST],
              readinessProbe: READINESS,
              volumeMounts: [{ name: 'settings', mountPath: '/etc/settings' }],
            },
          ),
        ],
        volumes: [{ name: 'settings', configMap: { name: 'settings' } }],
      }),
    );
    const pod = await readyPod(namespace, 'asker');
    const ask = async () => await (await fetch(`http://${pod.status?.podIP}:${HTTP}/`)).text();
    expect(await ask()).toBe('asker old');
    await kubectl('patch', 'configmap', 'settings', '-n', namespace, '--type=merge', '-p', '{"data":{"key":"new"}}');
    await until(async () => (await ask()) === 'asker new', { deadlineMs: WITHIN_MS, what: 'the new content' });
  });

  test('a missing secret, an image that does not exist, a crash loop and a failing probe are told, and heal', async () => {
    const namespace = await newNamespace();
    const fromSecret = { name: 'X', valueFrom: { secretKeyRef: { name: 'late', key: 'x' } } };
    kubelet.fail({ image: 'ringmaster:broken', unready: /^unready$/ });
    await apply(
      namespace,
      podObject('config', { containers: [container(SERVER, { env: [HOST, fromSecret] })] }),
      podObject('image', { containers: [container(SERVER, { env: [HOST], image: 'ringmaster:broken' })] }),
      podObject('mount', {
        containers: [container(SERVER, { env: [HOST] })],
        volumes: [{ name: 'keys', secret: { secretName: 'late' } }],
      }),
      podObject('crash', { containers: [container('process.exit(3)')] }),
      podObject('unready', { containers: [container(SERVER, { env: [HOST], readinessProbe: READINESS })] }),
      podObject('probe', {
        containers: [
          container(SERVER, {
            env: [HOST],
            livenessProbe: { httpGet: { path: '/', port: NOBODY }, periodSeconds: 1, failureThreshold: 2 },
          }),
        ],
      }),
    );
    const reasonIs = (name: string, reason: string) =>
      until(async () => waitingReason(await podOf(namespace, name)) === reason, {
        deadlineMs: WITHIN_MS,
        what: `${name}: ${reason}`,
        everyMs: 50,
      });
    await Promise.all([
      reasonIs('config', 'CreateContainerConfigError'),
      reasonIs('image', 'ImagePullBackOff'),
      reasonIs('crash', 'CrashLoopBackOff'),
      reasonIs('mount', 'ContainerCreating'),
    ]);
    const { containerStatuses } = (await podOf(namespace, 'config')).status ?? {};
    expect(containerStatuses?.[0]?.state?.waiting?.message).toBe('secret "late" not found');
    const crashed = (await podOf(namespace, 'crash')).status?.containerStatuses?.[0];
    expect(crashed?.lastState?.terminated?.exitCode).toBe(3);
    await until(
      async () => {
        const events = await eventsOf(namespace);
        const told = (name: string, reason: string, text: RegExp) =>
          events.some(
            (event) => event.involvedObject.name === name && event.reason === reason && text.test(event.message ?? ''),
          );
        return (
          told('image', 'Failed', /no such image/) &&
          told('mount', 'FailedMount', /volume "keys".*secret "late" not found/) &&
          told('crash', 'BackOff', /restarting failed container main/) &&
          told('unready', 'Unhealthy', /Readiness/) &&
          told('probe', 'Unhealthy', /Liveness probe failed: .*ECONNREFUSED/)
        );
      },
      { deadlineMs: WITHIN_MS, what: 'the events', everyMs: 200 },
    );
    await until(async () => ((await podOf(namespace, 'probe')).status?.containerStatuses?.[0]?.restartCount ?? 0) > 0, {
      deadlineMs: WITHIN_MS,
      what: 'the liveness probe restarts its container',
      everyMs: 200,
    });
    expect(isReady(await podOf(namespace, 'unready'))).toBe(false);
    kubelet.fail({});
    await kubectl('create', 'secret', 'generic', 'late', '--from-literal=x=1', '-n', namespace);
    for (const name of ['config', 'image', 'mount', 'unready']) await readyPod(namespace, name);
    kubelet.fail({ crash: /^unready$/ });
    await reasonIs('unready', 'CrashLoopBackOff');
    kubelet.fail({});
    await readyPod(namespace, 'unready');
  });

  test('a StatefulSet of PostgreSQL keeps its data when its pod is deleted; a volume that waits is told', async () => {
    const namespace = await newNamespace();
    const labels = { app: 'db' };
    kubelet.fail({ volumes: true });
    await apply(
      namespace,
      {
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: 'db' },
        spec: { clusterIP: 'None', publishNotReadyAddresses: true, selector: labels, ports: [{ port: POSTGRES }] },
      },
      {
        apiVersion: 'apps/v1',
        kind: 'StatefulSet',
        metadata: { name: 'db' },
        spec: {
          serviceName: 'db',
          selector: { matchLabels: labels },
          template: {
            metadata: { labels },
            spec: {
              containers: [
                {
                  name: 'postgres',
                  image: 'postgres:18',
                  args: ['-c', 'max_connections=33', '-c', `port=${POSTGRES}`],
                  env: [
                    { name: 'POSTGRES_USER', value: 'rudder' },
                    { name: 'POSTGRES_PASSWORD', value: 'secret' },
                    { name: 'POSTGRES_DB', value: 'jobsdb' },
                    { name: 'PGDATA', value: '/var/lib/postgresql/data/pgdata' },
                  ],
                  readinessProbe: {
                    exec: { command: ['sh', '-c', `exec pg_isready -U rudder -d jobsdb --port=${POSTGRES}`] },
                    periodSeconds: 1,
                  },
                  volumeMounts: [{ name: 'data', mountPath: '/var/lib/postgresql/data' }],
                },
              ],
            },
          },
          volumeClaimTemplates: [
            {
              metadata: { name: 'data' },
              spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Gi' } } },
            },
          ],
        },
      },
    );
    await until(
      async () => {
        const events = await eventsOf(namespace);
        return (
          events.some(({ reason }) => reason === 'ProvisioningFailed') &&
          events.some(
            ({ reason, message }) => reason === 'FailedScheduling' && /PersistentVolumeClaims/.test(message ?? ''),
          )
        );
      },
      { deadlineMs: WITHIN_MS, what: 'the volume that does not come is told', everyMs: 200 },
    );
    kubelet.fail({});
    const query = async (pod: V1Pod, text: string) => {
      const client = new pg.Client(`postgres://rudder:secret@${pod.status?.podIP}:${POSTGRES}/jobsdb`);
      await client.connect();
      try {
        return (await client.query(text)).rows as Record<string, unknown>[];
      } finally {
        await client.end();
      }
    };
    const first = await readyPod(namespace, 'db-0');
    await query(first, 'CREATE TABLE kept AS SELECT 42 AS x');
    expect(await query(first, 'SHOW max_connections')).toEqual([{ max_connections: '33' }]);
    await kubectl('delete', 'pod', 'db-0', '-n', namespace, '--wait=true');
    const second = await readyPod(namespace, 'db-0');
    expect(second.metadata?.uid).not.toBe(first.metadata?.uid);
    expect(second.status?.podIP).not.toBe(first.status?.podIP);
    expect(await query(second, 'SELECT x FROM kept')).toEqual([{ x: 42 }]);
    expect(kubelet.kill(namespace, 'db-0')).toBe(true);
    const third = await until(
      async () => {
        const pod = await podOf(namespace, 'db-0');
        return isReady(pod) && pod.status?.containerStatuses?.[0]?.restartCount === 1 ? pod : null;
      },
      { deadlineMs: WITHIN_MS, what: 'started again after the kill', everyMs: 100 },
    );
    expect(third.status?.containerStatuses?.[0]?.lastState?.terminated).toMatchObject({
      exitCode: 137,
      reason: 'OOMKilled',
    });
    expect(await query(third, 'SELECT x FROM kept')).toEqual([{ x: 42 }]);
    const byName = `const pg = require('pg'); const client = new pg.Client('postgres://rudder:secret@db-0.db.${namespace}.svc:${POSTGRES}/jobsdb');
      client.connect().then(() => client.query('SELECT x FROM kept')).then(({ rows }) => { console.log(rows[0].x); return client.end() })`;
    expect((await run(process.execPath, ['-e', byName], { env: { ...kubelet.environment } })).stdout.trim()).toBe('42');
    expect(readdirSync(path.join(folder, 'volumes'))).toHaveLength(1);
    await kubectl('delete', 'statefulset', 'db', '-n', namespace);
    await kubectl('delete', 'pvc', 'data-db-0', '-n', namespace);
    await until(() => readdirSync(path.join(folder, 'volumes')).length === 0, {
      deadlineMs: WITHIN_MS,
      what: 'the folder of the volume goes away',
    });
  });

  test('a pod may use its grace period and no more; a forced deletion ends it at once', async () => {
    const namespace = await newNamespace();
    const slow = (ms: number) =>
      container(
        `${SERVER}; process.on('SIGTERM', () => { console.log('asked'); setTimeout(() => { console.log('done'); process.exit(0) }, ${ms}) })`,
        { env: [HOST], readinessProbe: READINESS },
      );
    await apply(
      namespace,
      podObject('orderly', {
        containers: [
          { ...slow(500), lifecycle: { preStop: { exec: { command: ['node', '-e', `console.log('hook')`] } } } },
        ],
      }),
      podObject('stubborn', { terminationGracePeriodSeconds: 1, containers: [slow(60_000)] }),
      podObject('forced', { containers: [slow(60_000)] }),
    );
    const pods = await Promise.all(['orderly', 'stubborn', 'forced'].map((name) => readyPod(namespace, name)));
    const logOf = (name: string) => readFileSync(kubelet.logFile(namespace, name, 'main'), 'utf8');
    await kubectl('delete', 'pod', 'orderly', 'stubborn', '-n', namespace);
    expect(logOf('orderly')).toBe('hook\nasked\ndone\n');
    expect(logOf('stubborn')).toBe('asked\n');
    await kubectl('delete', 'pod', 'forced', '-n', namespace, '--grace-period=0', '--force');
    for (const pod of pods)
      await until(
        () =>
          fetch(`http://${pod.status?.podIP}:${HTTP}/`).then(
            () => false,
            () => true,
          ),
        {
          deadlineMs: WITHIN_MS,
          what: `${pod.metadata?.name} answers no more`,
        },
      );
    expect(kubelet.addressOf(namespace, 'forced')).toBeNull();
  });

  test('a Job completes after a failure, and a pod that fits nowhere says so', async () => {
    const namespace = await newNamespace();
    kubelet.fail({ unschedulable: /^job-/ });
    const once = `const fs = require('fs'); if (!fs.existsSync('/scratch/seen')) { fs.writeFileSync('/scratch/seen', ''); process.exit(1) }`;
    await apply(namespace, {
      apiVersion: 'batch/v1',
      kind: 'Job',
      metadata: { name: 'job' },
      spec: {
        template: {
          spec: {
            restartPolicy: 'OnFailure',
            containers: [container(once, { volumeMounts: [{ name: 'work', mountPath: '/scratch' }] })],
            volumes: [{ name: 'work', emptyDir: {} }],
          },
        },
      },
    });
    await until(
      async () =>
        (await podsOf(namespace))[0]?.status?.conditions?.some(
          ({ type, reason }) => type === 'PodScheduled' && reason === 'Unschedulable',
        ),
      { deadlineMs: WITHIN_MS, what: 'Unschedulable', everyMs: 100 },
    );
    kubelet.fail({});
    await kubectl('wait', '--for=condition=complete', 'job/job', '-n', namespace, '--timeout=45s');
    const [pod] = await podsOf(namespace);
    expect(pod?.status?.phase).toBe('Succeeded');
    expect(pod?.status?.containerStatuses?.[0]?.restartCount).toBe(1);
  });

  test('an API server that is killed is weather: pods run on, and what was missed is caught up with', async () => {
    const namespace = await newNamespace();
    await apply(
      namespace,
      podObject('before', { containers: [container(SERVER, { env: [HOST], readinessProbe: READINESS })] }),
    );
    const pod = await readyPod(namespace, 'before');
    const restarting = controlPlane.restartApiServer(500);
    expect(kubelet.kill(namespace, 'before')).toBe(true);
    await restarting;
    await apply(
      namespace,
      podObject('after', { containers: [container(SERVER, { env: [HOST], readinessProbe: READINESS })] }),
    );
    await readyPod(namespace, 'after');
    await until(
      async () => {
        const now = await podOf(namespace, 'before');
        return isReady(now) && now.status?.containerStatuses?.[0]?.restartCount === 1;
      },
      { deadlineMs: WITHIN_MS, what: 'the restart is told', everyMs: 100 },
    );
    expect((await podOf(namespace, 'before')).status?.podIP).toBe(pod.status?.podIP);
  });

  test('stop leaves no process, and a later stand-in runs the pods again', async () => {
    const namespace = await newNamespace();
    await apply(
      namespace,
      podObject('stays', { containers: [container(SERVER, { env: [HOST], readinessProbe: READINESS })] }),
      podObject('leaves', { containers: [container(SERVER, { env: [HOST], readinessProbe: READINESS })] }),
    );
    const before = await readyPod(namespace, 'stays');
    await readyPod(namespace, 'leaves');
    await kubelet.stop();
    const marks = readdirSync('/proc').filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/environ`, 'utf8').includes(path.join(folder, 'dns.json'));
      } catch {
        return false; // not a process, or it has just ended
      }
    });
    expect(marks).toEqual([]);
    await kubectl('delete', 'pod', 'leaves', '-n', namespace, '--wait=false');
    kubelet = await startKubelet({ controlPlane, folder, log: (line) => lines.push(line) });
    const after = await until(
      async () => {
        const pod = await podOf(namespace, 'stays');
        return isReady(pod) && pod.status?.podIP !== before.status?.podIP ? pod : null;
      },
      { deadlineMs: WITHIN_MS, what: 'it runs again', everyMs: 100 },
    );
    expect(after.metadata?.uid).toBe(before.metadata?.uid);
    expect(after.status?.containerStatuses?.[0]?.restartCount).toBe(1);
    await until(async () => (await podsOf(namespace)).length === 1, {
      deadlineMs: WITHIN_MS,
      what: 'the deleted pod is gone',
    });
    expect(existsSync(path.join(folder, 'pods', after.metadata?.uid ?? ''))).toBe(true);
  });
});

describe('what the stand-in computes', () => {
  test('variables are expanded once, in order, and unknown ones stay', () => {
    expect(expand('$(A)-$(B)-$$(A)-$A', { A: '$(B)' })).toBe('$(B)-$(B)-$(A)-$A');
  });

  test('paths of mounts are replaced at path boundaries, the longest first', () => {
    const mounts = [
      { mountPath: '/data', folder: '/real/1' },
      { mountPath: '/data/deep', folder: '/real/2' },
    ];
    expect(relocate('/data/deep/x:/data/y --at=/data', mounts)).toBe('/real/2/x:/real/1/y --at=/real/1');
    expect(relocate('postgres://host:5432/data /database file:///data/z', mounts)).toBe(
      'postgres://host:5432/data /database file:///real/1/z',
    );
  });

  test('names of a headless service follow readiness unless it publishes all', () => {
    const service = (publishNotReadyAddresses: boolean) => ({
      metadata: { name: 's', namespace: 'n' },
      spec: { clusterIP: 'None', selector: { a: 'b' }, publishNotReadyAddresses },
    });
    const pod = {
      metadata: { name: 's-0', namespace: 'n', labels: { a: 'b' } },
      spec: { hostname: 's-0', subdomain: 's', containers: [] },
      status: { podIP: '127.9.9.9', conditions: [{ type: 'Ready', status: 'False' }] },
    };
    expect(hostsOf([pod], [service(false)], '127.9.0.2')).toEqual({});
    expect(hostsOf([pod], [service(true)], '127.9.0.2')).toEqual({
      's.n.svc': ['127.9.9.9'],
      's-0.s.n.svc': ['127.9.9.9'],
    });
  });
});
