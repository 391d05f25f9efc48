/** `npm start`: the embedded stack, left running; what it was stays for the next start. Ctrl-C stops it. */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { Command } from 'commander';
import { connectionFilePath, removeConnectionFile, writeConnectionFile } from '../client/connection-file.ts';
import { describeError } from '../kit/errors.ts';
import { endWithParent, onStopSignal } from '../kit/parent.ts';
import { dataRoot } from '../platform/local/places.ts';
import { findTemporalCli } from '../scripts/lib/temporal-cli.mjs';
import { partitionCount, whole } from './flags.ts';
import { type SinkProcess, startSinkProcess } from './sink/process.ts';
import { type Stack, startStack } from './stack.ts';

interface StartOptions {
  nodes: number;
  partitions: number;
  routers: number;
  destination?: string;
  destinationMs: number;
  apiPort?: number;
  routerPort?: number;
  fresh: boolean;
  data?: string;
}

const program = new Command('npm start --')
  .description(
    'Starts a whole cluster on this machine: Temporal, the ring store, nodes each with its own PostgreSQL, a router, the API and a worker. Ctrl-C stops it.',
  )
  .option('--nodes <n>', 'nodes at the first start', whole('a whole number', 1, 20), 2)
  .option('--partitions <n>', 'partitions of the ring, at the first start', partitionCount, 64)
  .option('--routers <n>', 'routers', whole('a whole number', 1, 8), 1)
  .option('--destination <url>', 'where nodes deliver events to (default: a sink of this stack that answers 200)')
  .option('--destination-ms <n>', 'how long the sink takes to answer', whole('a whole number', 0, 60_000), 5)
  .option('--api-port <port>', 'port of the API (default: any free one)', whole('a whole number', 1, 65_535))
  .option('--router-port <port>', 'port of the router (default: any free one)', whole('a whole number', 1, 65_535))
  .option('--data <folder>', 'where everything lies (default: start/ in the data folder)')
  .option('--fresh', 'delete what an earlier start left', false)
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));

const options = program.parse().opts<StartOptions>();
const dataFolder = path.resolve(options.data ?? path.join(dataRoot(), 'start'));

let stack: Stack | undefined;
let sink: SinkProcess | undefined;
const starting = start();
let stopping: Promise<void> | undefined;
const stop = (): Promise<void> => (stopping ??= stopAll());
endWithParent(stop);
onStopSignal(() => {
  process.stderr.write('stopping …\n');
  void stop().then(() => process.exit(0));
});
await starting.catch(async (error: unknown) => {
  if (stopping) return;
  process.stderr.write(`could not start: ${describeError(error)}\nlogs are in ${path.join(dataFolder, 'logs')}\n`);
  await stop();
  process.exit(1);
});

async function start(): Promise<void> {
  if (options.fresh) await rm(dataFolder, { recursive: true, force: true });
  const say = (step: string): void => void process.stderr.write(`${step} …\n`);
  if (!options.destination) sink = await startSinkProcess({ destinationMs: options.destinationMs });
  stack = await startStack({
    dataFolder,
    destinationUrl: options.destination ?? sink!.url,
    nodes: options.nodes,
    partitions: options.partitions,
    routers: options.routers,
    temporalUi: true,
    onStep: say,
    ...(options.apiPort ? { apiPort: options.apiPort } : {}),
    ...(options.routerPort ? { routerPort: options.routerPort } : {}),
  });
  writeConnectionFile(stack.api);
  print(stack);
}

function print({ routerUrls, api, temporal, writeKey, clusterId }: Stack): void {
  const lines = [
    `The cluster "${clusterId}" runs.`,
    '',
    `  Router        ${routerUrls.join(', ')}`,
    `  Write key     ${writeKey}`,
    `  API           ${api.url}   (its token is in ${connectionFilePath()}, where the command line finds it)`,
    `  Temporal      ${temporal.address}`,
    `  Temporal's UI ${temporal.uiUrl ?? '-'}/namespaces/default/workflows`,
    `  Data, logs    ${dataFolder}`,
    '',
    'Try in another terminal:',
    `  curl -u ${writeKey}: -H 'content-type: application/json' -d '{"userId":"ann","event":"hello"}' ${routerUrls[0]}/v1/track`,
    '  npm run ringmaster -- status',
    '  npm run ringmaster -- scale --to 3 --wait --reason "try it"',
    `  ${findTemporalCli() ?? 'temporal'} workflow start --address ${temporal.address} --type ScaleCluster --task-queue ringmaster --workflow-id scale/${clusterId} \\`,
    `    --input '{"clusterId":"${clusterId}","targetNodes":3,"reason":"try it"}'`,
    '',
    'Ctrl-C stops it; the next start goes on where this one was.',
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}

async function stopAll(): Promise<void> {
  await starting.catch(() => undefined);
  if (stack) removeConnectionFile(stack.api.url);
  await stack?.stop();
  await sink?.stop();
}
