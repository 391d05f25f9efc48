/** Requests and bodies that are odd, broken or hostile: by hand, and from seeds. */
import { seededRandom } from '../../dev/traffic/random.ts';

export const bytes = (text: string): Buffer => Buffer.from(text, 'latin1');
export const event = (userId: string, more: object = {}): string => JSON.stringify({ userId, messageId: 'm', ...more });
export const post = (body: string, lines: readonly string[] = [], first = 'POST /v1/track HTTP/1.1'): string =>
  [first, 'Host: h', ...lines, `Content-Length: ${Buffer.byteLength(body, 'latin1')}`, '', body].join('\r\n');
/** The last one of a connection: whoever has understood all before it answers it, and closes. */
export const LAST = 'GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n';

export const ODD: readonly (readonly [what: string, text: string])[] = [
  ['a plain request', post(event('u')) + LAST],
  ['three plain requests at once', post(event('u')) + post(event('v')) + post(event('w')) + LAST],
  [
    'a plain request, then one in chunks',
    `${post(event('u'))}POST /v1/track HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n{"userId":"chunked"}\r\n0\r\n\r\n${LAST}`,
  ],
  [
    'Content-Length and Transfer-Encoding',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${post(event('smuggled'))}`,
  ],
  [
    'Transfer-Encoding and Content-Length',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n${post(event('smuggled'))}`,
  ],
  ['two lengths', post(event('u'), ['Content-Length: 5']) + LAST],
  ['two equal lengths', post('{"userId":"u"}', ['Content-Length: 14']) + LAST],
  ['a length with a sign', `POST /v1/track HTTP/1.1\r\nHost: h\r\nContent-Length: +14\r\n\r\n{"userId":"u"}${LAST}`],
  ['a negative length', `POST /v1/track HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n${LAST}`],
  ['a length with a space', `POST /v1/track HTTP/1.1\r\nHost: h\r\nContent-Length: 1 4\r\n\r\n{"userId":"u"}${LAST}`],
  [
    'a length that is a list',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nContent-Length: 14, 14\r\n\r\n{"userId":"u"}${LAST}`,
  ],
  [
    'a length of many digits',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551630\r\n\r\n{"userId":"u"}${LAST}`,
  ],
  [
    'chunks in mixed case',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: ChUnKeD\r\n\r\ne\r\n{"userId":"u"}\r\n0\r\n\r\n${LAST}`,
  ],
  [
    'a coding before chunks',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n${LAST}`,
  ],
  [
    'a coding after chunks',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n${LAST}`,
  ],
  [
    'a coding of another name',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n${LAST}`,
  ],
  [
    'two codings',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n${LAST}`,
  ],
  [
    'a space before the colon',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\nContent-Length: 2\r\n\r\n{}${LAST}`,
  ],
  [
    'a folded coding',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nX-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}${LAST}`,
  ],
  [
    'a bad chunk size',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n${LAST}`,
  ],
  [
    'a chunk size that overflows',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n{}\r\n0\r\n\r\n${LAST}`,
  ],
  [
    'a negative chunk size',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n${LAST}`,
  ],
  [
    'a chunk that is longer than its size',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n${LAST}`,
  ],
  ['lines that end with LF', `POST /v1/track HTTP/1.1\nHost: h\nContent-Length: 2\n\n{}${LAST}`],
  [
    'a bare LF in a value',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nX-A: b\nContent-Length: 5\r\nContent-Length: 2\r\n\r\n{}${LAST}`,
  ],
  [
    'a bare CR in a value',
    `POST /v1/track HTTP/1.1\r\nHost: h\r\nX-A: b\rX-B: c\r\nContent-Length: 2\r\n\r\n{}${LAST}`,
  ],
  ['NUL in a value', post(event('u'), ['X-A: a\0b']) + LAST],
  ['NUL in a path', post(event('u'), [], 'POST /v1/tr\0ck HTTP/1.1') + LAST],
  ['the absolute form', post(event('u'), [], 'POST http://h/v1/track HTTP/1.1') + LAST],
  ['a lower-case method', post(event('u'), [], 'post /v1/track HTTP/1.1') + LAST],
  ['an odd method', post(event('u'), [], 'PROPFIND /v1/track HTTP/1.1') + LAST],
  ['a method of nobody', post(event('u'), [], 'BREW /v1/track HTTP/1.1') + LAST],
  ['CONNECT', `CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n${LAST}`],
  ['HTTP/1.0', post(event('u'), [], 'POST /v1/track HTTP/1.0') + LAST],
  ['HTTP/2.0', post(event('u'), [], 'POST /v1/track HTTP/2.0') + LAST],
  ['the preface of HTTP/2', `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${LAST}`],
  ['no host', `POST /v1/track HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}${LAST}`],
  ['two hosts', post(event('u'), ['Host: other']) + LAST],
  ['a header twice', post(event('u'), ['AnonymousId: a', 'anonymousid: b', 'User-Agent: a', 'user-agent: b']) + LAST],
  [
    'a flood of headers',
    post(
      event('u'),
      Array.from({ length: 3_000 }, (_, n) => `X-${n}: ${n}`),
    ) + LAST,
  ],
  ['a header that is too long', post(event('u'), [`X-A: ${'a'.repeat(40_000)}`]) + LAST],
  ['bytes above ASCII in a value', post(event('u'), ['X-A: \xe9\xff']) + LAST],
  [
    'hop-by-hop headers',
    post(event('u'), ['Connection: keep-alive, X-A', 'X-A: secret', 'TE: trailers', 'Keep-Alive: 5']) + LAST,
  ],
  ['an upgrade', post(event('u'), ['Connection: Upgrade, close', 'Upgrade: h2c'])],
  [
    'who came before',
    post(event('u'), ['X-Forwarded-For: 10.0.0.1', 'X-Forwarded-Proto: https', 'X-Forwarded-Host: a']) + LAST,
  ],
  ['a query', post(event('u'), [], 'POST /v1/identify?a=b HTTP/1.1') + LAST],
  ['an encoded path', post(event('u'), [], 'POST /v1/%74rack HTTP/1.1') + LAST],
  ['a path that leaves', post(event('u'), [], 'POST /v1/../control HTTP/1.1') + LAST],
  ['a body with an empty user', post('{"userId":""}') + LAST],
  ['a body that is no JSON', post('{"userId":') + LAST],
  ['a batch', post(`{"batch":[${event('u')},${event('u')}]}`, [], 'POST /v1/batch HTTP/1.1') + LAST],
  ['garbage', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'],
  ['a body that never comes', 'POST /v1/track HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\n{"userId"'],
  ['a head that never ends', 'POST /v1/track HTTP/1.1\r\nHost: h\r\nContent-'],
];

/** One request, mostly nearly right, in one or more pieces. Its target ends with `s=` and the seed, unless that was broken. */
export function oddPieces(seed: number): Buffer[] {
  const random = seededRandom(seed);
  const some = (n: number): number => Math.floor(random() * n);
  const pick = <T>(of: readonly T[]): T => of[some(of.length)]!;
  const body = pick([event(`u${some(9)}`), event('Zoë'), '{"anonymousId":"a"}', '{}', '', '{"userId":7}']);
  const latin1 = Buffer.from(body).toString('latin1');
  const lengths = [
    `Content-Length: ${latin1.length}`,
    ...(random() < 0.8
      ? []
      : [
          pick([
            'Content-Length: 1',
            `content-length: ${latin1.length}`,
            'Transfer-Encoding: chunked',
            'Content-Length: 0',
          ]),
        ]),
  ];
  const more = Array.from({ length: some(4) }, () =>
    pick([
      'AnonymousId: a',
      'anonymousid:b ',
      'User-Agent: x',
      'Connection: keep-alive',
      'Connection: close',
      'X-A:',
      'X-A: \xe9',
      'Expect: 100-continue',
      'Accept: */*',
      'X-Forwarded-For: 1.2.3.4',
      'X_B: 1',
      'Content-Encoding: gzip',
      'Cookie: a=b',
      'TE: trailers',
    ]),
  );
  const first =
    random() < 0.8
      ? `POST /v1/track?s=${seed} HTTP/1.1`
      : pick([
          `POST /v1/batch?s=${seed} HTTP/1.1`,
          `POST /v1/track?a=1&s=${seed} HTTP/1.1`,
          `GET /v1/sourceConfig?s=${seed} HTTP/1.1`,
          `POST /v2/x?s=${seed} HTTP/1.1`,
          `POST /v1/track?s=${seed} HTTP/1.0`,
          `PUT /v1/track?s=${seed} HTTP/1.1`,
          `GET /pixel/v1/track?userId=u&s=${seed} HTTP/1.1`,
        ]);
  const lines = random() < 0.95 ? ['Host: h', ...lengths, ...more] : [...more, ...lengths];
  const end = random() < 0.97 ? '\r\n' : '\n';
  let text = [first, ...lines.sort(() => random() - 0.5), '', latin1].join(end);
  if (random() < 0.3) {
    const at = some(text.length);
    text = pick([
      () => text.slice(0, at) + String.fromCharCode(some(256)) + text.slice(at + 1),
      () => text.slice(0, at) + text.slice(at + 1),
      () => text.slice(0, at) + pick(['\r\n', '\0', ' ', ':', ',', '\n', '\t']) + text.slice(at),
    ])();
  }
  const all = bytes(text);
  if (random() < 0.5) return [all];
  const cuts = Array.from({ length: 1 + some(4) }, () => some(all.length)).sort((a, b) => a - b);
  return [0, ...cuts].map((cut, nth) => all.subarray(cut, cuts[nth] ?? all.length)).filter((piece) => piece.length > 0);
}

/** JSON with a user, then broken in some way, or bytes that are nothing; never empty. */
export function fuzzedBody(seed: number): Buffer {
  const random = seededRandom(seed);
  const some = (n: number): number => Math.floor(random() * n);
  const one = (): string =>
    event(`user-${some(50)}`, {
      nested: { userId: 'no', list: [1, { a: '"}' }] },
      text: String.fromCharCode(some(0xffff)),
    });
  if (random() < 0.2) return Buffer.from(Array.from({ length: 1 + some(400) }, () => some(256)));
  if (random() < 0.05) return Buffer.from('['.repeat(1 + some(30_000)));
  const body = Buffer.from(seed % 10 === 0 ? `{"batch":[${one()},${one()}]}` : one());
  for (let n = some(4); n > 0; n -= 1) body[some(body.length)] = some(256);
  return random() < 0.2 ? body.subarray(0, 1 + some(body.length)) : body;
}

/** A JSON text, odd in all the ways that JSON allows. */
export function oddJson(random: () => number): string {
  const some = (n: number): number => Math.floor(random() * n);
  const pick = <T>(of: readonly T[]): T => of[some(of.length)]!;
  const space = (): string => (random() < 0.2 ? pick([' ', '\n', '\t', '\r\n', '  ']) : '');
  const text = (): string =>
    pick([
      () => `"u-${some(5)}"`,
      () => '""',
      () => '"a\\u0041\\n\\"}{,:"',
      () => '"Zoë 日本 𝒳"',
      () => '"\\ud800"',
      () => '"}],{\\\\"',
      () => '"userId"',
      () => JSON.stringify(String.fromCharCode(some(0x10000), some(0x300))),
      () => '"\\u0000x"',
    ])();
  const number = (): string => pick(['0', '-0', '1e3', '12345678901234567890', '1.50', '-1E-7', '1e400']);
  const value = (depth: number): string =>
    pick([
      text,
      text,
      number,
      () => pick(['true', 'false', 'null']),
      () => (depth > 3 ? '[]' : `[${space()}${list(() => value(depth + 1))}${space()}]`),
      () => (depth > 3 ? '{}' : object(depth + 1)),
    ])();
  const list = (one: () => string): string => Array.from({ length: some(4) }, one).join(`${space()},${space()}`);
  const key = (): string =>
    pick(['"userId"', '"anonymousId"', '"userId"', '"user\\u0049d"', '"UserId"', '"a"', '"__proto__"', '""', text()]);
  const object = (depth: number): string =>
    `{${space()}${list(() => `${key()}${space()}:${space()}${value(depth)}`)}${space()}}`;
  return space() + (random() < 0.95 ? object(0) : value(0)) + space();
}
