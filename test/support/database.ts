import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { inject } from 'vitest';
import { type DatabaseAddress, databaseUrl } from '../../platform/platform.ts';

export interface TestDatabase {
  url: string;
  address: DatabaseAddress;
  /** Also with sessions still open. */
  drop(): Promise<void>;
}

let server: Promise<DatabaseAddress> | undefined;

async function testServer(): Promise<DatabaseAddress> {
  const response = await fetch(inject('testPostgresBroker'));
  const text = await response.text();
  if (!response.ok) throw new Error(`the test PostgreSQL did not start: ${text}`);
  const url = new URL(text);
  return {
    host: url.hostname,
    port: Number(url.port),
    user: decodeURIComponent(url.username),
    password: decodeURIComponent(url.password),
    database: decodeURIComponent(url.pathname.slice(1)),
  };
}

/** A fresh, empty database in the run's PostgreSQL (durability off: a test that crashes a server starts its own, see platform/local/postgres-server.ts). */
export async function createTestDatabase(): Promise<TestDatabase> {
  server ??= testServer();
  return createDatabaseAt(await server);
}

/** The same on a server of the test's own. */
export async function createDatabaseAt(admin: DatabaseAddress): Promise<TestDatabase> {
  const name = `test_${randomBytes(8).toString('hex')}`;
  await execute(admin, `CREATE DATABASE ${name} STRATEGY file_copy`);
  const address = { ...admin, database: name };
  return {
    url: databaseUrl(address),
    address,
    drop: () => execute(admin, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`),
  };
}

async function execute(address: DatabaseAddress, statement: string): Promise<void> {
  const client = new pg.Client({ ...address, connectionTimeoutMillis: 10_000 });
  client.on('error', () => {});
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}
