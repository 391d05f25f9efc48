/** The sink's process: its own, so that slow answers and fast traffic do not share an event loop. Tells its address by the line `listening`. */
import { z } from 'zod';
import { parseConfig } from '../../kit/config.ts';
import { describeError } from '../../kit/errors.ts';
import { createLog } from '../../kit/log.ts';
import { endWithParent, onStopSignal } from '../../kit/parent.ts';
import { startSink } from './sink.ts';

const settings = z.object({
  RINGMASTER_SINK_PORT: z.coerce.number().int().min(0).max(65_535).default(0),
  RINGMASTER_SINK_DESTINATION_MS: z.coerce.number().min(0).max(600_000).default(0),
  /** One in so many deliveries is answered 500. */
  RINGMASTER_SINK_FAIL_ONE_IN: z.coerce.number().int().min(0).default(0),
  RINGMASTER_SINK_LOG_FILE: z.string().optional(),
});

const log = createLog('sink');
try {
  const config = parseConfig(settings, process.env);
  const sink = await startSink({
    port: config.RINGMASTER_SINK_PORT,
    destinationMs: config.RINGMASTER_SINK_DESTINATION_MS,
    failOneIn: config.RINGMASTER_SINK_FAIL_ONE_IN,
    ...(config.RINGMASTER_SINK_LOG_FILE ? { logFile: config.RINGMASTER_SINK_LOG_FILE } : {}),
  });
  endWithParent(() => sink.stop());
  onStopSignal(() => void sink.stop().then(() => process.exit(0)));
  log.info({ url: sink.url }, 'listening');
} catch (error) {
  log.fatal({ error: describeError(error) }, 'cannot start');
  process.exit(1);
}
