/** Reads a request's body within bounds: of its own, and of all bodies in hand together. */
import type { IncomingMessage } from 'node:http';
import { createGunzip, createInflate } from 'node:zlib';
import type { BytesInHand } from '../kit/bytes-in-hand.ts';
import { HttpRefusal, unavailable } from './refusal.ts';

export interface Body {
  readonly text: string;
  /** What it holds of `BytesInHand`: give it back when the request is answered. */
  readonly bytes: number;
}

/** Throws HttpRefusal 413 above `max` bytes (also when chunked, also after decompression), 503 when too much is in hand, 400 when it does not decompress. */
export function readBody(request: IncomingMessage, max: number, inHand: BytesInHand): Promise<Body> {
  const announced = Number(request.headers['content-length'] ?? 0);
  if (announced > max) return Promise.reject(tooLarge());
  const encoding = request.headers['content-encoding'];
  const decompress = encoding === 'gzip' ? createGunzip() : encoding === 'deflate' ? createInflate() : null;
  if (!decompress && encoding && encoding !== 'identity') {
    return Promise.reject(new HttpRefusal(415, `Content-Encoding ${encoding.slice(0, 40)} is not supported`));
  }
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    const stream = decompress ? request.pipe(decompress) : request;
    const fail = (error: HttpRefusal): void => {
      inHand.give(bytes);
      bytes = 0;
      stream.off('data', onData);
      if (decompress) {
        request.unpipe(decompress);
        decompress.destroy();
      }
      reject(error);
    };
    const onData = (chunk: Buffer): void => {
      if (bytes + chunk.length > max) fail(tooLarge());
      else if (!inHand.take(chunk.length)) fail(unavailable('too much in hand'));
      else {
        bytes += chunk.length;
        chunks.push(chunk);
      }
    };
    stream.on('data', onData);
    stream.once('end', () =>
      resolve({ text: chunks.length === 1 ? chunks[0]!.toString() : Buffer.concat(chunks).toString(), bytes }),
    );
    stream.on('error', () => fail(new HttpRefusal(400, decompress ? 'Invalid gzip' : 'Request aborted')));
    request.once('close', () => {
      if (!request.complete) fail(new HttpRefusal(400, 'Request aborted'));
    });
  });
}

const tooLarge = (): HttpRefusal => new HttpRefusal(413, 'Request size exceeds max limit');
