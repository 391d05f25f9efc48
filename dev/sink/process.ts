/** Starts the sink as a process and speaks to it. It ends when this process does. */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { PARENT_FD_VARIABLE } from '../../kit/parent.ts';
import type { Delivery } from '../checker/checker.ts';
import type { SinkStats } from './sink.ts';

export interface SinkProcess {
  readonly url: string;
  stats(): Promise<SinkStats>;
  deliveries(): Promise<Delivery[]>;
  setDestinationMs(ms: number): Promise<void>;
  stop(): Promise<void>;
}

const startMs = 10_000;

export async function startSinkProcess(options: {
  readonly destinationMs: number;
  readonly logFile?: string;
  readonly failOneIn?: number;
}): Promise<SinkProcess> {
  const main = fileURLToPath(new URL('./main.ts', import.meta.url));
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', main], {
    stdio: ['ignore', 'pipe', 'inherit', 'pipe'],
    env: {
      ...process.env,
      [PARENT_FD_VARIABLE]: '3',
      RINGMASTER_SINK_DESTINATION_MS: String(options.destinationMs),
      RINGMASTER_SINK_FAIL_ONE_IN: String(options.failOneIn ?? 0),
      ...(options.logFile ? { RINGMASTER_SINK_LOG_FILE: options.logFile } : {}),
    },
    detached: true, // Ctrl-C on the terminal is for the demo, which stops the sink last
  });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const url = await new Promise<string>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`the sink did not listen within ${startMs} ms`)), startMs);
    createInterface({ input: child.stdout! }).on('line', (line) => {
      const said = JSON.parse(line) as { msg?: string; url?: string; error?: string };
      if (said.msg === 'listening' && said.url) resolve(said.url);
      else if (said.msg === 'cannot start') reject(new Error(`the sink cannot start: ${said.error}`));
      clearTimeout(timer);
    });
    child.once('error', reject);
  });
  const ask = async (path: string, init?: RequestInit): Promise<Response> => {
    const answer = await fetch(url + path, init);
    if (!answer.ok) throw new Error(`sink: ${path} answered ${answer.status}`);
    return answer;
  };
  return {
    url,
    stats: async () => (await (await ask('/_stats')).json()) as SinkStats,
    deliveries: async () => {
      const text = await (await ask('/_deliveries')).text();
      return text
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line) as Delivery);
    },
    setDestinationMs: async (ms) => {
      await (await ask('/_destination-ms', { method: 'PUT', body: String(ms) })).arrayBuffer();
    },
    stop: async () => {
      child.kill('SIGTERM');
      await ended;
    },
  };
}
