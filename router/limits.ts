/** The router's bounds. Each is an option; docs/limits.md gives the reasons at length. */
export interface RouterLimits {
  /** Largest body taken: RudderStack's `maxReqSizeInKB`, 4,000 of 1,024 bytes. */
  readonly bodyBytesMax: number;
  /** How long a request waits for a fence, an owner or a connection: above the fence's own deadline (10 s), below what SDKs wait for. */
  readonly holdMs: number;
  /** Requests that may wait at once: at 1,000 a second, ten times the usual wait. */
  readonly heldRequestsMax: number;
  /** Bodies that may wait at once: 10,000 requests of 6.5 kB. */
  readonly heldBytesMax: number;
  /** Bodies in hand at once, waiting or on their way: bounds memory when nodes are slow and bodies large. */
  readonly inHandBytesMax: number;
  /** No answer of a node within this: 502, the outcome is unknown. Above a node's longest commit under load. */
  readonly nodeTimeoutMs: number;
  /** No connection within this: nothing was sent, so it is tried again. */
  readonly connectTimeoutMs: number;
  readonly connectionsPerNode: number;
  /** Connections of clients at once; more are closed at once. Twice the requests that may be held, each of which has one. */
  readonly connectionsMax: number;
  /** A hold that nobody ends is tried again this often: the end may stand in a log that this router cannot read at present. */
  readonly probeEveryMs: number;
  /** Graceful stop: requests in hand get this long. Above `holdMs`, so that a held one gets its answer. */
  readonly stopMs: number;
  /** Graceful stop: so long it goes on accepting connections, while `/ready` says 503: what a load balancer needs to notice. */
  readonly drainMs: number;
  /** Then: connections that say nothing get so long to say something, before they are closed. Above the pause of a busy client between two requests. */
  readonly leaveMs: number;
  /** Sends in a row without an answer before the router asks the node itself. */
  readonly circuitFailures: number;
  /** A node whose circuit is open is asked again this often: about as long as a request waits at most between two tries. */
  readonly askEveryMs: number;
  /** A client that sends its body slower than this is cut off. */
  readonly bodyTimeoutMs: number;
}

export const routerLimits: RouterLimits = {
  bodyBytesMax: 4_000 * 1_024,
  holdMs: 15_000,
  heldRequestsMax: 10_000,
  heldBytesMax: 64 * 1_024 * 1_024,
  inHandBytesMax: 256 * 1_024 * 1_024,
  nodeTimeoutMs: 30_000,
  connectTimeoutMs: 2_000,
  connectionsPerNode: 128,
  connectionsMax: 20_000,
  probeEveryMs: 1_000,
  stopMs: 20_000,
  drainMs: 0,
  leaveMs: 2_000,
  circuitFailures: 3,
  askEveryMs: 250,
  bodyTimeoutMs: 30_000,
};
