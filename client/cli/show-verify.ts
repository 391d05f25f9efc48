/** Certificates and verifications as lines for people. Never a payload. */

import { formatPartitions } from '../../ring/partition.ts';
import type { CertificatesAnswer, CertifiedMove, VerificationAnswer } from '../api-types.ts';
import { lossLines } from './show.ts';
import type { Terminal } from './terminal.ts';
import { count, duration, plain, plural, shortId, table } from './text.ts';

/** `<operationId>/move-3.1` without the long part. */
const shortMove = (move: string): string => move.split('/').at(-1) ?? move;
/** The first digits: enough to compare two by eye; `--json` has them whole. */
const shortSum = (sum: string): string => (sum.length > 12 ? `${sum.slice(0, 12)}…` : sum);

export function certificateLines(answer: CertificatesAnswer, terminal: Terminal, verbose: boolean): string[] {
  const { operation, moves } = answer;
  const handed = moves.filter(({ handedOver }) => handedOver !== null);
  const certified = handed.filter(({ certificate }) => certificate !== null);
  const jobs = certified.reduce((sum, { certificate }) => sum + certificate!.jobs, 0);
  const head = `operation ${terminal.bold(shortId(operation))}: ${certified.length} of ${plural(handed.length, 'move')} that were handed over certified, ${plural(jobs, 'job')}`;
  const rows = certified.map((move) => [
    shortMove(move.move),
    move.from,
    move.to,
    formatPartitions(move.partitions),
    move.certificate!.epoch,
    ...['gw', 'rt', 'batch_rt'].map((prefix) => jobsOf(move, prefix)),
    move.handedOver!.at,
    plain(move.certificate!.askedBy.actor),
  ]);
  const titles = ['MOVE', 'FROM', 'TO', 'PARTITIONS', 'EPOCH', 'GW', 'RT', 'BATCH_RT', 'HANDED OVER', 'ASKED BY'];
  return [
    head,
    ...(rows.length > 0 ? table(titles, rows) : []),
    ...(verbose ? certified.flatMap(partitionLines) : []),
    ...moves.flatMap((move) => {
      if (move.uncertifiedBecause)
        return [`${shortMove(move.move)} has no certificate: ${plain(move.uncertifiedBecause)}`];
      return move.state === 'aborted' ? [`${shortMove(move.move)} was aborted: ${plain(move.because ?? '')}`] : [];
    }),
  ];
}

const jobsOf = ({ certificate }: CertifiedMove, prefix: string): number =>
  certificate?.tables.find((other) => other.prefix === prefix)?.jobs ?? 0;

function partitionLines({ move, certificate }: CertifiedMove): string[] {
  const rows = certificate!.tables.flatMap(({ prefix, partitions }) =>
    partitions.map(([partition, jobs, digest, order, first, last, firstThere, lastThere]) => [
      prefix,
      String(partition),
      jobs,
      shortSum(digest),
      shortSum(order),
      `${first}–${last}`,
      `${firstThere}–${lastThere}`,
    ]),
  );
  const titles = ['PREFIX', 'PARTITION', 'JOBS', 'CONTENT', 'ORDER', 'IDS AT SOURCE', 'IDS AT TARGET'];
  return rows.length > 0 ? ['', `${shortMove(move)}:`, ...table(titles, rows)] : ['', `${shortMove(move)}: no jobs`];
}

export function verificationLines(progress: VerificationAnswer, terminal: Terminal): string[] {
  const { state, verdict, full, clusterId, because, startedAt, endedAt } = progress;
  const took = endedAt ? ` after ${duration(Date.parse(endedAt) - Date.parse(startedAt))}` : '';
  const title: Record<string, string> = {
    verified: 'as it should be',
    incomplete: 'nothing differs of what could be compared; not all could be',
    differs: 'not as it should be',
  };
  const said = verdict === null ? `${state}${because ? `: ${plain(because)}` : ''}` : title[verdict]!;
  return [
    `${terminal.bold(clusterId)}: ${said}${full ? took : ''}`,
    ...clusterLines(progress),
    ...(full ? comparisonLines(progress) : []),
    ...(state === 'stopped' || state === 'failed' ? ['  go on:  ringmaster verify --full --resume'] : []),
  ];
}

function clusterLines({ cluster }: VerificationAnswer): string[] {
  if (!cluster) return [];
  const { nodes, version, epoch, problems, problemCount, losses = [] } = cluster;
  const at = `at epoch ${epoch}, version ${version}`;
  if (problemCount === 0)
    return [
      `  ${plural(nodes, 'node')}: all have folded and settled, partitions are open where they are owned, no move is open (${at})`,
      ...lossLines(losses),
    ];
  return [
    `  ${plural(problemCount, 'thing')} not as the ring says (${at}):`,
    ...problems.map(({ node, move, what }) => plain(`  ${[node, move].filter(Boolean).join(', ') || 'ring'} ${what}`)),
    ...lossLines(losses),
  ];
}

function comparisonLines(progress: VerificationAnswer): string[] {
  const { jobsCompared, jobsTotal, movesDone, movesTotal, counts, samples } = progress;
  const differing = Object.entries(counts).filter(([, n]) => n > 0);
  const rows = samples.map((sample) => [
    nameOf(sample.move),
    sample.kind,
    place(sample.tableAtSource, sample.idAtSource),
    place(sample.tableAtTarget, sample.idAtTarget),
    sample.partition === null ? '' : String(sample.partition),
    sample.columns.join(', '),
  ]);
  return [
    `  ${count(jobsCompared)} of ${plural(jobsTotal, 'job')} compared, ${movesDone} of ${plural(movesTotal, 'move')}`,
    ...(differing.length > 0 ? [`  ${differing.map(([kind, n]) => `${count(n)} ${kind}`).join(', ')}`] : []),
    ...(rows.length > 0 ? table(['MOVE', 'KIND', 'AT SOURCE', 'AT TARGET', 'PARTITION', 'COLUMNS'], rows) : []),
    ...(progress.notComparedMoves > 0
      ? [`  not compared: ${plural(progress.notComparedJobs, 'job')} of ${plural(progress.notComparedMoves, 'move')}`]
      : []),
    ...progress.notCompared.map(({ move, jobs, because }) =>
      plain(`    ${nameOf(move)}, ${plural(jobs, 'job')}: ${because}`),
    ),
  ];
}

/** Moves of several operations have equal ends. */
const nameOf = (move: string): string => `${shortId(move.split('/')[0]!)}/${shortMove(move)}`;
const place = (name: string | null, id: number | null): string => (id === null ? '–' : `${name ?? '?'} ${id}`);
