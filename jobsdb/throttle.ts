/**
 * How fast a copy may go: asked as its rows stream. Pure of databases and of Temporal; who copies calls `take`, who watches the nodes sets the pace.
 */

export interface Throttle {
  /**
   * Called before `bytes` go on from the source to the target, every some 64 kB. Undefined: go on at once; else wait for it. It rejects with the signal's
   * reason as soon as the copy is aborted.
   */
  take(bytes: number): Promise<void> | undefined;
  /** How many streams may run just now: to be looked at before each chunk, as it changes while a copy runs. At least 1. */
  readonly lanes: number;
}
