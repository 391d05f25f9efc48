/** Goal: waiting for a node ends when it stands still, not when it is slow. Method: the wait as it is, a node that answers as the test says. */
import { MockActivityEnvironment } from '@temporalio/testing';
import { expect, test } from 'vitest';
import { waitSettled } from '../../activities/node-status.ts';
import type { NodeControl, NodeStatus } from '../../dataplane/contract.ts';

const VERSION = 7;
const limits = {
  settleWithinMs: 200,
  pollEveryMs: 20,
  standInAfterMs: 500,
  lostAfterMs: 1_000,
  caretakerIdleMs: 1_000,
};
const base: NodeStatus = {
  node: 'node-0',
  databaseId: 'd',
  instance: 1,
  foldedVersion: VERSION,
  epoch: 1,
  settledVersion: VERSION - 1,
  serving: true,
  blocked: null,
  partitions: { closed: 0, open: 1, paused: 0, fenced: 0 },
};

const wait = (status: (look: number) => NodeStatus): Promise<NodeStatus> => {
  let looks = 0;
  const control = {
    status: async () => {
      looks += 1;
      return status(looks);
    },
  } as unknown as NodeControl;
  const env = new MockActivityEnvironment();
  return env.run(() => waitSettled({ controlOf: async () => control, limits }, 'node-0', VERSION));
};

test('a node that puts batch after batch away is waited for, however long that takes', async () => {
  const looksNeeded = 40; // several times the limit
  const settled = await wait((look) => ({
    ...base,
    batchesPutAway: look,
    settledVersion: look < looksNeeded ? VERSION - 1 : VERSION,
  }));
  expect(settled.settledVersion).toBe(VERSION);
});

test('a node that stands still is told: VERIFY_MISMATCH', async () => {
  await expect(wait(() => ({ ...base, batchesPutAway: 3 }))).rejects.toMatchObject({ code: 'VERIFY_MISMATCH' });
});
