/**
 * The plain request: a strict subset of HTTP/1.1 that is read without the full parser. Pure.
 *
 * Holds: what is read here every HTTP parser reads the same way: POST to a path of events, HTTP/1.1, lines that end with CRLF and nothing else, names of letters,
 * digits and hyphens, printable ASCII in values, no header twice, one Host, one Content-Length of plain digits, and no header that changes what the request means or
 * where it ends. Anything else is no plain request, and for the full stack to judge.
 */
import { carriesEvents } from './understand.ts';

export interface PlainHead {
  /** Path with query. */
  readonly target: string;
  readonly path: string;
  readonly host: string;
  /** Header lines as they came: without Host, Content-Length, Connection and X-Forwarded-For. */
  readonly kept: string;
  readonly anonymousId: string | undefined;
  readonly forwardedFor: string;
  /** Whether somebody before us has named them. */
  readonly hasForwardedHost: boolean;
  readonly hasForwardedProto: boolean;
  /** Where the body begins; how long it is. */
  readonly bodyAt: number;
  readonly bodyLength: number;
}

export const PLAIN_HEAD_BYTES_MAX = 8 * 1_024;
export const PLAIN_BODY_BYTES_MAX = 64 * 1_024;
const PLAIN_HEADERS_MAX = 64;

const LF = 0x0a;
const CR = 0x0d;
const COLON = 0x3a;

const charTable = (allowed: RegExp): Uint8Array =>
  Uint8Array.from({ length: 256 }, (_, c) => (allowed.test(String.fromCharCode(c)) ? 1 : 0));
const inName = charTable(/[A-Za-z0-9-]/);
const inValue = charTable(/[\x20-\x7e]/);
const plainQuery = /^[A-Za-z0-9_.~=&-]*$/;
const plainHost = /^[A-Za-z0-9.:[\]_-]{1,255}$/;
const plainLength = /^[1-9][0-9]{0,6}$/;

/** What a header means here. `odd`: it changes what the request means. */
type Kind =
  | 'host'
  | 'content-length'
  | 'connection'
  | 'anonymousid'
  | 'x-forwarded-for'
  | 'x-forwarded-host'
  | 'x-forwarded-proto'
  | 'odd';
const kinds: readonly (readonly [name: string, kind: Kind])[] = [
  ...(
    [
      'host',
      'content-length',
      'connection',
      'anonymousid',
      'x-forwarded-for',
      'x-forwarded-host',
      'x-forwarded-proto',
    ] as const
  ).map((name) => [name, name] as const),
  ...[
    'transfer-encoding',
    'content-encoding',
    'expect',
    'upgrade',
    'http2-settings',
    'te',
    'trailer',
    'keep-alive',
    'proxy-connection',
  ].map((name) => [name, 'odd'] as const),
];
/** Of a name in any case. Two names with the same hash count as the same: that only sends more to the full stack. */
const hashStep = (hash: number, c: number): number => (Math.imul(hash, 31) + (c | 0x20)) | 0;
const hashOf = (name: string): number => [...name].reduce((hash, c) => hashStep(hash, c.charCodeAt(0)), 0);
const kindByHash = new Map(kinds.map(([name, kind]) => [hashOf(name), { name, kind }]));
const seen = new Int32Array(PLAIN_HEADERS_MAX);

/** The head at the start of `text`, which is latin1; null: it is no plain request, or not there as a whole. */
export function readPlainHead(text: string): PlainHead | null {
  if (!text.startsWith('POST /')) return null;
  const lineEnd = text.indexOf('\r', 6);
  if (lineEnd < 0 || text.charCodeAt(lineEnd + 1) !== LF || !text.startsWith(' HTTP/1.1', lineEnd - 9)) return null;
  const target = text.slice(5, lineEnd - 9);
  const queryAt = target.indexOf('?');
  const path = queryAt < 0 ? target : target.slice(0, queryAt);
  if (!carriesEvents('POST', path)) return null;
  if (queryAt >= 0 && !plainQuery.test(target.slice(queryAt + 1))) return null;

  let host = '';
  let length = '';
  let anonymousId: string | undefined;
  let forwardedFor = '';
  let hasForwardedHost = false;
  let hasForwardedProto = false;
  let kept = '';
  let count = 0;
  let at = lineEnd + 2;
  let keptFrom = at;
  for (;;) {
    const lineAt = at;
    let c = text.charCodeAt(at);
    if (c === CR) break;
    let hash = 0;
    while (inName[c]) {
      hash = hashStep(hash, c);
      at += 1;
      c = text.charCodeAt(at);
    }
    if (c !== COLON || at === lineAt) return null;
    const valueAt = at + 1;
    do {
      at += 1;
      c = text.charCodeAt(at);
    } while (inValue[c]);
    if (c !== CR || text.charCodeAt(at + 1) !== LF) return null;
    at += 2;
    for (let nth = 0; nth < count; nth += 1) if (seen[nth] === hash) return null;
    if (count === PLAIN_HEADERS_MAX) return null;
    seen[count] = hash;
    count += 1;
    const known = kindByHash.get(hash);
    if (known === undefined) continue;
    if (text.slice(lineAt, valueAt - 1).toLowerCase() !== known.name) return null;
    const value = text.slice(valueAt, at - 2).trim();
    switch (known.kind) {
      case 'host':
        if (!plainHost.test(value)) return null;
        host = value;
        break;
      case 'content-length':
        if (!plainLength.test(value)) return null;
        length = value;
        break;
      case 'connection':
        if (value.toLowerCase() !== 'keep-alive') return null;
        break;
      case 'x-forwarded-for':
        forwardedFor = value;
        break;
      case 'anonymousid':
        anonymousId = value;
        continue;
      case 'x-forwarded-host':
        hasForwardedHost = true;
        continue;
      case 'x-forwarded-proto':
        hasForwardedProto = true;
        continue;
      case 'odd':
        return null;
    }
    // Not kept.
    if (keptFrom < lineAt) kept += text.slice(keptFrom, lineAt);
    keptFrom = at;
  }
  if (text.charCodeAt(at + 1) !== LF || host === '' || length === '') return null;
  if (keptFrom < at) kept += text.slice(keptFrom, at);
  const bodyAt = at + 2;
  const bodyLength = Number(length);
  if (bodyAt > PLAIN_HEAD_BYTES_MAX || bodyLength > PLAIN_BODY_BYTES_MAX) return null;
  return {
    target,
    path,
    host,
    kept,
    anonymousId,
    forwardedFor,
    hasForwardedHost,
    hasForwardedProto,
    bodyAt,
    bodyLength,
  };
}
