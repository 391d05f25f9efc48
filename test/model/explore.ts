/**
 * Visits every state that a model can reach, and looks at each step on the way.
 *
 * A state is a few bytes of fixed length. All states are kept, and compared byte by byte: nothing is sampled, and no two states are taken for one because their
 * hashes agree. Steps are kept too (as numbers of states), so that after the last state can be asked from which of them a good end cannot be reached any more.
 *
 * *Budgets* (crashes, zombies, tries that are left) are no part of a state: who has more left can do all that who has less can do. So the search goes by what
 * has been spent, nothing first, breadth first within, and a state that was visited with at least as much left in each is not visited again. What counts for
 * a way out costs nothing, so the ways out of a state are the same for every budget. A counterexample is one of the fewest faults.
 */

export interface Model {
  /** A multiple of 4. */
  readonly stateBytes: number;
  readonly initial: Uint8Array;
  /** Bytes of a state that are budgets. */
  readonly budgets: readonly number[];
  /**
   * Writes the state after each step that is possible in `now` into `next`, one after the other, and calls `emit` for it. `ways`: of which `exits` it may be a
   * part, as bits. `broken`: the promise that the step breaks.
   */
  expand(now: Uint8Array, next: Uint8Array, emit: (step: number, ways: number, broken: string | null) => void): void;
  /** For which of `exits` this state is a good end, as bits. */
  ends(state: Uint8Array): number;
  /** At most three: each is a sentence of what can always be reached. */
  readonly exits: readonly string[];
  /** For people. */
  describe(step: number, before: Uint8Array, after: Uint8Array): string;
  /** Groups steps for the statistics. */
  kindOf(step: number): string;
}

export interface Counterexample {
  readonly broken: string;
  /** One line for each step, from the first state to where it goes wrong. */
  readonly trace: readonly string[];
}

export interface Exploration {
  readonly states: number;
  /** Steps between them that were looked at. */
  readonly steps: number;
  readonly ms: number;
  /** How often each kind of step was taken. */
  readonly taken: ReadonlyMap<string, number>;
  readonly counterexample: Counterexample | null;
}

export interface ExploreOptions {
  /** More states than this are a mistake in the bounds, and an error: an exploration that stops early has shown nothing. */
  readonly statesMax?: number;
  readonly onProgress?: (states: number) => void;
  /** Called for each state, without its budgets. */
  readonly onState?: (state: Uint8Array) => void;
}

const CHUNK_BITS = 16;
const CHUNK_STATES = 1 << CHUNK_BITS;
/** Of an edge: the number of the state that it leads to, below the bits that say which exits may count on it. */
const TARGET_BITS = 28;
const TARGET_MASK = (1 << TARGET_BITS) - 1;
const PROGRESS_EVERY = 1 << 18;
/** Budgets that a state was visited with are bits of an integer. */
const LAYERS_MAX = 31;

export function explore(model: Model, options: ExploreOptions = {}): Exploration {
  return new Search(model, options).run();
}

/** Visits with the same budgets left. */
interface Layer {
  readonly left: readonly number[];
  /** Layers, itself among them, with at least as much left; as bits. */
  readonly covers: number;
  readonly visits: number[];
}

class Search {
  readonly #model: Model;
  readonly #options: ExploreOptions;
  readonly #words: number;
  readonly #states: Uint32Array[] = [];
  #stateCount = 0;
  /** Open addressing: number of the state + 1. */
  #table = new Int32Array(1 << 16);
  /** Layers in which each state was visited, as bits. */
  #visited = new Int32Array(1 << 16);
  #edges = new Int32Array(1 << 18);
  #edgeCount = 0;
  /** Where the edges of each state begin and end. */
  #edgesOf = new Int32Array(1 << 17);
  /** Of each visit: its state, the visit that it came from, its layer. */
  #visitOf = new Int32Array(1 << 16);
  #cameFrom = new Int32Array(1 << 16);
  #layerOf = new Uint8Array(1 << 16);
  #visitCount = 0;
  readonly #layers: Layer[];
  readonly #layerAt: Int32Array;

  constructor(model: Model, options: ExploreOptions) {
    this.#model = model;
    this.#options = options;
    this.#words = model.stateBytes / 4;
    const most = model.budgets.map((at) => model.initial[at]!);
    let combinations: number[][] = [[]];
    for (const max of most)
      combinations = combinations.flatMap((left) => Array.from({ length: max + 1 }, (_, n) => [...left, n]));
    if (combinations.length > LAYERS_MAX) throw new Error(`${combinations.length} combinations of budgets`);
    const total = (left: readonly number[]): number => left.reduce((sum, n) => sum + n, 0);
    combinations.sort((a, b) => total(b) - total(a));
    this.#layers = combinations.map((left) => ({
      left,
      covers: combinations.reduce(
        (bits, other, n) => (other.every((much, i) => much >= left[i]!) ? bits | (1 << n) : bits),
        0,
      ),
      visits: [],
    }));
    this.#layerAt = new Int32Array(4 ** model.budgets.length);
    for (const [n, { left }] of this.#layers.entries()) this.#layerAt[packed(left)] = n;
  }

  run(): Exploration {
    const startedAt = performance.now();
    const model = this.#model;
    const { budgets } = model;
    const now = new Uint8Array(model.stateBytes);
    const nowWords = new Uint32Array(now.buffer);
    const next = new Uint8Array(model.stateBytes);
    const nextWords = new Uint32Array(next.buffer);
    const taken = new Map<number, number>();
    const broken: { readonly what: string; readonly visit: number; readonly step: number }[] = [];
    let steps = 0;
    let visit = -1;
    let isFirst = true;
    const arrive = (): number => {
      let code = 0;
      for (let n = budgets.length - 1; n >= 0; n -= 1) {
        code = code * 4 + next[budgets[n]!]!;
        next[budgets[n]!] = 0;
      }
      const layer = this.#layerAt[code]!;
      const state = this.#numberOf(nextWords);
      if ((this.#visited[state]! & this.#layers[layer]!.covers) !== 0) return state;
      this.#visited[state]! |= 1 << layer;
      this.#layers[layer]!.visits.push(this.#addVisit(state, visit, layer));
      return state;
    };
    const emit = (step: number, ways: number, what: string | null): void => {
      steps += 1;
      taken.set(step, (taken.get(step) ?? 0) + 1);
      if (what !== null) {
        broken.push({ what, visit, step });
        return;
      }
      const target = arrive();
      if (!isFirst || ways === 0) return;
      if (this.#edgeCount === this.#edges.length) this.#edges = grown(this.#edges);
      this.#edges[this.#edgeCount] = target | (ways << TARGET_BITS);
      this.#edgeCount += 1;
    };
    const result = (counterexample: Counterexample | null): Exploration => {
      const kinds = new Map<string, number>();
      for (const [step, times] of taken) {
        const kind = model.kindOf(step);
        kinds.set(kind, (kinds.get(kind) ?? 0) + times);
      }
      return { states: this.#stateCount, steps, ms: performance.now() - startedAt, taken: kinds, counterexample };
    };
    next.set(model.initial);
    arrive();
    for (const layer of this.#layers) {
      for (let nth = 0; nth < layer.visits.length; nth += 1) {
        visit = layer.visits[nth]!;
        const state = this.#visitOf[visit]!;
        this.#loadVisit(visit, now, nowWords);
        if (state * 2 + 1 >= this.#edgesOf.length) this.#edgesOf = grown(this.#edgesOf);
        isFirst = this.#edgesOf[state * 2 + 1] === 0;
        if (isFirst) this.#edgesOf[state * 2] = this.#edgeCount;
        model.expand(now, next, emit);
        if (isFirst) this.#edgesOf[state * 2 + 1] = this.#edgeCount + 1;
        if (broken[0]) {
          const { what, visit: at, step } = broken[0];
          return result({ broken: what, trace: [...this.#traceTo(at), this.#lastLine(at, step)] });
        }
        if (visit % PROGRESS_EVERY === 0) this.#options.onProgress?.(this.#stateCount);
      }
      layer.visits.length = 0;
    }
    for (const [nth, exit] of model.exits.entries()) {
      const stuck = this.#withoutExit(nth);
      if (stuck !== null) return result({ broken: `no exit: ${exit}`, trace: this.#traceTo(stuck) });
    }
    return result(null);
  }

  /** The first visit to a state from which no end of this exit can be reached by steps that count for it. */
  #withoutExit(exit: number): number | null {
    const reaches = new Uint8Array(this.#stateCount);
    const state = new Uint8Array(this.#model.stateBytes);
    const words = new Uint32Array(state.buffer);
    for (let n = 0; n < this.#stateCount; n += 1) {
      this.#load(n, words);
      if ((this.#model.ends(state) >> exit) & 1) reaches[n] = 1;
    }
    const bit = 1 << (TARGET_BITS + exit);
    // Most steps lead to states that were found later, so one sweep from the end settles nearly all.
    for (let changed = true; changed; ) {
      changed = false;
      for (let n = this.#stateCount - 1; n >= 0; n -= 1) {
        if (reaches[n] === 1) continue;
        const end = this.#edgesOf[n * 2 + 1]! - 1;
        for (let e = this.#edgesOf[n * 2]!; e < end; e += 1) {
          const edge = this.#edges[e]!;
          if ((edge & bit) === 0 || reaches[edge & TARGET_MASK] === 0) continue;
          reaches[n] = 1;
          changed = true;
          break;
        }
      }
    }
    for (let visit = 0; visit < this.#visitCount; visit += 1) if (reaches[this.#visitOf[visit]!] === 0) return visit;
    return null;
  }

  #addVisit(state: number, from: number, layer: number): number {
    const visit = this.#visitCount;
    this.#visitCount += 1;
    if (visit === this.#visitOf.length) {
      this.#visitOf = grown(this.#visitOf);
      this.#cameFrom = grown(this.#cameFrom);
      const larger = new Uint8Array(this.#layerOf.length * 2);
      larger.set(this.#layerOf);
      this.#layerOf = larger;
    }
    this.#visitOf[visit] = state;
    this.#cameFrom[visit] = from;
    this.#layerOf[visit] = layer;
    return visit;
  }

  /** The number of a state, which is given one if it is new. */
  #numberOf(state: Uint32Array): number {
    const mask = this.#table.length - 1;
    let at = hashOf(state) & mask;
    for (;;) {
      const known = this.#table[at]!;
      if (known === 0) break;
      if (this.#isAt(known - 1, state)) return known - 1;
      at = (at + 1) & mask;
    }
    const number = this.#stateCount;
    if (number === (this.#options.statesMax ?? TARGET_MASK))
      throw new Error(`more than ${number} states: the bounds are too wide`);
    this.#stateCount += 1;
    this.#table[at] = number + 1;
    this.#options.onState?.(new Uint8Array(state.buffer));
    if (number % CHUNK_STATES === 0) this.#states.push(new Uint32Array(CHUNK_STATES * this.#words));
    this.#states[number >> CHUNK_BITS]!.set(state, (number & (CHUNK_STATES - 1)) * this.#words);
    if (number === this.#visited.length) this.#visited = grown(this.#visited);
    if (this.#stateCount * 2 > this.#table.length) this.#rehash();
    return number;
  }

  #isAt(number: number, state: Uint32Array): boolean {
    const chunk = this.#states[number >> CHUNK_BITS]!;
    const at = (number & (CHUNK_STATES - 1)) * this.#words;
    for (let word = 0; word < this.#words; word += 1) if (chunk[at + word] !== state[word]) return false;
    return true;
  }

  #load(number: number, into: Uint32Array): void {
    const at = (number & (CHUNK_STATES - 1)) * this.#words;
    const chunk = this.#states[number >> CHUNK_BITS]!;
    for (let word = 0; word < this.#words; word += 1) into[word] = chunk[at + word]!;
  }

  #loadVisit(visit: number, into: Uint8Array, words: Uint32Array): void {
    this.#load(this.#visitOf[visit]!, words);
    const { left } = this.#layers[this.#layerOf[visit]!]!;
    for (const [n, at] of this.#model.budgets.entries()) into[at] = left[n]!;
  }

  #rehash(): void {
    this.#table = new Int32Array(this.#table.length * 2);
    const mask = this.#table.length - 1;
    const state = new Uint32Array(this.#words);
    for (let number = 0; number < this.#stateCount; number += 1) {
      this.#load(number, state);
      let at = hashOf(state) & mask;
      while (this.#table[at] !== 0) at = (at + 1) & mask;
      this.#table[at] = number + 1;
    }
  }

  #traceTo(visit: number): string[] {
    const way: number[] = [];
    for (let at = visit; at >= 0; at = this.#cameFrom[at]!) way.push(at);
    way.reverse();
    const { stateBytes } = this.#model;
    const [before, after, next] = [new Uint8Array(stateBytes), new Uint8Array(stateBytes), new Uint8Array(stateBytes)];
    return way.slice(1).map((to, nth) => {
      this.#loadVisit(way[nth]!, before, new Uint32Array(before.buffer));
      this.#loadVisit(to, after, new Uint32Array(after.buffer));
      let line = '';
      this.#model.expand(before, next, (step) => {
        if (line === '' && next.every((byte, n) => byte === after[n])) line = this.#model.describe(step, before, next);
      });
      return line;
    });
  }

  #lastLine(visit: number, step: number): string {
    const { stateBytes } = this.#model;
    const [before, next] = [new Uint8Array(stateBytes), new Uint8Array(stateBytes)];
    this.#loadVisit(visit, before, new Uint32Array(before.buffer));
    let line = '';
    this.#model.expand(before, next, (other, _ways, what) => {
      if (other === step && what !== null) line = this.#model.describe(step, before, next);
    });
    return line;
  }
}

const packed = (left: readonly number[]): number => left.reduceRight((code, n) => code * 4 + n, 0);

function grown(array: Int32Array<ArrayBuffer>): Int32Array<ArrayBuffer> {
  const larger = new Int32Array(array.length * 2);
  larger.set(array);
  return larger;
}

function hashOf(state: Uint32Array): number {
  let hash = 0x9e3779b9;
  for (let word = 0; word < state.length; word += 1) {
    hash = Math.imul(hash ^ state[word]!, 0x85ebca6b);
    hash ^= hash >>> 15;
  }
  hash = Math.imul(hash, 0xc2b2ae35);
  return (hash ^ (hash >>> 13)) >>> 0;
}
