/**
 * Reads a node's answer. A strict subset of HTTP/1.1: one status line, plain header lines, one Content-Length or plain chunks. What is out of it is not guessed at:
 * a request whose answer cannot be read has an unknown outcome. Pure.
 */
export type AnswerHeaders = Readonly<Record<string, string | readonly string[] | undefined>>;

export interface Answer {
  readonly status: number;
  /** Names in lower case. Without those that are of one connection only. */
  readonly headers: AnswerHeaders;
  readonly body: Buffer;
}

/** What the head of an answer says. */
export interface AnswerHead {
  /** As it came, with the empty line. */
  readonly text: string;
  readonly status: number;
  readonly headers: AnswerHeaders;
  /** Of the body; -1: it comes in chunks. */
  readonly bodyLength: number;
  /** Whether the connection may carry another request. */
  readonly keepAlive: boolean;
  /** For how long the node keeps it without a request; null where it does not say. */
  readonly keepAliveMs: number | null;
}

/** `end`: how many bytes it took. */
export interface ReadAnswer extends Answer {
  readonly head: AnswerHead;
  readonly end: number;
}

export const ANSWER_BYTES_MAX = 1_024 * 1_024;
const HEAD_BYTES_MAX = 64 * 1_024;

/** Headers of one connection only (RFC 9110, 7.6.1), of requests and of answers. */
export const ofConnection: ReadonlySet<string> = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);

/**
 * The answer at the start of `bytes`; `more` where it has not ended; `bad` where it is none, or none that we read. `last`: a head that is likely to come again,
 * as a node's answers differ in nothing but the second of their date. Interim answers (1xx) are passed over.
 */
export function readAnswer(bytes: Buffer, method: string, last: AnswerHead | null): ReadAnswer | 'more' | 'bad' {
  let from = 0;
  for (;;) {
    const text = bytes.toString('latin1', from, Math.min(bytes.length, from + HEAD_BYTES_MAX));
    let head = last;
    if (head === null || !text.startsWith(head.text)) {
      const length = text.indexOf('\r\n\r\n');
      if (length < 0) return text.length < HEAD_BYTES_MAX && couldBegin(text) ? 'more' : 'bad';
      head = readHead(text.slice(0, length + 4));
      if (head === null) return 'bad';
    }
    from += head.text.length;
    if (head.status >= 200) return withBody(bytes, from, method, head);
  }
}

const couldBegin = (text: string): boolean => 'HTTP/1.1 '.startsWith(text.slice(0, 9));

function withBody(bytes: Buffer, from: number, method: string, head: AnswerHead): ReadAnswer | 'more' | 'bad' {
  const { status, headers } = head;
  if (method === 'HEAD' || status === 204 || status === 304)
    return { head, status, headers, body: Buffer.alloc(0), end: from };
  if (head.bodyLength >= 0) {
    const end = from + head.bodyLength;
    if (bytes.length < end) return 'more';
    // Copied: the bytes are read into the same place again.
    return { head, status, headers, body: Buffer.from(bytes.subarray(from, end)), end };
  }
  const chunks: Buffer[] = [];
  let at = from;
  for (;;) {
    const lineEnd = bytes.indexOf('\r\n', at);
    if (lineEnd < 0) return bytes.length - at > 8 ? 'bad' : 'more';
    const digits = bytes.toString('latin1', at, lineEnd);
    if (!/^[0-9a-f]{1,6}$/i.test(digits)) return 'bad';
    const size = Number.parseInt(digits, 16);
    const start = lineEnd + 2;
    if (bytes.length < start + size + 2) return 'more';
    if (bytes[start + size] !== 0x0d || bytes[start + size + 1] !== 0x0a) return 'bad'; // also a trailer after the last chunk
    at = start + size + 2;
    if (size === 0) return { head, status, headers, body: Buffer.concat(chunks), end: at };
    chunks.push(bytes.subarray(start, start + size));
  }
}

/** `text`: a whole head, with its empty line. Null: none that we read. */
function readHead(text: string): AnswerHead | null {
  const [statusLine, ...lines] = text.slice(0, -4).split('\r\n');
  const status = Number(/^HTTP\/1\.1 ([1-5]\d\d)(?: [\t\x20-\x7e\x80-\xff]*)?$/.exec(statusLine!)?.[1] ?? 0);
  if (status === 0 || status === 101) return null;
  const headers: Record<string, string | string[]> = Object.create(null);
  for (const line of lines) {
    const parts = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t ]*([\t\x20-\x7e\x80-\xff]*)$/.exec(line);
    if (!parts) return null;
    const name = parts[1]!.toLowerCase();
    const value = parts[2]!.replace(/[\t ]+$/, '');
    const before = headers[name];
    if (before === undefined) headers[name] = value;
    else if (typeof before === 'string') headers[name] = [before, value];
    else before.push(value);
  }
  const bodyLength = bodyLengthOf(status, headers);
  if (bodyLength === null) return null;
  const connection = [headers['connection'] ?? []].flat().flatMap((value) =>
    value
      .toLowerCase()
      .split(',')
      .map((name) => name.trim()),
  );
  const timeout = /(?:^|[ ,])timeout=(\d{1,6})/i.exec(String(headers['keep-alive'] ?? ''))?.[1];
  for (const name of [...ofConnection, ...connection]) delete headers[name];
  return {
    text,
    status,
    headers,
    bodyLength,
    keepAlive: !connection.includes('close'),
    keepAliveMs: timeout === undefined ? null : Number(timeout) * 1_000,
  };
}

/** Null: the body's end cannot be told for sure. */
function bodyLengthOf(status: number, headers: Record<string, string | string[]>): number | null {
  const length = headers['content-length'];
  const coding = headers['transfer-encoding'];
  if (length !== undefined) {
    if (coding !== undefined || typeof length !== 'string' || !/^\d{1,7}$/.test(length)) return null;
    return Number(length);
  }
  if (coding !== undefined) return typeof coding === 'string' && coding.toLowerCase() === 'chunked' ? -1 : null;
  return status < 200 || status === 204 || status === 304 ? 0 : null;
}
