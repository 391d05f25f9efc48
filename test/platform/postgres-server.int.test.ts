import { rmSync } from 'node:fs';
import path from 'node:path';
import pg from 'pg';
import { afterEach, describe, expect, test } from 'vitest';
import { dataRoot } from '../../platform/local/places.ts';
import { type PostgresServer, startPostgres } from '../../platform/local/postgres-server.ts';
import { isAlive } from '../../platform/local/processes.ts';
import { createTestDatabase } from '../support/database.ts';

describe('an embedded PostgreSQL server', () => {
  const folder = path.join(dataRoot(), 'test', `server-${process.pid}`);
  let server: PostgresServer | undefined;
  afterEach(async () => {
    await server?.stop('immediate');
    rmSync(folder, { recursive: true, force: true });
  });

  test('keeps what was committed over a kill, at the same address, and starts again at the same port', async () => {
    server = await startPostgres({ folder, database: 'jobsdb' });
    const { url } = server;
    await query(url, 'CREATE TABLE kept AS SELECT 1 AS one');
    server.signal('SIGKILL');
    await server.exited;
    await server.restart();
    expect(await query(url, 'SELECT one FROM kept')).toEqual([{ one: 1 }]);
    await server.stop();
    server = await startPostgres({ folder, database: 'jobsdb' });
    expect(server.url).toBe(url);
    expect(await query(url, 'SHOW fsync')).toEqual([{ fsync: 'on' }]);
  });

  test('wants the password', async () => {
    server = await startPostgres({ folder });
    await expect(query(server.url.replace(server.address.password, 'wrong'), 'SELECT 1')).rejects.toThrow(
      'password authentication failed',
    );
  });

  test('a start ends the server that a crash left on the same folder', async () => {
    server = await startPostgres({ folder });
    const { pid } = server;
    const again = await startPostgres({ folder });
    expect(isAlive(pid)).toBe(false);
    expect(again.url).toBe(server.url);
    server = again;
  });
});

test('each test database is its own, and goes with its sessions', async () => {
  const one = await createTestDatabase();
  const two = await createTestDatabase();
  await query(one.url, 'CREATE TABLE here ()');
  await expect(query(two.url, 'SELECT * FROM here')).rejects.toThrow('does not exist');
  const lingering = new pg.Client(one.url);
  const ended = new Promise((resolve) => lingering.on('error', resolve));
  await lingering.connect();
  await one.drop();
  await ended;
  await two.drop();
  await expect(query(one.url, 'SELECT 1')).rejects.toThrow('does not exist');
});

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5000 });
  client.on('error', () => {});
  await client.connect();
  try {
    return (await client.query(sql)).rows as unknown[];
  } finally {
    await client.end();
  }
}
