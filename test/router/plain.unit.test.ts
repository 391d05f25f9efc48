/**
 * Goal: what the fast path reads by itself is what every parser reads the same way, and the user that it finds is the one that a full parse finds.
 * Method: the two readers alone; requests by hand, bodies from seeds, against `understand`.
 */
import { describe, expect, test } from 'vitest';
import { seededRandom } from '../../dev/traffic/random.ts';
import { readPlainHead } from '../../router/plain.ts';
import { understand } from '../../router/understand.ts';
import { findUserKey } from '../../router/user-key.ts';
import { oddJson } from './odd-requests.ts';

const LINES = ['POST /v1/track HTTP/1.1', 'Host: h:1', 'Content-Type: application/json', 'Content-Length: 2'];
const textOf = (lines: readonly string[], end = '\r\n'): string => `${[...lines, '', '{}'].join(end)}`;
const withLine = (...more: string[]): string => textOf([...LINES, ...more]);
const withFirst = (line: string): string => textOf([line, ...LINES.slice(1)]);
const without = (name: string): string => textOf(LINES.filter((line) => !line.startsWith(name)));

describe('a plain request', () => {
  test('is read with what a node is to get of it', () => {
    const text = textOf([
      'POST /v1/track?a=b&c=1.2~ HTTP/1.1',
      'user-agent: x/1 (y; z)',
      'HOST:h:1',
      'AnonymousId:  me ',
      'Connection: Keep-Alive',
      'x-forwarded-for: 10.0.0.1, 10.0.0.2',
      'X-Forwarded-Proto: https',
      'Content-Length: 2',
      'Accept: */*',
    ]);
    expect(readPlainHead(text)).toEqual({
      target: '/v1/track?a=b&c=1.2~',
      path: '/v1/track',
      host: 'h:1',
      kept: 'user-agent: x/1 (y; z)\r\nAnonymousId:  me \r\nX-Forwarded-Proto: https\r\nAccept: */*\r\n',
      anonymousId: 'me',
      forwardedFor: '10.0.0.1, 10.0.0.2',
      hasForwardedHost: false,
      hasForwardedProto: true,
      bodyAt: text.length - 2,
      bodyLength: 2,
    });
  });

  test.each([
    ['two lengths', withLine('content-length: 2')],
    ['two lengths that differ', withLine('Content-Length: 3')],
    ['a length with a sign', textOf([...LINES.slice(0, 3), 'Content-Length: +2'])],
    ['a length with a space in it', textOf([...LINES.slice(0, 3), 'Content-Length: 2 2'])],
    ['a length that is a list', textOf([...LINES.slice(0, 3), 'Content-Length: 2, 2'])],
    ['a hexadecimal length', textOf([...LINES.slice(0, 3), 'Content-Length: 0x2'])],
    ['a length with a leading zero', textOf([...LINES.slice(0, 3), 'Content-Length: 02'])],
    ['an empty length', textOf([...LINES.slice(0, 3), 'Content-Length:'])],
    ['a length of nothing', textOf([...LINES.slice(0, 3), 'Content-Length: 0'])],
    ['no length', without('Content-Length')],
    ['a body that is too long for it', textOf([...LINES.slice(0, 3), 'Content-Length: 65537'])],
    ['no host', without('Host')],
    ['two hosts', withLine('Host: h:1')],
    ['an odd host', textOf(['POST /v1/track HTTP/1.1', 'Host: a/b', 'Content-Length: 2'])],
    ['chunks', withLine('Transfer-Encoding: chunked')],
    ['chunks in another case', withLine('transfer-ENCODING: identity')],
    ['a space before the colon', withLine('Transfer-Encoding : chunked')],
    ['a tab in a value', withLine('Transfer-Encoding:\tchunked')],
    ['a folded line', withLine('X-A: b', ' c')],
    ['a tab that folds', withLine('X-A: b', '\tc')],
    ['a line without a colon', withLine('X-A')],
    ['a line without a name', withLine(': a')],
    ['an underscore in a name', withLine('content_length: 7')],
    ['NUL in a value', withLine('X-A: \0')],
    ['NUL in a name', withLine('X-\0A: 1')],
    ['a byte above ASCII in a value', withLine('X-A: \xe9')],
    ['a bare LF', withLine('X-A: b\nTransfer-Encoding: chunked')],
    ['a bare CR', withLine('X-A: b\rTransfer-Encoding: chunked')],
    ['LF only', textOf(LINES, '\n')],
    ['a header twice, whatever it is', withLine('X-A: 1', 'x-a: 2')],
    ['expect', withLine('Expect: 100-continue')],
    ['upgrade', withLine('Upgrade: h2c')],
    ['te', withLine('TE: trailers')],
    ['a trailer', withLine('Trailer: x')],
    ['a compressed body', withLine('Content-Encoding: gzip')],
    ['a connection that ends', withLine('Connection: close')],
    ['a header of this connection only', withLine('Connection: keep-alive, X-A')],
    ['HTTP/1.0', withFirst('POST /v1/track HTTP/1.0')],
    ['HTTP/1.10', withFirst('POST /v1/track HTTP/1.10')],
    ['no version', withFirst('POST /v1/track')],
    ['two spaces', withFirst('POST  /v1/track HTTP/1.1')],
    ['a space behind', withFirst('POST /v1/track HTTP/1.1 ')],
    ['lower case', withFirst('post /v1/track HTTP/1.1')],
    ['another method', withFirst('PUT /v1/track HTTP/1.1')],
    ['the absolute form', withFirst('POST http://h:1/v1/track HTTP/1.1')],
    ['a path that is no path of events', withFirst('POST /v1/tracks HTTP/1.1')],
    ['an encoded path', withFirst('POST /v1/tr%61ck HTTP/1.1')],
    ['an encoded query', withFirst('POST /v1/track?a=%0d%0a HTTP/1.1')],
    ['a second question', withFirst('POST /v1/track?a?b HTTP/1.1')],
    ['a fragment', withFirst('POST /v1/track#a HTTP/1.1')],
    ['a line before it', `\r\n${textOf(LINES)}`],
    ['a head that has not ended', textOf(LINES).slice(0, -5)],
    ['a head that is too long', withLine(`X-A: ${'a'.repeat(9_000)}`)],
    ['too many headers', withLine(...Array.from({ length: 70 }, (_, n) => `X-${n}: 1`))],
  ])('is none with: %s', (_what, text) => {
    expect(readPlainHead(textOf(LINES))).not.toBeNull();
    expect(readPlainHead(text)).toBeNull();
  });
});

const foundIn = (body: Buffer, header: string | undefined) => findUserKey(body.toString('latin1'), 0, header);
/** What a full parse finds. */
const parsedFrom = (body: Buffer, header: string | undefined) => {
  const understood = understand('/v1/track', '', header, body.toString('utf8'));
  return understood.kind === 'events' ? { userKey: understood.users[0]! } : null;
};

describe('the user key that is found without a parse', () => {
  test('of 20,000 odd but valid bodies is that of the full parse, or in doubt', () => {
    let found = 0;
    for (let seed = 1; seed <= 20_000; seed += 1) {
      const random = seededRandom(seed);
      const body = Buffer.from(oddJson(random));
      JSON.parse(body.toString());
      const header = random() < 0.3 ? 'anon' : undefined;
      const key = foundIn(body, header);
      if (key === 'in doubt') continue;
      found += 1;
      const parsed = parsedFrom(body, header);
      if (key?.userKey !== parsed?.userKey) expect(key, `seed ${seed}: ${body}`).toEqual(parsed);
    }
    expect(found).toBeGreaterThan(4_000);
  });

  test('of 20,000 bodies with broken bytes is that of the full parse, or in doubt, wherever that one accepts them', () => {
    let accepted = 0;
    for (let seed = 1; seed <= 20_000; seed += 1) {
      const random = seededRandom(seed);
      const body = Buffer.from(oddJson(random));
      for (let n = 0; n < 2; n += 1) body[Math.floor(random() * body.length)] = Math.floor(random() * 256);
      try {
        JSON.parse(body.toString());
      } catch {
        continue; // refused by every node
      }
      accepted += 1;
      const key = foundIn(body, undefined);
      if (key === 'in doubt') continue;
      const parsed = parsedFrom(body, undefined);
      if (key?.userKey !== parsed?.userKey) expect(key, `seed ${seed}: ${body}`).toEqual(parsed);
    }
    expect(accepted).toBeGreaterThan(2_000);
  });

  test.each([
    ['{"userId":"u","x":{"userId":"no"}}', '<<>><<>>u'],
    ['{"userId":"a","userId":"b"}', '<<>><<>>b'],
    ['{"userId":"Zoë"}', '<<>><<>>Zoë'],
    [' { "anonymousId" : "a" , "userId" : "u" } ', '<<>>a<<>>u'],
    ['{"x":"\\"userId\\":\\"no\\"","userId":"u"}', '<<>><<>>u'],
    ['{"x":[{"userId":"no"}],"userId":"u"}', '<<>><<>>u'],
  ])('of %s is %s', (body, userKey) => expect(foundIn(Buffer.from(body), undefined)).toEqual({ userKey }));

  test.each([
    '{"user\\u0049d":"u"}',
    '{"userId":"\\u0041"}',
    '{"userId":7}',
    '{"userId":null}',
    '{"userId":"u"} x',
    '{"userId":"u",}',
    '{"userId":"u"',
    '{"userId":"a\nb"}',
    '[{"userId":"u"}]',
    '\ufeff{"userId":"u"}',
    '',
    '{}',
  ])('of %s is in doubt', (body) => expect(foundIn(Buffer.from(body), undefined)).toBe('in doubt'));

  test('without any user there is none', () => {
    expect(foundIn(Buffer.from('{"a":1}'), undefined)).toBeNull();
    expect(foundIn(Buffer.from('{"a":1}'), 'anon')).toEqual({ userKey: 'anon<<>><<>>' });
  });
});
