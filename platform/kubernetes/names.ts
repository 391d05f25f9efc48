/** Names, labels and quantities: which ordinal a node is, which pod and which claims are its, and what a claim says about a node that left. */
import type { V1StatefulSet } from '@kubernetes/client-node';
import { CodedError } from '../../kit/errors.ts';

export const CLUSTER_LABEL = 'ringmaster.dev/cluster';
export const LEFT_EPOCH_LABEL = 'ringmaster.dev/left-epoch';
export const LEFT_AT_LABEL = 'ringmaster.dev/left-at';

// As many nodes as an operation may ask for; a longer number is no ordinal of ours.
const NODE = /^node-(0|[1-9][0-9]{0,3})$/;

export const nodeOf = (ordinal: number): string => `node-${ordinal}`;

/** Here a node's name is its ordinal: any other could not be one pod of a StatefulSet. */
export function ordinalOf(node: string): number {
  const digits = NODE.exec(node)?.[1];
  if (digits === undefined)
    throw new CodedError('NODE_NAME', `'${node}' is no node on Kubernetes: they are node-0, node-1, …`, { node });
  return Number(digits);
}

export const podOf = (set: string, ordinal: number): string => `${set}-${ordinal}`;

/** The ordinal of a pod of this StatefulSet, or null. */
export function ordinalOfPod(set: string, pod: string): number | null {
  const digits = pod.startsWith(`${set}-`) ? pod.slice(set.length + 1) : '';
  return /^(0|[1-9][0-9]*)$/.test(digits) ? Number(digits) : null;
}

/** The volume claims that the StatefulSet controller makes for this ordinal. */
export function claimsOf(set: V1StatefulSet, ordinal: number): string[] {
  const templates = set.spec?.volumeClaimTemplates ?? [];
  return templates.map((template) => `${template.metadata?.name}-${set.metadata?.name}-${ordinal}`);
}

const UNITS: Readonly<Record<string, number>> = {
  ...{ m: 1e-3, '': 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18 },
  ...{ Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40, Pi: 2 ** 50, Ei: 2 ** 60 },
};

/** A quantity of storage (`10Gi`, `1.5G`, `1e9`) in bytes; null where it is none, or not understood. */
export function bytesOf(quantity: string | undefined): number | null {
  const [, number, unit] = /^([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)$/.exec(quantity ?? '') ?? [];
  const factor = UNITS[unit ?? ''];
  return number === undefined || factor === undefined ? null : Math.floor(Number(number) * factor);
}

/** A time as the value of a label, which may hold no colon: 20260131T235959Z. */
export const labelTime = (iso: string): string => `${new Date(iso).toISOString().replace(/[-:]/g, '').slice(0, 15)}Z`;

/** A selector's text. Only what a StatefulSet's own selector holds in practice: StatefulSets may also have matchExpressions, which are written out too. */
export function selectorText(set: V1StatefulSet): string {
  const { matchLabels = {}, matchExpressions = [] } = set.spec?.selector ?? {};
  const labels = Object.entries(matchLabels).map(([key, value]) => `${key}=${value}`);
  const expressions = matchExpressions.map(({ key, operator, values = [] }) => {
    if (operator === 'Exists') return key;
    if (operator === 'DoesNotExist') return `!${key}`;
    return `${key} ${operator === 'In' ? 'in' : 'notin'} (${values.join(',')})`;
  });
  return [...labels, ...expressions].join(',');
}
