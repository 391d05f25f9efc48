/**
 * Goal: as network.e2e.test.ts, for networks that do not refuse: half-open connections, lost answers, late and slow ones, longer than a source stays fenced.
 */
import { describe, expect, test } from 'vitest';
import type { ProxyMode } from '../../dev/faults/tcp-proxy.ts';
import { withCluster } from '../e2e/cluster.ts';
import { arrowsOf, breakArrow } from './arrows.ts';
import { expectKept, scaleAndStrike } from './support.ts';

const modes: readonly (readonly [what: string, mode: ProxyMode, forMs: number])[] = [
  ['cut', 'cut', 2_500],
  ['half-open for longer than a fence stands', 'silent', 12_000],
  ['half-open for a moment', 'silent', 2_000],
  ['without answers', 'no answers', 5_000],
  ['late', { delayMs: 400 }, 8_000],
  ['slow', { bytesPerSecond: 5_000 }, 8_000],
];

describe.each(modes)('%s', (_what, mode, forMs) => {
  test('each arrow in the middle of a cut-over: every operation finishes', async () => {
    await withCluster({ nodes: 2, network: true }, async (cluster) => {
      let size = 2;
      for (const { what, nameIn } of arrowsOf) {
        size = size === 2 ? 3 : 2;
        const { progress } = await scaleAndStrike(cluster, size, (cutOver) =>
          breakArrow(cluster, nameIn(cutOver), mode, forMs),
        );
        expect(progress.state, what).toBe('completed');
      }
      await expectKept(cluster);
    });
  });
});
