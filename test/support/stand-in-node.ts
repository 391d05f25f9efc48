/** Stands in for node/main.ts where a test is about the platform only: answers the control's status, and says what it was given. */
import { createServer } from 'node:http';
import { endWithParent } from '../../kit/parent.ts';

endWithParent(() => {});
process.on('SIGTERM', () => process.exit(0));
const token = process.env['RINGMASTER_CONTROL_TOKEN'];
createServer((_request, response) => response.end('event')).listen(
  Number(process.env['RINGMASTER_GATEWAY_PORT']),
  '127.0.0.1',
);
createServer((request, response) => {
  if (request.headers.authorization !== `Bearer ${token}`) return response.writeHead(401).end();
  const given = Object.keys(process.env).filter((name) => name.startsWith('RINGMASTER_'));
  return response.end(JSON.stringify({ node: process.env['RINGMASTER_NODE'], pid: process.pid, given }));
}).listen(Number(process.env['RINGMASTER_CONTROL_PORT']), '127.0.0.1');
process.stdout.write(`${JSON.stringify({ msg: 'stand-in listens' })}\n`);
