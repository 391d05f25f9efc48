/**
 * Lets accepted sockets read into one buffer, as Node offers it for those that connect only (`onread` of net.connect). Without it each read takes 64 kB of memory and gives
 * back what a request of half a kilobyte does not need: an eighth of a router's time (measured), and most of its garbage.
 *
 * It leans on how net.Socket does `onread` (Node 20 to 24, lib/net.js: initSocketHandle; lib/internal/stream_base_commons.js: onStreamRead): buffer and callback are fields
 * of the socket, and its handle is told of the buffer. The fields are found on a socket of our own. Where anything is different, `readInto` does nothing and says so, and
 * the caller reads a stream: the same bytes, more slowly.
 */
import { Socket } from 'node:net';

/** What one read got. Holds only until it returns: what is to stay must be copied. */
export type TakeBytes = (bytes: Buffer) => void;

/** Of `onread`: with false the socket reads no more until it is resumed. */
type OnRead = (length: number, into: Uint8Array) => boolean;

interface Fields {
  readonly buffer: symbol;
  readonly onRead: symbol;
}

/** As much as libuv reads at once. */
const READ_BYTES = 64 * 1_024;
/** What was read is taken before the next socket's turn: one is enough for all. */
const shared = Buffer.allocUnsafeSlow(READ_BYTES);
const fields = findFields();

/**
 * From now on `take` gets what comes, and no event `data` does; pausing, ending and failing stay as they are.
 * Returns whether it is so: not without a connection, nor for a socket that reads in such a way already.
 */
export function readInto(socket: Socket, take: TakeBytes): boolean {
  const { _handle: handle } = socket as unknown as { _handle?: { useUserBuffer?(buffer: Uint8Array): void } | null };
  if (fields === null || handle?.useUserBuffer === undefined) return false;
  const own = fieldsOf(socket);
  if (own[fields.buffer] !== null || own[fields.onRead] !== null) return false;
  own[fields.buffer] = shared;
  setOnRead(socket, fields, (length) => {
    take(shared.subarray(0, length));
    return true;
  });
  handle.useUserBuffer(shared);
  return true;
}

/** A stream again: for whoever gets the socket next. Nothing happens to one that was never given to `readInto`. */
export function readAsStream(socket: Socket): void {
  if (fields === null || fieldsOf(socket)[fields.buffer] !== shared) return;
  // Its handle reads into the buffer for good.
  setOnRead(socket, fields, (length) => socket.push(Buffer.from(shared.subarray(0, length))));
}

function findFields(): Fields | null {
  const onRead: OnRead = () => true;
  const socket = new Socket({ onread: { buffer: shared, callback: onRead } });
  const withValue = (value: unknown): symbol | undefined =>
    Object.getOwnPropertySymbols(socket).find((symbol) => fieldsOf(socket)[symbol] === value);
  const found = { buffer: withValue(shared), onRead: withValue(onRead) };
  return found.buffer && found.onRead ? { buffer: found.buffer, onRead: found.onRead } : null;
}

function fieldsOf(socket: Socket): Record<symbol, unknown> {
  return socket as unknown as Record<symbol, unknown>;
}

function setOnRead(socket: Socket, { onRead }: Fields, callback: OnRead): void {
  fieldsOf(socket)[onRead] = callback;
}
