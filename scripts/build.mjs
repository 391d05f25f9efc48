// `npm run build`: dist/, JavaScript of what container images run (deploy/container/Containerfile). Development needs none: Node runs the TypeScript itself.
// `-- --out DIR`: there instead.
import { rmSync } from 'node:fs';
import path from 'node:path';
import { PROJECT } from './lib/dependencies.mjs';
import { say } from './lib/say.mjs';
import { runTool, TSC } from './lib/tool.mjs';

const EXIT_USAGE = 2;
const [flag, folder, ...rest] = process.argv.slice(2);
if (flag === '--help' || flag === '-h') {
  process.stdout.write('npm run build [-- --out DIR]: JavaScript of all processes, in dist/ or DIR\n');
} else if ((flag !== undefined && (flag !== '--out' || !folder)) || rest.length > 0) {
  say('build: usage: npm run build [-- --out DIR]');
  process.exitCode = EXIT_USAGE;
} else {
  const out = path.resolve(folder ?? path.join(PROJECT, 'dist'));
  // What an older source has left would go into the image. Somebody else's folder is not ours to empty.
  if (!folder) rmSync(out, { recursive: true, force: true });
  process.exitCode = await runTool(TSC, ['-p', path.join(PROJECT, 'tsconfig.build.json'), '--outDir', out]);
}
