/**
 * Goal: whatever else dies in the middle of a cut-over (either node, either PostgreSQL server, the router, Temporal, the ring store), the operation finishes,
 * nothing is lost or out of order, and only deliveries that the dead node had in flight are repeated.
 * Method: the worker is held at a fault point of the cut-over, the part is hit, and the worker goes on into what has become of it.
 */
import { describe, expect, test } from 'vitest';
import type { FaultPoint } from '../../activities/fault-points.ts';
import type { Victim } from './run.ts';
import { withSteps } from './support.ts';

const POINTS: readonly FaultPoint[] = ['cutOver: quiesced', 'cutOver: fenced', 'cutOver: handed over'];
const VICTIMS: readonly Victim[] = [
  { kind: 'node', side: 'from', blow: 'SIGKILL' },
  { kind: 'node', side: 'to', blow: 'SIGKILL' },
  { kind: 'postgres', side: 'from', blow: 'SIGQUIT' }, // PostgreSQL's immediate stop
  { kind: 'postgres', side: 'to', blow: 'SIGQUIT' },
  { kind: 'router', side: null, blow: 'SIGKILL' },
  { kind: 'temporal', side: null, blow: 'SIGKILL' },
  { kind: 'ringstore', side: null, blow: 'SIGQUIT' },
];

describe.each(POINTS)('%s', (point) => {
  test('whatever dies there: each operation finishes, and the promises are kept', () =>
    withSteps(async (steps) => {
      for (const victim of VICTIMS) await steps.hit(point, victim);
      const { events } = await steps.judge();
      expect(events).toMatchObject({ lost: 0, reordered: 0, unknown: 0 });
      expect(events.delivered).toBeGreaterThan(500);
    }));
});
