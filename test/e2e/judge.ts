/** The end of a test under traffic: everything drains, and the independent checker judges. */
import { checkDelivery, type Fault, type SentEvent } from '../../dev/checker/checker.ts';
import type { SinkProcess } from '../../dev/sink/process.ts';
import type { Traffic } from '../../dev/traffic/traffic.ts';
import { until } from '../support/wait.ts';

const QUIET_MS = 30_000;

/** Stops the traffic, waits until every acknowledged event was delivered (or 30 s without a delivery), and judges. `also`: what other clients have sent. */
export async function judgeTraffic(
  traffic: Traffic,
  sink: SinkProcess,
  faults: readonly Fault[] = [],
  also: readonly SentEvent[] = [],
): Promise<ReturnType<typeof checkDelivery>> {
  await traffic.stop();
  await sink.setDestinationMs(1);
  let seen = -1;
  let quietSince = performance.now();
  await until(
    async () => {
      const { delivered, aborted, inFlight } = await sink.stats();
      if (delivered !== seen) [seen, quietSince] = [delivered, performance.now()];
      return (
        (delivered + aborted >= traffic.acknowledged + also.length && inFlight === 0) ||
        performance.now() - quietSince > QUIET_MS
      );
    },
    { deadlineMs: 240_000, what: 'the queues drain', everyMs: 200 },
  );
  const sent = [...traffic.sent, ...also];
  return checkDelivery({ sent, received: await sink.deliveries(), faults, waitEnded: true });
}
