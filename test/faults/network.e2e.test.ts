/**
 * Goal: whichever arrow of the network breaks in the middle of a cut-over, the operation finishes, nothing is lost, repeated or out of order, nothing is left over.
 * Method: real processes, each arrow through a proxy that resets what is open and refuses what is new. The other arrows, and half-open,
 *   late and slow ones: network.long.e2e.test.ts.
 */
import { expect, test } from 'vitest';
import { withCluster } from '../e2e/cluster.ts';
import { arrowsOf, breakArrow } from './arrows.ts';
import { expectKept, scaleAndStrike } from './support.ts';

const CUT_MS = 2_500;
/** Five operations. */
const ENDS_WITHIN_MS = 600_000;

test(
  'each arrow is cut in the middle of a cut-over: every operation finishes',
  async () => {
    await withCluster({ nodes: 2, network: true }, async (cluster) => {
      let size = 2;
      for (const { what, nameIn } of arrowsOf.filter(({ often }) => often)) {
        size = size === 2 ? 3 : 2;
        const { progress } = await scaleAndStrike(cluster, size, (cutOver) =>
          breakArrow(cluster, nameIn(cutOver), 'cut', CUT_MS),
        );
        expect(progress.state, what).toBe('completed');
      }
      await expectKept(cluster);
    });
  },
  ENDS_WITHIN_MS,
);
