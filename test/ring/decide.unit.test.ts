import { describe, expect, test } from 'vitest';
import { decide } from '../../ring/decide.ts';
import type { MoveCertificate, RecordedEvent, RingEvent } from '../../ring/events.ts';
import { evolve, fold, noRing, type Ring } from '../../ring/ring.ts';
import { certificateFor } from '../support/certificate.ts';
import { apply, by, draw, facts, given, ringOf } from './drawing.ts';

const frozen = (): Ring => apply(ringOf(['a', 'b']), { type: 'freeze', by: by('run-1') });
const start = (move = 'm1', from = 'a', to = 'b', partitions = [0]) =>
  ({ type: 'start move', holder: 1, move, from, to, partitions }) as const;
const moving = (): Ring => apply(frozen(), start());
const claimed = (attempt = 'x'): Ring => apply(moving(), { type: 'claim move', holder: 1, move: 'm1', attempt });
const proof = { jobsPending: 0, jobsCopied: 0, prefixes: [] };
const tokenOf = (ring: Ring): number => ring.moves[0]!.token;

describe('making a ring', () => {
  test('gives each node a run of partitions', () =>
    expect(draw(ringOf(['a', 'b', 'c'], 8))).toBe('e1 {a b c} [a a a b b b c c]'));
  test('is refused for a count that is no power of two', () =>
    given(noRing('test'))
      .when({ type: 'make ring', clusterId: 'test', partitionCount: 48, nodes: [facts('a')] })
      .thenRefused('PARTITION_COUNT'));
  test('is refused for a cluster that exists', () =>
    given(ringOf(['a']))
      .when({ type: 'make ring', clusterId: 'test', partitionCount: 4, nodes: [facts('a')] })
      .thenRefused('CLUSTER_EXISTS'));
  test('is refused for more nodes than partitions', () =>
    given(noRing('test'))
      .when({ type: 'make ring', clusterId: 'test', partitionCount: 1, nodes: [facts('a'), facts('b')] })
      .thenRefused('PARTITION_COUNT'));
  test('comes before everything else', () =>
    given(noRing('test'))
      .when({ type: 'freeze', by: by('run-1') })
      .thenRefused('CLUSTER_UNKNOWN'));
});

describe('freezing', () => {
  test('one operation holds the ring', () =>
    given(ringOf(['a', 'b']))
      .when({ type: 'freeze', by: by('run-1') })
      .thenDrawn('e1 {a b} [a a b b] frozen:run-1#1'));
  test('again by the same run changes nothing', () =>
    given(frozen())
      .when({ type: 'freeze', by: by('run-1') })
      .thenNothing());
  test('is refused to another run', () =>
    given(frozen())
      .when({ type: 'freeze', by: by('run-2') })
      .thenRefused('RING_BUSY'));
  test('may be taken over from the holder that was seen dead, with a higher number', () =>
    given(frozen())
      .when({ type: 'freeze', by: by('run-2'), takeOverFrom: 1 })
      .thenDrawn('e1 {a b} [a a b b] frozen:run-2#2'));
  test('is not taken over from a holder that has changed since it was seen', () => {
    const taken = apply(frozen(), { type: 'freeze', by: by('run-2'), takeOverFrom: 1 });
    given(taken)
      .when({ type: 'freeze', by: by('run-3'), takeOverFrom: 1 })
      .thenRefused('RING_BUSY');
  });
  test('appends of the old holder are refused after a take-over', () => {
    const taken = apply(frozen(), { type: 'freeze', by: by('run-2'), takeOverFrom: 1 });
    given(taken).when(start()).thenRefused('RING_NOT_HELD');
    given(taken).when({ type: 'unfreeze', holder: 1 }).thenNothing();
  });
  test('does not end while a move is started', () =>
    given(moving()).when({ type: 'unfreeze', holder: 1 }).thenRefused('MOVES_OPEN'));
});

describe('a move', () => {
  test('starts only while the ring is held', () =>
    given(ringOf(['a', 'b']))
      .when(start())
      .thenRefused('RING_NOT_HELD'));
  test('starts from the owner', () =>
    given(frozen())
      .when(start('m1', 'b', 'a', [0]))
      .thenRefused('MOVE_INVALID'));
  test('starts to a member', () =>
    given(frozen())
      .when(start('m1', 'a', 'c'))
      .thenRefused('NODE_UNKNOWN'));
  test('starts with partitions that no other move names', () =>
    given(moving()).when(start('m2')).thenRefused('MOVE_INVALID'));
  test('is not started for a partition whose last move is not cleaned up', () => {
    const over = apply(claimed(), { type: 'hand over', move: 'm1', token: tokenOf(claimed()), proof });
    given(over)
      .when(start('m2', 'b', 'a', [0]))
      .thenRefused('MOVES_OPEN');
  });
  test('hands over under its latest claim, and the epoch grows by one', () =>
    given(claimed())
      .when({ type: 'hand over', move: 'm1', token: tokenOf(claimed()), proof })
      .thenDrawn('e2 {a b} [b a b b] frozen:run-1#1 moves{m1:0:a→b!}'));
  test('is not handed over by an attempt that was overtaken', () => {
    const again = apply(claimed(), { type: 'claim move', holder: 1, move: 'm1', attempt: 'y' });
    given(again)
      .when({ type: 'hand over', move: 'm1', token: tokenOf(claimed()), proof })
      .thenRefused('STALE_TOKEN');
  });
  test('is not handed over unclaimed', () =>
    given(moving()).when({ type: 'hand over', move: 'm1', token: 3, proof }).thenRefused('STALE_TOKEN'));
  test('handed over twice by one attempt is handed over once', () => {
    const over = apply(claimed(), { type: 'hand over', move: 'm1', token: tokenOf(claimed()), proof });
    given(over)
      .when({ type: 'hand over', move: 'm1', token: tokenOf(claimed()), proof })
      .thenNothing();
  });
  test('claimed twice by one attempt is claimed once', () =>
    given(claimed('x')).when({ type: 'claim move', holder: 1, move: 'm1', attempt: 'x' }).thenNothing());
  test('once aborted it is not handed over', () => {
    const aborted = apply(claimed(), { type: 'abort move', move: 'm1', because: 'dead-man' });
    given(aborted)
      .when({ type: 'hand over', move: 'm1', token: tokenOf(claimed()), proof })
      .thenRefused('MOVE_ABORTED');
    expect(draw(aborted)).toBe('e1 {a b} [a a b b] frozen:run-1#1');
  });
  test('once handed over it is not aborted', () => {
    const over = apply(claimed(), { type: 'hand over', move: 'm1', token: tokenOf(claimed()), proof });
    given(over).when({ type: 'abort move', move: 'm1', because: 'late' }).thenRefused('MOVE_HANDED_OVER');
  });
  test('is completed only after its hand-over', () =>
    given(claimed())
      .when({ type: 'complete move', move: 'm1', certificate: certificateFor(claimed(), 'm1') })
      .thenRefused('MOVE_INVALID'));

  describe('that was handed over', () => {
    const proven = { jobsPending: 5, jobsCopied: 6, prefixes: [{ prefix: 'gw', pending: 5, digest: '1' }] };
    const over = (): Ring =>
      apply(claimed(), { type: 'hand over', move: 'm1', token: tokenOf(claimed()), proof: proven });
    const fitting = (): MoveCertificate => certificateFor(over(), 'm1');
    const complete = (certificate: MoveCertificate) =>
      given(over()).when({ type: 'complete move', move: 'm1', certificate });

    test('is completed with a certificate that fits its proof, and the event carries it', () => {
      complete(fitting()).thenDrawn('e2 {a b} [b a b b] frozen:run-1#1');
      expect(decide(over(), { type: 'complete move', move: 'm1', certificate: fitting() })).toEqual([
        { type: 'move completed', move: 'm1', certificate: fitting() },
      ]);
    });
    test('is not completed without a certificate, which older versions did', () =>
      complete(undefined as unknown as MoveCertificate).thenRefused('CERTIFICATE_MISMATCH'));
    test('is completed where somebody accepts the difference and says who and why; it is told from then on', () => {
      const accepted = { by: 'ada', reason: 'a test event', difference: 'gw: 5 against 4' };
      const accept = (some: Partial<typeof accepted> = {}) =>
        given(over()).when({ type: 'accept difference', move: 'm1', accepted: { ...accepted, ...some } });
      const ring = accept().thenDrawn('e2 {a b} [b a b b] frozen:run-1#1');
      expect(ring.losses).toEqual([
        {
          version: ring.version,
          kind: 'difference',
          move: 'm1',
          by: 'ada',
          reason: 'a test event',
          what: 'gw: 5 against 4',
        },
      ]);
      given(ring).when({ type: 'accept difference', move: 'm1', accepted }).thenNothing();
      accept({ reason: ' ' }).thenRefused('REASON_NEEDED');
      accept({ by: '' }).thenRefused('REASON_NEEDED');
      given(claimed()).when({ type: 'accept difference', move: 'm1', accepted }).thenRefused('MOVE_INVALID');
    });
    test('is not completed with a certificate of another hand-over', () =>
      complete({ ...fitting(), handedOverAt: 3 }).thenRefused('CERTIFICATE_MISMATCH'));
    test('is not completed with other numbers than were proven', () => {
      const [gw] = fitting().tables;
      const less = { ...gw!, jobs: 4, partitions: [[0, 4, '7', '9', 1, 4, 101, 104] as const] };
      complete({ ...fitting(), tables: [less] }).thenRefused('CERTIFICATE_MISMATCH');
      complete({ ...fitting(), tables: [{ ...gw!, partitions: less.partitions }] }).thenRefused('CERTIFICATE_MISMATCH');
      complete({ ...fitting(), tables: [] }).thenRefused('CERTIFICATE_MISMATCH');
    });
    test('is not completed with jobs of a partition that it did not move', () => {
      const [gw] = fitting().tables;
      complete({ ...fitting(), tables: [{ ...gw!, partitions: [[1, 5, '7', '9', 1, 5, 101, 105]] }] }).thenRefused(
        'CERTIFICATE_MISMATCH',
      );
    });
    test('in a log of an older version it was completed without one, and is folded all the same', () => {
      const ring = evolve(over(), { type: 'move completed', move: 'm1' });
      expect(draw(ring)).toBe('e2 {a b} [b a b b] frozen:run-1#1');
    });
  });
});

describe('a node', () => {
  test('joins with its database', () =>
    given(frozen())
      .when({ type: 'join node', holder: 1, facts: facts('c') })
      .thenDrawn('e1 {a b c} [a a b b] frozen:run-1#1'));
  test('does not come back with another database', () =>
    given(frozen())
      .when({ type: 'join node', holder: 1, facts: { ...facts('a'), databaseId: 'other' } })
      .thenRefused('NODE_OTHER_DATABASE'));
  test('does not leave while it owns a partition', () =>
    given(frozen()).when({ type: 'leave node', holder: 1, node: 'a' }).thenRefused('NODE_NOT_EMPTY'));
  test('does not leave while a move names it', () => {
    const joined = apply(frozen(), { type: 'join node', holder: 1, facts: facts('c') }, start('m1', 'a', 'c'));
    given(joined).when({ type: 'leave node', holder: 1, node: 'c' }).thenRefused('NODE_NOT_EMPTY');
  });
  test('leaves when it is empty, once', () => {
    const joined = apply(frozen(), { type: 'join node', holder: 1, facts: facts('c') });
    const left = given(joined)
      .when({ type: 'leave node', holder: 1, node: 'c' })
      .thenDrawn('e1 {a b} [a a b b] frozen:run-1#1');
    given(left).when({ type: 'leave node', holder: 1, node: 'c' }).thenNothing();
  });
});

describe('an event of an unknown type', () => {
  const recorded = (version: number, event: RingEvent): RecordedEvent => ({
    clusterId: 'test',
    version,
    id: `${version}`,
    event,
    actor: 'x',
    reason: '',
    operation: null,
    at: '',
    hash: '',
    previousHash: '',
  });
  test('is folded, and then nothing is decided', () => {
    const made = decide(noRing('test'), {
      type: 'make ring',
      clusterId: 'test',
      partitionCount: 4,
      nodes: [facts('a')],
    });
    const ring = fold(noRing('test'), [
      recorded(1, made[0]!),
      recorded(2, { type: 'node painted' } as unknown as RingEvent),
    ]);
    expect(ring.owners).toEqual(['a', 'a', 'a', 'a']);
    given(ring)
      .when({ type: 'freeze', by: by('run-1') })
      .thenRefused('RING_TOO_NEW');
  });
  test('a gap in the log is not folded', () =>
    expect(() => fold(noRing('test'), [recorded(2, { type: 'node left', node: 'a' })])).toThrow(/cannot follow/));
});
