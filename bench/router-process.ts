/** A router as a process of the bench: its ring is one of the given nodes, and never changes. */
import { createLog } from '../kit/log.ts';
import { onStopSignal } from '../kit/parent.ts';
import { decide } from '../ring/decide.ts';
import { evolve, noRing } from '../ring/ring.ts';
import { startRouter } from '../router/server.ts';

const PARTITIONS = 64;

const urls = process.argv.slice(2);
const ring = decide(noRing('bench'), {
  type: 'make ring',
  clusterId: 'bench',
  partitionCount: PARTITIONS,
  nodes: urls.map((url, n) => ({ node: `node-${n}`, databaseId: `node-${n}`, url })),
}).reduce(evolve, noRing('bench'));
const view = { ring, onChange: () => () => undefined, trouble: null, ringAgeMs: 0, confirmedMsAgo: 0 };
const log = createLog('router');
const router = await startRouter({ view, log });
log.info({ url: router.url }, 'listening');
onStopSignal(() => void router.stop().finally(() => process.exit(0)));
