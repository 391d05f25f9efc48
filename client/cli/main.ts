#!/usr/bin/env node
/** The entry of the `ringmaster` command. */
import { runCommand } from './program.ts';
import { processSurroundings } from './surroundings.ts';

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0); // `ringmaster log | head`
});
process.exitCode = await runCommand(process.argv.slice(2), processSurroundings());
