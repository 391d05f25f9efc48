/** Whether whole steps reach every state that fine ones do: the argument for them (protocol.ts), checked where both can be explored. */

import type { Bounds } from './bounds.ts';
import { explore } from './explore.ts';
import { Protocol } from './protocol.ts';

export interface Comparison {
  readonly wholeStates: number;
  readonly fineStates: number;
  /** States of fine steps, outside of transactions, which whole ones do not reach: as people read them. At most a few. */
  readonly missed: readonly string[];
}

const MISSED_MAX = 5;

export function compareSteps(bounds: Bounds): Comparison {
  const reached = new Set<string>();
  const whole = new Protocol({ ...bounds, fine: false });
  const wholeOnes = explore(whole, {
    onState: (state) => {
      const text = whole.whole(state);
      if (text !== null) reached.add(text);
    },
  });
  const fine = new Protocol({ ...bounds, fine: true }, [], false);
  const known = new Set<string>();
  const missed: string[] = [];
  const fineOnes = explore(fine, {
    onState: (state) => {
      const text = fine.whole(state);
      if (text === null || known.has(text)) return;
      known.add(text);
      if (!reached.has(text) && missed.length < MISSED_MAX) missed.push(fine.draw(state));
    },
  });
  for (const { counterexample } of [wholeOnes, fineOnes])
    if (counterexample) throw new Error(`${counterexample.broken}\n${counterexample.trace.join('\n')}`);
  return { wholeStates: wholeOnes.states, fineStates: fineOnes.states, missed };
}
