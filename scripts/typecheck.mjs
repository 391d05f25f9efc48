import { runTool, TSC } from './lib/tool.mjs';

process.exitCode = await runTool(TSC, ['--noEmit', ...process.argv.slice(2)]);
