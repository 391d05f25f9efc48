import { expect, test } from 'vitest';
import { parseTemporalConfig } from '../../client/temporal-connection.ts';

test('without variables: a server on this machine, namespace default, no TLS', () => {
  const { address, namespace, connection } = parseTemporalConfig({});
  expect({ address, namespace, connection }).toEqual({
    address: '127.0.0.1:7233',
    namespace: 'default',
    connection: { address: '127.0.0.1:7233' },
  });
});

test('an API key implies TLS, which can be turned off', () => {
  const cloud = { TEMPORAL_ADDRESS: 'x.tmprl.cloud:7233', TEMPORAL_NAMESPACE: 'x.y', TEMPORAL_API_KEY: 'k' };
  expect(parseTemporalConfig(cloud).connection).toEqual({ address: 'x.tmprl.cloud:7233', apiKey: 'k', tls: true });
  expect(parseTemporalConfig({ ...cloud, TEMPORAL_TLS: 'false' }).connection.tls).toBeUndefined();
});

test('certificates come as text or from files', () => {
  const tls = parseTemporalConfig({
    TEMPORAL_TLS_CLIENT_CERT_DATA: 'crt',
    TEMPORAL_TLS_CLIENT_KEY_DATA: 'key',
    TEMPORAL_TLS_SERVER_CA_CERT_PATH: import.meta.filename,
    TEMPORAL_TLS_SERVER_NAME: 'temporal',
  }).connection.tls as { clientCertPair: object; serverRootCACertificate: Buffer; serverNameOverride: string };
  expect(tls.clientCertPair).toEqual({ crt: Buffer.from('crt'), key: Buffer.from('key') });
  expect(tls.serverRootCACertificate.toString()).toContain('certificates come as text');
  expect(tls.serverNameOverride).toBe('temporal');
});

test.each([
  ['an address without a port', { TEMPORAL_ADDRESS: 'somewhere' }, /^TEMPORAL_ADDRESS: must be host:port$/],
  ['a flag that is none', { TEMPORAL_TLS: 'perhaps' }, /^TEMPORAL_TLS: must be true or false$/],
  ['a certificate without its key', { TEMPORAL_TLS_CLIENT_CERT_DATA: 'secret' }, /belong together$/],
  ['a file that is not there', { TEMPORAL_TLS_SERVER_CA_CERT_PATH: '/nowhere' }, /_PATH: cannot be read \(ENOENT\)$/],
  ['what cannot be done', { TEMPORAL_TLS_DISABLE_HOST_VERIFICATION: 'true' }, /is not supported$/],
])('%s is refused by the name of its variable, without its value', (_name, env, message) => {
  expect(() => parseTemporalConfig(env)).toThrow(message);
  expect(() => parseTemporalConfig(env)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  expect(() => parseTemporalConfig(env)).not.toThrow(/secret/);
});
