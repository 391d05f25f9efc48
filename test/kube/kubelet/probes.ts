/**
 * Probes of a running container: the startup probe first, then readiness and liveness side by side, with the periods and thresholds that the pod gives.
 * One liberty: until a startup or readiness probe has succeeded for the first time it looks up to every LOOK_EARLY_MS, so that pods are ready soon;
 * failures count once a period all the same.
 */
import { request } from 'node:http';
import { request as requestTls } from 'node:https';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { V1Container, V1Probe } from '@kubernetes/client-node';

const LOOK_EARLY_MS = 250;

export interface ProbeTarget {
  container: V1Container;
  address: string;
  /** The reason of a failure, or null. */
  exec(command: readonly string[], timeoutMs: number): Promise<string | null>;
}

export interface ProbeResults {
  started(): void;
  ready(is: boolean): void;
  /** A probe's failure that counts. */
  failed(kind: 'Startup' | 'Readiness' | 'Liveness', why: string): void;
  /** The container must be started again. */
  dead(kind: 'startup' | 'liveness'): void;
}

/** Runs until `signal`. */
export async function runProbes(target: ProbeTarget, results: ProbeResults, signal: AbortSignal): Promise<void> {
  const { startupProbe, readinessProbe, livenessProbe } = target.container;
  try {
    if (startupProbe) {
      const alive = await loop(target, startupProbe, signal, (good, counts, failures) => {
        if (good) return 'done';
        if (counts) results.failed('Startup', failures.why);
        return failures.inARow >= (startupProbe.failureThreshold ?? 3) ? 'dead' : 'go on';
      });
      if (alive === 'dead') return results.dead('startup');
    }
    results.started();
    if (!readinessProbe) results.ready(true);
    await Promise.all([
      readinessProbe && watchReadiness(target, readinessProbe, results, signal),
      livenessProbe && watchLife(target, livenessProbe, results, signal),
    ]);
  } catch (err) {
    if (!signal.aborted) throw err;
  }
}

async function watchReadiness(target: ProbeTarget, probe: V1Probe, results: ProbeResults, signal: AbortSignal) {
  let ready = false;
  let good = 0;
  await loop(target, probe, signal, (isGood, counts, failures) => {
    good = isGood ? good + 1 : 0;
    if (!ready && good >= (probe.successThreshold ?? 1)) {
      ready = true;
      results.ready(true);
    }
    if (counts && !isGood) results.failed('Readiness', failures.why);
    if (ready && failures.inARow >= (probe.failureThreshold ?? 3)) {
      ready = false;
      results.ready(false);
    }
    return 'go on';
  });
}

async function watchLife(target: ProbeTarget, probe: V1Probe, results: ProbeResults, signal: AbortSignal) {
  const end = await loop(target, probe, signal, (good, counts, failures) => {
    if (counts && !good) results.failed('Liveness', failures.why);
    return failures.inARow >= (probe.failureThreshold ?? 3) ? 'dead' : 'go on';
  });
  if (end === 'dead') results.dead('liveness');
}

type Verdict = 'go on' | 'done' | 'dead';

async function loop(
  target: ProbeTarget,
  probe: V1Probe,
  signal: AbortSignal,
  judge: (good: boolean, counts: boolean, failures: { inARow: number; why: string }) => Verdict,
): Promise<Verdict> {
  const periodMs = (probe.periodSeconds ?? 10) * 1000;
  const isLiveness = probe === target.container.livenessProbe;
  await sleep((probe.initialDelaySeconds ?? 0) * 1000, undefined, { signal });
  const failures = { inARow: 0, why: '' };
  let countedAt = Number.NEGATIVE_INFINITY;
  let everGood = isLiveness;
  for (;;) {
    const at = performance.now();
    const why = await once(target, probe);
    signal.throwIfAborted();
    const counts = everGood || at - countedAt >= periodMs;
    if (why === null) {
      everGood = true;
      failures.inARow = 0;
    } else if (counts) {
      failures.inARow += 1;
      failures.why = why;
      countedAt = at;
    }
    const verdict = judge(why === null, counts, failures);
    if (verdict !== 'go on') return verdict;
    await sleep(everGood ? periodMs : Math.min(periodMs, LOOK_EARLY_MS), undefined, { signal });
  }
}

/** The reason of a failure in a kubelet's words, or null. */
async function once(target: ProbeTarget, probe: V1Probe): Promise<string | null> {
  const timeoutMs = (probe.timeoutSeconds ?? 1) * 1000;
  if (probe.exec) return await target.exec(probe.exec.command ?? [], timeoutMs);
  if (probe.tcpSocket) {
    const host = probe.tcpSocket.host || target.address;
    return await tcp(host, portOf(probe.tcpSocket.port, target.container), timeoutMs);
  }
  if (probe.httpGet) {
    const { path = '/', port, host, httpHeaders, scheme } = probe.httpGet;
    const headers = Object.fromEntries((httpHeaders ?? []).map(({ name, value }) => [name, value]));
    const to = { host: host || target.address, port: portOf(port, target.container), path, headers };
    return await http(to, scheme === 'HTTPS', timeoutMs);
  }
  return 'a kind of probe that the kubelet stand-in does not know';
}

function portOf(port: number | string, container: V1Container): number {
  if (typeof port === 'number') return port;
  return container.ports?.find(({ name }) => name === port)?.containerPort ?? Number(port);
}

function tcp(host: string, port: number, timeoutMs: number): Promise<string | null> {
  return new Promise((resolve) => {
    const socket = connect({ host, port });
    const end = (why: string | null) => {
      socket.destroy();
      resolve(why);
    };
    socket.setTimeout(timeoutMs, () => end(`dial tcp ${host}:${port}: i/o timeout`));
    socket.once('connect', () => end(null));
    socket.once('error', (err) => end(`dial tcp ${host}:${port}: ${err.message}`));
  });
}

interface To {
  host: string;
  port: number;
  path: string;
  headers: Record<string, string>;
}

function http(to: To, tls: boolean, timeoutMs: number): Promise<string | null> {
  const name = `Get "${tls ? 'https' : 'http'}://${to.host}:${to.port}${to.path}"`;
  return new Promise((resolve) => {
    const headers = { 'user-agent': 'kube-probe/1.34', connection: 'close', ...to.headers };
    const call = (tls ? requestTls : request)({ ...to, headers, agent: false, rejectUnauthorized: false });
    const deadline = setTimeout(
      () => call.destroy(new Error('context deadline exceeded (Client.Timeout exceeded while awaiting headers)')),
      timeoutMs,
    );
    call.once('response', (response) => {
      clearTimeout(deadline);
      response.on('error', () => {}); // cut off by us, below
      response.destroy();
      const { statusCode = 0 } = response;
      resolve(statusCode >= 200 && statusCode < 400 ? null : `HTTP probe failed with statuscode: ${statusCode}`);
    });
    call.once('error', (err) => {
      clearTimeout(deadline);
      resolve(`${name}: ${err.message}`);
    });
    call.end();
  });
}
