/** What Temporal's own page shows of a running operation: a few lines of markdown. */
import { formatPartitions } from '../ring/partition.ts';
import type { MoveProgress, OperationProgress } from './messages.ts';

const MOVES_SHOWN = 8; // the page is for a glance; the whole list is in the query `progress`

export function detailsOf(progress: OperationProgress): string {
  const { moves, blockedOn, nextAction } = progress;
  const done = moves.filter((move) => move.state === 'done').length;
  const busy = moves.filter((move) => move.state !== 'done' && (move.state !== 'waiting' || move.lastAbort));
  return [
    `**${progress.clusterId}: ${progress.from || '?'} → ${progress.to} nodes**, ${progress.state}${progress.phase ? ` (${progress.phase})` : ''}`,
    '',
    '| | done | of |',
    '|---|---|---|',
    `| moves | ${done} | ${moves.length} |`,
    `| partitions | ${progress.partitionsMoved} | ${progress.partitionsToMove} |`,
    `| pending jobs moved | ${progress.jobsMoved} | |`,
    '',
    ...busy.slice(0, MOVES_SHOWN).map(lineOf),
    ...(blockedOn
      ? [
          '',
          `**Blocked on ${blockedOn.code}** since ${blockedOn.since}${blockedOn.move ? `, move ${blockedOn.move}` : ''}: ${blockedOn.message}`,
        ]
      : []),
    ...(nextAction ? ['', `Next: \`${nextAction}\``] : []),
    ...progress.notes.map((note) => `- ${note}`),
  ].join('\n');
}

function lineOf({ n, from, to, partitions, state, lastAbort }: MoveProgress): string {
  return `- move ${n}: partitions ${formatPartitions(partitions)} from ${from} to ${to}, ${state}${lastAbort ? `; ${lastAbort}` : ''}`;
}
