/** How far one watcher has read a log, and whether what it reads now continues what it has seen. */
import { CodedError } from '../kit/errors.ts';
import type { RecordedEvent } from '../ring/events.ts';
import { assertLink, GENESIS_HASH } from './chain.ts';

/**
 * Holds: what `accept` has returned is one chain without gaps. Each read starts *at* the last event seen, not behind it: only so a store that came back
 * from an older backup, with less or with another event at that place, is noticed before its other history is followed.
 */
export class LogCursor {
  readonly #clusterId: string;
  #version: number;
  /** Of the event at `#version`; null where the caller knew only the version: then the first read tells it. */
  #hash: string | null;

  constructor(clusterId: string, version: number, hash: string | null) {
    this.#clusterId = clusterId;
    this.#version = version;
    this.#hash = version === 0 ? GENESIS_HASH : hash;
  }

  /** The `afterVersion` of the next read. */
  get readAfter(): number {
    return Math.max(0, this.#version - 1);
  }

  /**
   * The events among `rows` that are new. Throws RING_STORE_BEHIND where the store holds less than was seen, or something else at the same version,
   * and RING_LOG_BROKEN where the rows are no chain; the cursor then stays where it is.
   */
  accept(rows: readonly RecordedEvent[]): RecordedEvent[] {
    const fresh = this.#version === 0 ? [...rows] : this.#behindTheLastSeen(rows);
    let before = { version: this.#version, hash: this.#version === 0 ? GENESIS_HASH : (this.#hash ?? rows[0]!.hash) };
    for (const recorded of fresh) {
      assertLink(recorded, before);
      before = recorded;
    }
    this.#version = before.version;
    this.#hash = before.hash;
    return fresh;
  }

  #behindTheLastSeen(rows: readonly RecordedEvent[]): RecordedEvent[] {
    const [last, ...fresh] = rows;
    if (last?.version !== this.#version) {
      throw storeBehind(this.#clusterId, this.#version, 'nothing');
    }
    if (this.#hash !== null && last.hash !== this.#hash) {
      throw storeBehind(this.#clusterId, this.#version, 'another event');
    }
    return fresh;
  }
}

/** The store came back from an older backup, or is another one. */
export function storeBehind(clusterId: string, seenVersion: number, holds: 'nothing' | 'another event'): CodedError {
  const what = `it holds ${holds} at version ${seenVersion}, which was seen before`;
  return new CodedError('RING_STORE_BEHIND', `log of ${clusterId}: ${what}; not followed`, { clusterId, seenVersion });
}
