/** Plans, clusters and operations as lines for people. */

import type { LimitName } from '../../ring/limits.ts';
import { formatPartitions } from '../../ring/partition.ts';
import type { MovePlan } from '../../ring/plan.ts';
import type { Loss } from '../../ring/ring.ts';
import type { Goal } from '../../workflows/messages.ts';
import type {
  ClusterAnswer,
  LimitAnswer,
  LimitsAnswer,
  OperationSummary,
  ProgressAnswer,
  RingAnswer,
} from '../api-types.ts';
import type { Terminal } from './terminal.ts';
import { ago, duration, plain, plural, rate, shortId, table } from './text.ts';

export function planLines(plan: MovePlan, terminal: Terminal): string[] {
  const { nodesBefore, nodesAfter, added, removed, moves } = plan;
  const head = `${terminal.bold(plan.clusterId)}: from ${nodesBefore.length} to ${plural(nodesAfter.length, 'node')}, at epoch ${plan.epoch}`;
  const changes = [
    ...(added.length > 0 ? [`  added:    ${added.join(', ')}`] : []),
    ...(removed.length > 0 ? [`  removed:  ${removed.join(', ')}`] : []),
    ...(plan.forgets ? [`  forgotten: ${plan.forgets}, with all that it holds`] : []),
    ...(plan.drains ? [`  drained:  ${plan.drains.join(', ')}`] : []),
    ...(plan.activates ? [`  activated: ${plan.activates.join(', ')}`] : []),
    `  moves:    ${plural(plan.partitionsMoved, 'partition')} in ${plural(moves.length, 'move')}`,
  ];
  const rows = moves.map((move) => [move.n, move.from, move.to, formatPartitions(move.partitions), move.because]);
  const list = moves.length > 0 ? ['', ...table(['MOVE', 'FROM', 'TO', 'PARTITIONS', 'BECAUSE'], rows)] : [];
  return [head, ...changes, ...list, '', `plan hash: ${plan.hash}`];
}

/** Routers and how old their rings are; one that has not heard from the ring store for a while says so. */
export function routerLines(routers: ClusterAnswer['routers'] | undefined): string[] {
  if (!routers) return routers === null ? ['which routers there are is not known: the ring store cannot be asked'] : [];
  if (routers.length === 0) return ['no router has told the ring store that it is there'];
  const rows = routers.map(({ router, worker, url, version, behind, ringAgeMs, confirmedMsAgo, upMs, build }) => [
    worker === null ? router : `${router} (worker ${worker})`,
    behind > 0 ? `${version} (${behind} behind)` : `${version}`,
    duration(ringAgeMs),
    confirmedMsAgo === null ? 'not since its start' : `${duration(confirmedMsAgo)} ago`,
    duration(upMs),
    build ?? '',
    url,
  ]);
  return table(['ROUTER', 'RING', 'HAS IT FOR', 'CONFIRMED', 'UP', 'BUILD', 'URL'], rows);
}

export function clusterLines(cluster: ClusterAnswer, terminal: Terminal): string[] {
  const { freeze } = cluster;
  const held = freeze ? `frozen by operation ${shortId(freeze.operationId)}` : 'not frozen';
  const head = `${terminal.bold(cluster.clusterId)}: ${plural(cluster.nodes.length, 'node')}, ${plural(cluster.partitionCount, 'partition')}, epoch ${cluster.epoch}, version ${cluster.version}, ${held}`;
  const rows = cluster.nodes.map(({ node, partitions, url, drained }) => [
    node,
    partitions,
    drained ? `${url} (drained)` : url,
  ]);
  const moves = cluster.openMoves.map(({ move, state, from, to, partitions }) =>
    plain(`  ${move.split('/').at(-1)} ${state}: partitions ${formatPartitions(partitions)} from ${from} to ${to}`),
  );
  return [
    head,
    ...table(['NODE', 'PARTITIONS', 'URL'], rows),
    ...(moves.length > 0 ? ['open moves:', ...moves] : []),
    ...routerLines(cluster.routers),
    ...lossLines(cluster.losses ?? []),
    ...(cluster.ringTrouble ? [`the ring may be old: ${plain(cluster.ringTrouble)}`] : []),
    ...(cluster.notUnderstood
      ? [
          `the log has events of a newer version (${plain(cluster.notUnderstood.join(', '))}): nothing is changed before all of Ringmaster is upgraded`,
        ]
      : []),
    ...(cluster.temporal === 'unreachable' ? ['Temporal cannot be reached: what operations do is not known'] : []),
  ];
}

/** What somebody has accepted to be lost or different: told as long as the log is. */
export function lossLines(losses: readonly Loss[]): string[] {
  return losses.map(({ version, by, reason, what }) =>
    plain(`  accepted by ${by} at version ${version} (${reason}): ${what}`),
  );
}

export function ringLines(ring: RingAnswer, terminal: Terminal, now: number): string[] {
  const when = ring.at ? `, ${ago(ring.at, now)}` : '';
  const held = ring.freeze ? `, frozen by operation ${shortId(ring.freeze.operationId)}` : '';
  const rows = ring.nodes.map(({ node, partitions, owns }) => [node, partitions, formatPartitions(owns)]);
  const head = `${terminal.bold(ring.clusterId)} at version ${ring.version}${when}: epoch ${ring.epoch}${held}`;
  return [head, ...table(['NODE', 'COUNT', 'PARTITIONS'], rows)];
}

export function operationsLines(operations: readonly OperationSummary[], now: number): string[] {
  if (operations.length === 0) return ['no operations yet'];
  const rows = operations.map((operation) => [
    shortId(operation.operationId),
    operation.blockedOn ? `${operation.state} on ${operation.blockedOn}` : operation.state,
    operation.targetNodes === null ? '' : String(operation.targetNodes),
    ago(operation.startedAt, now),
    took(operation),
    operation.actor ?? '',
    operation.reason ?? '',
  ]);
  return table(['OPERATION', 'STATE', 'NODES', 'STARTED', 'TOOK', 'BY', 'REASON'], rows);
}

const took = ({ startedAt, endedAt }: { startedAt: string; endedAt: string | null }): string =>
  endedAt === null ? '' : duration(Date.parse(endedAt) - Date.parse(startedAt));

export function progressLines(progress: ProgressAnswer, terminal: Terminal, now: number): string[] {
  const { state, phase, from, to, partitionsToMove } = progress;
  const when = progress.endedAt ? `ended ${ago(progress.endedAt, now)}` : `started ${ago(progress.startedAt, now)}`;
  const size =
    progress.goal && progress.goal.kind !== 'scale'
      ? goalText(progress.goal)
      : from > 0
        ? `${from} → ${to} nodes`
        : `to ${plural(to, 'node')}`;
  const doing = phase && progress.endedAt === null ? `, ${phase}` : '';
  const reason = progress.reason ? ` (${plain(progress.reason)})` : '';
  return [
    `operation ${terminal.bold(shortId(progress.operationId))}: ${size}, ${terminal.state(state)}${doing}, ${when}${reason}`,
    ...(partitionsToMove > 0
      ? [
          `  ${progress.partitionsMoved} of ${plural(partitionsToMove, 'partition')} moved, ${plural(progress.jobsMoved, 'job')}`,
        ]
      : []),
    ...progress.moves.flatMap(copyLines),
    ...progress.notes.map((note) => `  ${plain(note)}`),
    ...attention(progress),
  ];
}

const goalText = (goal: Exclude<Goal, { kind: 'scale' }>): string =>
  goal.kind === 'forget'
    ? `${plain(goal.node)} is forgotten`
    : goal.kind === 'drain'
      ? `drain of ${plain(goal.node)}`
      : `undo of ${shortId(goal.operation)}`;

/** Of a move whose copy runs. */
function copyLines({ n, from, to, copy }: ProgressAnswer['moves'][number]): string[] {
  if (!copy) return [];
  const atMost = copy.bytesPerSecond === null ? '' : `, ${rate(copy.bytesPerSecond)} at most`;
  const throttled = copy.throttledBy === null ? '' : `, throttled by ${plain(copy.throttledBy)}${atMost}`;
  return [`  move ${n} from ${from} to ${to}: copying, ${plural(copy.jobsCopied, 'job')} so far${throttled}`];
}

/** How it ended, for who has waited. */
export function endLines(progress: ProgressAnswer, terminal: Terminal): string[] {
  const { operationId, state, partitionsMoved, jobsMoved } = progress;
  const time = took(progress);
  const phases = Object.entries(progress.phasesMs).map(([phase, ms]) => `${phase} ${duration(ms)}`);
  return [
    `operation ${shortId(operationId)}: ${terminal.state(state)}${time ? ` after ${time}` : ''}, ${plural(partitionsMoved, 'partition')} and ${plural(jobsMoved, 'job')} moved`,
    ...(phases.length > 0 ? [`  ${phases.join(', ')}`] : []),
    ...attention(progress),
  ];
}

function attention({ blockedOn, nextAction }: ProgressAnswer): string[] {
  return [
    ...(blockedOn
      ? [
          `  blocked on ${blockedOn.code}${blockedOn.threshold ? ` after ${blockedOn.threshold}` : ''}: ${plain(blockedOn.message)} (${blockedOn.phase})`,
        ]
      : []),
    ...(nextAction ? [`  next: ${plain(nextAction)}`] : []),
  ];
}

/** Each limit as it is called on the command line, and its unit. */
const LIMITS: Readonly<Record<LimitName, readonly [name: string, shown: (value: LimitAnswer['value']) => string]>> = {
  bytesPerSecond: ['bytes-per-second', (value) => (value === null ? 'none' : rate(Number(value)))],
  brake: ['brake', String],
  commitMsMax: ['commit-ms', (value) => `${value} ms`],
  queueDelayMsMax: ['queue-delay-ms', (value) => `${value} ms`],
  movesPerNode: ['moves-per-node', String],
};

export function limitsLines({ clusterId, limits }: LimitsAnswer, terminal: Terminal, now: number): string[] {
  const rows = (Object.keys(LIMITS) as LimitName[]).map((name) => {
    const { value, set }: LimitAnswer = limits[name];
    const [called, shown] = LIMITS[name];
    const why = set?.reason ? `: ${set.reason}` : '';
    return [called, shown(value), set ? `set by ${set.by} ${ago(set.at, now)}${why}` : 'default'];
  });
  return [`limits of the moves of ${terminal.bold(clusterId)}`, ...table(['LIMIT', 'VALUE', ''], rows)];
}
