import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { murmur3 } from '../../ring/murmur3.ts';
import {
  formatPartitions,
  isPartitionCount,
  partitionIdOf,
  partitionIndexOf,
  partitionOf,
  userKeyOf,
  userKeyOfEvent,
} from '../../ring/partition.ts';

interface Vector {
  key: string;
  hash: number;
  partitionOf64: number;
  partitionOf1024: number;
}
const vectors = JSON.parse(readFileSync(new URL('../data/murmur3-vectors.json', import.meta.url), 'utf8')) as Vector[];

describe('hashing', () => {
  test('there are reference values, made by an independent implementation', () =>
    expect(vectors.length).toBeGreaterThan(10));
  test.each(vectors)('hashes $key as the reference does', ({ key, hash, partitionOf64, partitionOf1024 }) => {
    expect(murmur3(new TextEncoder().encode(key))).toBe(hash);
    expect(partitionOf(key, 64)).toBe(partitionOf64);
    expect(partitionOf(key, 1024)).toBe(partitionOf1024);
  });
  test('a key is hashed as its UTF-8 bytes, whatever it is made of and however long it is', () => {
    const pieces = ['a', '~', '\x00', '\x7f', '\x80', 'é', '語', '🦊'];
    for (let length = 0; length <= 300; length += 1) {
      for (const last of pieces) {
        const key = 'k'.repeat(length) + last;
        const hash = murmur3(new TextEncoder().encode(key));
        expect(partitionOf(key, 65_536), JSON.stringify(key)).toBe(Math.floor(hash / 65_536));
      }
    }
  });
  test('a user key joins header, anonymousId and userId, absent parts empty', () => {
    expect(userKeyOf({ userId: 'u' })).toBe('<<>><<>>u');
    expect(userKeyOf({ anonymousIdHeader: 'h', anonymousId: 'a', userId: 'u' })).toBe('h<<>>a<<>>u');
  });
  test('a partition id carries its index, also where the workspace has dashes', () => {
    expect(partitionIndexOf(partitionIdOf('a-b-7', 12))).toBe(12);
    expect(partitionIndexOf('')).toBeNull();
    expect(partitionIndexOf('workspace')).toBeNull();
  });
  test.each([0, 3, 6, 1.5, -4, 131_072, Number.NaN])('%s is no partition count', (n) =>
    expect(isPartitionCount(n)).toBe(false),
  );
  test.each([1, 2, 64, 65_536])('%s is a partition count', (n) => expect(isPartitionCount(n)).toBe(true));
  test('partitions are written as runs', () => expect(formatPartitions([9, 3, 8, 7])).toBe('3,7-9'));
});

describe('the user key of an event', () => {
  test.each([
    [{ userId: 'ann' }, undefined, '<<>><<>>ann'],
    [{ userId: 7, anonymousId: true }, undefined, '<<>>true<<>>7'],
    [{ userId: Number('12345678901234567890') }, undefined, '<<>><<>>12345678901234567000'],
    [{ userId: { id: 1 }, anonymousId: 'a' }, 'h', 'h<<>>a<<>>'],
    [{ userId: 'a\0b\ud800' }, undefined, '<<>><<>>ab\ufffd'],
    [{}, 'h', 'h<<>><<>>'],
    [{ userId: '', anonymousId: null }, undefined, null],
  ])('of %j with the header %s is %s', (event, header, key) => expect(userKeyOfEvent(event, header)).toBe(key));
});
