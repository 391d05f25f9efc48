/**
 * The RingCluster as the operator reads and writes it. Its schema is deploy/helm/ringmaster/crds/ringclusters.yaml; what that already refuses is checked here
 * only where a wrong value would do harm.
 */
import { createHash } from 'node:crypto';
import { PARTITION_COUNT_DEFAULT } from '../ring/partition.ts';

export const RING_CLUSTER = {
  group: 'ringmaster.dev',
  version: 'v1alpha1',
  plural: 'ringclusters',
  kind: 'RingCluster',
} as const;

export const annotations = {
  /** Why the number of nodes is changed: stands in the operation and in the ring's log. */
  reason: 'ringmaster.dev/reason',
  /** Any new value makes the operator act once more on a spec that it has acted on. */
  retry: 'ringmaster.dev/retry',
  /** The way around the guard; its value says why. */
  unsafeOverride: 'ringmaster.dev/unsafe-override',
} as const;

export const labels = {
  cluster: 'ringmaster.dev/cluster',
  component: 'app.kubernetes.io/component',
  leftAt: 'ringmaster.dev/left-at',
} as const;

/** API and command allow as much. */
const REASON_LENGTH_MAX = 500;

export interface RingClusterSpec {
  readonly nodes?: number;
  readonly partitionCount?: number;
  readonly deleteVolumes?: boolean;
  readonly deleteVolumesAfter?: string;
}

/** metav1.Condition. */
export interface Condition {
  readonly type: ConditionType;
  readonly status: 'True' | 'False' | 'Unknown';
  readonly reason: string;
  readonly message: string;
  readonly lastTransitionTime: string;
  readonly observedGeneration?: number;
}

/**
 * `Ready` the ring is there, no operation is blocked, and nobody but an operation under way holds it · `Progressing` an operation is under way, or about to
 * be · `Blocked` it waits for a person · `Synced` the ring has as many nodes as the spec wants · `ReplicasMatch` the StatefulSets have as many pods as the
 * ring has nodes · `GuardOverridden` the guard lets everything pass
 */
export type ConditionType = 'Ready' | 'Progressing' | 'Blocked' | 'Synced' | 'ReplicasMatch' | 'GuardOverridden';

/** `steady`: no operation is under way. `creating`: one is, and there is no ring yet. `unknown`: Temporal or the ring store does not answer. */
export type ClusterState = 'creating' | 'steady' | 'running' | 'paused' | 'blocked' | 'cancelling' | 'unknown';

export interface RingClusterStatus {
  /** Members of the ring; with `selector` what the scale subresource shows. */
  readonly nodes: number;
  readonly selector: string;
  readonly state: ClusterState;
  readonly phase?: string;
  /** The operation that is under way, or the last one. */
  readonly operation?: {
    readonly id: string;
    readonly state: string;
    readonly to?: number;
    /** Of this resource; absent where somebody else has started it. */
    readonly generation?: number;
    readonly startedBy?: string;
  };
  readonly blockedOn?: { readonly code: string; readonly message: string; readonly since: string };
  readonly nextAction?: string;
  readonly epoch?: number;
  readonly partitionCount?: number;
  /** The newest generation that was decided on: acted on, found done, or refused. A generation that still waits for something is not in it. */
  readonly observedGeneration?: number;
  /** The value of the annotation ringmaster.dev/retry that was decided on. */
  readonly observedRetry?: string;
  readonly conditions?: readonly Condition[];
}

export interface RingCluster {
  readonly metadata: {
    readonly name: string;
    readonly namespace: string;
    readonly uid: string;
    readonly generation: number;
    readonly resourceVersion: string;
    readonly annotations?: Readonly<Record<string, string>>;
    readonly deletionTimestamp?: string;
    readonly managedFields?: readonly { readonly manager?: string; readonly subresource?: string }[];
  };
  readonly spec: RingClusterSpec;
  readonly status?: Partial<RingClusterStatus>;
}

/** One wish for one number of nodes. Whatever is repeated or lost, one operation at most is started for it. */
export interface Wish {
  readonly generation: number;
  readonly retry: string;
  /** Names it in Temporal. */
  readonly idempotencyKey: string;
  /** By what the status says; it may have been lost. */
  readonly decided: boolean;
}

export function wishOf({ metadata, status }: RingCluster): Wish {
  const { uid, generation } = metadata;
  const retry = metadata.annotations?.[annotations.retry] ?? '';
  const key = `ringcluster/${uid}/${generation}`;
  return {
    generation,
    retry,
    // A digest: an annotation may be long, and hold anything.
    idempotencyKey:
      retry === '' ? key : `${key}/retry-${createHash('sha256').update(retry).digest('hex').slice(0, 16)}`,
    // Taking the annotation away is no wish.
    decided: status?.observedGeneration === generation && (retry === '' || retry === (status.observedRetry ?? '')),
  };
}

/** Who starts operations for this resource: how they are known again. */
export const actorOf = ({ metadata }: RingCluster): string => `ringcluster/${metadata.namespace}/${metadata.name}`;

/** As the schema has it, for a resource that was written before its defaults. */
export const partitionCountOf = (spec: RingClusterSpec): number => spec.partitionCount ?? PARTITION_COUNT_DEFAULT;

export const selectorOf = (clusterId: string): string => `${labels.cluster}=${clusterId},${labels.component}=backend`;

export function reasonFor(resource: RingCluster, from: number, to: number): string {
  const { namespace, name, generation } = resource.metadata;
  const given = resource.metadata.annotations?.[annotations.reason]?.trim();
  const reason = given || `RingCluster ${namespace}/${name}: ${from} → ${to} nodes (generation ${generation})`;
  return reason.slice(0, REASON_LENGTH_MAX);
}

const DURATION = /^(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?$/;

/** `168h`, `1h30m`, `90s`: whole hours, minutes and seconds, in this order. Null: it is none of these. */
export function parseDurationMs(text: string): number | null {
  const match = DURATION.exec(text);
  if (!match || text === '') return null;
  const [hours, minutes, seconds] = [1, 2, 3].map((group) => Number(match[group] ?? 0));
  return ((hours! * 60 + minutes!) * 60 + seconds!) * 1000;
}

const LEFT_AT = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/;

/** `20260102T030405Z` (a label's value may hold no colon), as milliseconds since the epoch. Null: it is no such time. */
export function parseLeftAt(text: string): number | null {
  const match = LEFT_AT.exec(text);
  if (!match) return null;
  const [year, month, day, hour, minute, second] = match.slice(1);
  const iso = `${year}-${month}-${day}T${hour}:${minute}:${second}.000Z`;
  const at = Date.parse(iso);
  // The 31st of February is parsed, as a day in March.
  return Number.isNaN(at) || new Date(at).toISOString() !== iso ? null : at;
}
