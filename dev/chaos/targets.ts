/** What chaos may hit: the parts of the stack, and the arrows of its network. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Arrow } from '../faults/network.ts';
import type { Part, PartBlow } from '../faults/parts.ts';
import type { ProxyMode } from '../faults/tcp-proxy.ts';
import type { Stack } from '../stack.ts';
import type { Target } from './injector.ts';
import type { ChaosBlow } from './plan.ts';

/** A tenth of a second there and back is a continent; this is a network in trouble, below every timeout of ours. */
const DELAY_MS = 400;
/** A status and a small command still come through within their timeouts, a copy does not get far. */
const BYTES_PER_SECOND = 20_000;

const modeOf = (blow: ChaosBlow): ProxyMode => {
  switch (blow) {
    case 'cut':
    case 'silent':
    case 'no answers':
      return blow;
    case 'delay':
      return { delayMs: DELAY_MS };
    case 'slow':
      return { bytesPerSecond: BYTES_PER_SECOND };
    default:
      throw new Error(`${blow} is nothing that a network does`);
  }
};

/** Those that are there now: of nodes, those that run, and the arrows to them. */
export async function listTargets({ parts, network }: Pick<Stack, 'parts' | 'network'>): Promise<Target[]> {
  const there = await parts.list();
  const nodes = new Set(there.map(({ node }) => node));
  const arrows = (network?.arrows() ?? []).filter(({ node }) => nodes.has(node)); // null is among them
  return [...there.map(ofPart), ...arrows.map(ofArrow)];
}

const ofPart = (part: Part): Target => ({
  kind: part.kind,
  name: part.name,
  node: part.node,
  near: part.node,
  hit: (blow, forMs) => part.hit(blow as PartBlow, forMs), // the plan has for each kind only what it knows
  state: () => part.state(),
});

/** No delivery travels on any of them, and no node writes results over one. */
const ofArrow = (arrow: Arrow): Target => ({
  kind: 'network',
  name: arrow.name,
  node: null,
  near: arrow.node,
  async hit(blow, forMs) {
    await arrow.set(modeOf(blow));
    return { back: sleep(forMs).then(() => arrow.set('pass')) };
  },
  state: async () => (arrow.mode === 'pass' ? 'well' : 'unwell'),
});
