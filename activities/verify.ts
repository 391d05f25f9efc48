/** After the moves, before anything is removed: does the cluster hold what the ring says? */
import { CodedError } from '../kit/errors.ts';
import { fold, noRing, partitionsOf } from '../ring/ring.ts';
import { type ActivityDeps, reachingIn } from './deps.ts';
import { beating, refusingByType } from './errors.ts';
import { moveHistory } from './log-views.ts';
import { waitSettled } from './node-status.ts';
import type { VerifyActivities } from './types.ts';

export type VerifyDeps = Pick<ActivityDeps, 'ringStore' | 'controlOf' | 'reach' | 'limits'>;

export function createVerifyActivities(deps: VerifyDeps): VerifyActivities {
  return refusingByType<VerifyActivities>({
    /** Reads only. */
    verifyCluster: ({ clusterId, moves }) =>
      beating(async () => {
        const events = await deps.ringStore.read(clusterId);
        const ring = fold(noRing(clusterId), events);
        for (const move of moves) {
          const { state, proof } = moveHistory(events, move);
          if (state !== 'completed' || !proof) {
            throw new CodedError('VERIFY_MISMATCH', `${move} is ${state}${proof ? '' : ', without proof'}`, {
              move,
              state,
            });
          }
        }
        const reaching = reachingIn(deps, clusterId);
        // Settled up to this version: what is pending on a partition that the node does not own is marked or dropped, so none is live.
        await Promise.all(
          ring.nodes.map(({ node }) => {
            const owned = partitionsOf(ring, node).length;
            return waitSettled(reaching, node, ring.version, ({ partitions: { open, paused, fenced } }) =>
              open === owned && paused === 0 && fenced === 0
                ? null
                : `${open} partitions open, ${paused} paused and ${fenced} fenced, and it owns ${owned} (epoch ${ring.epoch})`,
            );
          }),
        );
        return { version: ring.version, nodes: ring.nodes.length };
      }),
  });
}
