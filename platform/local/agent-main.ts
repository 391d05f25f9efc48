/**
 * The agent as a process. RINGMASTER_AGENT_CONFIG names a JSON file with its options (see `agentOptions`); the file holds secrets, so it is readable by its
 * user only. Log lines go to standard output. RINGMASTER_AGENT_ADDRESS_FILE, if set, receives { url, pid } as soon as the agent listens.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import pino from 'pino';
import { endWithParent, onStopSignal } from '../../kit/parent.ts';
import { startAgent } from './agent.ts';

const configFile = process.env['RINGMASTER_AGENT_CONFIG'];
const addressFile = process.env['RINGMASTER_AGENT_ADDRESS_FILE'];
if (!configFile) throw new Error('RINGMASTER_AGENT_CONFIG must name the file with the agent’s options');

const log = pino({ name: 'agent' });
const starting = startAgent(JSON.parse(readFileSync(configFile, 'utf8')), log);
const end = async () => {
  if (addressFile) rmSync(addressFile, { force: true });
  await (await starting).close();
};
endWithParent(end);
onStopSignal((signal) => {
  log.info({ signal }, 'agent ends');
  end().then(
    () => process.exit(0),
    (err: unknown) => {
      log.error({ err }, 'agent did not end in order');
      process.exit(1);
    },
  );
});
const { url } = await starting;
if (addressFile) {
  const scratch = `${addressFile}.new`;
  writeFileSync(scratch, JSON.stringify({ url, pid: process.pid }), { mode: 0o600 });
  renameSync(scratch, addressFile); // whoever waits for the file sees all of it
}
