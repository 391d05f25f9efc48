/**
 * The part of kube-proxy that names alone cannot do: a service whose port is not its pods' port gets an address of its own, where a listener passes
 * connections on to ready pods. All other services are reached at their pods directly, without a detour through this process.
 */
import { connect, createServer, type Server, type Socket } from 'node:net';
import type { V1Pod, V1Service, V1ServicePort } from '@kubernetes/client-node';
import { readyPodsOf, selects } from './names.ts';

interface Proxy {
  address: string;
  servers: Server[];
  sockets: Set<Socket>;
  /** Ports and their targets, to see a change. */
  shape: string;
}

export interface ServiceProxiesOptions {
  takeAddress(): string;
  giveBack(address: string): void;
  pods(): readonly V1Pod[];
  log(line: string): void;
}

export class ServiceProxies {
  readonly #options: ServiceProxiesOptions;
  readonly #proxies = new Map<string, Proxy>();

  constructor(options: ServiceProxiesOptions) {
    this.#options = options;
  }

  /** `namespace/name` → address, of the services that have one. */
  follow(services: readonly V1Service[]): ReadonlyMap<string, string> {
    const pods = this.#options.pods();
    const wanted = new Map(
      services.filter((service) => translates(service, pods)).map((service) => [key(service), service]),
    );
    for (const [name, proxy] of this.#proxies)
      if (JSON.stringify(wanted.get(name)?.spec) !== proxy.shape) {
        this.#proxies.delete(name);
        this.#close(proxy);
      }
    for (const [name, service] of wanted) if (!this.#proxies.has(name)) this.#proxies.set(name, this.#open(service));
    return new Map([...this.#proxies].map(([name, { address }]) => [name, address]));
  }

  stop(): void {
    for (const proxy of this.#proxies.values()) this.#close(proxy);
    this.#proxies.clear();
  }

  #open(service: V1Service): Proxy {
    const address = this.#options.takeAddress();
    const proxy: Proxy = { address, servers: [], sockets: new Set(), shape: JSON.stringify(service.spec) };
    for (const port of service.spec?.ports ?? []) {
      const server = createServer({ allowHalfOpen: true }, (socket) => this.#pass(socket, service, port, proxy));
      server.on('error', (err) => this.#options.log(`service ${key(service)}, port ${port.port}: ${err.message}`));
      server.listen({ host: address, port: port.port });
      proxy.servers.push(server);
    }
    return proxy;
  }

  #pass(client: Socket, service: V1Service, port: V1ServicePort, { sockets }: Proxy): void {
    const ready = readyPodsOf(service, this.#options.pods());
    const pod = ready[Math.floor(Math.random() * ready.length)];
    if (!pod?.status?.podIP) {
      client.resetAndDestroy();
      return;
    }
    const server = connect({ host: pod.status.podIP, port: targetOf(port, pod), allowHalfOpen: true });
    for (const [socket, other] of [[client, server] as const, [server, client] as const]) {
      sockets.add(socket);
      socket.setNoDelay(true);
      socket.on('error', () => other.destroy()); // whoever holds the other end is told by the cut
      socket.on('close', () => sockets.delete(socket));
      socket.pipe(other);
    }
  }

  #close({ address, servers, sockets }: Proxy): void {
    for (const server of servers) server.close();
    for (const socket of sockets) socket.destroy();
    this.#options.giveBack(address);
  }
}

const key = ({ metadata }: V1Service) => `${metadata?.namespace}/${metadata?.name}`;

/** Whether some port has another number at the pods. */
function translates(service: V1Service, pods: readonly V1Pod[]): boolean {
  if (service.spec?.clusterIP === 'None') return false;
  const some = pods.find((pod) => selects(service, pod));
  return some !== undefined && (service.spec?.ports ?? []).some((port) => targetOf(port, some) !== port.port);
}

function targetOf({ port, targetPort }: V1ServicePort, pod: V1Pod): number {
  if (targetPort === undefined || typeof targetPort === 'number') return targetPort ?? port;
  const named = pod.spec?.containers.flatMap(({ ports }) => ports ?? []).find(({ name }) => name === targetPort);
  return named?.containerPort ?? port;
}
