/**
 * A load balancer as routers have one in front of them: it knows nothing of HTTP but their `/ready`, gives connections out in turn to those that say yes, and
 * passes over one that refuses. What was given out stays where it is.
 */
import { get } from 'node:http';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

export interface Balancer {
  readonly url: string;
  /** Routers that say that they are ready. */
  readonly ready: number;
  close(): Promise<void>;
}

/** As a service of Kubernetes needs to hear of a pod that goes, but quicker: tests give routers so much longer to leave. */
const LOOK_EVERY_MS = 100;

export async function startBalancer(urls: readonly string[]): Promise<Balancer> {
  const targets = urls.map((url) => ({ url: new URL(url), isReady: false }));
  const sockets = new Set<Socket>();
  let turn = 0;
  const look = async (): Promise<void> => {
    await Promise.all(
      targets.map(async (target) => {
        target.isReady = await isReady(target.url);
      }),
    );
  };
  await look();
  const looking = setInterval(() => void look(), LOOK_EVERY_MS);

  const server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
    sockets.add(client);
    client.on('close', () => sockets.delete(client));
    client.on('error', () => undefined); // 'close' follows
    turn += 1;
    const inTurn = targets.map((_, nth) => targets[(turn + nth) % targets.length]!);
    const ready = inTurn.filter((target) => target.isReady);
    give(client, ready.length > 0 ? ready : inTurn);
  });

  function give(client: Socket, candidates: readonly { readonly url: URL }[]): void {
    const [next, ...rest] = candidates;
    if (!next) return void client.resetAndDestroy();
    const router = connect({
      host: next.url.hostname,
      port: Number(next.url.port),
      allowHalfOpen: true,
      noDelay: true,
    });
    const refused = (): void => give(client, rest);
    router.once('error', refused);
    router.once('connect', () => {
      router.off('error', refused);
      sockets.add(router);
      for (const [one, other] of [
        [client, router],
        [router, client],
      ] as const) {
        one.on('error', () => other.resetAndDestroy());
        one.on('close', () => {
          sockets.delete(one);
          other.destroy();
        });
        one.pipe(other);
      }
    });
  }

  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    get ready() {
      return targets.filter((target) => target.isReady).length;
    },
    async close() {
      clearInterval(looking);
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

function isReady(url: URL): Promise<boolean> {
  return new Promise((resolve) => {
    const asking = get(new URL('/ready', url), { agent: false, signal: AbortSignal.timeout(2_000) }, (answer) => {
      answer.resume();
      resolve(answer.statusCode === 200);
    });
    asking.on('error', () => resolve(false));
  });
}
