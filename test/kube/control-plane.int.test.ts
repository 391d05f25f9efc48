/**
 * Goal: the control plane that all tests on Kubernetes stand on is the real thing, survives what those tests do to it, and leaves nothing behind.
 * Method: one control plane for the file, used through kubectl as a person would; processes are counted by looking for its folder in their command lines.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { until } from '../support/wait.ts';
import { kubeMissing } from './available.ts';
import { type ControlPlane, kubeTools, startControlPlane } from './control-plane.ts';

const MODULE = fileURLToPath(new URL('./control-plane.ts', import.meta.url));
const deadlineMs = 30_000;

describe.skipIf(kubeMissing() !== null)('the control plane', () => {
  let plane: ControlPlane;
  let folderOfTheKilled: string;
  afterAll(() => plane?.stop());

  /** As a person would see it: what kubectl prints, or an error with what it says. */
  async function kubectl(args: string, input?: object): Promise<string> {
    const ran = await plane.kubectl(args.split(' '), input && JSON.stringify(input));
    if (ran.code !== 0) throw new Error(`kubectl ${args}: ${ran.stderr}`);
    return ran.stdout.trim();
  }

  test('ends when the process that started it is killed', async () => {
    const starter = spawn(
      process.execPath,
      [
        '--disable-warning=ExperimentalWarning',
        '--input-type=module',
        '--eval',
        `
        import { startControlPlane } from ${JSON.stringify(MODULE)};
        console.log((await startControlPlane({ controllers: ['namespace-controller'] })).folder);`,
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    const [folder] = (await once(createInterface({ input: starter.stdout }), 'line')) as [string];
    folderOfTheKilled = folder;
    expect(programsIn(folder)).toEqual(['etcd', 'kube-apiserver', 'kube-controller-manager']);
    starter.kill('SIGKILL');
    await once(starter, 'exit');
    await until(() => programsIn(folder).length === 0, { deadlineMs, what: 'no process of it is left' });
  });

  test('starts, and clears away the folder of one that was killed', async () => {
    expect(existsSync(folderOfTheKilled)).toBe(true);
    const from = performance.now();
    plane = await startControlPlane();
    console.log(`control plane started in ${((performance.now() - from) / 1000).toFixed(1)} s`);
    expect(existsSync(folderOfTheKilled)).toBe(false);
    expect(programsIn(plane.folder)).toEqual(['etcd', 'kube-apiserver', 'kube-controller-manager']);
  });

  test('kubectl, the API server and helm have the versions of their modules', async () => {
    const wanted = (module: string, name: string) =>
      new RegExp(`^\\s*${name} (v\\S+)`, 'm').exec(
        readFileSync(path.join(path.dirname(MODULE), 'tools', module, 'go.mod'), 'utf8'),
      )![1]!;
    if (process.env['KUBEBUILDER_ASSETS']) return; // then they are somebody else's
    const version = JSON.parse(await kubectl('version -o json'));
    expect(version.clientVersion.gitVersion).toBe(wanted('kubernetes', 'k8s.io/kubernetes'));
    expect(version.serverVersion.gitVersion).toBe(wanted('kubernetes', 'k8s.io/kubernetes'));
    const helm = await plane.helm(['version', '--short']);
    expect(helm.stderr).toBe('');
    expect(helm.stdout.trim().split('+')[0]).toBe(wanted('helm', 'helm.sh/helm/v4'));
  });

  test('the real controllers make the pods and claims of a StatefulSet, and collect them after it', async () => {
    await kubectl('create namespace made');
    await kubectl('apply -n made -f -', statefulSet('web', 2));
    await until(async () => (await kubectl('get pods -n made -o name')) === 'pod/web-0\npod/web-1', {
      deadlineMs,
      what: 'two pods',
    });
    expect(await kubectl('get pvc -n made -o name')).toBe(
      'persistentvolumeclaim/data-web-0\npersistentvolumeclaim/data-web-1',
    );
    await kubectl('delete statefulset web -n made');
    await until(async () => (await kubectl('get pods -n made -o name')) === '', { deadlineMs, what: 'no pod' });
    await kubectl('delete namespace made'); // waits until it is gone: the claims lose their finalizers
  });

  test('admission is on: a pod that is not allowed under the restricted standard is refused', async () => {
    await kubectl('create namespace strict');
    await kubectl('label namespace strict pod-security.kubernetes.io/enforce=restricted');
    await until(() => kubectl('get serviceaccount default -n strict'), { deadlineMs, what: 'the default account' });
    const pod = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'loose' }, spec: { containers: [container()] } };
    await expect(kubectl('apply -n strict -f -', pod)).rejects.toThrow(/violates PodSecurity "restricted/);
  });

  test('a restart of the API server keeps data, port and tokens, and the controllers go on', async () => {
    await kubectl('create namespace kept');
    await kubectl('create serviceaccount reader -n kept');
    await kubectl('create role reader -n kept --verb=get,list --resource=pods');
    await kubectl('create rolebinding reader -n kept --role=reader --serviceaccount=kept:reader');
    const kubeconfig = await plane.kubeconfigFor('kept', 'reader');
    await kubectl('apply -n kept -f -', statefulSet('web', 1));
    await until(() => kubectl('get pod web-0 -n kept'), { deadlineMs, what: 'its pod' });
    const { url } = plane;

    const restarted = plane.restartApiServer(3_000); // longer than kubectl takes to start, so that it meets the outage
    await until(async () => (await plane.kubectl(['get', 'namespaces'])).code !== 0, { deadlineMs, what: 'an outage' });
    await restarted;

    expect(plane.url).toBe(url);
    expect(await kubectl(`--kubeconfig ${kubeconfig} get pods -n kept -o name`)).toBe('pod/web-0');
    await kubectl('scale statefulset web -n kept --replicas=2');
    await until(() => kubectl('get pod web-1 -n kept'), { deadlineMs, what: 'a second pod' });
  });

  test('a service account may do what its roles say, and no more', async () => {
    await kubectl('create namespace rights');
    await kubectl('create serviceaccount reader -n rights');
    await kubectl('create role reader -n rights --verb=get,list --resource=configmaps');
    await kubectl('create rolebinding reader -n rights --role=reader --serviceaccount=rights:reader');
    const kubeconfig = await plane.kubeconfigFor('rights', 'reader');
    expect(statSync(kubeconfig).mode & 0o777).toBe(0o600);
    expect(await kubectl(`--kubeconfig ${kubeconfig} auth whoami -o jsonpath={.status.userInfo.username}`)).toBe(
      'system:serviceaccount:rights:reader',
    );
    // No -n: the kubeconfig's namespace is the account's.
    await until(() => kubectl(`--kubeconfig ${kubeconfig} get configmaps -o name`), { deadlineMs, what: 'its role' });
    await expect(kubectl(`--kubeconfig ${kubeconfig} delete configmap kube-root-ca.crt`)).rejects.toThrow(/forbidden/);
    await expect(kubectl(`--kubeconfig ${kubeconfig} get pods -n kube-system`)).rejects.toThrow(/forbidden/);
    await expect(plane.kubeconfigFor('rights', 'nobody')).rejects.toMatchObject({ code: 'KUBE_TOKEN_REFUSED' });
  });

  test('writes to what the guard protects are in the audit log before they are answered', async () => {
    await kubectl('create namespace audited');
    await kubectl('apply -n audited -f -', statefulSet('web', 1));
    await kubectl('scale statefulset web -n audited --replicas=0');
    const entries = readFileSync(plane.auditLog, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    const scaled = entries.find((entry) => entry.objectRef.namespace === 'audited' && entry.objectRef.subresource);
    expect(scaled).toMatchObject({
      verb: 'patch',
      user: { username: 'admin' },
      objectRef: { resource: 'statefulsets', name: 'web', subresource: 'scale' },
      responseStatus: { code: 200 },
    });
    expect(readFileSync(plane.auditLog, 'utf8')).not.toMatch(/requestObject/);
  });

  test('secrets lie in files that only this user can read', () => {
    expect(statSync(plane.folder).mode & 0o777).toBe(0o700);
    for (const name of readdirSync(plane.folder).filter((file) => /\.(key|csv|kubeconfig)$/.test(file)))
      expect([name, statSync(path.join(plane.folder, name)).mode & 0o777]).toEqual([name, 0o600]);
  });

  test('a folder that holds something is refused, and left as it is', async () => {
    await expect(startControlPlane({ folder: plane.folder })).rejects.toMatchObject({ code: 'KUBE_FOLDER_NOT_EMPTY' });
    expect(existsSync(plane.kubeconfig)).toBe(true);
  });

  test('stop leaves no process and no folder, ends a running kubectl, and may be called twice', async () => {
    const watching = plane.kubectl(['get', 'namespaces', '--watch']);
    await Promise.all([plane.stop(), plane.stop()]);
    expect((await watching).code).not.toBe(0);
    expect(programsIn(plane.folder)).toEqual([]);
    expect(existsSync(plane.folder)).toBe(false);
  });

  test('a start that fails says why and leaves nothing', async () => {
    const err = await startControlPlane({ controllers: ['no-such-controller'] }).then(
      (started) => started.stop().then(() => null),
      (reason: Error & { code: string }) => reason,
    );
    expect(err?.code).toBe('KUBE_NOT_STARTED');
    expect(err?.message).toMatch(/kube-controller-manager ended[\s\S]*no-such-controller/);
    const kept = readdirSync(path.dirname(plane.folder)).filter((name) => name.includes(`-${process.pid}-`));
    expect(kept).toEqual([]);
  });
});

/** Which of the three programs run with something of this folder on their command line, sorted. */
function programsIn(folder: string): string[] {
  const { etcd, apiserver, controllerManager } = kubeTools();
  const names = new Map([etcd, apiserver, controllerManager].map((file) => [file, path.basename(file)]));
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      let args: string[];
      try {
        args = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      } catch {
        return []; // ended meanwhile
      }
      const name = names.get(args[0]!);
      return name && args.some((arg) => arg.startsWith(folder)) ? [name] : [];
    })
    .sort();
}

function container() {
  return { name: 'it', image: 'example.org/it:1' };
}

function statefulSet(name: string, replicas: number) {
  const labels = { app: name };
  return {
    apiVersion: 'apps/v1',
    kind: 'StatefulSet',
    metadata: { name },
    spec: {
      replicas,
      serviceName: name,
      podManagementPolicy: 'Parallel',
      selector: { matchLabels: labels },
      template: { metadata: { labels }, spec: { containers: [container()] } },
      volumeClaimTemplates: [
        {
          metadata: { name: 'data' },
          spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Gi' } } },
        },
      ],
    },
  };
}
