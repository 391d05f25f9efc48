/** The ring for the operator: as the store has it at this moment, or the last known with the trouble. */
import { CodedError, codeOf, describeError } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import type { Ring } from '../ring/ring.ts';
import type { RingStore } from '../ringstore/ringstore.ts';
import { followRing, type RingView } from '../ringstore/view.ts';
import type { Trouble } from './decide.ts';

/** The view hears of an append within milliseconds, and polls behind that: longer means that it does not follow. */
const CATCH_UP_MS = 5_000;

export interface LatestRing {
  /** Null: none has been made. */
  readonly ring: Ring | null;
  /** Why it may be old. */
  readonly trouble: Trouble | null;
}

export interface RingSource {
  /** Whoever appended before this call sees it in the answer, unless there is trouble. Never rejects. */
  latest(): Promise<LatestRing>;
  onChange(listener: () => void): () => void;
  close(): Promise<void>;
}

/** `prepare` makes the store's tables where they are missing; tried until it works. The store itself stays the caller's. */
export function createRingSource(options: {
  readonly store: RingStore;
  readonly clusterId: string;
  readonly log: Logger;
  readonly prepare?: () => Promise<void>;
}): RingSource {
  const { store, clusterId, log, prepare } = options;
  const view = followRing(store, clusterId, { log });
  let prepared = prepare === undefined;

  async function catchUp(): Promise<Ring> {
    if (!prepared) {
      await prepare?.();
      prepared = true;
    }
    // The view follows, and refuses another history (RING_STORE_BEHIND); the read only says how far it must have come.
    const last = (await store.read(clusterId, view.ring.version)).at(-1);
    if (last) await view.waitFor(({ version }) => version >= last.version, { deadlineMs: CATCH_UP_MS });
    if (view.trouble) throw view.trouble;
    return view.ring;
  }

  return {
    async latest() {
      try {
        const ring = await catchUp();
        return { ring: existing(ring), trouble: ring.notUnderstood.length > 0 ? tooNew(ring) : null };
      } catch (error) {
        return { ring: existing(view.ring), trouble: troubleOf(error) };
      }
    },
    onChange: (listener) => view.onChange(listener),
    close: () => view.close(),
  };
}

const existing = (ring: RingView['ring']): Ring | null => (ring.version === 0 ? null : ring);

const tooNew = ({ clusterId, notUnderstood }: Ring): Trouble => ({
  code: 'RING_TOO_NEW',
  message: `the log of ${clusterId} has events of a newer version (${notUnderstood.join(', ')}): upgrade the operator`,
});

/** Weather of the network and of PostgreSQL has one name for people; what the ring store itself says keeps its own. */
function troubleOf(error: unknown): Trouble {
  const code = codeOf(error);
  if (error instanceof CodedError && code) return { code, message: error.message };
  return { code: 'RING_STORE_UNREACHABLE', message: `the ring store cannot be read (${describeError(error)})` };
}
