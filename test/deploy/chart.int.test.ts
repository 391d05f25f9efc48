/**
 * Goal: whatever is set, the chart renders objects that a real API server takes without a word, and what would not work is refused with one clear sentence.
 * Method: a table of samples, one for each value that values.yaml documents; what each renders is asked about with a server-side dry run, in a namespace that
 * enforces the restricted pod security standard.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { dumpYaml, type KubernetesObject, loadAllYaml, loadYaml } from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { routerNodeFlags } from '../../router/node-flags.ts';
import { kubeMissing } from '../kube/available.ts';
import { type ControlPlane, kubeTools, startControlPlane } from '../kube/control-plane.ts';
import {
  CHART,
  chartFile,
  documentedValues,
  isOfEveryPart,
  merged,
  nested,
  PROJECT,
  type Sample,
  sampleOf,
  samplesWithoutValue,
  valuesOf,
} from './chart-values.ts';

const missing = kubeMissing();
if (missing) console.log(`test/deploy/chart: skipped: ${missing}`);

const NAMESPACE = 'chart';
const documented = documentedValues();
const paths = documented.map(({ path: name }) => name);

type Rendered = KubernetesObject & { spec?: Record<string, never> };
let folder: string;

interface Ran {
  readonly code: number;
  readonly output: string;
}

const helm = (...args: string[]): Promise<Ran> =>
  new Promise((resolve) => {
    execFile(kubeTools().helm, args, { maxBuffer: 2 ** 26, env: withoutCluster() }, (error, stdout, stderr) =>
      resolve({ code: error ? Number(error.code ?? 1) : 0, output: stdout + stderr }),
    );
  });

/** Rendering must need no cluster, so it gets none. */
function withoutCluster(): NodeJS.ProcessEnv {
  const homes = { HELM_CACHE_HOME: folder, HELM_CONFIG_HOME: folder, HELM_DATA_HOME: folder };
  return { PATH: process.env['PATH'], HOME: folder, KUBECONFIG: '/dev/null', ...homes };
}

async function template(values: Record<string, unknown>, ...args: string[]): Promise<Ran> {
  const file = path.join(mkdtempSync(path.join(folder, 'values-')), 'values.yaml');
  writeFileSync(file, dumpYaml(values));
  return helm('template', 'release', CHART, '--namespace', NAMESPACE, '--values', file, ...args);
}

async function render(values: Record<string, unknown>): Promise<{ text: string; objects: Rendered[] }> {
  const { code, output } = await template(values);
  expect(code, output).toBe(0);
  return { text: output, objects: (loadAllYaml(output) as (Rendered | null)[]).filter((object) => object !== null) };
}

beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'ringmaster-chart-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('the files of the chart agree', () => {
  test('its appVersion is the version in package.json', () => {
    const { version } = JSON.parse(readFileSync(path.join(PROJECT, 'package.json'), 'utf8')) as { version: string };
    expect(loadYaml<{ appVersion: string }>(chartFile('Chart.yaml')).appVersion).toBe(version);
  });

  test('every value has a comment that says what it does', () => {
    expect(documented.filter(({ commented }) => !commented).map(({ path: name }) => name)).toEqual([]);
  });

  test('the README has every value with its default, and no other', () => {
    const rows = [...chartFile('README.md').matchAll(/^\| `([\w.]+)` \| (?:`(.*?)`)? \| /gm)].map(
      ([, name, value]) => [name, value === undefined ? null : JSON.parse(value)] as const,
    );
    expect(Object.fromEntries(rows)).toEqual(
      Object.fromEntries(documented.map(({ path: name, value }) => [name, value])),
    );
  });

  test('the schema knows every value, and no other', () => {
    type Node = { properties?: Record<string, Node> };
    const leaves = (node: Node, prefix = ''): string[] =>
      Object.entries(node.properties ?? {}).flatMap(([key, below]) =>
        below.properties ? leaves(below, `${prefix}${key}.`) : [prefix + key],
      );
    expect(leaves(JSON.parse(chartFile('values.schema.json')) as Node).sort()).toEqual([...paths].sort());
  });

  test('every value has a sample that is not its default, and every sample a value', () => {
    expect(paths.filter((name) => !sampleOf(name))).toEqual([]);
    expect(samplesWithoutValue(new Set(paths))).toEqual([]);
    for (const { path: name, value } of documented) expect(sampleOf(name)?.value, name).not.toEqual(value);
  });
});

describe.skipIf(missing !== null)('rendering', () => {
  test('helm lint has nothing to say, with the defaults and with samples', async () => {
    const { code, output } = await helm('lint', '--strict', CHART);
    expect(output).not.toMatch(/WARNING|ERROR/);
    expect(code).toBe(0);
  });

  test('routers start with the flags of Node that routers have everywhere', async () => {
    const { text } = await render({});
    const flags = routerNodeFlags.map((flag) => `"${flag}", `).join('');
    expect(text).toContain(`args: [${flags}dist/router/main.js]`);
  });

  test('the StatefulSets of nodes never name a number of replicas', async () => {
    for (const values of [{}, { backendReplicaCount: 5 }, nested('backendAutoscaling.enabled', true)]) {
      const { objects } = await render(values);
      const sets = objects.filter(
        ({ kind, metadata }) => kind === 'StatefulSet' && metadata?.name !== 'release-ringmaster-ringstore',
      );
      expect(sets.map(({ metadata }) => metadata?.name)).toEqual([
        'release-ringmaster-backend',
        'release-ringmaster-postgresql',
      ]);
      for (const { spec } of sets) expect(spec).not.toHaveProperty('replicas');
    }
  });

  test('without a number RingCluster.spec.nodes is left out: as it is', async () => {
    const { objects } = await render({});
    expect(objects.find(({ kind }) => kind === 'RingCluster')?.spec).toEqual({
      partitionCount: 64,
      deleteVolumes: false,
    });
  });

  test('a release whose name has ringmaster in it is not named twice', async () => {
    const { output } = await helm('template', 'my-ringmaster', CHART);
    expect(output).toContain('name: my-ringmaster-backend');
  });

  test('only worker and operator get a token', async () => {
    const { objects } = await render(nested('temporal.devServer.enabled', true));
    const withToken = objects.filter(({ kind, spec }) => {
      const pod = (kind === 'Pod' ? spec : (spec as { template?: { spec?: object } } | undefined)?.template?.spec) as
        | { automountServiceAccountToken?: boolean }
        | undefined;
      return pod !== undefined && pod.automountServiceAccountToken !== false;
    });
    expect(withToken.map(({ metadata }) => metadata?.name).sort()).toEqual([
      'release-ringmaster-operator',
      'release-ringmaster-worker',
    ]);
  });

  test('nothing that a StatefulSet cannot change later depends on the version', async () => {
    const { text } = await render({});
    const claims = [...text.matchAll(/volumeClaimTemplates:[\s\S]*?(?=\n---|$)/g)].map(([found]) => found);
    expect(claims).toHaveLength(2);
    for (const claim of claims) expect(claim).not.toMatch(/helm.sh\/chart|app.kubernetes.io\/version/);
  });

  test('ports that are set are the same everywhere, and none of the defaults stays behind', async () => {
    const names = paths.filter((name) => name.startsWith('ports.'));
    const values = names.map((name) => valuesOf(name, sampleOf(name) as Sample));
    const rendered = (await render(merged(nested('api.service.port', 18_000), ...values))).text.split(/^---$/m);
    const text = rendered.filter((document) => !document.includes('\nkind: Secret\n')).join('---'); // these hold random characters
    const defaults = documented.filter(({ path: name }) => names.includes(name)).map(({ value }) => value);
    expect(text.match(new RegExp(`\\b(${defaults.join('|')})\\b`, 'g'))).toBeNull();
    for (const [name, port] of [
      ['GATEWAY', 18_001],
      ['CONTROL', 18_002],
      ['POSTGRES', 18_003],
    ])
      expect(text).toMatch(new RegExp(`RINGMASTER_KUBE_${name}_PORT\\n\\s+value: "${port}"`));
    expect(text).toContain('.svc:18003/jobsdb');
    expect(text).toContain('.svc:18003/ringstore');
    expect(text.match(/--port=18003/g)).toHaveLength(6); // three probes of two PostgreSQL
  });

  test.each<[string, Record<string, unknown>, RegExp]>([
    ['an unknown value', { backendReplicas: 3 }, /additional properties 'backendReplicas' not allowed/],
    ['no nodes', { backendReplicaCount: 0 }, /backendReplicaCount/],
    ['more nodes than there can be', { backendReplicaCount: 1001 }, /backendReplicaCount/],
    ['half a node', { backendReplicaCount: 1.5 }, /backendReplicaCount/],
    ['a number as text', { backendReplicaCount: 'three' }, /backendReplicaCount/],
    ['a number of partitions that is no power of two', { partitionCount: 100 }, /partitionCount/],
    ['a cluster id that cannot be one', { clusterId: 'Demo' }, /clusterId/],
    ['an address without a port', nested('temporal.address', 'temporal.example'), /temporal\/address/],
    ['an age that is none', { deleteVolumesAfter: '7 days' }, /deleteVolumesAfter/],
    ['a port that is none', nested('router.service.port', 70_000), /router\/service\/port/],
    ['a port that needs root', nested('ports.router', 80), /ports\/router/],
    [
      'one port for two servers of a pod',
      merged(nested('ports.gateway', 9000), nested('ports.control', 9000)),
      /ports.gateway and ports.control are both 9000/,
    ],
    [
      'a port of PostgreSQL that only it would know',
      nested('postgresql.parameters', { port: 6000 }),
      /postgresql.parameters.port: set ports.postgresql/,
    ],
    [
      'a destination without an address',
      nested('nodeConfig.sources', [{ writeKey: 'a', sourceId: 'b', destinations: [{ id: 'c' }] }]),
      /missing property 'url'/,
    ],
    [
      'a grace period that is shorter than a node needs',
      nested('backend.terminationGracePeriodSeconds', 20),
      /terminationGracePeriodSeconds/,
    ],
    ['a volume that is shared', nested('postgresql.storage.accessModes', ['ReadWriteMany']), /accessModes/],
    [
      'two different numbers of nodes',
      merged({ backendReplicaCount: 3 }, nested('global.backendReplicaCount', 4)),
      /backendReplicaCount is 3 and global.backendReplicaCount is 4: set one of them, or both to the same/,
    ],
    [
      'a number beside an autoscaler',
      merged({ backendReplicaCount: 3 }, nested('backendAutoscaling.enabled', true)),
      /backendReplicaCount and backendAutoscaling.enabled exclude each other/,
    ],
    [
      'more nodes than partitions',
      { backendReplicaCount: 5, partitionCount: 4 },
      /backendReplicaCount is 5, more than partitionCount \(4\)/,
    ],
    [
      'a Temporal beside the dev server',
      merged(nested('temporal.address', 'a:1'), nested('temporal.devServer.enabled', true)),
      /temporal.address and temporal.devServer.enabled exclude each other/,
    ],
  ])('%s is refused by name', async (_what, values, says) => {
    const { code, output } = await template(values);
    expect(code).not.toBe(0);
    expect(output).toMatch(says);
  });

  test('both numbers set to the same is no contradiction', async () => {
    const { text } = await render(merged({ backendReplicaCount: 3 }, nested('global.backendReplicaCount', 3)));
    expect(text).toContain('\n  nodes: 3\n');
  });

  test("values of a parent chart's other charts under global are let through", async () => {
    await render(nested('global.imageRegistry', 'elsewhere'));
  });
});

describe.skipIf(missing !== null)('a real API server', () => {
  let controlPlane: ControlPlane;

  beforeAll(async () => {
    controlPlane = await startControlPlane();
    const restricted = ['enforce', 'warn'].map((mode) => `pod-security.kubernetes.io/${mode}=restricted`);
    for (const args of [
      ['create', 'namespace', NAMESPACE],
      ['label', 'namespace', NAMESPACE, ...restricted],
      ['apply', '--server-side', '--filename', path.join(CHART, 'crds')],
      ['wait', '--for=condition=Established', 'crd/ringclusters.ringmaster.dev'],
    ])
      expect((await controlPlane.kubectl(args)).stderr).toBe('');
  });
  afterAll(() => controlPlane?.stop());

  test('takes every object, with the defaults and with every documented value, without error or warning', async () => {
    // Documents that several renderings share are asked about once. Secrets hold something new each time: the default's stand for all.
    const asked = new Set(documentsOf((await render({})).text));
    for (const names of renderedTogether(paths)) {
      const { text } = await render(merged(...names.map((name) => valuesOf(name, sampleOf(name) as Sample))));
      for (const name of names) {
        const where = names.length === 1 ? text : documentsOf(text, name.split('.')[0]).join('\n---\n');
        const { shows } = sampleOf(name) as Sample;
        if (typeof shows === 'string') expect(where, name).toContain(shows);
        else expect(where, name).toMatch(shows);
      }
      for (const document of documentsOf(text)) if (!isKind(document, 'Secret')) asked.add(document);
    }

    // A pod's account must be there, also for a dry run.
    expect(await applied([...asked].filter((document) => isKind(document, 'ServiceAccount')))).toEqual('');
    expect(await applied([...asked], '--dry-run=server')).toEqual('');
  }, 300_000);

  const isKind = (document: string, kind: string): boolean => document.includes(`\nkind: ${kind}\n`);

  /** As Helm wrote them; only of the template `part`.yaml, where that is given. */
  function documentsOf(text: string, part?: string): string[] {
    return text
      .split(/^---$/m)
      .filter((document) => document.includes('\nkind: '))
      .filter((document) => part === undefined || document.includes(`# Source: ringmaster/templates/${part}.yaml`));
  }

  /** Values that every part has do not touch each other: all of them in one rendering. All others alone. */
  function renderedTogether(names: readonly string[]): string[][] {
    const parts = names.filter((name) => isOfEveryPart(name));
    return [parts, ...names.filter((name) => !isOfEveryPart(name)).map((name) => [name])];
  }

  /** What kubectl complained about. */
  async function applied(documents: string[], ...args: string[]): Promise<string> {
    const { stderr } = await controlPlane.kubectl(
      ['apply', '--server-side', '--force-conflicts', '--namespace', NAMESPACE, ...args, '--filename', '-'],
      documents.join('\n---\n'),
    );
    return stderr;
  }
});
