/**
 * What the operator does next about a RingCluster, and what its status says: a pure function of what is seen.
 *
 * A *wish* is a generation of the resource (with its annotation ringmaster.dev/retry, which makes a new wish of an old generation).
 *
 *   seen                                                     done                                          the wish is decided on
 *   spec.nodes is absent                                     filled in: what the ring has                  no (it becomes a new generation)
 *   the resource is invalid                                  nothing                                       yes
 *   an operation goes to spec.nodes, whoever started it      nothing: it runs                              yes
 *   ours goes elsewhere                                      it is asked to cancel, then its end awaited   no
 *   another's goes elsewhere                                 nothing: its end is awaited                   no
 *   none is under way, the ring is as wished                 nothing                                       yes
 *   none is under way, the ring differs, not decided yet     one is started                                yes, once it is seen running
 *   none is under way, the ring differs, decided             nothing, it is told: never fought             –
 *   Temporal or the ring store is away                       nothing; what was known stays                 no
 *
 * Holds:
 *   O1 one operation at most is started for a wish: its key is the wish, and a wish that was decided on, by the status or by that key, starts nothing
 *   O2 an operation of somebody else is never steered
 *   O3 nothing is started on what is not known: both the ring and the operations were read after the resource
 *   O4 the status never loses the number of nodes and the selector: autoscalers read them
 * Wishes that were overtaken while an operation was being cancelled are skipped: only the newest is seen.
 */
import { type OperationProgress, type ScaleInput, TARGET_NODES_MAX } from '../client/operations.ts';
import type { Ring } from '../ring/ring.ts';
import { conditionOf, conditionsWith, type Finding } from './conditions.ts';
import {
  actorOf,
  annotations,
  type ClusterState,
  parseDurationMs,
  partitionCountOf,
  type RingCluster,
  type RingClusterStatus,
  reasonFor,
  selectorOf,
  type Wish,
  wishOf,
} from './resource.ts';

export interface Trouble {
  readonly code: string;
  readonly message: string;
}

/** An operation as Temporal, and where a worker answers the workflow itself, tells of it. */
export interface OperationSeen {
  readonly id: string;
  readonly state: OperationProgress['state'];
  /** Null: not known, as it was not started through our client and no worker answers. */
  readonly to: number | null;
  readonly actor: string | null;
  readonly phase: string | null;
  readonly blockedOn: { readonly code: string; readonly message: string; readonly since: string | null } | null;
  readonly nextAction: string | null;
}

export interface Seen {
  readonly resource: RingCluster;
  /** The operation that is under way, else the last one; null: there was none, or Temporal is in trouble. */
  readonly operation: OperationSeen | null;
  /** The operation that was started with this wish's key, if any. Looked for only where the status does not say that the wish was decided on. */
  readonly startedForWish: string | null;
  readonly temporalTrouble: Trouble | null;
  /** Null: there is none. Read after the operation: one that has ended has written its last event before. */
  readonly ring: Ring | null;
  /** `ring` is the last that is known. */
  readonly ringTrouble: Trouble | null;
  /** Why the last start or cancel failed. */
  readonly actionTrouble: Trouble | null;
  /** `spec.replicas` of the StatefulSets, null where there is none with these labels. Absent: not looked. */
  readonly replicas?: { readonly backend: number | null; readonly postgresql: number | null };
  /** ISO 8601. */
  readonly now: string;
}

export type Action =
  | { readonly kind: 'none' }
  | { readonly kind: 'fill nodes'; readonly nodes: number }
  | { readonly kind: 'start'; readonly input: ScaleInput; readonly idempotencyKey: string }
  | { readonly kind: 'cancel'; readonly operationId: string; readonly actor: string; readonly reason: string };

export interface Notice {
  readonly type: 'Normal' | 'Warning';
  readonly reason: string;
  readonly message: string;
}

export interface Decision {
  readonly action: Action;
  readonly status: RingClusterStatus;
  /** What has become different from the status before, for people: Events of the resource. */
  readonly notices: readonly Notice[];
  /** Something is under way, or waited for: look again soon. */
  readonly isMoving: boolean;
}

/** What was concluded; the status is written from it. */
interface Verdict {
  readonly action: Action;
  readonly isDecided: boolean;
  readonly synced: Finding;
  readonly progressing: Finding;
  /** The operation that is seen is this wish's. */
  readonly isOfWish?: boolean;
  readonly nextAction?: string;
}

const UNDER_WAY: readonly string[] = ['running', 'paused', 'blocked', 'cancelling', 'undoing'];
/** It goes back, or nowhere: not where it was sent. */
const STOPPING: readonly string[] = ['cancelling', 'undoing'];
const none: Action = { kind: 'none' };
const is = (status: Finding['status'], reason: string, message: string): Finding => ({ status, reason, message });
const plural = (count: number, what: string): string => `${count} ${what}${count === 1 ? '' : 's'}`;

export function decideNext(seen: Seen): Decision {
  const wish = wishOf(seen.resource);
  const trouble = seen.temporalTrouble ?? seen.ringTrouble;
  const verdict = trouble ? whileAway(trouble, wish, seen) : judge(wish, seen);
  const status = statusAfter(seen, wish, verdict, trouble);
  return {
    action: verdict.action,
    status,
    notices: noticesBetween(seen.resource.status ?? {}, status),
    isMoving: verdict.action.kind !== 'none' || underWay(seen) !== null || trouble !== null,
  };
}

export const underWay = (seen: Pick<Seen, 'operation'>): OperationSeen | null =>
  seen.operation && UNDER_WAY.includes(seen.operation.state) ? seen.operation : null;

function whileAway(trouble: Trouble, wish: Wish, seen: Seen): Verdict {
  const message = `${describe(trouble)}: what is shown is what was known last`;
  const before = conditionOf(seen.resource.status, 'Synced');
  return {
    action: none,
    isDecided: wish.decided,
    synced: wish.decided && before ? before : is('Unknown', reasonOf(trouble.code), message),
    progressing: is('Unknown', reasonOf(trouble.code), message),
  };
}

function judge(wish: Wish, seen: Seen): Verdict {
  const { resource, ring } = seen;
  const operation = underWay(seen);
  const problem = problemOf(resource, ring);
  if (problem) {
    return {
      action: none,
      isDecided: true,
      synced: is('False', 'Invalid', problem),
      progressing: operation
        ? progressOf(operation)
        : is('False', 'Invalid', 'nothing is started for an invalid resource'),
    };
  }
  const { nodes } = resource.spec;
  if (nodes === undefined) return fillIn(seen, operation);
  const isDecided = wish.decided || seen.startedForWish !== null;
  if (operation) return besideOperation(wish, seen, operation, nodes, isDecided);
  if (ring?.nodes.length === nodes && ring.freeze === null) {
    return {
      action: none,
      isDecided: true,
      synced: is('True', 'InSync', `the ring has ${plural(nodes, 'node')}`),
      progressing: is('False', 'Steady', 'no operation is under way'),
      isOfWish: seen.startedForWish !== null && seen.startedForWish === seen.operation?.id,
    };
  }
  return isDecided ? leftAsItIs(wish, seen, nodes) : start(wish, seen, nodes);
}

/** Absent means "as it is": so the number that stands there is right before anybody changes it. */
function fillIn(seen: Seen, operation: OperationSeen | null): Verdict {
  // An operation that somebody has started wins over the ring that it is changing: its target is what the cluster is going to be.
  const nodes = operation ? operation.to : (seen.ring?.nodes.length ?? 1);
  const what = operation ? `where operation ${operation.id} goes` : 'what the ring has';
  return {
    action: nodes === null ? none : { kind: 'fill nodes', nodes },
    isDecided: false,
    synced: is('Unknown', 'NodesAbsent', `spec.nodes is absent: it is filled in with ${what}`),
    progressing: operation ? progressOf(operation) : is('True', 'NodesAbsent', 'spec.nodes is being filled in'),
  };
}

function besideOperation(wish: Wish, seen: Seen, operation: OperationSeen, nodes: number, isDecided: boolean): Verdict {
  const actor = actorOf(seen.resource);
  const isOurs = operation.actor === actor;
  const goal = operation.to === null ? 'to a number that is not known yet' : `to ${plural(operation.to, 'node')}`;
  if (operation.to === nodes && !STOPPING.includes(operation.state)) {
    return {
      action: none,
      isDecided: true,
      synced: is('False', 'OperationUnderWay', `operation ${operation.id} goes ${goal}`),
      progressing: progressOf(operation),
      isOfWish: isOurs,
    };
  }
  if (!isOurs) {
    const then = isDecided ? '' : `; then generation ${wish.generation} (${plural(nodes, 'node')}) gets its turn`;
    const message = `operation ${operation.id} of ${operation.actor ?? 'somebody else'} goes ${goal}: its end is awaited${then}`;
    return {
      action: none,
      isDecided,
      synced: is('False', 'OtherOperation', message),
      progressing: is('True', 'OtherOperation', message),
    };
  }
  const message = `operation ${operation.id} goes ${goal}, generation ${wish.generation} wants ${nodes}: it is cancelled first (moves after their hand-over finish)`;
  const reason = `RingCluster ${seen.resource.metadata.namespace}/${seen.resource.metadata.name} wants ${plural(nodes, 'node')} now (generation ${wish.generation})`;
  return {
    action: STOPPING.includes(operation.state) ? none : { kind: 'cancel', operationId: operation.id, actor, reason },
    isDecided,
    synced: is('False', 'ChangeOfMind', message),
    progressing: is('True', 'ChangeOfMind', message),
  };
}

function start(wish: Wish, seen: Seen, nodes: number): Verdict {
  const { resource, ring } = seen;
  const from = ring?.nodes.length ?? 0;
  const input: ScaleInput = {
    clusterId: resource.metadata.name,
    targetNodes: nodes,
    reason: reasonFor(resource, from, nodes),
    actor: actorOf(resource),
    ...(resource.spec.deleteVolumes ? { deleteVolumes: true } : {}),
    ...(ring ? {} : { create: { partitionCount: partitionCountOf(resource.spec) } }),
  };
  const trouble = seen.actionTrouble;
  const message = trouble
    ? `the operation to ${plural(nodes, 'node')} cannot be started: ${describe(trouble)}`
    : `an operation to ${plural(nodes, 'node')} is being started`;
  return {
    action: { kind: 'start', input, idempotencyKey: wish.idempotencyKey },
    isDecided: false,
    synced: is('False', 'OperationUnderWay', message),
    progressing: trouble ? is('Unknown', reasonOf(trouble.code), message) : is('True', 'Starting', message),
  };
}

/** Decided on, no operation under way, and the ring is not as wished: somebody's hand was in it. */
function leftAsItIs(wish: Wish, seen: Seen, nodes: number): Verdict {
  const { resource, ring, operation } = seen;
  const { name, namespace } = resource.metadata;
  const has = ring ? `the ring has ${plural(ring.nodes.length, 'node')}` : 'there is no ring';
  const before = resource.status?.operation;
  const isOfWish =
    operation !== null &&
    (seen.startedForWish === operation.id || (before?.id === operation.id && before.generation === wish.generation));
  const reason =
    isOfWish && (operation.state === 'cancelled' || operation.state === 'undone')
      ? 'OperationCancelled'
      : isOfWish && operation.state === 'failed'
        ? 'OperationFailed'
        : ring?.nodes.length === nodes
          ? 'RingFrozen'
          : 'RingDiffers';
  const because = {
    OperationCancelled: `operation ${operation?.id} for generation ${wish.generation} was ${operation?.state}: it is not started again by itself`,
    OperationFailed: `operation ${operation?.id} for generation ${wish.generation} failed, or was terminated: it is not started again by itself`,
    RingFrozen: `operation ${ring?.freeze?.operationId} holds the ring and is not under way`,
    RingDiffers: `generation ${wish.generation} was acted on before, and the number of nodes was changed elsewhere since`,
  }[reason];
  const retry = `kubectl annotate ringcluster ${name} --namespace ${namespace} --overwrite ${annotations.retry}="$(date)"`;
  return {
    action: none,
    isDecided: true,
    synced: is(
      'False',
      reason,
      `${has}, spec.nodes is ${nodes}: ${because}. Change spec.nodes, or set the annotation ${annotations.retry} to a new value`,
    ),
    progressing: is('False', reason, 'no operation is under way'),
    isOfWish,
    nextAction: retry,
  };
}

function problemOf({ spec }: RingCluster, ring: Ring | null): string | null {
  const { nodes, deleteVolumesAfter } = spec;
  const partitionCount = ring?.partitionCount ?? partitionCountOf(spec);
  if (nodes !== undefined && !(Number.isInteger(nodes) && nodes >= 1 && nodes <= TARGET_NODES_MAX))
    return `spec.nodes must be a whole number from 1 to ${TARGET_NODES_MAX}`;
  if (nodes !== undefined && nodes > partitionCount)
    return `spec.nodes is ${nodes}, and there are ${plural(partitionCount, 'partition')} only: a node needs one at least`;
  if (deleteVolumesAfter && parseDurationMs(deleteVolumesAfter) === null)
    return 'spec.deleteVolumesAfter must be hours, minutes and seconds, such as 168h or 1h30m';
  return null;
}

function progressOf({ id, state, phase, blockedOn }: OperationSeen): Finding {
  const at = phase ? ` (${phase})` : '';
  switch (state) {
    case 'blocked':
      return is(
        'False',
        'OperationBlocked',
        `operation ${id} waits: ${blockedOn ? describe(blockedOn) : 'see its progress'}`,
      );
    case 'paused':
      return is('False', 'OperationPaused', `operation ${id} is paused${at}`);
    case 'cancelling':
      return is('True', 'OperationCancelling', `operation ${id} is being cancelled${at}`);
    case 'undoing':
      return is('True', 'OperationUndoing', `operation ${id} is being undone${at}`);
    default:
      return is('True', 'OperationRunning', `operation ${id} is under way${at}`);
  }
}

function statusAfter(seen: Seen, wish: Wish, verdict: Verdict, trouble: Trouble | null): RingClusterStatus {
  const { resource, ring } = seen;
  const before = resource.status ?? {};
  const running = underWay(seen);
  const state = trouble ? 'unknown' : stateOf(ring, running);
  const shown = seen.temporalTrouble ? before.operation : operationIn(seen, wish, verdict);
  const waits = seen.temporalTrouble ? before : waitingIn(seen, running, verdict);
  const findings = {
    Ready: trouble ? (conditionOf(before, 'Ready') ?? verdict.progressing) : readiness(ring, running),
    Progressing: verdict.progressing,
    Blocked: trouble
      ? (conditionOf(before, 'Blocked') ?? verdict.progressing)
      : waits.blockedOn
        ? is('True', 'OperationBlocked', describe(waits.blockedOn))
        : is('False', 'NotBlocked', 'nothing waits for a person'),
    Synced: verdict.synced,
    ReplicasMatch: replicasIn(seen, running, trouble),
    GuardOverridden: overrideIn(resource),
  };
  return {
    nodes: ring?.nodes.length ?? before.nodes ?? 0,
    selector: selectorOf(resource.metadata.name),
    state,
    ...given('phase', seen.temporalTrouble ? before.phase : (running?.phase ?? undefined)),
    ...(shown ? { operation: shown } : {}),
    ...(waits.blockedOn ? { blockedOn: waits.blockedOn } : {}),
    ...(waits.nextAction ? { nextAction: waits.nextAction } : {}),
    ...given('epoch', ring?.epoch ?? before.epoch),
    ...given('partitionCount', ring?.partitionCount ?? before.partitionCount),
    ...given('observedGeneration', verdict.isDecided ? wish.generation : before.observedGeneration),
    ...given('observedRetry', verdict.isDecided && wish.retry !== '' ? wish.retry : before.observedRetry),
    conditions: conditionsWith(before.conditions ?? [], findings, resource.metadata.generation, seen.now),
  };
}

const given = <K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } =>
  value === undefined ? {} : ({ [key]: value } as { [P in K]: V });

function stateOf(ring: Ring | null, running: OperationSeen | null): ClusterState {
  if (!running) return 'steady';
  if (running.state === 'running') return ring ? 'running' : 'creating';
  if (running.state === 'undoing') return 'cancelling'; // the schema of a resource knows no more
  return running.state as ClusterState;
}

function operationIn({ resource, operation }: Seen, wish: Wish, verdict: Verdict): RingClusterStatus['operation'] {
  if (!operation) return undefined;
  const before = resource.status?.operation;
  const known = before?.id === operation.id ? before.generation : undefined;
  return {
    id: operation.id,
    state: operation.state,
    ...given('to', operation.to ?? undefined),
    ...given('generation', verdict.isOfWish ? wish.generation : known),
    ...given('startedBy', operation.actor ?? undefined),
  };
}

function waitingIn(
  { resource, now }: Seen,
  running: OperationSeen | null,
  verdict: Verdict,
): Pick<RingClusterStatus, 'blockedOn' | 'nextAction'> {
  const blockedOn = running?.state === 'blocked' ? running.blockedOn : null;
  const before = resource.status?.blockedOn;
  const nextAction = running?.nextAction ?? verdict.nextAction;
  return {
    ...(nextAction ? { nextAction } : {}),
    ...(blockedOn
      ? {
          blockedOn: {
            code: blockedOn.code,
            message: blockedOn.message,
            since: blockedOn.since ?? (before?.code === blockedOn.code ? before.since : now),
          },
        }
      : {}),
  };
}

function readiness(ring: Ring | null, running: OperationSeen | null): Finding {
  if (running?.state === 'blocked') return is('False', 'OperationBlocked', `operation ${running.id} is blocked`);
  if (!ring) return is('False', 'NoRing', 'the ring has not been made yet');
  if (ring.freeze && !running) {
    return is('False', 'RingFrozen', `operation ${ring.freeze.operationId} holds the ring and is not under way`);
  }
  return running
    ? is('True', 'Serving', `the ring serves while operation ${running.id} is under way`)
    : is('True', 'Serving', 'the ring serves');
}

/** Pods without a member, or members without a pod. Only told: the worker alone changes replicas. */
function replicasIn(seen: Seen, running: OperationSeen | null, trouble: Trouble | null): Finding {
  const { ring, replicas } = seen;
  const before = conditionOf(seen.resource.status, 'ReplicasMatch');
  if (trouble || running || !ring || ring.freeze || !replicas)
    return before ?? is('Unknown', 'NotLooked', 'looked at while no operation is under way');
  const ordinals = ring.nodes.map(({ node }) => Number(/^node-(\d+)$/.exec(node)?.[1] ?? Number.NaN));
  const wanted = Math.max(...ordinals) + 1;
  if (Number.isNaN(wanted)) return is('Unknown', 'NodesNotNumbered', 'not every node of the ring is named node-<i>');
  const differing: string[] = [];
  for (const [component, count] of Object.entries(replicas)) {
    if (count === null) return is('Unknown', 'StatefulSetUnknown', `no StatefulSet has the labels of ${component}`);
    if (count > wanted)
      differing.push(
        `somebody set ${component} to ${count} replicas: ${plural(count - wanted, 'pod')} of it are no members of the ring`,
      );
    if (count < wanted)
      differing.push(
        `somebody set ${component} to ${count} replicas: ${plural(wanted - count, 'node')} of the ring are without their pods`,
      );
  }
  if (differing.length === 0) return is('True', 'ReplicasMatch', `the StatefulSets have ${plural(wanted, 'replica')}`);
  return is('False', 'ReplicasDiffer', differing.join('; '));
}

function overrideIn({ metadata }: RingCluster): Finding {
  const why = metadata.annotations?.[annotations.unsafeOverride];
  if (why === undefined) return is('False', 'GuardStands', `no annotation ${annotations.unsafeOverride}`);
  return is(
    'True',
    'UnsafeOverride',
    `the guard lets everything pass, by annotation ${annotations.unsafeOverride}: ${why || '(no reason given)'}`,
  );
}

/** Level-triggered too: each stands for a difference between two statuses, so a restart repeats none. */
function noticesBetween(before: Partial<RingClusterStatus>, after: RingClusterStatus): Notice[] {
  const notices: Notice[] = [];
  const warn = (reason: string, message: string) => notices.push({ type: 'Warning', reason, message });
  const { operation } = after;
  const was = before.operation;
  if (operation && was?.id === operation.id && UNDER_WAY.includes(was.state) && !UNDER_WAY.includes(operation.state)) {
    const to = operation.to === undefined ? '' : ` to ${plural(operation.to, 'node')}`;
    const message = `operation ${operation.id}${to}: ${operation.state}`;
    if (operation.state === 'cancelled') warn('Cancelled', message);
    else if (operation.state === 'failed') warn('Failed', message);
    else notices.push({ type: 'Normal', reason: 'Completed', message });
  }
  const { blockedOn } = after;
  if (blockedOn && (before.blockedOn?.code !== blockedOn.code || before.blockedOn.since !== blockedOn.since))
    warn('Blocked', `operation ${operation?.id}: ${describe(blockedOn)}`);
  for (const type of ['GuardOverridden', 'ReplicasMatch', 'Synced'] as const) {
    const now = conditionOf(after, type);
    const then = conditionOf(before, type);
    if (!now || (then?.status === now.status && then.reason === now.reason && then.message === now.message)) continue;
    if (type === 'GuardOverridden' && now.status === 'True') warn('GuardOverridden', now.message);
    if (type === 'GuardOverridden' && now.status === 'False' && then?.status === 'True')
      notices.push({ type: 'Normal', reason: 'GuardStands', message: 'the guard stands again' });
    if (type === 'ReplicasMatch' && now.status === 'False') warn(now.reason, now.message);
    if (
      type === 'Synced' &&
      ['Invalid', 'RingDiffers', 'RingFrozen'].includes(now.reason) &&
      then?.reason !== now.reason
    )
      warn(now.reason, now.message);
  }
  return notices;
}

const describe = ({ code, message }: Trouble): string => (message.startsWith(code) ? message : `${code}: ${message}`);

/** `TEMPORAL_UNREACHABLE` → `TemporalUnreachable`: a reason begins with a letter and holds letters, digits and `_` only. */
export function reasonOf(code: string): string {
  const words = code.toLowerCase().split(/[^a-z0-9]+/);
  const reason = words.map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join('');
  return /^[A-Z]/.test(reason) ? reason : 'Trouble';
}
