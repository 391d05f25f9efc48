/**
 * Goal: whatever else dies at any step of an operation (either node, either PostgreSQL server, the router, Temporal, the ring store), the operation ends as it
 * should, nothing is lost or out of order, and only deliveries that the dead node had in flight are repeated.
 * Method: the worker is held at a fault point, the part is hit, and the worker goes on into what has become of it; one victim on one cluster, at every point that an
 * operation that scales comes by.
 */
import { expect, test } from 'vitest';
import { stepsOf } from './plan.ts';
import type { Victim } from './run.ts';
import { withSteps } from './support.ts';

const VICTIMS: readonly (readonly [name: string, victim: Victim])[] = [
  ['the node that gives', { kind: 'node', side: 'from', blow: 'SIGKILL' }],
  ['the node that takes', { kind: 'node', side: 'to', blow: 'SIGKILL' }],
  ['the PostgreSQL server of the node that gives', { kind: 'postgres', side: 'from', blow: 'SIGQUIT' }], // PostgreSQL's immediate stop
  ['the PostgreSQL server of the node that takes', { kind: 'postgres', side: 'to', blow: 'SIGQUIT' }],
  ['the router', { kind: 'router', side: null, blow: 'SIGKILL' }],
  ['Temporal', { kind: 'temporal', side: null, blow: 'SIGKILL' }],
  ['the ring store', { kind: 'ringstore', side: null, blow: 'SIGQUIT' }],
];

test.each(VICTIMS)('%s dies at every step: each operation ends as it should, and the promises are kept', (_, victim) =>
  withSteps(async (run) => {
    await run.hitAll(stepsOf('kill'), victim);
    const { events } = await run.judge();
    expect(events).toMatchObject({ lost: 0, reordered: 0, unknown: 0 });
    expect(events.delivered).toBeGreaterThan(500);
  }),
);
