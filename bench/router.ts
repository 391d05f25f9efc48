/**
 * The router against nginx as a proxy that hashes the AnonymousId header, in turn, on the same core, with the same back ends (two nginx servers that answer `OK`) and the same
 * load. The core under test is one; back ends and load share the other.
 *   rates and their latencies   wrk, so many connections that the core is busy
 *   latency at half load        an open-loop sender (open-loop.ts) at half of the router's own rate: through the router, through nginx, and straight to a back end
 * Medians over the rounds. Without nginx or wrk, or where the core under test was not busy, there is no ratio, and it says so.
 *
 * One request in a hundred makes a p99, so a core that others have for one percent of the time makes it theirs (measured: 0.4 ms where they had nothing, 3 to 100 ms where
 * the host had 2 to 6 %). All that is measured therefore goes before what else the machine runs, at half load in the realtime class, what others had all the same is told,
 * and a way from which they had too much at half load, or that was slower than in its best round, is measured again; its medians are over the quietest rounds.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { onStopSignal } from '../kit/parent.ts';
import { dataRoot } from '../platform/local/places.ts';
import { freePort } from '../platform/local/ports.ts';
import { routerNodeFlags } from '../router/node-flags.ts';
import { goFirst, inRealtime, mayBeRealtime, sessionGoesFirst, type Taken, takenOf, watch } from './quiet.ts';
import { benchRequests } from './router-requests.ts';

const run = promisify(execFile);

const CORE_UNDER_TEST = 0;
const CORE_OF_THE_REST = 1;
const CONNECTIONS = 64;
const BUSY_PERCENT_MIN = 95;
/** Of the requests that were to be sent at half load. */
const KEPT_MIN = 0.95;
/** What others may have of the time, waited and stolen together; and what hiccups may take. */
const TAKEN_PERCENT_MAX = 1;
const SLOWER_MAX = 1.2;
/** At half load, for each that is asked for: the others are there for those that were not quiet. */
const ROUNDS_FACTOR_MAX = 2;
const WARM_UP_SECONDS = 2;
const UP_WITHIN_MS = 10_000;
const BACK_ENDS = 2;

export interface RouterBenchOptions {
  readonly seconds: number;
  readonly rounds: number;
}

export interface ProxyFigures {
  readonly rps: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** By this process alone, of the time that others left it of the core under test. */
  readonly cpuPercent: number;
  /** Processor time of each request: holds also on a machine that is busy with other things, where rates do not. */
  readonly cpuUsPerRequest: number;
}

export interface RouterReport {
  readonly seconds: number;
  readonly rounds: number;
  readonly pinned: string;
  readonly requestBytes: number;
  readonly bodyBytes: number;
  readonly connections: number;
  readonly router?: ProxyFigures;
  readonly nginx?: ProxyFigures;
  /** Requests a second, the router's to nginx'. */
  readonly ratio?: number;
  /** At half of the router's own rate: p99 through the router, less p99 straight to a back end. */
  readonly addedP99MsAtHalfLoad?: number;
  readonly halfLoad?: { readonly rps: number; readonly rounds: number; readonly isRealtime: boolean } & Readonly<
    Record<Way, HalfLoadFigures>
  >;
  readonly roundsRps?: readonly { readonly router: number; readonly nginx: number }[];
  /** Why there is no ratio, and nothing about half of a load that was none. */
  readonly missing?: string;
}

type Way = 'direct' | 'router' | 'nginx';
const WAYS = ['direct', 'router', 'nginx'] as const;

/** `Taken`: from the process under test, of which there is none where the way is `direct`. */
export interface HalfLoadFigures extends Taken {
  /** Of the second before, on the core that lost more (hiccups.ts). */
  readonly hiccupPercent: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** Of the process under test; 0 where there is none. */
  readonly cpuUsPerRequest: number;
}

interface HalfLoadRound {
  readonly figures: HalfLoadFigures;
  /** All requests were sent and answered. */
  readonly isKept: boolean;
}

export async function benchRouter(options: RouterBenchOptions): Promise<RouterReport> {
  const [first] = benchRequests(10_000);
  const about = {
    ...options,
    pinned: `core ${CORE_UNDER_TEST}: the router, or nginx; core ${CORE_OF_THE_REST}: back ends and load`,
    requestBytes: Buffer.byteLength(first!),
    bodyBytes: Buffer.byteLength(first!.slice(first!.indexOf('\r\n\r\n') + 4)),
    connections: CONNECTIONS,
  };
  say(`pinned: ${about.pinned}; requests of ${about.requestBytes} bytes, ${about.bodyBytes} of them body`);
  const missing = await whatIsMissing();
  if (missing !== null) {
    if (process.env['CI']) throw new Error(missing);
    say(`no ratio: ${missing}`);
    return { ...about, missing };
  }
  const folder = path.join(dataRoot(), `bench-router-${process.pid}`);
  const processes: ChildProcess[] = [];
  let isStopping = false;
  const stop = async (): Promise<void> => {
    isStopping = true;
    await Promise.all(processes.map(endProcess));
    await rm(folder, { recursive: true, force: true });
  };
  const unlisten = onStopSignal(() => void stop().finally(() => process.exit(130)));
  try {
    await mkdir(folder, { recursive: true });
    return { ...about, ...(await measure(folder, processes, options)) };
  } catch (error) {
    // Whatever fails because we stop is no failure of its own: the signal's handler ends the process.
    if (isStopping) return await new Promise(() => undefined);
    throw error;
  } finally {
    if (!isStopping) {
      await stop();
      unlisten();
    }
  }
}

async function measure(folder: string, processes: ChildProcess[], { seconds, rounds }: RouterBenchOptions) {
  const isRealtime = await mayBeRealtime();
  if (!goFirst() || !isRealtime)
    say('others may have the cores meanwhile: no right to a higher priority or the realtime class (CAP_SYS_NICE)');
  const start = async (core: number, command: string, args: readonly string[]): Promise<ChildProcess> => {
    // Ends with us, however we end.
    const child = spawn('setpriv', ['--pdeathsig', 'TERM', 'taskset', '-c', String(core), command, ...args], {
      stdio: ['ignore', 'pipe', 'inherit'],
      detached: true,
    });
    processes.push(child);
    await sessionGoesFirst(child.pid!);
    return child;
  };
  const ports = await freePorts(BACK_ENDS + 1);
  const nginxPort = ports.pop()!;
  await writeFile(path.join(folder, 'back.conf'), nginxConf(folder, 'back', backEnds(ports)));
  await writeFile(path.join(folder, 'proxy.conf'), nginxConf(folder, 'proxy', proxy(nginxPort, ports)));
  await writeFile(path.join(folder, 'load.lua'), wrkScript(nginxPort));
  const startNginx = (core: number, name: string): Promise<ChildProcess> =>
    start(core, 'nginx', [
      '-p',
      folder,
      '-c',
      path.join(folder, `${name}.conf`),
      '-e',
      path.join(folder, `${name}.log`),
    ]);
  const back = await startNginx(CORE_OF_THE_REST, 'back');
  await Promise.all(ports.map(connects));
  const nginx = await startNginx(CORE_UNDER_TEST, 'proxy');
  await connects(nginxPort);
  const script = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
  const router = await start(CORE_UNDER_TEST, process.execPath, [
    ...routerNodeFlags,
    script('router-process.ts'),
    ...ports.map((port) => `http://127.0.0.1:${port}`),
  ]);
  const routerPort = Number(new URL(await urlOf(router)).port);
  router.stdout!.resume();

  const load = async (port: number, pid: number, forSeconds: number): Promise<ProxyFigures> => {
    const watched = await watch(pid, [CORE_UNDER_TEST]);
    const args = ['-t1', `-c${CONNECTIONS}`, `-d${forSeconds}s`, '--latency', '-s', path.join(folder, 'load.lua')];
    const wrk = await start(CORE_OF_THE_REST, 'wrk', [...args, `http://127.0.0.1:${port}`]);
    const stdout = await text(wrk.stdout!);
    const { usedMs, elapsedMs, ...taken } = await watched();
    const cpuPercent = (usedMs / elapsedMs / (1 - takenOf(taken) / 100)) * 100;
    const said = JSON.parse(/^\{.*\}$/m.exec(stdout)![0]) as Record<
      'requests' | 'us' | 'failed' | 'p50' | 'p99',
      number
    >;
    if (said.failed > 0) throw new Error(`${said.failed} requests of wrk failed: ${stdout}`);
    return {
      rps: Math.round(said.requests / (said.us / 1e6)),
      p50Ms: said.p50 / 1_000,
      p99Ms: said.p99 / 1_000,
      cpuPercent: Math.round(cpuPercent * 10) / 10,
      cpuUsPerRequest: Math.round((usedMs / said.requests) * 10_000) / 10,
    };
  };
  const [backPid, nginxPid] = await Promise.all([back, nginx].map(({ pid }) => workerOf(pid!)));
  const ways = { router: [routerPort, router.pid!], nginx: [nginxPort, nginxPid!] } as const;
  for (const [port, pid] of Object.values(ways)) await load(port, pid, WARM_UP_SECONDS);
  const figures = { router: [] as ProxyFigures[], nginx: [] as ProxyFigures[] };
  for (let round = 0; round < rounds; round += 1) {
    for (const way of ['router', 'nginx'] as const) {
      const [port, pid] = ways[way];
      const found = await load(port, pid, seconds);
      figures[way].push(found);
      say(
        `round ${round + 1}, ${way}: ${found.rps} requests a second, ${found.cpuPercent} % of the core, ${found.cpuUsPerRequest} µs of it each`,
      );
    }
  }
  const medians = { router: mediansOf(figures.router), nginx: mediansOf(figures.nginx) };

  const reasons = new Set<string>();
  for (const way of ['router', 'nginx'] as const) {
    const { cpuPercent } = medians[way];
    if (cpuPercent < BUSY_PERCENT_MIN) reasons.add(`not saturated: ${way} had ${cpuPercent} % of its core`);
  }
  const rps = Math.round(medians.router.rps / 2);
  const half: Record<Way, HalfLoadRound[]> = { direct: [], router: [], nginx: [] };
  const underTest = { direct: [ports[0]!, null], ...ways } as const;
  const hiccups = async (): Promise<number> => {
    const lost = await Promise.all(
      [CORE_UNDER_TEST, CORE_OF_THE_REST].map(async (core) =>
        Number(await text((await start(core, process.execPath, [script('hiccups.ts')])).stdout!)),
      ),
    );
    return Math.max(...lost);
  };
  const atHalfLoad = async (way: Way): Promise<HalfLoadRound> => {
    const [port, pid] = underTest[way];
    const hiccupPercent = await hiccups();
    // The sender's collector has no core of its own either.
    const args = [process.execPath, ...routerNodeFlags, script('open-loop.ts'), port, rps, seconds, CONNECTIONS].map(
      String,
    );
    const watched = await watch(pid, [CORE_UNDER_TEST, CORE_OF_THE_REST]);
    const send = async (...[command, ...rest]: readonly string[]): Promise<string> =>
      text((await start(CORE_OF_THE_REST, command!, rest)).stdout!);
    const underway = [backPid!, ...(pid === null ? [] : [pid])];
    const line = isRealtime ? await inRealtime(underway, () => send('chrt', '-f', '1', ...args)) : await send(...args);
    const { usedMs, waitedPercent, stolenPercent } = await watched();
    const said = JSON.parse(line) as Record<'sent' | 'answered' | 'failed' | 'unanswered' | 'p50Ms' | 'p99Ms', number>;
    if (said.failed > 0) throw new Error(`at half load, ${way}: ${line}`);
    const figures = {
      p50Ms: round2(said.p50Ms),
      p99Ms: round2(said.p99Ms),
      waitedPercent,
      stolenPercent,
      hiccupPercent,
      cpuUsPerRequest: Math.round((usedMs / said.sent) * 10_000) / 10,
    };
    const used = pid === null ? '' : `, ${figures.cpuUsPerRequest} µs of its core each`;
    say(`half load (${rps} a second), ${way}: p50 ${figures.p50Ms} ms, p99 ${figures.p99Ms} ms${used}`);
    say(`  taken by others ${waitedPercent} %, by the host ${stolenPercent} %, by hiccups ${hiccupPercent} %`);
    return { figures, isKept: said.unanswered === 0 && said.answered >= KEPT_MIN * rps * seconds };
  };
  const isMeasured = (way: Way): boolean => half[way].filter(noiseIn(half[way]).isQuiet).length >= rounds;
  let measured = 0;
  while (measured < ROUNDS_FACTOR_MAX * rounds && !WAYS.every(isMeasured)) {
    measured += 1;
    for (const way of WAYS) half[way].push(await atHalfLoad(way));
  }
  const halfOf = (way: Way): HalfLoadFigures => {
    const { noiseOf } = noiseIn(half[way]);
    const quietest = half[way].toSorted((a, b) => noiseOf(a) - noiseOf(b)).slice(0, rounds);
    if (!quietest.every(({ isKept }) => isKept))
      reasons.add(`${rps} requests a second could not be kept at half load (${way})`);
    return mediansOf(quietest.map(({ figures }) => figures));
  };
  const halfLoad = {
    rps,
    rounds: measured,
    isRealtime,
    router: halfOf('router'),
    nginx: halfOf('nginx'),
    direct: halfOf('direct'),
  };
  if (!WAYS.every(isMeasured))
    say(
      `not a quiet machine: too often others or hiccups took more than ${TAKEN_PERCENT_MAX} % of the time, or it was ${SLOWER_MAX} times slower than it can be; the latencies are also theirs`,
    );
  const missing = [...reasons].join('; ');
  if (missing !== '') say(`no ratio: ${missing}`);
  return {
    ...medians,
    ...(missing !== ''
      ? { missing }
      : {
          ratio: round2(medians.router.rps / medians.nginx.rps),
          addedP99MsAtHalfLoad: round2(halfLoad.router.p99Ms - halfLoad.direct.p99Ms),
        }),
    halfLoad,
    roundsRps: figures.router.map(({ rps }, nth) => ({ router: rps, nginx: figures.nginx[nth]!.rps })),
  };
}

/**
 * 1 is the most of a quiet round: others had TAKEN_PERCENT_MAX of the time, so much was lost in hiccups, or a request cost SLOWER_MAX times what it did in the best round.
 * A machine whose host shares its cores' insides out to others is slower, and nothing is stolen.
 */
function noiseIn(rounds: readonly HalfLoadRound[]) {
  const leastUs = Math.min(...rounds.map(({ figures }) => figures.cpuUsPerRequest));
  const noiseOf = ({ figures }: HalfLoadRound): number =>
    Math.max(
      takenOf(figures) / TAKEN_PERCENT_MAX,
      figures.hiccupPercent / TAKEN_PERCENT_MAX,
      leastUs === 0 ? 0 : figures.cpuUsPerRequest / (leastUs * SLOWER_MAX),
    );
  return { noiseOf, isQuiet: (one: HalfLoadRound): boolean => noiseOf(one) <= 1 };
}

/** In words; null where all is there. */
async function whatIsMissing(): Promise<string | null> {
  if (process.platform !== 'linux') return 'cores are pinned on Linux only';
  if (availableParallelism() < 2) return 'one core is not enough: back ends and load need another one';
  for (const [command, args] of [
    ['taskset', ['--version']],
    ['chrt', ['--version']],
    ['setpriv', ['--version']],
    ['nginx', ['-v']],
    ['wrk', ['-v']],
  ] as const) {
    const found = await run(command, args).then(
      () => true,
      (error: NodeJS.ErrnoException) => error.code !== 'ENOENT', // wrk -v exits with 1
    );
    if (!found) return `${command} is not on this machine (Debian: apt-get install nginx wrk util-linux)`;
  }
  return null;
}

const nginxConf = (folder: string, name: string, http: string): string => `
daemon off;
worker_processes 1;
pid ${path.join(folder, `${name}.pid`)};
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path ${path.join(folder, `${name}-body`)};
  proxy_temp_path ${path.join(folder, `${name}-proxy`)};
  fastcgi_temp_path ${path.join(folder, `${name}-fastcgi`)};
  uwsgi_temp_path ${path.join(folder, `${name}-uwsgi`)};
  scgi_temp_path ${path.join(folder, `${name}-scgi`)};
  keepalive_requests 1000000000;
  client_max_body_size 4000k;
${http}
}
`;

const backEnds = (ports: readonly number[]): string =>
  ports.map((port) => `  server { listen 127.0.0.1:${port}; location / { return 200 "OK"; } }`).join('\n');

const proxy = (port: number, nodes: readonly number[]): string => `
  upstream nodes {
    hash $http_anonymousid consistent;
${nodes.map((node) => `    server 127.0.0.1:${node};`).join('\n')}
    keepalive 128;
    keepalive_requests 1000000000;
  }
  server {
    listen 127.0.0.1:${port};
    location / {
      proxy_pass http://nodes;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }
  }`;

/** The requests are made once; answers after more than 2 s count as answers (wrk calls them timeouts). What it found is one JSON line. */
const wrkScript = (port: number): string => `
local requests = {${benchRequests(port)
  .map((text) => `[==[${text.replaceAll('\r\n', '\n')}]==]`)
  .join(',\n')}}
for n, text in ipairs(requests) do
  local head, body = text:match("^(.-)\\n\\n(.*)$")
  requests[n] = head:gsub("\\n", "\\r\\n") .. "\\r\\n\\r\\n" .. body
end
local n = 0
function request()
  n = n % #requests + 1
  return requests[n]
end
function done(summary, latency)
  local e = summary.errors
  print(string.format('{"requests":%d,"us":%d,"failed":%d,"p50":%d,"p99":%d}', summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status, latency:percentile(50), latency:percentile(99)))
end
`;

/** nginx' one worker. */
async function workerOf(master: number): Promise<number> {
  const children = await readFile(`/proc/${master}/task/${master}/children`, 'utf8');
  return Number(children.trim().split(' ')[0]);
}

async function urlOf(router: ChildProcess): Promise<string> {
  for await (const line of createInterface({ input: router.stdout! })) {
    const url = /"url":"([^"]+)"/.exec(line)?.[1];
    if (url) return url;
  }
  throw new Error('the router did not start');
}

async function freePorts(count: number): Promise<number[]> {
  const ports = new Set<number>();
  while (ports.size < count) ports.add(await freePort(ports));
  return [...ports];
}

async function connects(port: number): Promise<void> {
  const deadline = performance.now() + UP_WITHIN_MS;
  for (;;) {
    try {
      await fetch(`http://127.0.0.1:${port}/`, { signal: AbortSignal.timeout(UP_WITHIN_MS) });
      return;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await sleep(50);
    }
  }
}

async function endProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), 2_000);
  await exited;
  clearTimeout(timer);
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!;
/** Of each figure by itself. */
function mediansOf<T extends object>(rows: readonly T[]): T {
  const names = Object.keys(rows[0]!) as (keyof T)[];
  return Object.fromEntries(names.map((name) => [name, median(rows.map((row) => row[name] as number))])) as T;
}
const round2 = (value: number): number => Math.round(value * 100) / 100;
const say = (line: string): void => void process.stderr.write(`${line}\n`);
