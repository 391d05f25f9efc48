/** Goal and method: see orchestrator-lost.e2e.test.ts, which has the two that differ most. */
import { test } from 'vitest';
import { expectTakenOver, terminate, wipe } from './orchestrator-lost.ts';

test('its workflows are terminated in Temporal after the hand-over: the next operation takes the ring over and completes the move', () =>
  expectTakenOver(terminate, 'partitions handed over'));

test('the database of Temporal is lost before the hand-over: the next operation takes the ring over and aborts the move', () =>
  expectTakenOver(wipe, 'move claimed'));
