/**
 * Plays the kubelet by hand: binds the pods of one namespace, and writes the statuses that a test wants to see. It runs nothing, which is how odd states
 * (unschedulable, evicted, crash loops) are best made. A bound pod that is deleted stays until the hand lets go of it, as with a real kubelet.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { AppsV1Api, CoreV1Api, KubeConfig, PatchStrategy, setHeaderOptions, type V1Pod } from '@kubernetes/client-node';
import type { ControlPlane } from '../kube/control-plane.ts';

const LOOK_EVERY_MS = 60;
const merge = setHeaderOptions('Content-Type', PatchStrategy.MergePatch);

/** `ready`, `hang` (nothing happens to it), or a status to write. */
export type PodFate = 'ready' | 'hang' | Record<string, unknown>;

export interface Hand {
  readonly namespace: string;
  readonly core: CoreV1Api;
  readonly apps: AppsV1Api;
  /** What becomes of a pod, asked again all the time. Default: ready. */
  fate: (pod: string) => PodFate;
  /** Whether a pod that is being deleted may go. Default: yes. */
  letsGo: (pod: string) => boolean;
  /** How often pods were seen, in order: names when they first appeared, `-name` when they were let go. */
  readonly seen: string[];
  makeSets(more?: { backend?: object; postgres?: object; replicas?: number; template?: object }): Promise<void>;
  replicas(): Promise<{ backend: number; postgres: number }>;
  setReplicas(set: 'backend' | 'postgres', replicas: number, manager?: string): Promise<void>;
  patchSet(set: 'backend' | 'postgres', body: object): Promise<void>;
  /** From now on the namespace admits only pods of the restricted profile, which ours are not. */
  restrict(): Promise<void>;
  event(about: { kind: string; name: string; uid?: string }, reason: string, message: string): Promise<void>;
  pods(): Promise<string[]>;
  stop(): Promise<void>;
}

export const SETS = { backend: 'rm-backend', postgres: 'rm-postgresql' } as const;

export function clientsOf(kubeconfig: string) {
  const config = new KubeConfig();
  config.loadFromFile(kubeconfig);
  return { core: config.makeApiClient(CoreV1Api), apps: config.makeApiClient(AppsV1Api) };
}

export async function startHand(plane: ControlPlane): Promise<Hand> {
  const { core, apps } = clientsOf(plane.kubeconfig);
  const namespace = `t-${randomBytes(4).toString('hex')}`;
  await core.createNamespace({ body: { metadata: { name: namespace } } });
  let stopped = false;
  const failures: unknown[] = [];
  const hand: Hand = {
    namespace,
    core,
    apps,
    fate: () => 'ready',
    letsGo: () => true,
    seen: [],
    makeSets: async (more = {}) => {
      for (const kind of ['postgres', 'backend'] as const) await makeSet(kind, more[kind] ?? {}, more.replicas ?? 1);
    },
    async replicas() {
      const read = async (name: string) => {
        const scale = await apps.readNamespacedStatefulSetScale({ name, namespace });
        return scale.spec?.replicas ?? 0;
      };
      return { backend: await read(SETS.backend), postgres: await read(SETS.postgres) };
    },
    async setReplicas(set, replicas, manager = 'kubectl-scale') {
      const body = { spec: { replicas } };
      const name = SETS[set];
      await apps.patchNamespacedStatefulSetScale({ name, namespace, body, fieldManager: manager }, merge);
    },
    async patchSet(set, body) {
      await apps.patchNamespacedStatefulSet({ name: SETS[set], namespace, body }, merge);
    },
    async restrict() {
      const labels = { 'pod-security.kubernetes.io/enforce': 'restricted' };
      await core.patchNamespace({ name: namespace, body: { metadata: { labels } } }, merge);
    },
    async event({ kind, name, uid }, reason, message) {
      const now = new Date();
      await core.createNamespacedEvent({
        namespace,
        body: {
          metadata: { generateName: 'e-', namespace },
          involvedObject: { kind, name, namespace, uid },
          reason,
          message,
          type: 'Warning',
          firstTimestamp: now,
          lastTimestamp: now,
          count: 1,
        },
      });
    },
    async pods() {
      return (await core.listNamespacedPod({ namespace })).items.map((pod) => pod.metadata?.name ?? '').sort();
    },
    async stop() {
      stopped = true;
      await running;
      await core.deleteNamespace({ name: namespace }).catch(() => {}); // the control plane itself goes after the file
    },
  };

  async function makeSet(kind: 'backend' | 'postgres', more: object, replicas: number) {
    const name = SETS[kind];
    const labels = {
      'app.kubernetes.io/component': kind === 'backend' ? 'backend' : 'postgresql',
      'ringmaster.dev/cluster': 'demo',
    };
    const claim = {
      metadata: { name: 'data', labels: { 'ringmaster.dev/cluster': 'demo' } },
      spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Mi' } } },
    };
    await apps.createNamespacedStatefulSet({
      namespace,
      body: {
        metadata: { name, labels },
        spec: {
          serviceName: `${name}-headless`,
          replicas,
          podManagementPolicy: 'Parallel',
          selector: { matchLabels: labels },
          template: {
            metadata: { labels },
            spec: {
              terminationGracePeriodSeconds: 5,
              automountServiceAccountToken: false,
              containers: [{ name: 'main', image: 'none' }],
            },
          },
          ...(kind === 'postgres' ? { volumeClaimTemplates: [claim] } : {}),
          ...more,
        },
      },
    });
  }

  async function tend(pod: V1Pod) {
    const name = pod.metadata?.name ?? '';
    if (pod.metadata?.deletionTimestamp) {
      if (!hand.letsGo(name)) return;
      const preconditions = { uid: pod.metadata.uid };
      await core.deleteNamespacedPod({ name, namespace, body: { gracePeriodSeconds: 0, preconditions } });
      hand.seen.push(`-${name}`);
      return;
    }
    const fate = hand.fate(name);
    if (fate === 'hang') return;
    const unscheduled = fate !== 'ready' && !('containerStatuses' in fate) && fate['phase'] !== 'Failed';
    if (!pod.spec?.nodeName && !unscheduled) {
      hand.seen.push(name);
      const body = { metadata: { name }, target: { kind: 'Node', name: 'by-hand' } };
      await core.createNamespacedPodBinding({ name, namespace, body });
    }
    const status = fate === 'ready' ? readyStatus() : fate;
    if (JSON.stringify(pod.metadata?.annotations?.['hand']) === JSON.stringify(JSON.stringify(fate))) return;
    await core.patchNamespacedPodStatus({ name, namespace, body: { status } }, merge);
    const body = { metadata: { annotations: { hand: JSON.stringify(fate) } } };
    await core.patchNamespacedPod({ name, namespace, body }, merge);
  }

  const running = (async () => {
    while (!stopped) {
      try {
        for (const pod of (await core.listNamespacedPod({ namespace })).items)
          await tend(pod).catch((e) => failures.push(e));
      } catch (error) {
        failures.push(error); // the API server restarts in some tests; pods may go between two requests
      }
      await sleep(LOOK_EVERY_MS);
    }
  })();
  return hand;
}

const readyStatus = () => ({
  phase: 'Running',
  podIP: '127.83.0.9',
  podIPs: [{ ip: '127.83.0.9' }],
  conditions: ['PodScheduled', 'Initialized', 'ContainersReady', 'Ready'].map((type) => ({ type, status: 'True' })),
  containerStatuses: [
    { ...container, ready: true, started: true, state: { running: { startedAt: new Date().toISOString() } } },
  ],
});

const container = { name: 'main', image: 'none', imageID: '', restartCount: 0 };
const notReady = [
  { type: 'PodScheduled', status: 'True' },
  { type: 'Ready', status: 'False', reason: 'ContainersNotReady', message: 'containers with unready status: [main]' },
];

/** A container that waits for this reason. */
export const waiting = (reason: string, message: string, more: object = {}) => ({
  phase: 'Pending',
  conditions: notReady,
  containerStatuses: [{ ...container, ready: false, state: { waiting: { reason, message } }, ...more }],
});

export const running = (more: object = {}) => ({
  phase: 'Running',
  conditions: notReady,
  containerStatuses: [
    { ...container, ready: false, state: { running: { startedAt: '2026-01-01T00:00:00Z' } }, ...more },
  ],
});

export const unschedulable = (message: string) => ({
  phase: 'Pending',
  conditions: [{ type: 'PodScheduled', status: 'False', reason: 'Unschedulable', message }],
});
