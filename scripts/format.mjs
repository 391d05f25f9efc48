import { BIOME, runTool } from './lib/tool.mjs';

process.exitCode = await runTool(BIOME, [
  'check',
  '--write',
  '--linter-enabled=false',
  ...(process.argv.length > 2 ? process.argv.slice(2) : ['.']),
]);
