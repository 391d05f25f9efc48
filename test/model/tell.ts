/** What was explored, in a line. */

import type { Bounds } from './bounds.ts';
import type { Exploration } from './explore.ts';

export function tellBounds({ moves, events, crashes, zombies, starts, parallel, fine }: Bounds): string {
  const what = moves.map(({ partition, from, to }) => `${partition}: ${from} → ${to}`).join(', ');
  return [
    '2 nodes, 2 partitions',
    `${count(moves.length, 'move')} (${what})${moves.length > 1 && parallel ? ' at once' : ''}`,
    `${count(starts, 'try', 'tries')} in all`,
    `${count(events.length, 'event')} (of partitions ${events.join(', ')})`,
    count(crashes, 'crash', 'crashes'),
    count(zombies, 'zombie'),
    fine ? 'fine steps' : 'whole steps',
  ].join('; ');
}

export const tellExploration = ({ states, steps, ms }: Exploration): string =>
  `${states.toLocaleString('en')} states, ${steps.toLocaleString('en')} steps, ${(ms / 1000).toFixed(1)} s`;

const count = (n: number, one: string, many = `${one}s`): string => `${n} ${n === 1 ? one : many}`;
