/**
 * Says whether the promises were kept. Reads only what clients sent and what the receiver saw; knows nothing of nodes, routers or logs of ours.
 * Three verdicts: a request with no answer is neither lost nor delivered until the log resolves it.
 */

/** One event, as its client knows it. Times in milliseconds, all of one clock. */
export interface SentEvent {
  readonly messageId: string;
  readonly userKey: string;
  /** Order of the user's events at the client, from 0. */
  readonly seq: number;
  /** First attempt. */
  readonly sentAt: number;
  /** Answer to the last attempt; null: none was seen. */
  answeredAt: number | null;
  /** Status of the last attempt; null: none was seen. */
  status: number | null;
  attempts: number;
  /** Failed requests that its client saw. A request with several events is counted at its first event. Default: the attempts that failed. */
  failures?: number;
  /** Some attempt may have been stored without an answer that says so. Default: told from `status`. */
  inDoubt?: boolean;
}

/** One delivery, as the receiver saw it. */
export interface Delivery {
  readonly messageId: string;
  readonly userKey: string;
  /** The node that delivered, where it says so. */
  readonly node?: string | null;
  readonly startedAt: number;
  /** Null: the connection was gone before it was answered. */
  answeredAt: number | null;
  status: number | null;
}

/**
 * Whether a fault of this kind can make a delivery repeat: only what hits the node that delivers, or the database that would have written the result down.
 * Whatever else is killed, stopped or cut off delivers nothing: a duplicate after it is our fault, not its.
 */
const hitsDeliveries = {
  node: true,
  postgres: true,
  pod: true, // of either; `node` says whose, or null
  network: true, // only with a `node`: an arrow on which its deliveries, or their results, travel
  worker: false,
  router: false,
  temporal: false,
  ringstore: false,
} as const;

export type FaultKind = keyof typeof hitsDeliveries;

/** Something that was killed, stopped (SIGSTOP) or cut off, and when. */
export interface Fault {
  readonly kind: FaultKind;
  readonly at: number;
  /** What was hit, such as a node's or a pod's name. */
  readonly target: string;
  /** The node whose deliveries it hit, where `target` is another name; null: no node's. */
  readonly node?: string | null;
  /** When it served again: after a restart, after SIGCONT, with its connections back. Absent: not seen. */
  readonly restartedAt?: number | null;
}

export interface CheckInput {
  readonly sent: readonly SentEvent[];
  readonly received: readonly Delivery[];
  readonly faults: readonly Fault[];
  /** Whether deliveries were waited for to the end. If not, what is missing may still come. */
  readonly waitEnded: boolean;
}

export interface EventCounts {
  readonly sent: number;
  readonly acknowledged: number;
  readonly delivered: number;
  readonly lost: number;
  readonly duplicated: number;
  readonly duplicatedExplained: number;
  readonly reordered: number;
  readonly aborted: number;
  readonly unknown: number;
  readonly clientErrors: number;
  /** Delivered, and sent by nobody. */
  readonly unsent: number;
}

export type Verdict = 'valid' | 'invalid' | 'unknown';

/** What a fault explains. */
export interface ExplainedByFault {
  /** Duplicated events that have a delivery which it explains. */
  readonly events: number;
  /** How long before the fault the oldest of these deliveries had been answered; 0: none had. What is long ago was hardly in flight. Null without any. */
  readonly oldestMs: number | null;
}

export interface CheckResult {
  readonly verdict: Verdict;
  readonly events: EventCounts;
  /** For each fault, in the order of the input. */
  readonly explainedByFault: readonly ExplainedByFault[];
  /** The first few offenders of each kind. */
  readonly samples: {
    readonly lost: readonly string[];
    readonly duplicated: readonly string[];
    readonly reordered: readonly { readonly messageId: string; readonly deliveredBefore: string }[];
    readonly unknown: readonly string[];
    readonly unsent: readonly string[];
  };
}

/** A delivery that began this long before a fault may have been in flight at the fault. */
export const EXPLAINED_BEFORE_FAULT_MS = 5_000;
const samplesMax = 10;

export function checkDelivery(input: CheckInput): CheckResult {
  const fates = fatesOf(input.received);
  const sentIds = new Set(input.sent.map((event) => event.messageId));
  const delivered = (event: SentEvent): boolean => (fates.get(event.messageId)?.good.length ?? 0) > 0;
  const isAborted = (event: SentEvent): boolean => !delivered(event) && fates.get(event.messageId)?.aborted === true;

  const acknowledged = input.sent.filter(isAcknowledged);
  const missing = acknowledged.filter((event) => !delivered(event) && !isAborted(event));
  const lost = input.waitEnded ? missing : [];
  const unknown = [...unresolved(input.sent, delivered, isAborted), ...(input.waitEnded ? [] : missing)];
  const repeated = [...fates].filter(([, fate]) => fate.good.length > 1);
  const explained = repeated.filter(([, { good }]) =>
    good.slice(0, -1).every((earlier) => input.faults.some((fault) => explains(fault, earlier))),
  );
  const reordered = findReordered(acknowledged, fates);
  const unsent = [...fates.keys()].filter((messageId) => !sentIds.has(messageId));

  const events: EventCounts = {
    sent: sentIds.size,
    acknowledged: acknowledged.length,
    delivered: input.sent.filter(delivered).length,
    lost: lost.length,
    duplicated: repeated.length,
    duplicatedExplained: explained.length,
    reordered: reordered.length,
    aborted: input.sent.filter(isAborted).length,
    unknown: unknown.length,
    clientErrors: input.sent.reduce((sum, event) => sum + failuresOf(event), 0),
    unsent: unsent.length,
  };
  const explainedIds = new Set(explained.map(([messageId]) => messageId));
  return {
    verdict: verdictOf(events),
    events,
    explainedByFault: input.faults.map((fault) =>
      explainedBy(
        fault,
        explained.map(([, { good }]) => good.slice(0, -1)),
      ),
    ),
    samples: {
      lost: lost.slice(0, samplesMax).map((event) => event.messageId),
      duplicated: repeated
        .map(([messageId]) => messageId)
        .filter((id) => !explainedIds.has(id))
        .slice(0, samplesMax),
      reordered: reordered.slice(0, samplesMax),
      unknown: unknown.slice(0, samplesMax).map((event) => event.messageId),
      unsent: unsent.slice(0, samplesMax),
    },
  };
}

function verdictOf(events: EventCounts): Verdict {
  const broken = events.lost + events.reordered + events.unsent + (events.duplicated - events.duplicatedExplained);
  if (broken > 0) return 'invalid';
  return events.unknown > 0 || events.acknowledged === 0 ? 'unknown' : 'valid'; // nothing sent proves nothing
}

interface EventFate {
  /** Deliveries that were answered 2xx, by when they began. */
  readonly good: Delivery[];
  /** Answered with a refusal for good. */
  aborted: boolean;
}

function fatesOf(received: readonly Delivery[]): Map<string, EventFate> {
  const fates = new Map<string, EventFate>();
  for (const delivery of received) {
    if (delivery.answeredAt === null || delivery.status === null) continue;
    const fate = fates.get(delivery.messageId) ?? { good: [], aborted: false };
    fates.set(delivery.messageId, fate);
    if (isOk(delivery.status)) fate.good.push(delivery);
    else if (isRefusedForGood(delivery.status)) fate.aborted = true;
  }
  for (const { good } of fates.values()) good.sort((a, b) => a.startedAt - b.startedAt);
  return fates;
}

/** Events with no acknowledgement that may be stored, of which nothing that was delivered tells whether they are. */
function unresolved(
  sent: readonly SentEvent[],
  delivered: (event: SentEvent) => boolean,
  aborted: (event: SentEvent) => boolean,
): SentEvent[] {
  const lastDelivered = new Map<string, number>();
  for (const event of sent) {
    if (delivered(event)) lastDelivered.set(event.userKey, Math.max(event.seq, lastDelivered.get(event.userKey) ?? -1));
  }
  return sent.filter((event) => {
    if (isAcknowledged(event) || !isInDoubt(event) || delivered(event) || aborted(event)) return false;
    // A user's events are delivered in order: had it been stored, it would have come before that later one.
    return (lastDelivered.get(event.userKey) ?? -1) < event.seq;
  });
}

/** Events first delivered before one of the same user that was acknowledged earlier. Events of one request count in their order there. */
function findReordered(
  acknowledged: readonly SentEvent[],
  fates: ReadonlyMap<string, EventFate>,
): { messageId: string; deliveredBefore: string }[] {
  const found: { messageId: string; deliveredBefore: string }[] = [];
  const byUser = Map.groupBy(acknowledged, (event) => event.userKey);
  for (const events of byUser.values()) {
    let latest: { messageId: string; at: number } | null = null;
    for (const event of events.toSorted((a, b) => a.answeredAt! - b.answeredAt! || a.seq - b.seq)) {
      const first = fates.get(event.messageId)?.good[0];
      if (!first) continue;
      if (latest && first.startedAt < latest.at)
        found.push({ messageId: event.messageId, deliveredBefore: latest.messageId });
      else latest = { messageId: event.messageId, at: first.startedAt };
    }
  }
  return found;
}

/** Whether a delivery may have been in flight at the fault: then nobody can know that it succeeded, and it has to be repeated. */
function explains(fault: Fault, delivery: Delivery): boolean {
  const node = fault.node === undefined && fault.kind !== 'network' ? fault.target : (fault.node ?? null);
  if (!hitsDeliveries[fault.kind] || node === null) return false;
  if (delivery.node && delivery.node !== node) return false; // where the receiver was not told by whom, any node's fault may be it
  return (
    delivery.startedAt >= fault.at - EXPLAINED_BEFORE_FAULT_MS &&
    delivery.startedAt <= Math.max(fault.at, fault.restartedAt ?? fault.at)
  );
}

function explainedBy(fault: Fault, repeats: readonly (readonly Delivery[])[]): ExplainedByFault {
  const its = repeats
    .map((earlier) => earlier.filter((delivery) => explains(fault, delivery)))
    .filter(({ length }) => length > 0);
  const ages = its.flat().map(({ answeredAt }) => Math.max(0, fault.at - answeredAt!));
  return { events: its.length, oldestMs: ages.length === 0 ? null : Math.max(...ages) };
}

const isOk = (status: number): boolean => status >= 200 && status < 300;
const isRefusedForGood = (status: number): boolean => status >= 400 && status < 500 && status !== 408 && status !== 429;
const isAcknowledged = (event: SentEvent): boolean =>
  event.status !== null && event.answeredAt !== null && isOk(event.status);
/** A 5xx may stand for a batch of which a part was stored, or for a node that stored and then failed. */
const isInDoubt = (event: SentEvent): boolean => event.inDoubt ?? (event.status === null || event.status >= 500);
const failuresOf = (event: SentEvent): number => event.failures ?? event.attempts - (isAcknowledged(event) ? 1 : 0);
