/**
 * Everything of the embedded stack that can be hit from outside, and how each comes back: killed, it is started again; held still, it goes on as a zombie.
 * What is hit is told nothing of it. Holds: nothing stays stopped or down after `close`, nor after this process's death.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { createPool } from '../../jobsdb/pool.ts';
import type { PostgresServer } from '../../platform/local/postgres-server.ts';
import type { DatabaseAddress } from '../../platform/platform.ts';
import type { FaultKind } from '../checker/checker.ts';
import { answers } from '../cluster.ts';
import type { Temporal } from '../embedded/temporal.ts';
import type { Supervised } from '../supervise.ts';
import { type Pauser, startPauser } from './pauser.ts';
import { familyOf, listProcesses } from './processes.ts';

/** A server that stands still is not up. */
const UP_WITHIN_MS = 1_000;

export type PartKind = Exclude<FaultKind, 'pod' | 'network'>;

/** `SIGKILL`: as the out-of-memory killer does. `SIGQUIT`: PostgreSQL's immediate shutdown. `SIGSTOP`: it stalls, and goes on later. */
export type PartBlow = 'SIGKILL' | 'SIGQUIT' | 'SIGSTOP';

export interface Part {
  readonly kind: PartKind;
  /** What people see it as, such as `node-1`, `router-0`. */
  readonly name: string;
  /** The node whose deliveries suffer; null: no node's. */
  readonly node: string | null;
  /**
   * Hits it. Resolves once the blow has landed; its `back` when what was stopped goes on, or what this stack starts again has been started: `forMs` later at the
   * earliest. A node's backend and its PostgreSQL are started again by the platform, in its own time. Null: it is not there any more.
   */
  hit(blow: PartBlow, forMs: number): Promise<{ readonly back: Promise<void> } | null>;
  /** Whether it does its work; `gone`: an operation has taken it away. */
  state(): Promise<'well' | 'unwell' | 'gone'>;
}

export interface PartsOf {
  readonly dataFolder: string;
  readonly ringStoreServer: PostgresServer;
  readonly temporal: Temporal;
  readonly worker: Supervised;
  readonly routers: readonly Supervised[];
  readonly routerUrls: readonly string[];
  readonly platform: {
    listNodes(): Promise<{ readonly node: string; readonly condition: string; readonly pid?: number }[]>;
    describeNode(node: string): Promise<{ readonly url: string; readonly database: DatabaseAddress } | null>;
    kill(node: string, what: 'backend' | 'postgres', signal?: NodeJS.Signals): Promise<void>;
  };
}

export interface Parts {
  /** Those that are there now: of nodes, those that run. */
  list(): Promise<Part[]>;
  /** What is stopped goes on at once. */
  close(): Promise<void>;
}

export function partsOf(stack: PartsOf): Parts {
  let pauser: Pauser | null = null;
  const { platform, worker, routers, routerUrls, ringStoreServer, temporal } = stack;
  const ending = new AbortController();
  const wait = (ms: number): Promise<void> => sleep(ms, undefined, { signal: ending.signal }).catch(() => undefined);

  /** `isFamily`: with its children, which it must make no more of meanwhile. */
  async function pause(pid: number, isFamily: boolean, forMs: number): Promise<{ back: Promise<void> }> {
    pauser ??= startPauser();
    const first = await pauser.pause([pid]);
    const rest = isFamily ? await pauser.pause(familyOf(pid, await listProcesses()).slice(1)) : null;
    const goOn = async (): Promise<void> => {
      await rest?.();
      await first();
    };
    return { back: wait(forMs).then(goOn) };
  }

  function supervised(kind: PartKind, one: Supervised, isWell: () => Promise<boolean>): Part {
    let restartsBefore = -1;
    return {
      kind,
      name: one.name,
      node: null,
      async hit(blow, forMs) {
        if (one.pid === undefined) return null;
        if (blow === 'SIGSTOP') return pause(one.pid, false, forMs);
        restartsBefore = one.restarts;
        one.kill('SIGKILL', forMs);
        return { back: Promise.resolve() };
      },
      state: async () =>
        one.pid !== undefined && one.restarts > restartsBefore && (await isWell()) ? 'well' : 'unwell',
    };
  }

  /** One that this stack itself starts again. */
  function server(
    kind: PartKind,
    name: string,
    one: {
      readonly pid: number;
      readonly exited: Promise<unknown>;
      signal(signal: NodeJS.Signals): void;
      restart(): Promise<void>;
    },
    isFamily: boolean,
  ): Part {
    let isDown = false;
    return {
      kind,
      name,
      node: null,
      async hit(blow, forMs) {
        if (isDown) return null;
        isDown = true;
        const up = (back: Promise<void>): Promise<void> =>
          back.then(() => {
            isDown = false;
          });
        if (blow === 'SIGSTOP') {
          const { back } = await pause(one.pid, isFamily, forMs);
          return { back: up(back) };
        }
        one.signal(blow);
        await one.exited;
        return { back: up(wait(forMs).then(() => (ending.signal.aborted ? undefined : one.restart()))) };
      },
      state: async () => (isDown ? 'unwell' : 'well'),
    };
  }

  function ofNode(kind: 'node' | 'postgres', node: string): Part {
    const what = kind === 'node' ? 'backend' : 'postgres';
    return {
      kind,
      name: kind === 'node' ? node : `${node}'s PostgreSQL`,
      node,
      async hit(blow, forMs) {
        if (blow === 'SIGSTOP') {
          const pid = kind === 'node' ? await backendPid(node) : await postmasterPid(node);
          return pid === null ? null : pause(pid, kind === 'postgres', forMs);
        }
        if ((await platform.describeNode(node).catch(() => null)) === null) return null;
        await platform.kill(node, what, blow);
        return { back: Promise.resolve() };
      },
      async state() {
        const endpoints = await platform.describeNode(node);
        if (endpoints === null) return 'gone';
        // A backend says that all is well until it asks its database for something: it is not the one to tell.
        const isWell =
          (await answers(`${endpoints.url}/health`)) && (kind === 'node' || (await isUp(endpoints.database)));
        return isWell ? 'well' : 'unwell';
      },
    };
  }

  async function backendPid(node: string): Promise<number | null> {
    return (await platform.listNodes()).find((one) => one.node === node)?.pid ?? null;
  }

  async function postmasterPid(node: string): Promise<number | null> {
    const data = path.join(stack.dataFolder, 'platform/nodes', node, 'data');
    const pid = Number((await readFile(path.join(data, 'postmaster.pid'), 'utf8').catch(() => '')).split('\n')[0]);
    const isIt = (await listProcesses()).some((row) => row.pid === pid && row.command.includes(data));
    return isIt ? pid : null;
  }

  const lasting: Part[] = [
    supervised('worker', worker, async () => true),
    ...routers.map((router, n) => supervised('router', router, () => answers(`${routerUrls[n]}/ready`))),
    server('temporal', 'temporal', temporal, false),
    server('ringstore', 'ring store', ringStoreServer, true),
  ];
  return {
    async list() {
      const nodes = (await platform.listNodes()).filter(({ condition }) => condition === 'running');
      return [...lasting, ...nodes.flatMap(({ node }) => [ofNode('node', node), ofNode('postgres', node)])];
    },
    async close() {
      ending.abort();
      await pauser?.close();
    },
  };
}

async function isUp(database: DatabaseAddress): Promise<boolean> {
  const limits = { max: 1, connectionTimeoutMillis: UP_WITHIN_MS, query_timeout: UP_WITHIN_MS };
  const pool = createPool({ ...database, ...limits, application_name: 'ringmaster faults' });
  try {
    await pool.query('SELECT 1');
    return true;
  } catch {
    return false; // refused, starting, silent
  } finally {
    await pool.end();
  }
}
