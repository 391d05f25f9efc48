import { expect } from 'vitest';
import type { World } from './world.ts';

/** Nobody holds the ring, no move is open, and the pods are those of its members. */
export async function isLeftInOrder(world: World): Promise<void> {
  const ring = await world.ring();
  expect(ring.freeze).toBeNull();
  expect(ring.moves).toEqual([]);
  expect([...world.pods].sort()).toEqual(ring.nodes.map(({ node }) => node).sort());
}
