/** Goal: the same as held-here.unit.test.ts, for what only a real API server can tell. Method: somebody's hand is between reading and writing. */
import { pino } from 'pino';
import { describe, expect, test } from 'vitest';
import { kubernetesConfig } from '../../platform/kubernetes/config.ts';
import { Kube } from '../../platform/kubernetes/kube.ts';
import { Sets } from '../../platform/kubernetes/sets.ts';
import { kubeMissing } from '../kube/available.ts';
import { startControlPlane } from '../kube/control-plane.ts';
import { startHand } from '../platform/kubernetes-hand.ts';

const missing = kubeMissing();

describe.skipIf(missing !== null)('the replicas of a StatefulSet', () => {
  test('replicas that somebody changes in between are decided on again', async () => {
    const plane = await startControlPlane();
    try {
      const hand = await startHand(plane);
      await hand.makeSets();
      const log = pino({ level: 'silent' });
      const config = kubernetesConfig({
        KUBECONFIG: plane.kubeconfig,
        RINGMASTER_CLUSTER: 'demo',
        RINGMASTER_KUBE_NAMESPACE: hand.namespace,
        RINGMASTER_KUBE_CONTROL_TOKEN: 'a-token-for-tests-only',
        RINGMASTER_KUBE_DATABASE_PASSWORD: 'secret',
      });
      const kube = new Kube(config, log);
      const sets = new Sets(kube, config, log);
      const found: number[] = [];
      await sets.scale('backend', async (replicas) => {
        found.push(replicas);
        if (found.length === 1) await hand.setReplicas('backend', 4, 'a-person');
        return replicas < 2 ? 2 : null;
      });
      expect([found[0], found.at(-1)]).toEqual([1, 4]);
      expect((await hand.replicas()).backend).toBe(4);
      sets.stop();
      await kube.close();
      await hand.stop();
    } finally {
      await plane.stop();
    }
  });
});
