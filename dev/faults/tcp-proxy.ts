/**
 * A TCP proxy that can be told to misbehave as networks do. Neither side is told of it.
 *
 *   pass        every byte, and every end, in order
 *   cut         connections are reset at once, new ones refused: a process that is gone, a firewall that rejects
 *   silent      half-open: nothing arrives on either side, and nobody hears of it; new connections seem to come about. A cable that is out, a firewall that drops
 *   no answers  what clients send arrives, what is answered does not
 *   delayMs     everything arrives so much later
 *   bytesPerSecond  of each connection and direction
 *
 * What was swallowed is lost for good: a connection that lost something is reset when that is over, as its peer does with one that it has given up.
 */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { now } from '../../kit/log.ts';
import { freePort } from '../../platform/local/ports.ts';

export type ProxyMode =
  | 'pass'
  | 'cut'
  | 'silent'
  | 'no answers'
  | { readonly delayMs: number }
  | { readonly bytesPerSecond: number };

export interface TcpProxy {
  readonly port: number;
  /** Open at present. */
  readonly connections: number;
  readonly mode: ProxyMode;
  /** In force when it resolves, also for connections that are open. */
  set(mode: ProxyMode): Promise<void>;
  close(): Promise<void>;
}

const HOST = '127.0.0.1';
/** On its way in one direction: more, and the sender waits. */
const QUEUED_BYTES_MAX = 1_024 * 1_024;
/** A slow direction writes so often. */
const SLICE_MS = 20;

/** Listens on a free port of this machine for connections to `target`. */
export async function startTcpProxy(target: { readonly host: string; readonly port: number }): Promise<TcpProxy> {
  const links = new Set<Link>();
  let mode: ProxyMode = 'pass';
  let server: Server | null = null;
  let closed = false;

  async function listen(port: number): Promise<void> {
    const listening = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
      const link = new Link(client, target, () => mode);
      links.add(link);
      void link.closed.then(() => links.delete(link));
    });
    listening.listen(port, HOST);
    await once(listening, 'listening');
    server = listening;
  }
  /** New connections are refused from here on. */
  function deafen(): void {
    server?.close();
    server = null;
  }
  const resetAll = async (which: (link: Link) => boolean): Promise<void> => {
    await Promise.all([...links].filter(which).map((link) => link.reset()));
  };

  await listen(await freePort());
  const { port } = (server as unknown as Server).address() as AddressInfo;
  return {
    port,
    get connections() {
      return links.size;
    },
    get mode() {
      return mode;
    },
    async set(next) {
      if (closed) return;
      mode = next;
      if (next === 'cut') {
        deafen();
        await resetAll(() => true);
      } else {
        if (!server) await listen(port);
        if (!swallows(next)) await resetAll((link) => link.hasLost);
      }
    },
    async close() {
      closed = true;
      deafen();
      await resetAll(() => true);
    },
  };
}

const swallows = (mode: ProxyMode): boolean => mode === 'silent' || mode === 'no answers';

/** One connection through the proxy. */
class Link {
  readonly closed: Promise<void>;
  hasLost = false;
  readonly #client: Socket;
  readonly #server: Socket | null;

  constructor(client: Socket, target: { readonly host: string; readonly port: number }, mode: () => ProxyMode) {
    this.#client = client;
    if (mode() === 'silent') {
      // As good as unanswered: nobody is connected at the other end.
      this.#server = null;
      this.hasLost = true;
      client.resume();
      client.on('error', () => undefined);
      this.closed = closeOf(client);
      return;
    }
    const server = connect({ ...target, allowHalfOpen: true, noDelay: true });
    this.#server = server;
    const onLost = (): void => {
      this.hasLost = true;
    };
    flow(client, server, { mode, isAnswer: false, onLost });
    flow(server, client, { mode, isAnswer: true, onLost });
    for (const [one, other] of [
      [client, server],
      [server, client],
    ] as const) {
      one.on('error', () => undefined); // 'close' follows
      one.on('close', () => {
        // Unless nothing is told to anybody any more.
        if (!other.destroyed && !swallows(mode())) other.resetAndDestroy();
        else if (!other.destroyed) this.hasLost = true;
      });
    }
    this.closed = Promise.all([closeOf(client), closeOf(server)]).then(() => undefined);
  }

  async reset(): Promise<void> {
    for (const socket of [this.#client, this.#server]) if (socket && !socket.destroyed) socket.resetAndDestroy();
    await this.closed;
  }
}

/** As `once`, but an error before it is no rejection: it is how connections end here. */
const closeOf = (socket: Socket): Promise<void> => new Promise((resolve) => socket.once('close', () => resolve()));

interface Flow {
  readonly mode: () => ProxyMode;
  readonly isAnswer: boolean;
  readonly onLost: () => void;
}

/** Takes from one socket to the other what comes, in order, as the mode says just then. */
function flow(from: Socket, to: Socket, { mode, isAnswer, onLost }: Flow): void {
  /** `null`: the end. */
  const queue: { readonly due: number; readonly bytes: Buffer | null }[] = [];
  let queued = 0;
  let running = false;
  const isSwallowed = (): boolean => mode() === 'silent' || (mode() === 'no answers' && isAnswer);

  const take = (bytes: Buffer | null): void => {
    const current = mode();
    queue.push({ due: now() + (typeof current === 'object' && 'delayMs' in current ? current.delayMs : 0), bytes });
    queued += bytes?.length ?? 0;
    if (queued > QUEUED_BYTES_MAX) from.pause();
    if (!running) void run();
  };
  const run = async (): Promise<void> => {
    running = true;
    for (let next = queue.shift(); next && !to.destroyed; next = queue.shift()) {
      const { due, bytes } = next;
      if (due > now()) await sleep(due - now());
      if (isSwallowed()) onLost();
      else if (bytes === null) to.end();
      else await write(to, bytes, mode);
      queued -= bytes?.length ?? 0;
      if (from.isPaused() && queued <= QUEUED_BYTES_MAX) from.resume();
    }
    running = false;
  };
  from.on('data', take);
  from.on('end', () => take(null));
}

async function write(to: Socket, bytes: Buffer, mode: () => ProxyMode): Promise<void> {
  for (let at = 0; at < bytes.length && !to.destroyed; ) {
    const current = mode();
    const isSlow = typeof current === 'object' && 'bytesPerSecond' in current;
    const size = isSlow ? Math.max(1, Math.round((current.bytesPerSecond * SLICE_MS) / 1_000)) : bytes.length - at;
    const slice = bytes.subarray(at, at + size);
    at += slice.length;
    if (!to.write(slice)) await drained(to);
    if (isSlow) await sleep((slice.length / current.bytesPerSecond) * 1_000);
  }
}

/** Or it is gone. */
async function drained(to: Socket): Promise<void> {
  const settled = new AbortController();
  const { signal } = settled;
  await Promise.race([once(to, 'drain', { signal }), once(to, 'close', { signal })]).catch(() => undefined); // an error closes it
  settled.abort();
}
