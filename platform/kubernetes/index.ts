/**
 * The platform of a Kubernetes cluster: node-<i> is pod i of two StatefulSets, the backend's and PostgreSQL's. Only their replicas are changed, and labels of
 * volume claims; pods are made and deleted by the StatefulSet controller.
 *
 *   up     claims of that ordinal adopted → PostgreSQL replicas ≥ i+1 → its pods Ready → backend replicas ≥ i+1 → pod Ready → its control API answers
 *   down   only the highest ordinal (REPLICAS_CHANGED) → backend replicas = i → pod gone → last look into the database → claims labelled as left
 *          → PostgreSQL replicas = i → pod gone → claims deleted, where that is wanted
 *
 * Every step can be repeated, and a killed worker's next attempt goes on from what the cluster says. Invariants: never fewer replicas on the way up, never more
 * on the way down; never more backends than databases; replicas that somebody else changed are told (REPLICAS_LOWERED, REPLICAS_RAISED), never fought over.
 *
 * What the service account of whoever uses this needs, in the namespace of the nodes (a Role; nothing of the cluster's):
 *   apps  statefulsets              get, list, watch
 *   apps  statefulsets/scale        get, update
 *   ""    pods                      get, list, watch
 *   ""    persistentvolumeclaims    get, list, watch, patch, delete
 *   ""    events                    list                      (without it, reasons are poorer; nothing else is)
 * and no create, no delete of pods or StatefulSets, no secrets.
 */
import type { CoreV1Event, V1PersistentVolumeClaim, V1Pod, V1StatefulSet } from '@kubernetes/client-node';
import { Agent, fetch } from 'undici';
import { CodedError } from '../../kit/errors.ts';
import type { Logger } from '../../kit/log.ts';
import type {
  DatabaseAddress,
  NodeCondition,
  NodeEndpoints,
  NodeSummary,
  Platform,
  Removal,
  Room,
} from '../platform.ts';
import { Claims, isLeft } from './claims.ts';
import { type KubernetesConfig, kubernetesConfig, type SetKind } from './config.ts';
import { Kube, KubeWeather } from './kube.ts';
import { bytesOf, claimsOf, nodeOf, ordinalOf, ordinalOfPod, podOf, selectorText } from './names.ts';
import { namesAbove, replicasOf, Sets } from './sets.ts';
import { type Look, type NotYet, Patience } from './wait.ts';
import { isReady, whyNotReady } from './why.ts';

export type { KubernetesConfig } from './config.ts';
export { kubernetesConfig, kubernetesEnvironment } from './config.ts';

/** A node's names do not change, so a short memory spares the API server; a removal by another worker is noticed within this. */
const DESCRIBED_FOR_MS = 5000;
/** And while the API server is away a move must go on (P6): the last word holds for as long as an outage of it may last. */
const DESCRIBED_WITHOUT_ANSWER_FOR_MS = 600_000;
const EVENTS_AT_MOST_EVERY_MS = 1000; // reasons are for people
const EVENTS_MAX = 200;
const CONTROL_TIMEOUT_MS = 5000; // one small request in the same network
const CONTROL_AGAIN_MS = 250;
const CONTROL_PATH = '/control/v1/status';

export async function createKubernetesPlatform(
  env: Record<string, string | undefined>,
  log: Logger,
): Promise<Platform & { close(): Promise<void> }> {
  return new KubernetesPlatform(kubernetesConfig(env), log);
}

class KubernetesPlatform implements Platform {
  readonly #config: KubernetesConfig;
  readonly #log: Logger;
  readonly #kube: Kube;
  readonly #sets: Sets;
  readonly #claims: Claims;
  readonly #agent = new Agent({ connect: { timeout: CONTROL_TIMEOUT_MS } });
  readonly #described = new Map<string, { endpoints: NodeEndpoints; at: number }>();
  readonly #events = new Map<string, { at: number; items: Promise<CoreV1Event[]> }>();
  #eventsForbidden = false;
  #closed: Promise<void> | null = null;

  constructor(config: KubernetesConfig, log: Logger) {
    this.#config = config;
    this.#log = log;
    this.#kube = new Kube(config, log);
    this.#sets = new Sets(this.#kube, config, log);
    this.#claims = new Claims(this.#kube, log);
  }

  async ensureNode(node: string, signal?: AbortSignal): Promise<NodeEndpoints> {
    const ordinal = ordinalOf(node);
    const patience = this.#patience(node, signal);
    // Its own claims in any case: somebody may have raised the replicas before us.
    await this.#adopt(await this.#sets.readBoth(), ordinal, ordinal, patience);
    await this.#raise('postgres', ordinal, patience);
    // Databases of all backends that the next step makes: another call may be on its way to raise the ones between, or not.
    const lowest = Math.min(ordinal, replicasOf(await this.#sets.read('backend')));
    const databases = Array.from({ length: ordinal - lowest + 1 }, (_, index) => lowest + index);
    await this.#waitReady('postgres', databases, patience);
    await this.#raise('backend', ordinal, patience);
    return this.#waitServing(ordinal, patience);
  }

  async #raise(kind: SetKind, ordinal: number, patience: Patience): Promise<void> {
    if (replicasOf(await this.#sets.read(kind)) > ordinal) return;
    await this.#sets.checkBefore(patience);
    const sets = await this.#sets.readBoth();
    let adopted = replicasOf(sets[kind]); // claims from here on: before the scale is read, so that its change can follow at once
    await this.#adopt(sets, adopted, ordinal, patience);
    await this.#sets.scale(kind, async (replicas) => {
      if (replicas > ordinal) return null;
      if (replicas < adopted) await this.#adopt(sets, replicas, adopted - 1, patience);
      adopted = Math.min(adopted, replicas);
      return ordinal + 1;
    });
  }

  /** Claims of these ordinals are in use from here on: before their pods are wanted, so that no clean-up takes one under them. */
  async #adopt(sets: Record<SetKind, V1StatefulSet>, first: number, last: number, patience: Patience): Promise<void> {
    for (let ordinal = first; ordinal <= last; ordinal += 1) {
      for (const name of bothClaims(sets, ordinal)) await this.#claims.adopt(name, patience);
    }
  }

  async #waitReady(kind: SetKind, ordinals: readonly number[], patience: Patience): Promise<V1Pod[]> {
    const { set, pods } = (await this.#sets.find())[kind];
    return patience.until([set, pods], () => this.#lookReady(kind, ordinals), notReady);
  }

  async #waitServing(ordinal: number, patience: Patience): Promise<NodeEndpoints> {
    const { set, pods } = (await this.#sets.find()).backend;
    return patience.until(
      [set, pods],
      async () => {
        const look = await this.#lookReady('backend', [ordinal]);
        if ('notYet' in look) return look;
        const endpoints = await this.#endpoints(ordinal);
        const trouble = await this.#askControl(endpoints, look.done[0]?.metadata?.name ?? '');
        if (trouble) return { notYet: trouble };
        this.#described.set(endpoints.node, { endpoints, at: performance.now() });
        return { done: endpoints };
      },
      (last, since) =>
        last.kind !== 'control'
          ? notReady(last, since)
          : new CodedError('NODE_NOT_SERVING', `${nodeOf(ordinal)} does not serve: ${last.message}`, {
              node: nodeOf(ordinal),
              message: last.message,
              since,
            }),
    );
  }

  /** Done when all are Ready, by the list and by the API server itself: the list may be behind, and tell of pods that are gone. */
  async #lookReady(kind: SetKind, ordinals: readonly number[]): Promise<Look<V1Pod[]>> {
    const found = (await this.#sets.find())[kind];
    const highest = Math.max(...ordinals);
    const listed = found.set.get(found.name);
    if (!listed || listed.metadata?.deletionTimestamp || replicasOf(listed) <= highest) {
      const now = await this.#sets.read(kind);
      if (now.metadata?.deletionTimestamp)
        throw new CodedError('STATEFULSET_DELETING', `${found.name} is being deleted`, { statefulSet: found.name });
      if (replicasOf(now) <= highest) throw this.#sets.lowered(now, highest);
    }
    for (const ordinal of ordinals) {
      const pod = found.pods.get(podOf(found.name, ordinal)) ?? null;
      if (!pod || !isReady(pod)) return { notYet: await this.#why(kind, ordinal, pod) };
    }
    const now = await Promise.all(ordinals.map((ordinal) => this.#readPod(podOf(found.name, ordinal))));
    for (const [index, pod] of now.entries()) {
      if (!pod || !isReady(pod)) return { notYet: await this.#why(kind, ordinals[index] ?? 0, pod) };
    }
    return { done: now.filter((pod) => pod !== null) };
  }

  async #why(kind: SetKind, ordinal: number, pod: V1Pod | null): Promise<NotYet> {
    const found = (await this.#sets.find())[kind];
    const name = podOf(found.name, ordinal);
    const set = found.set.get(found.name);
    const claims = pod && !pod.spec?.nodeName && set ? await this.#readClaims(claimsOf(set, ordinal)) : [];
    const unbound = claims.filter((claim) => claim.status?.phase !== 'Bound');
    const [podEvents, setEvents, ...claimEvents] = await Promise.all([
      pod ? this.#eventsOf('Pod', name) : [],
      pod ? [] : this.#eventsOf('StatefulSet', found.name),
      ...unbound.map((claim) => this.#eventsOf('PersistentVolumeClaim', claim.metadata?.name ?? '')),
    ]);
    const seen = { name, pod, podEvents, setEvents, claims, claimEvents: claimEvents.flat(), now: Date.now() };
    const why = whyNotReady(seen);
    // It got ready between the two looks.
    return why
      ? { subject: name, ...why }
      : { subject: name, kind: 'starting', reason: 'Ready', message: 'it was ready just now', mendsByWaiting: true };
  }

  #readPod(name: string): Promise<V1Pod | null> {
    const { namespace } = this.#kube;
    return this.#kube.ask({ verb: 'get', resource: 'pods', name }, ({ core }) =>
      core.readNamespacedPod({ name, namespace }),
    );
  }

  async #readClaims(names: readonly string[]): Promise<V1PersistentVolumeClaim[]> {
    const claims = await Promise.all(names.map((name) => this.#claims.read(name)));
    return claims.filter((claim) => claim !== null);
  }

  /** Not watched: events are many, and only words. */
  #eventsOf(kind: string, name: string): Promise<CoreV1Event[]> {
    const key = `${kind}/${name}`;
    const known = this.#events.get(key);
    if (known && performance.now() - known.at < EVENTS_AT_MOST_EVERY_MS) return known.items;
    const items = this.#listEvents(kind, name);
    this.#events.set(key, { at: performance.now(), items });
    // Weather: asked again at once. The error itself is the caller's.
    items.catch(() => this.#events.delete(key));
    return items;
  }

  async #listEvents(kind: string, name: string): Promise<CoreV1Event[]> {
    if (this.#eventsForbidden) return [];
    const { namespace } = this.#kube;
    const fieldSelector = `involvedObject.kind=${kind},involvedObject.name=${name}`;
    try {
      const list = await this.#kube.ask({ verb: 'list', resource: 'events' }, ({ core }) =>
        core.listNamespacedEvent({ namespace, fieldSelector, limit: EVENTS_MAX }),
      );
      return list?.items ?? [];
    } catch (error) {
      if (!(error instanceof CodedError)) throw error;
      // A missing right to read reasons must not stop an operation that needs none.
      this.#eventsForbidden = true;
      this.#log.warn({ code: error.code }, `reasons of pods will be poorer: ${error.message}`);
      return [];
    }
  }

  async #askControl(endpoints: NodeEndpoints, pod: string): Promise<NotYet | null> {
    const url = `${endpoints.controlUrl}${CONTROL_PATH}`;
    const notYet = (message: string, mendsByWaiting: boolean): NotYet => ({
      subject: pod,
      kind: 'control',
      reason: 'ControlApi',
      message: `${url} ${message}`,
      mendsByWaiting,
      lookAgainMs: CONTROL_AGAIN_MS,
    });
    try {
      const response = await fetch(url, {
        dispatcher: this.#agent,
        headers: { authorization: `Bearer ${endpoints.controlToken}` },
        signal: AbortSignal.timeout(CONTROL_TIMEOUT_MS),
      });
      await response.body?.cancel();
      if (response.status === 200) return null;
      // It is up, and does not know our token, or is no node: only a person can change that.
      const refused = response.status >= 400 && response.status < 500;
      const hint = response.status === 401 || response.status === 403 ? ' (RINGMASTER_KUBE_CONTROL_TOKEN)' : '';
      return notYet(`answers ${response.status}${hint}`, !refused);
    } catch (error) {
      const cause = (error as { cause?: { code?: string } }).cause;
      return notYet(`gives no answer (${cause?.code ?? (error as Error).name})`, true);
    }
  }

  async describeNode(node: string): Promise<NodeEndpoints | null> {
    const ordinal = ordinalOf(node);
    // An address that holds the pod's IP changes with the pod: it is asked for every time.
    const known = this.#usesIp ? undefined : this.#described.get(node);
    const age = known ? performance.now() - known.at : Number.POSITIVE_INFINITY;
    if (known && age < DESCRIBED_FOR_MS) return known.endpoints;
    try {
      if (replicasOf(await this.#sets.read('backend')) <= ordinal) {
        this.#described.delete(node);
        return null;
      }
      const endpoints = await this.#endpoints(ordinal);
      this.#described.set(node, { endpoints, at: performance.now() });
      return endpoints;
    } catch (error) {
      if (error instanceof KubeWeather && known && age < DESCRIBED_WITHOUT_ANSWER_FOR_MS) return known.endpoints;
      throw error;
    }
  }

  get #usesIp(): boolean {
    return this.#config.host.includes('{ip}');
  }

  async #endpoints(ordinal: number): Promise<NodeEndpoints> {
    const { ports, controlToken } = this.#config;
    const [host, database] = await Promise.all([this.#host('backend', ordinal), this.#database(ordinal)]);
    return {
      node: nodeOf(ordinal),
      url: `http://${host}:${ports.gateway}`,
      controlUrl: `http://${host}:${ports.control}`,
      controlToken,
      database,
    };
  }

  async #database(ordinal: number): Promise<DatabaseAddress> {
    const { database, ports } = this.#config;
    const { name, user, password } = database;
    return { host: await this.#host('postgres', ordinal), port: ports.postgres, user, password, database: name };
  }

  async #host(kind: SetKind, ordinal: number): Promise<string> {
    const found = (await this.#sets.find())[kind];
    const pod = podOf(found.name, ordinal);
    const ip = this.#usesIp ? await this.#ipOf(pod) : '';
    const values: Record<string, string> = {
      pod,
      service: found.service,
      namespace: this.#kube.namespace,
      ip,
      ordinal: String(ordinal),
    };
    return this.#config.host.replace(/\{(\w+)\}/g, (_, key: string) => values[key] ?? '');
  }

  async #ipOf(pod: string): Promise<string> {
    const ip = (await this.#readPod(pod))?.status?.podIP;
    if (!ip) throw new CodedError('NODE_NOT_READY', `the pod ${pod} has no address yet`, { pod });
    return ip.includes(':') ? `[${ip}]` : ip;
  }

  async listNodes(): Promise<NodeSummary[]> {
    const sets = await this.#sets.readBoth();
    const found = await this.#sets.find();
    const [backend, postgres] = await Promise.all(
      (['backend', 'postgres'] as const).map(async (kind) => {
        const pods = new Map<number, V1Pod>();
        for (const pod of await this.#podsOf(sets[kind])) {
          const ordinal = ordinalOfPod(found[kind].name, pod.metadata?.name ?? '');
          if (ordinal !== null) pods.set(ordinal, pod);
        }
        return { replicas: replicasOf(sets[kind]), pods };
      }),
    );
    if (!backend || !postgres) return [];
    // Pods above the replicas are on their way out: nodes still.
    const highest = Math.max(
      backend.replicas - 1,
      postgres.replicas - 1,
      ...backend.pods.keys(),
      ...postgres.pods.keys(),
    );
    return Array.from({ length: highest + 1 }, (_, ordinal) => ({
      node: nodeOf(ordinal),
      condition: conditionOf(
        { wanted: ordinal < backend.replicas, pod: backend.pods.get(ordinal) },
        { wanted: ordinal < postgres.replicas, pod: postgres.pods.get(ordinal) },
      ),
    }));
  }

  /** Its size alone, and of the only claim: which of several holds the data nobody tells. What is used is the database's to say. */
  async roomOf(node: string): Promise<Room | null> {
    const names = claimsOf(await this.#sets.read('postgres'), ordinalOf(node));
    const [name] = names;
    if (name === undefined || names.length > 1) return null;
    const totalBytes = bytesOf((await this.#claims.read(name))?.status?.capacity?.['storage']);
    return totalBytes === null ? null : { totalBytes, freeBytes: null };
  }

  async #podsOf(set: V1StatefulSet): Promise<V1Pod[]> {
    const { items } = await this.#sets.listPods(selectorText(set));
    return items;
  }

  async removeNode(node: string, removal: Removal, signal?: AbortSignal): Promise<void> {
    const ordinal = ordinalOf(node);
    const patience = this.#patience(node, signal);
    this.#described.delete(node);
    await this.#lower('backend', ordinal, patience);
    await this.#waitGone('backend', ordinal, patience);
    const looked = await this.#lastLook(ordinal, removal, patience);
    const claims = bothClaims(await this.#sets.readBoth(), ordinal);
    // Who may be deleted below: what somebody has looked at, now or in an attempt before.
    const before = await this.#readClaims(claims);
    const empty = before.filter((claim) => looked || isLeft(claim)).map((claim) => claim.metadata?.name ?? '');
    for (const claim of claims) await this.#claims.leave(claim, removal.left);
    await this.#lower('postgres', ordinal, patience);
    await this.#waitGone('postgres', ordinal, patience);
    if (!removal.deleteData) return;
    for (const claim of claims) {
      if (empty.includes(claim)) await this.#claims.delete(claim, patience);
      else this.#log.warn({ node, claim }, `keeps ${claim}: its database was gone before anybody could look into it`);
    }
  }

  async #lower(kind: SetKind, ordinal: number, patience: Patience): Promise<void> {
    // First what needs no change, and what must not be: neither has to wait for a rolling update.
    const sets = await this.#sets.readBoth();
    this.#refuseAbove(sets, ordinal);
    if (replicasOf(sets[kind]) <= ordinal) return;
    await this.#sets.checkBefore(patience);
    await this.#sets.scale(kind, async (replicas) => {
      const now = await this.#sets.readBoth();
      this.#refuseAbove(now, ordinal);
      // A backend must never outlive its database.
      if (kind === 'postgres' && replicasOf(now.backend) > ordinal) throw this.#sets.raised(now.backend, ordinal);
      return replicas > ordinal ? ordinal : null;
    });
  }

  #refuseAbove(sets: Record<SetKind, V1StatefulSet>, ordinal: number): void {
    const replicas = Math.max(replicasOf(sets.backend), replicasOf(sets.postgres));
    const above = namesAbove(ordinal, replicas);
    if (above.length === 0) return;
    throw new CodedError(
      'REPLICAS_CHANGED',
      `${nodeOf(ordinal)} is not the highest any more: ${sets.backend.metadata?.name} has ${replicasOf(sets.backend)} replicas, ${sets.postgres.metadata?.name} ${replicasOf(sets.postgres)}. A StatefulSet can only lose its highest pod; above it ${above.length === 1 ? 'is' : 'are'} ${above.join(', ')}`,
      { node: nodeOf(ordinal), above },
    );
  }

  async #waitGone(kind: SetKind, ordinal: number, patience: Patience): Promise<void> {
    const found = (await this.#sets.find())[kind];
    const name = podOf(found.name, ordinal);
    const look = async (): Promise<Look<null>> => {
      const listed = found.set.get(found.name);
      if (!listed || replicasOf(listed) > ordinal) {
        const now = await this.#sets.read(kind); // the list may be older than our own change
        if (replicasOf(now) > ordinal) throw this.#sets.raised(now, ordinal);
      }
      const pod = found.pods.get(name) ?? (await this.#readPod(name));
      if (!pod) return { done: null };
      const since = pod.metadata?.deletionTimestamp;
      const grace = pod.metadata?.deletionGracePeriodSeconds ?? 0;
      const message = since
        ? `it ends, with ${grace} s for that, on the machine ${pod.spec?.nodeName ?? '(none)'}`
        : 'the StatefulSet controller has not deleted it yet';
      const reason = since ? 'Terminating' : 'NotDeleted';
      return { notYet: { subject: name, kind: 'leaving', reason, message, mendsByWaiting: true } };
    };
    await patience.until(
      [found.set, found.pods],
      look,
      ({ message }, since) =>
        new CodedError(
          'POD_NOT_GONE',
          `the pod ${name} is not gone: ${message}. Where its machine is lost for good, delete the pod by force, then resume`,
          { pod: name, message, since },
        ),
    );
  }

  /** False: the database was gone already, so nobody has looked. */
  async #lastLook(ordinal: number, removal: Removal, patience: Patience): Promise<boolean> {
    if (!removal.lastLook) return true; // the caller knows
    const { set, pods } = (await this.#sets.find()).postgres;
    if (replicasOf(await this.#sets.read('postgres')) <= ordinal) return false;
    const there = await patience.until<boolean>(
      [set, pods],
      async () => {
        try {
          const look = await this.#lookReady('postgres', [ordinal]);
          return 'notYet' in look ? look : { done: true };
        } catch (error) {
          // Somebody was faster.
          if (error instanceof CodedError && error.code === 'REPLICAS_LOWERED') return { done: false };
          throw error;
        }
      },
      notReady,
    );
    if (there) await removal.lastLook(await this.#database(ordinal));
    return there;
  }

  #patience(node: string, signal: AbortSignal | undefined): Patience {
    const { readyWithinMs: withinMs, troubleMs } = this.#config;
    return new Patience({ withinMs, troubleMs, signal, log: this.#log.child({ node }) });
  }

  /** Ends watches and connections; waits that still go on find no cluster any more. */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      this.#sets.stop();
      await Promise.all([this.#kube.close(), this.#agent.destroy()]);
    })();
    return this.#closed;
  }
}

const notReady = ({ subject, reason, message }: NotYet, since: string): CodedError =>
  new CodedError('POD_NOT_READY', `pod ${subject} is not ready: ${reason}: ${message}`, {
    pod: subject,
    reason,
    message,
    since,
  });

const bothClaims = (sets: Record<SetKind, V1StatefulSet>, ordinal: number): string[] => [
  ...claimsOf(sets.postgres, ordinal),
  ...claimsOf(sets.backend, ordinal),
];

interface Half {
  readonly wanted: boolean;
  readonly pod: V1Pod | undefined;
}

function conditionOf(backend: Half, postgres: Half): NodeCondition {
  if (!backend.wanted) return backend.pod || (!postgres.wanted && postgres.pod) ? 'stopping' : 'absent';
  if (backend.pod && isReady(backend.pod) && postgres.pod && isReady(postgres.pod)) return 'running';
  return [backend.pod, postgres.pod].some((pod) => pod && hasCrashed(pod)) ? 'crashed' : 'starting';
}

function hasCrashed(pod: V1Pod): boolean {
  const why = whyNotReady({ name: pod.metadata?.name ?? '', pod, now: Date.now() });
  return why?.kind === 'crash-loop' || (why?.kind === 'ended' && pod.status?.phase === 'Failed');
}
