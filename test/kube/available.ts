/** Whether tests on a real Kubernetes control plane can run here. Where they cannot they are skipped, except on a build server, where they must run. */
import { findKubeTools, isCi, kubeUnsupported } from '../../scripts/lib/kube-tools.mjs';

/** Null where kube tests can run here; else the one line that says why not. With CI set it throws instead of returning a line. */
export function kubeMissing(): string | null {
  const missing = reason();
  if (missing !== null && isCi()) throw new Error(`${missing} (CI is set: these tests must run)`);
  return missing;
}

function reason(): string | null {
  const unsupported = kubeUnsupported();
  if (unsupported !== null) return unsupported;
  if (findKubeTools() !== null) return null;
  return (
    process.env['RINGMASTER_KUBE_MISSING'] ||
    'the Kubernetes binaries are not built yet: `npm test` and `npm run demo -- --platform kubernetes` build them, once, with Go'
  );
}
