/**
 * A cluster without nodes, for the workflows' tests: the real ring, pod and verify activities over a ring store in memory; what would reach a node or a
 * database is played. Tests hold activities at a gate, or make them refuse.
 */
import { cancellationSignal, heartbeat } from '@temporalio/activity';
import { ApplicationFailure } from '@temporalio/common';
import { createCompareActivities } from '../../activities/compare.ts';
import type { Holders } from '../../activities/deps.ts';
import { createPodActivities } from '../../activities/pods.ts';
import { createRingActivities } from '../../activities/ring.ts';
import type {
  AllActivities,
  CompareMovesInput,
  CompareSlice,
  CutOverResult,
  MoveActivityInput,
} from '../../activities/types.ts';
import { createVerifyActivities } from '../../activities/verify.ts';
import type { NodeControl, NodeStatus } from '../../dataplane/contract.ts';
import { CodedError } from '../../kit/errors.ts';
import { createLog } from '../../kit/log.ts';
import type { RingCommand } from '../../ring/decide.ts';
import type { NodeFacts, RingEvent } from '../../ring/events.ts';
import { nodeNames } from '../../ring/plan.ts';
import { moveOf, partitionsOf, type Ring } from '../../ring/ring.ts';
import { createMemoryRingStore, type MemoryRingStore } from '../../ringstore/memory.ts';
import { decideAndAppend, readRing } from '../../ringstore/ringstore.ts';
import { certificateFor } from '../support/certificate.ts';

export const factsOf = (node: string): NodeFacts => ({ node, databaseId: `db-${node}`, url: `http://${node}.test` });
export const refusal = (type: string, message = `${type} in a test`): ApplicationFailure =>
  ApplicationFailure.create({ type, message, nonRetryable: true });

const ordinalOf = (node: string): number => Number(/\d+$/.exec(node)![0]);
const byOrdinal = (a: string, b: string): number => ordinalOf(a) - ordinalOf(b);

const log = createLog('test');
log.level = 'silent';

type Name = keyof AllActivities;
type Hook = (input: {
  readonly node?: string;
  readonly move?: string;
  readonly clusterId: string;
}) => void | Promise<void>;

export class World {
  readonly store: MemoryRingStore = createMemoryRingStore();
  /** Pods that exist. */
  readonly pods = new Set<string>();
  readonly removedPods: string[] = [];
  readonly pendingJobs = new Map<string, number>();
  /** How many of these have no partition. */
  readonly unadopted = new Map<string, number>();
  readonly calls: string[] = [];
  /** Runs before the activity of that name, each time. Cleared by the test's end. */
  readonly before = new Map<Name, Hook>();
  /** Decides how a cut-over ends; default: handed over. */
  cutOver: (input: MoveActivityInput) => CutOverResult | 'hand over' | Promise<CutOverResult | 'hand over'> = () =>
    'hand over';
  /** Whether source and target of a move are not the same once it is handed over. */
  differs: (move: string) => boolean = () => false;
  /** Compares for some seconds. */
  compare: (input: CompareMovesInput) => CompareSlice | Promise<CompareSlice> = () => {
    throw new Error('not in these tests');
  };
  readonly clusterId: string;
  holders: Holders = { endOf: async () => null };

  constructor(clusterId: string) {
    this.clusterId = clusterId;
  }

  async make(nodes: number, partitionCount = 16): Promise<void> {
    const facts = nodeNames(nodes).map(factsOf);
    for (const { node } of facts) this.pods.add(node);
    await this.append({ type: 'make ring', clusterId: this.clusterId, partitionCount, nodes: facts });
  }

  ring(): Promise<Ring> {
    return readRing(this.store, this.clusterId);
  }

  async events(): Promise<RingEvent[]> {
    return (await this.store.read(this.clusterId)).map(({ event }) => event);
  }

  async types(): Promise<string[]> {
    return (await this.events()).map(({ type }) => type);
  }

  async sizes(): Promise<Record<string, number>> {
    const ring = await this.ring();
    return Object.fromEntries(ring.nodes.map(({ node }) => [node, partitionsOf(ring, node).length]));
  }

  append(command: RingCommand): ReturnType<typeof decideAndAppend> {
    return decideAndAppend(this.store, this.clusterId, command, { actor: 'test', reason: 'test', operation: null });
  }

  /** Activities of the name wait until `open` is called; `arrived` resolves with the first that waits. They listen to cancellation. */
  gate(name: Name): { readonly arrived: Promise<void>; open(): void } {
    const gate = Promise.withResolvers<void>();
    const arrived = Promise.withResolvers<void>();
    this.before.set(name, async () => {
      arrived.resolve();
      const signal = cancellationSignal();
      const beat = setInterval(() => heartbeat(), 50);
      const cancelled = Promise.withResolvers<never>();
      signal.addEventListener('abort', () => cancelled.reject(signal.reason), { once: true });
      try {
        await Promise.race([gate.promise, cancelled.promise]);
      } finally {
        clearInterval(beat);
      }
    });
    return {
      arrived: arrived.promise,
      open: () => {
        this.before.delete(name);
        gate.resolve();
      },
    };
  }

  activities(): AllActivities {
    const deps = {
      ringStore: this.store,
      platform: {
        ensureNode: async (node: string) => {
          this.pods.add(node);
          return {
            node,
            url: `http://${node}.test`,
            controlUrl: '',
            controlToken: '',
            database: { host: '', port: 0, user: '', password: '', database: '' },
          };
        },
        // As Kubernetes does: the highest ordinal goes first, or nothing does.
        removeNode: async (node: string, { deleteData }: { deleteData: boolean }) => {
          const above = [...this.pods]
            .filter((other) => ordinalOf(other) > ordinalOf(node))
            .sort(byOrdinal)
            .reverse();
          if (above.length > 0)
            throw new CodedError('REPLICAS_CHANGED', `${above.length} nodes lie above ${node}`, { above });
          if (this.pods.delete(node)) this.removedPods.push(deleteData ? `${node}, data deleted` : node);
        },
        roomOf: async () => null,
      },
      endpointsOf: async () => Promise.reject(new Error('not in these tests')),
      assertNothingPending: async () => undefined, // played by `pendingJobs`, as the node's own status tells it
      controlOf: async (node: string) =>
        ({
          status: () => this.#status(node),
          countPending: async () => this.pendingJobs.get(node) ?? 0,
        }) as unknown as NodeControl,
      holders: { endOf: (holder: Parameters<Holders['endOf']>[0]) => this.holders.endOf(holder) },
      signOfLife: async () => null, // who is forgotten here is gone
      actor: 'worker@test',
      log,
      limits: { settleWithinMs: 300, pollEveryMs: 10, standInAfterMs: 500, lostAfterMs: 1_000, caretakerIdleMs: 1_000 },
    };
    const all: AllActivities = {
      ...createRingActivities(deps),
      ...createPodActivities(deps),
      ...createVerifyActivities(deps),
      ...createCompareActivities(deps),
      compareMoves: async (input) => this.compare(input),
      ...this.#moves(),
    };
    return Object.fromEntries(
      Object.entries(all).map(([name, activity]) => [
        name,
        async (input: never) => {
          this.calls.push(name);
          await this.before.get(name as Name)?.(input);
          return (activity as (given: never) => Promise<unknown>)(input);
        },
      ]),
    ) as unknown as AllActivities;
  }

  #moves(): Pick<AllActivities, 'preCopy' | 'cutOver' | 'cleanUp'> {
    const claim = (input: MoveActivityInput, attempt: string) =>
      this.append({ type: 'claim move', holder: input.holder, move: input.move, attempt });
    return {
      preCopy: async (input) => {
        await claim(input, `${input.move}/copy`);
        return { jobsCopied: 12, passes: 2 };
      },
      cutOver: async (input) => {
        await claim(input, `${input.move}/cut-over`);
        const wanted = await this.cutOver(input);
        if (wanted !== 'hand over') {
          if (wanted.result === 'aborted')
            await this.append({ type: 'abort move', move: input.move, because: wanted.code });
          return wanted;
        }
        const token = moveOf(await this.ring(), input.move)!.token;
        const proof = { jobsPending: 10, jobsCopied: 12, prefixes: [{ prefix: 'gw', pending: 10, digest: '7' }] };
        await this.append({ type: 'hand over', move: input.move, token, proof });
        return { result: 'handed over', jobsMoved: 10, jobsCopied: 12 };
      },
      cleanUp: async ({ move, accept }) => {
        if (this.differs(move)) {
          if (!accept) throw refusal('CERTIFICATE_MISMATCH', `${move}: gw: 10 jobs at the source, 9 at the target`);
          const accepted = { ...accept, difference: 'gw: 10 jobs at the source, 9 at the target' };
          await this.append({ type: 'accept difference', move, accepted });
          return;
        }
        const certificate = certificateFor(await this.ring(), move);
        await this.append({ type: 'complete move', move, certificate });
      },
    };
  }

  async #status(node: string): Promise<NodeStatus> {
    if (!this.pods.has(node)) throw new Error(`${node} does not answer`);
    const ring = await this.ring();
    const owned = partitionsOf(ring, node).length;
    return {
      node,
      databaseId: `db-${node}`,
      instance: 1,
      foldedVersion: ring.version,
      epoch: ring.epoch,
      settledVersion: ring.version,
      serving: true,
      blocked: null,
      partitions: { open: owned, closed: ring.partitionCount - owned, paused: 0, fenced: 0 },
      ...(this.unadopted.has(node) ? { unadopted: this.unadopted.get(node)! } : {}),
    };
  }
}
