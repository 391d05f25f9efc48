/**
 * One node of this machine: a PostgreSQL server and a backend process, each started again when it ends by itself, as Kubernetes would.
 *
 *   absent ──want()──▶ starting ──control answers──▶ running ──backend ends──▶ crashed ──backoff──▶ starting
 *   any ──endBackend()──▶ stopping, PostgreSQL still up ──want()──▶ starting
 *   any ──unwant()──▶ stopping ──both have ended──▶ absent
 *
 * PostgreSQL is up before the first backend. Later the two end and come back independently of each other, as two pods do.
 */
import { createHash } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { readFile, rename, rm, statfs, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { fetch } from 'undici';
import { type DatabaseAddress, databaseUrl, type NodeCondition, type NodeEndpoints, type Room } from '../platform.ts';
import { Backoff } from './backoff.ts';
import { type KeptProcess, keep } from './keeper.ts';
import { makeEnterable } from './places.ts';
import { endLeftoverPostgres, type PostgresServer, startPostgres } from './postgres-server.ts';
import { endLeftover } from './processes.ts';

/** What stays of a node over restarts of the agent. */
export interface NodeRecord {
  wanted: boolean;
  gatewayPort: number;
  controlPort: number;
  databasePort: number;
  controlToken: string;
}

export interface NodeSetting {
  cluster: string;
  nodeEntry: string;
  ringStoreUrl: string;
  nodeConfigFile?: string;
  nodeEnvironment: Record<string, string>;
  postgresSettings: Record<string, string | number>;
  /** Folder of this node; what lies below is deleted with its data. */
  folder: string;
  logFile: string;
  log: Logger;
  /** A data directory made ahead, moved to `folder`; false when there is none. */
  takeSpare(folder: string): Promise<boolean>;
}

interface BackendLoop {
  readonly abort: AbortController;
  readonly ended: Promise<void>;
}

const DATABASE = 'jobsdb';
const STOP_BACKEND_WITHIN_MS = 30_000; // Kubernetes' default grace period
const STOP_ORPHAN_WITHIN_MS = 3000;
const PROBE_EVERY_MS = 25;
const PROBE_TIMEOUT_MS = 2000;

export class ManagedNode {
  readonly name: string;
  readonly record: NodeRecord;
  readonly #setting: NodeSetting;
  readonly #changes = new EventEmitter().setMaxListeners(0);
  #condition: NodeCondition = 'absent';
  #postgres: PostgresServer | null = null;
  #backend: KeptProcess | null = null;
  #wanting: { abort: AbortController; postgres: Promise<void>; backend: BackendLoop } | null = null;
  #lastTrouble: string | null = null;

  constructor(name: string, record: NodeRecord, setting: NodeSetting) {
    this.name = name;
    this.record = record;
    this.#setting = setting;
  }

  get condition(): NodeCondition {
    return this.#condition;
  }

  /** Why it does not run, if something went wrong lately. */
  get lastTrouble(): string | null {
    return this.#lastTrouble;
  }

  get pid(): number | undefined {
    return this.#backend?.exit === undefined ? this.#backend?.pid : undefined;
  }

  /** Null until its PostgreSQL has been started for the first time by this agent. */
  get endpoints(): NodeEndpoints | null {
    if (!this.#postgres) return null;
    return {
      node: this.name,
      url: `http://127.0.0.1:${this.record.gatewayPort}`,
      controlUrl: `http://127.0.0.1:${this.record.controlPort}`,
      controlToken: this.record.controlToken,
      database: this.#postgres.address,
    };
  }

  /** Of the file system that its PostgreSQL's data directory is on; null where there is none yet. */
  async room(): Promise<Room | null> {
    try {
      const { bsize, blocks, bavail } = await statfs(path.join(this.#setting.folder, 'data'));
      return { totalBytes: blocks * bsize, freeBytes: bavail * bsize };
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw err;
    }
  }

  /** Starts what is not there, and keeps it up. Repeatable. */
  want(): void {
    const wanting = this.#wanting;
    if (wanting && !wanting.backend.abort.signal.aborted) return;
    this.#become('starting');
    if (wanting) {
      wanting.backend = this.#startBackendLoop(wanting.abort.signal);
      return;
    }
    const abort = new AbortController();
    const postgres = this.#keepPostgres(abort.signal);
    this.#wanting = { abort, postgres, backend: this.#startBackendLoop(abort.signal) };
  }

  /** The first half of `unwant`: ends the backend for good, PostgreSQL goes on. Its address, or null where it does not run. Repeatable. */
  async endBackend(): Promise<DatabaseAddress | null> {
    const wanting = this.#wanting;
    if (!wanting) return null;
    this.#become('stopping');
    wanting.backend.abort.abort();
    await this.#backend?.end('SIGTERM', STOP_BACKEND_WITHIN_MS);
    await wanting.backend.ended;
    await this.#backend?.end('SIGTERM', STOP_BACKEND_WITHIN_MS); // one that the loop was just starting
    return this.#postgres?.running ? this.#postgres.address : null;
  }

  /** Ends the backend, then PostgreSQL. Repeatable. The data stays. */
  async unwant(): Promise<void> {
    const wanting = this.#wanting;
    if (wanting) {
      this.#become('stopping');
      wanting.abort.abort();
      await this.#backend?.end('SIGTERM', STOP_BACKEND_WITHIN_MS);
      await this.#postgres?.stop('fast');
      await Promise.all([wanting.postgres, wanting.backend.ended]);
      // A loop that was just starting something has ended it; look once more at what we hold.
      await this.#backend?.end('SIGTERM', STOP_BACKEND_WITHIN_MS);
      await this.#postgres?.stop('fast');
      this.#backend = null;
      this.#postgres = null;
      this.#wanting = null;
    }
    this.#become('absent');
  }

  async deleteData(): Promise<void> {
    if (this.#wanting) throw new Error(`${this.name} is still wanted`);
    await this.#endLeftoverBackend();
    await endLeftoverPostgres(this.#setting.folder);
    // Out of the way first: a deletion that is cut short must not leave half of a data directory that looks like one.
    const gone = `${this.#setting.folder}.deleted`;
    await rm(gone, { recursive: true, force: true });
    await rename(this.#setting.folder, gone).catch((err: NodeJS.ErrnoException) => {
      if (err.code !== 'ENOENT') throw err;
    });
    await rm(gone, { recursive: true, force: true });
  }

  /** Resolves when it runs; rejects when it is unwanted meanwhile, or with the signal's reason. */
  async whenRunning(signal: AbortSignal): Promise<NodeEndpoints> {
    for (;;) {
      signal.throwIfAborted();
      if (this.#condition === 'running' && this.endpoints) return this.endpoints;
      if (!this.#wanting || this.#condition === 'stopping') throw new NodeUnwanted(this.name);
      await once(this.#changes, 'change', { signal });
    }
  }

  kill(what: 'backend' | 'postgres', signal: NodeJS.Signals): boolean {
    const target = what === 'backend' ? this.#backend : this.#postgres;
    if (!target || (what === 'backend' ? this.#backend?.exit !== undefined : !this.#postgres?.running)) return false;
    this.#setting.log.warn({ node: this.name, what, signal }, 'killed on request');
    target.signal(signal);
    return true;
  }

  #startBackendLoop(unwanted: AbortSignal): BackendLoop {
    const abort = new AbortController();
    return { abort, ended: this.#keepBackend(AbortSignal.any([unwanted, abort.signal])) };
  }

  #become(condition: NodeCondition): void {
    if (this.#condition === condition) return;
    this.#condition = condition;
    this.#setting.log.info({ node: this.name, condition }, 'node condition');
    this.#changes.emit('change');
  }

  async #keepPostgres(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff();
    while (!signal.aborted) {
      const startedAt = performance.now();
      try {
        if (this.#postgres) await this.#postgres.restart();
        else this.#postgres = await this.#startPostgres(signal);
        this.#changes.emit('change');
        if (signal.aborted) return;
        const exit = await this.#postgres.exited;
        if (!signal.aborted) this.#trouble('postgres', `ended: ${exit.signal ?? `exit ${exit.code}`}`);
      } catch (err) {
        if (!signal.aborted) this.#trouble('postgres', messageOf(err));
      }
      await pause(backoff.next(performance.now() - startedAt), signal);
    }
  }

  async #startPostgres(signal: AbortSignal): Promise<PostgresServer> {
    const { folder, postgresSettings, takeSpare } = this.#setting;
    makeEnterable(path.dirname(folder));
    await takeSpare(folder);
    return await startPostgres({
      folder,
      port: this.record.databasePort,
      database: DATABASE,
      settings: postgresSettings,
      signal,
    });
  }

  async #keepBackend(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff();
    try {
      while (!this.#postgres) await once(this.#changes, 'change', { signal });
      await this.#endLeftoverBackend();
    } catch (err) {
      if (!signal.aborted) this.#trouble('backend', messageOf(err));
    }
    while (!signal.aborted && this.#postgres) {
      const startedAt = performance.now();
      this.#become('starting');
      try {
        const backend = await this.#startBackend(databaseUrl(this.#postgres.address));
        this.#backend = backend;
        if (signal.aborted) return;
        if (await this.#answers(backend, signal)) {
          this.#lastTrouble = null;
          this.#become('running');
        }
        const exit = await backend.exited;
        if (!signal.aborted) this.#trouble('backend', `ended: ${exit.signal ?? `exit ${exit.code}`}`);
      } catch (err) {
        if (!signal.aborted) this.#trouble('backend', messageOf(err));
      }
      if (signal.aborted) return;
      this.#become('crashed');
      await pause(backoff.next(performance.now() - startedAt), signal);
    }
  }

  async #startBackend(database: string): Promise<KeptProcess> {
    const { setting, record } = { setting: this.#setting, record: this.record };
    const backend = await keep({
      command: process.execPath,
      args: [`--title=${this.#title}`, '--disable-warning=ExperimentalWarning', setting.nodeEntry],
      cwd: setting.folder,
      logFile: setting.logFile,
      endSignal: 'SIGTERM',
      killAfterMs: STOP_ORPHAN_WITHIN_MS,
      parentPipe: true,
      env: {
        ...inherited(),
        ...setting.nodeEnvironment,
        RINGMASTER_NODE: this.name,
        RINGMASTER_CLUSTER: setting.cluster,
        RINGMASTER_NODE_DATABASE_URL: database,
        RINGMASTER_RINGSTORE_URL: setting.ringStoreUrl,
        RINGMASTER_CONTROL_TOKEN: record.controlToken,
        RINGMASTER_GATEWAY_PORT: String(record.gatewayPort),
        RINGMASTER_CONTROL_PORT: String(record.controlPort),
        ...(setting.nodeConfigFile ? { RINGMASTER_NODE_CONFIG: setting.nodeConfigFile } : {}),
      },
    });
    await writeFile(this.#pidFile, String(backend.pid));
    return backend;
  }

  /** False: it ended before it answered. */
  async #answers(backend: KeptProcess, signal: AbortSignal): Promise<boolean> {
    const url = `http://127.0.0.1:${this.record.controlPort}/control/v1/status`;
    while (backend.exit === undefined && !signal.aborted) {
      try {
        const response = await fetch(url, {
          headers: { authorization: `Bearer ${this.record.controlToken}` },
          signal: AbortSignal.any([signal, AbortSignal.timeout(PROBE_TIMEOUT_MS)]),
        });
        await response.body?.cancel();
        if (response.status === 200) return backend.exit === undefined;
        this.#lastTrouble = `control answers ${response.status}`;
      } catch {
        // not listening yet
      }
      await sleep(PROBE_EVERY_MS);
    }
    return false;
  }

  /** Normally the keeper, or the parent pipe, has ended it; but a process that hangs sees neither. */
  async #endLeftoverBackend(): Promise<void> {
    const pid = Number(await readFile(this.#pidFile, 'utf8').catch(() => ''));
    if (pid > 1 && (await endLeftover(pid, this.#title, 'SIGTERM', STOP_ORPHAN_WITHIN_MS))) {
      this.#setting.log.warn({ node: this.name, pid }, 'ended a backend that a crash had left running');
    }
    await rm(this.#pidFile, { force: true });
  }

  get #pidFile(): string {
    return path.join(this.#setting.folder, 'backend.pid');
  }

  /** What `ps` shows, and how a leftover is recognized as ours: another stack on this machine may have a node of this name too. */
  get #title(): string {
    const mark = createHash('sha256').update(this.#setting.folder).digest('hex').slice(0, 8);
    return `ringmaster-${this.name}-${mark}`;
  }

  #trouble(what: 'backend' | 'postgres', trouble: string): void {
    this.#lastTrouble = `${what}: ${trouble}`;
    this.#setting.log.warn({ node: this.name, what, trouble }, 'node trouble');
  }
}

export class NodeUnwanted extends Error {
  constructor(node: string) {
    super(`${node} was removed while it was awaited`);
    this.name = 'NodeUnwanted';
  }
}

function inherited(): NodeJS.ProcessEnv {
  const names = ['PATH', 'HOME', 'TZ', 'LANG', 'NODE_EXTRA_CA_CERTS'];
  return Object.fromEntries(
    names.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])),
  );
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => {});
}

function messageOf(err: unknown): string {
  return err instanceof Error ? err.message : String(err);
}
