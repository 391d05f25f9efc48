/**
 * Stands in for cluster DNS in a Node process: loaded before everything else (NODE_OPTIONS=--import …), it answers `dns.lookup` and `dns.promises.lookup`
 * for names of the cluster from a JSON file that the kubelet stand-in keeps up to date: {"hosts": {"<name>.<namespace>.svc": ["127.1.2.3"]}}.
 *
 *   `x.svc` and `x.svc.cluster.local` are the cluster's: an unknown one is ENOTFOUND. Every other name goes to the system, but for those that the search
 *   list of a pod would find: `service` and `service.namespace`.
 */
import dns from 'node:dns';
import { readFileSync, statSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { promisify } from 'node:util';

const FILE = process.env['RINGMASTER_CLUSTER_DNS_FILE'] ?? '';
const NAMESPACE = process.env['RINGMASTER_CLUSTER_DNS_NAMESPACE'] ?? '';

/** @type {Record<string, string[]>} */
let hosts = {};
let version = '';

function currentHosts() {
  try {
    const { ino, mtimeMs, size } = statSync(FILE);
    const seen = `${ino} ${mtimeMs} ${size}`;
    if (seen !== version) {
      hosts = JSON.parse(readFileSync(FILE, 'utf8')).hosts;
      version = seen;
    }
  } catch {
    // No file (the cluster has ended): what was known last, as a cache would answer.
  }
  return hosts;
}

/**
 * The addresses of a name; [] for a cluster's name that is unknown; null: not the cluster's.
 * @param {unknown} hostname
 * @returns {string[] | null}
 */
function addressesOf(hostname) {
  if (typeof hostname !== 'string' || !FILE) return null;
  const name = hostname
    .toLowerCase()
    .replace(/\.$/, '')
    .replace(/\.cluster\.local$/, '');
  if (name.endsWith('.svc')) return currentHosts()[name] ?? [];
  if (!/^[a-z0-9-]+(\.[a-z0-9-]+){0,2}$/.test(name)) return null;
  return currentHosts()[`${name}.${NAMESPACE}.svc`] ?? currentHosts()[`${name}.svc`] ?? null;
}

/**
 * @param {string} hostname
 * @param {any} options
 */
function answer(hostname, options) {
  const found = addressesOf(hostname);
  if (found === null) return null;
  const family = typeof options === 'number' ? options : (options?.family ?? 0);
  const usable = family === 6 || family === 'IPv6' ? [] : found;
  if (usable.length === 0) {
    const error = Object.assign(new Error(`getaddrinfo ENOTFOUND ${hostname}`), {
      errno: -3008,
      code: 'ENOTFOUND',
      syscall: 'getaddrinfo',
      hostname,
    });
    return { error, addresses: [] };
  }
  const from = Math.floor(Math.random() * usable.length); // a service's pods share the load
  const turned = [...usable.slice(from), ...usable.slice(0, from)];
  return { error: null, addresses: turned.map((address) => ({ address, family: 4 })) };
}

const systemLookup = dns.lookup;
const systemPromise = dns.promises.lookup;

/** @type {any} */ (dns.promises).lookup = async (/** @type {string} */ hostname, /** @type {any} */ options) => {
  const own = answer(hostname, options);
  if (own === null) return await systemPromise(hostname, options);
  if (own.error) throw own.error;
  return options?.all ? own.addresses : own.addresses[0];
};

/** @type {any} */ (dns).lookup = Object.assign(
  (/** @type {string} */ hostname, /** @type {any} */ options, /** @type {any} */ callback) => {
    const done = typeof options === 'function' ? options : callback;
    const wanted = typeof options === 'function' ? undefined : options;
    const own = answer(hostname, wanted);
    if (own === null) return systemLookup(hostname, wanted ?? {}, done);
    process.nextTick(() => {
      if (own.error) done(own.error);
      else if (wanted?.all) done(null, own.addresses);
      else done(null, own.addresses[0]?.address, 4);
    });
    return {};
  },
  { [promisify.custom]: dns.promises.lookup },
);
syncBuiltinESMExports(); // for `import { lookup } from 'node:dns'`
