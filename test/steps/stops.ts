/** The test's side of the fault points (kit/fault-points.ts): lets a worker pass where it may, and stops it where the test waits for it. */
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { FaultPoint } from '../../activities/fault-points.ts';
import type { AtPoint, Go } from '../../kit/fault-points.ts';

/** A worker that stands at a fault point. */
export interface Stopped {
  readonly point: FaultPoint;
  readonly pid: number;
  go(how: Go): void;
  /** Resolves when its process, or its connection to us, is gone. */
  readonly gone: Promise<void>;
}

export interface Stops {
  readonly url: string;
  /** How often each point was passed or stopped at. */
  readonly seen: ReadonlyMap<string, number>;
  /** The next worker that comes to this point stays there. */
  stopAt(point: FaultPoint): Promise<Stopped>;
  /** Nobody is stopped any more. */
  clear(): void;
  close(): Promise<void>;
}

export async function openStops(): Promise<Stops> {
  const seen = new Map<string, number>();
  const waiting = new Map<string, (stopped: Stopped) => void>();
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const { point, pid } = JSON.parse(Buffer.concat(chunks).toString()) as AtPoint;
      seen.set(point, (seen.get(point) ?? 0) + 1);
      const stop = waiting.get(point);
      if (!stop) return answer(response, 'on');
      waiting.delete(point);
      const gone = new Promise<void>((resolve) => response.once('close', resolve));
      stop({ point: point as FaultPoint, pid, go: (how) => answer(response, how), gone });
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    stopAt: (point) => new Promise((resolve) => waiting.set(point, resolve)),
    clear: () => waiting.clear(),
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

function answer(response: ServerResponse, go: Go): void {
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify(go));
}
