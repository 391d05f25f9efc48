/**
 * Runs operations one after the other on one cluster, 2 → 3 → 2 nodes …, and does one bad thing to each. After each: it ended as it should, and nothing is left
 * over. At the end the checker judges all of it; an event that was lost, repeated or overtaken is told with the step during which it was sent.
 */
import { connect } from 'node:net';
import { expect } from 'vitest';
import type { FaultPoint } from '../../activities/fault-points.ts';
import type { checkDelivery, Fault } from '../../dev/checker/checker.ts';
import { wellAgain } from '../../dev/cluster.ts';
import { startOperation, steerOperation, watchOperation } from '../../dev/demo/operations.ts';
import type { PartBlow, PartKind } from '../../dev/faults/parts.ts';
import { codeOf, describeError } from '../../kit/errors.ts';
import { now } from '../../kit/log.ts';
import { partitionsOf } from '../../ring/ring.ts';
import type { OperationProgress } from '../../workflows/messages.ts';
import type { TestCluster } from '../e2e/cluster.ts';
import { until } from '../support/wait.ts';
import { type Act, activityOf, type ExitStep, hearsCancel, type Step, TOO_LATE } from './plan.ts';
import type { Stopped, Stops } from './stops.ts';

const SMALL = 2;
const LARGE = 3;
/** Whether a node is gone for good is looked at for a minute; and after a kill 15 s pass before anybody goes on. */
const COMES_BY_WITHIN_MS = 150_000;

/** What is hit while the worker stands still; `side`: the node that the move at work comes from or goes to. */
export interface Victim {
  readonly kind: Exclude<PartKind, 'worker'>;
  readonly side: 'from' | 'to' | null;
  readonly blow: PartBlow;
}

const nameOf = ({ kind, side, blow }: Victim): string =>
  `${blow} of ${side ? `the ${side === 'from' ? 'source' : 'target'}'s ${kind}` : kind}`;

export interface OperationOptions {
  /** Asks for the operation, and returns its id. Default: one that scales, the other way than the last. */
  readonly start?: (reason: string) => Promise<string>;
  /** What is still there when it is over, as `leftovers` tells it. Default: nothing. */
  readonly leaves?: readonly string[];
}

export interface ExitOptions extends OperationOptions {
  /** While the worker stands where it comes by before. */
  readonly meanwhile?: (operationId: string) => Promise<void>;
}

interface Window {
  readonly name: string;
  readonly from: number;
  to: number;
}

export class StepRun {
  readonly cluster: TestCluster;
  readonly #stops: Stops;
  readonly #stopping = new AbortController();
  readonly #windows: Window[] = [];
  readonly faults: Fault[] = [];

  constructor(cluster: TestCluster, stops: Stops) {
    this.cluster = cluster;
    this.#stops = stops;
  }

  /** In an order in which the next step's way is the one that the cluster can go. */
  async all(steps: readonly Step[]): Promise<void> {
    const rest = [...steps];
    while (rest.length > 0) {
      const way = await this.#nextWay(rest);
      const next = rest.find((step) => step.way === way) ?? rest.find((step) => step.way === 'either')!;
      rest.splice(rest.indexOf(next), 1);
      await this.step(next);
    }
  }

  /** `victim` is hit at each of these, at one point of each activity in one operation; those behind a cancellation have an operation each. */
  async hitAll(steps: readonly Step[], victim: Victim): Promise<void> {
    const rest = [...steps];
    while (rest.length > 0) {
      const way = await this.#nextWay(rest);
      const fits = rest.filter((step) => step.way === way || step.way === 'either');
      const behindCancel = fits.find((step) => step.cancelFirstAt !== undefined);
      const isFirst = (step: Step): boolean => step === fits.find((other) => activityOf(other) === activityOf(step));
      const taken = behindCancel ? [behindCancel] : fits.filter(isFirst);
      for (const step of taken) rest.splice(rest.indexOf(step), 1);
      if (behindCancel) await this.#hitCancelled(behindCancel, victim);
      else
        await this.hit(
          taken.map(({ point }) => point),
          victim,
        );
    }
  }

  /** The way that the cluster can go now. Where no step goes it, an operation without one turns it round first. */
  async #nextWay(rest: readonly Step[]): Promise<'up' | 'down'> {
    for (;;) {
      if (await this.#isHalfway()) await this.operation('down, nothing happens', async () => undefined);
      const way = (await this.#size()) === SMALL ? 'up' : 'down';
      if (rest.some((step) => step.way === way || step.way === 'either')) return way;
      await this.operation(`${way}, nothing happens`, async () => undefined);
    }
  }

  async step(step: Step): Promise<void> {
    const { act, point, cancelFirstAt, ends } = step;
    const { restarts } = this.cluster.stack.worker;
    const ended = await this.operation(`${act} at ${point}`, async (operationId, ending) => {
      const cancel = () => this.#cancel(operationId, step);
      if (cancelFirstAt) {
        const first = await this.comesBy(cancelFirstAt, ending);
        const second = this.comesBy(point, ending);
        await cancel();
        first.go('on');
        return this.#act(await second, step, cancel);
      }
      await this.#act(await this.comesBy(point, ending), step, cancel);
    });
    expect(ends, `${act} at ${point}: how the operation ended`).toContain(ended.state);
    await this.#expectEnds(`${act} at ${point}`, act, restarts);
  }

  /** One of the ways out, which meets `act` at its point. */
  async exit(
    { exit, act, point, after, ends }: ExitStep,
    { meanwhile, start, ...options }: ExitOptions = {},
  ): Promise<OperationProgress> {
    const name = `${exit}: ${act} at ${point}`;
    const { restarts } = this.cluster.stack.worker;
    let first: Promise<Stopped> | undefined;
    const starting: Pick<OperationOptions, 'start'> = start
      ? {
          start: (reason) => {
            first = this.#stops.stopAt(after ?? point); // before it is asked for: it may be there within milliseconds
            return start(reason);
          },
        }
      : {};
    const during = async (operationId: string, ending: Promise<OperationProgress>): Promise<void> => {
      let stopped = await this.comesBy(after ?? point, ending, first);
      if (after) {
        const second = this.comesBy(point, ending);
        second.catch(() => undefined); // awaited below
        await meanwhile?.(operationId);
        stopped.go('on');
        stopped = await second;
      }
      if (act === 'kill') return this.kill(stopped);
      const { api, clusterId } = this.cluster.stack;
      const how = { reason: `at ${point}`, signal: this.#stopping.signal };
      await steerOperation(api, clusterId, operationId, 'cancel', how);
      stopped.go('on');
    };
    const ended = await this.operation(name, during, { ...options, ...starting });
    expect(ended.state, `${name}: how the operation ended`).toBe(ends);
    await this.#expectEnds(name, act, restarts);
    return ended;
  }

  /** The worker has ended as often as it was killed. */
  async #expectEnds(name: string, act: Act, restartsBefore: number): Promise<void> {
    const { worker } = this.cluster.stack;
    await until(() => worker.pid !== undefined, { deadlineMs: 30_000, what: 'the worker is started again' });
    expect(worker.restarts - restartsBefore, `${name}: ends of the worker`).toBe(act === 'kill' ? 1 : 0);
  }

  /** One operation, with `during` while it runs; returns how it ended. Throws where something is left over. */
  async operation(
    name: string,
    during: (operationId: string, ending: Promise<OperationProgress>) => Promise<void>,
    { start = (reason) => this.#scale(reason), leaves = [] }: OperationOptions = {},
  ): Promise<OperationProgress> {
    const { stack } = this.cluster;
    const { signal } = this.#stopping;
    const window: Window = { name, from: now(), to: Number.POSITIVE_INFINITY };
    this.#windows.push(window);
    try {
      const id = await start(name);
      const ending = watchOperation(stack.api, stack.clusterId, id, { signal, onProgress: () => undefined });
      ending.catch(() => undefined); // awaited below
      await during(id, ending);
      const ended = await ending;
      const left = await this.cluster.leftovers();
      if (left.join() !== leaves.join()) throw new Error(`left over: ${left.join('; ') || 'nothing'}`);
      return ended;
    } catch (error) {
      throw new Error(`${name}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
    } finally {
      this.#stops.clear();
      window.to = now();
    }
  }

  async #scale(reason: string): Promise<string> {
    const { api, clusterId } = this.cluster.stack;
    const target = (await this.#size()) === SMALL ? LARGE : SMALL;
    const id = await startOperation(api, clusterId, target, { reason, signal: this.#stopping.signal });
    if (id === null) throw new Error(`there was nothing to do on the way to ${target} nodes`);
    return id;
  }

  /**
   * One operation in which `victim` is hit at each of these points, the first time that a worker comes by; the worker stands still until the blow has landed, and goes
   * on into what has become of it. The next blow waits until all is well again. The operation must finish.
   */
  async hit(points: readonly FaultPoint[], victim: Victim): Promise<void> {
    const name = `${nameOf(victim)} at ${points.join(', ')}`;
    const ended = await this.operation(name, async (_id, ending) => {
      let before = Promise.resolve();
      const hits = points.map(async (point) => {
        const stopped = await this.comesBy(point, ending);
        before = before.then(() => this.#strike(stopped, victim));
        await before;
      });
      await Promise.all(hits);
    });
    expect(ended.state, `${name}: how the operation ended`).toBe('completed');
  }

  /** The same, where only an operation that is cancelled comes by. */
  async #hitCancelled({ point, cancelFirstAt, ends }: Step, victim: Victim): Promise<void> {
    const name = `${nameOf(victim)} at ${point}`;
    const ended = await this.operation(name, async (operationId, ending) => {
      const first = await this.comesBy(cancelFirstAt!, ending);
      const second = this.comesBy(point, ending);
      await this.#cancel(operationId, { point, cancelFirstAt });
      first.go('on');
      await this.#strike(await second, victim);
    });
    expect(ends, `${name}: how the operation ended`).toContain(ended.state);
  }

  async #strike(stopped: Stopped, victim: Victim): Promise<void> {
    const { kind, side, blow } = victim;
    const node = side && (await this.#nodeOn(side));
    const part = (await this.cluster.stack.parts.list()).find((one) => one.kind === kind && one.node === node);
    if (!part) throw new Error(`no ${kind} of ${node} runs`);
    const port = node === null ? null : await this.#portOf(node, kind);
    const at = now();
    const hit = await part.hit(blow, 0);
    if (!hit) throw new Error(`${part.name} could not be hit`);
    const what = `${nameOf(victim)} at ${stopped.point}: it ends`;
    if (port !== null) await until(() => isClosed(port), { deadlineMs: 5_000, what, everyMs: 1 });
    stopped.go('on');
    await hit.back;
    const restartedAt = await wellAgain(() => part.state(), this.#stopping.signal);
    this.faults.push({ kind, target: part.name, node, at, restartedAt });
  }

  /** Of the move that was claimed last, which is the one at work, as moves at one node take turns. Where there is none: a node that stays, and one that comes or goes. */
  async #nodeOn(side: 'from' | 'to'): Promise<string> {
    const atWork = (await this.cluster.ring()).moves.toSorted((a, b) => b.token - a.token)[0];
    if (atWork) return atWork[side];
    const running = (await this.cluster.stack.platform.listNodes()).filter(({ condition }) => condition === 'running');
    return side === 'from'
      ? 'node-0'
      : running
          .map(({ node }) => node)
          .toSorted()
          .at(-1)!;
  }

  async #portOf(node: string, kind: Victim['kind']): Promise<number> {
    const { database, url } = (await this.cluster.stack.platform.describeNode(node))!;
    return kind === 'postgres' ? database.port : Number(new URL(url).port);
  }

  /** SIGKILL of the worker that stands there. */
  async kill(stopped: Stopped): Promise<void> {
    const { worker } = this.cluster.stack;
    expect(stopped.pid, 'the worker that stands there is the one that is killed').toBe(worker.pid);
    worker.kill('SIGKILL');
    await stopped.gone;
  }

  /** Waits for a worker at `point`; it stays there. Throws where `ending` comes first: then nobody will. */
  async comesBy(
    point: FaultPoint,
    ending?: Promise<OperationProgress>,
    stopping = this.#stops.stopAt(point),
  ): Promise<Stopped> {
    let stopped: Stopped | undefined;
    let ended: string | undefined;
    void stopping.then((at) => {
      stopped = at;
    });
    void ending?.then(
      ({ state }) => {
        ended = `it ended as ${state}`;
      },
      (error: unknown) => {
        ended = describeError(error);
      },
    );
    await until(() => stopped !== undefined || ended !== undefined, {
      deadlineMs: COMES_BY_WITHIN_MS,
      what: `a worker comes by ${point}`,
      everyMs: 5,
    });
    if (!stopped) throw new Error(`no worker came by ${point}: ${ended}`);
    return stopped;
  }

  async #act(stopped: Stopped, step: Step, cancel: () => Promise<void>): Promise<void> {
    if (step.act === 'kill') return this.kill(stopped);
    await cancel();
    stopped.go(hearsCancel(step) ? 'on when cancelled' : 'on');
  }

  async #cancel(operationId: string, { point, cancelFirstAt }: Pick<Step, 'point' | 'cancelFirstAt'>): Promise<void> {
    const { api, clusterId } = this.cluster.stack;
    const options = { reason: `at ${point}`, signal: this.#stopping.signal };
    const refusedBy = await steerOperation(api, clusterId, operationId, 'cancel', options).then(
      () => null,
      (error: unknown) => codeOf(error) ?? Promise.reject(error),
    );
    const isTooLate = cancelFirstAt === undefined && TOO_LATE.has(point);
    expect(refusedBy, `what the request to cancel at ${point} is refused by`).toBe(
      isTooLate ? 'OPERATION_ENDING' : null,
    );
  }

  /** A cancelled operation may have left a node that owns next to nothing: the next would be over before it comes by anything. */
  async #isHalfway(): Promise<boolean> {
    const ring = await this.cluster.ring();
    const fewest = Math.min(...ring.nodes.map(({ node }) => partitionsOf(ring, node).length));
    return ring.nodes.length === LARGE && fewest < Math.floor(ring.partitionCount / LARGE);
  }

  async #size(): Promise<number> {
    return (await this.cluster.ring()).nodes.length;
  }

  /** Throws where the verdict is not valid, and names the steps that it may have come from. */
  async judge(): Promise<ReturnType<typeof checkDelivery>> {
    const judged = await this.cluster.judge(this.faults);
    if (judged.verdict !== 'valid') throw new Error(this.#tell(judged));
    return judged;
  }

  #tell({ verdict, events, samples }: ReturnType<typeof checkDelivery>): string {
    const sentAt = new Map(this.cluster.traffic.sent.map((event) => [event.messageId, event.sentAt]));
    const during = (messageId: string): string => {
      const at = sentAt.get(messageId) ?? 0;
      const window = this.#windows.find(({ from, to }) => from <= at && at <= to);
      return `${messageId} (sent during ${window?.name ?? 'none of them'})`;
    };
    const named = Object.entries(samples).flatMap(([kind, ids]) =>
      ids.slice(0, 3).map((id) => `${kind}: ${during(typeof id === 'string' ? id : id.messageId)}`),
    );
    return `${verdict}: ${JSON.stringify(events)}; ${named.join('; ')}`;
  }
}

function isClosed(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('error', () => resolve(true));
    socket.once('connect', () => {
      socket.destroy();
      resolve(false);
    });
  });
}
