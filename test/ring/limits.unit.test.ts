import { describe, expect, test } from 'vitest';
import { DEFAULT_LIMITS, type LimitsChange } from '../../ring/limits.ts';
import { fold, limitsOf, noRing, type Ring } from '../../ring/ring.ts';
import { apply, by, draw, given, ringOf } from './drawing.ts';

const set = (change: LimitsChange) => ({ type: 'set limits', change }) as const;

describe('the limits of moves', () => {
  test('are the defaults until somebody sets them', () => expect(limitsOf(ringOf(['a', 'b']))).toEqual(DEFAULT_LIMITS));

  test('are set also while an operation holds the ring, and change nothing else of it', () => {
    const frozen = apply(ringOf(['a', 'b']), { type: 'freeze', by: by('run-1') });
    const after = given(frozen)
      .when(set({ brake: 'off' }))
      .thenDrawn(draw(frozen));
    expect(limitsOf(after)).toEqual({ ...DEFAULT_LIMITS, brake: 'off' });
    expect({ ...after, limits: frozen.limits }).toEqual({ ...frozen, version: frozen.version + 1 });
  });

  test('keep what a change does not name, and the version at which each was set', () => {
    const ring = apply(ringOf(['a', 'b']), set({ bytesPerSecond: 20_000_000 }), set({ movesPerNode: 2 }));
    expect(limitsOf(ring)).toEqual({ ...DEFAULT_LIMITS, bytesPerSecond: 20_000_000, movesPerNode: 2 });
    expect(ring.limits!.setAt).toEqual({ bytesPerSecond: 2, movesPerNode: 3 });
  });

  test('are set no second time to what they are set to', () =>
    given(apply(ringOf(['a']), set({ commitMsMax: 80 })))
      .when(set({ commitMsMax: 80, brake: 'default' }))
      .thenNothing());

  test('can be set to what the default is, so that another default of a later version does not change them', () => {
    const ring = apply(ringOf(['a']), set({ brake: 'on' }));
    expect(ring.limits!.setAt).toEqual({ brake: 2 });
  });

  test('go back to the default by name', () => {
    const ring = apply(
      ringOf(['a']),
      set({ bytesPerSecond: 200_000, brake: 'off' }),
      set({ bytesPerSecond: 'default' }),
    );
    expect(limitsOf(ring)).toEqual({ ...DEFAULT_LIMITS, brake: 'off' });
    expect(ring.limits!.setAt).toEqual({ brake: 2 });
  });

  test.each<[string, object, RegExp]>([
    ['a rate that would never end', { bytesPerSecond: 99_999 }, /bytesPerSecond must be a whole number from 100000 to/],
    ['a rate that is no whole number', { bytesPerSecond: 200_000.5 }, /bytesPerSecond/],
    ['a brake that is neither on nor off', { brake: true }, /brake must be on or off/],
    ['no latency at all', { commitMsMax: 0 }, /commitMsMax must be a whole number from 1 to 60000/],
    [
      'a delay that no node can hold',
      { queueDelayMsMax: 9 },
      /queueDelayMsMax must be a whole number from 10 to 3600000/,
    ],
    ['no move at all', { movesPerNode: 0 }, /movesPerNode must be a whole number from 1 to 16/],
    ['null where there must be a number', { movesPerNode: null }, /movesPerNode/],
    ['a limit that does not exist', { rows: 5 }, /there is no limit rows/],
  ])('%s is refused, and the refusal names field and range', (_what, change, message) => {
    const command = set(change as LimitsChange);
    given(ringOf(['a']))
      .when(command)
      .thenRefused('LIMITS_INVALID');
    expect(() => apply(ringOf(['a']), command)).toThrow(message);
  });

  test('of a cluster that does not exist are refused', () =>
    given(noRing('test'))
      .when(set({ brake: 'off' }))
      .thenRefused('CLUSTER_UNKNOWN'));

  test('are the defaults in a ring that an older version has kept, and can be set there', () => {
    const { limits: _, ...kept } = ringOf(['a', 'b']);
    expect(limitsOf(kept as Ring)).toEqual(DEFAULT_LIMITS);
    const event = { type: 'limits set', change: { brake: 'off' } } as const;
    const recorded = { clusterId: 'test', version: 2, id: 'x', event, actor: '', reason: '', operation: null };
    const after = fold(kept as Ring, [{ ...recorded, at: '', hash: '', previousHash: '' }]);
    expect(limitsOf(after).brake).toBe('off');
  });

  test('that a newer version has set and this one does not know are left alone', () => {
    const change = { brake: 'off', coffee: 3 } as LimitsChange;
    const recorded = { clusterId: 'test', version: 2, id: 'x', event: { type: 'limits set', change } as const };
    const rest = { actor: '', reason: '', operation: null, at: '', hash: '', previousHash: '' };
    const after = fold(ringOf(['a', 'b']), [{ ...recorded, ...rest }]);
    expect(limitsOf(after)).toEqual({ ...DEFAULT_LIMITS, brake: 'off' });
    expect(after.notUnderstood).toEqual([]);
  });
});
