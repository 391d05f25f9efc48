/**
 * What the operator asks of the API server. The connection, its deadlines and the names of its errors are the platform's (platform/kubernetes/kube.ts):
 * KUBE_FORBIDDEN, KUBE_REFUSED, KUBE_CONFIG_INVALID, KUBE_CONTEXT_UNKNOWN, and KubeWeather for what another try may mend.
 */
import { randomBytes } from 'node:crypto';
import {
  type CoreV1Event,
  CustomObjectsApi,
  type KubeConfig,
  type KubernetesObject,
  PatchStrategy,
  setHeaderOptions,
} from '@kubernetes/client-node';
import { describeError } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import { apiOf, type Doing, Kube, KubeWeather } from '../platform/kubernetes/kube.ts';
import { Watched } from '../platform/kubernetes/watched.ts';
import type { Claim } from './claims.ts';
import type { Notice } from './decide.ts';
import { labels, RING_CLUSTER, type RingCluster, type RingClusterStatus } from './resource.ts';

/** In managedFields: who filled in spec.nodes, who wrote the status. */
const FIELD_MANAGER = 'ringmaster-operator';
const EVENT_MESSAGE_LENGTH_MAX = 1_000; // the API server's own limit is 1,024 bytes for a note; characters of more than one byte are rare in ours

export interface KubeTarget {
  readonly clusterId: string;
  readonly namespace: string | undefined;
  readonly context: string | undefined;
  readonly kubeconfig: string | undefined;
}

/** What we have filled in is not ours to keep: with an owner, server-side apply (Helm's, GitOps') of another number would be refused as a conflict. */
export const ownsNodes = ({ metadata }: RingCluster): boolean => metadata.managedFields?.some(isNodesEntry) ?? false;

/** Outside of the status we write nothing but spec.nodes. */
const isNodesEntry = (entry: { readonly manager?: string; readonly subresource?: string }): boolean =>
  entry.manager === FIELD_MANAGER && !entry.subresource;

/** Somebody else wrote the resource since it was read: look again. */
export const isConflict = (error: unknown): boolean => error instanceof KubeWeather && error.status === 409;

export class OperatorKube {
  readonly #clusterId: string;
  readonly #kube: Kube;
  readonly #log: Logger;
  readonly #watched: Watched<KubernetesObject>;
  #custom: { config: KubeConfig; api: CustomObjectsApi } | null = null;

  constructor(target: KubeTarget, log: Logger) {
    this.#clusterId = target.clusterId;
    this.#log = log;
    this.#kube = new Kube(target, log);
    this.#watched = new Watched<KubernetesObject>(this.#kube, {
      doing: doing('list', RING_CLUSTER.plural),
      path: `/apis/${RING_CLUSTER.group}/${RING_CLUSTER.version}/namespaces/${this.namespace}/${RING_CLUSTER.plural}`,
      fieldSelector: `metadata.name=${target.clusterId}`,
      list: () => this.#list(),
    });
  }

  get namespace(): string {
    return this.#kube.namespace;
  }

  /** Why changes of the resource are not heard of at present; null: they are. */
  get watchTrouble(): Error | null {
    return this.#watched.trouble;
  }

  /** Calls `changed` whenever the resource may have changed, until the returned function is called. What it says is read afresh: see `read`. */
  watch(changed: () => void): () => void {
    return this.#watched.use(changed);
  }

  /** Null: there is none of this name, or the resource definition is not installed. */
  async read(): Promise<RingCluster | null> {
    return (await this.#ask('get', RING_CLUSTER.plural, () =>
      this.#customApi().getNamespacedCustomObject(this.#place()),
    )) as RingCluster | null;
  }

  /** Refused with a conflict where the resource is not `of` any more. */
  async writeNodes(of: RingCluster, nodes: number): Promise<void> {
    await this.#patch({ metadata: { resourceVersion: of.metadata.resourceVersion }, spec: { nodes } });
  }

  /** Gives up the ownership that `writeNodes` brought; the value stays. A request of its own: one that changes the value makes us its owner again. */
  async releaseNodes(of: RingCluster): Promise<void> {
    const managedFields = of.metadata.managedFields?.filter((entry) => !isNodesEntry(entry));
    await this.#patch({ metadata: { resourceVersion: of.metadata.resourceVersion, managedFields } });
  }

  async #patch(body: object): Promise<void> {
    await this.#ask('patch', RING_CLUSTER.plural, () =>
      this.#customApi().patchNamespacedCustomObject(
        { ...this.#place(), body, fieldManager: FIELD_MANAGER },
        setHeaderOptions('Content-Type', PatchStrategy.MergePatch),
      ),
    );
  }

  /** Refused with a conflict where the resource is not `of` any more. */
  async writeStatus(of: RingCluster, status: RingClusterStatus): Promise<void> {
    const body = {
      metadata: { resourceVersion: of.metadata.resourceVersion },
      status: mergePatch((of.status ?? {}) as Json, status as unknown as Json),
    };
    await this.#ask('patch', `${RING_CLUSTER.plural}/status`, () =>
      this.#customApi().patchNamespacedCustomObjectStatus(
        { ...this.#place(), body, fieldManager: FIELD_MANAGER },
        setHeaderOptions('Content-Type', PatchStrategy.MergePatch),
      ),
    );
  }

  /** For people. Where it cannot be written the log has it: nothing hangs on it. */
  async tell(about: RingCluster, { type, reason, message }: Notice): Promise<void> {
    const { name, namespace, uid, resourceVersion } = about.metadata;
    const { group, version, kind } = RING_CLUSTER;
    const now = new Date();
    const body: CoreV1Event = {
      metadata: { name: `${name}.${randomBytes(8).toString('hex')}`, namespace },
      involvedObject: { apiVersion: `${group}/${version}`, kind, name, namespace, uid, resourceVersion },
      type,
      reason,
      message: message.slice(0, EVENT_MESSAGE_LENGTH_MAX),
      source: { component: FIELD_MANAGER },
      firstTimestamp: now,
      lastTimestamp: now,
      count: 1,
    };
    this.#log[type === 'Warning' ? 'warn' : 'info']({ reason }, message);
    try {
      await this.#kube.ask(doing('create', 'events'), ({ core }) => core.createNamespacedEvent({ namespace, body }));
    } catch (error) {
      this.#log.warn({ reason, error: describeError(error) }, 'an event could not be written');
    }
  }

  /** `spec.replicas` of the cluster's StatefulSets; null where there is none. */
  async replicas(): Promise<{ backend: number | null; postgresql: number | null }> {
    const found = await this.#kube.ask(doing('list', 'statefulsets'), ({ apps }) =>
      apps.listNamespacedStatefulSet({ namespace: this.namespace, labelSelector: this.#selector() }),
    );
    const of = (component: string): number | null => {
      const set = found?.items.find((each) => each.metadata?.labels?.[labels.component] === component);
      return set ? (set.spec?.replicas ?? 1) : null;
    };
    return { backend: of('backend'), postgresql: of('postgresql') };
  }

  /** Volume claims of the cluster's nodes, also of those that left. */
  async claims(): Promise<Claim[]> {
    const found = await this.#kube.ask(doing('list', 'persistentvolumeclaims'), ({ core }) =>
      core.listNamespacedPersistentVolumeClaim({ namespace: this.namespace, labelSelector: this.#selector() }),
    );
    return (found?.items ?? []).map(({ metadata }) => ({
      name: metadata?.name ?? '',
      uid: metadata?.uid ?? '',
      resourceVersion: metadata?.resourceVersion ?? '',
      leftAt: metadata?.labels?.[labels.leftAt] ?? null,
      isBeingDeleted: metadata?.deletionTimestamp !== undefined,
    }));
  }

  /** Names of the claims that any pod of the namespace has as a volume, also one that has ended. */
  async claimsInUse(): Promise<Set<string>> {
    const found = await this.#kube.ask(doing('list', 'pods'), ({ core }) =>
      core.listNamespacedPod({ namespace: this.namespace }),
    );
    const volumes = (found?.items ?? []).flatMap((pod) => pod.spec?.volumes ?? []);
    return new Set(volumes.flatMap((volume) => volume.persistentVolumeClaim?.claimName ?? []));
  }

  /** Only if it is still as it was seen: one that a node has adopted since has lost its label, and is another version. False: it was not deleted. */
  async deleteClaim({ name, uid, resourceVersion }: Claim): Promise<boolean> {
    try {
      const preconditions = { uid, resourceVersion };
      const gone = await this.#kube.ask(doing('delete', 'persistentvolumeclaims', name), ({ core }) =>
        core.deleteNamespacedPersistentVolumeClaim({ name, namespace: this.namespace, body: { preconditions } }),
      );
      return gone !== null;
    } catch (error) {
      if (isConflict(error)) return false;
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#watched.stop();
    await this.#kube.close();
  }

  async #list(): Promise<{ items: KubernetesObject[]; version: string }> {
    const { name, ...place } = this.#place();
    const listed = (await this.#ask('list', RING_CLUSTER.plural, () =>
      this.#customApi().listNamespacedCustomObject({ ...place, fieldSelector: `metadata.name=${name}` }),
    )) as { items: KubernetesObject[]; metadata: { resourceVersion: string } } | null;
    // A back-off and another try: the definition is installed in a moment, or somebody has to do it.
    if (!listed) throw new KubeWeather('the resource definition ringclusters.ringmaster.dev is not installed', 404);
    return { items: listed.items, version: listed.metadata.resourceVersion };
  }

  async #ask<T>(verb: Verb, resource: string, run: () => Promise<T>): Promise<T | null> {
    return await this.#kube.ask(doing(verb, resource, this.#clusterId), run);
  }

  /** Of the credentials that the connection has now: they may have been read again. */
  #customApi(): CustomObjectsApi {
    const { config } = this.#kube.watch;
    if (this.#custom?.config !== config) this.#custom = { config, api: apiOf(config, CustomObjectsApi) };
    return this.#custom.api;
  }

  #place() {
    const { group, version, plural } = RING_CLUSTER;
    return { group, version, plural, namespace: this.namespace, name: this.#clusterId };
  }

  #selector(): string {
    return `${labels.cluster}=${this.#clusterId}`;
  }
}

type Verb = Doing['verb'] | 'create';

/** The platform's own list of verbs and resources is shorter; it only names them in errors. */
const doing = (verb: Verb, resource: string, name?: string): Doing =>
  ({ verb, resource, ...(name === undefined ? {} : { name }) }) as Doing;

type Json = { readonly [key: string]: unknown };

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** RFC 7386: what turns `from` into `to`; null takes a field away. */
export function mergePatch(from: Json, to: Json): Json {
  const patch: Record<string, unknown> = {};
  for (const key of new Set([...Object.keys(from), ...Object.keys(to)])) {
    const [was, is] = [from[key], to[key]];
    if (is === undefined) patch[key] = null;
    else patch[key] = isObject(was) && isObject(is) ? mergePatch(was, is) : is;
  }
  return patch;
}
