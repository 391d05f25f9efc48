/** What `ringmaster verify` asks of the world: whether the cluster is as its ring says, and whether what moves took along is the same on both sides. Reads only. */
import { cancellationSignal, sleep } from '@temporalio/activity';
import type { NodeStatus } from '../dataplane/contract.ts';
import { type CompareCursor, compareStep, type Difference, isNotComparable, noDifferences } from '../jobsdb/compare.ts';
import { CodedError, codeOf, describeError } from '../kit/errors.ts';
import type { NodeId } from '../ring/events.ts';
import { type MoveRecord, movesOf, uncertifiedFrom } from '../ring/moves.ts';
import { fold, noRing, partitionsOf, type Ring } from '../ring/ring.ts';
import type { ActivityDeps } from './deps.ts';
import { beating, refusingByType } from './errors.ts';
import { createPools } from './pools.ts';
import type {
  ClusterProblem,
  CompareActivities,
  CompareMovesCursor,
  CompareMovesInput,
  CompareSlice,
  NotCompared,
} from './types.ts';

/** One slice: so much is repeated at worst after a crash, and so soon a stop is heard. */
const SLICE_MS = 5_000;
/** Nodes fold and settle within milliseconds of an append; one that takes longer is named. */
const CHECK_WITHIN_MS = 5_000;
/** Problems and moves that an answer names; more are counted. */
const NAMED_MAX = 50;
/** One statement at a time for each side of a comparison, and one to spare. */
const CONNECTIONS_MAX = 2;

export type CompareDeps = Pick<ActivityDeps, 'ringStore' | 'controlOf' | 'endpointsOf' | 'limits'>;

export function createCompareActivities(deps: CompareDeps): CompareActivities {
  const pools = createPools('ringmaster verify', CONNECTIONS_MAX);

  async function problemsOf(ring: Ring, node: NodeId): Promise<ClusterProblem[]> {
    const deadline = performance.now() + CHECK_WITHIN_MS;
    for (;;) {
      const wrong = await statusOf(node).then(
        (status) => wrongWith(ring, node, status),
        (error: unknown) => [`does not answer: ${describeError(error)}`],
      );
      if (wrong.length === 0) return [];
      if (performance.now() > deadline) return wrong.map((what) => ({ node, move: null, what }));
      await sleep(deps.limits.pollEveryMs);
    }
  }

  const statusOf = async (node: NodeId): Promise<NodeStatus> =>
    (await deps.controlOf(node)).status(cancellationSignal());

  /** Why the move cannot be compared now; null: it can. Throws what is weather. */
  async function obstacleTo(move: MoveRecord): Promise<string | null> {
    if (move.state === 'completed')
      return move.certificate || move.accepted
        ? null
        : 'it has no certificate: a worker of an older version completed it';
    const version = move.handedOver!.version;
    const [source, target] = await Promise.all([statusOf(move.from), statusOf(move.to)]);
    return source.settledVersion >= version && target.foldedVersion >= version
      ? null
      : 'it was handed over a moment ago: its source has not put everything away yet';
  }

  /** One step of a move; a move that cannot be compared is over at once. */
  async function step(move: MoveRecord, within: CompareCursor | null, samplesMax: number) {
    const skip = (because: string) => ({
      cursor: null,
      compared: 0,
      counts: noDifferences,
      samples: [],
      gone: move.proof?.jobsPending ?? 0,
      goneBecause: because,
    });
    try {
      const obstacle = within === null ? await obstacleTo(move) : null;
      if (obstacle) return skip(obstacle);
      const [from, to] = await Promise.all([deps.endpointsOf(move.from), deps.endpointsOf(move.to)]);
      return await compareStep(
        {
          source: pools.of(from.database),
          target: pools.of(to.database),
          move: move.move,
          partitions: move.partitions,
          certified: move.certificate?.tables ?? null,
          samplesMax,
        },
        within,
      );
    } catch (error) {
      if (codeOf(error) === 'NODE_ABSENT') return skip('a node of it is gone');
      if (isNotComparable(error)) return skip((error as Error).message);
      throw error;
    }
  }

  async function compareMoves({ clusterId, operation, cursor, samplesMax }: CompareMovesInput): Promise<CompareSlice> {
    const signal = cancellationSignal();
    const until = performance.now() + SLICE_MS;
    const moves = handedOverMoves([...movesOf(await deps.ringStore.read(clusterId)).values()], operation);
    const counts = { ...noDifferences };
    const samples: Difference[] = [];
    const notCompared: NotCompared[] = [];
    let [movesDone, jobsCompared] = [0, 0];
    let at: CompareMovesCursor | null = cursor ?? { handedOverAt: 0, within: null };
    do {
      signal.throwIfAborted();
      const from: CompareMovesCursor = at;
      const move = moves.find(({ handedOver }) => handedOver!.version >= from.handedOverAt);
      if (!move) {
        at = null;
        break;
      }
      const version = move.handedOver!.version;
      const done = await step(move, version === from.handedOverAt ? from.within : null, samplesMax);
      jobsCompared += done.compared;
      for (const kind of Object.keys(counts) as (keyof typeof counts)[]) counts[kind] += done.counts[kind];
      samples.push(...done.samples);
      if (done.goneBecause && done.gone > 0)
        notCompared.push({ move: move.move, jobs: done.gone, because: done.goneBecause });
      if (done.cursor === null) movesDone += 1;
      at =
        done.cursor === null
          ? { handedOverAt: version + 1, within: null }
          : { handedOverAt: version, within: done.cursor };
    } while (performance.now() < until && notCompared.length < NAMED_MAX);
    return {
      cursor: at,
      movesTotal: moves.length,
      jobsTotal: moves.reduce((sum, { proof }) => sum + (proof?.jobsPending ?? 0), 0),
      movesDone,
      jobsCompared,
      counts,
      samples: samples.slice(0, samplesMax),
      notCompared,
    };
  }

  return refusingByType<CompareActivities>({
    /** Repeatable: looks again. */
    checkCluster: ({ clusterId }) =>
      beating(async () => {
        const events = await deps.ringStore.read(clusterId);
        if (events.length === 0) throw new CodedError('CLUSTER_UNKNOWN', `there is no cluster ${clusterId}`);
        const ring = fold(noRing(clusterId), events);
        const problems: ClusterProblem[] = [
          ...ring.notUnderstood.map((type) => ({
            node: null,
            move: null,
            what: `the log has events of a newer version: ${type}`,
          })),
          ...ring.moves.map(({ move, state }) => ({ node: null, move, what: `is open: ${state}` })),
          ...ring.nodes.flatMap(({ node }) =>
            uncertifiedFrom(events, node)
              .filter(({ state }) => state === 'completed')
              .map(({ move }) => ({ node, move, what: 'was completed without a certificate' })),
          ),
          ...(await Promise.all(ring.nodes.map(({ node }) => problemsOf(ring, node)))).flat(),
        ];
        return {
          version: ring.version,
          epoch: ring.epoch,
          nodes: ring.nodes.length,
          problems: problems.slice(0, NAMED_MAX),
          problemCount: problems.length,
          losses: ring.losses ?? [],
        };
      }),

    /** Repeatable: from the same cursor it compares the same again. */
    compareMoves: (input) => beating(() => compareMoves(input)),
  });
}

/** Handed over, of one operation or of all, in the order of their hand-overs. */
function handedOverMoves(moves: readonly MoveRecord[], operation: string | null): MoveRecord[] {
  return moves
    .filter((move) => move.handedOver !== null && (operation === null || move.operation === operation))
    .sort((a, b) => a.handedOver!.version - b.handedOver!.version);
}

function wrongWith(ring: Ring, node: NodeId, status: NodeStatus): string[] {
  const { version, epoch } = ring;
  const { open, paused, fenced } = status.partitions;
  const owned = partitionsOf(ring, node).length;
  const midMove = ring.moves.some(({ from, state }) => from === node && state === 'started');
  return [
    ...(status.blocked ? [`refuses to serve: ${status.blocked.code}: ${status.blocked.message}`] : []),
    ...(!status.blocked && !status.serving ? ['does not serve'] : []),
    ...(status.foldedVersion < version ? [`has folded version ${status.foldedVersion} of ${version}`] : []),
    ...(status.settledVersion < version ? [`has settled at version ${status.settledVersion} of ${version}`] : []),
    // A source in the middle of a move may have paused or fenced what it owns; the open move is named for itself.
    ...(midMove || (open === owned && paused === 0 && fenced === 0)
      ? []
      : [`has ${open} partitions open, ${paused} paused and ${fenced} fenced, and owns ${owned} (epoch ${epoch})`]),
  ];
}
