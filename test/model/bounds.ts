/** Of what is explored: how much of everything there is, and which rules are taken out. */

/** Rules that can be taken out. Where the code has two guards for one rule, both are. */
export const bugs = [
  'no fence',
  'claim not in the log',
  'node ignores tokens',
  'node acts on an older fold',
  'state read from memory',
  'quiesce lost in a restart',
  'token not held until the commit',
  'target opened before the hand-over',
  'dead-man without the append',
  'prepare of an owned partition',
  'rows that commit late are missed',
  'rows that commit late are missed after the first pass',
  'hand-over though the sets differ',
  'no dead-man',
  'copy of an aborted move is kept',
  'overtaken write waited for',
] as const;
export type Bug = (typeof bugs)[number];

export interface Bounds {
  /** Each goes from one node to the other; the ring begins with partition 0 at `a`, and partition 1 where `owners` says. */
  readonly moves: readonly { readonly partition: number; readonly from: Node; readonly to: Node }[];
  readonly owners: readonly Node[];
  /** Partition of each event; all events of a partition are of one user. Numbered in the order in which they are stored. */
  readonly events: readonly number[];
  /** Restarts of nodes and deaths of workers, in all. */
  readonly crashes: number;
  /** Attempts that are given up while they still run. */
  readonly zombies: number;
  /** Starts of moves, in all. */
  readonly starts: number;
  /** Moves run one after the other (one at a node, the default), or all at once. */
  readonly parallel: boolean;
  /** Steps as small as they are in the code. */
  readonly fine: boolean;
}

export type Node = 'a' | 'b';
