// Biome's rules, then the folder rule, which Biome cannot tell (it knows neither type imports nor where a relative path ends).
// `--folders PROJECT` checks only the folder rule, there.
import path from 'node:path';
import { PROJECT } from './lib/dependencies.mjs';
import { checkFolders } from './lib/folders.mjs';
import { BIOME, runTool } from './lib/tool.mjs';

const [first, ...rest] = process.argv.slice(2);
const onlyFolders = first === '--folders';
const project = onlyFolders && rest[0] ? path.resolve(rest[0]) : PROJECT;
const paths = first === undefined ? ['.'] : [first, ...rest];
const style = onlyFolders ? 0 : await runTool(BIOME, ['check', '--error-on-warnings', ...paths]);
const problems = checkFolders(project);
for (const problem of problems) process.stderr.write(`${problem}\n`);
process.exitCode = style || (problems.length > 0 ? 1 : 0);
