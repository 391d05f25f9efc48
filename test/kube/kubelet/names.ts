/**
 * Cluster DNS: the file that cluster-dns.mjs reads, made from pods and services as CoreDNS would answer.
 *   <hostname>.<subdomain>.<namespace>.svc   pods of a headless service, ready ones only unless it has publishNotReadyAddresses
 *   <service>.<namespace>.svc                its ready pods; without a ready one: headless → unknown name, else an address that refuses connections
 *                              (a service whose port is not its pods' port has an address of its own: services.ts)
 */
import { renameSync, writeFileSync } from 'node:fs';
import type { V1Pod, V1Service } from '@kubernetes/client-node';

const WRITE_AFTER_MS = 10;

export class Names {
  readonly file: string;
  #written = '';
  #timer: NodeJS.Timeout | null = null;
  #serial = 0;

  constructor(file: string) {
    this.file = file;
    this.#write({});
  }

  /** Soon: changes come in groups. */
  changed(look: () => Record<string, string[]>): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#write(look());
    }, WRITE_AFTER_MS);
  }

  stop(): void {
    if (this.#timer) clearTimeout(this.#timer);
  }

  #write(hosts: Record<string, string[]>): void {
    const text = `${JSON.stringify({ hosts }, null, 1)}\n`;
    if (text === this.#written) return;
    this.#written = text;
    this.#serial += 1;
    const scratch = `${this.file}.${this.#serial}`;
    writeFileSync(scratch, text, { mode: 0o644 });
    renameSync(scratch, this.file);
  }
}

/** `nobody`: an address where nothing listens. `addresses`: of services that have one of their own (services.ts). */
export function hostsOf(
  pods: readonly V1Pod[],
  services: readonly V1Service[],
  nobody: string,
  addresses: ReadonlyMap<string, string> = new Map(),
): Record<string, string[]> {
  const hosts: Record<string, string[]> = {};
  for (const service of services) {
    const { name, namespace } = service.metadata ?? {};
    if (!service.spec?.selector) continue;
    const headless = service.spec.clusterIP === 'None';
    const chosen = readyPodsOf(service, pods);
    const own = addresses.get(`${namespace}/${name}`);
    const found = chosen.map((pod) => pod.status?.podIP ?? '').sort();
    if (found.length > 0) hosts[`${name}.${namespace}.svc`] = own ? [own] : found;
    else if (!headless) hosts[`${name}.${namespace}.svc`] = [nobody];
    if (!headless) continue;
    for (const pod of chosen) {
      const { hostname, subdomain } = pod.spec ?? {};
      if (hostname && subdomain === name) hosts[`${hostname}.${name}.${namespace}.svc`] = [pod.status?.podIP ?? ''];
    }
  }
  return hosts;
}

export function selects({ metadata, spec }: V1Service, pod: V1Pod): boolean {
  const selector = Object.entries(spec?.selector ?? {});
  return (
    selector.length > 0 &&
    pod.metadata?.namespace === metadata?.namespace &&
    selector.every(([label, value]) => pod.metadata?.labels?.[label] === value)
  );
}

/** The pods that a service sends to. */
export function readyPodsOf(service: V1Service, pods: readonly V1Pod[]): V1Pod[] {
  const all = service.spec?.publishNotReadyAddresses ?? false;
  return pods.filter(
    (pod) =>
      selects(service, pod) &&
      pod.status?.podIP &&
      pod.status.phase !== 'Succeeded' &&
      pod.status.phase !== 'Failed' &&
      (all || isReady(pod)),
  );
}

/** A pod that is asked to end gets no new connections. */
function isReady({ metadata, status }: V1Pod): boolean {
  return (
    !metadata?.deletionTimestamp &&
    (status?.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True') ?? false)
  );
}
