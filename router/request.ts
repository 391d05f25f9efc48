/** What the full HTTP stack has read of a request, and what of it goes to a node. */
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { promisify } from 'node:util';
import { gunzip, inflate } from 'node:zlib';
import type { BytesInHand } from '../kit/bytes-in-hand.ts';
import { type Answer, ofConnection } from './answer.ts';
import type { PlainRequest } from './fast-path.ts';
import { jsonAnswer, unavailable } from './forward.ts';
import type { RouterLimits } from './limits.ts';

/** The body, whose bytes are counted until its owner gives them back; or the answer to one that is not taken. Rejects where its client goes away. */
export function readBody(
  request: IncomingMessage,
  limits: RouterLimits,
  inHand: BytesInHand,
): Promise<Buffer | Answer> {
  const announced = Number(request.headers['content-length'] ?? 0);
  if (announced > limits.bodyBytesMax || !inHand.hasRoomFor(announced)) {
    request.resume();
    return Promise.resolve(announced > limits.bodyBytesMax ? tooLarge(limits) : tooMuch());
  }
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    let isOver = false;
    /** What still comes is read and forgotten: the client reads its answer only when all is sent. */
    const giveUp = (): boolean => {
      if (isOver) return false;
      isOver = true;
      chunks.length = 0;
      inHand.give(bytes);
      return true;
    };
    request.on('data', (chunk: Buffer) => {
      if (isOver) return;
      if (bytes + chunk.length > limits.bodyBytesMax) {
        giveUp();
        resolve(tooLarge(limits));
      } else if (!inHand.take(chunk.length)) {
        giveUp();
        resolve(tooMuch());
      } else {
        bytes += chunk.length;
        chunks.push(chunk);
      }
    });
    request.on('end', () => {
      if (isOver) return;
      isOver = true;
      resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks));
    });
    const goneWith = (error: Error): void => {
      if (giveUp()) reject(error);
    };
    request.on('error', goneWith);
    request.on('close', () => goneWith(new Error('the client went away')));
  });
}

const tooLarge = (limits: RouterLimits): Answer =>
  jsonAnswer(413, { error: 'BODY_TOO_LARGE', message: `the body is larger than ${limits.bodyBytesMax} bytes` });

export const tooMuch = (): Answer => unavailable('ROUTER_FULL', 'too many bytes are in hand');

const decompressors = new Map([
  ['gzip', promisify(gunzip)],
  ['deflate', promisify(inflate)],
]);

/** The body's text, decompressed where it must be; null where that cannot be done (then a node may judge it). */
export async function textOf(
  body: Buffer,
  headers: IncomingHttpHeaders,
  limits: RouterLimits,
): Promise<{ text: string; compressed: boolean } | null> {
  const encoding = headers['content-encoding'];
  if (encoding === undefined || encoding === 'identity') return { text: body.toString('utf8'), compressed: false };
  const decompress = decompressors.get(encoding);
  if (!decompress) return null;
  try {
    const plain = await decompress(body, { maxOutputLength: limits.bodyBytesMax });
    return { text: plain.toString('utf8'), compressed: true };
  } catch {
    return null;
  }
}

/** Besides those of the connection: `host` and `content-length` are written anew; `expect` has been answered here. */
const notForwarded = new Set([...ofConnection, 'host', 'content-length', 'expect', 'x-forwarded-for']);

/** Header lines for a node: what the client sent, and who it is. */
export function headersForNode(request: IncomingMessage): string {
  const { headers } = request;
  const named = first(headers.connection)
    ?.toLowerCase()
    .split(',')
    .map((name) => name.trim());
  let lines = '';
  for (const [name, value] of Object.entries(headers)) {
    if (value === undefined || notForwarded.has(name) || named?.includes(name)) continue;
    for (const one of typeof value === 'string' ? [value] : value) lines += `${name}: ${one}\r\n`;
  }
  return (
    lines +
    forwarded({
      before: first(headers['x-forwarded-for']) ?? '',
      peer: request.socket.remoteAddress ?? 'unknown',
      host: headers['x-forwarded-host'] === undefined ? (headers.host ?? '') : '',
      proto: headers['x-forwarded-proto'] === undefined,
    })
  );
}

/** The same of a plain request. */
export function plainHeadersForNode({ head, peer }: PlainRequest): string {
  return (
    head.kept +
    forwarded({
      before: head.forwardedFor,
      peer,
      host: head.hasForwardedHost ? '' : head.host,
      proto: !head.hasForwardedProto,
    })
  );
}

/** Who is before us is taken at his word: the client's address is added, host and protocol only where nobody has named them. */
function forwarded(by: { before: string; peer: string; host: string; proto: boolean }): string {
  const client = `x-forwarded-for: ${by.before === '' ? '' : `${by.before}, `}${by.peer}\r\n`;
  const host = by.host === '' ? '' : `x-forwarded-host: ${by.host}\r\n`;
  return client + host + (by.proto ? 'x-forwarded-proto: http\r\n' : '');
}

export const first = (value: string | string[] | undefined): string | undefined =>
  Array.isArray(value) ? value[0] : value;

export function cutTarget(target: string): [path: string, query: string] {
  const at = target.indexOf('?');
  return at < 0 ? [target, ''] : [target.slice(0, at), target.slice(at + 1)];
}

/** Only what clients send events to. A path that a node could read as another one is none of these. */
export function isForwarded(path: string): boolean {
  if (!/^\/(v1|beacon|pixel)\//.test(path)) return false;
  return !/(^|[/\\])\.{1,2}([/\\]|$)|%2e|%2f|%5c|\\|\/\//i.test(path);
}
