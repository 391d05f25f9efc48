/**
 * The arrows of the embedded stack's network, each through a proxy that can be told to misbehave: worker → nodes and their databases, routers → nodes, and
 * whoever speaks to the ring store or to Temporal. Nothing of what is tested knows of it: addresses are handed out that lead through the proxies.
 *
 * The platform agent tells where nodes are. In front of it stands a server that gives its answers with the proxies' addresses in them.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fetch } from 'undici';
import type { DatabaseAddress, NodeEndpoints } from '../../platform/platform.ts';
import { type ProxyMode, startTcpProxy, type TcpProxy } from './tcp-proxy.ts';

export interface Arrow {
  /** Such as `worker → node-1`. */
  readonly name: string;
  /** The node at its end, if it is one's. */
  readonly node: string | null;
  readonly mode: ProxyMode;
  set(mode: ProxyMode): Promise<void>;
}

export interface Network {
  /** As they are known by now: a node's are there once somebody has asked the platform for it. */
  arrows(): readonly Arrow[];
  /** The same place as `url`, by an arrow of this name. */
  through(name: string, url: string): Promise<string>;
  /** The agent at `url`, whose nodes are reached by arrows. */
  agentThrough(url: string): Promise<string>;
  close(): Promise<void>;
}

type Address = { readonly host: string; readonly port: number };

export function openNetwork(): Network {
  const proxies = new Map<string, Promise<TcpProxy>>();
  const arrows: Arrow[] = [];
  const ends: (() => Promise<void>)[] = [];

  async function portOf(name: string, node: string | null, target: Address): Promise<number> {
    let starting = proxies.get(name);
    if (!starting) {
      starting = startTcpProxy(target);
      proxies.set(name, starting);
      const proxy = await starting;
      arrows.push({
        name,
        node,
        get mode() {
          return proxy.mode;
        },
        set: (mode) => proxy.set(mode),
      });
    }
    return (await starting).port;
  }
  async function urlThrough(name: string, node: string | null, url: string): Promise<string> {
    const through = new URL(url);
    const port = await portOf(name, node, { host: through.hostname, port: Number(through.port) });
    through.host = `127.0.0.1:${port}`;
    return through.href.replace(/\/$/, '');
  }
  const databaseThrough = async (node: string, database: DatabaseAddress): Promise<DatabaseAddress> => ({
    ...database,
    host: '127.0.0.1',
    port: await portOf(`worker → ${node}'s PostgreSQL`, node, database),
  });
  const endpointsThrough = async (endpoints: NodeEndpoints): Promise<NodeEndpoints> => {
    const { node, url, controlUrl, database } = endpoints;
    return {
      ...endpoints,
      url: await urlThrough(`routers → ${node}`, node, url),
      controlUrl: await urlThrough(`worker → ${node}`, node, controlUrl),
      database: await databaseThrough(node, database),
    };
  };

  /** The agent's answers about nodes, with our addresses in them; everything else as it is. */
  async function withOurAddresses(path: string, text: string): Promise<string> {
    if (text === '') return text;
    const body = JSON.parse(text) as Partial<NodeEndpoints> | { database: DatabaseAddress | null };
    if ('controlUrl' in body) return JSON.stringify(await endpointsThrough(body as NodeEndpoints));
    const node = /^\/v1\/nodes\/([^/]+)\/backend$/.exec(path)?.[1];
    if (!node || !body.database) return text;
    return JSON.stringify({ database: await databaseThrough(node, body.database) });
  }

  async function pass(agentUrl: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    const answer = await fetch(agentUrl + request.url, {
      method: request.method!,
      headers: {
        authorization: request.headers.authorization ?? '',
        ...(chunks.length > 0 ? { 'content-type': 'application/json' } : {}),
      },
      body: chunks.length > 0 ? Buffer.concat(chunks) : null,
      signal: gone.signal,
    });
    const text = await withOurAddresses(new URL(request.url!, agentUrl).pathname, await answer.text());
    response.writeHead(answer.status, { 'content-type': 'application/json' }).end(text);
  }

  return {
    arrows: () => arrows,
    through: (name, url) => urlThrough(name, null, url),
    async agentThrough(agentUrl) {
      const server = createServer((request, response) => {
        pass(agentUrl, request, response).catch(() => response.destroy()); // as an agent that is gone
      });
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      ends.push(async () => {
        server.closeAllConnections();
        await new Promise((resolve) => server.close(resolve));
      });
      return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    },
    async close() {
      await Promise.all(ends.splice(0).map((end) => end()));
      await Promise.all([...proxies.values()].map(async (proxy) => (await proxy).close()));
    },
  };
}
