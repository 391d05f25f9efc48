/**
 * Volumes: the default StorageClass `standard` and its provisioner. A claim that waits gets a volume (a folder below the kubelet's) that names it; the real
 * binder binds the two. A volume whose claim is gone (Released, policy Delete) goes away with its folder.
 */
import { chmodSync, existsSync, mkdirSync } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import path from 'node:path';
import type { V1PersistentVolume, V1PersistentVolumeClaim } from '@kubernetes/client-node';
import { type Api, ApiError, follow, isGone, persist, type Stored } from './api.ts';
import type { EventWriter } from './events.ts';

const PROVISIONER = 'ringmaster.dev/stand-in';
export const STORAGE_CLASS = 'standard';
const PROVISIONED_BY = 'pv.kubernetes.io/provisioned-by';
const LOOK_AGAIN_MS = 500;

type Claim = V1PersistentVolumeClaim & Stored;
type Volume = V1PersistentVolume & Stored;

export interface ClaimsOptions {
  api: Api;
  /** Of the volumes. */
  folder: string;
  signal: AbortSignal;
  events: EventWriter;
  log: (line: string) => void;
  failing: () => boolean;
  onChange: () => void;
}

export class Claims {
  readonly #options: ClaimsOptions;
  readonly #claims: ReturnType<typeof follow<Claim>>;
  readonly #volumes: ReturnType<typeof follow<Volume>>;
  readonly #busy = new Set<string>();
  readonly #told = new Map<string, number>();
  readonly #timer: NodeJS.Timeout;

  constructor(options: ClaimsOptions) {
    this.#options = options;
    const { api, signal, log, onChange } = options;
    mkdirSync(options.folder, { recursive: true });
    chmodSync(options.folder, 0o755);
    this.#claims = follow<Claim>(api, '/api/v1/persistentvolumeclaims', signal, log, () => {
      this.look();
      onChange();
    });
    this.#volumes = follow<Volume>(api, '/api/v1/persistentvolumes', signal, log, () => this.look());
    this.#timer = setInterval(() => this.look(), LOOK_AGAIN_MS);
  }

  async synced(): Promise<void> {
    await Promise.all([this.#claims.synced, this.#volumes.synced]);
  }

  async ended(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all([this.#claims.ended, this.#volumes.ended]);
  }

  /** Why a pod with this claim cannot be placed yet; null: it can. In a scheduler's words. */
  problemOf(namespace: string, name: string): string | null {
    const claim = this.#claims?.objects.get(`${namespace}/${name}`);
    if (!claim) return `persistentvolumeclaim "${name}" not found`;
    if (claim.metadata?.deletionTimestamp) return `persistentvolumeclaim "${name}" is being deleted`;
    return claim.status?.phase === 'Bound' ? null : 'pod has unbound immediate PersistentVolumeClaims';
  }

  async makeStorageClass(): Promise<void> {
    const body = {
      apiVersion: 'storage.k8s.io/v1',
      kind: 'StorageClass',
      metadata: {
        name: STORAGE_CLASS,
        annotations: { 'storageclass.kubernetes.io/is-default-class': 'true' },
      },
      provisioner: PROVISIONER,
      reclaimPolicy: 'Delete',
      volumeBindingMode: 'Immediate',
    };
    await this.#unlessThere('/apis/storage.k8s.io/v1/storageclasses', body);
  }

  look(): void {
    if (!this.#claims || !this.#volumes || this.#options.signal.aborted) return; // called while the constructor runs
    for (const claim of this.#claims.objects.values())
      if (waits(claim)) this.#once(`claim ${claim.metadata?.uid}`, () => this.#provision(claim));
    for (const volume of this.#volumes.objects.values())
      if (isOver(volume)) this.#once(`volume ${volume.metadata?.uid}`, () => this.#remove(volume));
  }

  #once(key: string, act: () => Promise<void>): void {
    if (this.#busy.has(key)) return;
    this.#busy.add(key);
    act()
      .catch((err: unknown) => {
        if (!this.#options.signal.aborted) this.#options.log(`${key}: ${(err as Error).message}`); // looked at again soon
      })
      .finally(() => this.#busy.delete(key));
  }

  async #provision(claim: Claim): Promise<void> {
    const { folder: root, failing, events } = this.#options;
    const { uid = '', name, namespace } = claim.metadata ?? {};
    if (failing()) {
      if (Date.now() < (this.#told.get(uid) ?? 0)) return;
      this.#told.set(uid, Date.now() + 2000);
      const message = `failed to provision volume with StorageClass "${STORAGE_CLASS}": the storage is out of order`;
      events.tell('PersistentVolumeClaim', claim, 'Warning', 'ProvisioningFailed', message, PROVISIONER);
      return;
    }
    const volumeName = `pvc-${uid}`;
    const folder = path.join(root, volumeName);
    if (!existsSync(folder)) {
      mkdirSync(folder);
      chmodSync(folder, 0o777); // a volume belongs to whoever mounts it: PostgreSQL runs as another user
    }
    await this.#unlessThere('/api/v1/persistentvolumes', {
      apiVersion: 'v1',
      kind: 'PersistentVolume',
      metadata: { name: volumeName, annotations: { [PROVISIONED_BY]: PROVISIONER } },
      spec: {
        capacity: { storage: claim.spec?.resources?.requests?.['storage'] ?? '1Gi' },
        accessModes: claim.spec?.accessModes,
        persistentVolumeReclaimPolicy: 'Delete',
        storageClassName: STORAGE_CLASS,
        volumeMode: 'Filesystem',
        hostPath: { path: folder, type: '' },
        claimRef: { apiVersion: 'v1', kind: 'PersistentVolumeClaim', namespace, name, uid },
      },
    });
  }

  async #remove(volume: Volume): Promise<void> {
    const { api, signal } = this.#options;
    const { name, uid } = volume.metadata ?? {};
    const folder = volume.spec?.hostPath?.path ?? '';
    if (path.dirname(folder) === this.#options.folder && existsSync(folder)) {
      // Renamed first: a volume is there whole, or not at all.
      await rename(folder, `${folder}.deleted`);
      await rm(`${folder}.deleted`, { recursive: true, force: true });
    }
    try {
      await persist(() => api.delete(`/api/v1/persistentvolumes/${name}`, { preconditions: { uid } }, signal), signal);
    } catch (err) {
      if (!isGone(err)) throw err;
    }
  }

  async #unlessThere(at: string, body: object): Promise<void> {
    const { api, signal } = this.#options;
    try {
      await persist(() => api.create(at, body, signal), signal);
    } catch (err) {
      if (!(err instanceof ApiError && err.reason === 'AlreadyExists')) throw err;
    }
  }
}

/** The binder has seen that the claim needs a new volume, and asks us for it. */
function waits(claim: Claim): boolean {
  return (
    claim.status?.phase !== 'Bound' &&
    !claim.metadata?.deletionTimestamp &&
    !claim.spec?.volumeName &&
    claim.metadata?.annotations?.['volume.kubernetes.io/storage-provisioner'] === PROVISIONER
  );
}

function isOver(volume: Volume): boolean {
  return (
    volume.metadata?.annotations?.[PROVISIONED_BY] === PROVISIONER &&
    volume.status?.phase === 'Released' &&
    volume.spec?.persistentVolumeReclaimPolicy === 'Delete' &&
    !volume.metadata?.deletionTimestamp
  );
}
