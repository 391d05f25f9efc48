import { describe, expect, test } from 'vitest';
import { type Claim, claimsToDelete } from '../../operator/claims.ts';
import { type Decision, decideNext, type OperationSeen, reasonOf, type Seen } from '../../operator/decide.ts';
import { mergePatch } from '../../operator/kube.ts';
import {
  actorOf,
  annotations,
  type Condition,
  type ConditionType,
  parseDurationMs,
  parseLeftAt,
  type RingCluster,
  type RingClusterSpec,
  type RingClusterStatus,
  wishOf,
} from '../../operator/resource.ts';
import { noRing, type Ring } from '../../ring/ring.ts';

const NOW = '2026-01-02T03:04:05.000Z';
const EARLIER = '2026-01-01T00:00:00.000Z';

interface Given {
  spec?: RingClusterSpec;
  generation?: number;
  annotations?: Record<string, string>;
  status?: Partial<RingClusterStatus>;
}

const resource = ({ spec = { nodes: 3 }, generation = 2, annotations = {}, status }: Given = {}): RingCluster => ({
  metadata: { name: 'demo', namespace: 'ns', uid: 'u-1', generation, resourceVersion: '7', annotations },
  spec,
  ...(status ? { status } : {}),
});
const ACTOR = actorOf(resource());

function ring(nodes: number, frozenBy: string | null = null): Ring {
  const freeze = frozenBy ? { operationId: frozenBy, workflowId: 'scale/demo', runId: frozenBy, holder: 1 } : null;
  return {
    ...noRing('demo'),
    version: 9,
    epoch: 4,
    partitionCount: 64,
    nodes: Array.from({ length: nodes }, (_, i) => ({ node: `node-${i}`, databaseId: `d${i}`, url: `http://n${i}` })),
    freeze,
  };
}

const operation = (over: Partial<OperationSeen> = {}): OperationSeen => ({
  id: 'op-1',
  state: 'running',
  to: 3,
  actor: ACTOR,
  phase: 'move partitions',
  blockedOn: null,
  nextAction: null,
  ...over,
});

const seen = (over: Partial<Seen> = {}): Seen => ({
  resource: resource(),
  operation: null,
  startedForWish: null,
  temporalTrouble: null,
  ring: ring(2),
  ringTrouble: null,
  actionTrouble: null,
  now: NOW,
  ...over,
});

const condition = (decision: Decision, type: ConditionType): Condition | undefined =>
  decision.status.conditions?.find((each) => each.type === type);
/** `Synced=False RingDiffers`. */
const said = (decision: Decision, type: ConditionType): string => {
  const { status, reason } = condition(decision, type) ?? { status: 'none', reason: '' };
  return `${type}=${status} ${reason}`;
};
const aCondition = (type: ConditionType, status: Condition['status'], reason: string, message = ''): Condition => ({
  type,
  status,
  reason,
  message,
  lastTransitionTime: EARLIER,
});

describe('what is done next', () => {
  interface Row {
    name: string;
    given: Partial<Seen>;
    does: string;
    decided: boolean;
    says: string[];
  }
  const decided = { observedGeneration: 2 };
  const rows: Row[] = [
    {
      name: 'a new generation with other nodes starts an operation',
      given: {},
      does: 'start 3',
      decided: false,
      says: ['Progressing=True Starting', 'Synced=False OperationUnderWay', 'Ready=True Serving'],
    },
    {
      name: 'where the ring is as wished nothing is started, and the generation is decided on',
      given: { ring: ring(3) },
      does: 'none',
      decided: true,
      says: ['Synced=True InSync', 'Progressing=False Steady', 'Ready=True Serving', 'Blocked=False NotBlocked'],
    },
    {
      name: 'where there is no ring the operation makes one',
      given: { ring: null },
      does: 'start 3',
      decided: false,
      says: ['Ready=False NoRing'],
    },
    {
      name: 'a generation that was started and whose status was lost is found by its key: nothing is started twice',
      given: { startedForWish: 'op-1', operation: operation() },
      does: 'none',
      decided: true,
      says: ['Progressing=True OperationRunning', 'Synced=False OperationUnderWay'],
    },
    {
      name: 'an operation that goes where the new generation wants runs on',
      given: { operation: operation({ to: 3 }), resource: resource({ status: { observedGeneration: 1 } }) },
      does: 'none',
      decided: true,
      says: ['Progressing=True OperationRunning'],
    },
    {
      name: 'a change of mind asks our operation to cancel, and waits',
      given: { operation: operation({ to: 5 }), resource: resource({ spec: { nodes: 4 }, generation: 3 }) },
      does: 'cancel op-1',
      decided: false,
      says: ['Progressing=True ChangeOfMind', 'Synced=False ChangeOfMind'],
    },
    {
      name: 'a change of mind while it is blocked: likewise',
      given: {
        operation: operation({ to: 5, state: 'blocked', blockedOn: { code: 'X', message: 'x', since: null } }),
        resource: resource({ spec: { nodes: 4 }, generation: 3 }),
      },
      does: 'cancel op-1',
      decided: false,
      says: ['Progressing=True ChangeOfMind', 'Blocked=True OperationBlocked', 'Ready=False OperationBlocked'],
    },
    {
      name: 'a change of mind while it is paused: likewise',
      given: { operation: operation({ to: 5, state: 'paused' }) },
      does: 'cancel op-1',
      decided: false,
      says: ['Progressing=True ChangeOfMind'],
    },
    {
      name: 'a change of mind while the ring is being made: likewise',
      given: { operation: operation({ to: 5 }), ring: null },
      does: 'cancel op-1',
      decided: false,
      says: ['Ready=False NoRing'],
    },
    {
      name: 'while ours is being cancelled its end is awaited',
      given: { operation: operation({ to: 5, state: 'cancelling' }) },
      does: 'none',
      decided: false,
      says: ['Progressing=True ChangeOfMind'],
    },
    {
      name: 'one that is being cancelled is not taken for the wish, though it went to the same number',
      given: { operation: operation({ to: 3, state: 'cancelling' }) },
      does: 'none',
      decided: false,
      says: ['Synced=False ChangeOfMind'],
    },
    {
      name: 'one that is being undone is neither the wish nor stopped again',
      given: { operation: operation({ to: 3, state: 'undoing' }) },
      does: 'none',
      decided: false,
      says: ['Synced=False ChangeOfMind'],
    },
    {
      name: 'after its end the newest generation starts',
      given: {
        operation: operation({ to: 5, state: 'cancelled' }),
        resource: resource({ spec: { nodes: 4 }, generation: 3, status: { observedGeneration: 2 } }),
      },
      does: 'start 4',
      decided: false,
      says: ['Progressing=True Starting'],
    },
    {
      name: "somebody else's operation is never cancelled: its end is awaited",
      given: { operation: operation({ to: 5, actor: 'anna' }) },
      does: 'none',
      decided: false,
      says: ['Progressing=True OtherOperation', 'Synced=False OtherOperation', 'Ready=True Serving'],
    },
    {
      name: "somebody else's that goes where the spec wants counts as done for it",
      given: { operation: operation({ to: 3, actor: 'anna' }) },
      does: 'none',
      decided: true,
      says: ['Progressing=True OperationRunning'],
    },
    {
      name: "after somebody else's end a generation that waited gets its turn",
      given: { operation: operation({ to: 5, actor: 'anna', state: 'completed' }), ring: ring(5) },
      does: 'start 3',
      decided: false,
      says: ['Progressing=True Starting'],
    },
    {
      name: 'an operation of this generation that was cancelled by hand is not started again',
      given: {
        operation: operation({ state: 'cancelled' }),
        resource: resource({ status: { ...decided, operation: { id: 'op-1', state: 'running', generation: 2 } } }),
      },
      does: 'none',
      decided: true,
      says: ['Synced=False OperationCancelled', 'Progressing=False OperationCancelled'],
    },
    {
      name: 'nor where the status was lost',
      given: { operation: operation({ state: 'cancelled' }), startedForWish: 'op-1' },
      does: 'none',
      decided: true,
      says: ['Synced=False OperationCancelled'],
    },
    {
      name: 'nor one that failed',
      given: { operation: operation({ state: 'failed' }), startedForWish: 'op-1' },
      does: 'none',
      decided: true,
      says: ['Synced=False OperationFailed'],
    },
    {
      name: 'a ring that somebody scaled by hand since is told, not fought',
      given: { ring: ring(6), resource: resource({ status: decided }), operation: operation({ state: 'completed' }) },
      does: 'none',
      decided: true,
      says: ['Synced=False RingDiffers', 'Ready=True Serving'],
    },
    {
      name: 'a new value of the retry annotation makes an old generation a new wish',
      given: {
        operation: operation({ state: 'cancelled' }),
        resource: resource({ status: decided, annotations: { [annotations.retry]: 'again' } }),
      },
      does: 'start 3',
      decided: false,
      says: ['Progressing=True Starting'],
    },
    {
      name: 'the same value makes none',
      given: {
        resource: resource({
          status: { ...decided, observedRetry: 'again' },
          annotations: { [annotations.retry]: 'again' },
        }),
      },
      does: 'none',
      decided: true,
      says: ['Synced=False RingDiffers'],
    },
    {
      name: 'taking the annotation away makes none',
      given: { resource: resource({ status: { ...decided, observedRetry: 'again' } }) },
      does: 'none',
      decided: true,
      says: ['Synced=False RingDiffers'],
    },
    {
      name: 'absent nodes are filled in with those of the ring',
      given: { resource: resource({ spec: {} }) },
      does: 'fill nodes 2',
      decided: false,
      says: ['Synced=Unknown NodesAbsent'],
    },
    {
      name: 'absent nodes without a ring are one',
      given: { resource: resource({ spec: {} }), ring: null },
      does: 'fill nodes 1',
      decided: false,
      says: ['Synced=Unknown NodesAbsent'],
    },
    {
      name: 'absent nodes during an operation are where it goes, lest it be undone afterwards',
      given: { resource: resource({ spec: {} }), operation: operation({ to: 6, actor: 'anna' }) },
      does: 'fill nodes 6',
      decided: false,
      says: ['Progressing=True OperationRunning'],
    },
    {
      name: 'absent nodes wait where nobody says where it goes',
      given: { resource: resource({ spec: {} }), operation: operation({ to: null, actor: null }) },
      does: 'none',
      decided: false,
      says: ['Synced=Unknown NodesAbsent'],
    },
    {
      name: 'more nodes than the ring has partitions is invalid, whatever the spec says of partitions',
      given: { resource: resource({ spec: { nodes: 65, partitionCount: 128 } }) },
      does: 'none',
      decided: true,
      says: ['Synced=False Invalid', 'Progressing=False Invalid'],
    },
    {
      name: 'more nodes than partitions without a ring: likewise',
      given: { resource: resource({ spec: { nodes: 9, partitionCount: 8 } }), ring: null },
      does: 'none',
      decided: true,
      says: ['Synced=False Invalid'],
    },
    {
      name: 'an age for volumes that is none is invalid',
      given: { resource: resource({ spec: { nodes: 3, deleteVolumesAfter: '7d' } }) },
      does: 'none',
      decided: true,
      says: ['Synced=False Invalid'],
    },
    {
      name: 'while Temporal is away nothing is started',
      given: { temporalTrouble: { code: 'TEMPORAL_UNREACHABLE', message: 'Temporal cannot be reached' } },
      does: 'none',
      decided: false,
      says: ['Progressing=Unknown TemporalUnreachable', 'Synced=Unknown TemporalUnreachable'],
    },
    {
      name: 'while the ring store is away nothing is started or cancelled',
      given: {
        ring: null,
        ringTrouble: { code: 'RING_STORE_UNREACHABLE', message: 'gone' },
        operation: operation({ to: 5 }),
      },
      does: 'none',
      decided: false,
      says: ['Progressing=Unknown RingStoreUnreachable'],
    },
    {
      name: 'a ring that a dead run holds is freed by the operation of a new generation, though the number is right',
      given: { ring: ring(3, 'op-0') },
      does: 'start 3',
      decided: false,
      says: ['Ready=False RingFrozen'],
    },
    {
      name: 'a ring that a dead run holds after the generation was decided on is told',
      given: { ring: ring(3, 'op-0'), resource: resource({ status: decided }) },
      does: 'none',
      decided: true,
      says: ['Ready=False RingFrozen', 'Synced=False RingFrozen'],
    },
    {
      name: 'a start that fails says so, and is tried again',
      given: { actionTrouble: { code: 'TEMPORAL_NOT_PREPARED', message: 'no attributes' } },
      does: 'start 3',
      decided: false,
      says: ['Progressing=Unknown TemporalNotPrepared'],
    },
  ];

  test.each(rows)('$name', ({ given, does, decided: isDecided, says }) => {
    const all = seen(given);
    const decision = decideNext(all);
    const { action } = decision;
    const done = {
      none: () => 'none',
      start: () => `start ${action.kind === 'start' ? action.input.targetNodes : ''}`,
      cancel: () => `cancel ${action.kind === 'cancel' ? action.operationId : ''}`,
      'fill nodes': () => `fill nodes ${action.kind === 'fill nodes' ? action.nodes : ''}`,
    }[action.kind]();
    expect(done).toBe(does);
    expect(wishOf({ ...all.resource, status: decision.status }).decided).toBe(isDecided);
    for (const each of says) expect(said(decision, each.split('=')[0] as ConditionType)).toBe(each);
    // O4, in every row.
    expect(decision.status).toMatchObject({
      nodes: all.ring?.nodes.length ?? 0,
      selector: 'ringmaster.dev/cluster=demo,app.kubernetes.io/component=backend',
    });
    // Deciding on the new status with the same facts changes nothing more: no write, no event a second time.
    const again = decideNext({ ...all, resource: { ...all.resource, status: decision.status } });
    expect(again.status).toEqual(decision.status);
    expect(again.notices).toEqual([]);
    expect(again.action).toEqual(action);
  });
});

describe('what a start asks for', () => {
  const startOf = (given: Partial<Seen>) => {
    const { action } = decideNext(seen(given));
    if (action.kind !== 'start') throw new Error(`it is ${action.kind}`);
    return action;
  };

  test('names the generation in its key, the resource as its actor, and both numbers in its reason', () => {
    expect(startOf({})).toEqual({
      kind: 'start',
      idempotencyKey: 'ringcluster/u-1/2',
      input: {
        clusterId: 'demo',
        targetNodes: 3,
        actor: 'ringcluster/ns/demo',
        reason: 'RingCluster ns/demo: 2 → 3 nodes (generation 2)',
      },
    });
  });

  test('takes the reason from the annotation, cut to what the API allows', () => {
    const annotated = (reason: string) =>
      startOf({ resource: resource({ annotations: { [annotations.reason]: reason } }) });
    expect(annotated(' sale ').input.reason).toBe('sale');
    expect(annotated('x'.repeat(900)).input.reason).toHaveLength(500);
    expect(annotated('  ').input.reason).toMatch(/^RingCluster/);
  });

  test('makes the ring only where there is none, and deletes volumes only where the spec says so', () => {
    expect(startOf({ ring: null, resource: resource({ spec: { nodes: 2, partitionCount: 8 } }) }).input).toMatchObject({
      create: { partitionCount: 8 },
      reason: 'RingCluster ns/demo: 0 → 2 nodes (generation 2)',
    });
    expect(startOf({ ring: null }).input.create).toEqual({ partitionCount: 64 });
    expect(startOf({}).input).not.toHaveProperty('create');
    expect(startOf({ resource: resource({ spec: { nodes: 1, deleteVolumes: true } }) }).input.deleteVolumes).toBe(true);
  });

  test('a retry has a key of its own, whatever its value holds', () => {
    const keyOf = (retry: string) => wishOf(resource({ annotations: { [annotations.retry]: retry } })).idempotencyKey;
    expect(keyOf('a')).toMatch(/^ringcluster\/u-1\/2\/retry-[0-9a-f]{16}$/);
    expect(keyOf('a')).not.toBe(keyOf('b'));
    expect(keyOf('x\n'.repeat(10_000)).length).toBeLessThan(60);
  });
});

describe('the status', () => {
  test('says what an operation waits for, since when, and what to do', () => {
    const blockedOn = { code: 'POD_NOT_READY', message: 'image', since: EARLIER };
    const blocked = operation({ state: 'blocked', blockedOn, nextAction: 'ringmaster resume op-1' });
    const decision = decideNext(seen({ operation: blocked }));
    expect(decision.status).toMatchObject({ state: 'blocked', blockedOn, nextAction: 'ringmaster resume op-1' });
    expect(said(decision, 'Blocked')).toBe('Blocked=True OperationBlocked');
    expect(condition(decision, 'Blocked')?.message).toBe('POD_NOT_READY: image');
    expect(decision.notices).toEqual([
      { type: 'Warning', reason: 'Blocked', message: 'operation op-1: POD_NOT_READY: image' },
    ]);
    const after = decideNext(seen({ operation: operation(), resource: resource({ status: decision.status }) }));
    expect(after.status).not.toHaveProperty('blockedOn');
    expect(after.status).not.toHaveProperty('nextAction');
  });

  test('without a worker to ask, since is when it was seen first', () => {
    const blocked = operation({ state: 'blocked', blockedOn: { code: 'X', message: 'no worker', since: null } });
    const first = decideNext(seen({ operation: blocked }));
    expect(first.status.blockedOn?.since).toBe(NOW);
    const later = seen({
      operation: blocked,
      resource: resource({ status: first.status }),
      now: '2026-01-02T04:00:00.000Z',
    });
    expect(decideNext(later).status.blockedOn?.since).toBe(NOW);
  });

  test.each([
    ['creating', null, operation()],
    ['running', ring(2), operation()],
    ['paused', ring(2), operation({ state: 'paused' })],
    ['cancelling', ring(2), operation({ state: 'cancelling' })],
    ['cancelling', ring(2), operation({ state: 'undoing' })],
    ['blocked', null, operation({ state: 'blocked' })],
    ['steady', ring(2), operation({ state: 'completed' })],
    ['steady', ring(2), null],
  ] as const)('state is %s', (state, theRing, theOperation) => {
    expect(decideNext(seen({ ring: theRing, operation: theOperation })).status.state).toBe(state);
  });

  test('while Temporal is away keeps what was known, and says that it is old', () => {
    const before = decideNext(seen({ operation: operation() })).status;
    const away = seen({
      resource: resource({ status: before }),
      temporalTrouble: { code: 'TEMPORAL_UNREACHABLE', message: 'Temporal cannot be reached' },
    });
    const decision = decideNext(away);
    expect(decision.status).toMatchObject({
      state: 'unknown',
      phase: 'move partitions',
      operation: before.operation,
      nodes: 2,
      epoch: 4,
      observedGeneration: 2,
    });
    expect(said(decision, 'Ready')).toBe('Ready=True Serving');
    expect(said(decision, 'Synced')).toBe('Synced=False OperationUnderWay');
  });

  test('while the ring store is away keeps the last number of nodes', () => {
    const status = { nodes: 4, epoch: 7, partitionCount: 64 };
    const ringTrouble = { code: 'RING_STORE_UNREACHABLE', message: 'gone' };
    const decision = decideNext(seen({ ring: null, ringTrouble, resource: resource({ status }) }));
    expect(decision.status).toMatchObject({ ...status, state: 'unknown' });
  });

  test('the time of a transition stands until the status changes, also where the reason does', () => {
    const conditions = [aCondition('Synced', 'False', 'RingDiffers'), aCondition('Progressing', 'False', 'Steady')];
    const { status } = decideNext(seen({ resource: resource({ status: { conditions } }) }));
    const at = (type: string) => status.conditions?.find((each) => each.type === type)?.lastTransitionTime;
    expect(at('Synced')).toBe(EARLIER);
    expect(at('Progressing')).toBe(NOW);
  });

  test('leaves conditions of others alone, and cuts messages', () => {
    const other = { ...aCondition('Ready', 'True', 'X'), type: 'Theirs' as ConditionType };
    const trouble = { code: 'TEMPORAL_ERROR', message: 'x'.repeat(5_000) };
    const { status } = decideNext(
      seen({ temporalTrouble: trouble, resource: resource({ status: { conditions: [other] } }) }),
    );
    expect(status.conditions).toContainEqual(other);
    for (const { message } of status.conditions ?? []) expect(message.length).toBeLessThanOrEqual(1_000);
  });

  test('a code is a reason that the schema of conditions accepts', () => {
    expect(['TEMPORAL_UNREACHABLE', '57P01', 'ECONNREFUSED', ''].map(reasonOf)).toEqual([
      'TemporalUnreachable',
      'Trouble',
      'Econnrefused',
      'Trouble',
    ]);
  });
});

describe('what is told', () => {
  const withOperation = (state: string) => ({ observedGeneration: 2, operation: { id: 'op-1', state, generation: 2 } });

  test.each([
    ['completed', 'Normal', 'Completed'],
    ['nothing to do', 'Normal', 'Completed'],
    ['cancelled', 'Warning', 'Cancelled'],
    ['failed', 'Warning', 'Failed'],
  ] as const)('the end of an operation, once: %s', (state, type, reason) => {
    const given = seen({
      ring: ring(3),
      operation: operation({ state }),
      resource: resource({ status: withOperation('running') }),
    });
    const decision = decideNext(given);
    expect(decision.notices).toEqual([{ type, reason, message: `operation op-1 to 3 nodes: ${state}` }]);
  });

  test('the guard taken away: a condition with the why, a warning; and back', () => {
    const on = { [annotations.unsafeOverride]: 'disk on fire' };
    const decision = decideNext(seen({ ring: ring(3), resource: resource({ annotations: on }) }));
    expect(said(decision, 'GuardOverridden')).toBe('GuardOverridden=True UnsafeOverride');
    expect(condition(decision, 'GuardOverridden')?.message).toMatch(/disk on fire/);
    expect(decision.notices).toMatchObject([{ type: 'Warning', reason: 'GuardOverridden' }]);
    const off = decideNext(seen({ ring: ring(3), resource: resource({ status: decision.status }) }));
    expect(said(off, 'GuardOverridden')).toBe('GuardOverridden=False GuardStands');
    expect(off.notices).toMatchObject([{ type: 'Normal', reason: 'GuardStands' }]);
    // Also while nothing else is known.
    const away = { code: 'TEMPORAL_UNREACHABLE', message: 'gone' };
    const blind = decideNext(seen({ temporalTrouble: away, resource: resource({ annotations: on }) }));
    expect(said(blind, 'GuardOverridden')).toBe('GuardOverridden=True UnsafeOverride');
  });

  test.each([
    ['as many as nodes', { backend: 3, postgresql: 3 }, 'True ReplicasMatch', ''],
    ['more', { backend: 5, postgresql: 3 }, 'False ReplicasDiffer', '2 pods of it are no members'],
    ['fewer', { backend: 3, postgresql: 2 }, 'False ReplicasDiffer', '1 node of the ring are without'],
    ['no StatefulSet', { backend: 3, postgresql: null }, 'Unknown StatefulSetUnknown', 'postgresql'],
  ])('replicas that nobody of us has set: %s', (_name, replicas, expected, message) => {
    const decision = decideNext(seen({ ring: ring(3), replicas }));
    expect(said(decision, 'ReplicasMatch')).toBe(`ReplicasMatch=${expected}`);
    expect(condition(decision, 'ReplicasMatch')?.message).toContain(message);
    const warnings = decision.notices.filter(({ reason }) => reason === 'ReplicasDiffer');
    expect(warnings).toHaveLength(expected.startsWith('False') ? 1 : 0);
    expect(decision.action.kind).toBe('none');
  });

  test('replicas are nothing to say while an operation changes them', () => {
    const conditions = [aCondition('ReplicasMatch', 'True', 'ReplicasMatch', 'as before')];
    const given = seen({
      operation: operation(),
      replicas: { backend: 9, postgresql: 9 },
      resource: resource({ status: { conditions } }),
    });
    expect(said(decideNext(given), 'ReplicasMatch')).toBe('ReplicasMatch=True ReplicasMatch');
    expect(said(decideNext(seen({ operation: operation() })), 'ReplicasMatch')).toBe('ReplicasMatch=Unknown NotLooked');
  });
});

describe('volumes of nodes that left', () => {
  const claim = (over: Partial<Claim> = {}): Claim => ({
    name: 'data-f-postgresql-4',
    uid: 'u',
    resourceVersion: '1',
    leftAt: '20260101T000000Z',
    isBeingDeleted: false,
    ...over,
  });
  const nowMs = Date.parse('2026-01-08T00:00:01Z');
  const going = (claims: Claim[], over: object = {}) =>
    claimsToDelete({ claims, inUse: new Set(), ring: ring(2), olderThanMs: 168 * 3_600_000, nowMs, ...over }).length;

  test.each([
    ['old, its node has left', {}, {}, 1],
    ['not old enough', {}, { nowMs: nowMs - 2_000 }, 0],
    ['its node never left', { leftAt: null }, {}, 0],
    ['its node is a member again', {}, { ring: ring(5) }, 0],
    ['a pod has it', {}, { inUse: new Set(['data-f-postgresql-4']) }, 0],
    ['it is on its way already', { isBeingDeleted: true }, {}, 0],
    ['its time cannot be read', { leftAt: '2026-01-01' }, {}, 0],
    ['its time lies in the future', { leftAt: '20990101T000000Z' }, {}, 0],
    ['its name has no ordinal', { name: 'data' }, {}, 0],
  ])('%s', (_name, of, over, count) => {
    expect(going([claim(of)], over)).toBe(count);
  });

  test('ages are whole hours, minutes and seconds, strictly', () => {
    expect(['168h', '1h30m', '90s', '0s', '2m3s'].map(parseDurationMs)).toEqual([
      604_800_000, 5_400_000, 90_000, 0, 123_000,
    ]);
    for (const bad of ['', '7d', '1.5h', '-1h', '1m1h', ' 1h', '1h ', 'h', '10'])
      expect(parseDurationMs(bad), bad).toBeNull();
  });

  test('times of leaving are read strictly', () => {
    expect(parseLeftAt('20260102T030405Z')).toBe(Date.parse('2026-01-02T03:04:05Z'));
    for (const bad of ['', '20260231T000000Z', '20260102T250000Z', '2026-01-02T03:04:05Z', '20260102T030405'])
      expect(parseLeftAt(bad), bad).toBeNull();
  });
});

test('a merge patch takes away what is not there any more', () => {
  expect(mergePatch({ a: 1, b: { c: 1, d: 2 }, e: [1] }, { b: { c: 1 }, e: [2], f: 3 })).toEqual({
    a: null,
    b: { c: 1, d: null },
    e: [2],
    f: 3,
  });
});
