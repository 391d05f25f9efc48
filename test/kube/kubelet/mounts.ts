/**
 * A pod's volumes: a folder each below the pod's folder, filled and kept up to date as a kubelet does (`..data` is switched at once, so that a reader never
 * sees half of a change). Claims are folders of claims.ts and outlive the pod.
 */
import { mkdirSync, mkdtempSync } from 'node:fs';
import {
  chmod,
  lstat,
  mkdir,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  stat,
  symlink,
  unlink,
  writeFile,
} from 'node:fs/promises';
import path from 'node:path';
import type {
  V1Container,
  V1DownwardAPIVolumeFile,
  V1KeyToPath,
  V1PersistentVolume,
  V1PersistentVolumeClaim,
  V1Pod,
  V1ServiceAccountTokenProjection,
  V1Volume,
} from '@kubernetes/client-node';
import { dataOf, expand, fieldOf, type Mount, type Place } from './environment.ts';

interface Wanted {
  content: Buffer;
  mode: number;
}
type Files = Map<string, Wanted>;

/** Renewed when this part of its life is over, as kubelets do. */
const TOKEN_RENEWED_AFTER = 0.8;
const SERVICE_ACCOUNT_PATH = '/var/run/secrets/kubernetes.io/serviceaccount';
const DEFAULT_MODE = 0o644;

export class PodVolumes {
  readonly #folder: string;
  readonly #caFile: string;
  readonly #folders = new Map<string, string>();
  readonly #tokens = new Map<string, { token: string; renewAt: number }>();

  constructor(folder: string, caFile: string) {
    this.#folder = folder;
    this.#caFile = caFile;
  }

  /** Throws a sentence for people, with the volume's name, when one cannot be had now. May be called again. */
  async setUp(place: Omit<Place, 'mounts'>): Promise<void> {
    for (const volume of place.pod.spec?.volumes ?? []) {
      try {
        await this.#setUpOne(volume, place);
      } catch (err) {
        place.signal.throwIfAborted();
        throw new Error(`MountVolume.SetUp failed for volume "${volume.name}" : ${(err as Error).message}`, {
          cause: err,
        });
      }
    }
  }

  /** Writes what has changed since, and new tokens. Claims and empty folders stay as they are. */
  async refresh(place: Omit<Place, 'mounts'>): Promise<void> {
    for (const volume of place.pod.spec?.volumes ?? [])
      if (this.#folders.has(volume.name)) await this.#setUpOne(volume, place);
  }

  /** Whether a change of this secret or config map may matter. */
  refersTo(pod: V1Pod, kind: 'secrets' | 'configmaps', name: string): boolean {
    return (pod.spec?.volumes ?? []).some(({ secret, configMap, projected }) =>
      kind === 'secrets'
        ? secret?.secretName === name || projected?.sources?.some((source) => source.secret?.name === name)
        : configMap?.name === name || projected?.sources?.some((source) => source.configMap?.name === name),
    );
  }

  get tokenToRenewAt(): number {
    return Math.min(Number.POSITIVE_INFINITY, ...[...this.#tokens.values()].map(({ renewAt }) => renewAt));
  }

  mountsOf(container: V1Container, env: Readonly<Record<string, string>>): Mount[] {
    return (container.volumeMounts ?? []).flatMap(({ name, mountPath, subPath, subPathExpr }) => {
      const folder = this.#folders.get(name);
      if (!folder) return [];
      const below = subPathExpr ? expand(subPathExpr, env) : subPath;
      const target = below ? path.join(folder, below) : folder;
      // As a kubelet: a sub path that is not there becomes a folder; one that is there may be a file.
      if (below) mkdirUnlessThere(target);
      return [{ mountPath, folder: target }];
    });
  }

  /** The folder of the service account's token, if the pod has one. */
  serviceAccountFolder(container: V1Container): string | null {
    const mount = container.volumeMounts?.find(({ mountPath }) => mountPath === SERVICE_ACCOUNT_PATH);
    return (mount && this.#folders.get(mount.name)) ?? null;
  }

  async #setUpOne(volume: V1Volume, place: Omit<Place, 'mounts'>): Promise<void> {
    const folder = path.join(this.#folder, volume.name);
    if (volume.persistentVolumeClaim) {
      this.#folders.set(volume.name, await claimFolder(volume.persistentVolumeClaim.claimName, place));
      return;
    }
    if (volume.emptyDir) {
      if (!this.#folders.has(volume.name)) {
        await rm(folder, { recursive: true, force: true });
        await mkdir(folder, { recursive: true });
        await chmod(folder, 0o777); // whatever user a container has; the pod's folder lets in whom it shall
      }
      this.#folders.set(volume.name, folder);
      return;
    }
    const files = await this.#filesOf(volume, place);
    // Only processes of ours read secrets and tokens; PostgreSQL's user may read the rest.
    await writeAtOnce(folder, files, volume.secret || volume.projected ? 0o700 : 0o755);
    this.#folders.set(volume.name, folder);
  }

  async #filesOf(volume: V1Volume, place: Omit<Place, 'mounts'>): Promise<Files> {
    const files: Files = new Map();
    if (volume.secret) {
      const { secretName = '', items, defaultMode, optional } = volume.secret;
      await addData(files, 'secrets', secretName, items, defaultMode ?? DEFAULT_MODE, optional ?? false, place);
    } else if (volume.configMap) {
      const { name = '', items, defaultMode, optional } = volume.configMap;
      await addData(files, 'configmaps', name, items, defaultMode ?? DEFAULT_MODE, optional ?? false, place);
    } else if (volume.downwardAPI) {
      addDownward(files, volume.downwardAPI.items, volume.downwardAPI.defaultMode ?? DEFAULT_MODE, place);
    } else if (volume.projected) {
      const mode = volume.projected.defaultMode ?? DEFAULT_MODE;
      for (const source of volume.projected.sources ?? []) {
        const { secret, configMap, downwardAPI, serviceAccountToken } = source;
        if (secret)
          await addData(files, 'secrets', secret.name ?? '', secret.items, mode, secret.optional ?? false, place);
        else if (configMap?.name === 'kube-root-ca.crt')
          files.set('ca.crt', { content: await readFile(this.#caFile), mode });
        else if (configMap)
          await addData(
            files,
            'configmaps',
            configMap.name ?? '',
            configMap.items,
            mode,
            configMap.optional ?? false,
            place,
          );
        else if (downwardAPI) addDownward(files, downwardAPI.items, mode, place);
        else if (serviceAccountToken) {
          const content = Buffer.from(await this.#token(volume.name, serviceAccountToken, place));
          files.set(serviceAccountToken.path, { content, mode: 0o600 });
        } else throw new Error('a projected source that the kubelet stand-in does not know');
      }
    } else throw new Error('a kind of volume that the kubelet stand-in does not know');
    return files;
  }

  async #token(
    volume: string,
    wanted: V1ServiceAccountTokenProjection,
    { api, pod, signal }: Omit<Place, 'mounts'>,
  ): Promise<string> {
    const key = `${volume}/${wanted.path}`;
    const held = this.#tokens.get(key);
    if (held && Date.now() < held.renewAt) return held.token;
    const { namespace = '', name = '', uid = '' } = pod.metadata ?? {};
    const account = pod.spec?.serviceAccountName ?? 'default';
    const answer: { status: { token: string; expirationTimestamp: string } } = await api.create(
      `/api/v1/namespaces/${namespace}/serviceaccounts/${account}/token`,
      {
        apiVersion: 'authentication.k8s.io/v1',
        kind: 'TokenRequest',
        spec: {
          audiences: wanted.audience ? [wanted.audience] : [],
          expirationSeconds: wanted.expirationSeconds ?? 3600,
          boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name, uid },
        },
      },
      signal,
    );
    const { token, expirationTimestamp } = answer.status;
    const renewAt = Date.now() + (Date.parse(expirationTimestamp) - Date.now()) * TOKEN_RENEWED_AFTER;
    this.#tokens.set(key, { token, renewAt });
    return token;
  }
}

async function addData(
  files: Files,
  kind: 'secrets' | 'configmaps',
  name: string,
  items: V1KeyToPath[] | undefined,
  mode: number,
  optional: boolean,
  { api, pod, signal }: Omit<Place, 'mounts'>,
): Promise<void> {
  const data = await dataOf(api, kind, pod.metadata?.namespace ?? '', name, signal);
  if (!data && !optional) throw new Error(`${kind === 'secrets' ? 'secret' : 'configmap'} "${name}" not found`);
  const chosen = items ?? Object.keys(data ?? {}).map((key): V1KeyToPath => ({ key, path: key }));
  for (const { key, path: at, mode: own } of chosen) {
    const content = data?.[key];
    if (content) files.set(at, { content, mode: own ?? mode });
    else if (!optional)
      throw new Error(`references non-existent ${kind === 'secrets' ? 'secret' : 'config'} key: ${key}`);
  }
}

function addDownward(
  files: Files,
  items: V1DownwardAPIVolumeFile[] | undefined,
  mode: number,
  place: Omit<Place, 'mounts'>,
): void {
  for (const { path: at, fieldRef, mode: own } of items ?? []) {
    if (!fieldRef) throw new Error('the kubelet stand-in knows no resource fields in volumes');
    files.set(at, { content: Buffer.from(fieldOf(fieldRef.fieldPath, { ...place, mounts: [] })), mode: own ?? mode });
  }
}

async function claimFolder(name: string, { api, pod, signal }: Omit<Place, 'mounts'>): Promise<string> {
  const namespace = pod.metadata?.namespace ?? '';
  const claim: V1PersistentVolumeClaim = await api.get(
    `/api/v1/namespaces/${namespace}/persistentvolumeclaims/${name}`,
    signal,
  );
  if (claim.status?.phase !== 'Bound' || !claim.spec?.volumeName)
    throw new Error(`persistentvolumeclaim "${name}" is not bound`);
  const volume: V1PersistentVolume = await api.get(`/api/v1/persistentvolumes/${claim.spec.volumeName}`, signal);
  const folder = volume.spec?.hostPath?.path;
  if (!folder) throw new Error(`persistentvolume "${claim.spec.volumeName}" is none of this node`);
  if (!(await stat(folder).catch(() => null)))
    throw new Error(`no folder of persistentvolume "${claim.spec.volumeName}"`);
  return folder;
}

/** Files are links into `..data`, a link to the folder with the content: switching it switches all files at once. */
async function writeAtOnce(folder: string, files: Files, mode: number): Promise<void> {
  await mkdir(folder, { recursive: true });
  await chmod(folder, mode);
  const link = path.join(folder, '..data');
  const old = await readlink(link).catch(() => null);
  if (old !== null && (await holds(path.join(folder, old), files))) return;
  const fresh = path.basename(mkdtempSync(path.join(folder, '..v')));
  await chmod(path.join(folder, fresh), 0o755);
  for (const [at, { content, mode: own }] of files) {
    const file = path.join(folder, fresh, at);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, content);
    await chmod(file, own);
  }
  await symlink(fresh, `${link}_tmp`);
  await rename(`${link}_tmp`, link);
  for (const top of new Set([...files.keys()].map((at) => at.split('/')[0] ?? at))) {
    const at = path.join(folder, top);
    if (!(await lstat(at).catch(() => null))) await symlink(path.join('..data', top), at);
  }
  if (old === null) return;
  await rm(path.join(folder, old), { recursive: true, force: true });
  for (const top of await namesOf(folder))
    if (!top.startsWith('..') && ![...files.keys()].some((at) => at.split('/')[0] === top))
      await unlink(path.join(folder, top));
}

async function holds(folder: string, files: Files): Promise<boolean> {
  const there = await namesOf(folder, true);
  if (there.length !== files.size) return false;
  for (const [at, { content }] of files) {
    const now = await readFile(path.join(folder, at)).catch(() => null);
    if (!now?.equals(content)) return false;
  }
  return true;
}

async function namesOf(folder: string, deep = false): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: deep });
  return entries.filter((entry) => !deep || entry.isFile()).map(({ name }) => name);
}

function mkdirUnlessThere(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'EEXIST') throw err;
  }
}
