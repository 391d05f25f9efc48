/** How a state of the model lies in its bytes. */

export const nodeNames: readonly ('a' | 'b')[] = ['a', 'b'];
export const NODES = 2;
export const PARTITIONS = 2;
export const EVENTS = 3;
export const SLOTS = 3;

// Where what stands in a state.
export const LOG = 0; // 2 bytes
export const CRASHES = 2;
export const ZOMBIES = 3;
export const STARTS = 4;
/** Of a node: how far it has folded (0: nothing since its start), its open intake (partition + 1), and of each partition state and move, and token. */
export const NODE = 6;
export const NODE_BYTES = 2 + 2 * PARTITIONS;
export const FOLDED = 0;
export const INTAKE = 1;
export const ROW = 2; // state | move << 2
/** Of an event: its job's levels at a and b, and what has become of it. */
export const EVENT = NODE + NODES * NODE_BYTES;
export const LEVELS = 0; // a | b << 3
export const FLAGS = 1;
/** Of a partition: the copy that is not attached yet, at its move's target. */
export const COPY = EVENT + 2 * EVENTS;
export const COPY_MOVE = 0;
export const COPY_TOKEN = 1;
export const COPY_PASS = 2;
/** Of an event: its row in that copy, and the level that the ledger has. */
export const ROWS = COPY + 3 * PARTITIONS;
export const COPIED = 0; // level | twice << 3 | pass << 4
export const LEDGER = 1;
/** Of an attempt: one for each move, and the zombie. */
export const ATTEMPT = ROWS + 2 * EVENTS;
export const ATTEMPT_BYTES = 3 + EVENTS;
export const PC = 0; // where it stands | last pass << 4
export const MOVE = 1;
export const CLAIM = 2;
export const SEEN = 3; // of each event: level at the last mark | level at the mark of the pass under way << 3
export const BYTES = ATTEMPT + SLOTS * ATTEMPT_BYTES;
export const STATE_BYTES = Math.ceil(BYTES / 4) * 4;
export const ZOMBIE = SLOTS - 1;

// States of a partition at a node.
export const CLOSED = 0;
export const OPEN = 1;
export const PAUSED = 2;
export const FENCED = 3;

// How far a job has got; its last status.
export const NONE = 0;
export const STORED = 1;
export const PROCESSED = 2;
export const EXECUTING = 3;
export const DONE = 4;
export const MIGRATED = 5;
/** In a ledger only: the mark lies above the job, which was not visible yet when it was read. In the first pass; in a later one. */
export const MISSED_FIRST = 6;
export const MISSED_LATER = 7;

// Flags of an event.
export const ACCEPTED = 1;
export const DELIVERED = 2;
export const CREDIT = 4; // 2 bits
export const CREDITS = 12;
export const IN_FLIGHT = 16; // 2 bits: node + 1
export const TWICE = 64; // 2 bits: at a, at b

// Where an attempt stands.
export const IDLE = 0;
export const CLAIMED = 1;
export const PREPARED = 2;
export const COPYING = 3;
export const COPIED_MOST = 4;
export const QUIESCING = 5;
export const QUIESCED = 6;
export const FENCE_STANDS = 7;
export const COPYING_REST = 8;
export const VERIFIED = 9;

export const isPending = (level: number): boolean => level >= STORED && level <= EXECUTING;
export const nodeAt = (node: number): number => NODE + node * NODE_BYTES;
export const rowAt = (node: number, partition: number): number => NODE + node * NODE_BYTES + ROW + 2 * partition;
export const eventAt = (event: number): number => EVENT + 2 * event;
export const copyAt = (partition: number): number => COPY + 3 * partition;
export const rowsAt = (event: number): number => ROWS + 2 * event;
export const attemptAt = (slot: number): number => ATTEMPT + slot * ATTEMPT_BYTES;
export const stateOf = (state: Uint8Array, node: number, partition: number): number =>
  state[rowAt(node, partition)]! & 3;
export const levelOf = (state: Uint8Array, event: number, node: number): number =>
  (state[eventAt(event) + LEVELS]! >> (3 * node)) & 7;
export const inFlightAt = (state: Uint8Array, event: number): number =>
  ((state[eventAt(event) + FLAGS]! / IN_FLIGHT) & 3) - 1;
export function setLevel(state: Uint8Array, event: number, node: number, level: number): void {
  const at = eventAt(event) + LEVELS;
  state[at] = (state[at]! & ~(7 << (3 * node))) | (level << (3 * node));
}
export const logOf = (state: Uint8Array): number => state[LOG]! | (state[LOG + 1]! << 8);
export function setLog(state: Uint8Array, number: number): void {
  state[LOG] = number & 255;
  state[LOG + 1] = number >> 8;
}
