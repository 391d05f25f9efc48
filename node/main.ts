/** The process of a node. Configuration: config.ts. Ends with code 0 when asked to, 1 when it cannot start, 3 when another process has become the node. */
import { describeError } from '../kit/errors.ts';
import { createLog } from '../kit/log.ts';
import { endWithParent } from '../kit/parent.ts';
import { onceUp } from '../kit/starting.ts';
import { createPostgresRingStore } from '../ringstore/postgres.ts';
import { type NodeConfig, readNodeConfig } from './config.ts';
import { type RunningNode, startNode } from './node.ts';
import { openSession } from './session.ts';
import { Steward } from './steward.ts';

const log = createLog(process.env['RINGMASTER_NODE'] ?? 'node');
const EXIT_SUPERSEDED = 3;
/** Over the node's own bounds: whatever hangs then hangs for good. */
const END_SLACK_MS = 8_000;

async function run(config: NodeConfig): Promise<void> {
  const { node, clusterId, databaseUrl } = config;
  const session = await onceUp('the database', log, () => openSession({ node, clusterId, databaseUrl }));
  const ringStore = createPostgresRingStore({
    connectionString: config.ringStoreUrl,
    applicationName: 'ringmaster node',
    log,
  });
  const starting: Promise<RunningNode> = startNode({
    config,
    session,
    log,
    makeSteward: (work) => new Steward({ session, ringStore, work, log, workspaceId: config.workspaceId }),
    onSuperseded: (error) => {
      // At once: another process delivers what this one remembers.
      log.fatal(
        { error: describeError(error), instance: session.instance },
        'another process has become this node: ending',
      );
      process.exit(EXIT_SUPERSEDED);
    },
  });
  const end = (why: string): void => {
    log.info({ why }, 'node stopping');
    setTimeout(() => process.exit(1), config.limits.endMs * 2 + END_SLACK_MS).unref();
    void starting
      .then((node) => node.stop())
      .then(() => ringStore.close())
      .then(
        () => {
          log.info('node stopped');
          process.exit(0);
        },
        () => process.exit(1),
      );
  };
  let asked = false;
  const endOnce = (why: string): void => {
    if (asked) return;
    asked = true;
    end(why);
  };
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => endOnce(signal));
  // Its own end exits the process; what takes longer than a killed parent's children may is cut off there.
  endWithParent(() => {
    endOnce('the parent is gone');
    return new Promise(() => undefined);
  });
  const { gatewayUrl, controlUrl } = await starting;
  log.info({ gatewayUrl, controlUrl, instance: session.instance, databaseId: session.databaseId }, 'node running');
}

try {
  await run(readNodeConfig(process.env));
} catch (error) {
  log.fatal({ error: describeError(error) }, 'node cannot start');
  process.exit(1);
}
