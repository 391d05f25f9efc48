/**
 * One embedded PostgreSQL for a whole test run. It is started by the first test that asks for it: what is provided to the tests is the address of a small
 * server in vitest's main process, which starts it and answers with its URL. It ends with the run, also when the run is killed (keeper.ts).
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import type { TestProject } from 'vitest/node';
import { dataRoot, makeEnterable } from '../../platform/local/places.ts';
import { type PostgresServer, startPostgres } from '../../platform/local/postgres-server.ts';

declare module 'vitest' {
  interface ProvidedContext {
    testPostgresBroker: string;
  }
}

interface Broker {
  server: Server;
  url: Promise<string>;
  postgres: Promise<PostgresServer> | null;
  folder: string | null;
  users: number;
}

// Each vitest project loads this file anew; they share one broker.
const KEY = Symbol.for('ringmaster.test.postgres');
const shared = globalThis as unknown as Record<symbol, Broker | undefined>;

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  shared[KEY] ??= makeBroker();
  const broker = shared[KEY];
  broker.users += 1;
  project.provide('testPostgresBroker', await broker.url);
  return async () => {
    broker.users -= 1;
    if (broker.users > 0) return;
    shared[KEY] = undefined;
    broker.server.close();
    await (await broker.postgres?.catch(() => null))?.stop('immediate');
    if (broker.folder) rmSync(broker.folder, { recursive: true, force: true });
  };
}

function makeBroker(): Broker {
  const broker: Broker = {
    server: createServer((_request, response) => {
      broker.postgres ??= start(broker);
      broker.postgres.then(
        (postgres) => response.end(postgres.url),
        (err: unknown) => response.writeHead(500).end(err instanceof Error ? err.message : String(err)),
      );
    }),
    url: new Promise((resolve) => {
      setImmediate(() =>
        broker.server.listen(0, '127.0.0.1', () =>
          resolve(`http://127.0.0.1:${(broker.server.address() as AddressInfo).port}`),
        ),
      );
    }),
    postgres: null,
    folder: null,
    users: 0,
  };
  return broker;
}

async function start(broker: Broker): Promise<PostgresServer> {
  const parent = path.join(dataRoot(), 'test');
  makeEnterable(parent);
  broker.folder = path.join(mkdtempSync(path.join(parent, 'run-')));
  const { chmodSync } = await import('node:fs');
  chmodSync(broker.folder, 0o755);
  return await startPostgres({
    folder: broker.folder,
    // Many files with many pools; and nobody needs these databases after a crash.
    settings: {
      max_connections: 300,
      fsync: 'off',
      synchronous_commit: 'off',
      full_page_writes: 'off',
      shared_buffers: '128MB',
    },
  });
}
