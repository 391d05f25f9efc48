/**
 * A container's environment, command and arguments: references looked up, $(VAR) expanded, paths of mounts replaced by the real folders (there is no mount
 * namespace), and 0.0.0.0 by the pod's address (there is no network namespace either).
 */
import type { V1Container, V1EnvVarSource, V1Pod } from '@kubernetes/client-node';
import { type Api, isGone } from './api.ts';

/** Why a container cannot be made, in a kubelet's words: CreateContainerConfigError. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

export interface Mount {
  mountPath: string;
  /** Where it really is. */
  folder: string;
}

export interface Place {
  pod: V1Pod;
  address: string;
  hostAddress: string;
  node: string;
  api: Api;
  mounts: readonly Mount[];
  signal: AbortSignal;
}

type Kind = 'secrets' | 'configmaps';

/** Decoded data of a secret or config map; null where it is missing. */
export async function dataOf(
  api: Api,
  kind: Kind,
  namespace: string,
  name: string,
  signal: AbortSignal,
): Promise<Record<string, Buffer> | null> {
  try {
    const found: { data?: Record<string, string>; binaryData?: Record<string, string> } = await api.get(
      `/api/v1/namespaces/${namespace}/${kind}/${name}`,
      signal,
    );
    const encoded = kind === 'secrets' ? (found.data ?? {}) : (found.binaryData ?? {});
    const plain = kind === 'secrets' ? {} : (found.data ?? {});
    return Object.fromEntries([
      ...Object.entries(encoded).map(([key, value]) => [key, Buffer.from(value, 'base64')] as const),
      ...Object.entries(plain).map(([key, value]) => [key, Buffer.from(value, 'utf8')] as const),
    ]);
  } catch (err) {
    if (isGone(err)) return null;
    throw err;
  }
}

export interface Environment {
  /** As the process gets it. */
  env: Record<string, string>;
  /** With the paths of the manifest: $(VAR) in commands is expanded from these, and paths are replaced once, afterwards. */
  raw: Record<string, string>;
}

/** `given`: what is there before the container's own variables; its paths are real ones. */
export async function environmentOf(
  container: V1Container,
  place: Place,
  given: Readonly<Record<string, string>>,
): Promise<Environment> {
  const own: Record<string, string> = {};
  const { namespace = '' } = place.pod.metadata ?? {};
  for (const from of container.envFrom ?? []) {
    const [kind, ref]: [Kind, typeof from.secretRef] = from.secretRef
      ? ['secrets', from.secretRef]
      : ['configmaps', from.configMapRef];
    const data = await dataOf(place.api, kind, namespace, ref?.name ?? '', place.signal);
    if (!data && !ref?.optional) throw new ConfigError(`${wordFor(kind)} "${ref?.name}" not found`);
    for (const [key, value] of Object.entries(data ?? {})) own[(from.prefix ?? '') + key] = value.toString('utf8');
  }
  for (const { name, value, valueFrom } of container.env ?? []) {
    const resolved = valueFrom
      ? await referred(valueFrom, container, place)
      : expand(value ?? '', { ...given, ...own });
    if (resolved !== null) own[name] = resolved;
  }
  const env = { ...given };
  for (const [name, value] of Object.entries(own))
    env[name] = value === '0.0.0.0' ? place.address : relocate(value, place.mounts);
  return { env, raw: { ...given, ...own } };
}

async function referred(from: V1EnvVarSource, container: V1Container, place: Place): Promise<string | null> {
  if (from.secretKeyRef || from.configMapKeyRef) {
    const kind: Kind = from.secretKeyRef ? 'secrets' : 'configmaps';
    const { name = '', key, optional } = (from.secretKeyRef ?? from.configMapKeyRef)!;
    const { namespace = '' } = place.pod.metadata ?? {};
    const data = await dataOf(place.api, kind, namespace, name, place.signal);
    const value = data?.[key];
    if (value) return value.toString('utf8');
    if (optional) return null;
    if (!data) throw new ConfigError(`${wordFor(kind)} "${name}" not found`);
    throw new ConfigError(
      `couldn't find key ${key} in ${kind === 'secrets' ? 'Secret' : 'ConfigMap'} ${namespace}/${name}`,
    );
  }
  if (from.fieldRef) return fieldOf(from.fieldRef.fieldPath, place);
  if (from.resourceFieldRef) return resourceOf(from.resourceFieldRef, container);
  throw new ConfigError('a valueFrom that the kubelet stand-in does not know');
}

const wordFor = (kind: Kind) => (kind === 'secrets' ? 'secret' : 'configmap');

/** A field of a pod for the downward API. */
export function fieldOf(path: string, { pod, address, hostAddress, node }: Place): string {
  const { metadata, spec } = pod;
  const keyed = /^metadata\.(labels|annotations)\['([^']+)'\]$/.exec(path);
  if (keyed) return metadata?.[keyed[1] as 'labels' | 'annotations']?.[keyed[2] ?? ''] ?? '';
  if (path === 'metadata.labels' || path === 'metadata.annotations') {
    const map = metadata?.[path === 'metadata.labels' ? 'labels' : 'annotations'] ?? {};
    return Object.entries(map)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, value]) => `${key}=${JSON.stringify(value)}`)
      .join('\n');
  }
  switch (path) {
    case 'metadata.name':
      return metadata?.name ?? '';
    case 'metadata.namespace':
      return metadata?.namespace ?? '';
    case 'metadata.uid':
      return metadata?.uid ?? '';
    case 'spec.nodeName':
      return node;
    case 'spec.serviceAccountName':
      return spec?.serviceAccountName ?? 'default';
    case 'status.podIP':
    case 'status.podIPs':
      return address;
    case 'status.hostIP':
    case 'status.hostIPs':
      return hostAddress;
    default:
      throw new ConfigError(`unsupported fieldPath: ${path}`);
  }
}

/** What this node has, where a container sets no limit. */
const ALLOCATABLE: Record<string, string> = { cpu: '64', memory: '64Gi', 'ephemeral-storage': '64Gi' };

function resourceOf(ref: { resource: string; divisor?: string }, container: V1Container): string {
  const [what = '', ...rest] = ref.resource.split('.');
  const resource = rest.join('.');
  const { limits, requests } = container.resources ?? {};
  const value = (what === 'limits' ? (limits?.[resource] ?? ALLOCATABLE[resource]) : requests?.[resource]) ?? '0';
  const divisor = quantity(ref.divisor ?? '1') || 1; // the API server writes '0' for none
  return String(Math.ceil(quantity(value) / divisor));
}

const FACTORS: Record<string, number> = {
  '': 1,
  m: 1e-3,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
};

export function quantity(text: string): number {
  const match = /^([0-9.]+(?:[eE][+-]?\d+)?)([a-zA-Z]{0,2})$/.exec(text);
  const factor = FACTORS[match?.[2] ?? ''];
  if (!match || factor === undefined) throw new ConfigError(`not a quantity: ${text}`);
  return Number(match[1]) * factor;
}

/** $(NAME) by its value, where it has one; $$ is a plain $. */
export function expand(text: string, values: Readonly<Record<string, string>>): string {
  return text.replace(/\$(?:\$|\(([^)]*)\))/g, (whole, name: string | undefined) =>
    name === undefined ? '$' : (values[name] ?? whole),
  );
}

/** What may stand right before a path in a text, so that `postgres://host:5432/data` holds no path `/data`. */
const BEFORE = String.raw`(^|[\s=:,;'"\`(]|file://)`;
const AFTER = String.raw`(?=$|[/\s:,;'"\`)])`;

/** Paths of mounts by the folders where they are; the longest first, at path boundaries only. */
export function relocate(text: string, mounts: readonly Mount[]): string {
  if (mounts.length === 0 || !text.includes('/')) return text;
  const byPath = new Map(mounts.map(({ mountPath, folder }) => [trimmed(mountPath), folder]));
  const paths = [...byPath.keys()]
    .sort((a, b) => b.length - a.length)
    .map((path) => path.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'));
  return text.replace(
    new RegExp(`${BEFORE}(${paths.join('|')})${AFTER}`, 'g'),
    (_whole, before: string, path: string) => before + (byPath.get(path) ?? path),
  );
}

const trimmed = (path: string) => path.replace(/(?<=.)\/+$/, '');
