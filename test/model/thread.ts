/**
 * Explores in a thread of Node's own. Inside of a test's module runner each constant that is imported is read through an accessor, and in these loops that takes three times
 * as long.
 */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { Bounds, Bug } from './bounds.ts';
import type { Comparison } from './compare.ts';
import type { Exploration } from './explore.ts';

export type Question =
  | { readonly what: 'explore'; readonly bounds: Bounds; readonly bugs: readonly Bug[]; readonly statesMax: number }
  | { readonly what: 'compare'; readonly bounds: Bounds };

/** Throws where it needs more than `statesMax` states. */
export const exploreInThread = (bounds: Bounds, statesMax: number, bugs: readonly Bug[] = []): Promise<Exploration> =>
  ask<Exploration>({ what: 'explore', bounds, bugs, statesMax });

export const compareInThread = (bounds: Bounds): Promise<Comparison> => ask<Comparison>({ what: 'compare', bounds });

async function ask<T>(question: Question): Promise<T> {
  const thread = new Worker(new URL('./thread-main.ts', import.meta.url), { workerData: question });
  try {
    const [answer] = (await once(thread, 'message')) as [T]; // rejects with what the thread throws
    return answer;
  } finally {
    await thread.terminate();
  }
}
