/** Where nodes run: Kubernetes, or processes of this machine. One node is a backend plus its own PostgreSQL server. */

export interface DatabaseAddress {
  host: string;
  port: number;
  user: string;
  password: string;
  database: string;
}

export interface NodeEndpoints {
  node: string;
  /** The gateway, where events come in. */
  url: string;
  controlUrl: string;
  controlToken: string;
  database: DatabaseAddress;
}

/**
 * `absent` not wanted (its data may still be there) · `starting` wanted, not yet answering · `running` answers ·
 * `crashed` ended by itself, is started again after a while · `stopping` on its way to absent
 */
export type NodeCondition = 'absent' | 'starting' | 'running' | 'crashed' | 'stopping';

export interface NodeSummary {
  node: string;
  condition: NodeCondition;
  pid?: number;
}

/** How a node goes. */
export interface Removal {
  /** False: its data stays, and a later `ensureNode` of the same name adopts it. */
  readonly deleteData: boolean;
  /** With what a kept volume is labelled: which ring it was a member of, and until when. `at` is ISO 8601, for people. */
  readonly left: { readonly cluster: string; readonly epoch: number; readonly at: string };
  /**
   * Called once the backend is gone, while its database still answers at this address: throws where something is left there. Neither the database nor its
   * volume is touched before it resolves, and its error is what `removeNode` rejects with. Not called where the database is gone already.
   */
  readonly lastLook?: (database: DatabaseAddress) => Promise<void>;
}

/** The volume that a node's PostgreSQL keeps its data on, in bytes. `freeBytes`: null where the platform knows its size only. */
export interface Room {
  readonly totalBytes: number;
  readonly freeBytes: number | null;
}

export interface Platform {
  /**
   * PostgreSQL first, then the backend. Repeatable; resolves when the node's control answers 200 to GET /control/v1/status.
   * Aborting `signal` only ends the waiting: the node stays wanted.
   */
  ensureNode(node: string, signal?: AbortSignal): Promise<NodeEndpoints>;
  /** Null when the node is not wanted. Says nothing about whether it runs: see `listNodes`. */
  describeNode(node: string): Promise<NodeEndpoints | null>;
  listNodes(): Promise<NodeSummary[]>;
  /** Null where it cannot be told: then nobody is refused for it. */
  roomOf(node: string): Promise<Room | null>;
  /**
   * The backend first, then PostgreSQL. Repeatable; absent is success. REPLICAS_CHANGED (details: `above`, names, the highest first) on a platform that can
   * only take away the highest ordinals, where others lie above this one.
   */
  removeNode(node: string, removal: Removal, signal?: AbortSignal): Promise<void>;
}

export const NODE_NAME = /^[a-z0-9-]{1,40}$/;

/** `postgres://…` with everything quoted that needs it. */
export function databaseUrl(address: DatabaseAddress): string {
  const part = encodeURIComponent;
  return `postgres://${part(address.user)}:${part(address.password)}@${address.host}:${address.port}/${part(address.database)}`;
}
