/**
 * The way of one request: to whom it goes, when, and what its client is told.
 * Holds: only what a node has provably not stored is sent again (421, or no byte was sent); 2xx is answered only when every part is stored.
 */
import { randomUUID } from 'node:crypto';
import type { NodeFacts } from '../ring/events.ts';
import { type PartitionIndex, partitionOf } from '../ring/partition.ts';
import type { Ring } from '../ring/ring.ts';
import type { Answer, AnswerHeaders } from './answer.ts';
import { type BatchText, cutBatch, joinBatch, withMessageId } from './batch-text.ts';
import { type Gates, HoldRefused, type Ticket } from './gates.ts';
import type { RouterMetrics } from './metrics.ts';
import { type NodeRequest, utf8Of } from './node-pool.ts';
import type { Fate, Upstream } from './upstream.ts';

/** A request whose users are known, or the part of one. */
export interface Part {
  readonly request: NodeRequest;
  /** The user key of each event. */
  readonly users: readonly string[];
  /** Where each event stood in the client's request. */
  readonly indexes: readonly number[];
  /** JSON text of the body, where it is not the body itself (that one is compressed). */
  readonly text: string | null;
}

/** What ends a request that a client waits for. */
export interface Client {
  gone: boolean;
  /** Called when it goes. */
  readonly onGone: Set<() => void>;
}

export interface ForwarderOptions {
  readonly ring: () => Ring;
  readonly gates: Gates;
  readonly upstream: Pick<Upstream, 'send'>;
  readonly metrics: RouterMetrics;
  readonly now: () => number;
}

type Begun = { readonly turn: Promise<void> } | { readonly owner: string; readonly fate: Fate };

export class Forwarder {
  readonly #o: ForwarderOptions;
  #next = 0;
  #nodesOf: { readonly ring: Ring; readonly byId: ReadonlyMap<string, NodeFacts> } | null = null;

  constructor(options: ForwarderOptions) {
    this.#o = options;
  }

  /** A request with users: to the owner of all of them, or in parts to each owner. */
  send(part: Part, client: Client): Promise<Answer> {
    const { partitionCount } = this.#o.ring();
    const partitions = part.users.map((user) => partitionOf(user, partitionCount));
    return this.#deliver(part, partitions, this.#o.gates.ticket(ticketFacts(part, partitions)), client, null);
  }

  /** As `send`, for one event. While nothing has to wait and the node takes it no promise is made: this is what almost all requests are. */
  sendOne(
    request: NodeRequest,
    user: string,
    client: Client,
    done: (answer: Answer) => void,
    failed: (error: unknown) => void,
  ): void {
    const { gates, ring: ringNow, upstream } = this.#o;
    const ring = ringNow();
    const partition = partitionOf(user, ring.partitionCount);
    const partitions = [partition];
    const users = [user];
    const ticket = gates.ticket({ bytes: request.body?.length ?? 0, partitions, users });
    const goOn = (begun: Begun): void => {
      const part = { request, users, indexes: [0], text: null };
      this.#deliver(part, partitions, ticket, client, begun).then(done, failed);
    };
    const turn = gates.turn(ticket);
    if (turn !== undefined) {
      goOn({ turn });
      return;
    }
    const owner = ring.owners[partition]!;
    ticket.sentAt = ticket.arrivedAt;
    upstream.send(this.#nodeOf(ring, owner).url, request, (fate) => {
      if (fate.kind === 'answered') done(this.#settle(ticket, owner, fate)!);
      else goOn({ owner, fate });
    });
  }

  /** A request without users: to any member. 421 or no connection: another member, a few rounds long. */
  async sendToAny(request: NodeRequest, client: Client): Promise<Answer> {
    const rounds = 3;
    let refused = false;
    for (let tried = 0; ; tried += 1) {
      const { nodes } = this.#o.ring();
      if (client.gone) return gone;
      if (tried >= rounds * nodes.length)
        return refused
          ? unavailable('NO_OWNER', 'no node takes this in')
          : unavailable('NODE_UNREACHABLE', 'no node can be reached');
      if (tried > 0 && tried % nodes.length === 0) await new Promise((resolve) => setTimeout(resolve, 100));
      this.#next = (this.#next + 1) % nodes.length;
      const fate = await this.#fateOf(nodes[this.#next]!.url, request);
      if (fate.kind === 'answered') return fate.answer;
      if (fate.kind === 'unknown') return unknownOutcome(fate.because);
      refused ||= fate.kind === 'refused';
      this.#o.metrics.retries.inc({ reason: fate.kind === 'refused' ? fate.state : 'unreachable' });
    }
  }

  /** `begun`: what has come of its first try, or the turn that it waits for. */
  async #deliver(
    part: Part,
    partitions: readonly PartitionIndex[],
    ticket: Ticket,
    client: Client,
    begun: Begun | null,
  ): Promise<Answer> {
    const { gates, metrics, now } = this.#o;
    const drop = (): void => gates.drop(ticket);
    client.onGone.add(drop);
    if (client.gone) drop();
    try {
      let next = begun;
      for (;;) {
        if (next === null || 'turn' in next) {
          const turn = next === null ? gates.turn(ticket) : next.turn;
          if (turn) await turn;
          const ring = this.#o.ring();
          const owner = ring.owners[partitions[0]!]!;
          if (partitions.some((partition) => ring.owners[partition] !== owner))
            return await this.#deliverSplit(part, partitions, ticket, ring, client);
          ticket.sentAt = now();
          next = { owner, fate: await this.#fateOf(this.#nodeOf(ring, owner).url, part.request) };
        }
        const { owner, fate } = next;
        if (isAboutOthers(fate, ticket)) {
          // The node reads a user in it that we read otherwise. Its word counts: whoever takes it in is the owner. No gate closes for it, others would wait in vain.
          gates.withdraw(ticket);
          return await this.sendToAny(part.request, client);
        }
        const answer = this.#settle(ticket, owner, fate);
        if (answer) return answer;
        next = null;
      }
    } catch (error) {
      if (!(error instanceof HoldRefused)) throw error;
      metrics.holdRefusals.inc({ code: error.code });
      return error.code === 'CLIENT_GONE' ? gone : unavailable(error.code, error.message);
    } finally {
      client.onGone.delete(drop);
    }
  }

  #fateOf(url: string, request: NodeRequest): Promise<Fate> {
    return new Promise((resolve) => this.#o.upstream.send(url, request, resolve));
  }

  /** The answer, or null where it is to be sent again. */
  #settle(ticket: Ticket, node: string, fate: Fate): Answer | null {
    const { gates, metrics } = this.#o;
    switch (fate.kind) {
      case 'answered':
        gates.accepted(ticket);
        return fate.answer;
      case 'unknown':
        gates.lost(ticket);
        return unknownOutcome(fate.because);
      case 'not sent':
        metrics.retries.inc({ reason: 'unreachable' });
        gates.refused(ticket, { kind: 'unreachable', node });
        return null;
      case 'refused':
        metrics.retries.inc({ reason: fate.state });
        gates.refused(
          ticket,
          fate.state === 'fenced' ? { ...fate, kind: 'fenced', node } : { ...fate, kind: 'not-owner', node },
        );
        return null;
    }
  }

  async #deliverSplit(
    part: Part,
    partitions: readonly PartitionIndex[],
    ticket: Ticket,
    ring: Ring,
    client: Client,
  ): Promise<Answer> {
    const { gates, metrics } = this.#o;
    const parts = split(part, partitions, ring);
    metrics.splits.inc();
    const tickets = gates.replace(
      ticket,
      parts.map(({ part: piece, partitions: own }) => ticketFacts(piece, own)),
    );
    const answers = await Promise.all(
      parts.map((piece, nth) => this.#deliver(piece.part, piece.partitions, tickets[nth]!, client, null)),
    );
    return combine(
      answers,
      parts.map((piece) => piece.part),
    );
  }

  #nodeOf(ring: Ring, node: string): NodeFacts {
    if (this.#nodesOf?.ring !== ring)
      this.#nodesOf = { ring, byId: new Map(ring.nodes.map((facts) => [facts.node, facts])) };
    return this.#nodesOf.byId.get(node)!; // R1: an owner is a member
  }
}

function ticketFacts(
  part: Part,
  partitions: readonly PartitionIndex[],
): Pick<Ticket, 'bytes' | 'partitions' | 'users'> {
  const bytes = part.request.body?.length ?? 0;
  if (part.users.length === 1) return { bytes, partitions, users: part.users };
  return { bytes, partitions: [...new Set(partitions)], users: [...new Set(part.users)] };
}

/** One part for each owner. Events keep their text and order; those without a messageId get one, so that a part can be known again. */
function split(
  part: Part,
  partitions: readonly PartitionIndex[],
  ring: Ring,
): { part: Part; partitions: PartitionIndex[] }[] {
  const batch = cutBatch(part.text ?? utf8Of(part.request.body!));
  const byOwner = new Map<string, number[]>();
  partitions.forEach((partition, nth) => {
    const owner = ring.owners[partition]!;
    const own = byOwner.get(owner);
    if (own) own.push(nth);
    else byOwner.set(owner, [nth]);
  });
  const headers = part.request.headers.replace(/^content-encoding:.*\r\n/im, ''); // parts are sent as plain JSON
  return [...byOwner.values()].map((nths) => ({
    part: {
      request: { ...part.request, headers, body: bodyOf(batch, nths) },
      users: nths.map((nth) => part.users[nth]!),
      indexes: nths.map((nth) => part.indexes[nth]!),
      text: null,
    },
    partitions: nths.map((nth) => partitions[nth]!),
  }));
}

function bodyOf(batch: BatchText, nths: readonly number[]): Buffer {
  const events = nths.map((nth) => withMessageId(batch.events[nth]!, randomUUID));
  return Buffer.from(joinBatch(batch, events), 'utf8');
}

/** One answer of several: 2xx if all are, a common error as it is, else which events met what. */
function combine(answers: readonly Answer[], parts: readonly Part[]): Answer {
  const failed = answers.filter((answer) => !isOk(answer.status));
  if (failed.length === 0) return answers[0]!;
  if (failed.length === answers.length && failed.every((answer) => answer.status === failed[0]!.status))
    return failed[0]!;
  // The worst first: an unknown outcome, then what may be sent again, then refusals.
  const rank = (status: number): number => (status === 502 ? 4 : status === 503 ? 3 : status >= 500 ? 2 : 1);
  const worst = failed.reduce((a, b) => (rank(b.status) > rank(a.status) ? b : a));
  const told = answers.map((answer, nth) => ({ events: parts[nth]!.indexes, status: answer.status }));
  const retryAfter = worst.headers['retry-after'];
  return jsonAnswer(
    worst.status,
    { error: 'PARTLY_STORED', message: 'some events were not stored: send the batch again', parts: told },
    retryAfter === undefined ? {} : { 'retry-after': retryAfter },
  );
}

/** A refusal that names partitions, and none that we have sent. */
function isAboutOthers(fate: Fate, ticket: Ticket): boolean {
  return (
    fate.kind === 'refused' &&
    fate.partitions.length > 0 &&
    !fate.partitions.some((partition) => ticket.partitions.includes(partition))
  );
}

const isOk = (status: number): boolean => status >= 200 && status < 300;

/** Nobody reads it. */
const gone: Answer = { status: 499, headers: {}, body: Buffer.alloc(0) };

export function jsonAnswer(status: number, body: unknown, headers: AnswerHeaders = {}): Answer {
  return {
    status,
    headers: { 'content-type': 'application/json', ...headers },
    body: Buffer.from(`${JSON.stringify(body)}\n`),
  };
}

/** Nothing was stored: the client may send it again. */
export function unavailable(error: string, message: string): Answer {
  return jsonAnswer(503, { error, message }, { 'retry-after': '1' });
}

function unknownOutcome(because: string): Answer {
  return jsonAnswer(502, {
    error: 'OUTCOME_UNKNOWN',
    message: `the node gave no answer, it may have stored the events: ${because}`,
  });
}
