import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { checkImports, importsOf, RULES } from '../../scripts/lib/folders.mjs';

const LINT = fileURLToPath(new URL('../../scripts/lint.mjs', import.meta.url));

/** Each folder with an import that must be refused and one that must pass. */
const PLANTED: Record<string, { refused: string[]; allowed: string[] }> = {
  ring: {
    refused: [
      "import { log } from '../kit/log.ts';",
      "import { createHash } from 'node:crypto';",
      "import type { Pool } from 'pg';",
    ],
    allowed: ["import { murmur3 } from './murmur3.ts';"],
  },
  kit: { refused: ["import { evolve } from '../ring/ring.ts';"], allowed: ["import pino from 'pino';"] },
  workflows: {
    refused: [
      "import { createMoveActivities } from '../activities/move.ts';",
      "import { log } from '../kit/log.ts';",
      "import { readFile } from 'node:fs/promises';",
      "import { type MoveActivities } from '../activities/move.ts';", // leaves `import {}`, which is loaded
    ],
    allowed: [
      "import type { MoveActivities } from '../activities/move.ts';",
      "import { planMoves } from '../ring/planner.ts';",
      "import { sleep } from '@temporalio/workflow';",
    ],
  },
  activities: {
    refused: [
      "import { startScale } from '../client/client.ts';",
      "import { ScaleCluster } from '../workflows/scale-cluster.ts';",
      "import { x } from '../dev/start.ts';",
      "import { x } from '../api/server.ts';",
    ],
    allowed: [
      "import { copyPass } from '../jobsdb/copy.ts';",
      "import type { MoveInput } from '../workflows/messages.ts';",
    ],
  },
  workers: {
    refused: ["import { ScaleCluster } from '../workflows/scale-cluster.ts';", "import { x } from '../api/server.ts';"],
    allowed: ["import { createMoveActivities } from '../activities/move.ts';"],
  },
  client: {
    refused: [
      "import { ScaleCluster } from '../workflows/scale-cluster.ts';",
      "import { x } from '../ringstore/store.ts';",
    ],
    allowed: ["import { progressQuery } from '../workflows/messages.ts';"],
  },
  operator: {
    refused: [
      "import { startKubelet } from '../test/kube/kubelet.ts';",
      "import { createPodActivities } from '../activities/pods.ts';",
      "import { x } from '../api/server.ts';",
    ],
    allowed: ["import { createOperationsClient } from '../client/operations.ts';"],
  },
  api: {
    refused: ["import { x } from '../workers/main.ts';"],
    allowed: ["import { createClient } from '../client/client.ts';"],
  },
  ringstore: {
    refused: ["import { x } from '../jobsdb/schema.ts';"],
    allowed: ["import { evolve } from '../ring/ring.ts';"],
  },
  jobsdb: {
    refused: ["import { evolve } from '../ringstore/ringstore.ts';"],
    allowed: ["import { log } from '../kit/log.ts';"],
  },
  dataplane: {
    refused: ["import { x } from '../router/router.ts';"],
    allowed: ["import { x } from '../jobsdb/copy.ts';"],
  },
  platform: {
    refused: ["import { x } from '../dataplane/contract.ts';"],
    allowed: ["import { log } from '../kit/log.ts';"],
  },
  router: {
    refused: ["import { x } from '../dataplane/reference/node.ts';", "const x = await import('../jobsdb/copy.ts');"],
    allowed: ["import type { NodeStatus } from '../dataplane/contract.ts';"],
  },
  node: {
    refused: ["export * from '../router/router.ts';", "import '../platform/platform.ts';"],
    allowed: ["import { x } from '../dataplane/contract.ts';"],
  },
};

describe('the folder rule', () => {
  test('is tried for every folder that it names', () => {
    expect(Object.keys(PLANTED).sort()).toEqual(Object.keys(RULES).sort());
  });

  for (const [folder, { refused, allowed }] of Object.entries(PLANTED)) {
    test.each(refused)(`${folder} refuses %s`, (line) => {
      expect(checkImports(`${folder}/planted.ts`, line)).toHaveLength(1);
    });
    test.each(allowed)(`${folder} allows %s`, (line) => {
      expect(checkImports(`${folder}/planted.ts`, line)).toEqual([]);
    });
  }

  test('looks at where a path ends, not at how it is written', () => {
    expect(checkImports('jobsdb/sql/a.ts', "import '../../ringstore/ringstore.ts';")).toHaveLength(1);
    expect(checkImports('router/deep/a.ts', "import '../../router/b.ts';")).toEqual([]);
  });

  test('finds imports over several lines, and none in comments', () => {
    const source =
      "// import x from 'a';\nimport {\n  b,\n} from 'b';\n/* import 'c' */\nexport type { D } from 'd';\n";
    expect(importsOf(source)).toEqual([
      { specifier: 'b', typeOnly: false, line: 4 },
      { specifier: 'd', typeOnly: true, line: 6 },
    ]);
  });

  test('`npm run lint` refuses a file planted in a project, in folders below too', () => {
    const project = mkdtempSync(path.join(tmpdir(), 'ringmaster-folders-'));
    const lint = () => spawnSync(process.execPath, [LINT, '--folders', project], { encoding: 'utf8' });
    try {
      mkdirSync(path.join(project, 'ring/deep'), { recursive: true });
      writeFileSync(path.join(project, 'ring/deep/fine.ts'), "import { murmur3 } from '../murmur3.ts';\n");
      expect(lint()).toMatchObject({ status: 0, stderr: '' });
      writeFileSync(path.join(project, 'ring/deep/planted.ts'), "import { readFileSync } from 'node:fs';\n");
      const { status, stderr } = lint();
      expect(status).toBe(1);
      expect(stderr).toContain('ring/deep/planted.ts:1: ring/ must not import');
    } finally {
      rmSync(project, { recursive: true, force: true });
    }
  });
});
