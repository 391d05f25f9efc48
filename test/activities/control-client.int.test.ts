import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createNodeControl } from '../../dataplane/reference/control-client.ts';
import { CodedError } from '../../kit/errors.ts';

let server: Server;
let answer: { status: number; body: string };
const seen: { path: string; token: string | undefined; body: string }[] = [];
const control = () =>
  createNodeControl({ controlUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, controlToken: 't' });
const command = { move: 'm', token: 3, partitions: [1] };

beforeAll(async () => {
  server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    seen.push({ path: `${request.method} ${request.url}`, token: request.headers.authorization, body });
    if (answer.status !== 0) response.writeHead(answer.status).end(answer.body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
});
afterAll(() => server.closeAllConnections());

test('commands carry the token and the whole command', async () => {
  answer = { status: 200, body: '{"datasets":[{"prefix":"gw","dataset":2}]}' };
  expect(await control().prepare(command)).toEqual({ datasets: [{ prefix: 'gw', dataset: 2 }] });
  expect(seen.at(-1)).toEqual({ path: 'POST /control/v1/prepare', token: 'Bearer t', body: JSON.stringify(command) });
  answer = { status: 204, body: '' };
  await control().fence({ ...command, holdDeadlineMs: 10 });
  expect(seen.at(-1)?.path).toBe('POST /control/v1/fence');
});

test('a refusal keeps its code and details', async () => {
  answer = { status: 409, body: '{"code":"QUIESCE_TIMEOUT","message":"slow","details":{"destination":"d"}}' };
  const refused = control().quiesce({ ...command, limitMs: 10 });
  await expect(refused).rejects.toMatchObject({
    code: 'QUIESCE_TIMEOUT',
    message: 'slow',
    details: { destination: 'd' },
  });
  await expect(refused).rejects.toBeInstanceOf(CodedError);
});

test.each([
  ['another status', { status: 503, body: 'secret' }],
  ['a 409 that is not ours', { status: 409, body: '<html>' }],
  ['no JSON', { status: 200, body: '<html>' }],
])('%s is weather, and its body is not repeated', async (_, given) => {
  answer = given;
  const failed = control().status();
  await expect(failed).rejects.not.toBeInstanceOf(CodedError);
  await expect(failed).rejects.not.toThrow(/secret/);
});

test('an abort ends the waiting', async () => {
  answer = { status: 0, body: '' };
  const abort = new AbortController();
  const waiting = control().status(abort.signal);
  setTimeout(() => abort.abort(new Error('enough')), 50);
  await expect(waiting).rejects.toThrow('enough');
});
