/**
 * The two StatefulSets: finding them, reading them, and changing their replicas.
 *
 * Before any change (`checkBefore`):
 *   STATEFULSET_UNKNOWN    no such StatefulSet, or the selector finds several
 *   STATEFULSET_DELETING   it, or its namespace, is being deleted
 *   STATEFULSET_STRATEGY   OnDelete or a partition: new pods would be of another revision than the old ones; or volumes would go with the replicas
 *   STATEFULSET_UNEQUAL    more backends than databases
 *   a rolling update       is waited for: pods come and go by it, and its own trouble must not look like ours; STATEFULSET_ROLLING past the deadline
 *
 * A change is one `update` of the scale subresource with the version that was read: whoever changes something in between makes it a conflict, and then all is
 * read and decided again. Replicas are never set a second time because somebody changed them: that is told instead.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { V1Pod, V1Scale, V1StatefulSet } from '@kubernetes/client-node';
import { CodedError } from '../../kit/errors.ts';
import type { Logger } from '../../kit/log.ts';
import type { KubernetesConfig, SetKind } from './config.ts';
import { FIELD_MANAGER, type Kube, KubeWeather } from './kube.ts';
import { nodeOf, selectorText } from './names.ts';
import type { Look, Patience } from './wait.ts';
import { Watched } from './watched.ts';

/** Status updates of the controller count as changes too, so conflicts come in bursts while pods come and go. */
const CONFLICT_TRIES = 20;
const CONFLICT_PAUSE_MS = 50; // and as much again at random: several workers

export interface Found {
  readonly name: string;
  readonly service: string;
  readonly set: Watched<V1StatefulSet>;
  readonly pods: Watched<V1Pod>;
}

const OTHER_NAMES: Record<SetKind, string> = { backend: 'backend', postgres: 'PostgreSQL' };
const VARIABLES: Record<SetKind, string> = {
  backend: 'RINGMASTER_KUBE_BACKEND',
  postgres: 'RINGMASTER_KUBE_POSTGRES',
};

export class Sets {
  readonly #kube: Kube;
  readonly #config: KubernetesConfig;
  readonly #log: Logger;
  #found: Promise<Record<SetKind, Found>> | null = null;
  readonly #watched = new Set<Watched<V1StatefulSet> | Watched<V1Pod>>();

  constructor(kube: Kube, config: KubernetesConfig, log: Logger) {
    this.#kube = kube;
    this.#config = config;
    this.#log = log;
  }

  /** Found once: a StatefulSet's name, service and selector never change. Forgotten when one is gone. */
  find(): Promise<Record<SetKind, Found>> {
    const finding =
      this.#found ??
      (async () => {
        const [backend, postgres] = await Promise.all([this.#findOne('backend'), this.#findOne('postgres')]);
        return { backend: this.#foundOf(backend), postgres: this.#foundOf(postgres) };
      })();
    this.#found = finding;
    finding.catch(() => {
      if (this.#found === finding) this.#found = null; // asked again next time; the error is the caller's
    });
    return finding;
  }

  stop(): void {
    for (const each of this.#watched) each.stop();
  }

  async #findOne(kind: SetKind): Promise<V1StatefulSet> {
    const { name, selector } = this.#config.sets[kind];
    if (name) {
      const set = await this.#get(name);
      return set ?? (await this.#unknown(kind, `no StatefulSet '${name}' (${VARIABLES[kind]})`));
    }
    const { items } = await this.#list({ labelSelector: selector });
    if (items.length === 1 && items[0]) return items[0];
    const names = items.map((each) => each.metadata?.name).join(', ');
    const found = items.length === 0 ? 'no StatefulSet' : `several StatefulSets (${names})`;
    return this.#unknown(kind, `${found} with the labels ${selector} (${VARIABLES[kind]}_SELECTOR)`);
  }

  async #unknown(kind: SetKind, what: string): Promise<never> {
    this.#found = null;
    const all = (await this.#list({})).items.map((each) => each.metadata?.name ?? '');
    const { namespace } = this.#kube;
    throw new CodedError(
      'STATEFULSET_UNKNOWN',
      `the ${OTHER_NAMES[kind]} StatefulSet is not found: ${what} in the namespace ${namespace}; there ${all.length === 1 ? 'is' : 'are'} ${all.join(', ') || 'none'}`,
      { namespace, kind, statefulSets: all },
    );
  }

  #get(name: string): Promise<V1StatefulSet | null> {
    const { namespace } = this.#kube;
    return this.#kube.ask({ verb: 'get', resource: 'statefulsets', name }, ({ apps }) =>
      apps.readNamespacedStatefulSet({ name, namespace }),
    );
  }

  async #list(by: { labelSelector?: string; fieldSelector?: string }) {
    const { namespace } = this.#kube;
    const list = await this.#kube.ask({ verb: 'list', resource: 'statefulsets' }, ({ apps }) =>
      apps.listNamespacedStatefulSet({ namespace, ...by }),
    );
    return { items: list?.items ?? [], version: list?.metadata?.resourceVersion ?? '' };
  }

  #foundOf(set: V1StatefulSet): Found {
    const name = set.metadata?.name ?? '';
    const { namespace } = this.#kube;
    const fieldSelector = `metadata.name=${name}`;
    const labelSelector = selectorText(set);
    const found = {
      name,
      service: set.spec?.serviceName ?? name,
      set: new Watched<V1StatefulSet>(this.#kube, {
        doing: { resource: 'statefulsets', name },
        path: `/apis/apps/v1/namespaces/${namespace}/statefulsets`,
        fieldSelector,
        list: () => this.#list({ fieldSelector }),
      }),
      pods: new Watched<V1Pod>(this.#kube, {
        doing: { resource: 'pods' },
        path: `/api/v1/namespaces/${namespace}/pods`,
        labelSelector,
        list: () => this.listPods(labelSelector),
      }),
    };
    this.#watched.add(found.set).add(found.pods);
    return found;
  }

  async listPods(labelSelector: string) {
    const { namespace } = this.#kube;
    const list = await this.#kube.ask({ verb: 'list', resource: 'pods' }, ({ core }) =>
      core.listNamespacedPod({ namespace, labelSelector }),
    );
    return { items: list?.items ?? [], version: list?.metadata?.resourceVersion ?? '' };
  }

  /** As it is now, from the API server. */
  async read(kind: SetKind): Promise<V1StatefulSet> {
    const { name } = (await this.find())[kind];
    return (await this.#get(name)) ?? (await this.#unknown(kind, `no StatefulSet '${name}' any more`));
  }

  /** Both, each as it is now; of one moment only if nothing changes meanwhile. */
  async readBoth(): Promise<Record<SetKind, V1StatefulSet>> {
    const [backend, postgres] = await Promise.all([this.read('backend'), this.read('postgres')]);
    return { backend, postgres };
  }

  /** Resolves when replicas may be changed. Who calls it decides again afterwards: it may have waited for long. */
  async checkBefore(patience: Patience): Promise<void> {
    await this.#checkOnce();
    const found = await this.find();
    for (const kind of ['postgres', 'backend'] as const) {
      if (!rollingOf(await this.read(kind))) continue;
      await patience.until(
        [found[kind].set],
        () => this.#lookRolled(kind),
        ({ subject, message }, since) =>
          new CodedError('STATEFULSET_ROLLING', `the rolling update of ${subject} does not end: ${message}`, {
            statefulSet: subject,
            message,
            since,
          }),
      );
    }
  }

  async #lookRolled(kind: SetKind): Promise<Look<null>> {
    const found = (await this.find())[kind];
    const cached = found.set.get(found.name);
    // Where the list says that it goes on there is no need to ask.
    const rolling = (cached && rollingOf(cached)) || rollingOf(await this.read(kind));
    if (!rolling) return { done: null };
    const reason = 'RollingUpdate';
    return { notYet: { subject: found.name, kind: 'rolling', reason, message: rolling, mendsByWaiting: true } };
  }

  async #checkOnce(): Promise<void> {
    const sets = await this.readBoth();
    for (const kind of ['backend', 'postgres'] as const) checkSet(sets[kind]);
    if (replicasOf(sets.backend) <= replicasOf(sets.postgres)) return;
    // Read one after the other, while another worker adds or removes a node, they may be of two moments. What is so twice is so.
    const postgres = await this.read('postgres');
    const backend = await this.read('backend');
    const [backends, databases] = [replicasOf(backend), replicasOf(postgres)];
    if (backends <= databases) return;
    const [b, p] = [backend.metadata?.name, postgres.metadata?.name];
    throw new CodedError(
      'STATEFULSET_UNEQUAL',
      `${b} has ${backends} replicas, ${p} only ${databases}: a backend without its database. Nothing is changed. Give it its database: kubectl scale statefulset ${p} --replicas=${backends}`,
      { backend: { name: b, replicas: backends }, postgres: { name: p, replicas: databases } },
    );
  }

  /**
   * Sets the replicas once, to what `decide` says, or leaves them. `decide` sees the scale that the change is conditional on; it is asked again after a
   * conflict, and may throw. Returns the replicas that it found.
   */
  async scale(kind: SetKind, decide: (replicas: number) => Promise<number | null> | number | null): Promise<number> {
    const { name } = (await this.find())[kind];
    const { namespace } = this.#kube;
    for (let attempt = 1; ; attempt += 1) {
      const scale = await this.#readScale(kind, name);
      const has = scale.spec?.replicas ?? 0;
      const wanted = await decide(has);
      if (wanted === null || wanted === has) return has;
      try {
        const done = await this.#kube.ask({ verb: 'update', resource: 'statefulsets/scale', name }, ({ apps }) =>
          apps.replaceNamespacedStatefulSetScale({
            name,
            namespace,
            fieldManager: FIELD_MANAGER,
            body: { ...scale, spec: { replicas: wanted } },
          }),
        );
        if (!done) return await this.#unknown(kind, `no StatefulSet '${name}' any more`);
        this.#log.info({ statefulSet: name, from: has, to: wanted }, `replicas of ${name}: ${has} → ${wanted}`);
        return has;
      } catch (error) {
        if (!(error instanceof KubeWeather) || error.status !== 409 || attempt >= CONFLICT_TRIES) throw error;
        await sleep(CONFLICT_PAUSE_MS * (1 + Math.random()));
      }
    }
  }

  async #readScale(kind: SetKind, name: string): Promise<V1Scale> {
    const { namespace } = this.#kube;
    const scale = await this.#kube.ask({ verb: 'get', resource: 'statefulsets/scale', name }, ({ apps }) =>
      apps.readNamespacedStatefulSetScale({ name, namespace }),
    );
    return scale ?? (await this.#unknown(kind, `no StatefulSet '${name}' any more`));
  }

  /** Fewer than `ordinal` needs, while it is waited for. */
  lowered(set: V1StatefulSet, ordinal: number): CodedError {
    const [name, has, by] = [set.metadata?.name, replicasOf(set), lastScaledBy(set)];
    const node = nodeOf(ordinal);
    return new CodedError(
      'REPLICAS_LOWERED',
      `the replicas of ${name} were set to ${has} by ${by}, while ${node} is wanted, which needs ${ordinal + 1}. They were not put back: find out why; then \`ringmaster resume\` sets them again, or cancel the operation`,
      { statefulSet: name, node, replicas: has, needed: ordinal + 1, by },
    );
  }

  /** More than there may be while `ordinal` is taken away. */
  raised(set: V1StatefulSet, ordinal: number): CodedError {
    const [name, has, by] = [set.metadata?.name, replicasOf(set), lastScaledBy(set)];
    const node = nodeOf(ordinal);
    return new CodedError(
      'REPLICAS_RAISED',
      `the replicas of ${name} were set to ${has} by ${by}, while ${node} was being removed. They were not lowered again: find out why; then \`ringmaster resume\` goes on with the removal, or cancel the operation`,
      { statefulSet: name, node, replicas: has, by, above: namesAbove(ordinal, has) },
    );
  }
}

export const replicasOf = (set: V1StatefulSet): number => set.spec?.replicas ?? 1; // the API's default

/** Nodes above this one, the highest first. */
export const namesAbove = (ordinal: number, replicas: number): string[] =>
  Array.from({ length: Math.max(0, replicas - 1 - ordinal) }, (_, index) => nodeOf(replicas - 1 - index));

function checkSet(set: V1StatefulSet): void {
  const name = set.metadata?.name;
  if (set.metadata?.deletionTimestamp)
    throw new CodedError('STATEFULSET_DELETING', `${name} is being deleted`, { statefulSet: name });
  const { updateStrategy, persistentVolumeClaimRetentionPolicy: retention } = set.spec ?? {};
  const refuse = (field: string, has: unknown, wanted: string, why: string): never => {
    throw new CodedError(
      'STATEFULSET_STRATEGY',
      `${name} has ${field} ${has}: ${why}. Set it to ${wanted}, then resume`,
      {
        statefulSet: name,
        field,
        has,
        wanted,
      },
    );
  };
  if (updateStrategy?.type === 'OnDelete')
    refuse(
      'spec.updateStrategy.type',
      'OnDelete',
      'RollingUpdate',
      'new pods would be of another revision than the old ones',
    );
  const partition = updateStrategy?.rollingUpdate?.partition ?? 0;
  if (partition > 0)
    refuse(
      'spec.updateStrategy.rollingUpdate.partition',
      partition,
      '0',
      'pods from that ordinal on would be of another revision than those below',
    );
  if (retention?.whenScaled === 'Delete')
    refuse(
      'spec.persistentVolumeClaimRetentionPolicy.whenScaled',
      'Delete',
      'Retain',
      'a node’s volume would go with its pod, without anybody having looked whether it is empty',
    );
}

/** What says that a rolling update is under way; null: none is. */
function rollingOf(set: V1StatefulSet): string | null {
  const { generation = 0 } = set.metadata ?? {};
  const {
    observedGeneration = 0,
    currentRevision,
    updateRevision,
    updatedReplicas = 0,
    replicas = 0,
  } = set.status ?? {};
  if (observedGeneration < generation)
    return `the controller has seen generation ${observedGeneration} of ${generation}`;
  // New pods of a scale-up are of the one revision, or of the new one: neither makes the two differ.
  if (currentRevision && updateRevision && currentRevision !== updateRevision)
    return `${updatedReplicas} of ${replicas} pods are of the new revision ${updateRevision}`;
  return null;
}

/** Who set the replicas last, as far as the API server tells. */
function lastScaledBy(set: V1StatefulSet): string {
  const entries = (set.metadata?.managedFields ?? []).filter((entry) => {
    const spec = (entry.fieldsV1 as Record<string, Record<string, unknown>> | undefined)?.['f:spec'];
    return spec && 'f:replicas' in spec;
  });
  const last = entries.sort((a, b) => Number(new Date(b.time ?? 0)) - Number(new Date(a.time ?? 0)))[0];
  return last?.manager ? `'${last.manager}'` : 'somebody';
}
