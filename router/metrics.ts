/** What a router counts. */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';

export type RouterMetrics = ReturnType<typeof createRouterMetrics>;

export function createRouterMetrics(sources: {
  readonly ringVersion: () => number;
  readonly held: () => number;
  readonly heldBytes: () => number;
}) {
  const registry = new Registry();
  const registers = [registry];
  const gauge = (name: string, help: string, read: () => number): void => {
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(read());
      },
    });
  };
  gauge('ringmaster_router_held_requests', 'Requests held now.', sources.held);
  gauge('ringmaster_router_held_bytes', 'Bodies of requests held now.', sources.heldBytes);
  gauge('ringmaster_router_ring_version', 'Version of the ring that requests are routed by.', sources.ringVersion);
  /** Requests answered by status: a plain number for each, as one is raised for every request. */
  const answered = new Float64Array(600);
  new Counter({
    name: 'ringmaster_router_requests_total',
    help: 'Requests answered, by status.',
    labelNames: ['status'],
    registers,
    collect() {
      this.reset();
      answered.forEach((count, status) => {
        if (count > 0) this.inc({ status: String(status) }, count);
      });
    },
  });
  return {
    registry,
    answered(status: number): void {
      answered[status]! += 1;
    },
    retries: new Counter({
      name: 'ringmaster_router_retries_total',
      help: 'Times a request was not stored and is to be sent again, by reason.',
      labelNames: ['reason'],
      registers,
    }),
    holdRefusals: new Counter({
      name: 'ringmaster_router_hold_refusals_total',
      help: 'Held requests that were not sent, by reason.',
      labelNames: ['code'],
      registers,
    }),
    holdSeconds: new Histogram({
      name: 'ringmaster_router_hold_seconds',
      help: 'How long held requests waited.',
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15],
      registers,
    }),
    splits: new Counter({
      name: 'ringmaster_router_splits_total',
      help: 'Batches sent in parts to several nodes.',
      registers,
    }),
  };
}
