/** Pools of connections to a node's database. */
import type { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import pg from 'pg';
import { surviveLostConnections } from '../kit/pool.ts';

/** A server that hangs must not hang us: no connection within this is an error, which is retried. */
const CONNECT_MS = 5_000;
/** A machine that is lost closes nothing: from here on the kernel asks whether the other side is there. The system's own default is two hours. */
const KEEP_ALIVE_AFTER_MS = 10_000;

/** How often it is looked whether a statement still moves, of the time that it may be silent. */
const LOOKS_PER_SILENCE = 10;

export interface PoolConfig extends pg.PoolConfig {
  readonly application_name: string;
  /** Whose database it is: put as `node` on what PostgreSQL throws, so that a person reads which of two it was. */
  readonly node?: string;
  /**
   * A statement of which no byte has come or gone for so long ends with its connection: a peer that is stopped, or whose disk hangs, still answers the
   * kernel's questions. Default: it may be silent for ever.
   */
  readonly silenceMsMax?: number;
}

/**
 * A pool whose lost connections end nothing: the query that needs one fails and tells; an idle one, or one that is checked out and silent, is no event.
 * `application_name` must never end with a node's name: RudderStack's nodes end such sessions at their start.
 */
export function createPool({ node, silenceMsMax, ...config }: PoolConfig): pg.Pool {
  const pool = new pg.Pool({
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEP_ALIVE_AFTER_MS,
    connectionTimeoutMillis: CONNECT_MS,
    ...config,
  });
  surviveLostConnections(pool);
  pool.on('connect', (client) => {
    const inner = client as unknown as InnerClient;
    if (node !== undefined)
      inner.connection.prependListener('errorMessage', (message: object) => Object.assign(message, { node }));
    if (silenceMsMax !== undefined) endWhenSilent(inner, silenceMsMax, node);
  });
  return pool;
}

/** What of `pg`'s client its types do not tell. */
interface InnerClient {
  /** Where its answers come in. */
  readonly connection: EventEmitter & { readonly stream: Socket };
  /** False while a statement is under way. */
  readonly readyForQuery: boolean;
}

function endWhenSilent(client: InnerClient, silenceMsMax: number, node = 'PostgreSQL'): void {
  const { stream } = client.connection;
  let seen = -1;
  let since = performance.now();
  const looking = setInterval(() => {
    const moved = stream.bytesRead + stream.bytesWritten;
    if (client.readyForQuery || moved !== seen) {
      seen = moved;
      since = performance.now();
    } else if (performance.now() - since > silenceMsMax) {
      stream.destroy(
        new Error(`${node} has been silent for ${silenceMsMax} ms in a statement: its connection is ended`),
      );
    }
  }, silenceMsMax / LOOKS_PER_SILENCE);
  looking.unref();
  stream.once('close', () => clearInterval(looking));
}
