/**
 * Temporal's dev server as a process of this machine, its state in a file, so that a restart loses nothing. It ends with this process.
 * The binary is found or fetched by scripts/lib/temporal-cli.mjs, which every npm script runs first.
 */
import { mkdirSync } from 'node:fs';
import { readFile, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Connection } from '@temporalio/client';
import { type Exit, type KeptProcess, keep } from '../../platform/local/keeper.ts';
import { freePort } from '../../platform/local/ports.ts';
import { endLeftover } from '../../platform/local/processes.ts';
import { findTemporalCli } from '../../scripts/lib/temporal-cli.mjs';

export interface TemporalOptions {
  /** Default: RINGMASTER_TEMPORAL_CLI, PATH, or the cache. */
  binary?: string;
  dataFolder: string;
  /** Default: those of the last start if free, else any. */
  port?: number;
  uiPort?: number;
  headless?: boolean;
  signal?: AbortSignal;
}

export interface Temporal {
  /** host:port of the gRPC frontend. */
  readonly address: string;
  readonly namespace: string;
  readonly uiUrl: string | null;
  readonly pid: number;
  readonly exited: Promise<Exit>;
  readonly logFile: string;
  stop(): Promise<void>;
  /** The same ports, the same state. Also after a crash. */
  restart(): Promise<void>;
  signal(signal: NodeJS.Signals): void;
}

interface Ports {
  grpc: number;
  ui: number;
  http: number;
  metrics: number;
}

/** Keyword search attributes of our workflows; the names are public (docs). */
const SEARCH_ATTRIBUTES = ['RingmasterCluster', 'RingmasterState', 'RingmasterBlockedOn'];
const NAMESPACE = 'default';
const READY_WITHIN_MS = 60_000;
const STOP_WITHIN_MS = 10_000;
const STOP_ORPHAN_WITHIN_MS = 3000;
const START_ATTEMPTS = 4;

export async function startTemporal(options: TemporalOptions): Promise<Temporal> {
  const binary = options.binary ?? findTemporalCli();
  if (!binary) throw new Error('no Temporal CLI: set RINGMASTER_TEMPORAL_CLI, or start through npm, which fetches it');
  const { dataFolder } = options;
  mkdirSync(dataFolder, { recursive: true });
  const files = {
    database: path.join(dataFolder, 'temporal.db'),
    log: path.join(dataFolder, 'temporal.log'),
    pid: path.join(dataFolder, 'temporal.pid'),
    ports: path.join(dataFolder, 'temporal.ports.json'),
  };
  await clearLeftover(files.pid, files.database);

  let process: KeptProcess | null = null;
  let ports = await choosePorts(options, await lastPorts(files.ports));
  for (let attempt = 1; !process; attempt += 1) {
    try {
      process = await launch(binary, ports, files, options);
    } catch (err) {
      if (attempt >= START_ATTEMPTS || !/address already in use|can't set internal frontend port/i.test(String(err)))
        throw err;
      ports = await choosePorts(options, null);
    }
  }
  await writeFile(files.ports, JSON.stringify(ports));
  let current = process;
  const stop = async () => {
    await current.end('SIGTERM', STOP_WITHIN_MS);
    await rm(files.pid, { force: true });
  };
  return {
    address: `127.0.0.1:${ports.grpc}`,
    namespace: NAMESPACE,
    uiUrl: options.headless ? null : `http://127.0.0.1:${ports.ui}`,
    get pid() {
      return current.pid;
    },
    get exited() {
      return current.exited;
    },
    logFile: files.log,
    stop,
    restart: async () => {
      await stop();
      current = await launch(binary, ports, files, options);
    },
    signal: (signal) => current.signal(signal),
  };
}

async function launch(
  binary: string,
  ports: Ports,
  files: { database: string; log: string; pid: string },
  options: TemporalOptions,
): Promise<KeptProcess> {
  const logFrom = (await stat(files.log).catch(() => null))?.size ?? 0;
  const process = await keep({
    command: binary,
    args: [
      'server',
      'start-dev',
      ...['--db-filename', files.database],
      ...['--ip', '127.0.0.1'],
      ...['--port', String(ports.grpc)],
      ...['--http-port', String(ports.http)],
      ...['--metrics-port', String(ports.metrics)],
      ...(options.headless ? ['--headless'] : ['--ui-port', String(ports.ui)]),
      ...SEARCH_ATTRIBUTES.flatMap((name) => ['--search-attribute', `${name}=Keyword`]),
      ...['--log-level', 'warn'],
      ...['--color', 'never'],
      '--disable-config-file', // a developer's own profile is not about this server
      '--disable-config-env',
    ],
    env: { PATH: globalThis.process.env['PATH'], HOME: globalThis.process.env['HOME'] },
    cwd: options.dataFolder,
    logFile: files.log,
    endSignal: 'SIGTERM',
    killAfterMs: STOP_ORPHAN_WITHIN_MS,
  });
  await writeFile(files.pid, String(process.pid));
  try {
    await becomesReady(process, `127.0.0.1:${ports.grpc}`, options.signal);
    return process;
  } catch (err) {
    await process.end('SIGKILL');
    const said = (await readFile(files.log))
      .subarray(logFrom)
      .toString('utf8')
      .trim()
      .split('\n')
      .slice(-3)
      .join(' | ');
    throw new Error(`Temporal did not start: ${said || (err as Error).message}`, { cause: err });
  }
}

/** Ready means: the default namespace can be described and our search attributes are known, so a workflow can be started. */
async function becomesReady(process: KeptProcess, address: string, signal?: AbortSignal): Promise<void> {
  const deadline = performance.now() + READY_WITHIN_MS;
  for (;;) {
    signal?.throwIfAborted();
    if (process.exit !== undefined) throw new Error(`it ended (${process.exit.signal ?? `exit ${process.exit.code}`})`);
    try {
      const connection = await Connection.connect({ address, connectTimeout: 1000 });
      try {
        await connection.withDeadline(Date.now() + 2000, async () => {
          await connection.workflowService.describeNamespace({ namespace: NAMESPACE });
          const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace: NAMESPACE });
          for (const name of SEARCH_ATTRIBUTES)
            if (customAttributes?.[name] == null) throw new Error(`search attribute ${name} is missing`);
        });
        return;
      } finally {
        await connection.close();
      }
    } catch (err) {
      if (performance.now() > deadline) throw err;
      await sleep(50);
    }
  }
}

async function choosePorts(options: TemporalOptions, last: Ports | null): Promise<Ports> {
  const taken = new Set<number>([options.port, options.uiPort].filter((port) => port !== undefined));
  const free = async () => {
    const port = await freePort(taken);
    taken.add(port);
    return port;
  };
  return {
    grpc: options.port ?? last?.grpc ?? (await free()),
    ui: options.uiPort ?? last?.ui ?? (await free()),
    http: last?.http ?? (await free()),
    metrics: last?.metrics ?? (await free()),
  };
}

async function lastPorts(file: string): Promise<Ports | null> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Ports;
  } catch {
    return null;
  }
}

async function clearLeftover(pidFile: string, database: string): Promise<void> {
  const pid = Number(await readFile(pidFile, 'utf8').catch(() => ''));
  if (pid > 1) await endLeftover(pid, database, 'SIGTERM', STOP_ORPHAN_WITHIN_MS);
  await rm(pidFile, { force: true });
}
