/**
 * Why a pod is not ready, from what the API server knows: the pod's status, its events, its StatefulSet's events and its volume claims. Pure.
 *
 *   kind            seen as                                                              mends by waiting
 *   not-created     no such pod; the StatefulSet controller's latest event about it       no, once its creation was refused (quota, admission)
 *                   says FailedCreate
 *   leaving         deletionTimestamp: an older pod of that name goes first               yes
 *   ended           phase Failed (evicted) or Succeeded: the controller makes a new one   yes
 *   unschedulable   PodScheduled is False                                                 yes (a machine may come)
 *   volume          a claim is not bound, or FailedMount, FailedAttachVolume              yes, but rarely where a secret or config map is missing (config)
 *   image           ErrImagePull, ImagePullBackOff, InvalidImageName, …                   no
 *   config          CreateContainerConfigError, CreateContainerError, …                   no
 *   crash-loop      CrashLoopBackOff, or restarted more than once and up for less         no
 *                   than STEADY_MS
 *   probe           all containers run, the pod is not ready                              yes
 *   starting        none of these (yet)                                                   yes
 *
 * "No" means: rarely; a person is told after RINGMASTER_KUBE_TROUBLE_MS. Whoever waits compares kinds, not reasons: ErrImagePull and ImagePullBackOff, or a
 * crash loop's waiting and running, take turns.
 */
import type {
  CoreV1Event,
  V1ContainerState,
  V1ContainerStateTerminated,
  V1ContainerStatus,
  V1PersistentVolumeClaim,
  V1Pod,
} from '@kubernetes/client-node';

export type WhyKind =
  | 'not-created'
  | 'leaving'
  | 'ended'
  | 'unschedulable'
  | 'volume'
  | 'image'
  | 'config'
  | 'crash-loop'
  | 'probe'
  | 'starting';

export interface Why {
  readonly kind: WhyKind;
  /** One word, as Kubernetes says it: ImagePullBackOff, Unschedulable, … */
  readonly reason: string;
  readonly message: string;
  readonly mendsByWaiting: boolean;
}

export interface Seen {
  readonly name: string;
  /** Null: there is none of that name. */
  readonly pod: V1Pod | null;
  readonly podEvents?: readonly CoreV1Event[];
  /** Of its StatefulSet. */
  readonly setEvents?: readonly CoreV1Event[];
  readonly claims?: readonly V1PersistentVolumeClaim[];
  readonly claimEvents?: readonly CoreV1Event[];
  /** Milliseconds since the epoch, for how long a container has been up. */
  readonly now: number;
}

const STEADY_MS = 30_000; // a container that lives longer than this after its last crash is slow, rather than crashing
const IMAGE = new Set([
  'ErrImagePull',
  'ImagePullBackOff',
  'InvalidImageName',
  'ErrImageNeverPull',
  'ImageInspectError',
  'RegistryUnavailable',
  'SignatureValidationFailed',
]);
const CONFIG = new Set([
  'CreateContainerConfigError',
  'CreateContainerError',
  'PreCreateHookError',
  'RunContainerError',
]);
const VOLUME_EVENTS = new Set(['FailedMount', 'FailedAttachVolume', 'FailedMapVolume', 'VolumeResizeFailed']);
const CLAIM_EVENTS = new Set(['ProvisioningFailed', 'FailedBinding', 'VolumeMismatch', 'ClaimMisbound', 'ClaimLost']);
const MESSAGE_MAX = 500; // it stands in search attributes, histories and on terminals

/** Null: it is ready. */
export function whyNotReady(seen: Seen): Why | null {
  const { pod } = seen;
  if (!pod) return whyNotCreated(seen);
  if (isReady(pod)) return null;
  return (
    whyLeaving(pod) ??
    whyNotScheduled(seen, pod) ??
    whyContainersWait(pod, seen.now) ??
    whyNotMounted(seen, pod) ??
    whyRunningNotReady(seen, pod)
  );
}

/** Ready, and meant to stay. */
export const isReady = (pod: V1Pod): boolean =>
  !pod.metadata?.deletionTimestamp && condition(pod, 'Ready')?.status === 'True' && pod.status?.phase === 'Running';

const condition = (pod: V1Pod, type: string) => pod.status?.conditions?.find((each) => each.type === type);

function why(kind: WhyKind, mendsByWaiting: boolean, reason: string, message: string): Why {
  const line = message.replace(/\s+/g, ' ').trim();
  return {
    kind,
    reason,
    message: line.length > MESSAGE_MAX ? `${line.slice(0, MESSAGE_MAX - 1)}…` : line,
    mendsByWaiting,
  };
}

function whyNotCreated({ name, setEvents = [] }: Seen): Why {
  // "create Pod web-2 in StatefulSet web failed error: …", or "create Claim data-web-2 Pod web-2 in …"
  const about = new RegExp(`\\bPod ${name.replace(/[^\w-]/g, '\\$&')}(?![\\w-])`);
  const [last] = newestFirst(setEvents.filter((event) => about.test(event.message ?? '')));
  if (last?.reason !== 'FailedCreate')
    return why('not-created', true, 'NotCreated', 'the StatefulSet controller has not made it yet');
  const said = /\berror: ([\s\S]*)$/.exec(last.message ?? '')?.[1] ?? last.message ?? '';
  return why('not-created', false, 'FailedCreate', said);
}

function whyLeaving(pod: V1Pod): Why | null {
  const since = pod.metadata?.deletionTimestamp;
  if (since) return why('leaving', true, 'Terminating', `an older pod of this name is on its way out`);
  const { phase, reason, message } = pod.status ?? {};
  if (phase === 'Failed' || phase === 'Succeeded')
    return why(
      'ended',
      true,
      reason || phase,
      message || `the pod has ended (${phase}); a new one is made in its place`,
    );
  return null;
}

function whyNotScheduled(seen: Seen, pod: V1Pod): Why | null {
  const scheduled = condition(pod, 'PodScheduled');
  if (pod.spec?.nodeName || scheduled?.status === 'True') return null;
  // The scheduler only says "unbound immediate PersistentVolumeClaims"; the claim's own event says why.
  const unbound = whyUnbound(seen);
  if (unbound) return unbound;
  if (scheduled?.status === 'False')
    return why('unschedulable', true, scheduled.reason || 'Unschedulable', scheduled.message || 'no machine fits');
  return why('starting', true, 'Pending', 'no scheduler has placed it yet');
}

function whyUnbound({ claims = [], claimEvents = [] }: Seen): Why | null {
  for (const claim of claims) {
    if (claim.status?.phase === 'Bound') continue;
    const name = claim.metadata?.name ?? '';
    const own = claimEvents.filter(
      (event) => event.involvedObject.name === name && CLAIM_EVENTS.has(event.reason ?? ''),
    );
    const [last] = newestFirst(own);
    if (last) return why('volume', true, last.reason ?? 'Pending', `claim ${name}: ${last.message ?? ''}`);
    if (claim.status?.phase === 'Lost') return why('volume', true, 'ClaimLost', `claim ${name} has lost its volume`);
  }
  return null;
}

/** Main and init containers; of several the one that a person must look at. */
function whyContainersWait(pod: V1Pod, now: number): Why | null {
  const statuses = [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? [])];
  const all = statuses.map((status) => whyContainerWaits(status, now)).filter((each) => each !== null);
  return all.find((each) => !each.mendsByWaiting) ?? all[0] ?? null;
}

function whyContainerWaits(status: V1ContainerStatus, now: number): Why | null {
  const { waiting, terminated } = status.state ?? {};
  const named = (message: string | undefined) => `container ${status.name}: ${message || 'no more is known'}`;
  const reason = waiting?.reason ?? '';
  if (IMAGE.has(reason)) return why('image', false, reason, named(waiting?.message));
  if (CONFIG.has(reason)) return why('config', false, reason, named(waiting?.message));
  if (reason === 'CrashLoopBackOff') return crash('CrashLoopBackOff', status);
  if (terminated && failed(terminated)) {
    return status.restartCount > 0
      ? crash('CrashLoopBackOff', status)
      : why('starting', true, terminated.reason || 'Error', named(`${howItEnded(terminated)}; it is started again`));
  }
  // Between two crashes it runs for a moment, which must not look like an end of the trouble.
  if (status.restartCount > 1 && !status.ready && upMs(status.state, now) < STEADY_MS && lastEnd(status))
    return crash('CrashLoopBackOff', status);
  return null;
}

const failed = ({ exitCode, signal }: V1ContainerStateTerminated) => exitCode !== 0 || Boolean(signal);
const upMs = (state: V1ContainerState | undefined, now: number) =>
  state?.running?.startedAt ? now - new Date(state.running.startedAt).getTime() : Number.POSITIVE_INFINITY;
const lastEnd = (status: V1ContainerStatus) => status.state?.terminated ?? status.lastState?.terminated;

function crash(reason: string, status: V1ContainerStatus): Why {
  const end = lastEnd(status);
  const times = `restarted ${status.restartCount} ${status.restartCount === 1 ? 'time' : 'times'}`;
  const how = end ? `ended with ${howItEnded(end)}` : 'ended';
  return why(
    'crash-loop',
    false,
    end?.reason === 'OOMKilled' ? 'OOMKilled' : reason,
    `container ${status.name} ${how}, ${times}`,
  );
}

function howItEnded({ exitCode, signal, reason, message }: V1ContainerStateTerminated): string {
  const what = signal ? `signal ${signal}` : `exit code ${exitCode}`;
  const more = [reason && reason !== 'Error' ? reason : '', message ?? ''].filter((each) => each !== '');
  return more.length > 0 ? `${what} (${more.join(': ')})` : what;
}

function whyNotMounted({ podEvents = [] }: Seen, pod: V1Pod): Why | null {
  const begun = (pod.status?.containerStatuses ?? []).some(
    (status) => status.state?.running || status.restartCount > 0,
  );
  if (begun) return null;
  const [last] = newestFirst(ownEvents(podEvents, pod).filter((event) => VOLUME_EVENTS.has(event.reason ?? '')));
  if (!last) return null;
  const message = last.message ?? '';
  const missing = /\b(secret|configmap|configmaps|secrets)\b.*\bnot found\b/i.test(message);
  return why(missing ? 'config' : 'volume', !missing, last.reason ?? 'FailedMount', message);
}

function whyRunningNotReady({ podEvents = [] }: Seen, pod: V1Pod): Why {
  const running = (pod.status?.containerStatuses ?? []).filter((status) => status.state?.running);
  const [unhealthy] = newestFirst(ownEvents(podEvents, pod).filter((event) => event.reason === 'Unhealthy'));
  if (running.length > 0 && unhealthy) return why('probe', true, 'Unhealthy', unhealthy.message ?? '');
  if (running.length > 0 && running.every((status) => status.ready)) {
    const gate = pod.spec?.readinessGates?.find((each) => condition(pod, each.conditionType)?.status !== 'True');
    if (gate) return why('probe', true, 'ReadinessGate', `its condition ${gate.conditionType} is not True`);
  }
  if (running.length > 0)
    return why(
      'probe',
      true,
      'NotReady',
      condition(pod, 'Ready')?.message || 'it runs, but its readiness probe has not passed',
    );
  const waiting = [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? [])]
    .map((status) => status.state?.waiting)
    .find((each) => each?.reason);
  return why('starting', true, waiting?.reason ?? 'Pending', waiting?.message || 'its containers are being made');
}

/** Events of this very pod: one of the same name may have left others. */
const ownEvents = (events: readonly CoreV1Event[], pod: V1Pod) =>
  events.filter((event) => !event.involvedObject.uid || event.involvedObject.uid === pod.metadata?.uid);

const newestFirst = (events: readonly CoreV1Event[]) => [...events].sort((a, b) => at(b) - at(a));

function at(event: CoreV1Event): number {
  const time = event.series?.lastObservedTime ?? event.lastTimestamp ?? event.eventTime ?? event.firstTimestamp;
  return time ? new Date(time as string | Date).getTime() : 0;
}
