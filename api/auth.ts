/** The bearer token. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { CodedError } from '../kit/errors.ts';

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();

/** Compares digests in constant time: neither the token's length nor its first wrong letter shows in how long it takes. Throws UNAUTHORIZED. */
export function tokenGuard(token: string): (authorization: string | undefined) => void {
  const expected = digest(token);
  return (authorization) => {
    const given = /^Bearer +(\S+)$/i.exec(authorization ?? '')?.[1];
    if (given === undefined || !timingSafeEqual(digest(given), expected)) {
      throw new CodedError('UNAUTHORIZED', given === undefined ? 'a bearer token is needed' : 'the token is wrong');
    }
  };
}
