/** Whose events a request carries: the one thing that the router must know of it. Everything else is the node's to judge. */
import { userKeyOfEvent } from '../ring/partition.ts';

/**
 * `events`: the user key of each event, in the body's order. `any`: no user can be told (a body that a node will refuse, or a path without users),
 * so any node may answer.
 */
export type Understood =
  | { readonly kind: 'events'; readonly users: readonly string[]; readonly batch: boolean }
  | { readonly kind: 'any' };

const any: Understood = { kind: 'any' };
const singlePaths = new Set(
  ['track', 'identify', 'page', 'screen', 'group', 'alias', 'merge'].map((type) => `/v1/${type}`),
);
const batchPaths = new Set(['/v1/batch', '/v1/import', '/beacon/v1/batch']);

/** Whether the body of this path is one event. */
export const isSingle = (path: string): boolean => singlePaths.has(path);

/** Whether requests of this path carry events in their body. */
export const carriesEvents = (method: string, path: string): boolean =>
  method === 'POST' && (singlePaths.has(path) || batchPaths.has(path));

/** `path` without its query; `anonymousId`: the header of that name; `body`: JSON text, decompressed. */
export function understand(path: string, query: string, anonymousId: string | undefined, body: string): Understood {
  if (path.startsWith('/pixel/')) {
    const asked = new URLSearchParams(query);
    const user = userOf({ anonymousId: asked.get('anonymousId'), userId: asked.get('userId') }, anonymousId);
    return user === null ? any : { kind: 'events', users: [user], batch: false };
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(body);
  } catch {
    return any;
  }
  if (isSingle(path)) {
    const user = userOf(parsed, anonymousId);
    return user === null ? any : { kind: 'events', users: [user], batch: false };
  }
  const events = (parsed as { batch?: unknown } | null)?.batch;
  if (!Array.isArray(events) || events.length === 0) return any;
  const users: string[] = [];
  for (const event of events) {
    const user = userOf(event, anonymousId);
    if (user === null) return any; // a node refuses such a batch whole
    users.push(user);
  }
  return { kind: 'events', users, batch: true };
}

/** The user key of one event; `null` where it names no user. */
function userOf(event: unknown, anonymousIdHeader: string | undefined): string | null {
  if (typeof event !== 'object' || event === null || Array.isArray(event)) return null;
  return userKeyOfEvent(event, anonymousIdHeader);
}
