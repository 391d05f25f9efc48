/**
 * One operation as people see it: its progress, what it waits for, and the messages that change it.
 *
 *   state       entry                                 exits
 *   running     start, resume                         paused, blocked, cancelling, undoing, an end
 *   paused      `pause`: no further move starts        `resume` → running (undoing), `cancel`, `undo`
 *   blocked     a permanent error in a step, a stall   `resume` or `retry` → the step runs again, `cancel`, `undo`
 *   cancelling  `cancel`, or Temporal's cancellation   cancelled; `undo`; blocked, if the ring cannot be unfrozen
 *   undoing     `undo`: as cancel, then moves back     undone; paused, blocked, `cancel` → cancelling
 *   completed, cancelled, undone, nothing to do, failed   none; `undo` of one that has ended is another operation
 * docs/operations.md has the table state × action; a test drives each of its cells.
 */
import { CancelledFailure, type UpdateDefinition } from '@temporalio/common';
import {
  CancellationScope,
  condition,
  log,
  setCurrentDetails,
  setHandler,
  sleep,
  upsertSearchAttributes,
  workflowInfo,
} from '@temporalio/workflow';
import type { Acceptance, Asking, AskingAsHolder, RingSummary } from '../activities/types.ts';
import type { HolderIdentity, NodeId } from '../ring/events.ts';
import type { MovePlan, PlannedMove } from '../ring/plan.ts';
import { type Action, refusalFor, type Situation } from './actions.ts';
import { detailsOf } from './details.ts';
import { type Refusal, refusalOf, refuse } from './failures.ts';
import { describeGoal, goalOf } from './input.ts';
import {
  type BlockedOn,
  cancelUpdate,
  type MoveProgress,
  type OperationProgress,
  type OperationState,
  type OperatorRequest,
  type PhaseName,
  pauseUpdate,
  progressQuery,
  type RetryRequest,
  resumeUpdate,
  retryUpdate,
  type ScaleCarry,
  type ScaleInput,
  searchAttributes,
  undoUpdate,
} from './messages.ts';
import { nextActionOf } from './next-action.ts';

/** What may end at any time without anybody having done something here: then the operation goes on by itself. */
const ENDS_BY_ITSELF: ReadonlySet<string> = new Set(['NODE_LOST']);
const LOOK_AGAIN_EVERY = '30s'; // a look takes a minute where it is still gone: some events of history in each

type Writable<T> = { -readonly [K in keyof T]: T[K] };
export type MoveEntry = Writable<MoveProgress>;
type Entry = Writable<Omit<OperationProgress, 'moves' | 'notes' | 'phasesMs'>> & {
  moves: MoveEntry[];
  notes: string[];
  phasesMs: Record<string, number>;
};
export type EndState = Extract<OperationState, 'completed' | 'cancelled' | 'undone' | 'nothing to do' | 'failed'>;

export class Operation {
  readonly input: ScaleInput;
  readonly progress: Entry;
  /** Number of our freeze; 0 before it. */
  holder: number;
  /** From the moment when the ring may be held by us. */
  mayHoldRing: boolean;
  /** From the moment when pods may have been started for us; before it a node of the same name is somebody else's. */
  mayHaveAddedNodes: boolean;
  /** Moves at a time from or to one node: the cluster's limit as it was at the freeze. */
  movesPerNode: number;
  /** What the plan marks before anything is moved. */
  marks: { readonly drains: readonly NodeId[]; readonly activates: readonly NodeId[] } = { drains: [], activates: [] };
  /** The node that the plan gives up. */
  forgets: NodeId | null = null;
  /** The ring under our freeze, for the plan. */
  frozen: RingSummary | null = null;
  #work = new CancellationScope();
  #paused: boolean;
  #cancelRequested = false;
  #undo: 'no' | 'wanted' | 'under way';
  /** Its moves from here on are those of the undo. */
  #undoneFrom: number;
  /** The move that a step is at, and the one whose difference was accepted. */
  #concerned: string | undefined;
  #accepted: (Acceptance & { readonly move: string }) | null = null;
  /** What it was blocked on until a moment ago, and looks at once more by itself. */
  #lookedAgain: BlockedOn | null = null;
  /** What was cancelled is being tidied up: too late for an undo by this run. */
  #isWindingUp = false;
  #ended: EndState | null = null;
  #shown = '';

  constructor(input: ScaleInput) {
    this.input = input;
    const carry = input?.carry;
    this.holder = carry?.holder ?? 0;
    this.movesPerNode = carry?.movesPerNode ?? 1;
    this.mayHoldRing = carry !== undefined;
    this.mayHaveAddedNodes = carry !== undefined;
    this.#paused = carry?.paused ?? false;
    this.#undo = carry?.undoneFrom === undefined ? 'no' : 'under way';
    this.#undoneFrom = carry?.undoneFrom ?? 0;
    this.progress = carry ? (structuredCopy(carry.progress) as Entry) : newProgress(input);
  }

  /** Handlers, before the first await: an update that comes early would be rejected else. */
  listen(): void {
    setHandler(progressQuery, () => this.progress);
    on(
      pauseUpdate,
      (request) => this.#pause(request),
      () => this.#assertAllowed('pause'),
    );
    on(
      resumeUpdate,
      (request) => this.#resume('resumed', request),
      () => this.#assertAllowed('resume'),
    );
    on(
      retryUpdate,
      (request) => this.#retry(request),
      (request) => this.#assertRetryable(request),
    );
    on(
      cancelUpdate,
      (request) => this.#cancel(request),
      () => this.#assertAllowed('cancel'),
    );
    on(
      undoUpdate,
      (request) => this.#requestUndo(request),
      () => this.#assertAllowed('undo'),
    );
    // Temporal's own cancellation arrives here too: the scope's parent is the workflow's.
    this.#work.cancelRequested.catch(() => this.#noteCancel());
    this.changed();
  }

  /** True once, where the forward work was cancelled in order to be undone: from here `cancellable` runs the undo. */
  beginUndo(): boolean {
    if (this.#undo !== 'wanted') return false;
    this.#undo = 'under way';
    this.#undoneFrom = this.progress.moves.length;
    this.#cancelRequested = false;
    // Where Temporal itself has cancelled the run before, everything below its scope would be cancelled at once.
    const isRunCancelled = CancellationScope.current().consideredCancelled;
    const parent = isRunCancelled ? new CancellationScope({ cancellable: false }) : CancellationScope.current();
    this.#work = new CancellationScope({ cancellable: true, parent });
    this.#work.cancelRequested.catch(() => this.#noteCancel());
    this.changed();
    return true;
  }

  get isUndoing(): boolean {
    return this.#undo === 'under way';
  }

  /** Those of the way that the operation is on: forward, or back. */
  get currentMoves(): MoveEntry[] {
    return this.progress.moves.slice(this.#undoneFrom);
  }

  /** From here what was cancelled stays as it is, and the run only ends. */
  windUp(): void {
    this.#isWindingUp = true;
  }

  /** Runs `work` so that `cancel` ends it. */
  cancellable<T>(work: () => Promise<T>): Promise<T> {
    return this.#work.run(work);
  }

  /** Runs a step; a permanent error blocks, and resume or retry runs it again. */
  async step(phase: PhaseName, run: () => Promise<void>): Promise<void> {
    const startedAt = Date.now();
    this.progress.phase = phase;
    this.changed();
    try {
      for (;;) {
        try {
          return await run();
        } catch (error) {
          const refusal = refusalOf(error);
          if (!refusal) throw error; // cancellation, an end by code, or a bug
          // An attempt that fails after the request to cancel is not tried again, and arrives as a failure.
          if (CancellationScope.current().consideredCancelled)
            throw new CancelledFailure('the operation is being cancelled');
          await this.blockedUntilResolved(refusal);
        }
      }
    } finally {
      this.progress.phasesMs[phase] = (this.progress.phasesMs[phase] ?? 0) + Date.now() - startedAt;
    }
  }

  /** Runs a part of a step that is about one move: what it is blocked on names it. */
  async concerning(move: string, run: () => Promise<void>): Promise<void> {
    this.#concerned = move;
    await run(); // it stays named where this fails: the step asks for it
    this.#concerned = undefined;
  }

  /** What somebody has said of the difference of this move, as a part of an input. */
  acceptanceOf(move: string): { readonly accept?: Acceptance } {
    if (this.#accepted?.move !== move) return {};
    const { by, reason } = this.#accepted;
    return { accept: { by, reason } };
  }

  /** Shows what the operation waits for. The first of several stays: it is what nextAction is about. */
  block({ code, message, threshold }: Refusal, move = this.#concerned): void {
    if (this.progress.blockedOn) return;
    const before = this.#lookedAgain?.code === code ? this.#lookedAgain : null;
    const since = before?.since ?? new Date(Date.now()).toISOString();
    this.#lookedAgain = null;
    const blockedOn: BlockedOn = {
      code,
      message,
      since,
      ...(threshold ? { threshold } : {}),
      phase: this.progress.phase ?? 'plan',
      ...(move ? { move } : {}),
    };
    this.progress.blockedOn = blockedOn;
    this.#concerned = undefined;
    log.warn('blocked', { ...blockedOn });
    this.changed();
    if (ENDS_BY_ITSELF.has(code)) this.#lookAgainLater(blockedOn);
  }

  #lookAgainLater(blockedOn: BlockedOn): void {
    const look = (): void => {
      if (this.progress.blockedOn !== blockedOn) return; // resumed, or being cancelled
      this.#lookedAgain = blockedOn;
      this.progress.blockedOn = null;
      this.changed();
    };
    sleep(LOOK_AGAIN_EVERY).then(look, () => undefined); // cancelled: then nobody waits any more
  }

  async blockedUntilResolved(refusal: Refusal): Promise<void> {
    this.block(refusal);
    await condition(() => this.progress.blockedOn === null);
  }

  /** Whether moves may start. */
  get mayStart(): boolean {
    return !this.#paused && this.progress.blockedOn === null && !this.#cancelRequested;
  }

  note(sentence: string): void {
    this.progress.notes.push(sentence);
    log.info(sentence);
    this.changed();
  }

  adopt(plan: MovePlan): void {
    const { progress } = this;
    progress.from = plan.nodesBefore.length;
    progress.to = plan.nodesAfter.length;
    progress.nodesAdded = plan.added;
    progress.nodesRemoved = plan.removed;
    progress.planHash = plan.hash;
    progress.partitionsToMove = plan.partitionsMoved;
    progress.moves = plan.moves.map(entryOf);
    this.#adoptMarks(plan);
    this.changed();
  }

  /** The way back, behind the moves that were made. */
  adoptUndo(plan: MovePlan): void {
    const { progress } = this;
    const made = progress.moves
      .slice(0, this.#undoneFrom)
      .map((move) => (move.state === 'waiting' ? { ...move, state: 'aborted' as const } : move));
    // Nodes that were started for us and never became members go too; those that own something by now stay.
    const unused = this.mayHaveAddedNodes
      ? progress.nodesAdded.filter((node) => !plan.nodesAfter.includes(node) && !plan.removed.includes(node))
      : [];
    progress.to = plan.nodesAfter.length;
    progress.nodesAdded = plan.added;
    progress.nodesRemoved = [...plan.removed, ...unused];
    progress.planHash = plan.hash;
    progress.partitionsToMove = plan.partitionsMoved;
    progress.partitionsMoved = 0;
    progress.moves = [...made, ...plan.moves.map((move) => entryOf({ ...move, n: made.length + move.n }))];
    this.#adoptMarks(plan);
    this.note(`undo: ${plan.partitionsMoved} partitions go back in ${plan.moves.length} moves`);
  }

  #adoptMarks({ drains = [], activates = [], forgets }: MovePlan): void {
    this.marks = { drains, activates };
    this.forgets = forgets ?? null;
  }

  end(state: EndState): void {
    this.#ended = state;
    this.progress.endedAt = new Date(Date.now()).toISOString();
    this.progress.phase = null;
    this.progress.blockedOn = null;
    log.info('operation ended', { state });
    this.changed();
  }

  get carry(): ScaleCarry {
    return {
      operationId: this.progress.operationId,
      progress: this.progress,
      holder: this.holder,
      paused: this.#paused,
      movesPerNode: this.movesPerNode,
      ...(this.isUndoing ? { undoneFrom: this.#undoneFrom } : {}),
    };
  }

  get asking(): Asking {
    const { clusterId, operationId, reason } = this.progress;
    const askedBy = this.input?.actor;
    return { clusterId, operationId, reason, ...(askedBy === undefined ? {} : { askedBy }) };
  }

  get asHolder(): AskingAsHolder {
    return { ...this.asking, holder: this.holder };
  }

  /** The first run stands for the whole chain: continued as new, the operation still holds its ring. */
  get identity(): HolderIdentity {
    const { operationId, workflowId } = this.progress;
    return { operationId, workflowId, runId: operationId };
  }

  /** Brings what people see up to date. Attributes are an event of the history each time, so only real changes are written. */
  changed(): void {
    const { progress } = this;
    progress.state = this.#state();
    progress.nextAction = nextActionOf(progress);
    setCurrentDetails(detailsOf(progress));
    const blockedOn = progress.blockedOn?.code ?? null;
    const shown = `${progress.state} ${blockedOn}`;
    if (shown === this.#shown) return;
    const isFirst = this.#shown === '';
    this.#shown = shown;
    upsertSearchAttributes([
      ...(isFirst ? [{ key: searchAttributes.cluster, value: progress.clusterId }] : []),
      { key: searchAttributes.state, value: progress.state },
      ...(isFirst && blockedOn === null ? [] : [{ key: searchAttributes.blockedOn, value: blockedOn }]),
    ]);
  }

  #state(): OperationState {
    if (this.#ended) return this.#ended;
    if (this.progress.blockedOn) return 'blocked';
    if (this.#undo === 'wanted') return this.#paused ? 'paused' : 'undoing';
    if (this.#cancelRequested) return 'cancelling';
    if (this.#paused) return 'paused';
    return this.isUndoing ? 'undoing' : 'running';
  }

  #pause(request: OperatorRequest | undefined): OperationProgress {
    this.#paused = true;
    this.note(`paused${by(request)}`);
    return this.progress;
  }

  #resume(what: string, request: OperatorRequest | undefined): OperationProgress {
    this.#paused = false;
    this.progress.blockedOn = null;
    this.note(`${what}${by(request)}`);
    return this.progress;
  }

  #retry(request: RetryRequest | undefined): OperationProgress {
    const move = this.progress.blockedOn?.move;
    if (request?.acceptDifference && move !== undefined) {
      this.#accepted = { move, by: request.actor ?? 'unknown', reason: request.reason ?? '' };
      return this.#resume(`the difference of ${move} is accepted, and it is retried`, request);
    }
    return this.#resume('retried', request);
  }

  #cancel(request: OperatorRequest | undefined): OperationProgress {
    if (this.#undo === 'wanted')
      this.#undo = 'no'; // what is handed over by now stays there
    else if (this.#cancelRequested) return this.progress;
    this.note(`cancel was asked for${by(request)}`);
    this.#stopWork();
    return this.progress;
  }

  #requestUndo(request: OperatorRequest | undefined): OperationProgress {
    if (this.#undo !== 'no') return this.progress;
    this.#undo = 'wanted';
    this.#paused = false;
    this.note(`undo was asked for${by(request)}`);
    this.#stopWork();
    return this.progress;
  }

  #stopWork(): void {
    if (!this.#cancelRequested) this.#work.cancel();
    this.#noteCancel();
    this.changed();
  }

  #noteCancel(): void {
    if (this.#cancelRequested) return;
    this.#cancelRequested = true;
    this.progress.blockedOn = null;
    this.changed();
  }

  /** Validators read only, and at once. */
  #assertAllowed(action: Action): void {
    const code = refusalFor(this.#situation, action);
    if (code === null) return;
    const { operationId, state } = this.progress;
    const why: Readonly<Record<string, string>> = {
      OPERATION_ENDED: `has ended: ${state}`,
      OPERATION_ENDING: `is ending: too late to ${action} it`,
      OPERATION_NOT_WAITING: `is ${state}: it waits for nobody`,
    };
    refuse(code, `operation ${operationId} ${why[code]}`);
  }

  get #situation(): Situation {
    const state = this.#state();
    if (this.#ended || !(this.#isWindingUp || this.progress.phase === 'unfreeze ring')) return state;
    return state === 'blocked' ? 'blocked at its last step' : 'at its last step';
  }

  #assertRetryable(request: RetryRequest | undefined): void {
    this.#assertAllowed('retry');
    if (!request?.acceptDifference) return;
    const { blockedOn } = this.progress;
    if (blockedOn?.code !== 'CERTIFICATE_MISMATCH' || blockedOn.move === undefined)
      refuse('NOTHING_TO_ACCEPT', `operation ${this.progress.operationId} is blocked on ${blockedOn?.code}`);
    if (!request.reason?.trim()) refuse('REASON_NEEDED', 'a difference is accepted with a reason only');
  }
}

function newProgress(input: ScaleInput | undefined): Entry {
  const { firstExecutionRunId, workflowId, startTime } = workflowInfo();
  const goal = goalOf(input);
  const clusterId = typeof input?.clusterId === 'string' ? input.clusterId.slice(0, 40) : '';
  return {
    operationId: firstExecutionRunId,
    clusterId,
    workflowId,
    ...(goal ? { goal } : {}),
    reason: typeof input?.reason === 'string' && input.reason !== '' ? input.reason : describeGoal(goal),
    state: 'running',
    phase: null,
    from: 0,
    to: goal?.kind === 'scale' && typeof goal.nodes === 'number' ? goal.nodes : 0,
    nodesAdded: [],
    nodesRemoved: [],
    planHash: null,
    partitionsToMove: 0,
    partitionsMoved: 0,
    jobsMoved: 0,
    jobsCopied: 0,
    moves: [],
    blockedOn: null,
    nextAction: null,
    notes: [],
    phasesMs: {},
    startedAt: startTime.toISOString(),
    endedAt: null,
  };
}

const entryOf = (move: PlannedMove): MoveEntry => ({
  ...move,
  state: 'waiting',
  tries: 0,
  jobsMoved: 0,
  jobsCopied: 0,
});

function on<Request extends OperatorRequest>(
  update: UpdateDefinition<OperationProgress, [Request]>,
  handler: (request: Request | undefined) => OperationProgress,
  validator: (request: Request | undefined) => void,
): void {
  setHandler(update, handler, { validator });
}

const by = (request: OperatorRequest | undefined): string =>
  `${request?.actor ? ` by ${request.actor}` : ''}${request?.reason ? `: ${request.reason}` : ''}`;
const structuredCopy = <T>(value: T): T => JSON.parse(JSON.stringify(value)) as T;
