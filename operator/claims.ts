/** Which volume claims of nodes that left are old enough to go. Pure. */
import { isMember, type Ring } from '../ring/ring.ts';
import { parseLeftAt } from './resource.ts';

export interface Claim {
  readonly name: string;
  readonly uid: string;
  readonly resourceVersion: string;
  /** Value of the label ringmaster.dev/left-at; null where it has none. */
  readonly leftAt: string | null;
  readonly isBeingDeleted: boolean;
}

const ORDINAL = /-(\d+)$/;

/**
 * Holds: a claim goes only if its node has left (the label), long enough ago, has not come back into the ring, and no pod names it. Any doubt keeps it.
 * `nowMs` and the label come from clocks of two machines. Nothing but the age of something that nobody uses hangs on them.
 */
export function claimsToDelete(seen: {
  readonly claims: readonly Claim[];
  readonly inUse: ReadonlySet<string>;
  readonly ring: Ring;
  readonly olderThanMs: number;
  readonly nowMs: number;
}): Claim[] {
  return seen.claims.filter((claim) => {
    if (claim.isBeingDeleted || claim.leftAt === null || seen.inUse.has(claim.name)) return false;
    const leftAt = parseLeftAt(claim.leftAt);
    const ordinal = ORDINAL.exec(claim.name)?.[1];
    if (leftAt === null || ordinal === undefined || isMember(seen.ring, `node-${Number(ordinal)}`)) return false;
    return seen.nowMs - leftAt > seen.olderThanMs;
  });
}
