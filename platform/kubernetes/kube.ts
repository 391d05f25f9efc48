/**
 * The connection to the API server: credentials, deadlines, and what its refusals are called.
 *
 *   KUBE_CONFIG_INVALID   no usable kubeconfig          KUBE_CONTEXT_UNKNOWN   it has no context of that name
 *   KUBE_FORBIDDEN        403: rights are missing       KUBE_REFUSED           admission or validation refuses (400, 422, other 403)
 *   KubeWeather           everything that another try may mend: 401, 409, 429, 5xx, no connection, no answer in time
 *
 * A 401 has the credentials read again once (a token file that was rotated), and the request repeated; then it is weather.
 */
import path from 'node:path';
import {
  ApiException,
  AppsV1Api,
  AuthenticationV1Api,
  CoreV1Api,
  createConfiguration,
  KubeConfig,
  ServerConfiguration,
  Watch,
} from '@kubernetes/client-node';
import { CodedError } from '../../kit/errors.ts';
import type { Logger } from '../../kit/log.ts';
import type { KubernetesConfig } from './config.ts';

export const REQUEST_TIMEOUT_MS = 10_000; // all are small; an API server that takes longer is not there
const RELOAD_AT_MOST_EVERY_MS = 5000; // expired credentials must not make every request read files
export const FIELD_MANAGER = 'ringmaster'; // who changed the replicas, in managedFields

/** Another try may mend it. */
export class KubeWeather extends Error {
  override readonly name = 'KubeWeather';
  /** Null: no answer. */
  readonly status: number | null;
  constructor(message: string, status: number | null, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
  }
}

/** What is asked for, in the API server's own words; for errors. */
export interface Doing {
  readonly verb: 'get' | 'list' | 'watch' | 'update' | 'patch' | 'delete';
  readonly resource: 'statefulsets' | 'statefulsets/scale' | 'pods' | 'persistentvolumeclaims' | 'events';
  readonly name?: string;
}

interface Connected {
  readonly config: KubeConfig;
  readonly apps: AppsV1Api;
  readonly core: CoreV1Api;
  readonly watch: Watch;
  /** At once: what is under way breaks. */
  readonly close: () => Promise<void>;
  /** Its connections end when what is under way has ended. */
  readonly retire: () => void;
}

export class Kube {
  readonly namespace: string;
  readonly #options: Pick<KubernetesConfig, 'context' | 'kubeconfig'>;
  readonly #log: Logger;
  #connected: Connected;
  #reloadedAt = Number.NEGATIVE_INFINITY;

  constructor(options: Pick<KubernetesConfig, 'context' | 'kubeconfig' | 'namespace'>, log: Logger) {
    this.#options = options;
    this.#log = log;
    this.#connected = connect(options);
    const { config } = this.#connected;
    const ofContext = config.getContextObject(config.getCurrentContext())?.namespace;
    this.namespace = options.namespace ?? (ofContext || 'default');
  }

  get watch(): Watch {
    return this.#connected.watch;
  }

  /** One request. Null for a 404. */
  async ask<T>(doing: Doing, run: (apis: { apps: AppsV1Api; core: CoreV1Api }) => Promise<T>): Promise<T | null> {
    try {
      return await this.#twiceIfUnauthorized(run);
    } catch (error) {
      if (error instanceof ApiException && error.code === 404) return null;
      throw asKubeError(error, doing, this.namespace);
    }
  }

  async #twiceIfUnauthorized<T>(run: (connected: Connected) => Promise<T>): Promise<T> {
    const before = this.#connected;
    try {
      return await run(before);
    } catch (error) {
      if (!(error instanceof ApiException) || error.code !== 401) throw error;
      this.unauthorized(before.watch);
      if (this.#connected === before) throw error;
      return await run(this.#connected);
    }
  }

  /** Reads the credentials again, unless somebody just did. `by`: the watch that was refused. */
  unauthorized(by: Watch): void {
    if (by !== this.#connected.watch || performance.now() - this.#reloadedAt < RELOAD_AT_MOST_EVERY_MS) return;
    this.#reloadedAt = performance.now();
    const old = this.#connected;
    try {
      this.#connected = connect(this.#options);
    } catch (error) {
      // Somebody is just writing the file: what was read last stays, and its 401 is the error that is told.
      this.#log.warn({ err: error }, 'the kubeconfig cannot be read again');
      return;
    }
    this.#log.info('the API server refused the credentials: they were read again');
    old.retire();
  }

  /** Who we are to the API server; for errors of watches, whose refusals come without a text. */
  async user(): Promise<string> {
    try {
      const { config } = this.#connected;
      const review = await apiOf(config, AuthenticationV1Api).createSelfSubjectReview({ body: {} });
      return review.status?.userInfo?.username ?? 'this user';
    } catch {
      return 'this user'; // only a word in a message
    }
  }

  close(): Promise<void> {
    return this.#connected.close();
  }
}

/** A client of one API group, by these credentials, none of whose requests waits for ever. */
// biome-ignore lint/suspicious/noExplicitAny: the generated classes share no base class that is exported
export function apiOf<T>(config: KubeConfig, Api: new (configuration: any) => T): T {
  const server = config.getCurrentCluster()?.server ?? '';
  return new Api(
    createConfiguration({
      baseServer: new ServerConfiguration(server, {}),
      authMethods: { default: config },
      promiseMiddleware: [
        {
          // The client itself waits for ever.
          pre: async (request) => {
            request.setSignal(AbortSignal.timeout(REQUEST_TIMEOUT_MS));
            return request;
          },
          post: async (response) => response,
        },
      ],
    }),
  );
}

function connect(options: Pick<KubernetesConfig, 'context' | 'kubeconfig'>): Connected {
  const config = loadConfig(options);
  const connections = keepConnections(config);
  return {
    config,
    apps: apiOf(config, AppsV1Api),
    core: apiOf(config, CoreV1Api),
    watch: new Watch(config),
    ...connections,
  };
}

function loadConfig({ context, kubeconfig }: Pick<KubernetesConfig, 'context' | 'kubeconfig'>): KubeConfig {
  const config = new KubeConfig();
  try {
    const [first, ...more] = (kubeconfig ?? '').split(path.delimiter).filter((file) => file !== '');
    if (first) {
      config.loadFromFile(first);
      for (const file of more) {
        const next = new KubeConfig();
        next.loadFromFile(file);
        config.mergeConfig(next, true); // the first file's current context wins, as for kubectl
      }
    } else config.loadFromDefault();
  } catch (error) {
    // Never the parser's text: it quotes lines of the file, and those may be credentials.
    const code = (error as NodeJS.ErrnoException).code ?? 'it is no kubeconfig';
    throw new CodedError('KUBE_CONFIG_INVALID', `the kubeconfig cannot be read (${code}): see KUBECONFIG`);
  }
  const contexts = config.getContexts().map((each) => each.name);
  if (context) {
    if (!contexts.includes(context)) {
      throw new CodedError(
        'KUBE_CONTEXT_UNKNOWN',
        `the kubeconfig has no context '${context}' (RINGMASTER_KUBE_CONTEXT); it has ${contexts.join(', ') || 'none'}`,
        { context, contexts },
      );
    }
    config.setCurrentContext(context);
  }
  const server = config.getCurrentCluster()?.server;
  // Without any configuration the client takes http://localhost:8080, which no cluster has listened at for years.
  if (!server || (server === 'http://localhost:8080' && contexts.join() === 'loaded-context')) {
    throw new CodedError(
      'KUBE_CONFIG_INVALID',
      server
        ? 'no credentials of a cluster: set KUBECONFIG, or run as a pod with a service account'
        : `the kubeconfig's current context names no cluster; contexts: ${contexts.join(', ') || 'none'}`,
      { contexts },
    );
  }
  return config;
}

/**
 * The client makes a new pool of connections, and so a TLS handshake, for every request. This keeps one for each set of TLS options, which change when
 * certificates are rotated. It replaces a private method: where a later client lacks that, requests still work, each by its own connection.
 */
function keepConnections(config: KubeConfig): Pick<Connected, 'close' | 'retire'> {
  type Dispatcher = { close(): Promise<void>; destroy(): Promise<void> } | undefined;
  const inner = config as unknown as { createDispatcher?: (...of: unknown[]) => Dispatcher };
  const make = inner.createDispatcher;
  let last: { key: string; dispatcher: Dispatcher } | null = null;
  let closed = false;
  if (typeof make === 'function') {
    inner.createDispatcher = (...of) => {
      const key = JSON.stringify(of);
      if (last?.key === key) return last.dispatcher;
      const dispatcher = make.apply(config, of);
      const old = last?.dispatcher;
      if (closed) return dispatcher;
      last = { key, dispatcher };
      void old?.close().catch(() => {}); // rotated; nobody is to be told where closing fails
      return dispatcher;
    };
  }
  const forget = () => {
    const dispatcher = last?.dispatcher;
    closed = true;
    last = null;
    return dispatcher;
  };
  return {
    close: async () => forget()?.destroy(),
    retire: () =>
      void forget()
        ?.close()
        .catch(() => {}), // as above
  };
}

interface StatusBody {
  message?: string;
  reason?: string;
  details?: { causes?: { reason?: string }[] };
}

/** Anything thrown by the client, as ours. What is neither an answer nor a lost connection is a bug, and stays what it is. */
export function asKubeError(error: unknown, doing: Doing, namespace: string): unknown {
  if (error instanceof CodedError || error instanceof KubeWeather) return error;
  const what = `${doing.verb} ${doing.resource}${doing.name ? ` ${doing.name}` : ''} in ${namespace}`;
  if (error instanceof ApiException) return ofAnswer(error.code, bodyOf(error.body), doing, what, namespace);
  const { statusCode } = error as { statusCode?: unknown }; // of a watch
  if (typeof statusCode === 'number') return ofAnswer(statusCode, {}, doing, what, namespace);
  const cause = (error as { cause?: { code?: unknown; message?: unknown } } | null)?.cause;
  const { name, message, code } = error as { name?: string; message?: string; code?: unknown };
  const isNetwork =
    name === 'TimeoutError' ||
    name === 'AbortError' ||
    typeof code === 'string' ||
    typeof cause?.code === 'string' ||
    /fetch failed|terminated|socket|premature/i.test(message ?? '');
  if (!isNetwork) return error;
  const word = name === 'TimeoutError' ? 'no answer in time' : String(cause?.code ?? code ?? message);
  return new KubeWeather(`${what}: the API server cannot be reached (${word})`, null, { cause: error });
}

function bodyOf(body: unknown): StatusBody {
  if (typeof body !== 'string') return (body as StatusBody | null) ?? {};
  try {
    return JSON.parse(body) as StatusBody;
  } catch {
    return {}; // a proxy's page; the status code says enough
  }
}

// users "u" … User "system:serviceaccount:ns:sa" cannot patch resource "pods" in API group "" in the namespace "ns"
const FORBIDDEN =
  /User "([^"]*)" cannot (\S+) resource "([^"]*)" in API group "([^"]*)"(?: in the namespace "([^"]*)")?/;

function ofAnswer(status: number, body: StatusBody, doing: Doing, what: string, namespace: string): Error {
  const said = body.message ?? '';
  if (status === 403 && body.details?.causes?.some((cause) => cause.reason === 'NamespaceTerminating'))
    return new CodedError('STATEFULSET_DELETING', `the namespace ${namespace} is being deleted`, { namespace });
  const missing = FORBIDDEN.exec(said);
  if (status === 403 && (missing || said === '')) {
    const [, user, verb = doing.verb, resource = doing.resource, group = ''] = missing ?? [];
    return forbidden({ user: user ?? null, verb, resource, group, namespace: missing?.[5] ?? namespace });
  }
  // An API server that has just started may not know yet what a policy's parameters are. That there are none of them is another matter, and stays.
  if (/failed to configure policy/.test(said)) return new KubeWeather(`${what}: ${said}`, status);
  if (status === 400 || status === 403 || status === 422)
    return new CodedError('KUBE_REFUSED', `the API server refuses to ${what}: ${said || status}`, { status, ...doing });
  return new KubeWeather(`${what}: the API server answers ${status}${said ? ` (${said})` : ''}`, status);
}

export function forbidden(right: {
  user: string | null;
  verb: string;
  resource: string;
  group: string;
  namespace: string;
}): CodedError {
  const { user, verb, resource, group, namespace } = right;
  const who = user === null ? 'this user' : /^system:serviceaccount:[^:]*:(.*)$/.exec(user)?.[1];
  return new CodedError(
    'KUBE_FORBIDDEN',
    `${who && user ? `the service account ${who}` : (user ?? who)} may not ${verb} ${resource}${group ? ` (${group})` : ''} in the namespace ${namespace}: its role lacks that right`,
    right,
  );
}
