/**
 * Keeps one RingCluster and its ring together: looks, decides (decide.ts), writes the status, acts. Level-triggered: every look reads everything afresh, so a
 * lost hint, a restart and a second operator change nothing.
 *
 *   one look   resource → operations → ring (in this order: see Seen) → decide → status → action → hints or a pause → the next look
 *   a hint     the watch of the resource, a change of the ring; never what was heard, only that there is something to look at
 *   a pause    `movingMs` while something is under way, `steadyMs` else; after a failed look or action a back-off, which a hint cuts short
 *   conflict   somebody wrote the resource since it was read: nothing was written, nothing is done; look again
 *   crash      before the status: the next look decides the same · after it: likewise · after a start: its key is found in Temporal, nothing starts twice
 *
 * Two operators at once: both may ask for the same, which is the same as asking once. Of two that write a status one gets a conflict, and says no event.
 */
import { isDeepStrictEqual } from 'node:util';
import type { OperationsClient } from '../client/operations.ts';
import { CodedError, codeOf, describeError } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import type { Ring } from '../ring/ring.ts';
import { claimsToDelete } from './claims.ts';
import { type Action, decideNext, type Seen, type Trouble, underWay } from './decide.ts';
import { isConflict, type OperatorKube, ownsNodes } from './kube.ts';
import { latestOperation, operationOfReusedKey, operationStartedWith } from './operations-seen.ts';
import { parseDurationMs, type RingCluster, wishOf } from './resource.ts';
import type { LatestRing, RingSource } from './rings.ts';

export interface Timing {
  /** While an operation is under way or something is waited for: how old the status may be. */
  readonly movingMs: number;
  /** Changes come by hints; this finds what has none, such as an operation that somebody starts, or replicas set by hand. */
  readonly steadyMs: number;
  readonly backoffFirstMs: number;
  readonly backoffMaxMs: number;
  /** A move appends several events a second to the ring's log, and each is a hint. */
  readonly looksApartMs: number;
  readonly cleanUpEveryMs: number;
}

export const timing: Timing = {
  movingMs: 2_000,
  steadyMs: 30_000,
  backoffFirstMs: 1_000,
  backoffMaxMs: 30_000,
  looksApartMs: 200,
  cleanUpEveryMs: 600_000,
};

export interface ControllerOptions {
  readonly clusterId: string;
  readonly kube: OperatorKube;
  readonly operations: OperationsClient;
  readonly rings: RingSource;
  readonly log: Logger;
  readonly timing?: Partial<Timing>;
}

export interface ControllerHealth {
  /** When the last look ended, and when the API server last answered; `performance.now()`. */
  readonly lookedAt: number;
  readonly kubeAnsweredAt: number;
  /** By part: what is wrong at present. */
  readonly troubles: Readonly<Partial<Record<'kubernetes' | 'temporal' | 'ringStore', Trouble>>>;
  /** The resource was read, or is known not to be there, and changes of it are heard of. */
  readonly isReady: boolean;
}

export interface Controller {
  readonly health: ControllerHealth;
  /** Ends within the requests that are under way. What was started goes on without us. */
  stop(): Promise<void>;
}

export function startController(options: ControllerOptions): Controller {
  return new RingClusterController(options);
}

class RingClusterController implements Controller {
  readonly #clusterId: string;
  readonly #kube: OperatorKube;
  readonly #operations: OperationsClient;
  readonly #rings: RingSource;
  readonly #log: Logger;
  readonly #timing: Timing;
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;
  #hinted = false;
  #wake = (): void => {};
  #actionTrouble: Trouble | null = null;
  #cleanedUpAt = Number.NEGATIVE_INFINITY;
  /** Operations that were asked to cancel: told once. */
  #cancelled: string | null = null;
  /** The generation whose spec.nodes we have filled in and let go of. */
  #released: string | null = null;
  #absence: string | null = null;
  /** Of this look: what it went on without. */
  #lacks: Trouble | null = null;
  #lookedAt = performance.now();
  #kubeAnsweredAt = performance.now();
  #hasRead = false;
  readonly #troubles: { kubernetes?: Trouble; temporal?: Trouble; ringStore?: Trouble } = {};

  constructor(options: ControllerOptions) {
    this.#clusterId = options.clusterId;
    this.#kube = options.kube;
    this.#operations = options.operations;
    this.#rings = options.rings;
    this.#log = options.log;
    this.#timing = { ...timing, ...options.timing };
    this.#running = this.#run();
  }

  get health(): ControllerHealth {
    const watching = this.#kube.watchTrouble;
    const kubernetes = this.#troubles.kubernetes ?? (watching ? troubleOf(watching) : undefined);
    return {
      lookedAt: this.#lookedAt,
      kubeAnsweredAt: this.#kubeAnsweredAt,
      troubles: { ...this.#troubles, ...(kubernetes ? { kubernetes } : {}) },
      isReady: this.#hasRead && !kubernetes,
    };
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    this.#wake();
    await this.#running;
  }

  async #run(): Promise<void> {
    const hint = (): void => {
      this.#hinted = true;
      this.#wake();
    };
    const leave = [this.#kube.watch(hint), this.#rings.onChange(hint)];
    let failures = 0;
    while (!this.#stop.signal.aborted) {
      this.#hinted = false;
      const began = performance.now();
      const pause = await this.#lookSafely();
      this.#lookedAt = performance.now();
      failures = pause === 'failed' ? failures + 1 : 0;
      const { backoffFirstMs, backoffMaxMs, looksApartMs } = this.#timing;
      const ms = pause === 'failed' ? Math.min(backoffFirstMs * 2 ** (failures - 1), backoffMaxMs) : pause;
      // The first part no hint cuts short.
      await this.#pause(Math.max(0, looksApartMs - (performance.now() - began)), false);
      await this.#pause(ms, true);
    }
    for (const each of leave) each();
  }

  /** How long to wait; or `failed`. Never rejects. */
  async #lookSafely(): Promise<number | 'failed'> {
    try {
      this.#lacks = null;
      const pause = await this.#look();
      this.#note('kubernetes', this.#lacks);
      return pause;
    } catch (error) {
      if (this.#stop.signal.aborted) return 0;
      if (isConflict(error)) return 0;
      // All that a look throws comes from the API server; Temporal and the ring store are told in the status.
      this.#note('kubernetes', troubleOf(error));
      return 'failed';
    }
  }

  async #look(): Promise<number | 'failed'> {
    const resource = await this.#kube.read();
    this.#kubeAnsweredAt = performance.now();
    this.#hasRead = true;
    if (!resource || resource.metadata.deletionTimestamp !== undefined) {
      this.#noteAbsence(resource ? 'is being deleted' : 'is not there');
      return this.#timing.steadyMs;
    }
    this.#noteAbsence(null);
    const version = `${resource.metadata.uid}/${resource.metadata.generation}`;
    // Once for each generation: an API server that does not let go is not asked again and again.
    if (ownsNodes(resource) && this.#released !== version) {
      this.#released = version;
      await this.#kube.releaseNodes(resource);
      return 0;
    }
    const seen = await this.#see(resource);
    const { action, status, notices, isMoving } = decideNext(seen);
    if (!isDeepStrictEqual(status, resource.status)) {
      await this.#kube.writeStatus(resource, status);
      for (const notice of notices) await this.#kube.tell(resource, notice);
      // The next patch must name the version after this one: the action comes with the next look, which is at once.
      if (action.kind === 'fill nodes') return 0;
    }
    this.#note('temporal', seen.temporalTrouble);
    this.#note('ringStore', seen.ringTrouble);
    if (seen.temporalTrouble || seen.ringTrouble) return 'failed';
    if (action.kind !== 'none') return await this.#act(resource, action, seen);
    this.#actionTrouble = null;
    if (!underWay(seen) && seen.ring) await this.#cleanUp(resource, seen.ring);
    return isMoving ? this.#timing.movingMs : this.#timing.steadyMs;
  }

  /** In this order: what an operation that has ended wrote into the ring's log is in what is read after it. */
  async #see(resource: RingCluster): Promise<Seen> {
    const wish = wishOf(resource);
    let temporalTrouble: Trouble | null = null;
    let operation: Seen['operation'] = null;
    let startedForWish: string | null = null;
    let latest: LatestRing | null = null;
    try {
      operation = await latestOperation(this.#operations, this.#clusterId);
      latest = await this.#rings.latest();
      // Frozen, and no operation under way: perhaps one began between the two looks.
      if (latest.ring?.freeze && !underWay({ operation }))
        operation = await latestOperation(this.#operations, this.#clusterId);
      if (!wish.decided)
        startedForWish = await operationStartedWith(this.#operations, this.#clusterId, wish.idempotencyKey);
    } catch (error) {
      temporalTrouble = troubleOf(error);
      operation = null;
    }
    latest ??= await this.#rings.latest();
    const isQuiet = !temporalTrouble && !latest.trouble && !underWay({ operation }) && latest.ring;
    return {
      resource,
      operation,
      startedForWish,
      temporalTrouble,
      ring: latest.ring,
      ringTrouble: latest.trouble,
      actionTrouble: this.#actionTrouble,
      ...(isQuiet ? await this.#lookAtReplicas() : {}),
      now: new Date().toISOString(),
    };
  }

  async #lookAtReplicas(): Promise<Pick<Seen, 'replicas'>> {
    try {
      return { replicas: await this.#kube.replicas() };
    } catch (error) {
      // Only told to people: scaling goes on without.
      this.#lacks = troubleOf(error);
      return {};
    }
  }

  async #act(resource: RingCluster, action: Exclude<Action, { kind: 'none' }>, seen: Seen): Promise<number | 'failed'> {
    try {
      if (action.kind === 'fill nodes') await this.#fillIn(resource, action.nodes);
      else if (action.kind === 'start') await this.#start(resource, action);
      else await this.#cancel(resource, action, seen);
      this.#actionTrouble = null;
      return 0; // see what has become of it
    } catch (error) {
      if (isConflict(error)) throw error;
      const trouble = troubleOf(error);
      // It has begun or ended since we looked: nothing went wrong.
      if (['OPERATION_RUNNING', 'OPERATION_ENDED', 'OPERATION_ENDING', 'OPERATION_UNKNOWN'].includes(trouble.code))
        return this.#timing.movingMs;
      if (!isDeepStrictEqual(trouble, this.#actionTrouble))
        this.#log.warn({ ...trouble, action: action.kind }, 'an action failed: it is tried again');
      this.#actionTrouble = trouble;
      // Of the API server: told as such.
      if (!(error instanceof CodedError) || trouble.code.startsWith('KUBE_')) throw error;
      return 'failed';
    }
  }

  async #fillIn(resource: RingCluster, nodes: number): Promise<void> {
    await this.#kube.writeNodes(resource, nodes);
    const message = `spec.nodes was absent: filled in with ${nodes}, as it is`;
    await this.#kube.tell(resource, { type: 'Normal', reason: 'NodesFilledIn', message });
  }

  async #start(resource: RingCluster, { input, idempotencyKey }: Extract<Action, { kind: 'start' }>): Promise<void> {
    // Once more, right before: a start that was overtaken by a newer generation while we looked would go to a number that nobody wants any more.
    const now = await this.#kube.read();
    if (now?.metadata.uid !== resource.metadata.uid || now.metadata.generation !== resource.metadata.generation) return;
    const started = await this.#operations.start(input, { idempotencyKey }).catch((error: unknown) => {
      operationOfReusedKey(error); // throws where it is another error
      return null;
    });
    if (!started || started.repeated) return;
    const message = `operation ${started.operationId} to ${input.targetNodes} nodes: ${input.reason}`;
    await this.#kube.tell(resource, { type: 'Normal', reason: 'ScaleStarted', message });
  }

  async #cancel(resource: RingCluster, action: Extract<Action, { kind: 'cancel' }>, seen: Seen): Promise<void> {
    const { operationId, actor, reason } = action;
    await this.#operations.cancel(this.#clusterId, operationId, { actor, reason });
    if (this.#cancelled === operationId) {
      // Asked before, and it does not say that it is cancelling: it is blocked on its way out. Its status tells why; do not ask on and on.
      await this.#pause(this.#timing.movingMs, true);
      return;
    }
    this.#cancelled = operationId;
    const message = `operation ${operationId} to ${seen.operation?.to ?? 'another number of'} nodes is asked to cancel: ${reason}`;
    await this.#kube.tell(resource, { type: 'Normal', reason: 'ChangeOfMind', message });
  }

  /** Volumes of nodes that left, once they are old enough. Only on what is known for sure, and while nothing brings nodes back. */
  async #cleanUp(resource: RingCluster, ring: Ring): Promise<void> {
    const olderThanMs = parseDurationMs(resource.spec.deleteVolumesAfter ?? '');
    const isDue = performance.now() - this.#cleanedUpAt >= this.#timing.cleanUpEveryMs;
    if (olderThanMs === null || ring.freeze || !isDue) return;
    const claims = await this.#kube.claims();
    // After the claims: a pod that took one before is seen, one that takes it later has made it another version.
    const inUse = await this.#kube.claimsInUse();
    for (const claim of claimsToDelete({ claims, inUse, ring, olderThanMs, nowMs: Date.now() })) {
      if (!(await this.#kube.deleteClaim(claim))) continue;
      const message = `volume claim ${claim.name} is deleted: its node left at ${claim.leftAt}, more than ${resource.spec.deleteVolumesAfter} ago`;
      await this.#kube.tell(resource, { type: 'Normal', reason: 'VolumeDeleted', message });
    }
    this.#cleanedUpAt = performance.now();
  }

  #noteAbsence(what: string | null): void {
    if (what === this.#absence) return;
    this.#absence = what;
    const facts = { ringCluster: this.#clusterId, namespace: this.#kube.namespace };
    // Never a reason to take nodes away.
    if (what) this.#log.warn(facts, `the RingCluster ${what}: nothing is done, the nodes stay as they are`);
    else this.#log.info(facts, 'the RingCluster is there');
  }

  #note(part: keyof ControllerHealth['troubles'], trouble: Trouble | null): void {
    if (isDeepStrictEqual(this.#troubles[part] ?? null, trouble)) return;
    if (trouble) {
      this.#troubles[part] = trouble;
      this.#log.warn({ part, ...trouble }, `${part} is in trouble: tried again with back-off`);
    } else {
      delete this.#troubles[part];
      this.#log.info({ part }, `${part} is well again`);
    }
  }

  async #pause(ms: number, hintEnds: boolean): Promise<void> {
    if (ms <= 0 || this.#stop.signal.aborted || (hintEnds && this.#hinted)) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    this.#wake = () => {
      if (hintEnds || this.#stop.signal.aborted) resolve();
    };
    await promise;
    clearTimeout(timer);
    this.#wake = () => {};
  }
}

function troubleOf(error: unknown): Trouble {
  const code = codeOf(error);
  if (error instanceof CodedError && code) return { code, message: error.message };
  const name = error instanceof Error ? error.name : '';
  return { code: name === 'KubeWeather' ? 'KUBE_UNREACHABLE' : 'INTERNAL', message: describeError(error) };
}
