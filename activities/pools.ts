/** Connections of activities to the nodes' databases. */
import type pg from 'pg';
import { createPool } from '../jobsdb/pool.ts';
import type { DatabaseAddress } from '../platform/platform.ts';

export interface Pools {
  of(address: DatabaseAddress): pg.Pool;
}

/** One small pool for each database, closed by idleness. */
export function createPools(applicationName: string, max: number): Pools {
  const pools = new Map<string, pg.Pool>();
  return {
    of(address) {
      const key = JSON.stringify(address);
      let pool = pools.get(key);
      if (!pool) {
        pool = createPool({
          ...address,
          max,
          application_name: applicationName,
          idleTimeoutMillis: 30_000,
          allowExitOnIdle: true,
        });
        pools.set(key, pool);
      }
      return pool;
    },
  };
}
