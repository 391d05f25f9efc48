/**
 * What the demo kills, when and how: one after the other, while partitions move, spread over the operations. Everything that can be chosen comes from the seed.
 */
import { now } from '../../kit/log.ts';
import type { OperationProgress } from '../../workflows/messages.ts';
import type { Fault } from '../checker/checker.ts';
import type { Blow, Cluster, Victim, VictimPart } from '../cluster.ts';
import { seededRandom } from '../traffic/random.ts';

export interface Kill {
  readonly part: VictimPart;
  readonly blow: Blow;
}

/** One list for each operation. Parts take turns in an order of the seed's; every other one is killed as the system does it, the others as people do. */
export function planKills(count: number, operations: number, seed: number): Kill[][] {
  const random = seededRandom(seed ^ 0x6b111);
  const parts = shuffled<VictimPart>(['backend', 'postgresql', 'worker'], random);
  const blows: readonly Blow[] = ['SIGKILL', 'delete now', 'SIGKILL', 'delete'];
  const plan: Kill[][] = Array.from({ length: operations }, () => []);
  for (let n = 0; n < count; n += 1) {
    plan[Math.floor((n * operations) / count)]!.push({
      part: parts[n % parts.length]!,
      blow: blows[n % blows.length]!,
    });
  }
  return plan;
}

/** Kills by plan. Tell it each progress; ask for the faults at the end. */
export class Killer {
  readonly #cluster: Pick<Cluster, 'victims' | 'hit'>;
  readonly #signal: AbortSignal;
  readonly #say: (line: string) => void;
  readonly #random: () => number;
  readonly #plan: Kill[][];
  /** Of the operation that runs: those to come, and how many there were. */
  #due: Kill[] = [];
  #count = 0;
  #busy: Promise<void> | null = null;
  readonly #faults: Promise<Fault>[] = [];

  constructor(
    cluster: Pick<Cluster, 'victims' | 'hit'>,
    plan: readonly (readonly Kill[])[],
    options: { readonly seed: number; readonly signal: AbortSignal; readonly say: (line: string) => void },
  ) {
    this.#cluster = cluster;
    this.#plan = plan.map((kills) => [...kills]);
    this.#signal = options.signal;
    this.#say = options.say;
    this.#random = seededRandom(options.seed ^ 0x6b112);
  }

  /** What an operation was too short for comes in the next. */
  operationBegins(): void {
    this.#due.push(...(this.#plan.shift() ?? []));
    this.#count = this.#due.length;
  }

  look(progress: OperationProgress): void {
    const next = this.#due[0];
    const open = progress.moves.filter(({ state }) => state === 'copying' || state === 'cutting over');
    if (!next || this.#busy || open.length === 0 || progress.partitionsToMove === 0) return;
    const done = progress.partitionsMoved / progress.partitionsToMove;
    if (done < (this.#count - this.#due.length) / this.#count) return;
    const inMoves = new Set<string | null>(open.flatMap(({ from, to }) => [from, to]));
    this.#busy = this.#kill(next, inMoves)
      .catch((error: unknown) => {
        if (!this.#signal.aborted) this.#say(`! could not kill a ${next.part}: ${(error as Error).message}`);
      })
      .finally(() => {
        this.#busy = null;
      });
  }

  /** How many were not killed, because the operations were over too soon. */
  get missed(): number {
    return this.#due.length + this.#plan.flat().length;
  }

  /** Waits for what is being killed and for the restarts. */
  async faults(): Promise<Fault[]> {
    await this.#busy;
    return (await Promise.all(this.#faults)).toSorted((a, b) => a.at - b.at);
  }

  /** Resolves when the victim serves again: two at once would be another story. */
  async #kill(kill: Kill, inMoves: ReadonlySet<string | null>): Promise<void> {
    const all = (await this.#cluster.victims()).filter(({ part }) => part === kill.part);
    const inMove = all.filter(({ node }) => inMoves.has(node));
    const victim = this.#pick(inMove.length > 0 ? inMove : all);
    if (!victim) return; // all are down or not up yet: at the next look
    const at = now();
    const hit = await this.#cluster.hit(victim, kill.blow, this.#signal);
    if (!hit) return;
    this.#due.shift();
    this.#say(`! ${hit.did}`);
    const { kind } = hit;
    const fault = { kind, at, target: victim.name, node: victim.node };
    this.#faults.push(hit.restarted.then((restartedAt) => ({ ...fault, restartedAt })));
    await hit.restarted;
  }

  #pick(victims: readonly Victim[]): Victim | undefined {
    const sorted = victims.toSorted((a, b) => (a.name < b.name ? -1 : 1));
    return sorted[Math.floor(this.#random() * sorted.length)];
  }
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const left = [...items];
  const taken: T[] = [];
  while (left.length > 0) taken.push(...left.splice(Math.floor(random() * left.length), 1));
  return taken;
}
