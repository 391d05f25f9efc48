/**
 * MurmurHash3, x86 32-bit variant (Austin Appleby, public domain; the reference is SMHasher's MurmurHash3.cpp).
 * Written here because workflows may not import Node's crypto and the result must equal RudderStack's.
 */

const c1 = 0xcc9e2d51;
const c2 = 0x1b873593;
const rotl = (x: number, bits: number): number => (x << bits) | (x >>> (32 - bits));

/** The unsigned 32-bit hash of the first `length` bytes: of all, where it is not given. */
export function murmur3(bytes: Uint8Array, seed = 0, length = bytes.length): number {
  let h = seed | 0;
  const blocksEnd = length & ~3;
  for (let i = 0; i < blocksEnd; i += 4) {
    const k = bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24);
    h ^= scramble(k);
    h = (Math.imul(rotl(h, 13), 5) + 0xe6546b64) | 0;
  }
  let tail = 0;
  for (let i = length - 1; i >= blocksEnd; i -= 1) tail = (tail << 8) | bytes[i]!;
  if (length > blocksEnd) h ^= scramble(tail);
  h ^= length;
  h ^= h >>> 16;
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  h ^= h >>> 16;
  return h >>> 0;
}

function scramble(k: number): number {
  return Math.imul(rotl(Math.imul(k, c1), 15), c2);
}
