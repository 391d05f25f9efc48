import type { MoveCertificate } from '../../ring/events.ts';
import { moveOf, type OpenMove, type Ring } from '../../ring/ring.ts';

/** A certificate that fits the proof of a move which was handed over in a ring without databases: all jobs in its first partition. */
export function certificateFor(ring: Ring, move: string): MoveCertificate {
  const { partitions, handedOverAt, proven } = moveOf(ring, move) ?? ({} as Partial<OpenMove>);
  const tables = Object.entries(proven ?? {}).map(([prefix, jobs]) => ({
    prefix,
    jobs,
    digest: '7',
    order: '9',
    partitions: jobs > 0 ? [[partitions![0]!, jobs, '7', '9', 1, jobs, 101, 100 + jobs] as const] : [],
  }));
  return {
    form: 1,
    handedOverAt: handedOverAt ?? 0,
    epoch: ring.epoch,
    times: { started: '2026-01-01T00:00:00.000Z', handedOver: '2026-01-01T00:00:01.000Z' },
    askedBy: { actor: 'test', reason: 'test', operation: null },
    jobs: tables.reduce((sum, table) => sum + table.jobs, 0),
    tables,
  };
}
