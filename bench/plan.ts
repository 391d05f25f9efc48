/** The planner alone: a balanced ring that gets one node more, median of several rounds. */
import { decide } from '../ring/decide.ts';
import { nodeNames, planMoves } from '../ring/plan.ts';
import { evolve, noRing, partitionsOf, type Ring } from '../ring/ring.ts';

const ROUNDS = 7;

export interface PlanReport {
  readonly partitions: number;
  readonly nodes: number;
  readonly rounds: number;
  /** Median of the rounds. */
  readonly ms: number;
  readonly moves: number;
  readonly moved: number;
  /** What must move at least: the joining node's share. */
  readonly minimum: number;
  /** Largest minus smallest share afterwards. */
  readonly spread: number;
}

export function benchPlan(partitions: number, nodes: number): PlanReport {
  if (nodes + 1 > partitions) throw new Error(`${partitions} partitions cannot be shared by ${nodes + 1} nodes`);
  const facts = nodeNames(nodes).map((node) => ({ node, databaseId: node, url: `http://${node}` }));
  const ring = decide(noRing('bench'), {
    type: 'make ring',
    clusterId: 'bench',
    partitionCount: partitions,
    nodes: facts,
  }).reduce(evolve, noRing('bench'));
  const after = nodeNames(nodes + 1);
  const times: number[] = [];
  let plan = planMoves(ring, after);
  for (let round = 0; round < ROUNDS; round += 1) {
    const startedAt = performance.now();
    plan = planMoves(ring, after);
    times.push(performance.now() - startedAt);
  }
  const owners = [...ring.owners];
  for (const move of plan.moves) for (const partition of move.partitions) owners[partition] = move.to;
  const moved: Ring = { ...ring, owners };
  const shares = after.map((node) => partitionsOf(moved, node).length);
  return {
    partitions,
    nodes,
    rounds: ROUNDS,
    ms: Math.round(times.sort((a, b) => a - b)[Math.floor(ROUNDS / 2)]! * 10) / 10,
    moves: plan.moves.length,
    moved: plan.partitionsMoved,
    // A balanced ring: only the new node lacks anything, and it needs no more than the smaller share.
    minimum: Math.floor(partitions / (nodes + 1)),
    spread: Math.max(...shares) - Math.min(...shares),
  };
}
