/** Goal: no activity can forget its fault points, no point can lose its place or its test, and none is ever on by accident. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { cancellationSignal } from '@temporalio/activity';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterEach, describe, expect, test } from 'vitest';
import type { ActivityDeps } from '../../activities/deps.ts';
import {
  activityNames,
  around,
  faultPoint,
  faultPoints,
  inside,
  withFaultPoints,
} from '../../activities/fault-points.ts';
import { createActivities } from '../../activities/index.ts';
import type { AllActivities } from '../../activities/types.ts';
import { switchOffFaultPoints, switchOnFaultPoints } from '../../kit/fault-points.ts';
import { workerConfig } from '../../workers/config.ts';
import { exitStepsOf, exits, pointsOf, stepsOf } from './plan.ts';
import { openStops } from './stops.ts';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
const sorted = (names: Iterable<string>): string[] => [...names].sort();
const inWorker = <T>(run: () => Promise<T> | T): Promise<T> =>
  new MockActivityEnvironment().run(async () => run()) as Promise<T>;

afterEach(switchOffFaultPoints);

describe('every activity', () => {
  test('of a worker has its points', async () => {
    const deps = { ringStore: {}, platform: {}, limits: {}, log: {} } as unknown as ActivityDeps; // there is no world: each fails at once
    const activities = Object.entries(createActivities(deps));
    expect(sorted(activities.map(([name]) => name))).toEqual(sorted(activityNames));
    const stops = await openStops();
    try {
      switchOnFaultPoints(stops.url);
      for (const [, activity] of activities)
        await expect(inWorker(() => (activity as (input: object) => Promise<unknown>)({}))).rejects.toThrow();
      expect(sorted(stops.seen.keys())).toEqual(sorted(activityNames.map((name) => `${name}: before its effect`)));
    } finally {
      await stops.close();
    }
  });

  test('comes by the one before its effect and by the one after it', async () => {
    const stops = await openStops();
    try {
      switchOnFaultPoints(stops.url);
      const order: string[] = [];
      const played = Object.fromEntries(
        activityNames.map((name) => [name, async (input: string) => order.push(`${name} ${input} ${stops.seen.size}`)]),
      ) as unknown as AllActivities;
      for (const [n, activity] of Object.values(withFaultPoints(played)).entries()) {
        await inWorker(() => (activity as unknown as (input: string) => Promise<unknown>)('with its input'));
        expect(stops.seen.size).toBe(2 * n + 2);
        expect(order.at(-1)).toBe(`${activityNames[n]} with its input ${2 * n + 1}`); // its first point was behind it, its second before it
      }
      expect(sorted(stops.seen.keys())).toEqual(
        sorted(activityNames.flatMap((name) => around.map((when) => `${name}: ${when}`))),
      );
    } finally {
      await stops.close();
    }
  });

  test('comes by the points inside it, each of which is in the source once', () => {
    const source = readdirSync(path.join(PROJECT, 'activities'))
      .map((file) => readFileSync(path.join(PROJECT, 'activities', file), 'utf8'))
      .join('\n');
    const placed = [...source.matchAll(/await faultPoint\('([^']+)'\)/g)].map((match) => match[1]!);
    expect(sorted(placed)).toEqual(sorted(inside));
  });
});

describe('every point', () => {
  test.each(['kill', 'cancel'] as const)('has a step in which a test comes by to %s', (act) => {
    const elsewhere = (['make ring', 'verification'] as const).flatMap(pointsOf);
    const ofExits = new Set(exitStepsOf(act, exits).map(({ point }) => point));
    expect(sorted([...stepsOf(act).map(({ point }) => point), ...ofExits, ...elsewhere])).toEqual(sorted(faultPoints));
  });
});

describe('a fault point', () => {
  test('that is off asks nobody and holds up nothing', () => {
    expect(faultPoint('cutOver: fenced')).toBeUndefined();
  });

  test('that is on stands still until the test lets it go', async () => {
    const stops = await openStops();
    try {
      switchOnFaultPoints(stops.url);
      const stopping = stops.stopAt('cutOver: fenced');
      let isPast = false;
      const passing = inWorker(async () => {
        await faultPoint('cutOver: fenced');
        isPast = true;
      });
      const stopped = await stopping;
      expect(stopped).toMatchObject({ point: 'cutOver: fenced', pid: process.pid });
      expect(isPast).toBe(false);
      stopped.go('on');
      await passing;
      expect(isPast).toBe(true);
    } finally {
      await stops.close();
    }
  });

  test('goes on when its activity hears that it is cancelled, where the test wants that', async () => {
    const stops = await openStops();
    const worker = new MockActivityEnvironment();
    try {
      switchOnFaultPoints(stops.url);
      const stopping = stops.stopAt('cutOver: verified');
      const passing = worker.run(async () => {
        await faultPoint('cutOver: verified');
        return cancellationSignal().aborted;
      });
      const stopped = await stopping;
      stopped.go('on when cancelled');
      await stopped.gone;
      setImmediate(() => worker.cancel());
      expect(await passing, 'it has heard of it before it went on').toBe(true);
    } finally {
      await stops.close();
    }
  });

  test('fails its activity where the test is gone', async () => {
    const stops = await openStops();
    await stops.close();
    switchOnFaultPoints(stops.url);
    await expect(inWorker(() => faultPoint('cutOver: fenced'))).rejects.toThrow('fetch failed');
  });
});

describe('never by accident', () => {
  const local = {
    RINGMASTER_RINGSTORE_URL: 'postgres://ring',
    RINGMASTER_AGENT_URL: 'http://127.0.0.1:1',
    RINGMASTER_AGENT_TOKEN: 'token',
  };
  const FAULTS = { RINGMASTER_FAULT_POINTS: 'http://127.0.0.1:1' };

  test('an address of another machine is refused', () => {
    expect(() => switchOnFaultPoints('http://10.0.0.1:80')).toThrow('RINGMASTER_FAULT_POINTS: is for tests');
    expect(() => switchOnFaultPoints('yes')).toThrow('RINGMASTER_FAULT_POINTS: is for tests');
    expect(faultPoint('cutOver: fenced')).toBeUndefined();
  });

  test('what was built refuses them, as every container image is', () => {
    expect(() => switchOnFaultPoints('http://127.0.0.1:1', 'file:///app/dist/kit/fault-points.js')).toThrow(
      'nothing that was built takes it',
    );
    expect(faultPoint('cutOver: fenced')).toBeUndefined();
  });

  test('a worker of nodes on Kubernetes does not start with them', () => {
    expect(workerConfig({ ...local, ...FAULTS }).RINGMASTER_FAULT_POINTS).toBe('http://127.0.0.1:1');
    const kubernetes = { ...local, RINGMASTER_PLATFORM: 'kubernetes', RINGMASTER_CLUSTER: 'demo' };
    expect(() => workerConfig(kubernetes)).not.toThrow();
    expect(() => workerConfig({ ...kubernetes, ...FAULTS })).toThrow('RINGMASTER_FAULT_POINTS: is for tests');
  });

  test('nothing but tests names the variable', () => {
    const folders = ['api', 'bench', 'client', 'deploy', 'dev', 'node', 'operator', 'platform', 'router', 'scripts'];
    const naming = folders.flatMap((folder) =>
      readdirSync(path.join(PROJECT, folder), { recursive: true, encoding: 'utf8', withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => path.join(entry.parentPath, entry.name))
        .filter((file) => readFileSync(file, 'utf8').includes('RINGMASTER_FAULT_POINTS'))
        .map((file) => path.relative(PROJECT, file)),
    );
    expect(naming).toEqual(['dev/stack.ts']); // for the one who starts it: startStack({ faultPointsUrl })
    for (const file of ['dev/start.ts', 'dev/demo/run.ts'])
      expect(readFileSync(path.join(PROJECT, file), 'utf8')).not.toContain('faultPointsUrl');
  });
});
