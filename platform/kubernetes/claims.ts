/**
 * Volume claims of nodes that come and go.
 *
 *   in use ── kept (left-epoch, left-at) ──▶ left ── adopted (both off) ──▶ in use
 *                                             └── deleted ──▶ gone
 *
 * A claim says that it was left *before* its database goes: right after the last look found nothing in it. So what is deleted later, perhaps by another
 * attempt that can no longer look, is only what was looked at.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { PatchStrategy, setHeaderOptions, type V1PersistentVolumeClaim } from '@kubernetes/client-node';
import { CodedError } from '../../kit/errors.ts';
import type { Logger } from '../../kit/log.ts';
import type { Removal } from '../platform.ts';
import { FIELD_MANAGER, type Kube, KubeWeather } from './kube.ts';
import { CLUSTER_LABEL, LEFT_AT_LABEL, LEFT_EPOCH_LABEL, labelTime } from './names.ts';
import type { Patience } from './wait.ts';
import { Watched } from './watched.ts';

const CONFLICT_TRIES = 10; // only finalizers and binding change a claim meanwhile
const CONFLICT_PAUSE_MS = 50;

type Labels = Record<string, string | null>;

export class Claims {
  readonly #kube: Kube;
  readonly #log: Logger;

  constructor(kube: Kube, log: Logger) {
    this.#kube = kube;
    this.#log = log;
  }

  read(name: string): Promise<V1PersistentVolumeClaim | null> {
    const { namespace } = this.#kube;
    return this.#kube.ask({ verb: 'get', resource: 'persistentvolumeclaims', name }, ({ core }) =>
      core.readNamespacedPersistentVolumeClaim({ name, namespace }),
    );
  }

  /** In use from now on. One that is just being deleted is waited for: the node gets a new, empty one. */
  async adopt(name: string, patience: Patience): Promise<void> {
    const claim = await this.read(name);
    if (claim?.metadata?.deletionTimestamp && isLeft(claim)) return this.waitGone(name, patience);
    await this.#label(name, ({ labels }) => {
      if (!isLeft({ metadata: { labels } })) return null;
      this.#log.info(
        { claim: name, leftAt: labels[LEFT_AT_LABEL], leftEpoch: labels[LEFT_EPOCH_LABEL] },
        `adopts ${name}`,
      );
      return { [LEFT_EPOCH_LABEL]: null, [LEFT_AT_LABEL]: null };
    });
  }

  /** Left, unless it says so already for this epoch: the first time counts. */
  async leave(name: string, { cluster, epoch, at }: Removal['left']): Promise<void> {
    await this.#label(name, ({ labels }) => {
      if (labels[LEFT_EPOCH_LABEL] === String(epoch) && labels[LEFT_AT_LABEL] && labels[CLUSTER_LABEL]) return null;
      this.#log.info({ claim: name, epoch }, `keeps ${name}: its node has left`);
      return { [CLUSTER_LABEL]: cluster, [LEFT_EPOCH_LABEL]: String(epoch), [LEFT_AT_LABEL]: labelTime(at) };
    });
  }

  /** Changes labels, conditional on what was read. Absent is success. */
  async #label(name: string, decide: (claim: { labels: Record<string, string> }) => Labels | null): Promise<void> {
    const { namespace } = this.#kube;
    for (let attempt = 1; ; attempt += 1) {
      const claim = await this.read(name);
      if (!claim || claim.metadata?.deletionTimestamp) return;
      const labels = decide({ labels: claim.metadata?.labels ?? {} });
      if (!labels) return;
      const body = { metadata: { resourceVersion: claim.metadata?.resourceVersion, labels } };
      try {
        await this.#kube.ask({ verb: 'patch', resource: 'persistentvolumeclaims', name }, ({ core }) =>
          core.patchNamespacedPersistentVolumeClaim(
            { name, namespace, body, fieldManager: FIELD_MANAGER },
            setHeaderOptions('Content-Type', PatchStrategy.MergePatch),
          ),
        );
        return;
      } catch (error) {
        if (!isConflict(error) || attempt >= CONFLICT_TRIES) throw error;
        await sleep(CONFLICT_PAUSE_MS * (1 + Math.random()));
      }
    }
  }

  /** Deletes it, and waits until it is gone. */
  async delete(name: string, patience: Patience): Promise<void> {
    const { namespace } = this.#kube;
    for (let attempt = 1; ; attempt += 1) {
      const claim = await this.read(name);
      if (!claim) return;
      if (claim.metadata?.deletionTimestamp) break;
      const { uid, resourceVersion } = claim.metadata ?? {};
      try {
        await this.#kube.ask({ verb: 'delete', resource: 'persistentvolumeclaims', name }, ({ core }) =>
          core.deleteNamespacedPersistentVolumeClaim({
            name,
            namespace,
            body: { preconditions: { uid, resourceVersion } },
          }),
        );
        this.#log.info({ claim: name }, `deletes ${name}`);
        break;
      } catch (error) {
        if (!isConflict(error) || attempt >= CONFLICT_TRIES) throw error;
        await sleep(CONFLICT_PAUSE_MS * (1 + Math.random()));
      }
    }
    await this.waitGone(name, patience);
  }

  async waitGone(name: string, patience: Patience): Promise<void> {
    const { namespace } = this.#kube;
    const fieldSelector = `metadata.name=${name}`;
    const watched = new Watched<V1PersistentVolumeClaim>(this.#kube, {
      doing: { resource: 'persistentvolumeclaims', name },
      path: `/api/v1/namespaces/${namespace}/persistentvolumeclaims`,
      fieldSelector,
      list: async () => {
        const list = await this.#kube.ask({ verb: 'list', resource: 'persistentvolumeclaims' }, ({ core }) =>
          core.listNamespacedPersistentVolumeClaim({ namespace, fieldSelector }),
        );
        return { items: list?.items ?? [], version: list?.metadata?.resourceVersion ?? '' };
      },
    });
    await patience.until(
      [watched],
      async () => {
        const claim = watched.get(name) ?? (await this.read(name));
        if (!claim) return { done: null };
        const held = claim.metadata?.finalizers?.join(', ') || 'nothing that is known';
        const message = `it is being deleted; what holds it: ${held}`;
        return { notYet: { subject: name, kind: 'claim', reason: 'Terminating', message, mendsByWaiting: true } };
      },
      ({ message }, since) =>
        new CodedError('VOLUME_NOT_GONE', `the volume claim ${name} is not gone: ${message}`, { claim: name, since }),
    );
  }
}

export const isLeft = (claim: Pick<V1PersistentVolumeClaim, 'metadata'>): boolean => {
  const labels = claim.metadata?.labels ?? {};
  return LEFT_AT_LABEL in labels || LEFT_EPOCH_LABEL in labels;
};

const isConflict = (error: unknown) => error instanceof KubeWeather && error.status === 409;
