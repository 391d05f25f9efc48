/** Goal: configuration, names and above all the reasons of pods are told right, whatever the API server says about them. Method: tables. */
import type { CoreV1Event, V1Pod, V1PodStatus } from '@kubernetes/client-node';
import { describe, expect, test } from 'vitest';
import { CodedError } from '../../kit/errors.ts';
import { kubernetesConfig } from '../../platform/kubernetes/config.ts';
import { asKubeError, KubeWeather } from '../../platform/kubernetes/kube.ts';
import {
  bytesOf,
  claimsOf,
  labelTime,
  ordinalOf,
  ordinalOfPod,
  selectorText,
} from '../../platform/kubernetes/names.ts';
import { namesAbove } from '../../platform/kubernetes/sets.ts';
import { whyNotReady } from '../../platform/kubernetes/why.ts';

const NOW = Date.parse('2026-01-31T12:00:00Z');
const at = (secondsAgo: number) => new Date(NOW - secondsAgo * 1000);

const pod = (status: object, more: object = {}): V1Pod => ({
  metadata: { name: 'web-1', uid: 'u1' },
  spec: { nodeName: 'm', containers: [] },
  status: { phase: 'Pending', ...status } as V1PodStatus,
  ...more,
});
const container = (state: object, more: object = {}) => ({
  containerStatuses: [{ name: 'main', image: '', imageID: '', ready: false, restartCount: 0, state, ...more }],
});
const event = (reason: string, message: string, secondsAgo = 1, uid = 'u1', name = 'web-1'): CoreV1Event => ({
  metadata: {},
  involvedObject: { uid, name },
  reason,
  message,
  lastTimestamp: at(secondsAgo),
});
const ended = (exitCode: number, more: object = {}) => ({ terminated: { exitCode, ...more } });
const unplaced = { metadata: { name: 'web-1', uid: 'u1' }, spec: { containers: [] } };
const pending = { metadata: { name: 'data-web-1' }, status: { phase: 'Pending' } };

describe('why a pod is not ready', () => {
  const image = container({ waiting: { reason: 'ErrImagePull', message: 'no such image' } });
  const cases: [string, Partial<Parameters<typeof whyNotReady>[0]>, [string, string, boolean, string | RegExp]][] = [
    ['nobody has made it yet', { pod: null }, ['not-created', 'NotCreated', true, /not made it yet/]],
    [
      'its creation is refused',
      {
        pod: null,
        setEvents: [
          event(
            'FailedCreate',
            'create Pod web-1 in StatefulSet web failed error: pods "web-1" is forbidden: exceeded quota',
          ),
        ],
      },
      ['not-created', 'FailedCreate', false, 'pods "web-1" is forbidden: exceeded quota'],
    ],
    [
      'another pod’s creation was refused, not its own',
      { pod: null, setEvents: [event('FailedCreate', 'create Pod web-11 in StatefulSet web failed error: quota')] },
      ['not-created', 'NotCreated', true, /not made it yet/],
    ],
    [
      'its creation was refused once, and went well since',
      {
        pod: null,
        setEvents: [
          event('FailedCreate', 'create Pod web-1 in StatefulSet web failed error: quota', 60),
          event('SuccessfulCreate', 'create Pod web-1 in StatefulSet web successful', 5),
        ],
      },
      ['not-created', 'NotCreated', true, /not made it yet/],
    ],
    [
      'an older one of its name is still going',
      {
        pod: pod(
          { phase: 'Running', conditions: [{ type: 'Ready', status: 'True' }] },
          { metadata: { deletionTimestamp: at(3) } },
        ),
      },
      ['leaving', 'Terminating', true, /older pod/],
    ],
    [
      'evicted',
      { pod: pod({ phase: 'Failed', reason: 'Evicted', message: 'The node was low on resource: memory.' }) },
      ['ended', 'Evicted', true, /low on resource/],
    ],
    ['no scheduler has seen it', { pod: pod({}, unplaced) }, ['starting', 'Pending', true, /no scheduler/]],
    [
      'nothing fits',
      {
        pod: pod(
          { conditions: [{ type: 'PodScheduled', status: 'False', reason: 'Unschedulable', message: '0/3 nodes' }] },
          unplaced,
        ),
      },
      ['unschedulable', 'Unschedulable', true, '0/3 nodes'],
    ],
    [
      'its claim gets no volume',
      {
        pod: pod(
          { conditions: [{ type: 'PodScheduled', status: 'False', reason: 'Unschedulable', message: 'unbound' }] },
          unplaced,
        ),
        claims: [pending],
        claimEvents: [event('ProvisioningFailed', 'quota of disks', 1, 'c', 'data-web-1')],
      },
      ['volume', 'ProvisioningFailed', true, 'claim data-web-1: quota of disks'],
    ],
    ['no image', { pod: pod(image) }, ['image', 'ErrImagePull', false, 'container main: no such image']],
    [
      'no image of an init container',
      {
        pod: pod({
          initContainerStatuses: container({ waiting: { reason: 'InvalidImageName' } }).containerStatuses,
          ...container({ waiting: { reason: 'PodInitializing' } }),
        }),
      },
      ['image', 'InvalidImageName', false, 'container main: no more is known'],
    ],
    [
      'bad configuration',
      { pod: pod(container({ waiting: { reason: 'CreateContainerConfigError', message: 'secret "x" not found' } })) },
      ['config', 'CreateContainerConfigError', false, /secret "x"/],
    ],
    [
      'it crashes again and again',
      {
        pod: pod(
          container(
            { waiting: { reason: 'CrashLoopBackOff' } },
            { restartCount: 3, lastState: ended(1, { reason: 'Error' }) },
          ),
        ),
      },
      ['crash-loop', 'CrashLoopBackOff', false, 'container main ended with exit code 1, restarted 3 times'],
    ],
    [
      'it is killed for its memory',
      { pod: pod(container(ended(137, { reason: 'OOMKilled' }), { restartCount: 1 })) },
      ['crash-loop', 'OOMKilled', false, 'container main ended with exit code 137 (OOMKilled), restarted 1 time'],
    ],
    [
      'its first crash',
      { pod: pod(container(ended(1, { reason: 'Error', message: 'no database' }))) },
      ['starting', 'Error', true, 'container main: exit code 1 (no database); it is started again'],
    ],
    [
      'it runs between two crashes',
      {
        pod: pod(container({ running: { startedAt: at(5) } }, { restartCount: 2, lastState: ended(0, { signal: 9 }) })),
      },
      ['crash-loop', 'CrashLoopBackOff', false, 'container main ended with signal 9, restarted 2 times'],
    ],
    [
      'it has crashed before, and is only slow now',
      { pod: pod(container({ running: { startedAt: at(31) } }, { restartCount: 2, lastState: ended(1) })) },
      ['probe', 'NotReady', true, /probe has not passed/],
    ],
    [
      'its volume is not mounted',
      {
        pod: pod(container({ waiting: { reason: 'ContainerCreating' } })),
        podEvents: [event('FailedAttachVolume', 'Multi-Attach error'), event('Scheduled', 'assigned', 2)],
      },
      ['volume', 'FailedAttachVolume', true, 'Multi-Attach error'],
    ],
    [
      'a secret that it mounts is missing',
      {
        pod: pod(container({ waiting: { reason: 'ContainerCreating' } })),
        podEvents: [event('FailedMount', 'MountVolume.SetUp failed for volume "c": secret "c" not found')],
      },
      ['config', 'FailedMount', false, /secret "c" not found/],
    ],
    [
      'its probe fails',
      {
        pod: pod(container({ running: { startedAt: at(90) } })),
        podEvents: [event('Unhealthy', 'old', 80), event('Unhealthy', 'HTTP probe failed with statuscode: 503', 2)],
      },
      ['probe', 'Unhealthy', true, /statuscode: 503/],
    ],
    [
      'events of an older pod of its name are not its own',
      { pod: pod(container({ running: { startedAt: at(90) } })), podEvents: [event('Unhealthy', 'old', 2, 'u0')] },
      ['probe', 'NotReady', true, /probe has not passed/],
    ],
    [
      'a readiness gate',
      {
        pod: pod(container({ running: { startedAt: at(90) } }, { ready: true }), {
          spec: { nodeName: 'm', containers: [], readinessGates: [{ conditionType: 'lb' }] },
        }),
      },
      ['probe', 'ReadinessGate', true, /lb/],
    ],
    [
      'its containers are being made',
      { pod: pod(container({ waiting: { reason: 'ContainerCreating' } })) },
      ['starting', 'ContainerCreating', true, /being made/],
    ],
  ];

  test.each(cases)('%s', (_name, seen, [kind, reason, mendsByWaiting, message]) => {
    const why = whyNotReady({ name: 'web-1', pod: null, now: NOW, ...seen });
    expect(why).toMatchObject({ kind, reason, mendsByWaiting });
    if (typeof message === 'string') expect(why?.message).toBe(message);
    else expect(why?.message).toMatch(message);
  });

  test('nothing: it is ready', () => {
    const ready = pod({ phase: 'Running', conditions: [{ type: 'Ready', status: 'True' }] });
    expect(whyNotReady({ name: 'web-1', pod: ready, now: NOW })).toBeNull();
  });

  test('a long message is cut, and is one line', () => {
    const long = pod(container({ waiting: { reason: 'ErrImagePull', message: `a\n${'b'.repeat(1000)}` } }));
    const message = whyNotReady({ name: 'web-1', pod: long, now: NOW })?.message ?? '';
    expect(message).toMatch(/^container main: a b+…$/);
    expect(message).toHaveLength(500);
  });
});

describe('configuration', () => {
  const env = {
    RINGMASTER_CLUSTER: 'demo',
    RINGMASTER_KUBE_DATABASE_PASSWORD: 'p',
    RINGMASTER_KUBE_CONTROL_TOKEN: 't',
  };

  test('little is needed; what is empty is not given', () => {
    const config = kubernetesConfig({ ...env, RINGMASTER_KUBE_NAMESPACE: '', RINGMASTER_KUBE_HOST: '' });
    expect(config).toMatchObject({
      namespace: undefined,
      host: '{pod}.{service}.{namespace}.svc',
      ports: { gateway: 8080, control: 8081, postgres: 5432 },
      database: { name: 'jobsdb', user: 'rudder', password: 'p' },
      readyWithinMs: 900_000,
      troubleMs: 60_000,
    });
    expect(config.sets.postgres.selector).toBe('ringmaster.dev/cluster=demo,app.kubernetes.io/component=postgresql');
  });

  test.each([
    ['RINGMASTER_CLUSTER', 'Über', /a-z, 0-9 and -/],
    ['RINGMASTER_KUBE_NAMESPACE', 'My_Space', /name of Kubernetes/],
    ['RINGMASTER_KUBE_BACKEND', 'a.b', /name of Kubernetes/],
    ['RINGMASTER_KUBE_HOST', '{pod}.{zone}', /may hold only \{pod\}/],
    ['RINGMASTER_KUBE_HOST', 'localhost', /all nodes had one address/],
    ['RINGMASTER_KUBE_GATEWAY_PORT', '0', /at least 1/],
    ['RINGMASTER_KUBE_CONTROL_PORT', '65536', /at most 65535/],
    ['RINGMASTER_KUBE_POSTGRES_PORT', 'x', /whole number/],
    ['RINGMASTER_KUBE_READY_WITHIN_MS', '10', /at least 1000/],
    ['RINGMASTER_KUBE_TROUBLE_MS', '1.5', /whole number/],
    ['RINGMASTER_KUBE_DATABASE_PASSWORD', '', /password/],
    ['RINGMASTER_KUBE_CONTROL_TOKEN', '', /token/],
  ])('%s=%s is refused by name', (name, value, why) => {
    const read = () => kubernetesConfig({ ...env, [name]: value });
    expect(read).toThrow(CodedError);
    expect(read).toThrow(why);
    expect(read).toThrow(new RegExp(`^${name}: `));
  });
});

describe('names', () => {
  test('a node is an ordinal', () => {
    expect(ordinalOf('node-0')).toBe(0);
    expect(ordinalOf('node-12')).toBe(12);
    for (const bad of ['node', 'node-', 'node-01', 'node-1a', 'NODE-1', 'web-1', 'node-10000'])
      expect(() => ordinalOf(bad)).toThrow(CodedError);
    expect(ordinalOfPod('web', 'web-3')).toBe(3);
    expect(ordinalOfPod('web', 'web-db-3')).toBeNull();
    expect(ordinalOfPod('web', 'web-03')).toBeNull();
    expect(namesAbove(1, 4)).toEqual(['node-3', 'node-2']);
    expect(namesAbove(3, 4)).toEqual([]);
  });

  test('claims, selectors and times are written as Kubernetes does', () => {
    const set = {
      metadata: { name: 'db' },
      spec: {
        serviceName: 'db',
        template: {},
        selector: {
          matchLabels: { a: 'b' },
          matchExpressions: [
            { key: 'c', operator: 'In', values: ['d', 'e'] },
            { key: 'f', operator: 'Exists' },
          ],
        },
        volumeClaimTemplates: [{ metadata: { name: 'data' } }, { metadata: { name: 'wal' } }],
      },
    };
    expect(claimsOf(set, 2)).toEqual(['data-db-2', 'wal-db-2']);
    expect(selectorText(set)).toBe('a=b,c in (d,e),f');
    expect(labelTime('2026-01-31T12:00:05.999+01:00')).toBe('20260131T110005Z');
  });
});

describe('what the API server refuses', () => {
  const doing = { verb: 'patch', resource: 'pods', name: 'web-1' } as const;

  test.each([401, 409, 429, 500, 503])('%i is weather', (statusCode) => {
    const error = asKubeError(Object.assign(new Error('x'), { statusCode }), doing, 'ns');
    expect(error).toBeInstanceOf(KubeWeather);
    expect(error).toMatchObject({ status: statusCode });
  });

  test('so is a connection that is refused', () => {
    const error = asKubeError(new TypeError('fetch failed', { cause: { code: 'ECONNREFUSED' } }), doing, 'ns');
    expect(error).toMatchObject({ name: 'KubeWeather', status: null });
    expect(String(error)).toContain('patch pods web-1 in ns: the API server cannot be reached (ECONNREFUSED)');
  });

  test('a bug stays what it is', () => {
    const bug = new TypeError('x is not a function');
    expect(asKubeError(bug, doing, 'ns')).toBe(bug);
  });
});

test.each([
  ['10Gi', 10 * 2 ** 30],
  ['1.5G', 1_500_000_000],
  ['500M', 500_000_000],
  ['1e9', 1_000_000_000],
  ['12E', 12e18],
  ['4096', 4096],
  ['128974848000m', 128_974_848],
  ['ten', null],
  ['10Xi', null],
  [undefined, null],
])('the size of a volume, %s, is %s bytes', (quantity, bytes) => {
  expect(bytesOf(quantity)).toBe(bytes);
});
