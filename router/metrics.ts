/** What a router counts. Each worker counts for itself; `/metrics` has them added up (workers.ts), but for what is `max`: there the worst counts. */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import { createDurations } from './durations.ts';

export type RouterMetrics = ReturnType<typeof createRouterMetrics>;

export function createRouterMetrics(sources: {
  readonly ring: () => { readonly version: number; readonly epoch: number };
  readonly ringAgeMs: () => number;
  readonly confirmedMsAgo: () => number | null;
  readonly openCircuits: () => readonly string[];
  readonly held: () => number;
  readonly heldBytes: () => number;
}) {
  const registry = new Registry();
  const registers = [registry];
  const gauge = (name: string, help: string, read: () => number, aggregator: 'sum' | 'max' | 'min' = 'sum'): void => {
    new Gauge({
      name,
      help,
      registers,
      aggregator,
      collect() {
        this.set(read());
      },
    });
  };
  gauge('ringmaster_router_held_requests', 'Requests held now.', sources.held);
  gauge('ringmaster_router_held_bytes', 'Bodies of requests held now.', sources.heldBytes);
  gauge(
    'ringmaster_router_ring_version',
    'Version of the ring that requests are routed by.',
    () => sources.ring().version,
    'min',
  );
  gauge(
    'ringmaster_router_ring_epoch',
    'Epoch of the ring that requests are routed by.',
    () => sources.ring().epoch,
    'min',
  );
  gauge(
    'ringmaster_router_ring_age_seconds',
    'For how long the router has had this ring.',
    () => sources.ringAgeMs() / 1_000,
    'max',
  );
  gauge(
    'ringmaster_router_ring_confirmed_seconds',
    'How long ago the ring store last said that this ring is the latest; where it has not since the start: for how long the ring has been known.',
    () => (sources.confirmedMsAgo() ?? sources.ringAgeMs()) / 1_000,
    'max',
  );
  new Gauge({
    name: 'ringmaster_router_circuit_open',
    help: 'Nodes that do not answer, each 1.',
    labelNames: ['node'],
    aggregator: 'max',
    registers,
    collect() {
      this.reset();
      for (const node of sources.openCircuits()) this.set({ node }, 1);
    },
  });
  const stages = createDurations({
    name: 'ringmaster_router_stage_seconds',
    help: 'How long requests took, by stage: body (until it was read, where the full HTTP stack has read it), node (one send, until its answer), whole (until the answer was ready).',
    stages: ['body', 'node', 'whole'],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 30],
    registry,
  });
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
    /** `ms`: from the request, as it had come as a whole or as its first line had, to its answer. */
    answered(status: number, ms: number): void {
      answered[status]! += 1;
      stages.whole.observe(ms);
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
    stages,
    splits: new Counter({
      name: 'ringmaster_router_splits_total',
      help: 'Batches sent in parts to several nodes.',
      registers,
    }),
  };
}
