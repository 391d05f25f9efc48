/**
 * The user key of one event, found in the text of its body without parsing all of it.
 *
 * Holds, for every text that JSON.parse accepts: either `in doubt`, or exactly what `understand` finds. A text that JSON.parse refuses may give a key where `understand`
 * finds none: it goes to the owner of that key instead of to any node, and every node refuses it (400) without storing anything.
 */
import { userKeyOfEvent } from '../ring/partition.ts';
import { endOfValue, skipSpace } from './json-text.ts';

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;

/**
 * `text`: the bytes of the body as latin1, from `from` to its end.
 * `in doubt`: parse it. `null`: it names no user.
 */
export function findUserKey(
  text: string,
  from: number,
  anonymousIdHeader: string | undefined,
): { userKey: string } | null | 'in doubt' {
  let anonymousId = '';
  let userId = '';
  let at = skipSpace(text, from);
  if (text.charCodeAt(at) !== OPEN_BRACE) return 'in doubt';
  at = skipSpace(text, at + 1);
  for (;;) {
    if (text.charCodeAt(at) !== QUOTE) return 'in doubt';
    const keyEnd = endOfPlainString(text, at);
    if (keyEnd < 0) return 'in doubt'; // an escaped key may be one of ours
    const isUserId = keyEnd - at === 8 && text.startsWith('userId', at + 1);
    const isAnonymousId = keyEnd - at === 13 && text.startsWith('anonymousId', at + 1);
    at = skipSpace(text, keyEnd);
    if (text.charCodeAt(at) !== COLON) return 'in doubt';
    at = skipSpace(text, at + 1);
    if (isUserId || isAnonymousId) {
      if (text.charCodeAt(at) !== QUOTE) return 'in doubt'; // null, a number: JSON.parse knows how it is written
      const end = endOfPlainString(text, at);
      if (end < 0) return 'in doubt';
      // Of two fields of the same name the last counts.
      if (isUserId) userId = decoded(text.slice(at + 1, end - 1));
      else anonymousId = decoded(text.slice(at + 1, end - 1));
      at = end;
    } else {
      at = endOfValue(text, at);
      if (at < 0) return 'in doubt';
    }
    at = skipSpace(text, at);
    const next = text.charCodeAt(at);
    at = skipSpace(text, at + 1);
    if (next === COMMA) continue;
    if (next !== CLOSE_BRACE || at !== text.length) return 'in doubt';
    const userKey = userKeyOfEvent({ anonymousId, userId }, anonymousIdHeader);
    return userKey === null ? null : { userKey };
  }
}

/** As a text that was decoded whole: a character never reaches over a quote, also where it is broken. */
function decoded(latin1: string): string {
  for (let at = 0; at < latin1.length; at += 1) {
    if (latin1.charCodeAt(at) > 0x7f) return Buffer.from(latin1, 'latin1').toString('utf8');
  }
  return latin1;
}

/** Past the closing quote of a string that holds neither escapes nor control characters; −1: it does, or does not end. */
function endOfPlainString(text: string, from: number): number {
  for (let at = from + 1; at < text.length; at += 1) {
    const c = text.charCodeAt(at);
    if (c === QUOTE) return at + 1;
    if (c === BACKSLASH || c < 0x20) return -1;
  }
  return -1;
}
