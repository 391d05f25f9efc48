/**
 * Who waits, for what, and who goes next.
 *
 * A *gate* stands closed before each partition that a node was seen to refuse. States: `shut` (waits for its cause to end) → `ready` (its cause has ended, or is due
 * for a try) → `probing` (one request is on its way; the others wait for what becomes of it) → gone (the node took it), or `shut` again. Without a gate requests pass
 * at once. A gate that nobody waits at goes away when its cause has ended.
 *
 * A *ticket* is one request, or the part of one that goes to one node. Holds:
 *   - at a gate, tickets go in the order of their arrival;
 *   - a held ticket stands in the lane of each of its users until it has its answer, and only the first of a lane is sent: requests of one user never
 *     overtake each other while held. Tickets enter all their lanes at once in one order, so they cannot wait for each other in a circle;
 *   - no more tickets and bytes wait than the limits say, none longer than `holdMs`.
 */

import type { PartitionIndex } from '../ring/partition.ts';
import { moveOf, type Ring, startedMoveOf } from '../ring/ring.ts';
import type { RouterLimits } from './limits.ts';

export type HoldRefusalCode = 'HOLD_FULL' | 'HOLD_TIMEOUT' | 'CLIENT_GONE' | 'NODE_DOWN';

/** Why a ticket will not be sent: nothing of it was stored. */
export class HoldRefused extends Error {
  override readonly name = 'HoldRefused';
  readonly code: HoldRefusalCode;
  constructor(code: HoldRefusalCode, message: string) {
    super(message);
    this.code = code;
  }
}

/** What a node, or the lack of one, said about a ticket that it has not stored. */
export type Refusal =
  | {
      readonly kind: 'fenced';
      readonly node: string;
      readonly partitions: readonly PartitionIndex[];
      readonly version: number;
      readonly move: string | null;
    }
  | {
      readonly kind: 'not-owner';
      readonly node: string;
      readonly partitions: readonly PartitionIndex[];
      readonly version: number;
    }
  | { readonly kind: 'unreachable'; readonly node: string };

export interface Ticket {
  /** Order of arrival. Parts of one request share it. */
  readonly seq: number;
  readonly bytes: number;
  /** Distinct. */
  readonly partitions: readonly PartitionIndex[];
  /** Distinct user keys. */
  readonly users: readonly string[];
  /** When it arrived, `now()` milliseconds. */
  readonly arrivedAt: number;
  /** When it was last sent; 0 before. */
  sentAt: number;
  state: 'free' | 'waiting' | 'sending' | 'done';
  /** From its first wait on: until when it may be held; 0 before. */
  deadline: number;
  timer: NodeJS.Timeout | null;
  wake: { readonly go: () => void; readonly refuse: (why: HoldRefused) => void } | null;
  gone: boolean;
  /** Gates whose `waiters` it is among now. */
  at: Gate[];
  /** Gates that it has waited at: each wants to know how long. */
  readonly waitedAt: Gate[];
}

/** The line `hold ended`, of which the demo's report is made. */
export interface HoldEnded {
  readonly move: string;
  readonly partitions: readonly PartitionIndex[];
  readonly partition: PartitionIndex;
  /** When the first request that a node took again was sent, `now()`. Where none was left: when the next would have been. */
  readonly firstForwardAt: number;
  /** Requests that were in the hold of this partition. */
  readonly held: number;
  /** How long each waited. One that waited at several partitions is in the line of the first. */
  readonly waitsMs: readonly number[];
  readonly outcome: 'handed over' | 'aborted';
}

type Cause =
  | { readonly kind: 'move'; readonly move: string; readonly version: number }
  | { readonly kind: 'version'; readonly version: number }
  /** The node, or a connection to it, is not there yet: try again soon. */
  | { readonly kind: 'pause' };

/** The held requests of one user. */
interface Lane {
  /** By arrival. */
  readonly tickets: Ticket[];
  /** The one that is on its way. */
  sending: Ticket | null;
}

interface Gate {
  readonly partition: PartitionIndex;
  state: 'shut' | 'ready' | 'probing' | 'gone';
  cause: Cause;
  timer: NodeJS.Timeout | null;
  tries: number;
  /** Owner when the gate closed: tells a hand-over from an abort. */
  readonly owner: string | undefined;
  /** By arrival. */
  readonly waiters: Ticket[];
  probe: Ticket | null;
  /** Moves that held it, with their partitions, in order. */
  readonly moves: Map<string, readonly PartitionIndex[]>;
  /** Tickets that waited here and are not settled. */
  unsettled: number;
  held: number;
  readonly waitsMs: number[];
  openedAt: number;
}

export interface GatesOptions {
  readonly ring: () => Ring;
  readonly limits: RouterLimits;
  readonly now: () => number;
  readonly onHoldEnded: (ended: HoldEnded) => void;
  readonly onHeld?: (requests: number, bytes: number) => void;
  readonly onWait?: (ms: number) => void;
  /** For how long the partition's owner is known not to answer; 0 where it is not known. */
  readonly downMs?: (partition: PartitionIndex) => number;
}

/** After a node that lags behind: it needs milliseconds, and each one here is one of the hold; only one request of a partition tries. */
const pauseMs = [4, 6, 9, 13, 20, 20, 20, 20, 20, 20, 50];
const unreachableMs = [25, 50, 100, 200, 250]; // a process that starts needs about a second

export class Gates {
  readonly #o: GatesOptions;
  readonly #gates = new Map<PartitionIndex, Gate>();
  readonly #lanes = new Map<string, Lane>();
  #held = 0;
  #heldBytes = 0;
  #seq = 0;

  constructor(options: GatesOptions) {
    this.#o = options;
  }

  get held(): number {
    return this.#held;
  }
  get heldBytes(): number {
    return this.#heldBytes;
  }
  /** Partitions with a closed gate. */
  get closed(): number {
    return this.#gates.size;
  }

  ticket(facts: Pick<Ticket, 'bytes' | 'partitions' | 'users'>): Ticket {
    this.#seq += 1;
    return newTicket(facts, this.#seq, this.#o.now());
  }

  /** Undefined where the ticket may be sent at once, else a promise that resolves when it may. Rejects with HoldRefused. */
  turn(ticket: Ticket): Promise<void> | undefined {
    // One that was refused is always held, so that its tries have a deadline.
    if (ticket.deadline === 0 && ticket.sentAt === 0) {
      if (this.#gates.size === 0 && this.#lanes.size === 0) return undefined;
      if (!this.#mustWait(ticket)) return undefined;
    }
    return this.#hold(ticket);
  }

  /** The node took it, and answered. Nothing keeps the others any longer. */
  accepted(ticket: Ticket): void {
    for (const gate of this.#probedBy(ticket)) this.#open(gate, ticket.sentAt);
    this.#leave(ticket, ticket.sentAt);
  }

  /** No answer: it may be stored, and is never sent again. The others try a little later, the node has just died. */
  lost(ticket: Ticket): void {
    for (const gate of this.#probedBy(ticket)) this.#shut(gate, { kind: 'pause' }, unreachableMs);
    this.#leave(ticket, ticket.sentAt);
  }

  /** Not stored: gates close as `why` says, and `ticket` waits at them by its next `turn`. */
  refused(ticket: Ticket, why: Refusal): void {
    const probed = this.#probedBy(ticket);
    const named =
      why.kind === 'unreachable' ? [] : why.partitions.filter((partition) => ticket.partitions.includes(partition));
    const partitions = named.length > 0 ? named : ticket.partitions;
    for (const partition of partitions) this.#refuse(this.#gateOf(partition), why);
    // What was tried with it and not named may be open or not: the next one will tell, be it this one.
    for (const gate of probed) if (gate.state === 'probing' && gate.probe === ticket) this.#tryNext(gate);
  }

  /** Not to be sent here after all: nothing of it was stored, and what the node said is nothing about its partitions. */
  withdraw(ticket: Ticket): void {
    const probed = this.#probedBy(ticket);
    this.#leave(ticket, this.#o.now());
    this.#makeReady(...probed);
  }

  /** In place of `ticket`, whose partitions no longer live on one node: each part keeps its place in the order, and asks for its `turn` at once. */
  replace(ticket: Ticket, parts: readonly Pick<Ticket, 'bytes' | 'partitions' | 'users'>[]): Ticket[] {
    const made = parts.map((part) => newTicket(part, ticket.seq, ticket.arrivedAt));
    if (ticket.deadline === 0) return made;
    for (const part of made) {
      part.gone = ticket.gone;
      this.#enterHold(part, ticket.deadline - this.#o.now());
    }
    for (const gate of this.#probedBy(ticket)) {
      gate.probe = null;
      gate.state = 'ready';
    }
    this.#leave(ticket, this.#o.now());
    return made;
  }

  /** Its client has gone: it is dropped where it waits. What was sent is not called back. */
  drop(ticket: Ticket): void {
    ticket.gone = true;
    if (ticket.state === 'waiting') this.#refuseTicket(ticket, new HoldRefused('CLIENT_GONE', 'the client has gone'));
  }

  /** A later ring is known: ends what it ends. */
  ringChanged(): void {
    const ring = this.#o.ring();
    const ended: Gate[] = [];
    for (const gate of this.#gates.values()) {
      if (gate.state === 'shut' && this.#causeEnded(gate, ring)) ended.push(gate);
    }
    this.#makeReady(...ended);
  }

  /** For the end of the process: nobody waits any longer. */
  close(): void {
    for (const gate of this.#gates.values()) clearTimer(gate);
  }

  #mustWait(ticket: Ticket): boolean {
    return (
      ticket.partitions.some((partition) => this.#gates.has(partition)) ||
      ticket.users.some((user) => this.#lanes.has(user))
    );
  }

  #hold(ticket: Ticket): Promise<void> | undefined {
    if (ticket.deadline === 0) {
      const { heldRequestsMax, heldBytesMax, holdMs } = this.#o.limits;
      if (this.#held >= heldRequestsMax || this.#heldBytes + ticket.bytes > heldBytesMax) {
        ticket.state = 'done';
        return Promise.reject(
          new HoldRefused('HOLD_FULL', `${this.#held} requests (${this.#heldBytes} bytes) are held already`),
        );
      }
      const hopeless = this.#whyHopeless(ticket);
      if (hopeless) {
        ticket.state = 'done';
        return Promise.reject(hopeless);
      }
      this.#enterHold(ticket, holdMs);
    }
    ticket.state = 'waiting';
    for (const partition of ticket.partitions) {
      const gate = this.#gates.get(partition);
      if (gate) joinGate(gate, ticket);
    }
    const turn = new Promise<void>((go, refuse) => {
      ticket.wake = { go, refuse };
    });
    if (ticket.gone) this.#refuseTicket(ticket, new HoldRefused('CLIENT_GONE', 'the client has gone'));
    else if (this.#o.now() >= ticket.deadline) this.#refuseTicket(ticket, timeoutOf(this.#o.limits));
    else {
      this.#freeLanes(ticket);
      this.#release(ticket);
    }
    return turn;
  }

  /**
   * Whether there is no use in waiting: a node that has not answered for as long as anybody is held will not do so for this one. And it never gets more than half
   * of the hold: the other half is for the partitions of nodes that live.
   */
  #whyHopeless(ticket: Ticket): HoldRefused | null {
    const { downMs, limits } = this.#o;
    if (!downMs) return null;
    const longest = Math.max(...ticket.partitions.map(downMs));
    if (longest === 0) return null;
    const isHalfFull =
      this.#held * 2 >= limits.heldRequestsMax || (this.#heldBytes + ticket.bytes) * 2 > limits.heldBytesMax;
    if (longest < limits.holdMs && !isHalfFull) return null;
    return new HoldRefused('NODE_DOWN', `its node has not answered for ${Math.round(longest / 1_000)} s`);
  }

  /** It waits again: one that came before it, and was refused later, may have been waiting for its answer. */
  #freeLanes(ticket: Ticket): void {
    for (const user of ticket.users) {
      const lane = this.#lanes.get(user)!;
      if (lane.sending !== ticket) continue;
      lane.sending = null;
      if (lane.tickets[0] !== ticket) this.#release(lane.tickets[0]!);
    }
  }

  #enterHold(ticket: Ticket, forMs: number): void {
    ticket.deadline = this.#o.now() + forMs;
    ticket.timer = setTimeout(
      () => {
        if (ticket.state === 'waiting') this.#refuseTicket(ticket, timeoutOf(this.#o.limits));
      },
      Math.max(forMs, 0),
    );
    for (const user of ticket.users) {
      const lane = this.#lanes.get(user);
      if (lane) insertByArrival(lane.tickets, ticket);
      else this.#lanes.set(user, { tickets: [ticket], sending: null });
    }
    this.#held += 1;
    this.#heldBytes += ticket.bytes;
    this.#o.onHeld?.(this.#held, this.#heldBytes);
  }

  /** Sends the ticket off, if nothing is before it. */
  #release(ticket: Ticket): void {
    if (ticket.state !== 'waiting') return;
    const lanes = ticket.users.map((user) => this.#lanes.get(user)!);
    if (lanes.some((lane) => lane.sending !== null || lane.tickets[0] !== ticket)) return;
    const gates = this.#gatesOf(ticket);
    if (gates.some((gate) => gate.state !== 'ready')) {
      // Also at gates that have closed since it began to wait: each must know whom to wake.
      for (const gate of gates) joinGate(gate, ticket);
      return;
    }
    for (const gate of gates) {
      gate.state = 'probing';
      gate.probe = ticket;
    }
    leaveGates(ticket);
    for (const lane of lanes) lane.sending = ticket;
    ticket.state = 'sending';
    const { wake } = ticket;
    ticket.wake = null;
    wake?.go();
  }

  #refuseTicket(ticket: Ticket, why: HoldRefused): void {
    const { wake } = ticket;
    ticket.wake = null;
    const gates = ticket.at;
    leaveGates(ticket);
    this.#leave(ticket, this.#o.now());
    wake?.refuse(why);
    // Nobody waits there any more: what is ready needs no probe.
    for (const gate of gates) if (gate.state === 'ready') this.#makeReady(gate);
  }

  /** The end of a ticket's way: out of its lanes, and whoever stood behind it may go. */
  #leave(ticket: Ticket, waitedUntil: number): void {
    ticket.state = 'done';
    if (ticket.deadline === 0) return;
    if (ticket.timer) clearTimeout(ticket.timer);
    this.#held -= 1;
    this.#heldBytes -= ticket.bytes;
    const waited = waitedUntil - ticket.arrivedAt;
    this.#o.onHeld?.(this.#held, this.#heldBytes);
    this.#o.onWait?.(waited);
    ticket.waitedAt.forEach((gate, nth) => {
      if (nth === 0) gate.waitsMs.push(waited);
      gate.unsettled -= 1;
      this.#tellIfSettled(gate);
    });
    for (const user of ticket.users) {
      const lane = this.#lanes.get(user);
      if (!lane) continue;
      removeFrom(lane.tickets, ticket);
      if (lane.sending === ticket) lane.sending = null;
      if (lane.tickets.length === 0) this.#lanes.delete(user);
      else this.#release(lane.tickets[0]!);
    }
  }

  #gateOf(partition: PartitionIndex): Gate {
    let gate = this.#gates.get(partition);
    if (!gate) {
      gate = {
        partition,
        state: 'shut',
        cause: { kind: 'pause' },
        timer: null,
        tries: 0,
        owner: this.#o.ring().owners[partition],
        waiters: [],
        probe: null,
        moves: new Map(),
        unsettled: 0,
        held: 0,
        waitsMs: [],
        openedAt: 0,
      };
      this.#gates.set(partition, gate);
    }
    return gate;
  }

  #refuse(gate: Gate, why: Refusal): void {
    const ring = this.#o.ring();
    // An answer that comes late, when another one has already closed the gate for a reason that lasts: that reason stands.
    if (gate.state === 'shut' && gate.cause.kind === 'move' && why.kind !== 'fenced') return;
    if (why.kind === 'unreachable') {
      this.#shut(gate, { kind: 'pause' }, unreachableMs, why.node);
    } else if (why.version > ring.version) {
      // The node is ahead. A fence's move may be unknown here yet, or stand here as started while it has ended: the log will tell.
      const { move } = why as { move?: string | null };
      this.#shut(
        gate,
        move ? { kind: 'move', move, version: why.version } : { kind: 'version', version: why.version },
        pauseMs,
        why.node,
      );
    } else if (why.kind === 'fenced' && why.move !== null && moveOf(ring, why.move)?.state === 'started') {
      // The header names one of several moves; where that one does not have this partition, the one that has it does.
      const move = moveOf(ring, why.move)!.partitions.includes(gate.partition)
        ? why.move
        : startedMoveOf(ring, gate.partition)?.move;
      this.#shut(gate, { kind: 'move', move: move ?? why.move, version: why.version }, pauseMs, why.node);
    } else {
      this.#shut(gate, { kind: 'pause' }, pauseMs, why.node); // the node is behind: it will see what we have seen
    }
  }

  #shut(gate: Gate, cause: Cause, waits: readonly number[], node?: string): void {
    clearTimer(gate);
    gate.state = 'shut';
    gate.probe = null;
    if (cause.kind !== gate.cause.kind) gate.tries = 0;
    gate.cause = cause;
    const ring = this.#o.ring();
    if (cause.kind === 'move' && !gate.moves.has(cause.move)) {
      gate.moves.set(cause.move, moveOf(ring, cause.move)?.partitions ?? [gate.partition]);
    }
    const owner = ring.owners[gate.partition];
    if (node !== undefined && cause.kind === 'pause' && owner !== node) {
      this.#tryNext(gate); // it was sent by an older ring: by this one it goes elsewhere
      return;
    }
    const wait = cause.kind === 'pause' ? waits[Math.min(gate.tries, waits.length - 1)]! : this.#o.limits.probeEveryMs;
    gate.tries += 1;
    gate.timer = setTimeout(() => this.#makeReady(gate), wait);
  }

  #causeEnded(gate: Gate, ring: Ring): boolean {
    const { cause } = gate;
    if (cause.kind === 'pause') return ring.owners[gate.partition] !== gate.owner;
    if (ring.version < cause.version) return false;
    return cause.kind === 'version' || moveOf(ring, cause.move)?.state !== 'started';
  }

  /** As `#makeReady`, for a gate at which a refused ticket is about to wait: nobody there yet does not mean that nobody waits. */
  #tryNext(gate: Gate): void {
    if (gate.waiters.length > 0) this.#makeReady(gate);
    else {
      clearTimer(gate);
      gate.probe = null;
      gate.state = 'ready';
    }
  }

  /** The next of each may try. All gates first, then the tickets: one may wait at several. */
  #makeReady(...gates: Gate[]): void {
    for (const gate of gates) {
      clearTimer(gate);
      gate.probe = null;
      if (gate.state !== 'gone') gate.state = 'ready';
    }
    for (const gate of gates) {
      if (gate.state !== 'ready') continue;
      for (const ticket of [...gate.waiters]) {
        if (gate.state !== 'ready') break;
        this.#release(ticket);
      }
      if (gate.state !== 'ready' || gate.waiters.length > 0) continue;
      // Nobody to try with. A cause that has not ended in our log keeps the gate shut; else it is open.
      if (gate.cause.kind === 'pause' || this.#causeEnded(gate, this.#o.ring())) this.#open(gate, this.#o.now());
      else this.#shut(gate, gate.cause, pauseMs);
    }
  }

  #open(gate: Gate, at: number): void {
    clearTimer(gate);
    gate.state = 'gone';
    gate.openedAt = at;
    this.#gates.delete(gate.partition);
    const waiters = gate.waiters.splice(0);
    for (const ticket of waiters) ticket.at = ticket.at.filter((other) => other !== gate);
    for (const ticket of waiters) this.#release(ticket);
    this.#tellIfSettled(gate);
  }

  #tellIfSettled(gate: Gate): void {
    if (gate.state !== 'gone' || gate.unsettled > 0 || gate.moves.size === 0) return;
    const outcome = this.#o.ring().owners[gate.partition] === gate.owner ? 'aborted' : 'handed over';
    let last = gate.moves.size;
    for (const [move, partitions] of gate.moves) {
      last -= 1;
      const ended = { move, partitions, partition: gate.partition, firstForwardAt: gate.openedAt, held: gate.held };
      // Several moves held it one after the other: only the last can have handed over, and each wait is told once.
      this.#o.onHoldEnded({
        ...ended,
        waitsMs: last === 0 ? gate.waitsMs : [],
        outcome: last === 0 ? outcome : 'aborted',
      });
    }
    gate.moves.clear();
  }

  #gatesOf(ticket: Ticket): Gate[] {
    const gates: Gate[] = [];
    for (const partition of ticket.partitions) {
      const gate = this.#gates.get(partition);
      if (gate) gates.push(gate);
    }
    return gates;
  }

  #probedBy(ticket: Ticket): Gate[] {
    return this.#gates.size === 0 ? [] : this.#gatesOf(ticket).filter((gate) => gate.probe === ticket);
  }
}

function newTicket(facts: Pick<Ticket, 'bytes' | 'partitions' | 'users'>, seq: number, arrivedAt: number): Ticket {
  return {
    seq,
    bytes: facts.bytes,
    partitions: facts.partitions,
    users: facts.users,
    arrivedAt,
    sentAt: 0,
    state: 'free',
    deadline: 0,
    timer: null,
    wake: null,
    gone: false,
    at: [],
    waitedAt: [],
  };
}

function timeoutOf(limits: RouterLimits): HoldRefused {
  return new HoldRefused('HOLD_TIMEOUT', `not taken in within ${limits.holdMs} ms`);
}

function clearTimer(gate: Gate): void {
  if (gate.timer) clearTimeout(gate.timer);
  gate.timer = null;
}

function joinGate(gate: Gate, ticket: Ticket): void {
  if (ticket.at.includes(gate)) return;
  ticket.at.push(gate);
  insertByArrival(gate.waiters, ticket);
  if (ticket.waitedAt.includes(gate)) return;
  ticket.waitedAt.push(gate);
  gate.held += 1;
  gate.unsettled += 1;
}

function leaveGates(ticket: Ticket): void {
  for (const gate of ticket.at) removeFrom(gate.waiters, ticket);
  ticket.at = [];
}

/** Mostly at the end: only one that a node has refused comes back among later ones. */
function insertByArrival(tickets: Ticket[], ticket: Ticket): void {
  let at = tickets.length;
  while (at > 0 && tickets[at - 1]!.seq > ticket.seq) at -= 1;
  tickets.splice(at, 0, ticket);
}

function removeFrom(tickets: Ticket[], ticket: Ticket): void {
  const at = tickets.indexOf(ticket);
  if (at >= 0) tickets.splice(at, 1);
}
