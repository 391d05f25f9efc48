/** HTTP as bytes: what is sent is what a test wrote, what comes is read without an HTTP library. */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

export interface RawAnswer {
  readonly status: number;
  /** In lower case, in order of name; without the date, whose second is nobody's. */
  readonly headers: readonly string[];
  readonly body: string;
}

/** Longer than any limit of the routers in these tests. */
const SILENT_MS = 10_000;

/** Answers as they came on one connection. What is no answer is one of status 0. */
export function readAnswers(bytes: Buffer): RawAnswer[] {
  const answers: RawAnswer[] = [];
  let text = bytes.toString('latin1');
  while (text.length > 0) {
    const end = text.indexOf('\r\n\r\n');
    const [statusLine, ...lines] = text.slice(0, Math.max(end, 0)).split('\r\n');
    const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(statusLine!)?.[1] ?? 0);
    if (end < 0 || status === 0) return [...answers, { status: 0, headers: [], body: text }];
    const headers = lines
      .map((line) => line.replace(/^[^:]*/, (name) => name.toLowerCase()))
      .filter((line) => !line.startsWith('date:'))
      .sort();
    const length = Number(/^content-length: (\d+)$/m.exec(headers.join('\n'))?.[1] ?? 0);
    answers.push({ status, headers, body: text.slice(end + 4, end + 4 + length) });
    text = text.slice(end + 4 + length);
  }
  return answers;
}

/**
 * Sends the pieces one after the other, and gives all that came until the other side has closed; a bound on that is the test's. `last` is sent once something has come
 * in answer to the pieces. A connection that stays open without a word is given up.
 */
export async function exchange(
  url: string,
  pieces: readonly Buffer[],
  options: { pauseMs?: number; last?: Buffer } = {},
): Promise<RawAnswer[]> {
  const { hostname, port } = new URL(url);
  const socket = connect({ host: hostname, port: Number(port), noDelay: true });
  const chunks: Buffer[] = [];
  socket.setTimeout(SILENT_MS, () => socket.destroy());
  socket.on('data', (chunk) => {
    if (chunks.length === 0 && options.last) socket.write(options.last);
    chunks.push(chunk);
  });
  socket.on('error', () => undefined); // closed with something of ours unread
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  for (const [nth, piece] of pieces.entries()) {
    if (nth > 0) await sleep(options.pauseMs ?? 0);
    if (socket.destroyed) break;
    socket.write(piece);
  }
  await closed;
  return readAnswers(Buffer.concat(chunks));
}

/** A connection that is kept, for one request after the other. */
export class KeptConnection {
  readonly socket: Socket;
  #chunks: Buffer[] = [];
  #wake: (() => void) | null = null;

  constructor(url: string) {
    const { hostname, port } = new URL(url);
    this.socket = connect({ host: hostname, port: Number(port), noDelay: true });
    this.socket.on('data', (chunk) => {
      this.#chunks.push(chunk);
      this.#wake?.();
    });
    this.socket.on('error', () => undefined);
    this.socket.on('close', () => this.#wake?.());
  }

  /** Its one answer. Rejects where the connection ends without. */
  async ask(request: Buffer): Promise<RawAnswer> {
    this.socket.write(request);
    for (;;) {
      const bytes = Buffer.concat(this.#chunks);
      const head = bytes.indexOf('\r\n\r\n');
      const length = Number(/\r\ncontent-length: (\d+)\r\n/i.exec(bytes.toString('latin1', 0, head + 2))?.[1] ?? 0);
      if (head >= 0 && bytes.length >= head + 4 + length) {
        this.#chunks = [];
        return readAnswers(bytes)[0]!;
      }
      if (this.socket.destroyed) throw new Error(`the connection ended after ${bytes.length} bytes`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

/** A node of which a test plays every byte: `onBytes` is called with each piece that comes. */
export async function startRawNode(
  onBytes: (socket: Socket, bytes: Buffer) => void,
): Promise<{ url: string; server: Server; sockets: Set<Socket>; stop(): Promise<void> }> {
  const sockets = new Set<Socket>();
  const server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
    socket.on('data', (bytes) => onBytes(socket, bytes));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
    server,
    sockets,
    async stop() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
