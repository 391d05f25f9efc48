/**
 * Carries out the plan of faults: each at its time, those that are aimed in the middle of a cut-over. Does not wait for one to be well again before the next
 * strikes: two at once are part of it. Holds: after `heal` everything is up, and goes on.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { describeError } from '../../kit/errors.ts';
import { now } from '../../kit/log.ts';
import type { Fault } from '../checker/checker.ts';
import { wellAgain } from '../cluster.ts';
import type { Part } from '../faults/parts.ts';
import type { CutOver, CutOverWatch } from './cut-overs.ts';
import type { ChaosBlow, ChaosKind, PlannedFault } from './plan.ts';

/** A fault that struck. */
export interface Struck extends Fault {
  readonly kind: ChaosKind;
  readonly blow: ChaosBlow;
  /** When the blow had landed: `at` is right before. */
  readonly landedAt: number;
}

/** Something that can be hit: a part of the stack, or an arrow between two. */
export interface Target extends Omit<Part, 'kind' | 'hit'> {
  readonly kind: ChaosKind;
  /** The node that it is a part of, or leads to. */
  readonly near: string | null;
  hit(blow: ChaosBlow, forMs: number): Promise<{ readonly back: Promise<void> } | null>;
}

/** An aimed fault strikes anyway when no cut-over was seen for so long. */
const AIM_PATIENCE_MS = 12_000;
const LOOK_AGAIN_MS = 100;

export class Injector {
  readonly #list: () => Promise<readonly Target[]>;
  readonly #cutOvers: CutOverWatch;
  readonly #say: (line: string) => void;
  readonly #signal: AbortSignal;
  /** When each blow had landed. */
  readonly landed: number[] = [];
  readonly #faults: Promise<Struck>[] = [];
  readonly #backs: Promise<void>[] = [];
  /** Names of what is down or stopped. */
  readonly #hurt = new Set<string>();

  constructor(
    list: () => Promise<readonly Target[]>,
    cutOvers: CutOverWatch,
    options: { readonly say: (line: string) => void; readonly signal: AbortSignal },
  ) {
    this.#list = list;
    this.#cutOvers = cutOvers;
    this.#say = options.say;
    this.#signal = options.signal;
  }

  /** Until all have struck, or `enough`. */
  async run(faults: readonly PlannedFault[], startedAt: number, enough: AbortSignal): Promise<void> {
    const over = AbortSignal.any([enough, this.#signal]);
    for (const fault of faults) {
      await sleep(Math.max(0, startedAt + fault.atMs - now()), null, { signal: over }).catch(() => undefined);
      if (over.aborted) return;
      await this.strike(fault, AIM_PATIENCE_MS, over);
    }
  }

  /** Whether it struck: what it is for may be down or hurt already, until `over`. */
  async strike(fault: PlannedFault, patienceMs: number, over: AbortSignal): Promise<boolean> {
    let cutOver: CutOver | null = null;
    if (fault.moment === 'cut-over') {
      cutOver = await this.#cutOvers.next(patienceMs, over);
      if (cutOver && fault.lateMs > 0) await sleep(fault.lateMs);
    }
    while (!over.aborted) {
      const target = await this.#choose(fault, cutOver);
      if (target && (await this.#hit(target, fault))) return true;
      await sleep(LOOK_AGAIN_MS, null, { signal: over }).catch(() => undefined);
    }
    return false;
  }

  /** Waits until everything is well. Throws where something does not come back. */
  async heal(): Promise<Struck[]> {
    await Promise.all(this.#backs);
    const faults = await Promise.all(this.#faults);
    const lost = faults.filter(({ restartedAt }) => restartedAt === null);
    if (lost.length > 0) throw new Error(`not well again: ${lost.map(({ target }) => target).join(', ')}`);
    return faults.toSorted((a, b) => a.at - b.at);
  }

  /** Of those that could be hit, one that takes part in the cut-over, if there are any. */
  async #choose(fault: PlannedFault, cutOver: CutOver | null): Promise<Target | null> {
    const all = (await this.#list().catch(() => [])).filter(
      ({ kind, name }) => kind === fault.kind && !this.#hurt.has(name),
    );
    const near = all.filter((target) => target.near !== null && [cutOver?.from, cutOver?.to].includes(target.near));
    const candidates = (near.length > 0 ? near : all).toSorted((a, b) => (a.name < b.name ? -1 : 1));
    return candidates[Math.floor(fault.pick * candidates.length)] ?? null;
  }

  async #hit(target: Target, { blow, forMs }: PlannedFault): Promise<boolean> {
    const { kind, name, node } = target;
    this.#hurt.add(name);
    const at = now();
    const hit = await target.hit(blow, forMs).catch((error: unknown) => {
      if (!this.#signal.aborted) this.#say(`· could not hit ${name}: ${describeError(error)}`);
      return null;
    });
    if (!hit) {
      this.#hurt.delete(name);
      return false;
    }
    const landedAt = now();
    this.landed.push(landedAt);
    this.#say(`! ${blow} ${name}${forMs > 0 ? ` for ${(forMs / 1_000).toFixed(1)} s` : ''}`);
    this.#backs.push(hit.back);
    this.#faults.push(
      hit.back
        .then(() => wellAgain(() => target.state(), this.#signal))
        .then((restartedAt) => {
          this.#hurt.delete(name);
          return { kind, blow, at, landedAt, target: name, node, restartedAt };
        }),
    );
    this.#faults.at(-1)!.catch(() => undefined); // told by heal()
    return true;
  }
}
