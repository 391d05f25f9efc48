/** The node's counters and gauges. A registry of their own: several nodes may live in one test process. */

import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import type { NodeLoad } from '../dataplane/contract.ts';

export type NodeMetrics = ReturnType<typeof createNodeMetrics>;

export interface MetricSources {
  readonly inFlight: () => number;
  readonly ringVersion: () => number;
  readonly waitingRequests: () => number;
  readonly load: () => NodeLoad;
  /** Pending jobs by prefix and destination ('' where there is none). */
  readonly pending: () => Promise<readonly { prefix: string; destination: string; count: number }[]>;
}

/** Counting pending jobs reads the tables: a scrape finds a number at most this old. */
const PENDING_AGE_MS = 15_000;

export function createNodeMetrics(node: string) {
  const registry = new Registry();
  registry.setDefaultLabels({ node });
  const registers = [registry];
  const counter = (name: string, help: string, labelNames: string[] = []): Counter =>
    new Counter({ name: `ringmaster_node_${name}`, help, labelNames, registers });
  return {
    registry,
    accepted: counter('events_accepted_total', 'Events stored and acknowledged'),
    resent: counter('events_resent_total', 'Events acknowledged and not stored: their messageId is in the window'),
    answers: counter('answers_total', 'Answers of the gateway by status', ['status']),
    processed: counter('jobs_processed_total', 'gw jobs turned into rt jobs'),
    delivered: counter('deliveries_succeeded_total', 'Jobs delivered', ['destination']),
    failed: counter('deliveries_failed_total', 'Attempts that failed and are tried again', ['destination']),
    aborted: counter('jobs_aborted_total', 'Jobs given up', ['destination']),
    /** Gauges are read when asked for. */
    observe(sources: MetricSources): void {
      collectDefaultMetrics({ register: registry });
      const gauge = (name: string, help: string, read: () => number): void => {
        new Gauge({
          name: `ringmaster_node_${name}`,
          help,
          registers,
          collect() {
            this.set(read());
          },
        });
      };
      gauge('deliveries_in_flight', 'Deliveries that run now', sources.inFlight);
      gauge('ring_version', 'Version of the ring that this node has folded', sources.ringVersion);
      gauge('requests_waiting', 'Requests that wait for their commit', sources.waitingRequests);
      const ofCommits = (share: 'p50' | 'p90') => () => sources.load().commitMs?.[share] ?? 0;
      gauge('commit_p50_ms', 'From arrival to commit of requests, over the last two seconds', ofCommits('p50'));
      gauge('commit_p90_ms', 'As commit_p50_ms: what the brake of a move looks at', ofCommits('p90'));
      gauge(
        'queue_delay_ms',
        'How long jobs wait that could be worked on at once: what the brake of a move looks at',
        () => sources.load().queueDelayMs,
      );
      let countedAt = -PENDING_AGE_MS;
      new Gauge({
        name: 'ringmaster_node_jobs_pending',
        help: `Jobs without a terminal status, at most ${PENDING_AGE_MS / 1000} s old`,
        labelNames: ['prefix', 'destination'],
        registers,
        async collect() {
          if (performance.now() - countedAt < PENDING_AGE_MS) return;
          countedAt = performance.now();
          const counts = await sources.pending().catch(() => null); // the database is away: the old numbers stay
          if (!counts) return;
          this.reset();
          for (const { prefix, destination, count } of counts) this.inc({ prefix, destination }, count);
        },
      });
    },
  };
}
