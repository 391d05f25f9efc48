import { defineConfig } from 'vitest/config';

/** Not part of `npm test`. */
const LONG = ['test/**/*.long.test.ts', 'test/**/*.long.{int,e2e}.test.ts'];

/** The level of a test is in its file name; each has its own patience. */
const level = (name: string, testTimeout: number, include = [`test/**/*.${name}.test.ts`]) => ({
  extends: true as const,
  test: {
    name,
    include,
    exclude: include === LONG ? [] : LONG,
    testTimeout,
    hookTimeout: Math.max(testTimeout, 60_000),
  },
});

export default defineConfig({
  test: {
    pool: 'forks', // Temporal's native module does not survive worker threads
    maxWorkers: 2,
    // One embedded PostgreSQL for all files, started when a test first asks for a database: unit tests do not pay for it.
    globalSetup: ['test/support/global-setup.ts'],
    exclude: ['node_modules/**', '.ringmaster/**'],
    projects: [level('unit', 15_000), level('int', 60_000), level('e2e', 300_000), level('long', 3_600_000, LONG)],
  },
});
